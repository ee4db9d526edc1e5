//! Who publishes what waits for a topic: one at a time, in the order of the calls.
//!
//! Where several servers have each message, all that waits goes to NATS as one atomic batch, and the next one when that
//! is answered. A stream of one server takes batches slowly and single messages fast: there single messages follow each
//! other without waiting, as a chain. What waits together is a part of a chain, and NATS is asked for an answer to its last
//! message only: that one is stored if all before it are.
//!
//! # Why nothing is stored twice, or out of order
//!
//! An answer may be lost, and what was sent may reach NATS at any later time: a server that was halted goes on with what
//! lies in its sockets, and the client sends what it has not sent yet when it has connected again. So no copy of a group
//! may ever be stored after it does not belong there any more, whenever it comes; and whether a group is stored must be
//! told from the stream alone. No window of time is involved.
//!
//! *A group on its own* expects of each of its publishers what that one has stored last ([`Naming::all_of`]). It is sent
//! again as it is, or with other batches in it, until one of its copies is known to be stored or it is given up; and
//! what comes next is sent after that. Where a copy is stored, the publisher's last message is another one, and no
//! copy that expected the one before can be stored any more. Where a group is given up, the next one expects the same as it
//! did: of the two one is stored, or the given up one is and then the next one, which learns of it when it is refused.
//! The messages behind the last one that was known are therefore this group, or something that was given up, of
//! which nobody was told that it is stored: who finds the group's messages there, one by one, may take them for it.
//!
//! *A message in a chain* follows others that are not answered. Its place is foretold: the one behind theirs. It expects the
//! stream to end right before its place, and its predecessor to lie there, which only a message of this engine and
//! run can ([`Run`]), and in a run each is sent once, for one place. So it lies at its place or nowhere, and only if its
//! predecessor lies at its own: from one that is stored all before it are known to be. (What a message expects of its
//! predecessor alone would not do: where somebody else publishes in between, one lies further behind than was foretold, and
//! a later one finds there what it takes for its predecessor.) The first one of a chain expects the stream's end, and its
//! publisher's last message, unless that is known to lie in this run. Those behind it need not: between the end and their
//! place nothing else lies, and whoever is not known to have published last in this run has to be the first.
//!
//! Where something of a chain was not answered, the run is over, and the next one has another number. What was stored of
//! the chain is told by the last message of its run. What was not can only be stored while the stream ends where its
//! predecessor lies, and not any more once something else is stored there. Until that has happened the oldest one is
//! sent again on its own: if it is stored, no other copy of it can be, and none of what followed it; if an old copy is, the
//! publisher's last message is not what the new one expects.
//!
//! (All this holds while the messages are kept. Where all that a publisher has stored is purged, NATS knows of none, and a
//! copy of its very first group could be stored again, if it were under way for that long.)

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_nats::header::{
    HeaderName, HeaderValue, NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
};
use crossdock_topics::{Durability, Error, ErrorCode, Expected, Revision, Source};
use tokio::time::{Interval, MissedTickBehavior, timeout};

use super::Logs;
use super::compaction::OldKeys;
use super::group::{Group, Known, Outgoing, Waiting};
use super::naming::Naming;
use super::run::Run;
use super::sending::{Answer, Piece, Sent, late, send};
use super::topic::{Queued, TopicLog};
use crate::embedded::sources::{Sources, Turn};

/// How long the first one that is published here waits to be told how the topic is kept.
const ASKING: Duration = Duration::from_secs(1);
/// The most messages that NATS takes in one piece, unless its configuration says otherwise.
pub(super) const MOST_MESSAGES: usize = 1000;
/// A group is closed at so many bytes.
const GROUP_BYTES: usize = 4 << 20;
/// So many single messages follow each other without an answer.
const UNDER_WAY: u64 = 1024;
/// So many of them have one answer at most; and no more than one in so many of those that are under way or wait, so that
/// more can follow while there is something for NATS to do.
const PART: usize = 64;
const PARTS: u64 = 4;
/// How often it is seen to that answers do not take too long, and whether there is still something to publish.
const TICK: Duration = Duration::from_millis(250);
/// From so many waiting on, a stream of one server that syncs each message is better off with a batch.
const WORTH_A_BATCH: usize = 24;
/// So many groups are sent with care after somebody else has published in between.
pub(super) const CAREFUL: u32 = 200;
/// So many other publishers of a topic are remembered; what one has sent can be read back from the log.
const MOST_SOURCES: usize = 1024;
/// The subjects that an expectation is about, if not the message's own.
pub(super) const NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: HeaderName =
    HeaderName::from_static("Nats-Expected-Last-Subject-Sequence-Subject");
/// What the one who publishes to a topic knows.
pub(super) struct Sending {
    /// This engine, as a publisher of this topic.
    pub(super) engine: String,
    /// How many messages the stream has had when this engine stored its own last one; 0 when it has none.
    pub(super) own_last: u64,
    pub(super) sources: Sources,
    pub(super) source_last: HashMap<u128, u64>,
    /// Numbers the groups.
    pub(super) groups: u64,
    pub(super) careful: u32,
    pub(super) old_keys: OldKeys,
    pub(super) run: Run,
}

impl Sending {
    fn new(engine: String) -> Self {
        Self {
            engine,
            own_last: 0,
            sources: Sources::default(),
            source_last: HashMap::new(),
            groups: 0,
            careful: 0,
            old_keys: OldKeys::default(),
            run: Run::default(),
        }
    }

    fn last_of(&self, source: Option<&Source>) -> u64 {
        match source {
            None => self.own_last,
            Some(source) => self.source_last.get(&source.publisher).copied().unwrap_or(0),
        }
    }
}

/// Publishes what waits for a topic until nothing has for a while.
pub(super) async fn run(logs: Arc<Logs>, log: Arc<TopicLog>) {
    let sending = log.sending.lock().take();
    let state = match sending {
        Some(state) => state,
        None => {
            // What a receipt is worth, as it is now.
            if let Ok(Err(error)) = timeout(ASKING, logs.info(&log)).await {
                tracing::debug!(topic = %log.name, %error, "it is not known yet how the topic is kept");
            }
            Box::new(Sending::new(logs.new_publisher()))
        }
    };
    let mut publisher = Publisher::new(logs, log, state);
    loop {
        let next = publisher.fill().await;
        if !publisher.under_way.is_empty() {
            publisher.take_in(next).await;
            continue;
        }
        let log = publisher.log.clone();
        if publisher.wait().await {
            continue;
        }
        let mut queue = log.queue.lock();
        if queue.waiting.is_empty() {
            queue.running = false;
            *log.sending.lock() = Some(publisher.state);
            return;
        }
    }
}

/// What is to be done when what may be sent is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// More can be sent as soon as it comes.
    More,
    /// Nothing can be sent before there is an answer.
    Answer,
}

pub(super) struct Publisher {
    pub(super) logs: Arc<Logs>,
    pub(super) log: Arc<TopicLog>,
    pub(super) state: Box<Sending>,
    under_way: VecDeque<UnderWay>,
    /// The batches of sources that are under way.
    pub(super) sources: HashSet<(u128, u64)>,
    pub(super) naming: Naming,
    /// Of the definition that the naming follows.
    revision: Revision,
    /// One for all that is waited for: timers for each answer cost more than the rest of the waiting.
    tick: Interval,
}

/// A group that is not answered.
pub(super) struct UnderWay {
    pub(super) group: Group,
    pub(super) sent: Sent,
    /// In a chain, the number of its last message in the stream, if it is stored.
    place: Option<u64>,
    /// The subject of that message.
    last: Option<Subject>,
}

/// What goes into one group.
struct Taken {
    queued: Vec<Queued>,
    /// As a part of a chain.
    chained: bool,
}

impl Publisher {
    fn new(logs: Arc<Logs>, log: Arc<TopicLog>, state: Box<Sending>) -> Self {
        let base = logs.streams.base(log.number);
        let mut publisher = Self {
            naming: Naming { base, engine: state.engine.clone(), run: 0, keyed: false, dedup: false },
            logs,
            log,
            state,
            under_way: VecDeque::new(),
            sources: HashSet::new(),
            revision: 0,
            tick: tokio::time::interval(TICK),
        };
        publisher.tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        publisher.follow_definition();
        publisher
    }

    /// Names messages as the topic's definition says now.
    pub(super) fn follow_definition(&mut self) {
        let (topic, revision) = self.log.definition();
        if revision != self.revision {
            self.naming.keyed = topic.retention.compact;
            self.naming.dedup = !topic.dedup_window.is_zero();
            self.revision = revision;
        }
        self.naming.run = self.state.run.number;
    }

    /// Whether single messages may follow each other without waiting.
    fn may_chain(&self) -> bool {
        self.log.replicas() == 1
            && self.state.run.end.is_some()
            && self.state.careful == 0
            && !self.naming.keyed
    }

    /// Sends what may be sent now.
    async fn fill(&mut self) -> Next {
        let mut up = self.logs.streams.connection.up();
        loop {
            // What is sent meanwhile lies in this process, and would only have to be looked for.
            if !up.borrow_and_update().is {
                if !self.under_way.is_empty() {
                    return Next::Answer;
                }
                let is_up = tokio::select! {
                    is_up = timeout(self.logs.patience(), up.wait_for(|up| up.is)) => is_up.is_ok(),
                    () = self.logs.shutdown.started() => false,
                };
                if !is_up {
                    self.nobody_there();
                    return Next::More;
                }
            }
            self.follow_definition();
            if self.under_way.is_empty() {
                let is_shorter = self.log.was_shortened();
                if is_shorter {
                    self.state.run.broken();
                    self.state.old_keys = OldKeys::default();
                }
                // Not in the middle of a chain, of which a source's later batch may be answered before an earlier one.
                if is_shorter || self.state.sources.len() > MOST_SOURCES {
                    self.state.sources.clear();
                    self.state.source_last.clear();
                }
            }
            let chains = self.may_chain();
            if self.messages_under_way() >= if chains { UNDER_WAY } else { 1 } {
                return Next::Answer;
            }
            let Taken { queued, chained } = match self.next_waiting(chains) {
                Some(taken) => taken,
                None if chains && self.log.queue.lock().waiting.is_empty() => return Next::More,
                None => return Next::Answer,
            };
            let waiting = self.admit(queued).await;
            if waiting.is_empty() {
                continue;
            }
            self.state.careful = self.state.careful.saturating_sub(1);
            let group = self.group(waiting, &Known::new());
            let place = if chained { self.next_place(group.length()) } else { None };
            let group = self.launch(group, place).await;
            self.under_way.push_back(group);
            if place.is_none() {
                return Next::Answer;
            }
        }
    }

    /// How many messages of a chain are not answered; without end where something else is.
    fn messages_under_way(&self) -> u64 {
        let (Some(first), Some(last)) = (self.under_way.front(), self.under_way.back()) else { return 0 };
        match (first.place, last.place) {
            (Some(first_end), Some(end)) => end - first_end + first.group.length() as u64,
            _ => u64::MAX,
        }
    }

    /// What goes into one group, from what waits; `None` when nothing can be sent now.
    fn next_waiting(&self, chains: bool) -> Option<Taken> {
        let mut queue = self.log.queue.lock();
        // Each message of a stream of one server is synced on its own; those of a batch together.
        let batch = self.log.durability() >= Durability::Fsync
            && self.under_way.is_empty()
            && queue.waiting.len() >= WORTH_A_BATCH;
        let chains = chains && !batch;
        let mut taken = Taken { queued: Vec::new(), chained: chains };
        let share = (self.messages_under_way() + queue.waiting.len() as u64) / PARTS;
        let enough = if chains { (share as usize).clamp(1, PART) } else { MOST_MESSAGES };
        let (mut count, mut bytes) = (0, 0);
        let mut sources: Vec<(u128, u64)> = Vec::new();
        while let Some(next) = queue.waiting.front() {
            if let Queued::Batch(next) = next {
                let more = next.count as usize;
                let is_first = count == 0;
                let needs_the_others = self.needs_the_others(next);
                let has_others = !self.under_way.is_empty() || (chains && !is_first);
                if has_others && needs_the_others {
                    break;
                }
                let again = next.source.is_some_and(|s| sources.contains(&(s.publisher, s.sequence)));
                let full = count + more > enough || bytes + next.records.len() > GROUP_BYTES;
                // Whether one with an id is stored is told by its own answer.
                let alone = next.expected.is_some() || (chains && next.has_ids && self.naming.dedup);
                if !is_first && (full || again || alone) {
                    break;
                }
                sources.extend(next.source.map(|s| (s.publisher, s.sequence)));
                count += more;
                bytes += next.records.len();
                taken.chained &= more == 1 && next.expected.is_none();
                taken.queued.extend(queue.pop());
                if alone || (chains && !taken.chained) {
                    break;
                }
            } else {
                taken.queued.extend(queue.pop());
            }
        }
        Some(taken).filter(|taken| !taken.queued.is_empty())
    }

    /// Whether a batch can only be sent when all others are answered.
    fn needs_the_others(&self, next: &Waiting) -> bool {
        next.count > 1
            || next.expected.is_some()
            || next.source.is_some_and(|s| self.sources.contains(&(s.publisher, s.sequence)))
            || !self.state.run.has(next.source.map(|source| source.publisher))
    }

    /// Where the last one of the next messages of a chain will lie, if they will.
    fn next_place(&self, length: usize) -> Option<u64> {
        let end = self.under_way.back().map_or(self.state.run.end, |last| last.place)?;
        Some(end + length as u64)
    }

    /// What of it is to be stored; all else is answered.
    pub(super) async fn admit(&mut self, waiting: Vec<Queued>) -> Vec<Waiting> {
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
                        self.sources.insert((source.publisher, source.sequence));
                        self.state.sources.refused(&source, now)
                    }
                    Ok(Turn::Before(mut receipts)) => {
                        receipts.durability = self.log.durability();
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

    pub(super) fn group(&self, waiting: Vec<Waiting>, known: &Known) -> Group {
        let tail = self.log.known_tail();
        let oldest = |source: &Source| {
            self.state.sources.oldest(source.publisher, source.answered).unwrap_or(tail).min(tail)
        };
        Group::new(waiting, &self.naming, known, oldest)
    }

    /// Sends a group, with what it expects; in a chain, for its place.
    pub(super) async fn launch(&mut self, mut group: Group, place: Option<u64>) -> UnderWay {
        let mut messages = std::mem::take(&mut group.messages);
        self.state.groups += 1;
        let last = messages.last().map(|message| message.subject.clone());
        let sent = if let Some(place) = place {
            self.expect_places(&group, &mut messages, place);
            self.state.run.joined(group.publishers());
            send(&self.logs.streams.connection, Piece::Chain, messages).await
        } else {
            self.expect(&group, &mut messages).await;
            let name = format!("{}-{}", self.state.engine, self.state.groups);
            send(&self.logs.streams.connection, Piece::Batch(&name), messages).await
        };
        UnderWay { group, sent, place, last }
    }

    /// What a part of a chain expects, whose last message is to lie at `place`.
    fn expect_places(&self, group: &Group, messages: &mut [Outgoing], place: u64) {
        let before = place.saturating_sub(messages.len() as u64);
        let mut predecessor = self.under_way.back().and_then(|under_way| under_way.last.clone());
        if predecessor.is_none()
            && let (Some(first), Some((_, source))) = (messages.first_mut(), group.firsts().next())
            && !self.state.run.has(source.map(|source| source.publisher))
        {
            self.expect_last_of(source.as_ref(), first);
        }
        for (before, Outgoing { subject, headers, .. }) in (before..).zip(messages) {
            headers.insert(NATS_EXPECTED_LAST_SEQUENCE, HeaderValue::from(before));
            if let Some(predecessor) = &predecessor {
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(before));
                if predecessor != subject {
                    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, predecessor.to_string());
                }
            }
            predecessor = Some(subject.clone());
        }
    }

    /// Has a message expect what its publisher has stored last.
    fn expect_last_of(&self, source: Option<&Source>, message: &mut Outgoing) {
        let last = HeaderValue::from(self.state.last_of(source));
        message.headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last);
        let all = self.naming.all_of(source);
        message.headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, all);
    }

    /// What a group on its own expects.
    async fn expect(&mut self, group: &Group, messages: &mut [Outgoing]) {
        let expected = group.waiting().find_map(|waiting| waiting.expected.clone());
        match (expected, messages.first_mut()) {
            (_, None) => {}
            (Some(Expected::Last(last)), Some(first)) => {
                let last = last.map_or(0, |offset| offset.saturating_add(1));
                first.headers.insert(NATS_EXPECTED_LAST_SEQUENCE, HeaderValue::from(last));
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
                first.headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(last));
                let all = self.naming.all_with(&key);
                first.headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, all);
            }
            (None, Some(_)) => {
                for (at, source) in group.firsts() {
                    self.expect_last_of(source.as_ref(), &mut messages[at]);
                }
            }
        }
    }

    /// Waits for something to publish; gives whether there may be something.
    async fn wait(&mut self) -> bool {
        for _ in 0..2 {
            tokio::select! {
                biased;
                () = self.log.queued.notified() => return true,
                () = self.logs.shutdown.started() => break,
                _ = self.tick.tick() => {}
            }
        }
        false
    }

    /// Waits for the oldest answer, and deals with it; or, if more can be sent, for that to come.
    async fn take_in(&mut self, next: Next) {
        let Some(oldest) = self.under_way.front_mut() else { return };
        let answer = tokio::select! {
            biased;
            answer = oldest.sent.told() => answer,
            () = self.log.queued.notified(), if next == Next::More => return,
            _ = self.tick.tick() => {
                if !oldest.sent.is_late() {
                    return;
                }
                late()
            }
        };
        let Some(UnderWay { group, place, .. }) = self.under_way.pop_front() else { return };
        if let Answer::Stored(sequence) = answer {
            return self.stored(group, sequence);
        }
        // What follows it waits for it: nothing more of the chain will be stored, or it is not known how much was.
        let mut chain = VecDeque::from([(group, place, answer)]);
        for UnderWay { group, mut sent, place, .. } in std::mem::take(&mut self.under_way) {
            chain.push_back((group, place, sent.answer().await));
        }
        self.broken(chain).await;
    }

    /// A group is stored; its last message is the stream's `sequence`th.
    pub(super) fn stored(&mut self, group: Group, sequence: u64) {
        let first = (sequence + 1).saturating_sub(group.length() as u64);
        // Whoever expects something else has not looked at what its publisher has stored.
        let publishers =
            group.waiting().filter(|w| w.expected.is_none()).map(|w| w.source.map(|source| source.publisher));
        self.state.run.stored(first, sequence, publishers);
        self.answer(group, |length| sequence.saturating_sub(length));
    }

    pub(super) fn answer(&mut self, group: Group, first: impl Fn(u64) -> u64) {
        let length = group.length() as u64;
        let first = first(length);
        let known = self.log.known_tail();
        if length > 0 && first < known {
            // Something else lay there.
            self.log.begin_again(first);
            self.logs.suspect(&self.log, known, true);
        }
        self.log.knows_tail(first + length);
        if let Some(last) = group.last_own(first) {
            self.state.own_last = last + 1;
        }
        let bytes = group.waiting().map(|waiting| waiting.records.len()).sum();
        let now = self.logs.now();
        for (source, receipts, last) in group.answer(first, self.log.durability()) {
            self.sources.remove(&(source.publisher, source.sequence));
            self.state.sources.stored(&source, &receipts, now);
            if let Some(last) = last {
                self.state.source_last.insert(source.publisher, last + 1);
            }
        }
        self.logs.budget.give(bytes);
    }

    /// Refuses all that waits.
    fn nobody_there(&mut self) {
        let waiting = self.log.queue.lock().take_all();
        tracing::warn!(topic = %self.log.name, "messages cannot be stored: there is no connection to NATS");
        let error = Error::new(
            ErrorCode::Unavailable,
            format!(
                "messages for topic {} cannot be stored (there is no connection to NATS); nothing of it was stored",
                self.log.name
            ),
        )
        .hint("publish them again when NATS is there");
        for queued in waiting {
            match queued {
                Queued::Batch(waiting) => self.refuse(waiting, error.clone()),
                Queued::Refused(source) => drop(self.state.sources.refused(&source, self.logs.now())),
            }
        }
    }

    pub(super) fn refuse(&mut self, waiting: Waiting, error: Error) {
        self.logs.budget.give(waiting.records.len());
        if let Some(source) = &waiting.source {
            self.sources.remove(&(source.publisher, source.sequence));
            self.state.sources.refused(source, self.logs.now());
        }
        waiting.answer.send(Err(error));
    }

    pub(super) fn refuse_all(&mut self, group: Group, error: &Error) {
        for waiting in group.into_waiting() {
            self.refuse(waiting, error.clone());
        }
    }
}
