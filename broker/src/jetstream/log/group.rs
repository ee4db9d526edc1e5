//! What is sent to NATS in one piece: several batches that wait, as messages of its own kind; and what its answer means
//! for each of them. No I/O.
//!
//! The last message that is stored of a batch that names its [`Source`] says which batch it is, so that any server can
//! tell later what became of it: `Crossdock-Source: SEQUENCE ANSWERED COUNT FROM`, with the number of messages in the
//! batch and an offset from which on all batches lie whose receipts that source may still need; and
//! `Crossdock-Duplicates`, the messages of the batch that were stored before: `PLACE=OFFSET`, or `PLACE~DISTANCE` from
//! this message.

use std::collections::HashMap;

use async_nats::header::{HeaderName, NATS_MESSAGE_ID};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use crossdock_topics::{Batch, Durability, Expected, Message, ReceiptSender, Receipts, Record, Source};

use super::message;
use super::naming::Naming;

pub(super) const SOURCE: HeaderName = HeaderName::from_static("Crossdock-Source");
pub(super) const DUPLICATES: HeaderName = HeaderName::from_static("Crossdock-Duplicates");

/// A batch that waits for its turn.
pub(super) struct Waiting {
    pub(super) records: Bytes,
    pub(super) count: u32,
    pub(super) has_ids: bool,
    pub(super) expected: Option<Expected>,
    pub(super) source: Option<Source>,
    pub(super) answer: ReceiptSender,
}

impl Waiting {
    pub(super) fn new(
        batch: Batch,
        expected: Option<Expected>,
        source: Option<Source>,
        answer: ReceiptSender,
    ) -> Self {
        let (count, has_ids) = (u32::try_from(batch.len()).unwrap_or(u32::MAX), batch.has_ids());
        Self { records: batch.into_bytes(), count, has_ids, expected, source, answer }
    }
}

/// A message on its way to NATS.
pub(super) struct Outgoing {
    pub(super) subject: Subject,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// Where a message lies that was published before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Earlier {
    Offset(u64),
    /// In the same group, as its so-manyth message.
    Place(usize),
}

/// Several batches as one piece.
pub(super) struct Group {
    parts: Vec<Part>,
    pub(super) messages: Vec<Outgoing>,
    /// How many messages it stores.
    length: usize,
    /// The last message that this engine publishes under its own name.
    last_own: Option<usize>,
}

struct Part {
    waiting: Waiting,
    /// How many messages of the group come before it.
    at: usize,
    duplicates: Vec<(u32, Earlier)>,
}

/// Which messages are stored already, by id.
pub(super) type Known = HashMap<String, u64>;

impl Group {
    /// Makes the messages of a group. `oldest` tells for each source from where on the batches lie whose receipts it may
    /// still need.
    pub(super) fn new(
        waiting: Vec<Waiting>,
        naming: &Naming,
        known: &Known,
        oldest: impl Fn(&Source) -> u64,
    ) -> Self {
        let mut group = Self {
            parts: Vec::with_capacity(waiting.len()),
            messages: Vec::with_capacity(waiting.len()),
            length: 0,
            last_own: None,
        };
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut named: Option<(Option<u128>, Subject)> = None;
        for waiting in waiting {
            let publisher = waiting.source.map(|source| source.publisher);
            let begin = match named.take().filter(|(known, _)| *known == publisher) {
                Some((_, begin)) => begin,
                None => naming.begin(waiting.source.as_ref()),
            };
            let mut part = Part { at: group.messages.len(), duplicates: Vec::new(), waiting };
            let (mut at, mut place) = (0, 0);
            while let Some((record, next)) = Record::slice(&part.waiting.records, at) {
                at = next;
                let mut id = None;
                if naming.dedup
                    && let Some(text) = record.id()
                {
                    let earlier = known.get(text).map(|offset| Earlier::Offset(*offset));
                    let earlier = earlier.or_else(|| seen.get(text).map(|place| Earlier::Place(*place)));
                    if let Some(earlier) = earlier {
                        part.duplicates.push((place, earlier));
                        place += 1;
                        continue;
                    }
                    seen.insert(text.to_owned(), group.messages.len());
                    id = Some(message::escape(text));
                }
                let (mut headers, payload) = message::encode(&record);
                if let Some(id) = id {
                    headers.insert(NATS_MESSAGE_ID, id);
                }
                if part.waiting.source.is_none() {
                    group.last_own = Some(group.messages.len());
                }
                let subject = naming.subject(&begin, &record);
                group.messages.push(Outgoing { subject, headers, payload });
                place += 1;
            }
            group.parts.push(part);
            named = Some((publisher, begin));
        }
        group.length = group.messages.len();
        group.mark_sources(oldest);
        group
    }

    /// Says in the last message of each batch with a source which one it is.
    fn mark_sources(&mut self, oldest: impl Fn(&Source) -> u64) {
        for part in &self.parts {
            let Some(source) = &part.waiting.source else { continue };
            let Some(last) = part.last() else { continue };
            let headers = &mut self.messages[last].headers;
            let Source { sequence, answered, .. } = source;
            headers
                .insert(SOURCE, format!("{sequence} {answered} {} {}", part.waiting.count, oldest(source)));
            if !part.duplicates.is_empty() {
                let one = |(place, earlier): &(u32, Earlier)| match earlier {
                    Earlier::Offset(offset) => format!("{place}={offset}"),
                    Earlier::Place(other) => format!("{place}~{}", *other as i64 - last as i64),
                };
                let all: Vec<String> = part.duplicates.iter().map(one).collect();
                headers.insert(DUPLICATES, all.join(" "));
            }
        }
    }

    /// The first message of each publisher in it.
    pub(super) fn firsts(&self) -> impl Iterator<Item = (usize, Option<Source>)> {
        let mut seen: Vec<Option<u128>> = Vec::new();
        self.parts.iter().filter(|part| part.stored() > 0).filter_map(move |part| {
            let publisher = part.waiting.source.map(|source| source.publisher);
            let is_new = !seen.contains(&publisher);
            seen.push(publisher);
            is_new.then_some((part.at, part.waiting.source))
        })
    }

    /// How many messages it stores.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Those who publish in it.
    pub(super) fn publishers(&self) -> impl Iterator<Item = Option<u128>> {
        self.waiting().map(|waiting| waiting.source.map(|source| source.publisher))
    }

    /// The batches in it, again.
    pub(super) fn into_waiting(self) -> impl DoubleEndedIterator<Item = Waiting> {
        self.parts.into_iter().map(|part| part.waiting)
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.parts.iter().map(|part| &part.waiting)
    }

    /// How many messages this engine publishes under its own name.
    pub(super) fn own(&self) -> usize {
        self.parts.iter().filter(|part| part.waiting.source.is_none()).map(Part::stored).sum()
    }

    /// Where the first message of the group lies, if the last one of this engine's own lies at `offset`.
    pub(super) fn first_by_own(&self, offset: u64) -> Option<u64> {
        offset.checked_sub(self.last_own? as u64)
    }

    /// Whether these are all messages of the group that this engine publishes under its own name.
    pub(super) fn is_own(&self, stored: &[Message]) -> bool {
        let mut stored = stored.iter();
        for part in self.parts.iter().filter(|part| part.waiting.source.is_none()) {
            let (mut at, mut place) = (0, 0);
            while let Some((record, next)) = Record::slice(&part.waiting.records, at) {
                at = next;
                let is_stored = part.duplicates.iter().all(|(duplicate, _)| *duplicate != place);
                if is_stored && stored.next() != Some(&record.to_message()) {
                    return false;
                }
                place += 1;
            }
        }
        stored.next().is_none()
    }

    /// What this engine has published last under its own name, if the first message lies at `first`.
    pub(super) fn last_own(&self, first: u64) -> Option<u64> {
        Some(first + self.last_own? as u64)
    }

    /// The messages in it that have an id, each id once.
    pub(super) fn with_ids(&self) -> Vec<(String, Record)> {
        let mut found: Vec<(String, Record)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for waiting in self.waiting().filter(|waiting| waiting.has_ids) {
            let mut at = 0;
            while let Some((record, next)) = Record::slice(&waiting.records, at) {
                at = next;
                if let Some(id) = record.id().map(str::to_owned)
                    && seen.insert(id.clone())
                {
                    found.push((id, record));
                }
            }
        }
        found
    }

    /// Answers all, the first message being stored at `first` (or, where there is none, the log ending there); gives
    /// for each source what it was told, and where its last message lies.
    pub(super) fn answer(self, first: u64, durability: Durability) -> Vec<(Source, Receipts, Option<u64>)> {
        let mut sources = Vec::new();
        for part in self.parts {
            let offset = |earlier: Earlier| match earlier {
                Earlier::Offset(offset) => offset,
                Earlier::Place(place) => first + place as u64,
            };
            let last = part.last().map(|place| first + place as u64);
            let receipts = Receipts {
                first: first + part.at as u64,
                count: part.waiting.count,
                durability,
                duplicates: part
                    .duplicates
                    .iter()
                    .map(|(place, earlier)| (*place, offset(*earlier)))
                    .collect(),
            };
            if let Some(source) = part.waiting.source {
                sources.push((source, receipts.clone(), last));
            }
            part.waiting.answer.send(Ok(receipts));
        }
        sources
    }
}

impl Part {
    /// How many messages of it are stored with the group.
    fn stored(&self) -> usize {
        self.waiting.count as usize - self.duplicates.len()
    }

    /// The last message of it that is stored with the group.
    fn last(&self) -> Option<usize> {
        (self.at + self.stored()).checked_sub(1).filter(|_| self.stored() > 0)
    }
}

/// What the last message of a source's batch says of it, lying at `offset`: which batch it was, from where on those lie
/// that the source may still need, and its receipts.
pub(super) fn read_source(
    headers: &HeaderMap,
    publisher: u128,
    offset: u64,
    durability: Durability,
) -> Option<(Source, u64, Receipts)> {
    let mut numbers = headers.get(SOURCE)?.as_str().split(' ').map(str::parse::<u64>);
    let mut number = || numbers.next()?.ok();
    let (sequence, answered, count, from) = (number()?, number()?, number()?, number()?);
    let mut duplicates = Vec::new();
    for one in headers.get(DUPLICATES).map(|value| value.as_str().split(' ')).into_iter().flatten() {
        let (place, earlier) = match one.split_once('=') {
            Some((place, earlier)) => (place, earlier.parse().ok()?),
            None => {
                let (place, distance) = one.split_once('~')?;
                (place, offset.checked_add_signed(distance.parse().ok()?)?)
            }
        };
        duplicates.push((place.parse().ok()?, earlier));
    }
    let stored = count.checked_sub(duplicates.len() as u64)?;
    let first = (offset + 1).checked_sub(stored)?;
    let receipts = Receipts { first, count: u32::try_from(count).ok()?, durability, duplicates };
    Some((Source { publisher, sequence, answered }, from, receipts))
}

#[cfg(test)]
mod tests {
    use crossdock_topics::Published;

    use super::*;

    fn naming() -> Naming {
        Naming { base: "p.t.1".into(), engine: "me".into(), run: 4, keyed: false, dedup: true }
    }

    fn waiting(messages: &[Message], source: Option<Source>) -> (Waiting, Published) {
        let mut batch = Batch::default();
        messages.iter().for_each(|message| batch.push(message).unwrap());
        let (answer, published) = Published::pending();
        (Waiting::new(batch, None, source, answer), published)
    }

    fn id(id: &str) -> Message {
        Message::new("x").with_id(id)
    }

    #[tokio::test]
    async fn duplicates_are_left_out_and_named() {
        let known = Known::from([("old".to_owned(), 3)]);
        let (first, told) = waiting(&[id("new"), id("old"), Message::new("y"), id("new")], None);
        let (second, also) = waiting(&[id("new"), Message::new("z")], None);
        let group = Group::new(vec![first, second], &naming(), &known, |_| 0);
        assert_eq!(group.messages.len(), 3);
        assert_eq!((group.last_own(10), group.first_by_own(12)), (Some(12), Some(10)));
        assert_eq!(group.with_ids().iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["new", "old"]);
        group.answer(10, Durability::Fsync);
        let told: Vec<_> = told.await.unwrap().iter().map(|r| (r.offset, r.duplicate)).collect();
        assert_eq!(told, [(10, false), (3, true), (11, false), (10, true)]);
        let also: Vec<_> = also.await.unwrap().iter().map(|r| (r.offset, r.duplicate)).collect();
        assert_eq!(also, [(10, true), (12, false)]);
    }

    #[tokio::test]
    async fn what_a_source_was_told_can_be_read_back() {
        let source = Source { publisher: 7, sequence: 5, answered: 4 };
        let known = Known::from([("old".to_owned(), 3)]);
        let (other, _other) = waiting(&[id("between")], None);
        let (of_source, told) =
            waiting(&[id("old"), id("a"), id("a"), id("between"), Message::new("y")], Some(source));
        let group = Group::new(vec![other, of_source], &naming(), &known, |_| 2);
        let headers = group.messages[2].headers.clone();
        assert_eq!(group.messages[1].subject.as_str(), "p.t.1.00000000000000000000000000000007.me.4");
        group.answer(20, Durability::Fsync);
        let (read, from, receipts) = read_source(&headers, 7, 22, Durability::Fsync).unwrap();
        assert_eq!((read, from, receipts), (source, 2, told.await.unwrap()));
    }

    #[tokio::test]
    async fn what_is_stored_is_a_group_s_own_if_all_of_it_is() {
        let known = Known::from([("old".to_owned(), 3)]);
        let (first, _first) = waiting(&[Message::new("a"), id("old")], None);
        let (of_source, _of_source) =
            waiting(&[Message::new("s")], Some(Source { publisher: 7, sequence: 0, answered: 0 }));
        let (last, _last) = waiting(&[Message::new("b")], None);
        let group = Group::new(vec![first, of_source, last], &naming(), &known, |_| 0);
        let texts = |texts: &[&str]| -> Vec<Message> {
            texts.iter().map(|text| Message::new((*text).to_owned())).collect()
        };
        assert!(group.is_own(&texts(&["a", "b"])));
        for other in [&["a"][..], &["b"], &["b", "a"], &["a", "c"], &["a", "b", "b"], &["c", "b"], &[]] {
            assert!(!group.is_own(&texts(other)), "{other:?}");
        }
    }
}
