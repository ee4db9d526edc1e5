//! Moving the place.

use super::*;

#[test]
fn everything_from_there_on_comes_and_nothing_before() {
    let mut bench = Bench::new(6);
    let taken = bench.take(A, 5);
    bench.settle((0, taken[0].1), &reject("early"));
    bench.settle((1, taken[1].1), &retry("soon"));
    bench.settle((3, taken[3].1), &reject("late"));
    bench.settle((4, taken[4].1), &Outcome::Ack);
    bench.apply(Event::Seek(2));
    assert!(bench.settle((2, taken[2].1), &Outcome::Ack).contains(&Action::Stale));
    bench.restart();
    assert_eq!(bench.disk.dead.keys().copied().collect::<Vec<_>>(), [0]);
    assert!(bench.disk.records.is_empty());
    bench.wait(Duration::from_secs(60));
    let again = bench.take(B, 10);
    assert_eq!(again.iter().map(|d| (d.0, d.2)).collect::<Vec<_>>(), [(2, 1), (3, 1), (4, 1), (5, 1)]);
}

#[test]
fn where_the_log_ends_earlier_what_lies_before_stays_and_what_comes_next_is_new() {
    let mut bench = Bench::new(9);
    let taken = bench.take(A, 8);
    let held = |offset: usize| (taken[offset].0, taken[offset].1);
    bench.settle(held(0), &reject("early"));
    bench.settle(held(1), &retry("soon"));
    bench.ack(held(3));
    bench.settle(held(4), &reject("late"));
    bench.settle(held(5), &retry("late"));
    bench.ack(held(6));
    let before = bench.group.place();
    bench.apply(Event::Shortened(8));
    assert_eq!(bench.group.place(), before, "it ends where it ended");
    bench.apply(Event::Shortened(4));
    assert_eq!(bench.group.next(), 4);
    assert_eq!(bench.disk.dead.keys().copied().collect::<Vec<_>>(), [0]);
    assert_eq!(bench.disk.records.keys().copied().collect::<Vec<_>>(), [1]);
    for offset in [5, 7] {
        assert!(bench.settle(held(offset), &Outcome::Ack).contains(&Action::Stale), "{offset}");
    }
    bench.ack(held(2));
    bench.wait(Duration::from_secs(60));
    for _ in 0..2 {
        let again = bench.take(B, 10);
        let expected = [(1, 2), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)];
        assert_eq!(again.iter().map(|d| (d.0, d.2)).collect::<Vec<_>>(), expected);
        // The same after a restart.
        bench.restart();
    }
}

#[test]
fn a_key_whose_turn_was_behind_the_new_end_goes_on() {
    let mut bench = Bench::by_key(&["a", "b", "a", "a"]);
    let first = bench.one();
    bench.settle(first, &reject("x"));
    let taken = bench.take(None, 10);
    assert_eq!(taken.iter().map(|d| d.0).collect::<Vec<_>>(), [1, 2]);
    bench.apply(Event::Redrive { offset: 0, due: bench.now });
    bench.apply(Event::Shortened(2));
    bench.ack((1, taken[0].1));
    for offset in [0, 2, 3] {
        let held = bench.one();
        assert_eq!(held.0, offset);
        bench.ack(held);
    }
    assert_eq!(bench.group.tally(), super::super::Tally::default());
}

#[test]
fn what_is_left_out_of_the_log_is_done() {
    let mut bench = Bench::new(9);
    bench.log.retain(|message| message.offset % 4 == 2);
    let fresh = bench.log.clone();
    let slots = Slots::default();
    let take = Event::Take { consumer: None, slots: &slots, max: 9, bytes: 9, lease: LEASE, fresh: &fresh };
    let taken = bench.apply(take);
    assert_eq!(taken.iter().filter(|a| matches!(a, Action::Deliver { .. })).count(), 2);
    assert_eq!((bench.group.next(), bench.group.first_unsettled()), (7, 2));
    assert_eq!(bench.group.standing(5).0, crate::group::Standing::Done);
}

#[test]
fn forward_it_passes_over_what_waits_also_parked_keys() {
    let mut bench = Bench::by_key(&["a", "a", "a", "b"]);
    for _ in 0..3 {
        let held = bench.one();
        bench.settle(held, &retry("x"));
        bench.wait(Duration::from_secs(60));
    }
    bench.take(None, 10);
    bench.apply(Event::Seek(2));
    assert_eq!(bench.group.tally(), super::super::Tally::default());
    assert_eq!(bench.offsets(None, 10), [2, 3]);
    assert_eq!(bench.group.needs(), 2);
}

#[test]
fn what_is_held_can_be_settled_elsewhere_and_keeps_its_key_until_then() {
    let mut bench = Bench::by_key(&["a", "b", "a", "c"]);
    // One has failed before, and one is with somebody who has not joined.
    let failed = bench.one();
    bench.settle(failed, &retry("x"));
    bench.wait(Duration::from_secs(60));
    bench.slots = Slots::among(&[A]);
    let taken = bench.take(A, 2);
    assert_eq!(taken.iter().map(|d| (d.0, d.2, d.3)).collect::<Vec<_>>(), [(0, 2, 2), (1, 1, 1)]);
    let loose = bench.one();
    assert_eq!(loose.0, 3);
    let held = bench.hand_over();
    assert_eq!(held.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 3]);
    bench.slots = Slots::among(&[B]);
    assert!(bench.offsets(B, 10).is_empty());
    bench.ack(loose);
    bench.ack((0, taken[0].1));
    assert_eq!(bench.offsets(B, 10), [2]);
    let failed = bench.settle((1, taken[1].1), &retry("y"));
    assert!(
        failed
            .iter()
            .any(|action| matches!(action, Action::Record { offset: 1, waiting } if waiting.deliveries == 1))
    );
    // What has been settled is not held, and a lease runs on. That it runs out is nobody's failure: whoever had the message may
    // have given it back to the one before. From then on it is as any other.
    bench.take_up(held);
    assert_eq!(bench.group.tally().in_flight, 1);
    bench.wait(LEASE);
    assert!(bench.apply(Event::Tick).iter().all(|action| *action == Action::Available));
    let again = bench.take(B, 10);
    assert_eq!(again.iter().map(|d| (d.0, d.2)).collect::<Vec<_>>(), [(1, 2), (2, 1)]);
    assert!(bench.settle((1, taken[1].1), &Outcome::Ack).contains(&Action::Stale));
    bench.wait(LEASE);
    let late = bench.apply(Event::Tick);
    assert!(
        late.iter()
            .any(|action| matches!(action, Action::Record { offset: 1, waiting } if waiting.failures == 2))
    );
}

#[test]
fn a_lease_that_runs_out_on_what_was_handed_over_parks_no_key() {
    let mut bench = Bench::by_key(&["a", "a"]);
    bench.rules.max_failures = 1;
    let first = bench.one();
    bench.hand_over();
    assert!(bench.offsets(None, 10).is_empty());
    bench.wait(LEASE);
    bench.apply(Event::Tick);
    assert!(bench.settle(first, &Outcome::Ack).contains(&Action::Stale));
    assert_eq!((bench.group.tally().parked_keys, bench.group.tally().dead), (0, 0));
    let again = bench.one();
    assert_eq!(again.0, 0);
    bench.ack(again);
    assert_eq!(bench.offsets(None, 10), [1]);
}
