//! All metrics at one moment: what is scraped, and what is exported.

use std::time::Duration;

use super::table::{Metric, TABLE};

/// All metrics with what they say now, in the order of the table.
#[derive(Debug)]
pub struct Snapshot {
    families: Vec<Family>,
}

/// A metric and what it says.
#[derive(Debug)]
pub struct Family {
    /// Which.
    pub metric: &'static Metric,
    /// A value for each combination of labels.
    pub points: Vec<Point>,
}

/// One value.
#[derive(Debug)]
pub struct Point {
    /// The values of the labels, in the order of the metric's.
    pub labels: Vec<String>,
    /// What it is.
    pub value: Value,
}

/// A value, by the kind of its metric.
#[derive(Debug, Clone)]
pub enum Value {
    /// Of a counter or a gauge.
    Count(u64),
    /// Of a counter or a gauge.
    Amount(f64),
    /// Of a histogram.
    Histogram(Tally),
}

/// Durations, by how long they were.
#[derive(Debug, Clone)]
pub struct Tally {
    /// The upper bounds of the buckets, in seconds; the last has none.
    pub bounds: &'static [f64],
    /// How many are in each, and in no lower one.
    pub buckets: Vec<u64>,
    /// All of them together, in seconds.
    pub sum_seconds: f64,
}

impl Default for Snapshot {
    /// Every metric, and nothing said yet.
    fn default() -> Self {
        let families = TABLE.iter().map(|metric| Family { metric, points: Vec::new() });
        Self { families: families.collect() }
    }
}

impl Snapshot {
    /// Says a value.
    pub fn add<'a>(
        &mut self,
        metric: &'static Metric,
        labels: impl IntoIterator<Item = &'a str>,
        value: Value,
    ) {
        let labels: Vec<_> = labels.into_iter().map(str::to_owned).collect();
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        if let Some(family) = self.families.iter_mut().find(|it| it.metric.name == metric.name) {
            family.points.push(Point { labels, value });
        }
    }

    /// What was said.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }
}

impl Tally {
    /// Nothing yet, in buckets with these bounds.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len() + 1], sum_seconds: 0.0 }
    }

    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = self.bounds.iter().position(|bound| seconds <= *bound);
        self.buckets[place.unwrap_or(self.bounds.len())] += 1;
        self.sum_seconds += seconds;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
