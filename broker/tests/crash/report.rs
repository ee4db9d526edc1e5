//! What the parent tells a child, and what the child reports, one line each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The environment variable that makes a process a child, and holds its orders.
pub(crate) const ORDERS: &str = "CROSSDOCK_CRASH_ORDERS";
/// What tells a report from what a test runner prints.
const MARK: &str = "@crash ";

/// Two publishers write to this one, and its consumers' outputs depend on it.
pub(crate) const SYNCED: &str = "in.synced";
/// Acknowledged when the operating system has it: survives a kill.
pub(crate) const WRITTEN: &str = "in.written";
/// May lose what was acknowledged; may not lie about it.
pub(crate) const FAST: &str = "fast";
/// What the consumers publish with their acknowledgements.
pub(crate) const OUT: &str = "out";
/// Takes from `in.*`.
pub(crate) const SUBSCRIPTION: &str = "work";
/// Counts up in the store.
pub(crate) const COUNTER: &str = "test/counter";

/// Publisher and the topic it publishes to.
pub(crate) const PUBLISHERS: [(&str, &str); 4] = [("p", SYNCED), ("q", SYNCED), ("r", WRITTEN), ("s", FAST)];

/// What a child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Where the broker lives.
    pub(crate) directory: PathBuf,
    /// From which offset on each topic's messages are reported.
    pub(crate) known: BTreeMap<String, u64>,
    /// The first number each publisher has no receipt for.
    pub(crate) next: BTreeMap<String, u64>,
    /// For what is random.
    pub(crate) seed: u64,
}

/// What a child reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Found after opening: the offsets a topic has.
    Topic { topic: String, head: u64, tail: u64 },
    /// Found after opening: the payloads from an offset on.
    Messages { topic: String, first: u64, texts: Vec<String> },
    /// Found after opening: the counter's value and revision.
    Counter { value: u64, revision: u64 },
    /// All that was found is reported; the load begins.
    Ready,
    /// Receipts of one publisher's messages from a number on: offset, and whether it was a duplicate.
    Receipts { publisher: String, first: u64, receipts: Vec<(u64, bool)> },
    /// A message came from the subscription.
    Delivered { topic: String, offset: u64, text: String, attempt: u32 },
    /// These were acknowledged, each with an output.
    Acked { places: Vec<(String, u64)> },
    /// This one was rejected.
    Rejected { topic: String, offset: u64 },
    /// The counter was written.
    Counted { value: u64, revision: u64 },
}

impl Report {
    /// One line. Longer ones than a pipe writes at once may be cut by a kill, never mixed.
    pub(crate) fn line(&self) -> String {
        format!("{MARK}{}\n", serde_json::to_string(self).unwrap())
    }

    /// Reads a line; `None` for what the test runner prints.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        // The runner's own words may stand before it on the same line.
        let (_, json) = line.split_once(MARK)?;
        Some(serde_json::from_str(json).unwrap())
    }
}
