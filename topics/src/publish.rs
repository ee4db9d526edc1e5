//! What a publisher is told.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{Durability, Error, ErrorCode};

/// What a publisher asks for beside its messages. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishOptions {
    /// How safe the batch must be before it is acknowledged, if more than the topic asks.
    pub durability: Option<Durability>,
    /// What must be true of the log for the batch to be stored.
    pub expected: Option<Expected>,
    /// Which batch of which publisher this is, so that sending it again stores it once.
    pub source: Option<Source>,
}

impl From<Durability> for PublishOptions {
    fn from(durability: Durability) -> Self {
        Self { durability: Some(durability), ..Self::default() }
    }
}

/// An optimistic append: what must be true of a topic's log for a batch to be stored. Otherwise the publish fails
/// with [`ErrorCode::Conflict`], which names what is there, and stores nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The newest message of the topic has this offset; `None`: nothing has ever been stored in it.
    Last(Option<u64>),
    /// The newest message of this key has this offset; `None`: the log holds none. Only for topics that are
    /// compacted by key, which know the newest message of each.
    LastOfKey(String, Option<u64>),
}

/// Names a batch of a publisher that may have to send it again without knowing whether it arrived. Its batches to
/// one topic are stored once each, whether or not their messages have ids.
///
/// A publisher counts its batches to each topic from 0, sends them in that order, and has at most
/// [`Source::MAX_UNDER_WAY`] without an answer. It is remembered, across restarts, for as long as it publishes and for
/// the topic's dedup window (at least a minute) afterwards, and must not send a batch again later than that.
///
/// A batch whose turn it is not is refused with [`ErrorCode::Conflict`], and so is one of a publisher that is not known
/// (any more) unless it is its first. After that a publisher takes another number and counts from 0 again: always safe
/// for batches that were sent once, while of one that was sent before nobody can say any more whether it is stored.
///
/// A batch that is refused, for whatever reason, has had its turn: those behind it go on. It may be sent again under the
/// same sequence until a later one has been stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The publisher: a random number of its own choice.
    pub publisher: u128,
    /// Which of its batches to this topic it is.
    pub sequence: u64,
    /// All batches before this one have been answered, so their receipts need not be remembered.
    pub answered: u64,
}

impl Source {
    /// How many batches of one publisher to one topic may be under way.
    pub const MAX_UNDER_WAY: u64 = 128;
}

/// What a publisher holds for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Where the message lies in its topic; for a duplicate, where the first one lies.
    pub offset: u64,
    /// Whether the same id had been stored before, so that nothing was stored now.
    pub duplicate: bool,
    /// How safe it is.
    pub durability: Durability,
}

/// The receipts of one batch. Messages that were stored lie one after another from `first`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipts {
    /// The offset of the first message that was stored; without one, where it would have been.
    pub first: u64,
    /// How many messages the batch held.
    pub count: u32,
    /// How safe they are.
    pub durability: Durability,
    /// The messages that were duplicates, as (place in the batch, offset of the first one), in order.
    pub duplicates: Vec<(u32, u64)>,
}

impl Receipts {
    /// One receipt for each message, in the batch's order.
    pub fn iter(&self) -> impl Iterator<Item = Receipt> + '_ {
        let mut duplicates = self.duplicates.iter().peekable();
        let mut next = self.first;
        (0..self.count).map(move |index| {
            let earlier = duplicates.next_if(|(place, _)| *place == index).map(|(_, offset)| *offset);
            let offset = earlier.unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            Receipt { offset, duplicate: earlier.is_some(), durability: self.durability }
        })
    }
}

/// The receipts of a batch that is on its way. It has its place in the order already: awaiting in another
/// order, or not at all, changes nothing about what is stored.
#[derive(Debug)]
pub struct Published(State);

#[derive(Debug)]
enum State {
    Refused(Option<Error>),
    Waiting(oneshot::Receiver<Result<Receipts, Error>>),
}

/// The engine's end of a [`Published`].
#[derive(Debug)]
pub struct ReceiptSender(oneshot::Sender<Result<Receipts, Error>>);

impl Published {
    /// A publish that is on its way, and the end through which its engine answers.
    #[must_use]
    pub fn pending() -> (ReceiptSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (ReceiptSender(sender), Self(State::Waiting(receiver)))
    }

    /// A publish that was refused before it began; nothing of it is stored.
    #[must_use]
    pub fn refused(error: Error) -> Self {
        Self(State::Refused(Some(error)))
    }
}

impl ReceiptSender {
    /// Answers. A publisher that went away is no error.
    pub fn send(self, answer: Result<Receipts, Error>) {
        let _ = self.0.send(answer);
    }
}

impl Future for Published {
    type Output = Result<Receipts, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Refused(error) => Poll::Ready(Err(error.take().unwrap_or_else(unanswered))),
            State::Waiting(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(unanswered())))
            }
        }
    }
}

fn unanswered() -> Error {
    Error::new(
        ErrorCode::Unavailable,
        "the broker stopped before it answered; the messages may be stored or not",
    )
    .hint("publish them again; with message ids they are stored once")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_name_each_offset_and_duplicate() {
        let receipts = Receipts {
            first: 10,
            count: 4,
            durability: Durability::Fsync,
            duplicates: vec![(0, 3), (2, 10)],
        };
        let seen: Vec<_> = receipts.iter().map(|r| (r.offset, r.duplicate)).collect();
        assert_eq!(seen, [(3, true), (10, false), (10, true), (11, false)]);
    }
}
