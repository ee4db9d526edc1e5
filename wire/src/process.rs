//! What a worker and the processes of a service say to each other.
//!
//! The process's standard input is one end of a Unix stream socket. The worker speaks first:
//!
//! ```text
//! worker                              process
//! Hello, payload: a Start as JSON
//!                                     Ready, payload: the manifest as JSON   (or Refused: payload the traceback)
//! Consume, payload: a record
//!                                     Settle, payload: a run of records, the outputs
//! Serve, payload: a record
//!                                     Reply, payload: the outputs, then the reply's record
//!                                     Invoke, payload: a record              (within a call)
//! Answer, payload: a record
//!                                     Read                                   (within a call)
//! Page, payload: a run of records
//! Drain
//!                                     (finishes what it holds, and ends)
//! ```
//!
//! Calls (`Consume` and `Serve`) carry an id that their `Settle` or `Reply` repeats; questions (`Invoke` and
//! `Read`) carry ids of the process's own. `Ready` announces the process's credit: so many calls it takes at
//! once, and each `Settle` or `Reply` gives one back. A process whose `Ready` says `in_order` works on one call
//! at a time, in the order in which they came, and its credit only lets the next ones wait nearby.
//!
//! Messages are records as [`crossdock_topics::record`] packs them, a single one without the length before it.
//! Headers are arrays of integers and short texts, `[kind, id, ...]`, so that they are quick to take apart in
//! Python; what is said once, in the handshake, is JSON.

use std::fmt;

use bytes::Bytes;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Frame, FrameCodec, FrameError};

/// The version of this conversation. Both sides name theirs and refuse another.
pub const PROTOCOL: u32 = 1;

/// The largest header, in bytes.
pub const MAX_HEADER: usize = 64 * 1024;

/// The largest payload: the largest batch, with room for a reply's record beside it.
pub const MAX_PAYLOAD: usize = crossdock_topics::record::MAX_BATCH_BYTES + 1024 * 1024;

/// The codec of this conversation.
#[must_use]
pub fn codec() -> FrameCodec {
    FrameCodec::new(MAX_HEADER, MAX_PAYLOAD)
}

/// What a process is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The service's name.
    pub service: String,
    /// The version of its code.
    pub version: String,
    /// The file that holds its code.
    pub path: String,
    /// How many bytes of address space the process may have.
    pub memory: u64,
    /// A file of 8 bytes in which the process keeps the id of the call it is working on (little-endian, 0 for
    /// none), for whoever must know when it has died; only with a process that works in order.
    pub beacon: Option<String>,
    /// Whether to end after `Ready`: the code is only being looked at.
    pub inspect: bool,
}

/// How a call of a handler for a message ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was handled.
    Ack,
    /// It failed and is to be delivered again.
    Retry {
        /// After so many milliseconds, if not by the subscription's backoff.
        after_ms: Option<u64>,
        /// Why.
        reason: String,
    },
    /// It is to be put to the dead letters.
    Reject {
        /// Why.
        reason: String,
    },
}

/// An error as it travels: `[code, message, hint, retry after in ms]`, with the code's stable name.
pub type WireError = (String, String, Option<String>, Option<u64>);

/// Outputs: for each topic in turn, how many bytes of the payload are its run of records.
pub type Outputs = Vec<(String, u32)>;

/// What the worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToProcess {
    /// `[1, protocol]`
    Hello {
        /// The worker's [`PROTOCOL`].
        protocol: u32,
    },
    /// `[2, id, handler, budget_ms, payload_bytes, topic, offset, time_ms, attempt, deliveries]`
    Consume {
        /// The call.
        id: u64,
        /// Which handler of the manifest.
        handler: u32,
        /// How long the call may take.
        budget_ms: u64,
        /// How many bytes at the end of the record are the message's payload.
        payload_bytes: u32,
        /// The topic the message lies in.
        topic: String,
        /// Its offset there.
        offset: u64,
        /// When it was stored, in milliseconds since 1970.
        time_ms: i64,
        /// Which try this is, from 1.
        attempt: u32,
        /// How often it has been delivered, from 1.
        deliveries: u32,
    },
    /// `[3, id, handler, budget_ms, payload_bytes]`
    Serve {
        /// The call.
        id: u64,
        /// Which handler of the manifest.
        handler: u32,
        /// How long somebody waits for the reply.
        budget_ms: u64,
        /// How many bytes at the end of the record are the request's payload.
        payload_bytes: u32,
    },
    /// `[4, question, error]`: the reply to an `Invoke`.
    Answer {
        /// The question.
        id: u64,
        /// Why there is no reply.
        error: Option<WireError>,
    },
    /// `[5, question, error, next, [[offset, time_ms]...]]`: messages of a topic; the payload is their run.
    Page {
        /// The question.
        id: u64,
        /// Why there are none.
        error: Option<WireError>,
        /// Where to go on reading.
        next: u64,
        /// Where and when each message was stored.
        places: Vec<(u64, i64)>,
    },
    /// `[6, id]`: no more calls will come. The id is 0.
    Drain,
}

/// What a process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromProcess {
    /// `[1, protocol, credit, in_order]`
    Ready {
        /// The process's [`PROTOCOL`].
        protocol: u32,
        /// How many calls it takes at once.
        credit: u32,
        /// Whether it works on them one at a time, in order.
        in_order: bool,
    },
    /// `[2, protocol]`: the code could not be loaded; the payload says why.
    Refused {
        /// The process's [`PROTOCOL`].
        protocol: u32,
    },
    /// `[3, id, verdict (0 ack, 1 retry, 2 reject), after_ms, reason, outputs]`
    Settle {
        /// The call.
        id: u64,
        /// How it ended.
        verdict: Verdict,
        /// What it published; nothing unless the verdict is `Ack`.
        outputs: Outputs,
    },
    /// `[4, id, error, outputs]`: the payload is the outputs, and what is left of it the reply's record.
    Reply {
        /// The call.
        id: u64,
        /// Why there is no reply.
        error: Option<WireError>,
        /// What it published.
        outputs: Outputs,
    },
    /// `[5, question, service, timeout_ms]`
    Invoke {
        /// The question.
        id: u64,
        /// The name to ask.
        service: String,
        /// How long to wait for its reply.
        timeout_ms: u64,
    },
    /// `[6, question, topic, from, max, wait_ms]`: `from` is an offset, or -1 for the start and -2 for the end.
    Read {
        /// The question.
        id: u64,
        /// The topic.
        topic: String,
        /// Where to begin.
        from: i64,
        /// At most so many messages.
        max: u32,
        /// How long to wait for the first one.
        wait_ms: u64,
    },
}

impl ToProcess {
    /// The frame that says this.
    ///
    /// # Errors
    /// Those of [`Frame::new`].
    pub fn frame(&self, payload: Bytes) -> Result<Frame, FrameError> {
        Frame::new(self, payload)
    }
}

impl Serialize for ToProcess {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Hello { protocol } => (1, protocol).serialize(s),
            Self::Consume {
                id,
                handler,
                budget_ms,
                payload_bytes,
                topic,
                offset,
                time_ms,
                attempt,
                deliveries,
            } => (2, id, handler, budget_ms, payload_bytes, topic, offset, time_ms, attempt, deliveries)
                .serialize(s),
            Self::Serve { id, handler, budget_ms, payload_bytes } => {
                (3, id, handler, budget_ms, payload_bytes).serialize(s)
            }
            Self::Answer { id, error } => (4, id, error).serialize(s),
            Self::Page { id, error, next, places } => (5, id, error, next, places).serialize(s),
            Self::Drain => (6, 0).serialize(s),
        }
    }
}

impl Serialize for FromProcess {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ready { protocol, credit, in_order } => (1, protocol, credit, in_order).serialize(s),
            Self::Refused { protocol } => (2, protocol).serialize(s),
            Self::Settle { id, verdict, outputs } => {
                let (number, after_ms, reason) = match verdict {
                    Verdict::Ack => (0, None, ""),
                    Verdict::Retry { after_ms, reason } => (1, *after_ms, reason.as_str()),
                    Verdict::Reject { reason } => (2, None, reason.as_str()),
                };
                (3, id, number, after_ms, reason, outputs).serialize(s)
            }
            Self::Reply { id, error, outputs } => (4, id, error, outputs).serialize(s),
            Self::Invoke { id, service, timeout_ms } => (5, id, service, timeout_ms).serialize(s),
            Self::Read { id, topic, from, max, wait_ms } => (6, id, topic, from, max, wait_ms).serialize(s),
        }
    }
}

/// The next element of a header, which must be there.
fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| A::Error::custom("the header is too short"))
}

/// Passes over elements that a later version has added.
fn finish<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'de> Deserialize<'de> for ToProcess {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = ToProcess;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array that begins with a kind from 1 to 6")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ToProcess, A::Error> {
                let kind: u8 = next(&mut seq)?;
                let header = match kind {
                    1 => ToProcess::Hello { protocol: next(&mut seq)? },
                    2 => ToProcess::Consume {
                        id: next(&mut seq)?,
                        handler: next(&mut seq)?,
                        budget_ms: next(&mut seq)?,
                        payload_bytes: next(&mut seq)?,
                        topic: next(&mut seq)?,
                        offset: next(&mut seq)?,
                        time_ms: next(&mut seq)?,
                        attempt: next(&mut seq)?,
                        deliveries: next(&mut seq)?,
                    },
                    3 => ToProcess::Serve {
                        id: next(&mut seq)?,
                        handler: next(&mut seq)?,
                        budget_ms: next(&mut seq)?,
                        payload_bytes: next(&mut seq)?,
                    },
                    4 => ToProcess::Answer { id: next(&mut seq)?, error: next(&mut seq)? },
                    5 => ToProcess::Page {
                        id: next(&mut seq)?,
                        error: next(&mut seq)?,
                        next: next(&mut seq)?,
                        places: next(&mut seq)?,
                    },
                    6 => ToProcess::Drain,
                    other => return Err(A::Error::custom(format!("there is no header of kind {other}"))),
                };
                finish(&mut seq)?;
                Ok(header)
            }
        }
        deserializer.deserialize_seq(Header)
    }
}

impl<'de> Deserialize<'de> for FromProcess {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = FromProcess;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array that begins with a kind from 1 to 6")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FromProcess, A::Error> {
                let kind: u8 = next(&mut seq)?;
                let header = match kind {
                    1 => FromProcess::Ready {
                        protocol: next(&mut seq)?,
                        credit: next(&mut seq)?,
                        in_order: next(&mut seq)?,
                    },
                    2 => FromProcess::Refused { protocol: next(&mut seq)? },
                    3 => {
                        let id = next(&mut seq)?;
                        let number: u8 = next(&mut seq)?;
                        let after_ms = next(&mut seq)?;
                        let reason = next(&mut seq)?;
                        let verdict = match number {
                            0 => Verdict::Ack,
                            1 => Verdict::Retry { after_ms, reason },
                            2 => Verdict::Reject { reason },
                            other => {
                                return Err(A::Error::custom(format!("there is no verdict {other}")));
                            }
                        };
                        FromProcess::Settle { id, verdict, outputs: next(&mut seq)? }
                    }
                    4 => FromProcess::Reply {
                        id: next(&mut seq)?,
                        error: next(&mut seq)?,
                        outputs: next(&mut seq)?,
                    },
                    5 => FromProcess::Invoke {
                        id: next(&mut seq)?,
                        service: next(&mut seq)?,
                        timeout_ms: next(&mut seq)?,
                    },
                    6 => FromProcess::Read {
                        id: next(&mut seq)?,
                        topic: next(&mut seq)?,
                        from: next(&mut seq)?,
                        max: next(&mut seq)?,
                        wait_ms: next(&mut seq)?,
                    },
                    other => return Err(A::Error::custom(format!("there is no header of kind {other}"))),
                };
                finish(&mut seq)?;
                Ok(header)
            }
        }
        deserializer.deserialize_seq(Header)
    }
}

#[cfg(test)]
mod tests;
