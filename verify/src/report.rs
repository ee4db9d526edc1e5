//! What a run has shown.

use serde::Serialize;

use crate::damage::Damages;
use crate::history::{Answer, Event};
use crate::judge::{Violation, tally};

/// What a run has shown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What all choices came from.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// How many times a load was run, drained and judged.
    pub rounds: u64,
    /// How many times the process was killed, for a full disk included.
    pub kills: u64,
    /// How many times it was stopped for a while.
    pub suspensions: u64,
    /// How many lives it had in which files could not grow.
    pub full_disks: u64,
    /// In how many of them it came to a write that failed, and refused all others.
    pub writes_refused: u64,
    /// What came of damaged copies.
    pub damages: Damages,
    /// What was done.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages that are gone and should not be.
    pub losses: u64,
    /// Every promise that was broken.
    pub violations: Vec<Violation>,
    /// How long the disk takes to make 4 KiB durable, in milliseconds: half took no longer.
    pub fsync_p50_ms: f64,
    /// 99 of 100 took no longer.
    pub fsync_p99_ms: f64,
    /// So many messages of 1 KiB a second were acknowledged after fsync within the bound.
    pub safe_rate: u64,
    /// 99 of 100 acknowledgements took no longer at that rate, in milliseconds.
    pub safe_rate_p99_ms: f64,
    /// The bound.
    pub safe_rate_bound_ms: f64,
}

/// What the load has done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Messages published, each for the first time.
    pub published: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Calls that were never answered because the broker went away.
    pub unanswered: u64,
    /// Deliveries of all subscriptions.
    pub deliveries: u64,
    /// Settlements acknowledged.
    pub settlements: u64,
}

impl Counts {
    /// Adds up what was seen.
    pub(crate) fn add(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Sent { count, .. } => self.published += u64::from(*count),
                Event::Stored { .. } => self.acknowledged += 1,
                Event::Delivered { .. } => self.deliveries += 1,
                Event::Settled { answer: Answer::Done, .. } => self.settlements += 1,
                Event::Settled { answer: Answer::Unknown, .. }
                | Event::Unanswered { answer: Answer::Unknown, .. } => self.unanswered += 1,
                _ => {}
            }
        }
    }
}

impl Report {
    /// What was broken, how often, in words.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        tally(&self.violations).into_iter().map(|(rule, count)| format!("{count} {rule}")).collect()
    }
}
