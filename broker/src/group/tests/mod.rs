//! Every rule of delivery, without I/O.

mod always;
mod keys;
mod moving;
mod priorities;
mod shared;

use std::collections::BTreeMap;
use std::time::Duration;

use crossdock_topics::{Backoff, ConsumerId, Order, Outcome, Subscription, Timestamp};

use super::{Action, Dead, Event, Facts, Fresh, Group, Held, KeyHash, Place, Rules, Saved, Slots, Waiting};

const LEASE: Duration = Duration::from_secs(30);
const A: ConsumerId = ConsumerId(1);
const B: ConsumerId = ConsumerId(2);

fn definition() -> Subscription {
    let backoff = Backoff { first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60) };
    let topics = vec!["t".parse().unwrap()];
    Subscription {
        max_failures: 3,
        backoff,
        max_in_flight: 100,
        ..Subscription::new("s".parse().unwrap(), topics)
    }
}

/// A group over a log of messages, with everything it asked to persist.
struct Bench {
    rules: Rules,
    group: Group,
    log: Vec<Fresh>,
    now: Timestamp,
    disk: Disk,
    /// Whether it takes its time: then nothing is durable before [`Bench::sync`].
    is_slow: bool,
    slots: Slots,
}

/// What a restart would find.
#[derive(Clone, Default)]
struct Disk {
    place: Place,
    records: BTreeMap<u64, Waiting>,
    dead: BTreeMap<u64, Dead>,
}

fn fresh(offset: u64) -> Fresh {
    Fresh { offset, expires_at: None, deliver_at: None, skip: false, facts: Facts::default() }
}

fn keyed(offset: u64, key: &str) -> Fresh {
    Fresh { facts: Facts { key: Some(KeyHash::of(key)), ..Facts::default() }, ..fresh(offset) }
}

impl Bench {
    fn new(messages: u64) -> Self {
        Self::of(Rules::from(&definition()), (0..messages).map(fresh).collect())
    }

    /// With order by key, over messages of these keys; an empty one is none.
    fn by_key(keys: &[&str]) -> Self {
        let message =
            |(offset, key): (u64, &&str)| if key.is_empty() { fresh(offset) } else { keyed(offset, key) };
        let rules = Rules::from(&Subscription { order: Order::Key, ..definition() });
        Self::of(rules, (0..).zip(keys).map(message).collect())
    }

    fn of(rules: Rules, log: Vec<Fresh>) -> Self {
        let group = Group::new(rules.clone(), Saved::default(), 1);
        let (now, disk, slots) = (Timestamp(1_000_000), Disk::default(), Slots::default());
        Self { rules, group, log, now, disk, is_slow: false, slots }
    }

    fn apply(&mut self, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.group.apply(event, self.now, &mut actions);
        for action in &actions {
            match action {
                Action::Record { offset, waiting } => {
                    drop(self.disk.records.insert(*offset, waiting.clone()))
                }
                Action::Erase(offset) => drop(self.disk.records.remove(offset)),
                Action::Bury { offset, dead } => drop(self.disk.dead.insert(*offset, dead.clone())),
                Action::Exhume(offset) => drop(self.disk.dead.remove(offset)),
                Action::Place => {}
                _ => continue,
            }
            self.disk.place = self.group.place();
        }
        if !self.is_slow {
            actions.extend(self.sync(u64::MAX));
        }
        actions
    }

    /// What was awaited up to this number is durable.
    fn sync(&mut self, number: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.group.apply(Event::Synced(number), self.now, &mut actions);
        actions
    }

    /// Takes, and gives (offset, token, attempt, deliveries) of each delivery.
    fn take(&mut self, consumer: impl Into<Option<ConsumerId>>, max: usize) -> Vec<(u64, u64, u32, u32)> {
        let consumer = consumer.into();
        let mut taken = Vec::new();
        loop {
            let wanted = self.group.wants_fresh(max - taken.len());
            let from = usize::try_from(self.group.next()).unwrap();
            let fresh: Vec<Fresh> = self.log.iter().skip(from).take(wanted).copied().collect();
            let slots = self.slots.clone();
            let only_look = self.group.looks_ahead() && !fresh.is_empty();
            let max = if only_look { 0 } else { max - taken.len() };
            let bytes = usize::MAX;
            let event = Event::Take { consumer, slots: &slots, max, bytes, lease: LEASE, fresh: &fresh };
            let before = taken.len();
            for action in self.apply(event) {
                if let Action::Deliver { offset, token, attempt, deliveries } = action {
                    taken.push((offset, token, attempt, deliveries));
                }
            }
            if taken.len() == before && usize::try_from(self.group.next()).unwrap() == from {
                return taken;
            }
        }
    }

    fn offsets(&mut self, consumer: impl Into<Option<ConsumerId>>, max: usize) -> Vec<u64> {
        self.take(consumer, max).into_iter().map(|(offset, ..)| offset).collect()
    }

    /// Takes exactly one, and gives what to settle it by.
    fn one(&mut self) -> (u64, u64) {
        let taken = self.take(None, 1);
        assert_eq!(taken.len(), 1);
        (taken[0].0, taken[0].1)
    }

    fn settle(&mut self, (offset, token): (u64, u64), outcome: &Outcome) -> Vec<Action> {
        self.apply(Event::Settle { offset, token, outcome, by: Some("svc@1") })
    }

    fn ack(&mut self, held: (u64, u64)) {
        assert!(!self.settle(held, &Outcome::Ack).contains(&Action::Stale));
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    /// Everything in memory is gone; what was persisted comes back.
    fn restart(&mut self) {
        self.take_up(Vec::new());
    }

    /// Somebody else goes on, with what is held.
    fn hand_over(&mut self) -> Vec<(u64, Held)> {
        let held: Vec<_> = self.group.held().collect();
        self.disk.place = self.group.place();
        self.take_up(held.clone());
        held
    }

    fn take_up(&mut self, held: Vec<(u64, Held)>) {
        let place = Place::decode(&self.disk.place.encode()).unwrap();
        let facts_of = |offset| self.log.iter().find(|m| m.offset == offset).map(|m| (offset, m.facts));
        let facts = place.open.iter().filter_map(facts_of).collect();
        let waiting = self.disk.records.clone().into_iter().collect();
        let dead = self.disk.dead.iter().map(|(offset, dead)| (*offset, dead.facts)).collect();
        self.group = Group::new(self.rules.clone(), Saved { place, facts, waiting, dead, held }, 1 << 40);
    }
}

/// Other rules, with nothing known of what was looked at before.
fn redefine(rules: &Rules) -> Event<'_> {
    static NOTHING: BTreeMap<u64, Facts> = BTreeMap::new();
    Event::Redefine { rules, facts: &NOTHING }
}

fn retry(reason: &str) -> Outcome {
    Outcome::Retry { after: None, reason: reason.into() }
}

fn reject(reason: &str) -> Outcome {
    Outcome::Reject { reason: reason.into() }
}
