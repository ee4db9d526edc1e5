//! The one thread that writes.
//!
//! It takes all commands that wait, turns them into one RocksDB batch (a *pass*), writes that unsynced, hands
//! the pass to the syncer, and is already on the next one. Where little is under way it does the syncer's part itself:
//! then waking another thread would take longer than what is gained by it. What is decided here is decided on what was
//! written, not on what is durable: passes become durable and visible in the same order, and if they cannot, nothing
//! of this or later passes is ever acknowledged or seen.

mod appends;
mod aside;
mod compaction;
mod definitions;
mod leases;
mod operations;
mod upkeep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{
    Batch, Change, Durability, Entry, Error, ErrorCode, Expect, Expected, LeaseId, ReceiptSender, Receipts,
    Result, Revision, Settled, Settlement, Source, Subscription, SubscriptionName, Timestamp, Topic,
    TopicName,
};
use rocksdb::WriteBatch;
use tokio::sync::oneshot;

use super::Shared;
use super::compactor::{FoundKeys, Rewrite};
use super::database::Database;
use super::dedup::Dedup;
use super::failpoints::{Step, reach};
use super::keys;
use super::log::TopicLog;
use super::sources::MAX_PUBLISHERS;
use crate::delivery::block::Block;
use crate::delivery::members::Awaited;
use crate::delivery::{Keep, Operation, Sieve, SubscriptionState};

/// How long the writer sleeps at most before it looks at leases and retention.
const TICK: Duration = Duration::from_millis(250);
/// A pass is closed beyond this many bytes, so that the sync of one does not wait for ever more of the next.
const PASS_BYTES: usize = 8 * 1024 * 1024;
/// A pass of at most so many bytes is finished here while the syncer has nothing to do. What comes meanwhile waits for
/// it, as it would wait for the syncer; only writing it is not done meanwhile, which is quick for so little.
const SMALL_BYTES: usize = 16 * 1024;

/// What the writer is asked to do.
pub(super) enum Command {
    Publish {
        log: Arc<TopicLog>,
        batch: Batch,
        durability: Durability,
        expected: Option<Expected>,
        source: Option<Source>,
        answer: ReceiptSender,
    },
    /// A batch that was refused before it came here has used up its publisher's turn.
    Refused {
        log: Arc<TopicLog>,
        source: Source,
    },
    Settle {
        subscription: Arc<SubscriptionState>,
        settlement: Settlement,
        outputs: Vec<(Arc<TopicLog>, Batch)>,
        bytes: usize,
        answer: oneshot::Sender<Result<Settled>>,
    },
    /// The ids of a topic have been read back from its log, as its window was then.
    Recalled {
        log: Arc<TopicLog>,
        window: Duration,
        ids: Result<Dedup>,
    },
    /// Persist what changed in a subscription by itself.
    Persist(Arc<SubscriptionState>),
    Operate {
        subscription: Arc<SubscriptionState>,
        operation: Operation,
        answer: oneshot::Sender<Result<usize>>,
    },
    PutTopic {
        topic: Topic,
        expect: Expect,
        answer: oneshot::Sender<Result<Revision>>,
    },
    DeleteTopic {
        name: TopicName,
        answer: oneshot::Sender<Result<()>>,
    },
    CloseSegment {
        log: Arc<TopicLog>,
        answer: oneshot::Sender<Result<()>>,
    },
    Rewrite {
        rewrite: Box<Rewrite>,
        answer: oneshot::Sender<Result<()>>,
    },
    FoundKeys {
        keys: Box<FoundKeys>,
        answer: oneshot::Sender<Result<()>>,
    },
    Purge {
        name: TopicName,
        before: Option<u64>,
        answer: oneshot::Sender<Result<u64>>,
    },
    PutSubscription {
        subscription: Subscription,
        sieve: Option<Arc<Sieve>>,
        expect: Expect,
        answer: oneshot::Sender<Result<Revision>>,
    },
    DeleteSubscription {
        name: SubscriptionName,
        answer: oneshot::Sender<Result<()>>,
    },
    Put {
        key: String,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
        answer: oneshot::Sender<Result<Revision>>,
    },
    Delete {
        key: String,
        expect: Expect,
        answer: oneshot::Sender<Result<Revision>>,
    },
    Grant {
        ttl: Duration,
        answer: oneshot::Sender<Result<LeaseId>>,
    },
    KeepAlive {
        lease: LeaseId,
        answer: oneshot::Sender<Result<()>>,
    },
    Revoke {
        lease: LeaseId,
        answer: oneshot::Sender<Result<()>>,
    },
}

/// One who waits, and what it will be told.
pub(super) enum Answer {
    Publish(ReceiptSender, Result<Receipts>),
    Settled(oneshot::Sender<Result<Settled>>, Result<Settled>),
    Count(oneshot::Sender<Result<usize>>, Result<usize>),
    Revision(oneshot::Sender<Result<Revision>>, Result<Revision>),
    Offset(oneshot::Sender<Result<u64>>, Result<u64>),
    Lease(oneshot::Sender<Result<LeaseId>>, Result<LeaseId>),
    Done(oneshot::Sender<Result<()>>, Result<()>),
}

impl Answer {
    /// Tells it. `failure` replaces a success that did not become durable.
    pub(super) fn tell(self, failure: Option<&Error>) {
        fn pick<T>(result: Result<T>, failure: Option<&Error>) -> Result<T> {
            match failure {
                Some(failure) => result.and(Err(failure.clone())),
                None => result,
            }
        }
        match self {
            Self::Publish(to, result) => to.send(pick(result, failure)),
            Self::Settled(to, result) => drop(to.send(pick(result, failure))),
            Self::Count(to, result) => drop(to.send(pick(result, failure))),
            Self::Revision(to, result) | Self::Offset(to, result) => drop(to.send(pick(result, failure))),
            Self::Lease(to, result) => drop(to.send(pick(result, failure))),
            Self::Done(to, result) => drop(to.send(pick(result, failure))),
        }
    }
}

/// What becomes true when a pass is durable, beside what its blocks hold.
pub(super) enum Effect {
    TopicMade(Arc<TopicLog>),
    TopicGone(Arc<TopicLog>),
    SubscriptionMade(Arc<SubscriptionState>),
    SubscriptionGone(Arc<SubscriptionState>),
    Synced(Arc<SubscriptionState>, Awaited),
}

/// One write, on its way to be made durable.
pub(super) struct Pass {
    /// How safe it must be before anybody is told.
    pub(super) level: Durability,
    pub(super) blocks: Vec<(Arc<TopicLog>, Vec<Arc<Block>>)>,
    pub(super) effects: Vec<Effect>,
    pub(super) changes: Vec<Change>,
    pub(super) answers: Vec<Answer>,
    /// Bytes to give back to the budget.
    pub(super) bytes: usize,
}

/// What a key was last written with.
struct KeyState {
    revision: Revision,
    lease: Option<LeaseId>,
}

/// The last numbers used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) topic: u32,
    pub(super) subscription: u32,
    pub(super) lease: u64,
    pub(super) revision: Revision,
}

impl Numbers {
    pub(super) fn encode(self) -> Vec<u8> {
        [u64::from(self.topic), u64::from(self.subscription), self.lease, self.revision]
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |index: usize| keys::u64_of(bytes.get(index * 8..)?);
        Some(Self {
            topic: u32::try_from(number(0)?).ok()?,
            subscription: u32::try_from(number(1)?).ok()?,
            lease: number(2)?,
            revision: number(3)?,
        })
    }
}

/// What was read back when the database was opened, for the writer to go on from.
pub(super) struct Recovered {
    pub(super) numbers: Numbers,
    pub(super) entries: Vec<(Entry, Option<LeaseId>)>,
    pub(super) leases: Vec<(LeaseId, Duration)>,
}

/// Lets whoever still comes after the writer has stopped on a fault see the failure: a command that is dropped
/// tells the one who waits.
pub(super) fn abandon(shared: &Shared) {
    let mut commands = Vec::new();
    while shared.commands.take(&mut commands, Duration::from_secs(3600)) {
        commands.clear();
    }
    shared.passes.close();
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    database: Arc<Database>,
    topics: BTreeMap<TopicName, Arc<TopicLog>>,
    subscriptions: BTreeMap<SubscriptionName, Arc<SubscriptionState>>,
    keys: HashMap<String, KeyState>,
    leases: leases::Leases,
    numbers: Numbers,
    next_upkeep: Timestamp,
    next_ids: Timestamp,
    /// How many publishers are remembered, in all topics.
    publishers: usize,
    /// What waits for the ids of its topic, by topic.
    aside: BTreeMap<u32, aside::Aside>,
    /// Whether something was written that nobody has asked to be safe yet.
    unsafe_writes: bool,
    now: Timestamp,
    // The pass under construction.
    batch: WriteBatch,
    touched: Vec<Arc<TopicLog>>,
    persist: Vec<Arc<SubscriptionState>>,
    /// Which they are.
    marked: HashSet<u32>,
    pass: Pass,
    numbers_changed: bool,
    /// Room for the one that is finished here.
    finishing: Vec<Pass>,
}

impl Pass {
    /// Whether somebody waits for a settlement in it.
    pub(super) fn settles(&self) -> bool {
        self.answers.iter().any(|answer| matches!(answer, Answer::Settled(..)))
    }

    /// Whether the writer may finish it itself.
    fn is_small(&self) -> bool {
        self.bytes <= SMALL_BYTES && self.effects.is_empty()
    }

    fn empty() -> Self {
        Self {
            level: Durability::Memory,
            blocks: Vec::new(),
            effects: Vec::new(),
            changes: Vec::new(),
            answers: Vec::new(),
            bytes: 0,
        }
    }
}

/// What is kept of subscriptions, on its way into a batch.
struct Groups<'a> {
    batch: &'a mut WriteBatch,
    database: &'a Database,
}

impl Keep for Groups<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.database.family("groups"), key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.batch.delete_cf(self.database.family("groups"), key);
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, database: Arc<Database>, recovered: Recovered) -> Self {
        let now = shared.clock.now();
        let topics = shared.topics.read().iter().map(|(name, log)| (name.clone(), log.clone())).collect();
        let subscriptions =
            shared.subscriptions.read().iter().map(|(name, s)| (name.clone(), s.clone())).collect();
        let mut leases = leases::Leases::restore(recovered.leases, now);
        let mut keys = HashMap::new();
        for (entry, lease) in recovered.entries {
            if let Some(lease) = lease {
                leases.hold(lease, &entry.key, now);
            }
            keys.insert(entry.key, KeyState { revision: entry.revision, lease });
        }
        Self {
            shared,
            database,
            topics,
            subscriptions,
            keys,
            leases,
            numbers: recovered.numbers,
            next_upkeep: now,
            next_ids: now,
            publishers: MAX_PUBLISHERS,
            aside: BTreeMap::new(),
            unsafe_writes: false,
            now,
            batch: WriteBatch::default(),
            touched: Vec::new(),
            persist: Vec::new(),
            marked: HashSet::new(),
            pass: Pass::empty(),
            numbers_changed: false,
            finishing: Vec::new(),
        }
    }

    /// Works until the queue of commands is closed and empty; then closes the syncer's.
    pub(super) fn run(mut self) {
        let mut commands = Vec::new();
        while self.shared.commands.take(&mut commands, TICK) {
            self.now = self.shared.clock.now();
            for command in commands.drain(..) {
                self.carry_out(command);
                if self.pass.bytes > PASS_BYTES || self.batch.size_in_bytes() > PASS_BYTES {
                    self.commit();
                }
            }
            if self.now >= self.next_upkeep {
                self.next_upkeep = self.now.after(TICK);
                self.upkeep();
            }
            if !self.aside.is_empty() && self.shared.failure().is_some() {
                self.go_on_all();
            }
            self.commit();
        }
        // Nobody can tell any more what was read for them.
        self.go_on_all();
        self.commit();
        self.shared.passes.close();
    }

    fn carry_out(&mut self, command: Command) {
        if self.shared.failure().is_some() {
            return self.carry_out_now(command);
        }
        if let Some(command) = self.put_aside(command) {
            self.carry_out_now(command);
        }
    }

    fn carry_out_now(&mut self, command: Command) {
        if let Some(failure) = self.shared.failure() {
            return self.refuse(command, &failure);
        }
        match command {
            Command::Publish { log, batch, durability, expected, source, answer } => {
                self.pass.bytes += batch.as_bytes().len();
                let result = match source {
                    Some(source) => self.append_once(&log, &batch, durability, expected.as_ref(), &source),
                    None => self.append_expected(&log, &batch, durability, expected.as_ref()),
                };
                self.pass.answers.push(Answer::Publish(answer, result));
            }
            Command::Refused { log, source } => self.note_refused(&log, &source),
            Command::Settle { subscription, settlement, outputs, bytes, answer } => {
                self.pass.bytes += bytes;
                reach(Step::Taken, || true);
                let result = self.settle(&subscription, &settlement, &outputs);
                self.pass.answers.push(Answer::Settled(answer, result));
            }
            Command::Recalled { log, window, ids } => self.recalled(&log, window, ids),
            Command::Persist(subscription) => self.mark(&subscription),
            Command::Operate { subscription, operation, answer } => {
                let result = self.operate(&subscription, operation);
                self.pass.answers.push(Answer::Count(answer, result));
            }
            Command::PutTopic { topic, expect, answer } => {
                // A changed window is read back from the log, which must have what came before this.
                self.commit();
                let result = self.put_topic(topic, expect);
                self.pass.answers.push(Answer::Revision(answer, result));
            }
            Command::DeleteTopic { name, answer } => {
                let result = self.delete_topic(&name);
                self.pass.answers.push(Answer::Done(answer, result));
            }
            Command::CloseSegment { log, answer } => {
                self.close_segment(&log);
                self.pass.answers.push(Answer::Done(answer, Ok(())));
            }
            Command::Rewrite { rewrite, answer } => {
                let result = self.rewrite(*rewrite);
                self.pass.answers.push(Answer::Done(answer, result));
            }
            Command::FoundKeys { keys, answer } => {
                let result = self.found_keys(&keys);
                self.pass.answers.push(Answer::Done(answer, result));
            }
            Command::Purge { name, before, answer } => {
                // What is dropped is looked up in the log, which must have what came before this.
                self.commit();
                let result = self.purge(&name, before);
                self.pass.answers.push(Answer::Offset(answer, result));
            }
            Command::PutSubscription { subscription, sieve, expect, answer } => {
                // A place by time is looked up in the log, which must have what came before this.
                self.commit();
                let result = self.put_subscription(subscription, sieve, expect);
                self.pass.answers.push(Answer::Revision(answer, result));
            }
            Command::DeleteSubscription { name, answer } => {
                let result = self.delete_subscription(&name);
                self.pass.answers.push(Answer::Done(answer, result));
            }
            Command::Put { key, value, expect, lease, answer } => {
                let result = self.put_leased(key, value, expect, lease);
                self.pass.answers.push(Answer::Revision(answer, result));
            }
            Command::Delete { key, expect, answer } => {
                let result = self.check(&key, expect).map(|()| self.delete_key(&key));
                self.pass.answers.push(Answer::Revision(answer, result));
            }
            Command::Grant { ttl, answer } => {
                let lease = self.grant(ttl);
                self.pass.answers.push(Answer::Lease(answer, Ok(lease)));
            }
            Command::KeepAlive { lease, answer } => {
                let result = self.leases.keep_alive(lease, self.now);
                self.pass.answers.push(Answer::Done(answer, result));
            }
            Command::Revoke { lease, answer } => {
                self.revoke(lease);
                self.pass.answers.push(Answer::Done(answer, Ok(())));
            }
        }
    }

    /// Nothing is written after a failure; whoever asks is told the first reason, in the order of asking.
    fn refuse(&mut self, command: Command, failure: &Error) {
        let failure = || failure.clone();
        let answer = match command {
            Command::Publish { batch, answer, .. } => {
                self.pass.bytes += batch.as_bytes().len();
                Answer::Publish(answer, Err(failure()))
            }
            Command::Settle { bytes, answer, .. } => {
                self.pass.bytes += bytes;
                Answer::Settled(answer, Err(failure()))
            }
            Command::Persist(_) | Command::Refused { .. } | Command::Recalled { .. } => return,
            Command::Operate { answer, .. } => Answer::Count(answer, Err(failure())),
            Command::PutTopic { answer, .. }
            | Command::PutSubscription { answer, .. }
            | Command::Put { answer, .. }
            | Command::Delete { answer, .. } => Answer::Revision(answer, Err(failure())),
            Command::Grant { answer, .. } => Answer::Lease(answer, Err(failure())),
            Command::Purge { answer, .. } => Answer::Offset(answer, Err(failure())),
            Command::DeleteTopic { answer, .. }
            | Command::DeleteSubscription { answer, .. }
            | Command::CloseSegment { answer, .. }
            | Command::Rewrite { answer, .. }
            | Command::FoundKeys { answer, .. }
            | Command::KeepAlive { answer, .. }
            | Command::Revoke { answer, .. } => Answer::Done(answer, Err(failure())),
        };
        self.pass.answers.push(answer);
    }

    fn require(&mut self, level: Durability) {
        self.pass.level = self.pass.level.max(level);
    }

    fn mark(&mut self, subscription: &Arc<SubscriptionState>) {
        if subscription.is_deleted() {
            return;
        }
        if self.marked.insert(subscription.id) {
            self.persist.push(subscription.clone());
        }
    }

    fn settle(
        &mut self,
        subscription: &Arc<SubscriptionState>,
        settlement: &Settlement,
        outputs: &[(Arc<TopicLog>, Batch)],
    ) -> Result<Settled> {
        if subscription.is_deleted() {
            return Err(Error::not_found("subscription", &subscription.name));
        }
        if let Some((log, _)) = outputs.iter().find(|(log, _)| log.is_deleted()) {
            return Err(Error::not_found("topic", &log.name));
        }
        let Some(settled) = subscription.settle(settlement, !outputs.is_empty(), self.now) else {
            return Err(Error::new(
                ErrorCode::Conflict,
                "nothing was settled or published: a delivery is stale (its lease ran out, or it was settled before)",
            )
            .hint("the message is delivered again; allow longer leases, or extend them"));
        };
        reach(Step::OutcomesApplied, || true);
        for (log, batch) in outputs {
            let durability = log.definition().0.durability;
            // Half of a settlement cannot be taken back: nothing of this pass may become durable.
            self.append(log, batch, durability).inspect_err(|error| self.shared.fail(error))?;
        }
        reach(Step::OutputsAppended, || true);
        if settled.settled > 0 || !outputs.is_empty() {
            self.mark(subscription);
            self.require(Durability::Fsync);
        }
        Ok(settled)
    }

    /// Whether an expectation about a key holds.
    fn check(&self, key: &str, expect: Expect) -> Result<()> {
        let found = self.keys.get(key).map(|state| state.revision);
        let wanted = match expect {
            Expect::Any => return Ok(()),
            Expect::Absent => None,
            Expect::At(revision) => Some(revision),
        };
        if found == wanted {
            return Ok(());
        }
        let is = found
            .map_or_else(|| "does not exist".to_owned(), |revision| format!("is at revision {revision}"));
        let should =
            wanted.map_or_else(|| "should not exist".to_owned(), |r| format!("should be at revision {r}"));
        Err(Error::new(ErrorCode::Conflict, format!("{key} {is}, and {should}"))
            .hint("read it again, and decide again"))
    }

    fn put_leased(
        &mut self,
        key: String,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<Revision> {
        self.check(&key, expect)?;
        if let Some(lease) = lease
            && !self.leases.hold(lease, &key, self.now)
        {
            return Err(Error::not_found("lease", lease.0).hint("it has run out; get a new one"));
        }
        Ok(self.put_key(key, value, lease))
    }

    fn next_revision(&mut self) -> Revision {
        self.numbers.revision += 1;
        self.numbers_changed = true;
        self.require(Durability::Fsync);
        self.numbers.revision
    }

    fn put_key(&mut self, key: String, value: Bytes, lease: Option<LeaseId>) -> Revision {
        let revision = self.next_revision();
        let mut stored = Vec::with_capacity(16 + value.len());
        stored.extend_from_slice(&revision.to_be_bytes());
        stored.extend_from_slice(&lease.map_or(0, |lease| lease.0).to_be_bytes());
        stored.extend_from_slice(&value);
        self.batch.put_cf(self.database.family("store"), &key, stored);
        let before = self.keys.insert(key.clone(), KeyState { revision, lease });
        if let Some(old) = before.and_then(|state| state.lease).filter(|old| Some(*old) != lease) {
            self.leases.let_go(old, &key);
        }
        self.pass.changes.push(Change::Put(Entry { key, value, revision }));
        revision
    }

    fn delete_key(&mut self, key: &str) -> Revision {
        let Some(state) = self.keys.remove(key) else { return self.numbers.revision };
        if let Some(lease) = state.lease {
            self.leases.let_go(lease, key);
        }
        let revision = self.next_revision();
        self.batch.delete_cf(self.database.family("store"), key);
        self.pass.changes.push(Change::Deleted { key: key.to_owned(), revision });
        revision
    }

    /// Writes the pass under construction and hands it to the syncer.
    fn commit(&mut self) {
        let mut result = Ok(());
        for log in self.touched.drain(..) {
            let mut writing = log.writing.lock();
            let (blocks, segments) = writing.finish();
            result = result.and(writing.sources.write(log.id, &mut self.batch));
            writing.newest.write(log.id, &mut self.batch, &self.database);
            log.set_bytes(writing.segments.bytes());
            drop(writing);
            let family = self.database.family("log");
            for (value, block) in &blocks {
                self.batch.put_cf(family, keys::log(log.id, block.range().start), value);
            }
            for segment in segments {
                let family = self.database.family("segments");
                self.batch.put_cf(family, keys::log(log.id, segment.first), segment.encode());
            }
            self.pass.blocks.push((log, blocks.into_iter().map(|(_, block)| block).collect()));
        }
        self.marked.clear();
        for subscription in self.persist.drain(..) {
            let mut groups = Groups { batch: &mut self.batch, database: &self.database };
            let effects = &mut self.pass.effects;
            let awaited = |awaited| effects.push(Effect::Synced(subscription.clone(), awaited));
            result = result.and(subscription.persist(&mut groups, awaited));
        }
        // Whatever it was that was persisted: what others wait for must get to the disk.
        if !self.pass.effects.is_empty() {
            self.require(Durability::Fsync);
        }
        if std::mem::take(&mut self.numbers_changed) {
            self.batch.put(keys::NEXT_KEY, self.numbers.encode());
        }
        if self.batch.is_empty() && self.pass.answers.is_empty() && self.pass.level == Durability::Memory {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let mut pass = std::mem::replace(&mut self.pass, Pass::empty());
        if self.shared.failure().is_none() {
            self.unsafe_writes = pass.level == Durability::Memory;
            reach(Step::BeforeWrite, || pass.settles());
            if let Err(error) = result.and_then(|()| self.database.write(batch)) {
                self.shared.fail(&error);
            }
            reach(Step::Written, || pass.settles());
        }
        if self.shared.failure().is_some() {
            pass.level = Durability::Memory;
        }
        if pass.is_small() && self.shared.passes.is_idle() {
            self.finishing.push(pass);
            self.shared.finishing.lock().finish(&self.shared, &self.database, &mut self.finishing);
        } else {
            self.shared.passes.push_waiting(pass);
        }
    }
}
