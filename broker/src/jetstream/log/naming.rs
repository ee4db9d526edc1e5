//! How messages of a topic are named in NATS.
//!
//! ```text
//! PREFIX.t.NUMBER.PUBLISHER.ENGINE.RUN        e.g. crossdock.t.7.e.93c1f0a2be5514770.0
//! PREFIX.t.NUMBER.PUBLISHER.ENGINE.RUN.KEY    in a compacted topic
//! ```
//!
//! PUBLISHER is `e` for what an engine publishes by itself, or the [`Source`] that a batch names, wherever it was published.
//! ENGINE is the engine that sent it. RUN counts on whenever what was sent without waiting was not answered: see
//! [`publisher`](super::publisher).

use async_nats::Subject;
use crossdock_topics::{Record, Source};

/// What stands for an engine itself among the publishers.
const OWN: &str = "e";

/// How messages of a topic are named in NATS.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    /// What comes before the publisher.
    pub(super) base: String,
    /// This engine, as a publisher of this topic.
    pub(super) engine: String,
    pub(super) run: u64,
    /// Whether a message's key is a part of its subject.
    pub(super) keyed: bool,
    /// Whether ids are looked at.
    pub(super) dedup: bool,
}

impl Naming {
    /// What the subjects of a publisher's messages begin with.
    pub(super) fn begin(&self, source: Option<&Source>) -> Subject {
        let Self { base, engine, run, .. } = self;
        match source {
            None => format!("{base}.{OWN}.{engine}.{run}").into(),
            Some(source) => format!("{base}.{:032x}.{engine}.{run}", source.publisher).into(),
        }
    }

    /// The subject of a message of the publisher whose subjects begin so.
    pub(super) fn subject(&self, begin: &Subject, record: &Record) -> Subject {
        match record.key() {
            _ if !self.keyed => begin.clone(),
            Some(key) => format!("{begin}.{}", key_token(key)).into(),
            None => format!("{begin}._").into(),
        }
    }

    /// The subjects of all messages of a publisher: this engine's own, or those of a source, whoever sent them.
    pub(super) fn all_of(&self, source: Option<&Source>) -> String {
        match source {
            None => format!("{}.{OWN}.{}.>", self.base, self.engine),
            Some(source) => format!("{}.{:032x}.>", self.base, source.publisher),
        }
    }

    /// The subjects of all messages of this run.
    pub(super) fn all_of_run(&self) -> String {
        format!("{}.*.{}.{}", self.base, self.engine, self.run)
    }

    /// The subjects of all messages with a key, where keys are a part of them.
    pub(super) fn all_with(&self, key: &str) -> String {
        format!("{}.*.*.*.{}", self.base, key_token(key))
    }
}

/// The subjects of all messages of which keys are no part.
pub(super) fn all_without_keys(base: &str) -> String {
    format!("{base}.*.*.*")
}

/// A key as a part of a subject: letters and digits as they are, all else as `=XX`. Never `_`, which stands for no key.
fn key_token(key: &str) -> String {
    use std::fmt::Write;
    if key.is_empty() {
        return "=".into();
    }
    let mut token = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => token.push(char::from(byte)),
            _ => {
                let _ = write!(token, "={byte:02X}");
            }
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parts_of_subjects_of_their_own() {
        let keys = ["", "_", "=", "a.b", "a*", ">", "ü", "A-1", "a b"];
        let tokens: Vec<String> = keys.iter().map(|key| key_token(key)).collect();
        for (at, token) in tokens.iter().enumerate() {
            assert!(token != "_" && !token.contains(['.', '*', '>', ' ']), "{token}");
            assert!(!tokens[..at].contains(token), "{token}");
        }
    }
}
