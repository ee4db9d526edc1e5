//! A group against a model of what it should do, through random histories with crashes anywhere.
//!
//! After each event the two must agree about every message: where it is, how often it was delivered and failed, what a
//! restart would find of it. Whatever is handed out must be something the consumer may have, and as much as there is.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "group/model.rs"]
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossdock_broker::group::{
    Action, Dead, Event, Facts, Fresh, Group, KeyHash, Place, Saved, Slots, Waiting,
};
use crossdock_topics::{Backoff, ConsumerId, Order, Outcome, Subscription, Timestamp};
use proptest::prelude::*;

use model::{Memory, Model, Rules, State, Turns};

const LEASE: Duration = Duration::from_secs(30);
/// How many events back a crash can throw at most: what was written last may not have become durable.
const BACK: usize = 8;

/// What is on the disk.
#[derive(Clone, Debug, Default)]
struct Disk {
    place: Vec<u8>,
    waiting: BTreeMap<u64, Vec<u8>>,
    dead: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Step {
    Publish { key: Option<u64>, priority: u8, skip: bool, expires: Option<u64>, delay: Option<u64> },
    Join(u64),
    Leave(u64),
    Take { consumer: Option<u64>, max: usize, lease: u64 },
    Settle { which: usize, how: How },
    Extend { which: usize },
    Wait(u64),
    Tick,
    Forget(usize),
    Redrive { which: usize, delay: u64 },
    Discard(usize),
    ReleaseKey(usize),
    GiveUpKey(usize),
    Trim(usize),
    Compact(usize),
    Seek(usize),
    Shorten(usize),
    Redefine { max_failures: u32, max_in_flight: usize, by_key: Option<bool> },
    Sync { back: usize },
    Crash { back: usize },
}

#[derive(Clone, Copy, Debug)]
enum How {
    Ack,
    Retry(Option<u64>),
    Release,
    Reject,
}

fn step() -> impl Strategy<Value = Step> {
    let option = proptest::option::weighted;
    let how = prop_oneof![
        6 => Just(How::Ack),
        4 => option(0.5, 0..20_000u64).prop_map(How::Retry),
        1 => Just(How::Release),
        1 => Just(How::Reject),
    ];
    let which = any::<usize>;
    prop_oneof![
        12 => (option(0.7, 0..6u64), 0..4u8, prop::bool::weighted(0.05), option(0.05, 0..90_000u64), option(0.1, 0..60_000u64))
            .prop_map(|(key, priority, skip, expires, delay)| Step::Publish { key, priority, skip, expires, delay }),
        6 => (0..4u64).prop_map(Step::Join),
        1 => (0..4u64).prop_map(Step::Leave),
        8 => (option(0.9, 0..4u64), 1..6usize, 1_000..40_000u64)
            .prop_map(|(consumer, max, lease)| Step::Take { consumer, max, lease }),
        10 => (which(), how).prop_map(|(which, how)| Step::Settle { which, how }),
        1 => which().prop_map(|which| Step::Extend { which }),
        3 => (0..40_000u64).prop_map(Step::Wait),
        1 => Just(Step::Tick),
        1 => which().prop_map(Step::Forget),
        1 => (which(), 0..20_000u64).prop_map(|(which, delay)| Step::Redrive { which, delay }),
        1 => which().prop_map(Step::Discard),
        1 => which().prop_map(Step::ReleaseKey),
        1 => which().prop_map(Step::GiveUpKey),
        1 => which().prop_map(Step::Trim),
        1 => which().prop_map(Step::Compact),
        1 => which().prop_map(Step::Seek),
        1 => which().prop_map(Step::Shorten),
        1 => (1..4u32, 1..12usize, proptest::option::weighted(0.4, any::<bool>()))
            .prop_map(|(max_failures, max_in_flight, by_key)| Step::Redefine { max_failures, max_in_flight, by_key }),
        6 => (0..BACK).prop_map(|back| Step::Sync { back }),
        1 => (0..BACK).prop_map(|back| Step::Crash { back }),
    ]
}

/// The disk, and the model as a restart from it must be like.
struct Written {
    disk: Disk,
    model: Model,
    /// Whose turn it was.
    turns: Turns,
    /// What the group is told when it is durable.
    awaited: Option<u64>,
}

/// A group, its model, its disk, and what the disk held a while ago.
struct Bench {
    group: Group,
    model: Model,
    disk: Disk,
    /// What is durable, and what was written after each event since then.
    past: Vec<Written>,
    /// Nothing is delivered before what this number stands for is durable.
    held: Option<u64>,
    now: Timestamp,
    lives: u64,
    joined: BTreeSet<ConsumerId>,
    slots: Slots,
    /// What was delivered, the last of it last.
    delivered: Vec<(u64, u64)>,
}

/// One of six keys in three slots.
fn hash(key: u64) -> Option<KeyHash> {
    KeyHash::from_number((key / 2) << 56 | (key + 1))
}

fn group_rules(rules: Rules) -> crossdock_broker::group::Rules {
    crossdock_broker::group::Rules::from(&Subscription {
        order: if rules.by_key { Order::Key } else { Order::None },
        priorities: rules.by_priority,
        max_failures: rules.max_failures,
        max_in_flight: u32::try_from(rules.max_in_flight).unwrap(),
        backoff: rules.backoff,
        ..Subscription::new("s".parse().unwrap(), vec!["t".parse().unwrap()])
    })
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let model = Model::new(rules);
        let disk = Disk { place: Place::default().encode(), ..Disk::default() };
        Self {
            group: Group::new(group_rules(rules), Saved::default(), 1),
            past: vec![Written {
                disk: disk.clone(),
                model: model.clone(),
                turns: Turns::new(),
                awaited: None,
            }],
            held: None,
            model,
            disk,
            now: Timestamp(1_000_000),
            lives: 1,
            joined: BTreeSet::new(),
            slots: Slots::default(),
            delivered: Vec::new(),
        }
    }

    fn later(&self, millis: u64) -> Timestamp {
        self.now.after(Duration::from_millis(millis))
    }

    /// Applies an event, and persists what it says is to be persisted.
    fn apply(&mut self, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.group.apply(event, self.now, &mut actions);
        for action in &actions {
            match action {
                Action::Record { offset, waiting } => {
                    _ = self.disk.waiting.insert(*offset, waiting.encode().unwrap())
                }
                Action::Erase(offset) => {
                    assert!(self.disk.waiting.remove(offset).is_some(), "nothing to erase")
                }
                Action::Bury { offset, dead } => _ = self.disk.dead.insert(*offset, dead.encode().unwrap()),
                Action::Exhume(offset) => {
                    assert!(self.disk.dead.remove(offset).is_some(), "nothing to exhume")
                }
                Action::Place => {}
                _ => continue,
            }
            self.disk.place = self.group.place().encode();
        }
        actions
    }

    /// When a message that failed is to come again, as it was persisted: it must be within its backoff.
    fn due(&self, offset: u64, after: Option<u64>) -> impl FnOnce(u32) -> Timestamp + use<> {
        let waiting = self.disk.waiting.get(&offset).map(|bytes| Waiting::decode(bytes).unwrap());
        let (now, backoff, longest) = (self.now, self.model.rules.backoff, self.model.longest_backoff());
        move |failures| {
            let due = waiting.expect("a failure is persisted").due;
            let wait = u64::try_from(due.0 - now.0).unwrap();
            match after {
                Some(after) => assert_eq!(wait, after),
                None => {
                    let full =
                        backoff.first.mul_f64(backoff.factor.powi(i32::try_from(failures - 1).unwrap()));
                    let full = full.min(longest).as_millis() as u64;
                    assert!(wait <= full && wait >= full * 3 / 4 - 1, "waits {wait} ms of {full}");
                }
            }
            due
        }
    }

    /// Leases that have run out are failures, at the next event that looks.
    fn expire(&mut self) {
        for offset in self.model.late(self.now) {
            let due = self.due(offset, None);
            self.model.fail(offset, due, self.now);
        }
        self.model.turns(self.now);
    }

    fn tick(&mut self) {
        self.apply(Event::Tick);
        self.expire();
    }

    fn take(&mut self, consumer: Option<ConsumerId>, max: usize, lease: Duration) {
        // What is asked of the log beforehand is asked with leases as they are.
        self.tick();
        let mut left = max;
        loop {
            let (before, from) = (left, self.group.next());
            let wanted = self.group.wants_fresh(left);
            let fresh: Vec<Fresh> = self
                .model
                .messages
                .iter()
                .map(|m| m.fresh)
                .skip(usize::try_from(from).unwrap())
                .take(wanted)
                .collect();
            let slots = self.slots.clone();
            let event =
                Event::Take { consumer, slots: &slots, max: left, bytes: usize::MAX, lease, fresh: &fresh };
            let actions = self.apply(event);
            self.expire();
            let mut last_unseen = None;
            for action in actions {
                let Action::Deliver { offset, token, attempt, deliveries } = action else { continue };
                assert!(self.model.room() > 0 && left > 0, "{offset} is one too many");
                self.model.may_have(offset, consumer, &self.slots, self.now).unwrap();
                for past in &self.past {
                    assert!(
                        self.model.is_safe(offset, &past.model, &past.turns, self.now),
                        "{offset} may not be the first"
                    );
                }
                if self.model.rules.by_priority {
                    let urgency = |offset: u64| self.model.get(offset).fresh.facts.priority;
                    let others = self.model.deliverable(consumer, &self.slots, self.now);
                    let best = others.into_iter().max_by_key(|o| (urgency(*o), std::cmp::Reverse(*o)));
                    assert_eq!(best, Some(offset), "another one is more urgent, or as urgent and older");
                } else if self.model.get(offset).state == State::Unseen {
                    assert!(last_unseen < Some(offset), "{offset} comes behind {last_unseen:?}");
                    last_unseen = Some(offset);
                }
                assert!(!self.delivered.contains(&(offset, token)), "a token twice");
                let counted = self.model.deliver(offset, token, consumer, self.now.after(lease));
                assert_eq!(counted, (attempt, deliveries), "counters of {offset}");
                self.delivered.push((offset, token));
                left -= 1;
            }
            self.model.look(self.group.next(), self.now);
            if left == 0 || left == before && self.group.next() == from {
                break;
            }
        }
        if left > 0 && self.model.room() > 0 {
            let missed = self.model.deliverable(consumer, &self.slots, self.now);
            assert!(missed.is_empty(), "{missed:?} could have been delivered");
        }
    }

    fn settle(&mut self, which: usize, how: How) {
        let Some((offset, token)) = self.pick(which) else { return };
        let (outcome, after) = match how {
            How::Ack => (Outcome::Ack, None),
            How::Retry(after) => {
                (Outcome::Retry { after: after.map(Duration::from_millis), reason: "failed".into() }, after)
            }
            How::Release => (Outcome::Release, None),
            How::Reject => (Outcome::Reject { reason: "wrong".into() }, None),
        };
        let live = self.group.is_live(offset, token, self.now);
        let stale = self
            .apply(Event::Settle { offset, token, outcome: &outcome, by: Some("x") })
            .contains(&Action::Stale);
        // The leases first: what was persisted of them is from before the outcome, but for this one.
        self.expire();
        assert_eq!((stale, live), (!self.model.holds(offset, token), self.model.holds(offset, token)));
        if !stale {
            let due = self.due(offset, after);
            self.model.settle(offset, &outcome, due, self.now);
        }
    }

    fn pick(&self, which: usize) -> Option<(u64, u64)> {
        let recent = &self.delivered[self.delivered.len().saturating_sub(20)..];
        (!recent.is_empty()).then(|| recent[which % recent.len()])
    }

    fn step(&mut self, step: &Step) {
        let count = self.model.messages.len();
        let some = |which: usize| (count > 0).then(|| (which % count) as u64);
        let one_of = |which: usize, all: Vec<u64>| (!all.is_empty()).then(|| all[which % all.len()]);
        match *step {
            Step::Publish { key, priority, skip, expires, delay } => {
                let facts = Facts { key: key.and_then(hash), size: 1, priority };
                self.model.publish(Fresh {
                    offset: count as u64,
                    expires_at: expires.map(|after| self.later(after)),
                    deliver_at: delay.map(|after| self.later(after)),
                    skip,
                    facts,
                });
            }
            Step::Join(number) => {
                self.joined.insert(ConsumerId(number << 24));
                self.slots = Slots::among(self.joined.iter());
            }
            Step::Leave(number) => {
                let consumer = ConsumerId(number << 24);
                self.tick();
                self.joined.remove(&consumer);
                self.slots = Slots::among(self.joined.iter());
                self.apply(Event::Leave(consumer));
                self.model.leave(consumer, self.now);
            }
            Step::Take { consumer, max, lease } => {
                let consumer = consumer.map(|number| ConsumerId(number << 24));
                if consumer.is_none_or(|consumer| self.joined.contains(&consumer)) {
                    self.take(consumer, max, Duration::from_millis(lease));
                }
            }
            Step::Settle { which, how } => self.settle(which, how),
            Step::Extend { which } => {
                let Some((offset, token)) = self.pick(which) else { return };
                let stale =
                    self.apply(Event::Extend { offset, token, lease: LEASE }).contains(&Action::Stale);
                self.expire();
                assert_eq!(stale, !self.model.holds(offset, token));
                if !stale {
                    self.model.extend(offset, self.now.after(LEASE));
                }
            }
            Step::Wait(millis) => self.now = self.later(millis),
            Step::Tick => self.tick(),
            Step::Forget(which) => {
                let Some(offset) = some(which) else { return };
                self.tick();
                let stale = self.apply(Event::Forget(offset)).contains(&Action::Stale);
                let open = self.model.get(offset).is_open() && self.model.get(offset).state != State::Unseen;
                assert_eq!(stale, !open);
                if open {
                    self.model.end(offset, State::Done);
                }
            }
            Step::Redrive { which, delay } => {
                let Some(offset) = one_of(which, self.model.offsets(|m| m.state == State::Dead)) else {
                    return;
                };
                self.apply(Event::Redrive { offset, due: self.later(delay) });
                self.model.renew(offset, self.later(delay));
            }
            Step::Discard(which) => {
                let Some(offset) = some(which) else { return };
                let stale = self.apply(Event::Discard(offset)).contains(&Action::Stale);
                assert_eq!(stale, self.model.get(offset).state != State::Dead);
                if !stale {
                    self.model.end(offset, State::Done);
                }
            }
            Step::ReleaseKey(which) => {
                let Some(offset) = one_of(which, self.model.offsets(|m| m.state == State::Parked)) else {
                    return;
                };
                self.apply(Event::ReleaseKey(offset));
                self.model.renew(offset, self.now);
            }
            Step::GiveUpKey(which) => {
                let Some(offset) = one_of(which, self.model.offsets(|m| m.state == State::Parked)) else {
                    return;
                };
                self.apply(Event::GiveUpKey { offset, reason: "hopeless", by: None });
                self.model.end(offset, State::Dead);
            }
            Step::Trim(which) | Step::Compact(which) => {
                // Only a little, so that something is left.
                let head = (self.group.needs() + (which % 4) as u64).min(count as u64);
                self.tick();
                let drops = self.group.needs() < head;
                let spares_held = matches!(step, Step::Compact(_));
                self.apply(if spares_held { Event::Compacted(head) } else { Event::Trimmed(head) });
                self.model.trim(head, spares_held);
                if drops && self.model.rules.by_key {
                    self.hold();
                }
            }
            Step::Seek(which) => {
                let to = (which % (count + 1)) as u64;
                self.apply(Event::Seek(to));
                self.model.seek(to);
                if self.model.rules.by_key {
                    self.hold();
                }
            }
            Step::Shorten(which) => {
                // What comes behind the end has the offsets and keys of what was there.
                let to = (which % (count + 1)) as u64;
                if self.model.has_earlier_behind(to) {
                    return;
                }
                let takes_back = to < self.group.next();
                self.apply(Event::Shortened(to));
                if takes_back {
                    self.model.shorten(to);
                    if self.model.rules.by_key {
                        self.hold();
                    }
                }
            }
            Step::Redefine { max_failures, max_in_flight, by_key } => {
                let before = self.model.rules;
                let by_key = by_key.filter(|_| !before.by_priority).unwrap_or(before.by_key);
                self.model.redefine(Rules { max_failures, max_in_flight, by_key, ..before }, self.now);
                let unkeyed = self.group.unkeyed().into_iter();
                let facts = unkeyed.map(|offset| (offset, self.model.get(offset).fresh.facts)).collect();
                let rules = group_rules(self.model.rules);
                self.apply(Event::Redefine { rules: &rules, facts: &facts });
                if before.by_key || by_key {
                    self.hold();
                }
            }
            Step::Sync { back } => self.sync(self.past.len() - 1 - back.min(self.past.len() - 1)),
            Step::Crash { back } => self.crash(back),
        }
        self.model.turns(self.now);
    }

    /// Nothing more is delivered until this is durable.
    fn hold(&mut self) {
        self.held = self.group.awaited();
        assert!(self.held.is_some());
        self.model.is_held = true;
    }

    /// What was written up to there is durable.
    fn sync(&mut self, at: usize) {
        self.past.drain(..at);
        if let Some(number) = self.past[0].awaited {
            let (mut actions, ready) = (Vec::new(), self.group.has_ready());
            self.group.apply(Event::Synced(number), self.now, &mut actions);
            let is_told = actions.iter().all(|action| *action == Action::Available);
            assert!(is_told, "nothing is to be persisted: {actions:?}");
            assert!(ready || !self.group.has_ready() || !actions.is_empty(), "nobody is woken");
            if self.held.is_some_and(|held| held <= number) {
                (self.held, self.model.is_held) = (None, false);
            }
        }
        self.reckon();
    }

    /// What is done with, but not for sure.
    fn reckon(&mut self) {
        let open = self.past.iter().flat_map(|past| past.model.open_here(&self.model, self.now));
        self.model.unsynced = open.collect();
        self.model.turns(self.now);
    }

    /// Everything in memory is gone, and perhaps what was written last. Messages stay: they were durable before.
    fn crash(&mut self, back: usize) {
        let at = self.past.len() - 1 - back.min(self.past.len() - 1);
        let Written { disk, mut model, .. } = self.past.swap_remove(at);
        let published = self.model.messages.split_off(model.messages.len());
        published.into_iter().for_each(|message| model.publish(message.fresh));
        let place = Place::decode(&disk.place).unwrap();
        let facts = |offset: u64| model.get(offset).fresh.facts;
        let saved = Saved {
            held: Vec::new(),
            facts: place.open.iter().map(|offset| (offset, facts(offset))).collect(),
            waiting: disk
                .waiting
                .iter()
                .map(|(offset, bytes)| {
                    let mut waiting = Waiting::decode(bytes).unwrap();
                    // It may be from before keys counted.
                    waiting.facts.key = waiting.facts.key.or(facts(*offset).key);
                    (*offset, waiting)
                })
                .collect(),
            dead: disk
                .dead
                .iter()
                .map(|(offset, bytes)| (*offset, Dead::decode(bytes).unwrap().facts))
                .collect(),
            place,
        };
        self.lives += 1;
        model.restart(saved.place.next, self.now);
        self.group = Group::new(group_rules(model.rules), saved, self.lives << 32);
        (self.model, self.disk, self.held) = (model, disk, None);
        self.past.clear();
        self.joined.clear();
        self.slots = Slots::default();
    }

    /// The group and its disk agree with the model about every message.
    fn check(&mut self) {
        let (model, now) = (&self.model, self.now);
        assert_eq!(self.group.next(), model.next);
        for message in &model.messages {
            let offset = message.fresh.offset;
            let standing = self.group.standing(offset);
            assert!(model.agrees(offset, standing, now), "{offset}: {standing:?}, should be {message:?}");
            let waiting = self.disk.waiting.get(&offset).map(|bytes| Waiting::decode(bytes).unwrap());
            let memory = waiting.map(|waiting| Memory {
                due: waiting.due,
                deliveries: waiting.deliveries,
                failures: waiting.failures,
                parked: waiting.parked.is_some(),
            });
            assert_eq!(memory, message.memory, "what a restart would find of {offset}");
            assert_eq!(self.disk.dead.contains_key(&offset), message.state == State::Dead, "{offset}");
        }
        let tally = self.group.tally();
        let count = |is: fn(&State) -> bool| model.offsets(|message| is(&message.state)).len();
        assert_eq!(tally.in_flight, model.in_flight());
        assert_eq!(tally.dead, count(|state| *state == State::Dead));
        assert_eq!(tally.parked_keys, count(|state| *state == State::Parked));
        let open = model.offsets(|message| message.is_open() && message.state != State::Unseen);
        assert_eq!(tally.in_flight + tally.set_aside + tally.ahead, open.len());
        let unsettled = open.first().copied().unwrap_or(model.next);
        assert_eq!(self.group.first_unsettled(), unsettled);
        if let Some(moment) = model.wakes_at(now) {
            let wakes = self.group.wakes_at();
            assert!(wakes.is_some_and(|wakes| wakes <= moment), "sleeps until {wakes:?}, past {moment:?}");
        }
    }

    /// Takes note of what was written.
    fn note(&mut self) {
        self.reckon();
        let awaited = self.group.awaited();
        let (disk, mut model, turns) = (self.disk.clone(), self.model.clone(), self.model.turn.clone());
        model.restart(model.next, self.now);
        self.past.push(Written { disk, model, turns, awaited });
        if self.past.len() > BACK {
            self.sync(1);
        }
    }

    /// With consumers that acknowledge everything, and keys released, everything ends.
    fn finish(&mut self) {
        for number in 0..4 {
            self.step(&if number < 2 { Step::Join(number) } else { Step::Leave(number) });
        }
        for _ in 0..self.model.messages.len() * 2 + 10 {
            while let Some(offset) = self.model.offsets(|m| m.state == State::Parked).first() {
                self.apply(Event::ReleaseKey(*offset));
                self.model.renew(*offset, self.now);
                self.model.turns(self.now);
            }
            self.now = self.later(120_000);
            self.tick();
            for number in 0..2 {
                let from = self.delivered.len();
                self.take(Some(ConsumerId(number << 24)), 100, LEASE);
                for (offset, token) in self.delivered.split_off(from) {
                    self.apply(Event::Settle { offset, token, outcome: &Outcome::Ack, by: None });
                    self.model.end(offset, State::Done);
                    self.model.turns(self.now);
                }
            }
            self.note();
            self.sync(self.past.len() - 1);
            self.check();
        }
        let open = self.model.offsets(model::Message::is_open);
        assert!(open.is_empty(), "never delivered: {open:?}");
    }
}

fn run(steps: &[Step], by_key: bool, by_priority: bool) {
    let backoff = Backoff { first: Duration::from_secs(1), factor: 3.0, max: Duration::from_secs(20) };
    let rules = Rules { by_key, by_priority, max_failures: 3, max_in_flight: 8, backoff };
    let mut bench = Bench::new(rules);
    for step in steps {
        bench.step(step);
        bench.note();
        bench.check();
    }
    bench.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("CROSSDOCK_GROUP_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
    ))]

    #[test]
    fn without_order(steps in proptest::collection::vec(step(), 0..150)) {
        run(&steps, false, false);
    }

    #[test]
    fn by_key(steps in proptest::collection::vec(step(), 0..150)) {
        run(&steps, true, false);
    }

    #[test]
    fn by_priority(steps in proptest::collection::vec(step(), 0..150)) {
        run(&steps, false, true);
    }
}
