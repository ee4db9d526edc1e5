//! A subscription's place in one topic, as a pure state machine: no I/O, no clock, no async.
//!
//! Each offset below `next` is in exactly one state:
//!
//! * **done**: acknowledged, expired, passed over, or dropped by retention. Nothing is remembered of it.
//! * **in flight**: with a consumer, on a lease.
//! * **set aside**: to be delivered, now or when it is due; or behind an earlier message of its key; or its
//!   key is parked.
//! * **dead**: given up; only its offset, key and priority are remembered here.
//!
//! What must survive a restart is told as [`Action`]s to persist: a *record* for each message that failed, waits for
//! its time, or has waited for another one for long; a *dead letter* for each that was given up; and the [`Place`],
//! which is `next` with the offsets below it that are open without a record. Open offsets mostly lie next to each
//! other and are kept and written as runs, and of those that wait behind keys at most [`LOOSE`] have no record: so
//! the cost of a settlement does not depend on how many messages wait or failed before it.

mod aside;
mod key;
mod lanes;
mod place;
mod ranges;
mod ready;
mod rules;
mod settling;
mod standing;
mod taking;
#[cfg(test)]
mod tests;
mod unsynced;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use crossdock_topics::{ConsumerId, Outcome, Timestamp};

use aside::Aside;
pub use key::{KeyHash, Slots};
use lanes::{Holders, Lanes};
pub use place::{Dead, Held, ParkedSince, Place, Waiting};
pub use ranges::Ranges;
use ready::Ready;
pub use rules::Rules;
pub use standing::{Standing, Tally};
use unsynced::Unsynced;

/// A message that has not been looked at yet: what the group must know to decide about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Its offset.
    pub offset: u64,
    /// After this moment it is not delivered any more.
    pub expires_at: Option<Timestamp>,
    /// Before this moment it is not delivered.
    pub deliver_at: Option<Timestamp>,
    /// Whether it is passed over, as it is none of those the subscription is about.
    pub skip: bool,
    /// What stays of interest.
    pub facts: Facts,
}

impl Fresh {
    /// Stands for the offsets up to this one of which the log holds no message any more.
    #[must_use]
    pub fn gap(offset: u64) -> Self {
        Self { offset, expires_at: None, deliver_at: None, skip: true, facts: Facts::default() }
    }
}

/// What a group remembers of a message that is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its key, where order is by key.
    pub key: Option<KeyHash>,
    /// Its size in bytes; 0 when it is not known.
    pub size: u32,
    /// 0 to 9, larger is more urgent; where priorities count.
    pub priority: u8,
}

/// What happens to a group.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A consumer takes up to `max` messages: those that are ready, then from `fresh`, which are the stored
    /// messages from [`Group::next`] on. Where priorities count, `fresh` is looked at first, whatever `max` is.
    Take {
        /// Who takes them.
        consumer: Option<ConsumerId>,
        /// Whose the keys are, among the consumers that have joined.
        slots: &'a Slots,
        /// How many at most.
        max: usize,
        /// No further one once this many bytes are together.
        bytes: usize,
        /// How long they may be held.
        lease: Duration,
        /// What lies in the log from `next` on. Offsets that are left out lie there no more, and are done.
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
    /// A dead letter is delivered again, with its failures forgotten.
    Redrive {
        /// The message.
        offset: u64,
        /// Not before this moment.
        due: Timestamp,
    },
    /// A dead letter is forgotten.
    Discard(u64),
    /// A key that is parked goes on, with its message delivered again and its failures forgotten.
    ReleaseKey(u64),
    /// A key that is parked goes on without its message, which is given up.
    GiveUpKey {
        /// The message.
        offset: u64,
        /// Why it failed last.
        reason: &'a str,
        /// Who failed.
        by: Option<&'a str>,
    },
    /// Retention dropped everything before this offset.
    Trimmed(u64),
    /// Compaction has left nothing before this offset. What consumers hold of it they may settle; given back, it is
    /// found to be gone when its turn comes.
    Compacted(u64),
    /// The place is moved: everything from here on is delivered, and nothing before it.
    Seek(u64),
    /// The log ends here, before what was looked at: nothing from here on has been seen, whatever is remembered of it. What
    /// lies before it stays as it is.
    Shortened(u64),
    /// The rules are others from now on. Where order by key begins, `facts` tells the keys of [`Group::unkeyed`]; one that
    /// is absent has none.
    Redefine {
        /// The rules.
        rules: &'a Rules,
        /// What the log says of messages that were looked at before.
        facts: &'a BTreeMap<u64, Facts>,
    },
    /// Nothing is delivered before what is persisted next is durable.
    Hold,
    /// What was persisted when [`Group::awaited`] gave this number is durable.
    Synced(u64),
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
    /// The delivery is not (or no longer) held, or there is nothing of that kind; nothing was done.
    Stale,
    /// Something can be delivered now that could not before: wake whoever waits.
    Available,
}

/// What is known of a message that is not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    facts: Facts,
    deliveries: u32,
    failures: u32,
    /// Whether it has a record; otherwise it is among the open ones of the place.
    recorded: bool,
}

#[derive(Clone, Debug)]
struct Flight {
    token: u64,
    consumer: Option<ConsumerId>,
    until: Timestamp,
    known: Known,
    /// Whether it was given by somebody else, who handed it over: that its consumer has gone may have been said to nobody.
    handed: bool,
}

/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 4096;
/// The longest name of who failed that is kept, in bytes.
const MAX_BY: usize = 200;
/// So many messages that wait for others of their key, or for the consumer their key belongs to, need no record.
pub const LOOSE: usize = 1024;

/// Due before everything else: given back, not failed.
const AT_ONCE: Timestamp = Timestamp(i64::MIN);

/// The state machine. See the module for its states.
#[derive(Clone, Debug)]
pub struct Group {
    rules: Rules,
    next: u64,
    /// Whatever is neither done nor dead and has no record.
    open: Ranges,
    in_flight: BTreeMap<u64, Flight>,
    /// No lease runs out before this moment.
    earliest_lease: Timestamp,
    aside: BTreeMap<u64, Aside>,
    ready: Ready,
    /// Of those set aside, the ones that are not due yet.
    later: BTreeSet<(Timestamp, u64)>,
    lanes: Lanes,
    holders: Holders,
    /// Of those set aside, the ones that wait for others and have no record.
    loose: BTreeSet<u64>,
    /// Of those set aside, the ones whose key is parked.
    parked: BTreeSet<u64>,
    /// How many of those set aside have only been looked at.
    ahead: usize,
    dead: BTreeMap<u64, Facts>,
    unsynced: Unsynced,
    token: u64,
}

/// A group as it was persisted.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Its place.
    pub place: Place,
    /// What the log says of the place's open messages. Only asked for where keys or priorities count; one that is absent
    /// has neither.
    pub facts: BTreeMap<u64, Facts>,
    /// Its records.
    pub waiting: Vec<(u64, Waiting)>,
    /// Its dead letters.
    pub dead: Vec<(u64, Facts)>,
    /// Those of its open messages and its records that are with consumers who settle them here now.
    pub held: Vec<(u64, Held)>,
}

impl From<Place> for Saved {
    fn from(place: Place) -> Self {
        Self { place, ..Self::default() }
    }
}

impl Group {
    /// A group as it was persisted. `token` must be larger than any token of an earlier life of the same group.
    #[must_use]
    pub fn new(rules: Rules, saved: Saved, token: u64) -> Self {
        let mut group = Self {
            rules,
            next: saved.place.next,
            open: saved.place.open,
            in_flight: BTreeMap::new(),
            earliest_lease: Timestamp(i64::MAX),
            aside: BTreeMap::new(),
            ready: Ready::default(),
            later: BTreeSet::new(),
            lanes: Lanes::default(),
            holders: Holders::default(),
            loose: BTreeSet::new(),
            parked: BTreeSet::new(),
            ahead: 0,
            dead: saved.dead.into_iter().collect(),
            unsynced: Unsynced::default(),
            token,
        };
        group.restore(&saved.facts, saved.waiting, saved.held);
        group
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
        let firsts = [self.in_flight.keys().next(), self.aside.keys().next()];
        firsts.into_iter().flatten().copied().min().unwrap_or(self.next)
    }

    /// The first dead letter.
    #[must_use]
    pub fn first_dead(&self) -> Option<u64> {
        self.dead.keys().next().copied()
    }

    /// The dead letters after `offset` (or from the first), in order.
    pub fn dead_after(&self, offset: Option<u64>) -> impl Iterator<Item = u64> + '_ {
        let from = offset.map_or(Bound::Unbounded, Bound::Excluded);
        self.dead.range((from, Bound::Unbounded)).map(|(offset, _)| *offset)
    }

    /// Whether this delivery is held, its lease included.
    #[must_use]
    pub fn is_live(&self, offset: u64, token: u64, now: Timestamp) -> bool {
        self.in_flight.get(&offset).is_some_and(|flight| flight.token == token && flight.until > now)
    }

    /// The next moment at which something becomes deliverable by itself.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Timestamp> {
        // With no room in flight nothing becomes deliverable before something is settled.
        let room = self.in_flight.len() < self.rules.max_in_flight && !self.is_held();
        let due = self.later.first().map(|(due, _)| *due).filter(|_| room);
        let lease = (!self.in_flight.is_empty()).then_some(self.earliest_lease);
        due.into_iter().chain(lease).min()
    }

    /// What is to be persisted on [`Action::Place`].
    #[must_use]
    pub fn place(&self) -> Place {
        Place { next: self.next, open: self.open.clone() }
    }

    /// [`Place::encode`] of [`Group::place`].
    #[must_use]
    pub fn encoded_place(&self) -> Vec<u8> {
        place::encode(self.next, &self.open)
    }

    /// Takes in what happened at `now` and appends what follows to `actions`.
    pub fn apply(&mut self, event: Event<'_>, now: Timestamp, actions: &mut Vec<Action>) {
        match event {
            Event::Take { consumer, slots, max, bytes, lease, fresh } => {
                let taker = taking::Taker { consumer, slots, max, bytes, until: now.after(lease) };
                self.take(taker, fresh, now, actions);
            }
            Event::Settle { offset, token, outcome, by } => {
                self.expire_leases(now, actions);
                match self.in_flight.get(&offset) {
                    Some(flight) if flight.token == token => {
                        if let Some(known) = self.land(offset, actions) {
                            self.settle(offset, known, outcome, by, now, actions);
                        }
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
            Event::Leave(consumer) => self.leave(consumer, actions),
            Event::Tick => {
                self.expire_leases(now, actions);
                if self.ripen(now) {
                    actions.push(Action::Available);
                }
            }
            Event::Forget(offset) => {
                let known = self.land(offset, actions);
                match known.or_else(|| self.pick_up(offset).map(|aside| aside.known)) {
                    Some(known) => self.done(offset, known, actions),
                    None => actions.push(Action::Stale),
                }
            }
            Event::Redrive { offset, due } => self.redrive(offset, due.max(now), actions),
            Event::Discard(offset) => match self.dead.remove(&offset) {
                Some(_) => actions.push(Action::Exhume(offset)),
                None => actions.push(Action::Stale),
            },
            Event::ReleaseKey(offset) => self.release_key(offset, now, actions),
            Event::GiveUpKey { offset, reason, by } => match self.unpark(offset) {
                Some(known) => self.bury(offset, known, reason, by, now, actions),
                None => actions.push(Action::Stale),
            },
            Event::Trimmed(head) => self.trim(head, false, actions),
            Event::Compacted(head) => self.trim(head, true, actions),
            Event::Seek(to) => self.seek(to, actions),
            Event::Shortened(to) => self.take_back(to, actions),
            Event::Redefine { rules, facts } => self.redefine(rules.clone(), facts, now, actions),
            Event::Hold => self.hold(actions),
            Event::Synced(number) => self.synced(number, actions),
        }
    }
}
