//! A histogram of atomics: prometheus-client's own takes a lock for each observation.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::text::{Exemplar, Page};

/// Istio's upper bounds, for milliseconds and bytes alike; the last is `+Inf`.
pub const BOUNDS: [f64; 20] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
    f64::INFINITY,
];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    /// In thousandths, so that it can be added to atomically: wraps after 18 quadrillion.
    sum_thousandths: AtomicU64,
}

impl Histogram {
    /// Returns the value's bucket.
    pub(super) fn observe(&self, value: f64) -> usize {
        let bucket = BOUNDS.partition_point(|bound| *bound < value).min(BOUNDS.len() - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_thousandths.fetch_add((value * 1_000.0) as u64, Ordering::Relaxed);
        bucket
    }

    pub(super) fn counts(&self) -> [u64; BOUNDS.len()] {
        std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed))
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum_thousandths.load(Ordering::Relaxed) as f64 / 1_000.0
    }

    /// As it is now, with these exemplars.
    pub(super) fn read(&self, exemplars: Option<&Exemplars>) -> Buckets {
        let exemplars = exemplars.map(|exemplars| exemplars.0.lock().clone()).unwrap_or_default();
        Buckets { counts: self.counts(), sum: self.sum(), exemplars }
    }
}

/// A histogram at one moment, or the sum of several.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Buckets {
    counts: [u64; BOUNDS.len()],
    sum: f64,
    /// By bucket.
    exemplars: Vec<(usize, Exemplar)>,
}

impl Buckets {
    /// Of two exemplars of a bucket the later one stays.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(all, more)| *all += more);
        self.sum += other.sum;
        for (bucket, exemplar) in &other.exemplars {
            match self.exemplars.iter_mut().find(|(of, _)| of == bucket) {
                Some((_, known)) if known.at < exemplar.at => *known = *exemplar,
                Some(_) => {}
                None => self.exemplars.push((*bucket, *exemplar)),
            }
        }
    }

    pub(super) fn write(&self, page: &mut Page, name: &str, labels: &str) {
        let buckets: [(f64, u64); BOUNDS.len()] = std::array::from_fn(|i| (BOUNDS[i], self.counts[i]));
        let exemplar = |bucket| self.exemplars.iter().find(|(of, _)| *of == bucket).map(|(_, exemplar)| *exemplar);
        page.histogram(name, labels, &buckets, self.sum, exemplar);
    }
}

/// The latest trace of each bucket; empty, and without memory of its own, while nothing is traced.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<Vec<(usize, Exemplar)>>);

impl Exemplars {
    /// Never waits: if somebody else is at it, theirs is as good.
    pub(super) fn put(&self, bucket: usize, exemplar: Exemplar) {
        let Some(mut all) = self.0.try_lock() else { return };
        match all.iter_mut().find(|(of, _)| *of == bucket) {
            Some((_, known)) => *known = exemplar,
            None => all.push((bucket, exemplar)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_that_bucket() {
        let histogram = Histogram::default();
        for value in [0.0, 0.5, 0.6, 1.0, 3_600_000.0, 3_600_001.0] {
            histogram.observe(value);
        }
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[18], counts[19]), (2, 2, 1, 1));
        assert_eq!(histogram.sum_thousandths.load(Ordering::Relaxed), 7_200_003_100);
    }
}
