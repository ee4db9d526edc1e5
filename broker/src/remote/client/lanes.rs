//! Batches on their way to a server: what was published and has no receipt yet, topic by topic.
//!
//! Each topic is a lane: batches leave in the order in which they were published, those that wait together leave
//! together in one frame, and they stay here until their receipts come, so that they can be sent again over another
//! connection. So that they are stored once, each frame names its [`Source`]. A pure state machine: the time comes
//! from outside.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{
    Batch, Durability, Error, ErrorCode, Expected, PublishOptions, ReceiptSender, Receipts, Result, Source,
    TopicName,
};
use crossdock_wire::session::{self, ToServer};
use tokio::time::Instant;

use crate::remote::pieces::Pieces;

/// A frame that holds this many bytes, or more messages than that, gets no further batch.
const FULL_BYTES: usize = 256 * 1024;
const FULL_MESSAGES: usize = 8192;
/// How many frames of a lane may be without their receipts.
const WINDOW: usize = Source::MAX_UNDER_WAY as usize;
/// A lane that has been idle for this long begins anew, under another publisher's number: servers forget those who
/// are silent for long.
const IDLE: Duration = Duration::from_secs(30);

/// Someone who is to be told, and what.
pub(super) type Told = (ReceiptSender, Result<Receipts>);

/// All batches without receipts.
pub(super) struct Lanes {
    lanes: HashMap<TopicName, Lane>,
    /// The lanes that have something to send and may.
    ready: VecDeque<TopicName>,
    /// Which lane a frame is of.
    sent: HashMap<u64, TopicName>,
    /// The bytes of all batches.
    bytes: usize,
    /// Random numbers for publishers.
    publisher: fn() -> u128,
}

#[derive(Default)]
struct Lane {
    /// Frames that have not been sent over this connection, in order. Only the last one takes more batches.
    open: VecDeque<Parcel>,
    /// Frames without receipts, in order.
    sent: VecDeque<Parcel>,
    publisher: u128,
    /// The sequence of its next batch.
    next: u64,
    /// The largest payload that the topic has taken: up to this size batches are put together, for none of them is
    /// too large and has the others refused with it.
    taken: usize,
    /// Whether it stands in `ready`.
    is_ready: bool,
    /// The server has forgotten the publisher: frames that it refused for that are sent again when all have come back.
    forgotten: bool,
    idle_since: Option<Instant>,
}

/// One frame.
struct Parcel {
    id: u64,
    durability: Option<Durability>,
    expected: Option<Expected>,
    /// The caller's own, or the lane's once it has been sent.
    source: Option<Source>,
    /// Whether the source is the caller's.
    foreign: bool,
    content: Content,
    largest: usize,
    waiters: Vec<(ReceiptSender, u32)>,
    since: Instant,
    /// How often it has been sent.
    times: u32,
}

enum Content {
    Open(Batch),
    Closed(Bytes),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Self::Open(batch) => batch.as_bytes().len(),
            Self::Closed(bytes) => bytes.len(),
        }
    }

    fn close(&mut self) -> Bytes {
        if let Self::Open(batch) = self {
            *self = Self::Closed(std::mem::take(batch).into_bytes());
        }
        match self {
            Self::Closed(bytes) => bytes.clone(),
            Self::Open(_) => Bytes::new(), // it was closed
        }
    }
}

impl Parcel {
    /// Adds a batch, if this frame may have more.
    fn take(&mut self, batch: &Batch, options: &PublishOptions, taken: usize) -> bool {
        let Content::Open(mine) = &mut self.content else { return false };
        let alike = self.durability == options.durability
            && self.expected.is_none()
            && !self.foreign
            && options.expected.is_none()
            && options.source.is_none();
        let largest = self.largest.max(batch.largest_payload());
        let fits = !mine.is_empty()
            && !batch.is_empty()
            && largest <= taken
            && mine.as_bytes().len() + batch.as_bytes().len() <= FULL_BYTES
            && mine.len() + batch.len() <= FULL_MESSAGES;
        if !(alike && fits && mine.append(batch)) {
            return false;
        }
        self.largest = largest;
        true
    }
}

impl Lanes {
    pub(super) fn new(publisher: fn() -> u128) -> Self {
        Self { lanes: HashMap::new(), ready: VecDeque::new(), sent: HashMap::new(), bytes: 0, publisher }
    }

    /// The bytes of all batches without receipts.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.open.is_empty() && lane.sent.is_empty())
    }

    /// Whether frames are without receipts.
    pub(super) fn is_waiting(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Takes a batch; gives whether there is something new to send.
    pub(super) fn publish(
        &mut self,
        topic: &TopicName,
        batch: Batch,
        options: PublishOptions,
        waiter: ReceiptSender,
        now: Instant,
    ) -> bool {
        if !self.lanes.contains_key(topic) {
            self.lanes.insert(topic.clone(), Lane::default());
        }
        let Some(lane) = self.lanes.get_mut(topic) else { return false };
        self.bytes += batch.as_bytes().len();
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        if let Some(last) = lane.open.back_mut()
            && last.times == 0
            && last.take(&batch, &options, lane.taken)
        {
            last.waiters.push((waiter, count));
            return false;
        }
        let PublishOptions { durability, expected, source } = options;
        lane.open.push_back(Parcel {
            id: 0,
            durability,
            expected,
            source,
            foreign: source.is_some(),
            largest: batch.largest_payload(),
            content: Content::Open(batch),
            waiters: vec![(waiter, count)],
            since: now,
            times: 0,
        });
        Self::offer(&mut self.ready, topic, lane)
    }

    /// Puts a lane among those that are ready, if it may send.
    fn offer(ready: &mut VecDeque<TopicName>, topic: &TopicName, lane: &mut Lane) -> bool {
        let may = !lane.is_ready && !lane.open.is_empty() && lane.sent.len() < WINDOW && !lane.forgotten;
        if may {
            lane.is_ready = true;
            ready.push_back(topic.clone());
        }
        may
    }

    /// Puts frames into the output until it holds `limit` bytes; gives whether any was. `ids` numbers them.
    pub(super) fn fill(&mut self, output: &mut Pieces, limit: usize, now: Instant, ids: &mut u64) -> bool {
        let mut some = false;
        while output.len() < limit
            && let Some(topic) = self.ready.pop_front()
        {
            let Some(lane) = self.lanes.get_mut(&topic) else { continue };
            lane.is_ready = false;
            if lane.forgotten {
                continue; // offered again when all have come back
            }
            let Some(mut parcel) = lane.open.pop_front() else { continue };
            *ids += 1;
            parcel.id = *ids;
            parcel.times += 1;
            if parcel.source.is_none() {
                lane.begin(now, self.publisher);
                parcel.source = Some(Source { publisher: lane.publisher, sequence: lane.next, answered: 0 });
                lane.next += 1;
            }
            lane.idle_since = None;
            if !parcel.foreign
                && let Some(source) = &mut parcel.source
            {
                let mine = lane.sent.iter().filter_map(|sent| sent.source.filter(|_| !sent.foreign));
                source.answered = mine
                    .filter(|s| s.publisher == source.publisher)
                    .map(|s| s.sequence)
                    .next()
                    .unwrap_or(source.sequence);
            }
            let header = ToServer::Publish {
                id: parcel.id,
                topic: topic.as_str().to_owned(),
                durability: parcel.durability.map(session::durability_number),
                expected: parcel.expected.clone().map(Into::into),
                source: parcel.source.map(Into::into),
            };
            // It fits: a batch is smaller than the largest payload.
            let _ = output.add_frame(&header, parcel.content.close().into());
            self.sent.insert(parcel.id, topic.clone());
            lane.sent.push_back(parcel);
            Self::offer(&mut self.ready, &topic, lane);
            some = true;
        }
        some
    }

    /// Whether this is the id of a frame without receipts.
    pub(super) fn knows(&self, id: u64) -> bool {
        self.sent.contains_key(&id)
    }

    /// Takes an answer; adds who is to be told what.
    pub(super) fn answer(&mut self, id: u64, answer: Result<Receipts>, now: Instant, told: &mut Vec<Told>) {
        let Some(topic) = self.sent.remove(&id) else { return };
        let Some(lane) = self.lanes.get_mut(&topic) else { return };
        let Some(place) = lane.sent.iter().position(|parcel| parcel.id == id) else { return };
        let Some(mut parcel) = lane.sent.remove(place) else { return };
        match answer {
            Err(error)
                if error.code == ErrorCode::Conflict && parcel.expected.is_none() && !parcel.foreign =>
            {
                // The publisher is not known any more. Under another number it begins anew; but what has been sent over
                // an earlier connection may be stored.
                lane.forget();
                if parcel.times > 1 {
                    self.bytes -= parcel.content.len();
                    told.extend(parcel.waiters.into_iter().map(|(waiter, _)| (waiter, Err(unsure()))));
                } else {
                    parcel.source = None;
                    parcel.times = 0;
                    let behind = lane.open.iter().take_while(|parcel| parcel.id != 0).count();
                    lane.open.insert(behind, parcel);
                }
            }
            Err(error) if error.code == ErrorCode::TooLarge && parcel.waiters.len() > 1 => {
                // One of them is too large for the topic: each is sent alone, so that the others are not refused for it.
                lane.taken = 0;
                let since = parcel.since;
                let durability = parcel.durability;
                let apart = split(parcel.content.close(), parcel.waiters);
                for (batch, waiter, count) in apart.into_iter().rev() {
                    lane.open.push_front(Parcel {
                        id: 0,
                        durability,
                        expected: None,
                        source: None,
                        foreign: false,
                        largest: usize::MAX,
                        content: Content::Closed(batch),
                        waiters: vec![(waiter, count)],
                        since,
                        times: 0,
                    });
                }
            }
            answer => {
                self.bytes -= parcel.content.len();
                if answer.is_ok() && parcel.largest != usize::MAX {
                    lane.taken = lane.taken.max(parcel.largest);
                }
                tell(parcel.waiters, answer, told);
            }
        }
        if lane.sent.is_empty() {
            lane.forgotten = false;
            lane.idle_since = Some(now);
        }
        Self::offer(&mut self.ready, &topic, lane);
    }

    /// The connection is gone: everything without receipts will be sent again, in the same order.
    pub(super) fn lose(&mut self) {
        self.sent.clear();
        self.ready.clear();
        for (topic, lane) in &mut self.lanes {
            while let Some(parcel) = lane.sent.pop_back() {
                lane.open.push_front(parcel);
            }
            (lane.is_ready, lane.forgotten) = (false, false);
            Self::offer(&mut self.ready, topic, lane);
        }
    }

    /// Gives up what has waited since before `since`.
    pub(super) fn give_up(&mut self, since: Option<Instant>, error: &Error, told: &mut Vec<Told>) {
        for lane in self.lanes.values_mut() {
            while lane.open.front().is_some_and(|parcel| since.is_none_or(|since| parcel.since <= since))
                && let Some(parcel) = lane.open.pop_front()
            {
                self.bytes -= parcel.content.len();
                // What has been sent may be stored under its number, which is not used again.
                lane.idle_since = Some(parcel.since);
                if parcel.times > 0 {
                    lane.publisher = 0;
                }
                let error = if parcel.times > 0 { unsure() } else { error.clone() };
                told.extend(parcel.waiters.into_iter().map(|(waiter, _)| (waiter, Err(error.clone()))));
            }
        }
        // Topics that are not written to any more take no room.
        self.lanes.retain(|_, lane| !lane.open.is_empty() || !lane.sent.is_empty() || lane.taken > 0);
    }
}

impl Lane {
    /// Makes sure that there is a publisher that the server knows, or can take for a new one.
    fn begin(&mut self, now: Instant, publisher: fn() -> u128) {
        let idle = self.sent.is_empty() && self.idle_since.is_some_and(|since| now - since > IDLE);
        if self.publisher == 0 || idle {
            self.publisher = publisher();
            self.next = 0;
        }
    }

    /// Another publisher from now on, once everything under way has come back.
    fn forget(&mut self) {
        self.publisher = 0;
        self.forgotten = true;
    }
}

/// What is said when nobody knows.
pub(super) fn unsure() -> Error {
    Error::new(
        ErrorCode::Unavailable,
        "the connection was lost before the server answered; the messages may be stored or not",
    )
    .hint("publish them again; with message ids they are stored once")
}

/// A frame's batches apart again.
fn split(mut bytes: Bytes, waiters: Vec<(ReceiptSender, u32)>) -> Vec<(Bytes, ReceiptSender, u32)> {
    waiters
        .into_iter()
        .map(|(waiter, count)| {
            let length = crossdock_topics::record::packed(&bytes)
                .take(count as usize)
                .map(|record| record.as_bytes().len())
                .sum();
            (bytes.split_to(length), waiter, count)
        })
        .collect()
}

/// Gives each batch of a frame its share of the receipts.
fn tell(mut waiters: Vec<(ReceiptSender, u32)>, answer: Result<Receipts>, told: &mut Vec<Told>) {
    if waiters.len() == 1
        && let Some((waiter, _)) = waiters.pop()
    {
        return told.push((waiter, answer));
    }
    let receipts = match answer {
        Ok(receipts) => receipts,
        Err(error) => {
            return told.extend(waiters.into_iter().map(|(waiter, _)| (waiter, Err(error.clone()))));
        }
    };
    let mut first = receipts.first;
    let mut duplicates = receipts.duplicates.iter().peekable();
    let mut at = 0;
    for (waiter, count) in waiters {
        let mut mine = Vec::new();
        while let Some((place, offset)) = duplicates.next_if(|(place, _)| *place < at + count) {
            mine.push((place - at, *offset));
        }
        let stored = u64::from(count) - mine.len() as u64;
        let share = Receipts { first, count, durability: receipts.durability, duplicates: mine };
        told.push((waiter, Ok(share)));
        first += stored;
        at += count;
    }
}

#[cfg(test)]
mod tests;
