//! How long to wait before trying again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::human;

/// Exponential backoff with jitter: the n-th failure waits `first * factor^(n-1)`, at most `max`, shortened
/// by up to a quarter so that what failed together does not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The wait after the first failure.
    #[serde(with = "human")]
    pub first: Duration,
    /// By how much each wait is longer than the one before it; 1 to 100.
    pub factor: f64,
    /// The longest wait.
    #[serde(with = "human")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(300) }
    }
}

impl Backoff {
    /// The wait after failure number `failures` (from 1). `seed` picks the jitter, so the same seed gives the
    /// same wait: an engine passes something that differs per message.
    #[must_use]
    pub fn wait(&self, failures: u32, seed: u64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let factor = self.factor.clamp(1.0, 100.0).powi(exponent);
        let full = (self.first.as_secs_f64() * factor).min(self.max.as_secs_f64());
        // One round of SplitMix64, to spread seeds that lie next to each other.
        let mut bits = seed.wrapping_add(u64::from(failures)).wrapping_add(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        #[allow(clippy::cast_precision_loss)] // 53 bits fit
        let share = ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(full * (1.0 - share / 4.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_never_pass_it() {
        let backoff = Backoff::default();
        for (failures, full) in [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (u32::MAX, 300.0)] {
            for seed in 0..100 {
                let wait = backoff.wait(failures, seed).as_secs_f64();
                assert!(wait <= full && wait >= full * 0.75 - 1e-9, "{failures} {seed} {wait}");
            }
        }
    }

    #[test]
    fn jitter_differs_between_messages() {
        let backoff = Backoff::default();
        assert_ne!(backoff.wait(1, 1), backoff.wait(1, 2));
        assert_eq!(backoff.wait(1, 1), backoff.wait(1, 1));
    }
}
