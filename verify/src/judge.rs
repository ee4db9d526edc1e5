//! Judges a history: what a broker that keeps its word cannot have done.
//!
//! [`judge`] holds what was seen against what lies there in the end. It knows nothing of how the broker works, only
//! what was promised; where a call was never answered, both endings are allowed.

mod log;
mod settled;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::history::{Event, Found};

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// An acknowledged message is not where its receipt says.
    Lost,
    /// A message was seen by somebody, and is not there any more: it was visible before it was durable.
    Vanished,
    /// Bytes were given out that nobody published.
    WrongBytes,
    /// A message was stored twice.
    StoredTwice,
    /// A refused message was stored, or one that was never published.
    Invented,
    /// Messages of one publisher lie in another order than they were published in.
    OutOfOrder,
    /// A batch was stored in part.
    Torn,
    /// A subscription never got to the end of a message.
    NeverSettled,
    /// A message was settled for good, acknowledged, and delivered and settled once more.
    Undone,
    /// A settlement's outputs are there in part, or without its acknowledgement, or the other way round.
    HalfDone,
    /// A message was delivered before the one before it of its key was settled.
    KeyOvertaken,
    /// A failure was counted that was none, or forgotten.
    Miscounted,
    /// A dead letter is missing, or is none.
    DeadLetters,
    /// Messages wait although consumers ask for them.
    Stuck,
    /// Damage on the disk was neither refused nor reported, and something is missing.
    SilentDamage,
}

impl Rule {
    /// Whether something is gone that should be there.
    #[must_use]
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Lost | Self::Vanished | Self::NeverSettled | Self::SilentDamage)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost after its receipt",
            Self::Vanished => "seen before it was durable",
            Self::WrongBytes => "wrong bytes",
            Self::StoredTwice => "stored twice",
            Self::Invented => "stored though refused or never published",
            Self::OutOfOrder => "out of its publisher's order",
            Self::Torn => "a batch stored in part",
            Self::NeverSettled => "lost for a subscription",
            Self::Undone => "an acknowledged settlement undone",
            Self::HalfDone => "acknowledgement and outputs not together",
            Self::KeyOvertaken => "out of its key's order",
            Self::Miscounted => "failures counted wrongly",
            Self::DeadLetters => "dead letters wrong",
            Self::Stuck => "not delivered at all",
            Self::SilentDamage => "damage not noticed",
        })
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How, with names and offsets.
    pub what: String,
}

/// Collects violations.
#[derive(Debug, Default)]
struct Verdicts(Vec<Violation>);

impl Verdicts {
    fn add(&mut self, rule: Rule, what: impl Into<String>) {
        self.0.push(Violation { rule, what: what.into() });
    }

    fn unless(&mut self, right: bool, rule: Rule, what: impl FnOnce() -> String) {
        if !right {
            self.add(rule, what());
        }
    }
}

/// How an engine keeps a settlement and its outputs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    /// In one write: all of it is there, or nothing.
    InOneWrite,
    /// Outputs first, each under an id that says of which delivery it came. A settlement of one delivery that was not
    /// answered may leave its output; with the next one of the same delivery it is not stored again.
    OutputsFirst,
}

/// Everything that was wrong.
#[must_use]
pub fn judge(events: &[Event], found: &Found, together: Together) -> Vec<Violation> {
    let mut verdicts = Verdicts::default();
    log::judge(events, found, &mut verdicts);
    settled::judge(events, found, together, &mut verdicts);
    verdicts.0
}

/// How many of each.
#[must_use]
pub fn tally(violations: &[Violation]) -> BTreeMap<Rule, u64> {
    let mut tally = BTreeMap::new();
    for violation in violations {
        *tally.entry(violation.rule).or_default() += 1;
    }
    tally
}
