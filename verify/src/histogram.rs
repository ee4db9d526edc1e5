//! Latencies, counted in buckets: bounded memory however long it takes.

use std::time::Duration;

/// Within a power of two there are so many buckets, so a quantile is at most 3 % too high.
const STEPS: usize = 32;
const BUCKETS: usize = 40 * STEPS;

/// How long requests took, to the microsecond.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.total += 1;
        self.max = self.max.max(took);
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// In milliseconds, what this share of requests (0 to 1) took at most; zero when there were none.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                #[allow(clippy::cast_precision_loss)]
                let end = end(bucket) as f64 / 1000.0;
                return end.min(self.max_ms());
            }
        }
        0.0
    }

    /// In milliseconds, what the longest took.
    #[must_use]
    pub fn max_ms(&self) -> f64 {
        self.max.as_secs_f64() * 1000.0
    }
}

/// Values below `STEPS` have a bucket each; above, each power of two is cut into `STEPS`.
fn bucket(micros: u64) -> usize {
    let steps = STEPS as u64;
    if micros < steps {
        return usize::try_from(micros).unwrap_or(0);
    }
    let shift = micros.ilog2() - STEPS.ilog2();
    let within = usize::try_from((micros >> shift) - steps).unwrap_or(0);
    ((shift as usize + 1) * STEPS + within).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn end(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (shift, within) = (bucket / STEPS - 1, bucket % STEPS);
    (((STEPS + within) as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_three_percent() {
        for micros in (0..2000).chain([4095, 4096, 4097, 1_000_000, 3_600_000_000]) {
            let end = end(bucket(micros));
            assert!(end >= micros && end - micros <= micros / 32, "{micros} {end}");
            assert!(
                micros == 0
                    || super::end(bucket(micros) - usize::from(bucket(micros) > 0)) < micros
                    || bucket(micros) == 0
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut all = Histogram::default();
        let mut other = Histogram::default();
        for micros in 1..=1000 {
            let half = if micros % 2 == 0 { &mut all } else { &mut other };
            half.record(Duration::from_micros(micros));
        }
        all.merge(&other);
        for (share, exact) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let seen = all.quantile_ms(share);
            assert!(seen >= exact && seen <= exact * 1.04, "{share}: {seen}");
        }
        assert_eq!(Histogram::default().quantile_ms(0.5), 0.0);
    }
}
