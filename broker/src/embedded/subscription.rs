//! One subscription at work: its groups (one for each topic), its consumers, and how messages reach them.
//!
//! [`SubscriptionState::take`] never touches the disk: it works on what is in memory and says what is missing,
//! so that its lock is held briefly. Whoever fetches loads that, puts it in with [`SubscriptionState::supply`],
//! and takes again.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::time::Duration;

use crossdock_topics::{
    ConsumerId, Delivery, DeliveryId, Error, Fetch, Outcome, Record, Revision, Settled, Settlement,
    Subscription, SubscriptionInfo, SubscriptionName, Timestamp, TopicName, TopicProgress,
};
use parking_lot::Mutex;
use rocksdb::WriteBatch;
use tokio::sync::Notify;

use super::block::Block;
use super::database::Database;
use super::keys;
use super::log::{READ_BYTES, Recent, TopicLog};
use crate::group::{Action, Event, Fresh, Group, Rules};

pub(super) struct SubscriptionState {
    pub(super) id: u32,
    pub(super) name: SubscriptionName,
    inner: Mutex<Inner>,
    /// Wakes one who waits in a fetch.
    available: Notify,
    waiting: AtomicUsize,
    deleted: AtomicBool,
    /// Whether the writer has been asked to persist what changed by itself.
    pub(super) persist_asked: AtomicBool,
}

struct Inner {
    definition: Arc<Subscription>,
    revision: Revision,
    members: Vec<Member>,
    /// Which topic comes first next time, so that none starves.
    turn: usize,
    consumers: HashSet<ConsumerId>,
    actions: Vec<Action>,
}

struct Member {
    log: Arc<TopicLog>,
    group: Group,
    reader: Reader,
    /// Changes that are to be persisted with the next write.
    pending: Vec<Action>,
}

/// What a take gave.
#[derive(Default)]
pub(super) struct Taken {
    /// Messages, ready to be handed out.
    pub(super) deliveries: Vec<Delivery>,
    /// Messages that are delivered again, whose records must be looked up.
    pub(super) again: Vec<(Arc<TopicLog>, DeliveryId, u32, u32)>,
    /// Where the log must be read before anything new can be delivered.
    pub(super) missing: Option<(Arc<TopicLog>, u64)>,
    /// When something becomes deliverable by itself.
    pub(super) wakes_at: Option<Timestamp>,
    /// Whether something changed that is to be persisted.
    pub(super) changed: bool,
    /// Whether the consumer has not joined, or has left: then there is nothing for it.
    pub(super) has_left: bool,
}

impl SubscriptionState {
    pub(super) fn new(id: u32, definition: Subscription, revision: Revision) -> Self {
        Self {
            id,
            name: definition.name.clone(),
            inner: Mutex::new(Inner {
                definition: Arc::new(definition),
                revision,
                members: Vec::new(),
                turn: 0,
                consumers: HashSet::new(),
                actions: Vec::new(),
            }),
            available: Notify::new(),
            waiting: AtomicUsize::new(0),
            deleted: AtomicBool::new(false),
            persist_asked: AtomicBool::new(false),
        }
    }

    pub(super) fn definition(&self) -> (Arc<Subscription>, Revision) {
        let inner = self.inner.lock();
        (inner.definition.clone(), inner.revision)
    }

    pub(super) fn redefine(&self, definition: Subscription, revision: Revision) {
        let mut inner = self.inner.lock();
        for member in &mut inner.members {
            member.group.set_rules(Rules::from(&definition));
        }
        inner.definition = Arc::new(definition);
        inner.revision = revision;
        drop(inner);
        self.wake();
    }

    /// Adds a topic with this group.
    pub(super) fn attach(&self, log: Arc<TopicLog>, group: Group) {
        let mut inner = self.inner.lock();
        if !inner.members.iter().any(|member| member.log.id == log.id) {
            inner.members.push(Member { log, group, reader: Reader::default(), pending: Vec::new() });
        }
        drop(inner);
        self.wake();
    }

    /// Removes the topics that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&TopicName) -> bool) -> Vec<Arc<TopicLog>> {
        let mut inner = self.inner.lock();
        let (kept, gone) =
            std::mem::take(&mut inner.members).into_iter().partition(|member| keep(&member.log.name));
        inner.members = kept;
        let gone: Vec<Member> = gone;
        gone.into_iter().map(|member| member.log).collect()
    }

    /// Removes one log, which may have the name of another one.
    pub(super) fn retain_logs(&self, gone: &TopicLog) {
        self.inner.lock().members.retain(|member| member.log.id != gone.id);
        self.wake();
    }

    pub(super) fn has_topic(&self, log: &TopicLog) -> bool {
        self.inner.lock().members.iter().any(|member| member.log.id == log.id)
    }

    pub(super) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.available.notify_waiters();
        self.available.notify_one();
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Wakes one who waits. Whoever is woken and takes something wakes the next one.
    pub(super) fn wake(&self) {
        // Either this sees the one who waits, or that one sees what it is woken for.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.available.notify_one();
        }
    }

    /// Wakes all who wait, so that they see that the broker closes.
    pub(super) fn wake_all(&self) {
        self.available.notify_waiters();
    }

    /// Announces that somebody waits, until the guard is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Waiting(self)
    }

    pub(super) fn available(&self) -> tokio::sync::futures::Notified<'_> {
        self.available.notified()
    }

    pub(super) fn join(&self, consumer: ConsumerId) {
        self.inner.lock().consumers.insert(consumer);
    }

    /// Gives back what the consumer holds.
    pub(super) fn leave(&self, consumer: ConsumerId, now: Timestamp) {
        let mut inner = self.inner.lock();
        if inner.consumers.remove(&consumer) {
            inner.each(|_| Some(Event::Leave(consumer)), now);
        }
        drop(inner);
        self.wake();
    }

    /// Takes messages as far as they are in memory.
    pub(super) fn take(&self, fetch: &Fetch, now: Timestamp) -> Taken {
        let mut taken = Taken::default();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        // One that has left gives nothing back any more.
        if fetch.consumer.is_some_and(|consumer| !inner.consumers.contains(&consumer)) {
            taken.has_left = true;
            return taken;
        }
        let lease = fetch.lease.unwrap_or(inner.definition.lease);
        let count = inner.members.len();
        let (mut left, mut bytes) = (fetch.max, fetch.max_bytes);
        inner.turn = inner.turn.wrapping_add(1);
        for index in 0..count {
            if left == 0 || bytes == 0 {
                break;
            }
            let member = &mut inner.members[(inner.turn.wrapping_add(index)) % count];
            // What expired or waits for its time is passed over, so one look may not be enough.
            loop {
                let first = member.group.next();
                let wanted = member.group.wants_fresh(left);
                let (fresh, records) = member.reader.peek(&member.log, first, wanted, bytes);
                if records.is_empty() && wanted > 0 && member.reader.is_behind {
                    taken.missing = Some((member.log.clone(), first));
                    // Whose turn it is comes first, even if that means to wait for the disk: otherwise a topic
                    // that always has something new keeps one that is behind from ever being read.
                    if taken.deliveries.is_empty() && taken.again.is_empty() {
                        return taken;
                    }
                }
                let event = Event::Take { consumer: fetch.consumer, max: left, lease, fresh: &fresh };
                member.group.apply(event, now, &mut inner.actions);
                for action in inner.actions.drain(..) {
                    let Action::Deliver { offset, token, attempt, deliveries } = action else {
                        member.pending.push(action);
                        continue;
                    };
                    left -= 1;
                    let id = DeliveryId { log: member.log.id, offset, token };
                    let at = offset.checked_sub(first).and_then(|at| usize::try_from(at).ok());
                    match at.and_then(|at| records.get(at)) {
                        Some((time, record, _)) => {
                            bytes = bytes.saturating_sub(record.size());
                            taken.deliveries.push(Delivery {
                                id,
                                topic: member.log.name.clone(),
                                offset,
                                time: *time,
                                attempt,
                                deliveries,
                                record: record.clone(),
                            });
                        }
                        None => taken.again.push((member.log.clone(), id, attempt, deliveries)),
                    }
                }
                let passed = usize::try_from(member.group.next() - first).unwrap_or(0);
                if let Some((_, _, position)) = passed.checked_sub(1).and_then(|last| records.get(last)) {
                    member.reader.at = Some((member.group.next(), *position));
                }
                if passed == 0 || left == 0 || bytes == 0 {
                    break;
                }
            }
            taken.changed |= !member.pending.is_empty();
            taken.wakes_at = taken.wakes_at.into_iter().chain(member.group.wakes_at()).min();
        }
        taken
    }

    /// Puts in blocks of a topic that were read from the disk because `asked` came next; gives whether to take
    /// again.
    pub(super) fn supply(&self, log: &TopicLog, asked: u64, blocks: Vec<Arc<Block>>) -> Result<bool, Error> {
        let mut inner = self.inner.lock();
        let Some(member) = inner.members.iter_mut().find(|member| member.log.id == log.id) else {
            return Ok(false);
        };
        // Retention may have dropped what the group would have read next; nothing else may.
        if log.head() > member.group.next() {
            member.group.apply(Event::Trimmed(log.head()), Timestamp(0), &mut member.pending);
        }
        let next = member.group.next();
        if blocks.iter().any(|block| block.range().contains(&next)) {
            member.reader = Reader { blocks: blocks.into(), at: None, is_behind: false };
            return Ok(true);
        }
        // Meanwhile the group has moved on, or begun anew, or the topic has gone.
        if next != asked || next >= log.tail() {
            return Ok(true);
        }
        if log.is_deleted() {
            return Ok(false);
        }
        Err(Error::internal(format!("topic {} has a hole in its log at offset {next}", log.name)))
    }

    /// Whether all these deliveries are held now, and each is named once: the second time it would be stale.
    fn all_live(inner: &Inner, outcomes: &[(DeliveryId, Outcome)], now: Timestamp) -> bool {
        let mut seen = HashSet::with_capacity(outcomes.len());
        outcomes.iter().all(|(id, _)| seen.insert(*id))
            && outcomes.iter().all(|(id, _)| {
                inner
                    .members
                    .iter()
                    .find(|member| member.log.id == id.log)
                    .is_some_and(|member| member.group.is_live(id.offset, id.token, now))
            })
    }

    /// Takes in outcomes. With `whole`, either all of them take effect or `None` is given.
    pub(super) fn settle(&self, settlement: &Settlement, whole: bool, now: Timestamp) -> Option<Settled> {
        let mut inner = self.inner.lock();
        if whole && !Self::all_live(&inner, &settlement.outcomes, now) {
            return None;
        }
        let mut settled = Settled::default();
        let by = settlement.by.as_deref();
        for (id, outcome) in &settlement.outcomes {
            let event = Event::Settle { offset: id.offset, token: id.token, outcome, by };
            if inner.one(*id, event, now) {
                settled.settled += 1;
            } else {
                settled.stale.push(*id);
            }
        }
        drop(inner);
        self.wake();
        Some(settled)
    }

    pub(super) fn extend(&self, deliveries: &[DeliveryId], lease: Duration, now: Timestamp) -> Settled {
        let mut inner = self.inner.lock();
        let mut settled = Settled::default();
        for id in deliveries {
            if inner.one(*id, Event::Extend { offset: id.offset, token: id.token, lease }, now) {
                settled.settled += 1;
            } else {
                settled.stale.push(*id);
            }
        }
        settled
    }

    /// A message that was to be delivered again cannot be.
    pub(super) fn forget(&self, id: DeliveryId, now: Timestamp) {
        self.inner.lock().one(id, Event::Forget(id.offset), now);
    }

    /// Retention dropped what lies before `head`.
    pub(super) fn trimmed(&self, log: &TopicLog, head: u64, now: Timestamp) {
        let mut inner = self.inner.lock();
        inner.each(|member| (member.log.id == log.id).then_some(Event::Trimmed(head)), now);
    }

    /// The first offset of a topic that is still needed, and what for.
    pub(super) fn needs(&self, log: &TopicLog) -> Option<(u64, &'static str)> {
        let inner = self.inner.lock();
        let group = &inner.members.iter().find(|member| member.log.id == log.id)?.group;
        let unsettled = group.first_unsettled();
        let dead = group.first_dead().filter(|dead| *dead < unsettled);
        Some(dead.map_or((unsettled, "has not settled"), |dead| (dead, "keeps as a dead letter")))
    }

    /// Takes back what was held for too long; gives whether anything changed.
    pub(super) fn tick(&self, now: Timestamp) -> bool {
        let mut inner = self.inner.lock();
        inner.each(|_| Some(Event::Tick), now);
        let changed = inner.members.iter().any(|member| !member.pending.is_empty());
        drop(inner);
        if changed {
            self.wake();
        }
        changed
    }

    /// The dead letters after a place, as (topic, offset), by topic name and offset.
    pub(super) fn dead(&self, after: Option<&(TopicName, u64)>, max: usize) -> Vec<(Arc<TopicLog>, u64)> {
        let inner = self.inner.lock();
        let mut members: Vec<&Member> = inner.members.iter().collect();
        members.sort_by(|a, b| a.log.name.cmp(&b.log.name));
        members
            .into_iter()
            .filter(|member| after.is_none_or(|(topic, _)| member.log.name >= *topic))
            .flat_map(|member| {
                let from = after.filter(|(topic, _)| *topic == member.log.name).map(|(_, offset)| *offset);
                member.group.dead_after(from).map(|offset| (member.log.clone(), offset))
            })
            .take(max)
            .collect()
    }

    /// Redrives or discards dead letters: these, or all; gives how many there were.
    pub(super) fn revive(&self, which: Option<&[(TopicName, u64)]>, redrive: bool, now: Timestamp) -> usize {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut done = 0;
        for member in &mut inner.members {
            let offsets: Vec<u64> = match which {
                None => member.group.dead_after(None).collect(),
                Some(these) => these.iter().filter(|(t, _)| *t == member.log.name).map(|(_, o)| *o).collect(),
            };
            for offset in offsets {
                let event = if redrive { Event::Redrive(offset) } else { Event::Discard(offset) };
                let before = member.pending.len();
                member.group.apply(event, now, &mut member.pending);
                done += usize::from(member.pending.len() > before);
            }
        }
        self.wake();
        done
    }

    /// Adds all that is to be persisted to a batch.
    pub(super) fn persist(&self, batch: &mut WriteBatch, database: &Database) -> Result<(), Error> {
        self.persist_asked.store(false, Ordering::Release);
        let mut inner = self.inner.lock();
        for member in &mut inner.members {
            if !member.pending.is_empty() {
                let pending = std::mem::take(&mut member.pending);
                write(self.id, member.log.id, &member.group, &pending, batch, database)?;
                member.pending = pending;
                member.pending.clear();
            }
        }
        Ok(())
    }

    pub(super) fn info(&self) -> SubscriptionInfo {
        let inner = self.inner.lock();
        let mut topics: Vec<TopicProgress> = inner
            .members
            .iter()
            .map(|member| {
                let (in_flight, set_aside, dead_letters) = member.group.counts();
                TopicProgress {
                    behind_key: 0,
                    parked_keys: 0,
                    topic: member.log.name.clone(),
                    next: member.group.next(),
                    waiting: member.log.tail().saturating_sub(member.group.next().max(member.log.head())),
                    in_flight: in_flight as u64,
                    set_aside: set_aside as u64,
                    dead_letters: dead_letters as u64,
                }
            })
            .collect();
        topics.sort_by(|a, b| a.topic.cmp(&b.topic));
        SubscriptionInfo {
            paused: false,
            subscription: (*inner.definition).clone(),
            revision: inner.revision,
            consumers: inner.consumers.len(),
            topics,
        }
    }
}

/// Adds a group's changes to a batch, and its place, which they always come with.
pub(super) fn write(
    subscription: u32,
    topic: u32,
    group: &Group,
    actions: &[Action],
    batch: &mut WriteBatch,
    database: &Database,
) -> Result<(), Error> {
    let family = database.family("groups");
    let key = |kind, offset| keys::message(subscription, topic, kind, offset);
    for action in actions {
        match action {
            Action::Record { offset, waiting } => {
                batch.put_cf(family, key(keys::WAITING, *offset), waiting.encode()?);
            }
            Action::Erase(offset) => batch.delete_cf(family, key(keys::WAITING, *offset)),
            Action::Bury { offset, dead } => batch.put_cf(family, key(keys::DEAD, *offset), dead.encode()?),
            Action::Exhume(offset) => batch.delete_cf(family, key(keys::DEAD, *offset)),
            Action::Deliver { .. } | Action::Place | Action::Stale | Action::Available => {}
        }
    }
    batch.put_cf(family, keys::place(subscription, topic), group.place().encode());
    Ok(())
}

impl Inner {
    /// One event for the group of a delivery; gives whether the delivery was held.
    fn one(&mut self, id: DeliveryId, event: Event<'_>, now: Timestamp) -> bool {
        let Some(member) = self.members.iter_mut().find(|member| member.log.id == id.log) else {
            return false;
        };
        member.group.apply(event, now, &mut self.actions);
        let mut held = true;
        for action in self.actions.drain(..) {
            match action {
                Action::Stale => held = false,
                Action::Available => {}
                action => member.pending.push(action),
            }
        }
        held
    }

    fn each<'a>(&mut self, event: impl Fn(&Member) -> Option<Event<'a>>, now: Timestamp) {
        for member in &mut self.members {
            if let Some(event) = event(member) {
                member.group.apply(event, now, &mut self.actions);
                member.pending.extend(self.actions.drain(..).filter(|action| *action != Action::Available));
            }
        }
    }
}

/// Counts who waits, for as long as it waits; then lets another one look, for it may have been woken for more
/// than it took.
pub(super) struct Waiting<'a>(&'a SubscriptionState);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.wake();
    }
}

/// The stretch of a log that comes next.
#[derive(Default)]
struct Reader {
    blocks: VecDeque<Arc<Block>>,
    /// Where in the first block the record of which offset starts.
    at: Option<(u64, usize)>,
    /// Whether what comes next is on the disk only.
    is_behind: bool,
}

/// A message that comes next: when it was stored, its record, and the position in its block after it.
type Next = (Timestamp, Record, usize);

impl Reader {
    /// The messages from `offset` on, without passing over them: at most `max`, and no further one once `bytes`
    /// are together.
    fn peek(
        &mut self,
        log: &TopicLog,
        mut offset: u64,
        max: usize,
        mut bytes: usize,
    ) -> (Vec<Fresh>, Vec<Next>) {
        self.is_behind = false;
        let (mut fresh, mut records) = (Vec::new(), Vec::new());
        while self.blocks.front().is_some_and(|block| block.range().end <= offset) {
            self.blocks.pop_front();
        }
        let mut index = 0;
        while records.len() < max && bytes > 0 {
            let Some(block) = self.blocks.get(index) else {
                match log.recent(offset, READ_BYTES) {
                    Recent::Blocks(blocks) => {
                        self.blocks.extend(blocks);
                        continue;
                    }
                    Recent::Older => self.is_behind = true,
                    Recent::End => {}
                }
                break;
            };
            if !block.range().contains(&offset) {
                // Something else than what comes next: read again from here.
                self.blocks.truncate(index);
                continue;
            }
            // The remembered position is in the block of the message before it.
            let known = self.at.filter(|(at, _)| *at == offset && offset > block.range().start);
            let known = known.map(|(_, position)| position).or_else(|| block.position(offset));
            let Some(mut position) = known else { break };
            while records.len() < max && bytes > 0 {
                let Some((record, after)) = block.record_at(position) else { break };
                bytes = bytes.saturating_sub(record.size());
                fresh.push(Fresh {
                    offset,
                    expires_at: record.expires_at(),
                    deliver_at: record.deliver_at(),
                });
                records.push((block.time(), record, after));
                position = after;
                offset += 1;
            }
            index += 1;
        }
        (fresh, records)
    }
}
