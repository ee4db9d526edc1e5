//! Topics that are moved from or to a NATS cluster, while no engine works on it.
//!
//! A message that arrives keeps its offset, which is its place in the stream: the stream begins with the number of the
//! first one, and where offsets are missing, messages take their places (subject `BASE.hole`) and are removed again. It
//! keeps its time in a header, for NATS gives it another one. Each group expects where the stream ends, so that none is
//! stored twice whatever was interrupted.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID};
use bytes::Bytes;
use crossdock_topics::{Backoff, Durability, Error, Record, Result, Stored, Timestamp, Topic};
use tokio::time::Instant;

use super::super::connection::Connection;
use super::group::{DUPLICATES, Outgoing, SOURCE, read_source};
use super::message::{self, TIME, decode, encode, larger_than};
use super::naming::Naming;
use super::sending::{Answer, Piece, send};
use super::stored::{From, Kept};
use super::streams::{Streams, unavailable};
use crate::moving::house::{Item, PAGE_BYTES, Sent};

/// So many messages, or about so many bytes, go to NATS in one piece.
const GROUP: usize = 1000;
const GROUP_BYTES: usize = 4 << 20;
/// How long a group that cannot be stored is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Backoff = Backoff { first: Duration::from_millis(20), factor: 2.0, max: Duration::from_secs(2) };
/// After so many, the messages that stand for missing ones are removed.
const MOST_HOLES: u64 = 100_000;
/// Who sends what is moved.
const MOVED: &str = "moved";
const HOLE: &str = "hole";

/// The topics of a cluster that is moved from or to.
pub(in crate::jetstream) struct Moving {
    streams: Streams,
    /// Names what is sent in one piece.
    name: String,
    groups: u64,
    /// Where the streams end that something is appended to.
    ends: HashMap<u32, u64>,
    /// How many messages stand for missing ones.
    holes: HashMap<u32, u64>,
    /// The ids that are still looked for, by stream.
    ids: HashMap<u32, HashSet<String>>,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug)]
pub(in crate::jetstream) struct Extent {
    pub(in crate::jetstream) head: u64,
    pub(in crate::jetstream) tail: u64,
    pub(in crate::jetstream) messages: u64,
    pub(in crate::jetstream) replicas: usize,
}

impl Moving {
    pub(in crate::jetstream) fn new(connection: &Connection) -> Self {
        Self {
            streams: Streams { connection: connection.clone() },
            name: format!("m{:016x}", rand::random::<u64>()),
            groups: 0,
            ends: HashMap::new(),
            holes: HashMap::new(),
            ids: HashMap::new(),
        }
    }

    /// The streams of topics that there are.
    pub(in crate::jetstream) async fn count(&self) -> Result<usize> {
        let all = self.streams.all().await?;
        Ok(all.found.len() + all.leaderless.len())
    }

    /// How far a topic's stream has come, if it is there.
    pub(in crate::jetstream) async fn extent(&self, number: u32) -> Result<Option<Extent>> {
        let info = self.streams.info(number).await?;
        Ok(info.map(|info| Extent {
            head: info.state.head(),
            tail: info.state.tail(),
            messages: info.state.messages,
            replicas: info.config.num_replicas,
        }))
    }

    /// Makes the stream of a topic, whose first offset will be `head`. Nothing is dropped from it for now.
    pub(in crate::jetstream) async fn create(&self, number: u32, topic: &Topic, head: u64) -> Result<()> {
        let mut kept = topic.clone();
        kept.retention.drop_unread = false;
        self.streams.make(number, &kept, head).await
    }

    /// Gives the stream of a topic the limits that its definition says.
    pub(in crate::jetstream) async fn limit(&self, number: u32, topic: &Topic) -> Result<()> {
        self.streams.put(number, topic).await
    }

    /// Why NATS cannot take a message, if it cannot.
    pub(in crate::jetstream) fn refuses(&self, record: &Record) -> Option<String> {
        let most = self.streams.connection.client.max_payload();
        larger_than(most, record).map(|size| {
            format!("it takes {size} bytes with its headers, and NATS takes {most}: raise max_payload of nats-server (at most 64MB)")
        })
    }

    /// A page of messages from an offset on; empty when there is none before `tail`.
    pub(in crate::jetstream) async fn read(
        &self,
        number: u32,
        from: u64,
        tail: u64,
        durability: Durability,
    ) -> Result<Vec<Item>> {
        if from >= tail {
            return Ok(Vec::new());
        }
        let found = self.streams.read(number, From::Offset(from), GROUP, PAGE_BYTES).await?;
        let base = self.streams.base(number);
        found.into_iter().map(|kept| item(kept, &base, durability)).collect()
    }

    /// When the newest message of a topic was stored, if it has one.
    pub(in crate::jetstream) async fn last(&self, number: u32) -> Result<Option<Timestamp>> {
        let last = self.streams.last_on(number, ">").await?;
        Ok(last.and_then(|(_, headers)| message::time_of(Some(&headers))))
    }

    /// Appends messages, all that belong before `end`; gives whether something stands for missing ones, until
    /// [`Moving::remove_holes`]. Ids that were stored after `ids_since` are looked for by NATS from
    /// now on, none without it.
    pub(in crate::jetstream) async fn append(
        &mut self,
        number: u32,
        keyed: bool,
        items: Vec<Item>,
        end: u64,
        ids_since: Option<Timestamp>,
    ) -> Result<bool> {
        let mut at = match self.ends.get(&number) {
            Some(end) => *end,
            None => self.tail(number).await?,
        };
        let naming = Naming {
            base: self.streams.base(number),
            engine: MOVED.to_owned(),
            run: 0,
            keyed,
            dedup: ids_since.is_some(),
        };
        let mut group = Vec::new();
        let mut bytes = 0;
        for item in items {
            if item.stored.offset < at + group.len() as u64 {
                continue;
            }
            while at + (group.len() as u64) < item.stored.offset {
                group.push(hole(&naming));
                *self.holes.entry(number).or_default() += 1;
                self.send_full(number, &mut group, &mut bytes, &mut at).await?;
            }
            bytes += item.stored.record.size();
            group.push(self.outgoing(number, &naming, item, ids_since));
            self.send_full(number, &mut group, &mut bytes, &mut at).await?;
        }
        while at + (group.len() as u64) < end {
            group.push(hole(&naming));
            *self.holes.entry(number).or_default() += 1;
            self.send_full(number, &mut group, &mut bytes, &mut at).await?;
        }
        if !group.is_empty() {
            self.send(number, &mut group, &mut at).await?;
        }
        self.ends.insert(number, at);
        Ok(self.holes.contains_key(&number))
    }

    async fn tail(&self, number: u32) -> Result<u64> {
        let info = self.streams.info(number).await?;
        Ok(info.ok_or_else(|| unavailable("a stream that was made is not there"))?.state.tail())
    }

    fn outgoing(
        &mut self,
        number: u32,
        naming: &Naming,
        item: Item,
        ids_since: Option<Timestamp>,
    ) -> Outgoing {
        let Item { stored: Stored { time, record, .. }, batch } = item;
        let (mut headers, payload) = encode(&record);
        headers.insert(TIME, time.0.to_string());
        if ids_since.is_some_and(|since| time > since)
            && let Some(id) = record.id()
            && self.ids.entry(number).or_default().insert(id.to_owned())
        {
            headers.insert(NATS_MESSAGE_ID, message::escape(id));
        }
        let begin = naming.begin(batch.as_ref().map(|sent| &sent.source));
        if let Some(Sent { source, receipts, from }) = batch {
            let text = format!("{} {} {} {from}", source.sequence, source.answered, receipts.count);
            headers.insert(SOURCE, text);
            if !receipts.duplicates.is_empty() {
                let all: Vec<String> =
                    receipts.duplicates.iter().map(|(place, offset)| format!("{place}={offset}")).collect();
                headers.insert(DUPLICATES, all.join(" "));
            }
        }
        Outgoing { subject: naming.subject(&begin, &record), headers, payload }
    }

    async fn send_full(
        &mut self,
        number: u32,
        group: &mut Vec<Outgoing>,
        bytes: &mut usize,
        at: &mut u64,
    ) -> Result<()> {
        if group.len() < GROUP && *bytes < GROUP_BYTES {
            return Ok(());
        }
        *bytes = 0;
        self.send(number, group, at).await?;
        if self.holes.get(&number).is_some_and(|holes| *holes >= MOST_HOLES) {
            self.remove_holes(number).await?;
        }
        Ok(())
    }

    /// Sends a group, until it is known to be stored where it belongs.
    async fn send(&mut self, number: u32, group: &mut Vec<Outgoing>, at: &mut u64) -> Result<()> {
        let messages = std::mem::take(group);
        let (end, deadline) = (*at + messages.len() as u64, Instant::now() + PATIENCE);
        let (mut failures, mut ids) = (0, true);
        loop {
            let mut copy: Vec<Outgoing> = messages.iter().map(|message| again(message, ids)).collect();
            if let Some(first) = copy.first_mut() {
                first.headers.insert(NATS_EXPECTED_LAST_SEQUENCE, at.to_string());
            }
            self.groups += 1;
            let name = format!("{}-{}", self.name, self.groups);
            let why = match send(&self.streams.connection, Piece::Batch(&name), copy).await.answer().await {
                Answer::Stored(sequence) if sequence == end => {
                    *at = end;
                    return Ok(());
                }
                Answer::Stored(_) => return Err(somebody_else()),
                Answer::Refused(error) => return Err(error),
                // Two messages of the source have the same id, as when its window was made longer.
                Answer::Duplicate(_) | Answer::Duplicates if ids => {
                    ids = false;
                    continue;
                }
                Answer::Duplicate(_) | Answer::Duplicates => return Err(somebody_else()),
                Answer::WrongLast(_) => match self.tail(number).await {
                    Ok(tail) if tail == end => {
                        *at = end;
                        return Ok(());
                    }
                    Ok(tail) if tail != *at => return Err(somebody_else()),
                    Ok(_) => "NATS believes that the stream ends elsewhere".to_owned(),
                    Err(error) => error.message.into_owned(),
                },
                Answer::Busy(why) | Answer::Unknown(why) => why,
                Answer::Gone => "the stream is not there".to_owned(),
            };
            failures += 1;
            if Instant::now() >= deadline {
                return Err(unavailable(&format!("messages cannot be stored in NATS: {why}")));
            }
            tokio::time::sleep(AGAIN.wait(failures, u64::from(failures))).await;
        }
    }

    /// Removes what stands for messages that are missing.
    pub(in crate::jetstream) async fn remove_holes(&mut self, number: u32) -> Result<()> {
        let base = self.streams.base(number);
        for subjects in [format!("{base}.{HOLE}"), format!("{base}.{HOLE}.*")] {
            let tail = self.tail(number).await?;
            self.streams.purge(number, tail, Some(subjects)).await?;
        }
        self.holes.remove(&number);
        Ok(())
    }
}

fn somebody_else() -> Error {
    Error::new(crossdock_topics::ErrorCode::Conflict, "somebody else writes to the streams that are moved to")
        .hint("see that no other server or move works on this NATS and prefix")
}

fn hole(naming: &Naming) -> Outgoing {
    let subject = match naming.keyed {
        true => format!("{}.{HOLE}._", naming.base),
        false => format!("{}.{HOLE}", naming.base),
    };
    Outgoing { subject: subject.into(), headers: HeaderMap::new(), payload: Bytes::new() }
}

fn again(message: &Outgoing, ids: bool) -> Outgoing {
    let Outgoing { subject, headers, payload } = message;
    let mut headers = headers.clone();
    if !ids {
        headers = headers.iter().filter(|(name, _)| **name != NATS_MESSAGE_ID).fold(
            HeaderMap::new(),
            |mut kept, (name, values)| {
                values.iter().for_each(|value| kept.append(name.clone(), value.clone()));
                kept
            },
        );
    }
    Outgoing { subject: subject.clone(), headers, payload: payload.clone() }
}

/// A message of a stream, with what it says of its publisher's batch.
fn item(kept: Kept, base: &str, durability: Durability) -> Result<Item> {
    let Kept { offset, time, headers, payload } = kept;
    let publisher = headers.get("Nats-Subject").and_then(|subject| {
        let rest = subject.as_str().strip_prefix(base)?.strip_prefix('.')?;
        let name = rest.split('.').next()?;
        u128::from_str_radix(name, 16).ok().filter(|_| name.len() == 32)
    });
    let batch = publisher.and_then(|publisher| {
        let (source, from, receipts) = read_source(&headers, publisher, offset, durability)?;
        Some(Sent { source, receipts, from })
    });
    let record = Record::of(&decode(Some(&headers), payload))?;
    Ok(Item { stored: Stored { offset, time, record }, batch })
}
