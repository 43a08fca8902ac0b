//! Metrics as text: OpenMetrics 1.0, which Prometheus reads.

use crate::families::{Family, Kind, Value, families};
use crate::snapshot::Snapshot;
use crate::status::Unit;
use cfs_types::Latencies;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{self, Registry};

/// Of the text that [`openmetrics`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of a snapshot as text.
pub fn openmetrics(snapshot: &Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families(snapshot))));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a String takes any text");
    text
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for family in &self.0 {
            let (unit, kind) = (unit_of(family.unit), kind_of(family.kind));
            let mut metric = encoder.encode_descriptor(&family.name, family.help, Some(&unit), kind)?;
            for sample in &family.samples {
                if sample.labels.is_empty() {
                    encode(&mut metric, family.kind, &sample.value)?;
                } else {
                    encode(&mut metric.encode_family(&sample.labels)?, family.kind, &sample.value)?;
                }
            }
        }
        Ok(())
    }
}

const NO_U64: Option<&Exemplar<NoLabelSet, u64>> = None;
const NO_F64: Option<&Exemplar<NoLabelSet, f64>> = None;

fn encode(metric: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> Result<(), std::fmt::Error> {
    match (kind, value) {
        (_, Value::Histogram(latencies)) => {
            let sum = latencies.sum_ns as f64 / 1e9;
            metric.encode_histogram::<NoLabelSet>(sum, latencies.count(), &buckets(latencies), None)
        }
        (Kind::Counter, Value::Count(count)) => metric.encode_counter(count, NO_U64),
        (Kind::Counter, Value::Real(real)) => metric.encode_counter(real, NO_F64),
        (Kind::Gauge | Kind::Histogram, Value::Count(count)) => metric.encode_gauge(count),
        (Kind::Gauge | Kind::Histogram, Value::Real(real)) => metric.encode_gauge(real),
    }
}

/// (upper bound in seconds, count) of each bucket.
fn buckets(latencies: &Latencies) -> Vec<(f64, u64)> {
    let bound = |bucket| Latencies::bound_us(bucket).map_or(f64::INFINITY, |us| us as f64 / 1e6);
    latencies.buckets.iter().enumerate().map(|(bucket, count)| (bound(bucket), *count)).collect()
}

fn unit_of(unit: Unit) -> registry::Unit {
    match unit {
        Unit::Bytes => registry::Unit::Bytes,
        Unit::Seconds => registry::Unit::Seconds,
        Unit::Of(things) => registry::Unit::Other(things.to_string()),
    }
}

fn kind_of(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    }
}
