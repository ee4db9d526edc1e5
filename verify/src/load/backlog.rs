//! How far consumers are behind, so that publishers wait for them and a round ends soon after its load.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::history::Reader;
use crate::judge::Together;

/// Publishers wait while a subscription has about so many messages before it; fewer where each is settled by itself, with
/// its output stored before.
const LONG: u64 = 4000;
const LONG_ALONE: u64 = 600;

/// About how many messages were stored, and how many settled on each subscription.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    stored: AtomicU64,
    settled: [AtomicU64; Reader::ALL.len()],
}

impl Backlog {
    pub(super) fn stored(&self, count: u64) {
        self.stored.fetch_add(count, Ordering::Relaxed);
    }

    /// What was said, whether or not it took effect: good enough for a brake.
    pub(super) fn settled(&self, reader: Reader, count: u64) {
        self.settled[reader as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// About how many messages were settled, on all subscriptions together.
    pub(super) fn all_settled(&self) -> u64 {
        self.settled.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn is_long(&self, together: Together) -> bool {
        let long = if together == Together::InOneWrite { LONG } else { LONG_ALONE };
        let least = self.settled.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or(0);
        self.stored.load(Ordering::Relaxed) > least + long
    }
}
