//! One subscription at work: its definition, its consumers, and what becomes of what they were given. How they are
//! given something is in [`super::take`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::time::Duration;

use crossdock_topics::{
    ConsumerId, DeliveryId, Error, ErrorCode, Order, Outcome, Revision, Settled, Settlement, Sharing,
    Subscription, SubscriptionInfo, SubscriptionName, Timestamp, TopicName, TopicProgress,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::feed::Feed;
use super::members::{Awaited, Listed, Listing, Member, Members};
use super::reader::Peeked;
use super::sieve::Sieve;
use super::sift::Verdicts;
use super::{Keep, keys};
use crate::group::{Action, Event, Facts, Group, Rules, Slots, Standing, Waiting};

pub(crate) struct SubscriptionState {
    pub(crate) id: u32,
    pub(crate) name: SubscriptionName,
    pub(crate) inner: Mutex<Inner>,
    /// Which topics may have something to take.
    pub(crate) listing: Listing,
    /// Wakes those who wait in a fetch.
    available: Notify,
    pub(crate) waiting: AtomicUsize,
    /// Whether it matters who of them is woken; then all are.
    is_particular: AtomicBool,
    deleted: AtomicBool,
    /// Whether the writer has been asked to persist what changed by itself.
    pub(crate) persist_asked: AtomicBool,
}

pub(crate) struct Inner {
    pub(crate) definition: Arc<Subscription>,
    revision: Revision,
    /// Its filter.
    pub(crate) sieve: Option<Arc<Sieve>>,
    pub(crate) is_paused: bool,
    pub(crate) members: Members,
    /// Those who have joined, the first one first.
    pub(crate) consumers: BTreeSet<ConsumerId>,
    /// Whose the keys are.
    pub(crate) slots: Slots,
    pub(crate) actions: Vec<Action>,
    pub(crate) peeked: Peeked,
}

impl SubscriptionState {
    pub(crate) fn new(
        id: u32,
        definition: Subscription,
        sieve: Option<Arc<Sieve>>,
        revision: Revision,
    ) -> Self {
        Self {
            id,
            name: definition.name.clone(),
            is_particular: AtomicBool::new(is_particular(&definition)),
            inner: Mutex::new(Inner {
                definition: Arc::new(definition),
                revision,
                sieve,
                is_paused: false,
                members: Members::default(),
                consumers: BTreeSet::new(),
                slots: Slots::default(),
                actions: Vec::new(),
                peeked: Peeked::default(),
            }),
            listing: Listing::default(),
            available: Notify::new(),
            waiting: AtomicUsize::new(0),
            deleted: AtomicBool::new(false),
            persist_asked: AtomicBool::new(false),
        }
    }

    pub(crate) fn definition(&self) -> (Arc<Subscription>, Revision) {
        let inner = self.inner.lock();
        (inner.definition.clone(), inner.revision)
    }

    /// Holds back what is not settled until the next write is durable; gives those messages of which no key is known.
    pub(crate) fn hold(&self, now: Timestamp) -> Vec<(Arc<Feed>, Vec<u64>)> {
        let mut inner = self.inner.lock();
        inner.each(&self.listing, |_| Event::Hold, now);
        inner.members.iter().map(|member| (member.log.clone(), member.group.unkeyed())).collect()
    }

    /// Goes by another definition. Where order by key begins, `facts` are those of what [`SubscriptionState::hold`] gave, by
    /// topic.
    pub(crate) fn redefine(
        &self,
        definition: Subscription,
        sieve: Option<Arc<Sieve>>,
        revision: Revision,
        facts: &HashMap<u32, BTreeMap<u64, Facts>>,
        now: Timestamp,
    ) {
        let none = BTreeMap::new();
        let mut inner = self.inner.lock();
        inner.sieve = sieve;
        for id in inner.members.ids() {
            if let Some(member) = inner.members.get_mut(id) {
                member.reader.verdicts = Verdicts::default();
            }
        }
        let rules = Rules::from(&definition);
        self.is_particular.store(is_particular(&definition), Ordering::SeqCst);
        inner.definition = Arc::new(definition);
        inner.revision = revision;
        inner.share_out();
        let redefine = |member: &Member| {
            let facts = facts.get(&member.log.id).unwrap_or(&none);
            Event::Redefine { rules: &rules, facts }
        };
        inner.each(&self.listing, redefine, now);
        for member in inner.members.iter() {
            self.listing.list(&member.listed);
        }
        drop(inner);
        self.wake_all();
    }

    /// Adds a topic with this group.
    pub(crate) fn attach(self: &Arc<Self>, log: &Arc<Feed>, group: Group) {
        self.attach_with(log, group, Vec::new());
    }

    /// Adds a topic with this group, and what of it is still to be persisted.
    pub(crate) fn attach_with(self: &Arc<Self>, log: &Arc<Feed>, group: Group, pending: Vec<Action>) {
        let mut inner = self.inner.lock();
        if inner.members.get(log.id).is_some() {
            return;
        }
        let listed = inner.members.insert(log.clone(), group, pending);
        self.listing.list(&listed);
        drop(inner);
        log.attach(self, listed);
        self.wake();
    }

    /// Removes the topics that `keep` does not want.
    pub(crate) fn retain(&self, keep: impl Fn(&TopicName) -> bool) -> Vec<Arc<Feed>> {
        let mut inner = self.inner.lock();
        let gone: Vec<u32> = inner.members.iter().filter(|m| !keep(&m.log.name)).map(|m| m.log.id).collect();
        gone.into_iter().filter_map(|id| inner.members.remove(id)).map(|member| member.log).collect()
    }

    /// Removes one log, which may have the name of another one.
    pub(crate) fn retain_logs(&self, gone: &Feed) {
        self.inner.lock().members.remove(gone.id);
        self.wake();
    }

    pub(crate) fn has_topic(&self, log: &Feed) -> bool {
        self.inner.lock().members.get(log.id).is_some()
    }

    pub(crate) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.available.notify_waiters();
        self.available.notify_one();
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// A topic has moved: there is something new in it.
    pub(crate) fn moved(&self, listed: &Listed) {
        self.listing.list(listed);
        self.wake();
    }

    /// Wakes one who waits; whoever is woken and takes something wakes the next one. Where messages are not for
    /// everybody, all are woken.
    pub(crate) fn wake(&self) {
        // Either this sees the one who waits, or that one sees what it is woken for.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        if self.is_particular.load(Ordering::SeqCst) {
            self.available.notify_waiters();
        } else {
            self.available.notify_one();
        }
    }

    /// Wakes all who wait, so that they see that the broker closes.
    pub(crate) fn wake_all(&self) {
        self.available.notify_waiters();
    }

    /// Announces that somebody waits, until the guard is dropped.
    pub(crate) fn wait(&self) -> Attending<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Attending(self)
    }

    pub(crate) fn available(&self) -> tokio::sync::futures::Notified<'_> {
        self.available.notified()
    }

    /// Lets a consumer join; its number is drawn when nobody else can, so that numbers follow the order of joining.
    ///
    /// # Errors
    /// `Conflict` when there is room for one only.
    pub(crate) fn join(&self, number: impl FnOnce() -> ConsumerId) -> Result<ConsumerId, Error> {
        let mut inner = self.inner.lock();
        if inner.definition.sharing == Sharing::Exclusive && !inner.consumers.is_empty() {
            let message = format!("subscription {} is exclusive, and another consumer has joined", self.name);
            return Err(Error::new(ErrorCode::Conflict, message)
                .hint("wait until it has left, or let the subscription be shared or failover"));
        }
        let consumer = number();
        inner.consumers.insert(consumer);
        inner.share_out();
        Ok(consumer)
    }

    /// Gives back what the consumer holds.
    pub(crate) fn leave(&self, consumer: ConsumerId, now: Timestamp) {
        let mut inner = self.inner.lock();
        if inner.consumers.remove(&consumer) {
            inner.share_out();
            inner.each(&self.listing, |_| Event::Leave(consumer), now);
            // What was for the one who left is for others now.
            if is_particular(&inner.definition) {
                for member in inner.members.iter().filter(|member| member.group.has_ready()) {
                    self.listing.list(&member.listed);
                }
            }
        }
        drop(inner);
        self.wake();
    }

    /// Whether all these deliveries are held now, and each is named once: the second time it would be stale.
    fn all_live(inner: &Inner, outcomes: &[(DeliveryId, Outcome)], now: Timestamp) -> bool {
        let mut seen = HashSet::with_capacity(outcomes.len());
        outcomes.iter().all(|(id, _)| seen.insert(*id))
            && outcomes.iter().all(|(id, _)| {
                let member = inner.members.get(id.log);
                member.is_some_and(|member| member.group.is_live(id.offset, id.token, now))
            })
    }

    /// Lets deliveries be held for at least `lease` from now on, if all of them are held now and named once; gives how
    /// often each has failed.
    pub(crate) fn hold_on(
        &self,
        outcomes: &[(DeliveryId, Outcome)],
        lease: Duration,
        now: Timestamp,
    ) -> Option<Vec<u32>> {
        let mut inner = self.inner.lock();
        if !Self::all_live(&inner, outcomes, now) {
            return None;
        }
        let mut failures = Vec::with_capacity(outcomes.len());
        for (id, _) in outcomes {
            let (standing, _, failed) = inner.members.get(id.log)?.group.standing(id.offset);
            failures.push(failed);
            if matches!(standing, Standing::InFlight { until, .. } if until < now.after(lease)) {
                let event = Event::Extend { offset: id.offset, token: id.token, lease };
                inner.members.apply(id.log, event, now, &self.listing);
            }
        }
        Some(failures)
    }

    /// Takes in outcomes. With `whole`, either all of them take effect or `None` is given.
    pub(crate) fn settle(&self, settlement: &Settlement, whole: bool, now: Timestamp) -> Option<Settled> {
        let mut inner = self.inner.lock();
        if whole && !Self::all_live(&inner, &settlement.outcomes, now) {
            return None;
        }
        let mut settled = Settled::default();
        let by = settlement.by.as_deref();
        for (id, outcome) in &settlement.outcomes {
            let event = Event::Settle { offset: id.offset, token: id.token, outcome, by };
            if inner.members.absorb(id.log, event, now) {
                settled.settled += 1;
            } else {
                settled.stale.push(*id);
            }
        }
        for topic in settlement.outcomes.chunk_by(|(a, _), (b, _)| a.log == b.log) {
            inner.members.conclude(topic[0].0.log, &self.listing);
        }
        drop(inner);
        self.wake();
        Some(settled)
    }

    pub(crate) fn extend(&self, deliveries: &[DeliveryId], lease: Duration, now: Timestamp) -> Settled {
        let mut inner = self.inner.lock();
        let mut settled = Settled::default();
        for id in deliveries {
            let event = Event::Extend { offset: id.offset, token: id.token, lease };
            if inner.members.apply(id.log, event, now, &self.listing) {
                settled.settled += 1;
            } else {
                settled.stale.push(*id);
            }
        }
        settled
    }

    /// A message that was to be delivered again cannot be.
    pub(crate) fn forget(&self, id: DeliveryId, now: Timestamp) {
        self.inner.lock().members.apply(id.log, Event::Forget(id.offset), now, &self.listing);
        self.wake();
    }

    /// Retention dropped what lies before `head`.
    pub(crate) fn trimmed(&self, log: &Feed, head: u64, now: Timestamp) {
        self.inner.lock().members.apply(log.id, Event::Trimmed(head), now, &self.listing);
    }

    /// Compaction has left nothing before `head`. What consumers hold of it they may settle.
    pub(crate) fn compacted_to(&self, log: &Feed, head: u64, now: Timestamp) {
        self.inner.lock().members.apply(log.id, Event::Compacted(head), now, &self.listing);
    }

    /// Compaction took out these messages, in order: what is kept of them as dead letters goes too. Others that are
    /// not settled are found to be gone when their turn comes.
    pub(crate) fn compacted(&self, log: &Feed, removed: &[u64], now: Timestamp) {
        let (Some(first), Some(last)) = (removed.first(), removed.last()) else { return };
        let mut inner = self.inner.lock();
        let by_key = inner.definition.order == Order::Key;
        let Some(member) = inner.members.get(log.id) else { return };
        // A later message of a key may not be seen before it is durable that an earlier one is gone.
        let hold = by_key && member.group.first_unsettled() <= *last;
        let dead = member.group.dead_after(first.checked_sub(1)).take_while(|offset| offset <= last);
        let gone: Vec<u64> = dead.filter(|offset| removed.binary_search(offset).is_ok()).collect();
        for offset in gone {
            inner.members.apply(log.id, Event::Discard(offset), now, &self.listing);
        }
        if hold {
            inner.members.apply(log.id, Event::Hold, now, &self.listing);
        }
    }

    /// The dead letters of a topic.
    pub(crate) fn dead_in(&self, log: &Feed) -> Vec<u64> {
        let inner = self.inner.lock();
        inner.members.get(log.id).map(|member| member.group.dead_after(None).collect()).unwrap_or_default()
    }

    /// The first offset of a topic that is still needed, and what for.
    pub(crate) fn needs(&self, log: &Feed) -> Option<(u64, &'static str)> {
        let inner = self.inner.lock();
        let group = &inner.members.get(log.id)?.group;
        let unsettled = group.first_unsettled();
        let dead = group.first_dead().filter(|dead| *dead < unsettled);
        Some(dead.map_or((unsettled, "has not settled"), |dead| (dead, "keeps as a dead letter")))
    }

    /// Takes back what was held for too long; gives whether anything changed.
    pub(crate) fn tick(&self, now: Timestamp) -> bool {
        let mut inner = self.inner.lock();
        inner.members.tick(now, &self.listing);
        let changed = inner.members.is_dirty();
        drop(inner);
        if changed {
            self.wake();
        }
        changed
    }

    /// The dead letters after a place, as (topic, offset), by topic name and offset.
    pub(crate) fn dead(&self, after: Option<&(TopicName, u64)>, max: usize) -> Vec<(Arc<Feed>, u64)> {
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

    /// Those of these that are dead letters, each once, by log and offset.
    pub(crate) fn dead_among(&self, these: &[(TopicName, u64)]) -> Vec<(u32, u64)> {
        let inner = self.inner.lock();
        let logs: HashMap<&TopicName, &Member> = inner.members.iter().map(|m| (&m.log.name, m)).collect();
        let dead = these.iter().filter_map(|(topic, offset)| {
            let member = logs.get(topic)?;
            member.group.is_dead(*offset).then_some((member.log.id, *offset))
        });
        let mut seen = HashSet::new();
        dead.filter(|letter| seen.insert(*letter)).collect()
    }

    /// How many dead letters there are.
    pub(crate) fn count_dead(&self) -> usize {
        self.inner.lock().members.iter().map(|member| member.group.tally().dead).sum()
    }

    /// Redrives or discards dead letters, by topic; gives how many there were.
    pub(crate) fn revive<'a>(&self, events: impl Iterator<Item = (u32, Event<'a>)>, now: Timestamp) -> usize {
        let mut inner = self.inner.lock();
        let done = events.filter(|(id, event)| inner.members.apply(*id, *event, now, &self.listing)).count();
        drop(inner);
        self.wake();
        done
    }

    /// From now on something else is delivered in the place of a dead letter's message; `false` when it is none.
    pub(crate) fn mend(&self, log: u32, offset: u64) -> bool {
        let mut inner = self.inner.lock();
        let Some(member) = inner.members.get_mut(log) else { return false };
        let is_dead = member.group.is_dead(offset);
        if is_dead {
            member.mended.insert(offset);
        }
        is_dead
    }

    /// Whether something else is delivered in a message's place.
    pub(crate) fn is_mended(&self, log: &Feed, offset: u64) -> bool {
        self.inner.lock().members.get(log.id).is_some_and(|member| member.mended.contains(&offset))
    }

    /// Takes in what was mended before.
    pub(crate) fn restore_mended(&self, log: &Feed, offsets: BTreeSet<u64>) {
        if let Some(member) = self.inner.lock().members.get_mut(log.id) {
            member.mended = offsets;
        }
    }

    /// Pauses or resumes; gives whether that changed anything.
    pub(crate) fn set_paused(&self, paused: bool) -> bool {
        let was = std::mem::replace(&mut self.inner.lock().is_paused, paused);
        self.wake_all();
        was != paused
    }

    /// The topics it reads, or the one of this name.
    pub(crate) fn feeds(&self, topic: Option<&TopicName>) -> Vec<Arc<Feed>> {
        let inner = self.inner.lock();
        let logs = inner.members.iter().map(|member| &member.log);
        logs.filter(|log| topic.is_none_or(|topic| log.name == *topic)).cloned().collect()
    }

    /// Moves its place in these topics.
    pub(crate) fn seek(&self, places: &[(u32, u64)], now: Timestamp) {
        let mut inner = self.inner.lock();
        for (id, offset) in places {
            inner.members.apply(*id, Event::Seek(*offset), now, &self.listing);
        }
        drop(inner);
        self.wake_all();
    }

    /// A topic ends before what was known of it: nothing from `to` on has been seen, and what was read of it is not what
    /// lies there.
    pub(crate) fn shortened(&self, log: u32, to: u64, now: Timestamp) {
        let mut inner = self.inner.lock();
        let Some(member) = inner.members.get_mut(log) else { return };
        member.reader.begin_again();
        self.listing.list(&member.listed);
        inner.members.apply(log, Event::Shortened(to), now, &self.listing);
        drop(inner);
        self.wake_all();
    }

    /// Lets parked keys go on, with their messages or without; gives how many were parked.
    pub(crate) fn release_keys(
        &self,
        parked: &[(u32, u64, Waiting)],
        give_up: bool,
        now: Timestamp,
    ) -> usize {
        let mut inner = self.inner.lock();
        let mut done = 0;
        for (id, offset, known) in parked {
            let (reason, by) = (known.reason.as_str(), known.by.as_deref());
            let event = match give_up {
                true => Event::GiveUpKey { offset: *offset, reason, by },
                false => Event::ReleaseKey(*offset),
            };
            done += usize::from(inner.members.apply(*id, event, now, &self.listing));
        }
        drop(inner);
        self.wake();
        done
    }

    /// Adds all that is to be persisted to what is kept; tells `awaited` what must be [`SubscriptionState::synced`] when
    /// it is durable.
    pub(crate) fn persist(&self, kept: &mut impl Keep, awaited: impl FnMut(Awaited)) -> Result<(), Error> {
        self.persist_asked.store(false, Ordering::Release);
        self.inner.lock().members.persist(self.id, kept, awaited)
    }

    /// Adds what is with consumers to what is kept, for whoever hears from now on what becomes of it; tells `handed` those
    /// deliveries before anything else can be taken or extended.
    pub(crate) fn keep_held(
        &self,
        kept: &mut impl Keep,
        handed: impl FnOnce(HashSet<DeliveryId>),
    ) -> Result<(), Error> {
        let mut deliveries = HashSet::new();
        let inner = self.inner.lock();
        for member in inner.members.iter() {
            let log = member.log.id;
            // What has only been handed out need not have been kept.
            kept.put(&keys::place(self.id, log), &member.group.encoded_place());
            for (offset, held) in member.group.held() {
                kept.put(&keys::message(self.id, log, keys::HELD, offset), &held.encode()?);
                deliveries.insert(DeliveryId { log, offset, token: held.token });
            }
        }
        handed(deliveries);
        drop(inner);
        Ok(())
    }

    /// What was persisted is durable: what waited for that can be delivered.
    pub(crate) fn synced(&self, awaited: &Awaited, now: Timestamp) {
        self.inner.lock().members.synced(awaited, now, &self.listing);
        self.wake();
    }

    pub(crate) fn info(&self) -> SubscriptionInfo {
        let inner = self.inner.lock();
        let mut topics: Vec<TopicProgress> = inner
            .members
            .iter()
            .map(|member| {
                let (tally, next) = (member.group.tally(), member.group.next());
                let unseen = member.log.tail().saturating_sub(next.max(member.log.head()));
                TopicProgress {
                    topic: member.log.name.clone(),
                    next,
                    waiting: unseen + tally.ahead as u64,
                    in_flight: tally.in_flight as u64,
                    set_aside: tally.set_aside as u64,
                    behind_key: tally.behind_key as u64,
                    parked_keys: tally.parked_keys as u64,
                    dead_letters: tally.dead as u64,
                }
            })
            .collect();
        topics.sort_by(|a, b| a.topic.cmp(&b.topic));
        SubscriptionInfo {
            paused: inner.is_paused,
            subscription: (*inner.definition).clone(),
            revision: inner.revision,
            consumers: inner.consumers.len(),
            topics,
        }
    }
}

/// Whether messages are for some consumers and not for others.
fn is_particular(definition: &Subscription) -> bool {
    definition.order == Order::Key || definition.sharing != Sharing::Shared
}

impl Inner {
    /// Gives each slot of keys to one of those who have joined.
    fn share_out(&mut self) {
        self.slots = match (self.definition.order, self.definition.sharing) {
            (Order::None, _) => Slots::default(),
            (Order::Key, Sharing::Shared) => Slots::among(&self.consumers),
            (Order::Key, _) => Slots::among(self.consumers.first()),
        };
    }

    /// Applies an event to the group of each topic.
    fn each<'a>(&mut self, listing: &Listing, event: impl Fn(&Member) -> Event<'a>, now: Timestamp) {
        for id in self.members.ids() {
            if let Some(event) = self.members.get(id).map(&event) {
                self.members.apply(id, event, now, listing);
            }
        }
    }
}

/// Counts who waits, for as long as it waits; then lets another one look, for it may have been woken for more
/// than it took.
pub(crate) struct Attending<'a>(&'a SubscriptionState);

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        // Where all are woken, the others have been.
        if !self.0.is_particular.load(Ordering::SeqCst) {
            self.0.wake();
        }
    }
}
