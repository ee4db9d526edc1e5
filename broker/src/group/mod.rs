//! A subscription's place in one topic, as a pure state machine: no I/O, no clock, no async.
//!
//! Each offset below `next` is in exactly one state:
//!
//! * **done**: acknowledged, expired, or dropped by retention. Nothing is remembered of it.
//! * **in flight**: with a consumer, on a lease.
//! * **parked**: to be delivered again, now (given back) or when it is due (backoff, delivery time).
//! * **dead**: given up; only its offset is remembered here.
//!
//! What must survive a restart is told as [`Action`]s to persist: a *record* for each message that failed or
//! waits for its time, a *dead letter* for each that was given up, and the [`Place`], which is `next` with the
//! offsets below it that are open without a record. So the cost of a settlement does not depend on how many
//! messages failed before it.

mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossdock_topics::{ConsumerId, Outcome, Subscription, Timestamp};

pub use place::{Dead, Place, Waiting};

/// A message that has not been looked at yet: what the group must know to decide about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Its offset.
    pub offset: u64,
    /// After this moment it is not delivered any more.
    pub expires_at: Option<Timestamp>,
    /// Before this moment it is not delivered.
    pub deliver_at: Option<Timestamp>,
}

/// What happens to a group.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A consumer takes up to `max` messages: those that are due, then from `fresh`, which are the stored
    /// messages from [`Group::next`] on.
    Take {
        /// Who takes them.
        consumer: Option<ConsumerId>,
        /// How many at most.
        max: usize,
        /// How long they may be held.
        lease: Duration,
        /// What lies in the log from `next` on.
        fresh: &'a [Fresh],
    },
    /// A consumer says what became of a delivery.
    Settle {
        /// The message.
        offset: u64,
        /// The delivery's token.
        token: u64,
        /// What became of it.
        outcome: &'a Outcome,
        /// Who says so.
        by: Option<&'a str>,
    },
    /// A consumer wants to hold a delivery for longer.
    Extend {
        /// The message.
        offset: u64,
        /// The delivery's token.
        token: u64,
        /// For how long from now.
        lease: Duration,
    },
    /// A consumer is gone; what it held is given back.
    Leave(ConsumerId),
    /// Nothing but time has passed.
    Tick,
    /// A message cannot be delivered any more (expired, or not in the log).
    Forget(u64),
    /// A dead letter is delivered again.
    Redrive(u64),
    /// A dead letter is forgotten.
    Discard(u64),
    /// Retention dropped everything before this offset.
    Trimmed(u64),
}

/// What follows from an event, for the engine to carry out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand the message to the consumer that takes.
    Deliver {
        /// The message.
        offset: u64,
        /// The delivery's token.
        token: u64,
        /// One more than its failures.
        attempt: u32,
        /// How often it has been delivered, with this time.
        deliveries: u32,
    },
    /// Persist what is known of a message that waits.
    Record {
        /// The message.
        offset: u64,
        /// What is known.
        waiting: Waiting,
    },
    /// Delete what was persisted of a message that waited.
    Erase(u64),
    /// Persist a dead letter.
    Bury {
        /// The message.
        offset: u64,
        /// What is known.
        dead: Dead,
    },
    /// Delete a dead letter.
    Exhume(u64),
    /// Persist [`Group::place`].
    Place,
    /// The delivery is not (or no longer) held; nothing was done.
    Stale,
    /// Something can be delivered now that could not before: wake a consumer.
    Available,
}

#[derive(Clone, Debug)]
struct Flight {
    token: u64,
    consumer: Option<ConsumerId>,
    until: Timestamp,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    deliveries: u32,
    failures: u32,
    recorded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Parked {
    due: Timestamp,
    counts: Counts,
}

/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 4096;
/// The longest name of who failed that is kept, in bytes.
const MAX_BY: usize = 200;

/// Due before everything else: given back, not failed.
const AT_ONCE: Timestamp = Timestamp(i64::MIN);

/// The state machine. See the module for its states.
#[derive(Clone, Debug)]
pub struct Group {
    rules: Rules,
    next: u64,
    in_flight: BTreeMap<u64, Flight>,
    /// No lease runs out before this moment.
    earliest_lease: Timestamp,
    parked: BTreeMap<u64, Parked>,
    due: BTreeSet<(Timestamp, u64)>,
    /// Which of the parked have no record.
    unrecorded: BTreeSet<u64>,
    dead: BTreeSet<u64>,
    token: u64,
}

/// What of a subscription's definition governs its groups.
#[derive(Clone, Debug)]
pub struct Rules {
    max_failures: u32,
    backoff: crossdock_topics::Backoff,
    max_in_flight: usize,
    max_parked: usize,
}

impl From<&Subscription> for Rules {
    fn from(subscription: &Subscription) -> Self {
        Self {
            max_failures: subscription.max_failures,
            backoff: subscription.backoff,
            max_in_flight: subscription.max_in_flight as usize,
            max_parked: Subscription::MAX_SET_ASIDE,
        }
    }
}

impl Group {
    /// A group as it was persisted: its place, and its records and dead letters. `token` must be larger than
    /// any token of an earlier life of the same group.
    #[must_use]
    pub fn new(
        rules: Rules,
        place: Place,
        records: impl IntoIterator<Item = (u64, Waiting)>,
        dead: impl IntoIterator<Item = u64>,
        token: u64,
    ) -> Self {
        let mut group = Self {
            rules,
            next: place.next,
            in_flight: BTreeMap::new(),
            earliest_lease: Timestamp(i64::MAX),
            parked: BTreeMap::new(),
            due: BTreeSet::new(),
            unrecorded: BTreeSet::new(),
            dead: dead.into_iter().collect(),
            token,
        };
        for offset in place.open {
            group.park(offset, AT_ONCE, Counts::default());
        }
        for (offset, waiting) in records {
            let counts =
                Counts { deliveries: waiting.deliveries, failures: waiting.failures, recorded: true };
            group.park(offset, waiting.due, counts);
        }
        group
    }

    /// Changes the rules for what happens from now on.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// The first offset that has not been looked at.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The first offset that retention must keep for this group: one that is not settled, or a dead letter.
    #[must_use]
    pub fn needs(&self) -> u64 {
        self.first_dead().map_or_else(|| self.first_unsettled(), |dead| dead.min(self.first_unsettled()))
    }

    /// The first offset that is not settled.
    #[must_use]
    pub fn first_unsettled(&self) -> u64 {
        let firsts = [self.in_flight.keys().next(), self.parked.keys().next()];
        firsts.into_iter().flatten().copied().min().unwrap_or(self.next)
    }

    /// The first dead letter.
    #[must_use]
    pub fn first_dead(&self) -> Option<u64> {
        self.dead.first().copied()
    }

    /// How many messages are in flight, parked and dead.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.in_flight.len(), self.parked.len(), self.dead.len())
    }

    /// The dead letters after `offset` (or from the first), in order.
    pub fn dead_after(&self, offset: Option<u64>) -> impl Iterator<Item = u64> + '_ {
        let from = match offset {
            Some(offset) => std::ops::Bound::Excluded(offset),
            None => std::ops::Bound::Unbounded,
        };
        self.dead.range((from, std::ops::Bound::Unbounded)).copied()
    }

    /// Whether this delivery is held, its lease included.
    #[must_use]
    pub fn is_live(&self, offset: u64, token: u64, now: Timestamp) -> bool {
        self.in_flight.get(&offset).is_some_and(|flight| flight.token == token && flight.until > now)
    }

    /// How many fresh messages a [`Event::Take`] of `max` could use now.
    #[must_use]
    pub fn wants_fresh(&self, max: usize) -> usize {
        if self.parked.len() >= self.rules.max_parked {
            return 0;
        }
        max.min(self.rules.max_in_flight.saturating_sub(self.in_flight.len()))
    }

    /// The next moment at which something becomes deliverable by itself.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Timestamp> {
        // With no room in flight nothing becomes deliverable before something is settled.
        let room = self.in_flight.len() < self.rules.max_in_flight;
        let due = self.due.first().map(|(due, _)| *due).filter(|_| room);
        let lease = (!self.in_flight.is_empty()).then_some(self.earliest_lease);
        due.into_iter().chain(lease).min()
    }

    /// What is to be persisted on [`Action::Place`].
    #[must_use]
    pub fn place(&self) -> Place {
        let flying = self.in_flight.iter().filter(|(_, f)| !f.counts.recorded).map(|(offset, _)| *offset);
        let mut open: Vec<u64> = flying.chain(self.unrecorded.iter().copied()).collect();
        open.sort_unstable();
        Place { next: self.next, open }
    }

    /// Takes in what happened at `now` and appends what follows to `actions`.
    pub fn apply(&mut self, event: Event<'_>, now: Timestamp, actions: &mut Vec<Action>) {
        match event {
            Event::Take { consumer, max, lease, fresh } => {
                self.take(consumer, max, lease, fresh, now, actions)
            }
            Event::Settle { offset, token, outcome, by } => {
                self.expire_leases(now, actions);
                match self.in_flight.get(&offset) {
                    Some(flight) if flight.token == token => {
                        let counts = flight.counts;
                        self.in_flight.remove(&offset);
                        self.settle(offset, counts, outcome, by, now, actions);
                    }
                    _ => actions.push(Action::Stale),
                }
            }
            Event::Extend { offset, token, lease } => {
                self.expire_leases(now, actions);
                match self.in_flight.get_mut(&offset) {
                    Some(flight) if flight.token == token => {
                        flight.until = now.after(lease);
                        self.earliest_lease = self.earliest_lease.min(flight.until);
                    }
                    _ => actions.push(Action::Stale),
                }
            }
            Event::Leave(consumer) => {
                let held: Vec<u64> = self
                    .in_flight
                    .iter()
                    .filter(|(_, flight)| flight.consumer == Some(consumer))
                    .map(|(offset, _)| *offset)
                    .collect();
                for offset in held {
                    if let Some(flight) = self.in_flight.remove(&offset) {
                        self.park(offset, AT_ONCE, flight.counts);
                        actions.push(Action::Available);
                    }
                }
            }
            Event::Tick => self.expire_leases(now, actions),
            Event::Forget(offset) => {
                let flight = self.in_flight.remove(&offset).map(|flight| flight.counts);
                if let Some(counts) = flight.or_else(|| self.unpark(offset)) {
                    if counts.recorded {
                        actions.push(Action::Erase(offset));
                    }
                    actions.push(Action::Place);
                }
            }
            Event::Redrive(offset) => {
                if self.dead.remove(&offset) {
                    actions.push(Action::Exhume(offset));
                    let counts = Counts { recorded: true, ..Counts::default() };
                    self.park(offset, AT_ONCE, counts);
                    let waiting = Waiting { due: now, deliveries: 0, failures: 0, reason: String::new() };
                    actions.extend([Action::Record { offset, waiting }, Action::Available]);
                }
            }
            Event::Discard(offset) => {
                if self.dead.remove(&offset) {
                    actions.push(Action::Exhume(offset));
                }
            }
            Event::Trimmed(head) => self.trim(head, actions),
        }
    }

    fn take(
        &mut self,
        consumer: Option<ConsumerId>,
        max: usize,
        lease: Duration,
        fresh: &[Fresh],
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.expire_leases(now, actions);
        let mut room = max.min(self.rules.max_in_flight.saturating_sub(self.in_flight.len()));
        let until = now.after(lease);
        while room > 0 {
            let Some(&(due, offset)) = self.due.first() else { break };
            if due > now {
                break;
            }
            let Some(counts) = self.unpark(offset) else { break };
            self.fly(offset, consumer, until, counts, actions);
            room -= 1;
        }
        for message in fresh {
            if message.offset != self.next || room == 0 || self.parked.len() >= self.rules.max_parked {
                break;
            }
            self.next += 1;
            if message.expires_at.is_some_and(|expiry| expiry <= now) {
                actions.push(Action::Place);
            } else if let Some(due) = message.deliver_at.filter(|due| *due > now) {
                self.park(message.offset, due, Counts { recorded: true, ..Counts::default() });
                let waiting = Waiting { due, deliveries: 0, failures: 0, reason: String::new() };
                actions.extend([Action::Record { offset: message.offset, waiting }, Action::Place]);
            } else {
                self.fly(message.offset, consumer, until, Counts::default(), actions);
                room -= 1;
            }
        }
    }

    fn fly(
        &mut self,
        offset: u64,
        consumer: Option<ConsumerId>,
        until: Timestamp,
        mut counts: Counts,
        actions: &mut Vec<Action>,
    ) {
        counts.deliveries = counts.deliveries.saturating_add(1);
        let token = self.token;
        self.token += 1;
        if self.in_flight.is_empty() || until < self.earliest_lease {
            self.earliest_lease = until;
        }
        self.in_flight.insert(offset, Flight { token, consumer, until, counts });
        let attempt = counts.failures.saturating_add(1);
        actions.push(Action::Deliver { offset, token, attempt, deliveries: counts.deliveries });
    }

    fn settle(
        &mut self,
        offset: u64,
        counts: Counts,
        outcome: &Outcome,
        by: Option<&str>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        match outcome {
            Outcome::Ack => {
                if counts.recorded {
                    actions.push(Action::Erase(offset));
                }
                actions.push(Action::Place);
            }
            Outcome::Retry { after, reason } => self.fail(offset, counts, *after, reason, by, now, actions),
            Outcome::Release => {
                self.park(offset, AT_ONCE, counts);
                actions.push(Action::Available);
            }
            Outcome::Reject { reason } => {
                let failures = counts.failures.saturating_add(1);
                self.bury(offset, Counts { failures, ..counts }, reason, by, now, actions);
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // one failure, told whole
    fn fail(
        &mut self,
        offset: u64,
        mut counts: Counts,
        after: Option<Duration>,
        reason: &str,
        by: Option<&str>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        counts.failures = counts.failures.saturating_add(1);
        if counts.failures >= self.rules.max_failures {
            return self.bury(offset, counts, reason, by, now, actions);
        }
        let wait = after.unwrap_or_else(|| self.rules.backoff.wait(counts.failures, offset));
        let due = now.after(wait);
        counts.recorded = true;
        self.park(offset, due, counts);
        let waiting = Waiting {
            due,
            deliveries: counts.deliveries,
            failures: counts.failures,
            reason: place::shorten(reason, MAX_REASON),
        };
        actions.extend([Action::Record { offset, waiting }, Action::Place]);
        if due <= now {
            actions.push(Action::Available);
        }
    }

    fn bury(
        &mut self,
        offset: u64,
        counts: Counts,
        reason: &str,
        by: Option<&str>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        if counts.recorded {
            actions.push(Action::Erase(offset));
        }
        self.dead.insert(offset);
        let dead = Dead {
            reason: place::shorten(reason, MAX_REASON),
            failures: counts.failures,
            deliveries: counts.deliveries,
            by: by.map(|by| place::shorten(by, MAX_BY)),
            at: now,
        };
        actions.extend([Action::Bury { offset, dead }, Action::Place]);
    }

    /// A lease that runs out counts as a failure: whoever held the message did not manage it.
    fn expire_leases(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.in_flight.is_empty() || self.earliest_lease > now {
            return;
        }
        let late: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, flight)| flight.until <= now)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in late {
            if let Some(flight) = self.in_flight.remove(&offset) {
                let reason = "the lease ran out: the consumer neither settled nor extended it in time";
                self.fail(offset, flight.counts, None, reason, None, now, actions);
            }
        }
        self.earliest_lease =
            self.in_flight.values().map(|flight| flight.until).min().unwrap_or(Timestamp(i64::MAX));
    }

    fn trim(&mut self, head: u64, actions: &mut Vec<Action>) {
        if self.needs() >= head {
            return;
        }
        self.next = self.next.max(head);
        let kept = self.in_flight.split_off(&head);
        let gone = std::mem::replace(&mut self.in_flight, kept);
        actions
            .extend(gone.iter().filter(|(_, f)| f.counts.recorded).map(|(offset, _)| Action::Erase(*offset)));
        while let Some(offset) = self.parked.keys().next().copied().filter(|offset| *offset < head) {
            if self.unpark(offset).is_some_and(|counts| counts.recorded) {
                actions.push(Action::Erase(offset));
            }
        }
        let kept = self.dead.split_off(&head);
        let gone = std::mem::replace(&mut self.dead, kept);
        actions.extend(gone.into_iter().map(Action::Exhume));
        actions.push(Action::Place);
    }

    fn park(&mut self, offset: u64, due: Timestamp, counts: Counts) {
        self.parked.insert(offset, Parked { due, counts });
        self.due.insert((due, offset));
        if !counts.recorded {
            self.unrecorded.insert(offset);
        }
    }

    fn unpark(&mut self, offset: u64) -> Option<Counts> {
        let parked = self.parked.remove(&offset)?;
        self.due.remove(&(parked.due, offset));
        self.unrecorded.remove(&offset);
        Some(parked.counts)
    }
}
