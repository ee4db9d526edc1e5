//! How long things took.

use std::time::Duration;

/// Latencies, counted in buckets 2 % apart, from 1 µs to 1000 s: adding one costs the same however many there are.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

const GROWTH: f64 = 1.02;
const BUCKETS: usize = 1047; // 1.02^1047 is a little over 10^9

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0 }
    }
}

impl Latencies {
    /// Adds one.
    pub(crate) fn add(&mut self, latency: Duration) {
        self.add_many(latency, 1);
    }

    /// Adds so many that were the same.
    pub(crate) fn add_many(&mut self, latency: Duration, count: u64) {
        let micros = (latency.as_secs_f64() * 1e6).max(1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bucket = (micros.ln() / GROWTH.ln()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += count;
        self.count += count;
    }

    /// Adds all of another's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        for (bucket, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += count;
        }
    }

    /// The latency that this part (0 to 1) of them did not exceed, in milliseconds, within 2 %.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let wanted = part * self.count as f64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen as f64 >= wanted && seen > 0 {
                return GROWTH.powf(bucket as f64 + 0.5) / 1e3;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut latencies = Latencies::default();
        for micros in 1..=10_000 {
            latencies.add(Duration::from_micros(micros));
        }
        for (part, expected) in [(0.5, 5.0), (0.99, 9.9), (0.1, 1.0)] {
            let is = latencies.quantile(part);
            assert!((is / expected - 1.0).abs() < 0.021, "{part}: {is} is not {expected}");
        }
    }
}
