//! Priorities: the most urgent of those that come next.

use super::*;

fn bench(priorities: &[u8]) -> Bench {
    let rules = Rules { look_ahead: 4, ..Rules::from(&Subscription { priorities: true, ..definition() }) };
    let message = |(offset, priority): (u64, &u8)| Fresh {
        facts: Facts { priority: *priority, ..Facts::default() },
        ..fresh(offset)
    };
    Bench::of(rules, (0..).zip(priorities).map(message).collect())
}

#[test]
fn higher_first_then_the_older_within_what_is_looked_at() {
    let mut bench = bench(&[0, 5, 0, 5, 9, 1]);
    let mut order = Vec::new();
    for _ in 0..6 {
        order.extend(bench.offsets(None, 1));
    }
    assert_eq!(order, [1, 4, 3, 5, 0, 2], "four are looked at: the 9 is seen once one has gone");
}

#[test]
fn what_is_delivered_again_keeps_its_priority() {
    let mut bench = bench(&[0, 5, 9, 0]);
    let held = bench.one();
    assert_eq!(held.0, 2);
    bench.settle(held, &Outcome::Release);
    assert_eq!(bench.one().0, 2);
    let held = bench.one();
    assert_eq!(held.0, 1);
    bench.settle(held, &retry("x"));
    assert_eq!(bench.one().0, 0);
    bench.wait(Duration::from_secs(1));
    bench.restart();
    assert_eq!(bench.offsets(None, 10), [2, 1, 0, 3]);
}

#[test]
fn looking_ahead_is_not_setting_aside_and_keeps_the_place_small() {
    let mut bench = bench(&[0, 0, 0, 0, 0]);
    let held = bench.one();
    let tally = bench.group.tally();
    assert_eq!((tally.in_flight, tally.set_aside, tally.ahead), (1, 0, 3));
    bench.ack(held);
    assert_eq!(bench.group.first_unsettled(), 1);
    assert!(bench.group.place().encode().len() <= 5);
    bench.restart();
    assert_eq!(bench.offsets(None, 10), [1, 2, 3, 4]);
}
