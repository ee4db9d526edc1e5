//! Without order by key and without priorities: whoever asks gets what comes next.

use super::*;

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
    bench.apply(Event::Redrive { offset: 0, due: Timestamp(0) });
    bench.apply(Event::Discard(1));
    bench.restart();
    assert_eq!(bench.take(A, 5).iter().map(|d| (d.0, d.2)).collect::<Vec<_>>(), [(0, 1)]);
    let tally = bench.group.tally();
    assert_eq!((tally.in_flight, tally.set_aside, tally.dead), (1, 0, 0));
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

#[test]
fn what_is_held_of_what_compaction_took_can_be_settled() {
    let mut bench = Bench::new(6);
    let taken = bench.take(A, 4);
    bench.settle((0, taken[0].1), &Outcome::Reject { reason: "x".into() });
    bench.settle((1, taken[1].1), &retry("x"));
    bench.apply(Event::Compacted(5));
    assert!(bench.disk.records.is_empty() && bench.disk.dead.is_empty());
    assert!(bench.settle((2, taken[2].1), &Outcome::Ack).contains(&Action::Place));
    bench.apply(Event::Leave(A));
    bench.restart();
    assert_eq!(bench.offsets(A, 10), [3, 5], "given back, it is looked for, and found to be gone");
    bench.apply(Event::Forget(3));
    assert_eq!(bench.group.needs(), 5);
}

#[test]
fn with_no_room_in_flight_only_a_lease_is_waited_for() {
    let mut bench = Bench::new(101);
    let (first, ..) = bench.take(A, 1)[0];
    bench.apply(Event::Leave(A));
    assert_eq!(first, 0);
    assert_eq!(bench.group.wakes_at(), None, "given back: there at once, not in time");
    assert!(bench.group.has_ready());
    let mut bench = Bench::new(101);
    bench.apply(redefine(&Rules::from(&Subscription { max_in_flight: 2, ..definition() })));
    assert_eq!(bench.take(A, 1).len() + bench.take(B, 1).len(), 2);
    bench.apply(redefine(&Rules::from(&Subscription { max_in_flight: 1, ..definition() })));
    bench.apply(Event::Leave(A));
    assert_eq!(bench.group.wakes_at(), Some(bench.now.after(LEASE)), "what is due has no room");
}
