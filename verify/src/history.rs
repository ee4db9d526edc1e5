//! What was seen of a broker, in the order in which it was seen.
//!
//! One process sees all of it, so the order is real: what stands before something else had happened before it. A call
//! is two events, when it begins and when it is answered.

use parking_lot::Mutex;

use crate::freight::{Freight, Output};

/// The subscriptions of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reader {
    /// Acknowledges with outputs.
    Effects,
    /// In the order of keys.
    Keys,
    /// Does everything else that one can do with a delivery.
    Mixed,
}

impl Reader {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Effects, Self::Keys, Self::Mixed];

    /// The last part of the subscription's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Effects => "effects",
            Self::Keys => "keys",
            Self::Mixed => "mixed",
        }
    }
}

/// What a consumer said of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, with an output where the reader makes them.
    Ack,
    /// Again later; counts as a failure.
    Retry,
    /// Again at once.
    Release,
    /// To the dead letters.
    Reject,
}

impl Verdict {
    /// Whether the message is done with.
    #[must_use]
    pub fn ends(self) -> bool {
        matches!(self, Self::Ack | Self::Reject)
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Acknowledged.
    Done,
    /// Refused: nothing was done.
    Refused,
    /// Nobody answered: it was done, or not.
    Unknown,
}

/// One thing that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A batch is about to be published for the first time: so many messages from this one on.
    Sent {
        /// The first.
        first: Freight,
        /// How many.
        count: u32,
    },
    /// A batch's publish was answered other than by receipts.
    Unanswered {
        /// The first.
        first: Freight,
        /// [`Answer::Refused`] or [`Answer::Unknown`].
        answer: Answer,
    },
    /// A receipt: the message lies at this offset.
    Stored {
        /// The message.
        freight: Freight,
        /// Where.
        offset: u64,
    },
    /// Somebody without a subscription read a message.
    Seen {
        /// The message.
        freight: Freight,
        /// Where.
        offset: u64,
    },
    /// A consumer got a message.
    Delivered {
        /// Whose.
        reader: Reader,
        /// The message.
        freight: Freight,
        /// Where.
        offset: u64,
        /// Which try the broker says it is.
        attempt: u32,
    },
    /// A consumer is about to say this of a delivery, as a part of a settlement.
    Settling {
        /// Whose.
        reader: Reader,
        /// Which.
        settlement: u64,
        /// The message.
        offset: u64,
        /// What it says.
        verdict: Verdict,
    },
    /// A delivery of the settlement was not held any more: nothing was done about it.
    Stale {
        /// Which.
        settlement: u64,
        /// The message.
        offset: u64,
    },
    /// A settlement was answered. Comes after its [`Event::Stale`].
    Settled {
        /// Which.
        settlement: u64,
        /// How.
        answer: Answer,
    },
}

/// What the broker holds in the end, read from the first offset on.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The messages of the load.
    pub freight: Vec<Freight>,
    /// The outputs.
    pub outputs: Vec<Output>,
    /// The offsets of the dead letters of [`Reader::Mixed`].
    pub dead: Vec<u64>,
}

/// A history that is being written.
#[derive(Debug, Default)]
pub struct History {
    events: Mutex<Vec<Event>>,
    wrong: Mutex<Vec<String>>,
}

impl History {
    /// Adds what was just seen.
    pub fn add(&self, event: Event) {
        self.events.lock().push(event);
    }

    /// Adds several at once.
    pub fn extend(&self, events: impl IntoIterator<Item = Event>) {
        self.events.lock().extend(events);
    }

    /// Adds bytes that are not what was published.
    pub fn wrong(&self, what: String) {
        self.wrong.lock().push(what);
    }

    /// All that was seen.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Event>, Vec<String>) {
        (self.events.into_inner(), self.wrong.into_inner())
    }

    /// The same, and leaves it empty.
    #[must_use]
    pub fn take(&self) -> (Vec<Event>, Vec<String>) {
        (std::mem::take(&mut self.events.lock()), std::mem::take(&mut self.wrong.lock()))
    }

    /// How many events satisfy this.
    pub fn count(&self, is: impl Fn(&Event) -> bool) -> u64 {
        self.events.lock().iter().filter(|event| is(event)).count() as u64
    }
}
