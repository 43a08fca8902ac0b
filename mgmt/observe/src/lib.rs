//! Metrics of cores: gauges, counters, histograms.
