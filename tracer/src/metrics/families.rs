//! From values to the Prometheus crate's families.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::table::Definition;

fn family(definition: &Definition, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(definition.name.to_owned());
    family.set_help(definition.help.to_owned());
    family.set_field_type(definition.kind);
    family.set_metric(metrics);
    family
}

fn metric(definition: &Definition, labels: Vec<String>) -> Metric {
    let pairs = definition.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value);
        pair
    });
    Metric::from_label(pairs.collect())
}

/// A family of counters or gauges: labels and value of each.
pub fn numbers(definition: &Definition, mut values: Vec<(Vec<String>, f64)>) -> MetricFamily {
    values.sort_by(|a, b| a.0.cmp(&b.0));
    let metrics = values.into_iter().map(|(labels, value)| {
        let mut metric = metric(definition, labels);
        if definition.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    });
    family(definition, metrics.collect())
}

/// Labels, count, sum, and cumulative counts by upper bound.
pub type HistogramValue = (Vec<String>, u64, f64, Vec<(f64, u64)>);

/// A family of histograms.
pub fn histograms(definition: &Definition, mut values: Vec<HistogramValue>) -> MetricFamily {
    values.sort_by(|a, b| a.0.cmp(&b.0));
    let metrics = values.into_iter().map(|(labels, count, sum, buckets)| {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let buckets = buckets.into_iter().map(|(bound, cumulative)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        let mut metric = metric(definition, labels);
        metric.set_histogram(histogram);
        metric
    });
    family(definition, metrics.collect())
}
