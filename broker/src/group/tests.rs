//! Every rule of delivery, without I/O.

use std::time::Duration;

use crossdock_topics::{Backoff, ConsumerId, Outcome, Subscription, Timestamp};
use proptest::prelude::*;

use super::{Action, Event, Fresh, Group, Place, Rules, Waiting};

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
    group: Group,
    log: Vec<Fresh>,
    now: Timestamp,
    disk: Disk,
}

/// What a restart would find.
#[derive(Clone, Default)]
struct Disk {
    place: Place,
    records: std::collections::BTreeMap<u64, Waiting>,
    dead: std::collections::BTreeMap<u64, super::Dead>,
}

impl Bench {
    fn new(messages: u64) -> Self {
        let log = (0..messages).map(|offset| Fresh { offset, expires_at: None, deliver_at: None }).collect();
        let group = Group::new(Rules::from(&definition()), Place::default(), [], [], 1);
        Self { group, log, now: Timestamp(1_000_000), disk: Disk::default() }
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
                _ => continue,
            }
            self.disk.place = self.group.place();
        }
        if actions.contains(&Action::Place) {
            self.disk.place = self.group.place();
        }
        actions
    }

    /// Takes, and gives (offset, token, attempt, deliveries) of each delivery.
    fn take(&mut self, consumer: ConsumerId, max: usize) -> Vec<(u64, u64, u32, u32)> {
        let wanted = self.group.wants_fresh(max);
        let from = usize::try_from(self.group.next()).unwrap();
        let fresh: Vec<Fresh> = self.log.iter().skip(from).take(wanted).copied().collect();
        let actions = self.apply(Event::Take { consumer: Some(consumer), max, lease: LEASE, fresh: &fresh });
        let deliver = |action| match action {
            Action::Deliver { offset, token, attempt, deliveries } => {
                Some((offset, token, attempt, deliveries))
            }
            _ => None,
        };
        actions.into_iter().filter_map(deliver).collect()
    }

    fn offsets(&mut self, consumer: ConsumerId, max: usize) -> Vec<u64> {
        self.take(consumer, max).into_iter().map(|(offset, ..)| offset).collect()
    }

    fn settle(&mut self, (offset, token): (u64, u64), outcome: &Outcome) -> Vec<Action> {
        self.apply(Event::Settle { offset, token, outcome, by: Some("svc@1") })
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    /// Everything in memory is gone; what was persisted comes back.
    fn restart(&mut self) {
        let records = self.disk.records.clone();
        let dead: Vec<u64> = self.disk.dead.keys().copied().collect();
        self.group = Group::new(Rules::from(&definition()), self.disk.place.clone(), records, dead, 1 << 40);
    }
}

fn retry(reason: &str) -> Outcome {
    Outcome::Retry { after: None, reason: reason.into() }
}

#[test]
fn messages_are_delivered_once_in_order_among_consumers() {
    let mut bench = Bench::new(5);
    assert_eq!(bench.offsets(A, 2), [0, 1]);
    assert_eq!(bench.offsets(B, 10), [2, 3, 4]);
    assert!(bench.offsets(A, 10).is_empty());
}

#[test]
fn an_acknowledged_message_never_comes_back() {
    let mut bench = Bench::new(2);
    for (offset, token, ..) in bench.take(A, 2) {
        bench.settle((offset, token), &Outcome::Ack);
    }
    bench.restart();
    bench.wait(Duration::from_secs(3600));
    assert!(bench.offsets(A, 10).is_empty());
    assert_eq!(bench.group.needs(), 2);
}

#[test]
fn what_was_not_acknowledged_comes_back_after_a_restart_without_a_failure() {
    let mut bench = Bench::new(3);
    let taken = bench.take(A, 3);
    bench.settle((taken[1].0, taken[1].1), &Outcome::Ack);
    bench.restart();
    let again = bench.take(A, 3);
    assert_eq!(again.iter().map(|d| (d.0, d.2)).collect::<Vec<_>>(), [(0, 1), (2, 1)]);
}

#[test]
fn a_retry_waits_its_backoff_and_holds_up_nobody() {
    let mut bench = Bench::new(3);
    let (offset, token, ..) = bench.take(A, 1)[0];
    bench.settle((offset, token), &retry("boom"));
    assert_eq!(bench.offsets(A, 10), [1, 2]);
    bench.wait(Duration::from_secs(1));
    let again = bench.take(A, 10);
    assert_eq!((again[0].0, again[0].2, again[0].3), (0, 2, 2));
}

#[test]
fn failures_survive_a_restart_and_lead_to_the_dead_letters() {
    let mut bench = Bench::new(1);
    for _ in 0..2 {
        let (offset, token, ..) = bench.take(A, 1)[0];
        bench.settle((offset, token), &retry("boom"));
        bench.restart();
        bench.wait(Duration::from_secs(60));
    }
    let (offset, token, attempt, deliveries) = bench.take(A, 1)[0];
    assert_eq!((attempt, deliveries), (3, 3));
    bench.settle((offset, token), &retry("boom at last"));
    let dead = &bench.disk.dead[&0];
    assert_eq!((dead.reason.as_str(), dead.failures, dead.by.as_deref()), ("boom at last", 3, Some("svc@1")));
    assert!(bench.disk.records.is_empty());
    bench.wait(Duration::from_secs(3600));
    assert!(bench.take(A, 1).is_empty());
    assert_eq!(bench.group.needs(), 0, "a dead letter keeps its message in the log");
}

#[test]
fn a_lease_that_runs_out_counts_as_one_failure_and_makes_the_delivery_stale() {
    let mut bench = Bench::new(1);
    let (offset, token, ..) = bench.take(A, 1)[0];
    bench.wait(LEASE);
    assert!(bench.settle((offset, token), &Outcome::Ack).contains(&Action::Stale));
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.take(B, 1)[0].2, 2);
}

#[test]
fn an_extended_lease_lasts_longer() {
    let mut bench = Bench::new(1);
    let (offset, token, ..) = bench.take(A, 1)[0];
    bench.wait(LEASE / 2);
    assert!(bench.apply(Event::Extend { offset, token, lease: LEASE }).is_empty());
    bench.wait(LEASE / 2);
    assert!(bench.take(B, 1).is_empty());
    assert!(!bench.settle((offset, token), &Outcome::Ack).contains(&Action::Stale));
}

#[test]
fn a_consumer_that_leaves_gives_back_at_once_without_a_failure() {
    let mut bench = Bench::new(3);
    bench.take(A, 2);
    assert!(bench.apply(Event::Leave(A)).contains(&Action::Available));
    let again = bench.take(B, 3);
    assert_eq!(again.iter().map(|d| (d.0, d.2, d.3)).collect::<Vec<_>>(), [(0, 1, 2), (1, 1, 2), (2, 1, 1)]);
}

#[test]
fn a_settled_delivery_is_stale_when_settled_again() {
    let mut bench = Bench::new(1);
    let (offset, token, ..) = bench.take(A, 1)[0];
    bench.settle((offset, token), &Outcome::Ack);
    assert_eq!(bench.settle((offset, token), &Outcome::Ack), [Action::Stale]);
}

#[test]
fn rejected_is_dead_at_once_and_can_be_redriven_or_discarded() {
    let mut bench = Bench::new(2);
    for (offset, token, ..) in bench.take(A, 2) {
        bench.settle((offset, token), &Outcome::Reject { reason: "no".into() });
    }
    bench.apply(Event::Redrive(0));
    bench.apply(Event::Discard(1));
    bench.restart();
    assert_eq!(bench.take(A, 5).iter().map(|d| (d.0, d.2)).collect::<Vec<_>>(), [(0, 1)]);
    assert_eq!(bench.group.counts(), (1, 0, 0));
}

#[test]
fn expired_messages_are_passed_over_and_early_ones_set_aside() {
    let mut bench = Bench::new(3);
    bench.log[0].expires_at = Some(bench.now);
    bench.log[1].deliver_at = Some(bench.now.after(Duration::from_secs(5)));
    assert_eq!(bench.offsets(A, 10), [2]);
    bench.restart();
    assert_eq!(bench.offsets(A, 10), [2], "it was not acknowledged");
    bench.wait(Duration::from_secs(5));
    assert_eq!(bench.take(A, 10).iter().map(|d| (d.0, d.2, d.3)).collect::<Vec<_>>(), [(1, 1, 1)]);
}

#[test]
fn no_more_are_in_flight_than_allowed() {
    let mut bench = Bench::new(300);
    assert_eq!(bench.take(A, 1000).len(), 100);
    assert!(bench.take(B, 1).is_empty());
}

#[test]
fn trimming_drops_what_lies_before() {
    let mut bench = Bench::new(4);
    let taken = bench.take(A, 3);
    bench.settle((0, taken[0].1), &retry("x"));
    bench.settle((1, taken[1].1), &Outcome::Reject { reason: "x".into() });
    bench.apply(Event::Trimmed(3));
    assert!(bench.disk.records.is_empty() && bench.disk.dead.is_empty());
    bench.restart();
    assert_eq!(bench.offsets(A, 10), [3]);
}

#[derive(Clone, Debug)]
enum Step {
    Take(u64, usize),
    Ack(usize),
    Retry(usize),
    Release(usize),
    Reject(usize),
    Leave(u64),
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u64, 1..8usize).prop_map(|(consumer, max)| Step::Take(consumer, max)),
        4 => any::<usize>().prop_map(Step::Ack),
        2 => any::<usize>().prop_map(Step::Retry),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Reject),
        1 => (1..4u64).prop_map(Step::Leave),
        2 => (0..40_000u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// Whatever happens: no message is with two consumers, none that was acknowledged or given up comes back,
    /// and in the end each is either acknowledged or dead, once.
    #[test]
    fn every_message_ends_exactly_once(steps in proptest::collection::vec(step(), 0..200)) {
        const MESSAGES: u64 = 40;
        let mut bench = Bench::new(MESSAGES);
        let mut held: Vec<(u64, u64)> = Vec::new();
        let mut ended = std::collections::BTreeSet::new();
        for step in steps {
            let pick = |index: usize, held: &[(u64, u64)]| (!held.is_empty()).then(|| held[index % held.len()]);
            let (chosen, outcome) = match step {
                Step::Take(consumer, max) => {
                    for (offset, token, ..) in bench.take(ConsumerId(consumer), max) {
                        prop_assert!(!ended.contains(&offset), "{offset} came back");
                        held.retain(|(other, _)| *other != offset);
                        held.push((offset, token));
                    }
                    continue;
                }
                Step::Leave(consumer) => { bench.apply(Event::Leave(ConsumerId(consumer))); continue }
                Step::Wait(millis) => { bench.wait(Duration::from_millis(millis)); continue }
                Step::Restart => { bench.restart(); continue }
                Step::Ack(index) => (pick(index, &held), Outcome::Ack),
                Step::Retry(index) => (pick(index, &held), retry("x")),
                Step::Release(index) => (pick(index, &held), Outcome::Release),
                Step::Reject(index) => (pick(index, &held), Outcome::Reject { reason: "x".into() }),
            };
            let Some(chosen) = chosen else { continue };
            let stale = bench.settle(chosen, &outcome).contains(&Action::Stale);
            held.retain(|other| *other != chosen);
            if !stale && matches!(outcome, Outcome::Ack | Outcome::Reject { .. }) {
                prop_assert!(ended.insert(chosen.0), "{} ended twice", chosen.0);
            }
            ended.extend(bench.disk.dead.keys());
            prop_assert!(Place::decode(&bench.group.place().encode()).unwrap() == bench.group.place());
        }
        bench.restart();
        ended.extend(bench.disk.dead.keys());
        for _ in 0..MESSAGES * 4 {
            bench.wait(Duration::from_secs(120));
            for (offset, token, ..) in bench.take(A, 100) {
                prop_assert!(ended.insert(offset), "{offset} came back");
                bench.settle((offset, token), &Outcome::Ack);
            }
        }
        prop_assert_eq!(ended.len() as u64, MESSAGES);
        prop_assert_eq!(bench.group.counts(), (0, 0, bench.disk.dead.len()));
    }
}

#[test]
fn with_no_room_in_flight_only_a_lease_is_waited_for() {
    let mut bench = Bench::new(101);
    let (first, ..) = bench.take(A, 1)[0];
    bench.apply(Event::Leave(A));
    assert_eq!(first, 0);
    bench.apply(Event::Take { consumer: Some(B), max: 0, lease: LEASE, fresh: &[] });
    assert_eq!(bench.group.wakes_at(), Some(Timestamp(i64::MIN)), "given back: at once");
    let mut bench = Bench::new(101);
    bench.group.set_rules(Rules::from(&Subscription { max_in_flight: 2, ..definition() }));
    assert_eq!(bench.take(A, 1).len() + bench.take(B, 1).len(), 2);
    bench.group.set_rules(Rules::from(&Subscription { max_in_flight: 1, ..definition() }));
    bench.apply(Event::Leave(A));
    assert_eq!(bench.group.wakes_at(), Some(bench.now.after(LEASE)), "what is due has no room");
}
