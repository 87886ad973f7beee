//! From rows of the table and their values to the Prometheus crate's families.

use prometheus::proto::{self, MetricFamily};

use super::{
    state::State,
    table::{Metric, Series},
};

/// A series of a counter or gauge.
#[derive(Debug, PartialEq)]
pub struct Number {
    /// Values of its labels, in the order of the metric's.
    pub labels: Vec<String>,
    value: f64,
}

impl Number {
    /// The series with these labels.
    pub fn of(labels: impl IntoIterator<Item = impl Into<String>>, value: f64) -> Self {
        Self { labels: labels.into_iter().map(Into::into).collect(), value }
    }

    /// The only series of a metric without labels.
    pub fn alone(value: f64) -> Self {
        Self { labels: Vec::new(), value }
    }

    /// 1 where it is so, 0 where it is not.
    pub fn is(labels: impl IntoIterator<Item = impl Into<String>>, is_so: bool) -> Self {
        Self::of(labels, f64::from(u8::from(is_so)))
    }
}

/// A series of a histogram.
pub struct Histogram {
    /// Values of its labels, in the order of the metric's.
    pub labels: Vec<String>,
    /// How many were measured.
    pub count: u64,
    /// What they come to together.
    pub sum: f64,
    /// Upper bounds, and how many are not above each.
    pub buckets: Vec<(f64, u64)>,
}

/// A metric's family, its series in the order of their labels.
pub fn family(metric: &Metric, state: &State) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(metric.series.kind());
    let mut series: Vec<(Vec<String>, proto::Metric)> = match metric.series {
        Series::Gauge(values) => values(state).into_iter().map(gauge).collect(),
        Series::Counter(values) => values(state).into_iter().map(counter).collect(),
        Series::Histogram(values) => values(state).into_iter().map(histogram).collect(),
    };
    series.sort_by(|a, b| a.0.cmp(&b.0));
    let named = series.into_iter().map(|(values, mut series)| {
        series.set_label(metric.labels.iter().zip(values).map(|(name, value)| label(name, value)).collect());
        series
    });
    family.set_metric(named.collect());
    family
}

fn label(name: &str, value: String) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

fn gauge(number: Number) -> (Vec<String>, proto::Metric) {
    let (mut gauge, mut metric) = (proto::Gauge::default(), proto::Metric::default());
    gauge.set_value(number.value);
    metric.set_gauge(gauge);
    (number.labels, metric)
}

fn counter(number: Number) -> (Vec<String>, proto::Metric) {
    let (mut counter, mut metric) = (proto::Counter::default(), proto::Metric::default());
    counter.set_value(number.value);
    metric.set_counter(counter);
    (number.labels, metric)
}

fn histogram(values: Histogram) -> (Vec<String>, proto::Metric) {
    let (mut histogram, mut metric) = (proto::Histogram::default(), proto::Metric::default());
    histogram.set_sample_count(values.count);
    histogram.set_sample_sum(values.sum);
    let buckets = values.buckets.into_iter().map(|(bound, cumulative)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    metric.set_histogram(histogram);
    (values.labels, metric)
}
