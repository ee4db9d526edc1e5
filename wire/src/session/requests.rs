//! What a client says.

use std::fmt;

use crossdock_topics::{Durability, Expected, Source, StartAt, Timestamp};
use serde::{Deserialize, Serialize};

use super::header::numbered;
use super::{OutcomeRange, Ranges, WireError};

/// Outputs: for each topic in turn, how many bytes of the payload are its run of records.
pub type Outputs = Vec<(String, u32)>;

numbered! {
    /// What a client says.
    pub enum ToServer {
        /// `[1, 0, min, max, name, login]`: the first frame. Answered by `Welcome`.
        1 = Hello {
            /// The lowest version of the protocol that it speaks.
            min: u32,
            /// The highest.
            max: u32,
            /// What it calls itself, for logs: at most 200 bytes.
            name: String,
            /// Who is asking; nil where nobody needs to say so.
            login: Option<Login>,
        },
        /// `[2, 0]`: it is there. Sent when nothing else was for a heartbeat's interval; not answered.
        2 = Ping {},
        /// `[3, 0]`: it is about to go. The server hands it no more deliveries and requests, ends its flows of them,
        /// and answers everything else as before. Not answered.
        3 = Drain {},
        /// `[4, id]`: the answer to this request is not wanted any more. The server ends it soon: a `Fetch`, a `Read` or
        /// an `Invoke` is answered as it stands; a flow ends with `End`. What nothing is left of is not answered again.
        4 = Cancel {},
        /// `[10, id, topic, durability, expected, source]`, payload: a run of records. Answered by `Receipts`.
        10 = Publish {
            /// The topic.
            topic: String,
            /// How safe it must be: 0 memory, 1 os, 2 fsync, 100 + n by n servers; nil as the topic says.
            durability: Option<u8>,
            /// `[offset]` or `[offset, key]`: what must be the newest; a nil offset for nothing.
            expected: Option<Expectation>,
            /// `[publisher's upper 64 bits, lower 64 bits, sequence, answered]`.
            source: Option<SourceOf>,
        },
        /// `[11, id, topic, place, value, max, wait_ms]`. Answered by `Page`.
        11 = Read {
            /// The topic.
            topic: String,
            /// Where to begin: 0 start, 1 end, 2 the offset `value`, 3 the moment `value` in ms since 1970.
            place: u8,
            /// See there; else 0.
            value: i64,
            /// At most so many messages.
            max: u32,
            /// How long to wait for the first one.
            wait_ms: u64,
        },
        /// `[12, id, subscription]`. Answered by `Joined`.
        12 = Join {
            /// The subscription.
            subscription: String,
        },
        /// `[13, 0, subscription, consumer]`. Not answered.
        13 = Leave {
            /// The subscription.
            subscription: String,
            /// Who.
            consumer: u64,
        },
        /// `[14, id, subscription, consumer, max, max_bytes, wait_ms, lease_ms]`: takes messages once. Answered by
        /// `Deliveries`, which may be none.
        14 = Fetch {
            /// The subscription.
            subscription: String,
            /// Who, if it has joined.
            consumer: Option<u64>,
            /// At most so many.
            max: u32,
            /// No further one once so many bytes are together.
            max_bytes: u64,
            /// How long to wait for the first one.
            wait_ms: u64,
            /// How long they may be held, if not as the subscription says.
            lease_ms: Option<u64>,
        },
        /// `[15, id, subscription, messages, bytes, lease_ms]`: joins, and takes messages as they come, until the credit
        /// is used up. A flow: `Joined`, then `Deliveries`; when it ends the consumer has left, and what it held is given
        /// back.
        15 = Consume {
            /// The subscription.
            subscription: String,
            /// The credit to begin with, in messages.
            messages: u64,
            /// The credit to begin with, in bytes of records. A message is sent while any is left.
            bytes: u64,
            /// How long each may be held, if not as the subscription says.
            lease_ms: Option<u64>,
        },
        /// `[16, id, messages, bytes]`: more credit for a flow of deliveries, or (in messages) of requests. Not answered.
        16 = Credit {
            /// So many messages more.
            messages: u64,
            /// So many bytes more.
            bytes: u64,
        },
        /// `[17, id, subscription, outcomes, outputs, by]`, payload: the outputs' runs of records. Answered by
        /// `Settled`.
        17 = Settle {
            /// The subscription.
            subscription: String,
            /// What is said about which deliveries, in order.
            outcomes: Vec<OutcomeRange>,
            /// What is published with it.
            outputs: Outputs,
            /// Who says so.
            by: Option<String>,
        },
        /// `[18, id, subscription, lease_ms, ranges]`. Answered by `Settled`.
        18 = Extend {
            /// The subscription.
            subscription: String,
            /// From now on.
            lease_ms: u64,
            /// Which deliveries.
            deliveries: Ranges,
        },
        /// `[19, id, service, timeout_ms]`, payload: a record. Answered by `Answer`.
        19 = Invoke {
            /// The service's name.
            service: String,
            /// How long to wait for its reply.
            timeout_ms: u64,
        },
        /// `[20, id, service, capacity]`: serves a service. A flow: `Joined` with the consumer 0, then `Request`s, as many as
        /// `capacity` and what `Credit` adds to it.
        20 = Serve {
            /// The service's name.
            service: String,
            /// The credit to begin with, in requests.
            capacity: u32,
        },
        /// `[21, id, error, outputs]`, payload: the outputs' runs of records, and then the reply's record unless there is
        /// an error. The id is the `Request`'s, as the server numbered it. The outputs are published before the caller gets the
        /// reply. Not answered.
        21 = Reply {
            /// Why there is no reply.
            error: Option<WireError>,
            /// What is published first.
            outputs: Outputs,
        },
        /// `[22, id, json]`, payload: so many bytes of JSON, a [`super::Call`], and then what that says follows it.
        /// Answered by `Done`.
        22 = Call {
            /// How many bytes of the payload are JSON.
            json: u32,
        },
    }
}

/// `[user, password]`, or `[nil, api_key]`. Not shown when printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login(pub Option<String>, pub String);

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Login").field(&self.0).finish_non_exhaustive()
    }
}

/// `[offset, key]`: an optimistic append's expectation. Without a key it is about the whole topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation(pub Option<u64>, pub Option<String>);

impl From<Expected> for Expectation {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Last(offset) => Self(offset, None),
            Expected::LastOfKey(key, offset) => Self(offset, Some(key)),
        }
    }
}

impl From<Expectation> for Expected {
    fn from(Expectation(offset, key): Expectation) -> Self {
        match key {
            None => Self::Last(offset),
            Some(key) => Self::LastOfKey(key, offset),
        }
    }
}

/// `[publisher's upper 64 bits, lower 64 bits, sequence, answered]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceOf(pub u64, pub u64, pub u64, pub u64);

impl From<Source> for SourceOf {
    #[allow(clippy::cast_possible_truncation)] // the lower half is meant
    fn from(source: Source) -> Self {
        Self((source.publisher >> 64) as u64, source.publisher as u64, source.sequence, source.answered)
    }
}

impl From<SourceOf> for Source {
    fn from(SourceOf(upper, lower, sequence, answered): SourceOf) -> Self {
        Self { publisher: u128::from(upper) << 64 | u128::from(lower), sequence, answered }
    }
}

/// The number of a durability in a header.
#[must_use]
pub fn durability_number(durability: Durability) -> u8 {
    match durability {
        Durability::Memory => 0,
        Durability::Os => 1,
        Durability::Fsync => 2,
        Durability::Quorum(servers) => 100_u8.saturating_add(servers),
    }
}

/// The durability that a number in a header stands for.
#[must_use]
pub fn durability_of(number: u8) -> Option<Durability> {
    Some(match number {
        0 => Durability::Memory,
        1 => Durability::Os,
        2 => Durability::Fsync,
        100.. => Durability::Quorum(number - 100),
        _ => return None,
    })
}

/// A place in a log, as `place` and `value` of [`ToServer::Read`].
#[must_use]
pub fn place(from: StartAt) -> (u8, i64) {
    match from {
        StartAt::Start => (0, 0),
        StartAt::End => (1, 0),
        StartAt::Offset(offset) => (2, i64::try_from(offset).unwrap_or(i64::MAX)),
        StartAt::Time(time) => (3, time.0),
    }
}

/// The place in a log that `place` and `value` stand for.
#[must_use]
pub fn place_of(place: u8, value: i64) -> Option<StartAt> {
    Some(match place {
        0 => StartAt::Start,
        1 => StartAt::End,
        2 => StartAt::Offset(u64::try_from(value).ok()?),
        3 => StartAt::Time(Timestamp(value)),
        _ => return None,
    })
}
