//! The HTTP API: /metrics, /health, status.
