//! Who publishes what waits for a topic: one at a time, in the order of the calls.
//!
//! Where several servers have each message, all that waits goes to NATS as one atomic batch, and the next one when that
//! is answered. A stream of one server takes batches slowly and single messages fast: there single messages follow each
//! other without waiting, each expecting the number of the one before it, so that where one is lost all behind it are
//! refused. Either way nothing is stored out of order, whatever breaks.
//!
//! The first message of a group expects what its publisher has stored last (the publisher is a part of the subject).
//! A group that was not answered is sent again as it is: it is stored once, and if it has been stored already, NATS
//! refuses it and names what is there. No window of time is involved.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{
    HeaderName, NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID,
};
use crossdock_topics::{Backoff, Durability, Error, ErrorCode, Expected, Record, Source};
use futures::StreamExt;
use tokio::time::Instant;

use super::Logs;
use super::compaction::OldKeys;
use super::group::{Group, Known, Naming, Outgoing, Waiting, read_source};
use super::message::{encode, escape};
use super::sending::{Answer, Sent, is_known, send};
use super::streams::{From, unavailable};
use super::topic::{Queued, TopicLog};
use crate::embedded::sources::{Sources, Turn};

/// The most messages that NATS takes in one piece, unless its configuration says otherwise.
pub(super) const MOST_MESSAGES: usize = 1000;
/// A group is closed at so many bytes.
const GROUP_BYTES: usize = 4 << 20;
/// So many single messages follow each other without an answer.
const UNDER_WAY: usize = 1024;
/// From so many waiting on, a stream of one server that syncs each message is better off with a batch.
const WORTH_A_BATCH: usize = 24;
/// So many groups are sent with care after somebody else has published in between.
const CAREFUL: u32 = 200;
/// So many other publishers of a topic are remembered; what one has sent can be read back from the log.
const MOST_SOURCES: usize = 1024;
/// So many ids are looked for at once; NATS takes 50 batches of a stream at a time.
const LOOKED_UP_AT_ONCE: usize = 16;
/// The subjects that an expectation is about, if not the message's own.
const NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: HeaderName =
    HeaderName::from_static("Nats-Expected-Last-Subject-Sequence-Subject");
/// How long to wait before sending again what NATS could not take.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(5), factor: 2.0, max: Duration::from_millis(500) };

/// What the one who publishes to a topic knows.
pub(super) struct Sending {
    /// This engine, as a publisher of this topic.
    own: String,
    /// How many messages the stream has had when this publisher stored its last one; 0 when it has none.
    own_last: u64,
    sources: Sources,
    source_last: HashMap<u128, u64>,
    /// Numbers the groups.
    groups: u64,
    careful: u32,
    old_keys: OldKeys,
    /// Whether the log ends where this engine believes, unless somebody else publishes.
    tail_is_known: bool,
}

impl Sending {
    fn new(own: String) -> Self {
        Self {
            own,
            own_last: 0,
            sources: Sources::default(),
            source_last: HashMap::new(),
            groups: 0,
            careful: 0,
            old_keys: OldKeys::default(),
            tail_is_known: false,
        }
    }

    fn last_of(&self, source: Option<&Source>) -> u64 {
        match source {
            None => self.own_last,
            Some(source) => self.source_last.get(&source.publisher).copied().unwrap_or(0),
        }
    }
}

/// Publishes what waits for a topic until nothing does.
pub(super) async fn run(logs: Arc<Logs>, log: Arc<TopicLog>) {
    let sending = log.sending.lock().take();
    let state = sending.unwrap_or_else(|| Box::new(Sending::new(logs.new_publisher())));
    let mut publisher = Publisher { logs, log, state, under_way: VecDeque::new() };
    loop {
        publisher.fill().await;
        if publisher.under_way.is_empty() {
            let log = publisher.log.clone();
            let mut queue = log.queue.lock();
            if queue.waiting.is_empty() {
                queue.running = false;
                *log.sending.lock() = Some(publisher.state);
                return;
            }
            continue;
        }
        publisher.take_in().await;
    }
}

struct Publisher {
    logs: Arc<Logs>,
    log: Arc<TopicLog>,
    state: Box<Sending>,
    under_way: VecDeque<UnderWay>,
}

struct UnderWay {
    group: Group,
    sent: Sent,
}

/// What an earlier attempt has left open.
#[derive(Clone, Copy, Default)]
struct Attempts {
    count: u32,
    /// One of them may have been stored.
    may_be_stored: bool,
}

impl Publisher {
    fn naming(&self) -> Naming {
        let (topic, _) = self.log.definition();
        Naming {
            base: self.logs.streams.base(self.log.number),
            own: self.state.own.clone(),
            keyed: topic.retention.compact,
            dedup: !topic.dedup_window.is_zero(),
        }
    }

    /// Whether single messages may follow each other without waiting.
    fn may_chain(&self) -> bool {
        self.log.replicas == 1 && self.state.tail_is_known && self.state.careful == 0 && !self.naming().keyed
    }

    /// Sends what may be sent now.
    async fn fill(&mut self) {
        loop {
            let chains = self.may_chain();
            if self.under_way.len() >= if chains { UNDER_WAY } else { 1 } {
                return;
            }
            let waiting = self.next_waiting(chains);
            if waiting.is_empty() {
                return;
            }
            let waiting = self.admit(waiting).await;
            if waiting.is_empty() {
                continue;
            }
            self.state.careful = self.state.careful.saturating_sub(1);
            let group = self.group(waiting, &Known::new());
            let alone =
                group.messages.len() != 1 || group.waiting().any(|waiting| waiting.expected.is_some());
            let predicted = self.predicted();
            let group = self.launch(group, predicted).await;
            self.under_way.push_back(group);
            if !chains || alone {
                return;
            }
        }
    }

    /// What goes into one group, from what waits.
    fn next_waiting(&self, chains: bool) -> Vec<Queued> {
        let mut queue = self.log.queue.lock();
        // Each message of a stream of one server is synced on its own; those of a batch together.
        let batch = self.log.durability >= Durability::Fsync
            && self.under_way.is_empty()
            && queue.waiting.len() >= WORTH_A_BATCH;
        let enough = if !chains || batch { MOST_MESSAGES } else { 1 };
        let (mut taken, mut count, mut bytes) = (Vec::new(), 0, 0);
        let mut sources: Vec<(u128, u64)> = Vec::new();
        while let Some(next) = queue.waiting.front() {
            if let Queued::Batch(next) = next {
                let more = next.count as usize;
                let first = taken.is_empty();
                if !self.under_way.is_empty() && self.needs_the_others(next) {
                    break;
                }
                let again = next.source.is_some_and(|s| sources.contains(&(s.publisher, s.sequence)));
                let full = count + more > enough || bytes + next.records.len() > GROUP_BYTES;
                if !first && (full || again || next.expected.is_some()) {
                    break;
                }
                sources.extend(next.source.map(|s| (s.publisher, s.sequence)));
                count += more;
                bytes += next.records.len();
                let expects = next.expected.is_some();
                taken.extend(queue.waiting.pop_front());
                if expects {
                    break;
                }
            } else {
                taken.extend(queue.waiting.pop_front());
            }
        }
        taken
    }

    /// Whether a batch can only be sent when all others are answered.
    fn needs_the_others(&self, next: &Waiting) -> bool {
        let same = |other: &Waiting| match (&next.source, &other.source) {
            (Some(a), Some(b)) => a.publisher == b.publisher && a.sequence == b.sequence,
            _ => false,
        };
        next.count > 1
            || next.expected.is_some()
            || self.under_way.iter().any(|sent| sent.group.waiting().any(same))
    }

    /// What of it is to be stored; all else is answered.
    async fn admit(&mut self, waiting: Vec<Queued>) -> Vec<Waiting> {
        let mut admitted = Vec::with_capacity(waiting.len());
        for queued in waiting {
            let source = match &queued {
                Queued::Batch(waiting) => waiting.source,
                Queued::Refused(source) => Some(*source),
            };
            if let Some(source) = source
                && !self.state.sources.knows(source.publisher)
                && let Err(error) = self.recall(&source).await
            {
                if let Queued::Batch(waiting) = queued {
                    self.refuse(waiting, error);
                }
                continue;
            }
            let now = self.logs.now();
            match (queued, source) {
                (Queued::Refused(source), _) => self.state.sources.refused(&source, now),
                (Queued::Batch(waiting), None) => {
                    admitted.push(waiting);
                    false
                }
                (Queued::Batch(waiting), Some(source)) => match self.state.sources.turn(&source, now) {
                    Ok(Turn::Now) => {
                        // Those behind it in the same group have their turn too.
                        admitted.push(waiting);
                        self.state.sources.refused(&source, now)
                    }
                    Ok(Turn::Before(mut receipts)) => {
                        receipts.durability = self.log.durability;
                        self.logs.budget.give(waiting.records.len());
                        waiting.answer.send(Ok(receipts));
                        false
                    }
                    Err(error) => {
                        self.refuse(waiting, error);
                        false
                    }
                },
            };
        }
        admitted
    }

    fn group(&self, waiting: Vec<Waiting>, known: &Known) -> Group {
        let tail = self.log.known_tail();
        let oldest = |source: &Source| {
            self.state.sources.oldest(source.publisher, source.answered).unwrap_or(tail).min(tail)
        };
        Group::new(waiting, &self.naming(), known, oldest)
    }

    /// What this publisher and the sources will have stored last when all that is under way is stored, if nobody else
    /// publishes.
    fn predicted(&self) -> HashMap<Option<u128>, u64> {
        let mut predicted = HashMap::new();
        if !self.under_way.is_empty() {
            let end = self.log.known_tail();
            for (n, sent) in (1..).zip(&self.under_way) {
                for waiting in sent.group.waiting() {
                    predicted.insert(waiting.source.map(|source| source.publisher), end + n);
                }
            }
        }
        predicted
    }

    /// Sends a group, with what it expects.
    async fn launch(&mut self, mut group: Group, predicted: HashMap<Option<u128>, u64>) -> UnderWay {
        let naming = self.naming();
        let mut messages = std::mem::take(&mut group.messages);
        let expected = group.waiting().find_map(|waiting| waiting.expected.clone());
        match (expected, messages.first_mut()) {
            (_, None) => {}
            (Some(Expected::Last(last)), Some(first)) => {
                let last = last.map_or(0, |offset| offset.saturating_add(1));
                first.headers.insert(NATS_EXPECTED_LAST_SEQUENCE, last.to_string());
            }
            (Some(Expected::LastOfKey(key, last)), Some(first)) => {
                // What was stored before keys were parts of subjects is not there for NATS.
                let old = self.state.old_keys.find(&self.logs, &self.log, &key).await.ok().flatten();
                let last = match (last, old) {
                    (Some(last), old) if Some(last) == old => 0,
                    // It is there, and should not be.
                    (None, Some(_)) => i64::MAX as u64,
                    (last, _) => last.map_or(0, |offset| offset.saturating_add(1)),
                };
                first.headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
                first.headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, naming.all_with(&key));
            }
            (None, Some(_)) => {
                for (at, source) in group.firsts() {
                    let publisher = source.map(|source| source.publisher);
                    let last = predicted.get(&publisher).copied();
                    let last = last.unwrap_or_else(|| self.state.last_of(source.as_ref()));
                    let headers = &mut messages[at].headers;
                    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
                    if naming.keyed {
                        let all = naming.all_of(&naming.publisher(source.as_ref()));
                        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, all);
                    }
                }
            }
        }
        self.state.groups += 1;
        let name = format!("{}-{}", self.state.own, self.state.groups);
        let sent = send(&self.logs.streams.connection, &name, messages).await;
        UnderWay { group, sent }
    }

    /// Waits for the oldest answer, and deals with it.
    async fn take_in(&mut self) {
        let Some(UnderWay { group, sent }) = self.under_way.pop_front() else { return };
        if group.waiting().next().is_none() {
            return;
        }
        match sent.answer().await {
            Answer::Stored(sequence) => self.stored(group, sequence),
            answer => {
                // Whatever follows it expected it to be stored.
                let mut rest = Vec::new();
                for UnderWay { group, sent } in std::mem::take(&mut self.under_way) {
                    rest.push((group, sent.answer().await));
                }
                let behind = (1..).zip(&rest).find_map(|(n, (_, answer))| match answer {
                    Answer::Stored(sequence) => sequence.checked_sub(n),
                    _ => None,
                });
                match (answer, behind) {
                    (Answer::Unknown(_), Some(sequence)) => self.stored(group, sequence),
                    (answer, _) => Box::pin(self.settle(group, answer)).await,
                }
                for (group, answer) in rest {
                    match answer {
                        Answer::Stored(sequence) => self.stored(group, sequence),
                        answer => Box::pin(self.settle(group, answer)).await,
                    }
                }
            }
        }
    }

    /// A group is stored; its last message is the stream's `sequence`th.
    fn stored(&mut self, group: Group, sequence: u64) {
        self.state.tail_is_known = true;
        self.answer(group, |length| sequence.saturating_sub(length));
    }

    fn answer(&mut self, group: Group, first: impl Fn(u64) -> u64) {
        let length = group.length() as u64;
        let first = first(length);
        self.log.knows_tail(first + length);
        if let Some(last) = group.last_own(first) {
            self.state.own_last = last + 1;
        }
        let bytes = group.waiting().map(|waiting| waiting.records.len()).sum();
        let now = self.logs.now();
        for (source, receipts, last) in group.answer(first, self.log.durability) {
            self.state.sources.stored(&source, &receipts, now);
            if let Some(last) = last {
                self.state.source_last.insert(source.publisher, last + 1);
            }
        }
        if self.state.sources.len() > MOST_SOURCES && self.under_way.is_empty() {
            self.state.sources.clear();
            self.state.source_last.clear();
        }
        self.logs.budget.give(bytes);
    }

    fn refuse(&mut self, waiting: Waiting, error: Error) {
        self.logs.budget.give(waiting.records.len());
        if let Some(source) = &waiting.source {
            self.state.sources.refused(source, self.logs.now());
        }
        waiting.answer.send(Err(error));
    }

    fn refuse_all(&mut self, group: Group, error: &Error) {
        for waiting in group.into_waiting() {
            self.refuse(waiting, error.clone());
        }
    }

    /// Brings a group to its end that was not simply stored. Nothing else is under way.
    async fn settle(&mut self, mut group: Group, mut answer: Answer) {
        let deadline = Instant::now() + self.logs.patience();
        let mut attempts = Attempts::default();
        let mut known = Known::new();
        loop {
            let wait = match answer {
                Answer::Stored(sequence) => return self.stored(group, sequence),
                Answer::Refused(error) => return self.refuse_all(group, &error),
                Answer::Duplicate(sequence) => {
                    let id = group.with_ids().into_iter().find(|(id, _)| !known.contains_key(id));
                    known.extend(id.map(|(id, _)| (id, sequence.saturating_sub(1))));
                    None
                }
                Answer::Duplicates => match self.which_are_known(&group, &mut known).await {
                    Ok(()) => None,
                    Err(error) => Some(error.message.into_owned()),
                },
                Answer::WrongLast => match self.look_again(group, attempts).await {
                    Look::Done => return,
                    Look::Again(same) => {
                        group = same;
                        None
                    }
                    Look::Failed(same, error) => {
                        group = same;
                        Some(error.message.into_owned())
                    }
                },
                Answer::Gone => match self.logs.streams.info(self.log.number).await {
                    Ok(None) => {
                        let error = Error::not_found("topic", &self.log.name);
                        return self.refuse_all(group, &error);
                    }
                    Ok(Some(_)) => Some("the topic's stream has no leader".to_owned()),
                    Err(error) => Some(error.message.into_owned()),
                },
                Answer::Busy(why) => Some(why),
                Answer::Unknown(why) => {
                    attempts.may_be_stored = true;
                    Some(why)
                }
            };
            attempts.count += 1;
            if let Some(why) = wait {
                if Instant::now() >= deadline || self.log.is_deleted() {
                    return self.give_up(group, &why, attempts.may_be_stored);
                }
                let pause = AGAIN.wait(attempts.count, u64::from(attempts.count));
                tokio::time::sleep(pause).await;
                let mut up = self.logs.streams.connection.up();
                let _ = tokio::time::timeout_at(deadline, up.wait_for(|up| up.is)).await;
            } else if attempts.count > 100 {
                return self.give_up(group, "others publish to it all the time", attempts.may_be_stored);
            }
            let waiting: Vec<Waiting> = group.into_waiting().collect();
            group = self.group(waiting, &known);
            if group.messages.is_empty() {
                let tail =
                    known.values().map(|offset| offset + 1).max().unwrap_or(0).max(self.log.known_tail());
                return self.answer(group, |_| tail);
            }
            let sent = self.launch(group, HashMap::new()).await;
            group = sent.group;
            answer = sent.sent.answer().await;
        }
    }

    /// Answers that it is not known what became of a group. What still comes of it must not be taken for what follows.
    fn give_up(&mut self, group: Group, why: &str, may_be_stored: bool) {
        tracing::warn!(topic = %self.log.name, why, "messages cannot be stored");
        let what = if may_be_stored { "they may be stored or not" } else { "nothing of it was stored" };
        let error = Error::new(
            ErrorCode::Unavailable,
            format!("messages for topic {} cannot be stored ({why}); {what}", self.log.name),
        )
        .hint("publish them again when NATS is there; with message ids they are stored once");
        if may_be_stored {
            self.state.own = self.logs.new_publisher();
            self.state.own_last = 0;
            self.state.sources.clear();
            self.state.source_last.clear();
        }
        self.refuse_all(group, &error);
    }

    /// Finds out which messages of a group are stored already, and where.
    async fn which_are_known(&mut self, group: &Group, known: &mut Known) -> Result<(), Error> {
        let naming = self.naming();
        let connection = self.logs.streams.connection.clone();
        let mut unsure: Vec<(String, Record)> = group.with_ids();
        unsure.retain(|(id, _)| !known.contains_key(id));
        let first = self.state.groups + 1;
        self.state.groups += unsure.len() as u64;
        let mut asked =
            futures::stream::iter((first..).zip(unsure))
                .map(|(n, (id, record))| {
                    let (connection, base) = (&connection, &naming.base);
                    let batch = format!("{}-{n}", naming.own);
                    async move {
                        is_known(connection, base, &batch, &escape(&id)).await.map(|is| (is, id, record))
                    }
                })
                .buffered(LOOKED_UP_AT_ONCE);
        let mut stored = Vec::new();
        while let Some(asked) = asked.next().await {
            match asked {
                Ok((is_known, id, record)) => stored.extend(is_known.then_some((id, record))),
                Err(Answer::Busy(why) | Answer::Unknown(why)) => return Err(unavailable(&why)),
                Err(Answer::Refused(error)) => return Err(error),
                Err(_) => return Err(unavailable("an id cannot be looked for")),
            }
        }
        drop(asked);
        if stored.is_empty() {
            // Another server was storing it in this moment.
            return Err(unavailable("an id is being stored by somebody else"));
        }
        // Sent again, NATS says where it lies.
        for (id, record) in stored {
            let (mut headers, payload) = encode(&record);
            headers.insert(NATS_MESSAGE_ID, escape(&id));
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.state.own_last.to_string());
            if naming.keyed {
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, naming.all_of(&naming.own));
            }
            let subject = naming.subject(&naming.own, &record);
            let sent = send(&connection, "", vec![Outgoing { subject, headers, payload }]).await;
            match sent.answer().await {
                Answer::Duplicate(sequence) if sequence > 0 => {
                    known.insert(id, sequence - 1);
                }
                // It was forgotten in this moment, and is stored now.
                Answer::Stored(sequence) => {
                    self.state.own_last = sequence;
                    known.insert(id, sequence.saturating_sub(1));
                }
                answer => return Err(unavailable(&format!("an id cannot be looked for ({answer:?})"))),
            }
        }
        Ok(())
    }

    /// Finds out why the stream was not as a group expected it.
    async fn look_again(&mut self, group: Group, attempts: Attempts) -> Look {
        self.state.careful = CAREFUL;
        let naming = self.naming();
        let own = match self.logs.streams.last_on(self.log.number, &naming.all_of(&naming.own)).await {
            Ok(found) => found.map_or(0, |(offset, _)| offset + 1),
            Err(error) => return Look::Failed(group, error),
        };
        if attempts.may_be_stored && own > self.state.own_last {
            let last = match self.last_of_group(&group, own - 1).await {
                Ok(last) => last,
                Err(error) => return Look::Failed(group, error),
            };
            if let Some(first) = last.and_then(|last| group.first_by_own(last)) {
                self.answer(group, |_| first);
                return Look::Done;
            }
        }
        self.state.own_last = own;
        let waiting: Vec<Waiting> = group.into_waiting().collect();
        for source in waiting.iter().filter_map(|waiting| waiting.source) {
            if let Err(error) = self.recall(&source).await {
                return Look::Failed(self.group(waiting, &Known::new()), error);
            }
        }
        let mut waiting = self.admit(waiting.into_iter().map(Queued::Batch).collect()).await;
        let Some(expected) = waiting.first().and_then(|first| first.expected.clone()) else {
            return if waiting.is_empty() {
                Look::Done
            } else {
                Look::Again(self.group(waiting, &Known::new()))
            };
        };
        match self.unexpected(&expected).await {
            Ok(None) => Look::Again(self.group(waiting, &Known::new())),
            Ok(Some(error)) => {
                waiting.drain(..).for_each(|waiting| self.refuse(waiting, error.clone()));
                Look::Done
            }
            Err(error) => Look::Failed(self.group(waiting, &Known::new()), error),
        }
    }

    /// Where the last message lies that this engine has published with a group, if the group is stored: the newest of its
    /// messages lies at `newest`.
    async fn last_of_group(&self, group: &Group, newest: u64) -> Result<Option<u64>, Error> {
        let Some(before) = group.own().checked_sub(1) else { return Ok(None) };
        if self.log.replicas > 1 {
            // Nothing was under way behind it.
            return Ok(Some(newest));
        }
        let naming = self.naming();
        let subjects = naming.all_of(&naming.own);
        let from = From::On(&subjects, self.state.own_last);
        let found = self.logs.streams.read(self.log.number, from, before + 1, usize::MAX >> 1).await?;
        Ok(found.get(before).map(|kept| kept.offset))
    }

    /// What is there that was not expected, if it is so.
    async fn unexpected(&mut self, expected: &Expected) -> Result<Option<Error>, Error> {
        let (what, found, wanted) = match expected {
            Expected::Last(wanted) => {
                let info = self.logs.streams.info(self.log.number).await?;
                let tail = info.map_or(0, |info| info.state.tail());
                (format!("the newest message of topic {}", self.log.name), tail.checked_sub(1), *wanted)
            }
            Expected::LastOfKey(key, wanted) => {
                let subjects = self.naming().all_with(key);
                let found = self.logs.streams.last_on(self.log.number, &subjects).await?;
                let old = self.state.old_keys.find(&self.logs, &self.log, key).await?;
                let what = format!("the newest message of key {key} in topic {}", self.log.name);
                (what, found.map(|(offset, _)| offset).or(old), *wanted)
            }
        };
        if found == wanted {
            return Ok(None);
        }
        let there =
            |offset: Option<u64>| offset.map_or_else(|| "none".to_owned(), |o| format!("at offset {o}"));
        Ok(Some(
            Error::new(
                ErrorCode::Conflict,
                format!("{what} is {}, and should be {}", there(found), there(wanted)),
            )
            .hint("read what is there, and decide again; nothing was stored"),
        ))
    }

    /// Reads back from the log what a source has stored.
    async fn recall(&mut self, source: &Source) -> Result<(), Error> {
        let naming = self.naming();
        let subjects = naming.all_of(&naming.publisher(Some(source)));
        let (number, publisher) = (self.log.number, source.publisher);
        let Some((last, headers)) = self.logs.streams.last_on(number, &subjects).await? else {
            // Purged, or there never was one.
            self.state.source_last.insert(publisher, 0);
            return Ok(());
        };
        if self.state.source_last.get(&publisher) == Some(&(last + 1)) {
            return Ok(());
        }
        let mut batches = Vec::new();
        if let Some((_, mut from, _)) = read_source(&headers, publisher, last, self.log.durability) {
            while from <= last {
                let found = self.logs.streams.read(number, From::On(&subjects, from), 1000, 8 << 20).await?;
                let Some(end) = found.last().map(|kept| kept.offset) else { break };
                for kept in &found {
                    let read = read_source(&kept.headers, publisher, kept.offset, self.log.durability);
                    batches.extend(read.map(|(source, _, receipts)| (source, receipts)));
                }
                from = end + 1;
            }
        }
        self.state.sources.recall(publisher, &batches, self.logs.now());
        self.state.source_last.insert(publisher, last + 1);
        Ok(())
    }
}

/// What has come of looking again.
enum Look {
    /// All of the group is answered.
    Done,
    /// This is to be sent again.
    Again(Group),
    /// It could not be looked.
    Failed(Group, Error),
}
