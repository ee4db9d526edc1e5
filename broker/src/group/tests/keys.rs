//! Order by key: one after another, poison keys parked alone, slots that change hands.

use super::*;
use crate::group::{LOOSE, Standing};

#[test]
fn the_next_of_a_key_waits_for_the_one_before_it() {
    let mut bench = Bench::by_key(&["a", "a", "b", "", "", "a"]);
    let taken = bench.take(None, 10);
    assert_eq!(taken.iter().map(|d| d.0).collect::<Vec<_>>(), [0, 2, 3, 4], "what has no key is not ordered");
    assert_eq!(bench.group.standing(5).0, Standing::Behind { head: 0, is_over: false });
    assert_eq!(bench.group.tally().behind_key, 2);
    bench.ack((taken[0].0, taken[0].1));
    assert_eq!(bench.offsets(None, 10), [1]);
}

#[test]
fn the_next_of_a_key_waits_until_it_is_durable_that_the_one_before_it_is_settled() {
    let mut bench = Bench::by_key(&["a", "a", "b", "b", "a"]);
    bench.is_slow = true;
    let taken = bench.take(None, 10);
    assert_eq!(taken.iter().map(|d| d.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(bench.group.awaited(), None);
    bench.ack((0, taken[0].1));
    let first = bench.group.awaited().unwrap();
    bench.settle((2, taken[1].1), &reject("no"));
    let second = bench.group.awaited().unwrap();
    assert!(second > first);
    assert_eq!(bench.group.standing(1).0, Standing::Behind { head: 0, is_over: true });
    assert!(bench.offsets(None, 10).is_empty());
    assert_eq!(bench.sync(first), [Action::Available]);
    assert_eq!(bench.offsets(None, 10), [1], "the other key's is not durable yet");
    assert!(bench.sync(first).is_empty(), "what is heard twice passes nothing on");
    bench.sync(second);
    assert_eq!((bench.group.awaited(), bench.offsets(None, 10)), (None, vec![3]));
    bench.restart();
    assert_eq!(bench.group.awaited(), None);
    assert_eq!(bench.offsets(None, 10), [1, 3]);
}

#[test]
fn one_that_comes_back_before_it_is_durable_that_it_went_keeps_its_turn() {
    let mut bench = Bench::by_key(&["a", "a"]);
    bench.is_slow = true;
    let held = bench.one();
    bench.settle(held, &reject("no"));
    let rejected = bench.group.awaited().unwrap();
    bench.apply(Event::Redrive { offset: 0, due: Timestamp(0) });
    bench.sync(rejected);
    let held = bench.one();
    assert_eq!(held.0, 0);
    bench.ack(held);
    bench.sync(rejected);
    assert!(bench.offsets(None, 10).is_empty(), "it was redriven and acknowledged since");
    bench.sync(u64::MAX);
    assert_eq!(bench.offsets(None, 10), [1]);
}

#[test]
fn one_of_a_key_that_goes_while_it_waits_must_be_gone_for_good_as_well() {
    let mut bench = Bench::by_key(&["a", "a", "a"]);
    bench.is_slow = true;
    let taken = bench.take(None, 10);
    bench.ack((0, taken[0].1));
    let acknowledged = bench.group.awaited().unwrap();
    bench.apply(Event::Forget(1));
    bench.sync(acknowledged);
    assert!(bench.offsets(None, 10).is_empty());
    bench.sync(u64::MAX);
    assert_eq!(bench.offsets(None, 10), [2]);
}

#[test]
fn nothing_is_delivered_before_a_change_of_place_or_rules_is_durable() {
    let rules = Bench::by_key(&[]).rules;
    let changes: [(Event<'_>, u64); 5] = [
        (Event::Seek(1), 1),
        (Event::Trimmed(2), 2),
        (Event::Shortened(0), 0),
        (redefine(&rules), 0),
        (Event::Hold, 0),
    ];
    for (change, first) in changes {
        let mut bench = Bench::by_key(&["a", "b", "c", "d"]);
        bench.is_slow = true;
        bench.take(A, 1);
        bench.apply(Event::Leave(A));
        assert!(bench.apply(change).contains(&Action::Place), "it is persisted");
        assert!(bench.group.is_held() && bench.offsets(None, 10).is_empty(), "{change:?}");
        assert_eq!(bench.group.wakes_at(), None);
        let number = bench.group.awaited().unwrap();
        assert_eq!(bench.sync(number), [Action::Available]);
        assert_eq!(bench.offsets(None, 10)[0], first, "{change:?}");
    }
    let mut plain = Bench::new(3);
    plain.is_slow = true;
    plain.apply(Event::Seek(1));
    assert_eq!((plain.group.awaited(), plain.offsets(None, 10)), (None, vec![1, 2]));
}

#[test]
fn a_failed_one_holds_up_its_key_and_no_other() {
    let mut bench = Bench::by_key(&["a", "a", "b"]);
    let first = bench.one();
    bench.settle(first, &retry("boom"));
    assert_eq!(bench.offsets(None, 10), [2]);
    bench.wait(Duration::from_secs(1));
    let again = bench.take(None, 10);
    assert_eq!((again.len(), again[0].0, again[0].2), (1, 0, 2));
    bench.settle((again[0].0, again[0].1), &Outcome::Release);
    assert_eq!(bench.offsets(None, 10), [0], "given back, it is still its turn");
}

#[test]
fn with_each_way_to_end_the_key_goes_on() {
    let keys = ["a"; 6];
    let mut bench = Bench::by_key(&keys);
    bench.log[1].expires_at = Some(bench.now);
    let held = bench.one();
    bench.ack(held);
    let held = bench.one();
    assert_eq!(held.0, 2, "the one before had expired");
    bench.settle(held, &reject("no"));
    assert_eq!(bench.disk.dead[&2].reason, "no");
    let held = bench.one();
    assert_eq!(held.0, 3);
    bench.apply(Event::Forget(3));
    assert!(bench.settle(held, &Outcome::Ack).contains(&Action::Stale));
    assert_eq!(bench.one().0, 4);
    bench.apply(Event::Trimmed(5));
    assert_eq!(bench.one().0, 5);
}

fn poison(bench: &mut Bench) {
    for _ in 0..3 {
        let held = bench.one();
        assert_eq!(held.0, 0);
        bench.settle(held, &retry("poison"));
        bench.wait(Duration::from_secs(60));
    }
}

#[test]
fn a_poison_key_is_parked_alone_and_stays_so_after_a_restart() {
    let mut bench = Bench::by_key(&["a", "a", "b", "a"]);
    poison(&mut bench);
    assert_eq!(bench.offsets(None, 10), [2]);
    for _ in 0..2 {
        let parked: Vec<_> = bench.group.parked_keys().map(|(offset, _, behind)| (offset, behind)).collect();
        assert_eq!(parked, [(0, 2)]);
        assert_eq!(bench.group.parked(KeyHash::of("a")), Some(0));
        assert_eq!(bench.group.parked(KeyHash::of("b")), None);
        let record = &bench.disk.records[&0];
        assert!(record.parked.is_some() && record.reason == "poison" && record.failures == 3);
        assert_eq!(record.by.as_deref(), Some("svc@1"));
        assert!(bench.disk.dead.is_empty());
        bench.wait(Duration::from_secs(3600));
        // The other key's lease runs out.
        bench.take(None, 0);
        bench.restart();
    }
    bench.wait(Duration::from_secs(3600));
    assert_eq!(bench.offsets(None, 10), [2]);
}

#[test]
fn a_released_key_begins_anew_with_its_message() {
    let mut bench = Bench::by_key(&["a", "a"]);
    poison(&mut bench);
    assert!(bench.apply(Event::ReleaseKey(1)).contains(&Action::Stale));
    assert!(bench.apply(Event::ReleaseKey(0)).contains(&Action::Available));
    bench.restart();
    let again = bench.take(None, 10);
    assert_eq!(again.iter().map(|d| (d.0, d.2, d.3)).collect::<Vec<_>>(), [(0, 1, 1)]);
    bench.ack((again[0].0, again[0].1));
    assert_eq!(bench.one().0, 1);
    assert!(bench.apply(Event::ReleaseKey(0)).contains(&Action::Stale));
}

#[test]
fn a_key_that_is_given_up_on_goes_on_without_its_message() {
    let mut bench = Bench::by_key(&["a", "a"]);
    poison(&mut bench);
    bench.apply(Event::GiveUpKey { offset: 0, reason: "poison", by: None });
    assert!(bench.disk.records.is_empty());
    assert_eq!((bench.disk.dead[&0].failures, bench.disk.dead[&0].reason.as_str()), (3, "poison"));
    bench.restart();
    assert_eq!(bench.offsets(None, 10), [1]);
    // Delivered again, it waits for its turn as well.
    bench.apply(Event::Redrive { offset: 0, due: Timestamp(0) });
    assert_eq!(bench.group.standing(0).0, Standing::Behind { head: 1, is_over: false });
    bench.restart();
    let taken = bench.take(None, 10);
    assert_eq!(taken.iter().map(|d| d.0).collect::<Vec<_>>(), [0], "nobody held the other one any more");
}

#[test]
fn what_waits_behind_a_key_is_written_once_and_costs_a_settlement_nothing() {
    let mut keys = vec!["poison"];
    keys.extend(std::iter::repeat_n(["poison", "other"], 10_000).flatten());
    let mut bench = Bench::by_key(&keys);
    poison(&mut bench);
    let mut records = 0;
    for _ in 0..10_000 {
        let actions = bench.take(None, 1);
        let held = (actions[0].0, actions[0].1);
        let actions = bench.settle(held, &Outcome::Ack);
        assert!(actions.len() <= 2, "{actions:?}");
        assert!(bench.group.encoded_place().len() < 10 * LOOSE);
        records = records.max(bench.disk.records.len());
    }
    assert!((8_900..9_100).contains(&records), "{records}");
    assert_eq!(bench.group.tally().behind_key, 10_000);
    bench.restart();
    assert_eq!(bench.group.tally().behind_key, 10_000);
    bench.apply(Event::ReleaseKey(0));
    for offset in (0..20_000).step_by(2).map(|n: u64| if n == 0 { 0 } else { n - 1 }) {
        let held = bench.one();
        assert_eq!(held.0, offset);
        bench.ack(held);
    }
}

#[test]
fn each_slot_is_its_owners_and_a_new_owner_waits_for_the_old_one() {
    // Two keys of one slot, and one of another consumer's.
    let slots = Slots::among(&[A, B]);
    let of = |consumer, n: usize| {
        let names = (0..100_000).map(|n| format!("k{n}"));
        let slot = KeyHash::of(
            &names.clone().find(|k| slots.owner(KeyHash::of(k).slot()) == Some(consumer)).unwrap(),
        )
        .slot();
        names.filter(|k| KeyHash::of(k).slot() == slot).nth(n).unwrap()
    };
    let (a1, a2, b1) = (of(A, 0), of(A, 1), of(B, 0));
    let mut bench = Bench::by_key(&[&a1, &b1, &a2, "", &b1]);
    bench.slots = slots.clone();
    let held = bench.take(A, 1);
    assert_eq!(held[0].0, 0);
    assert_eq!(bench.offsets(B, 10), [1, 3]);
    assert_eq!(bench.group.tally().ahead, 1, "looked at for the other one");
    // B alone owns all: but A still holds a message of that slot.
    bench.slots = Slots::among(&[B]);
    assert!(bench.offsets(B, 10).is_empty());
    assert_eq!(bench.group.standing(2).0, Standing::Ready { held_by: Some(A) });
    assert!(bench.settle((held[0].0, held[0].1), &Outcome::Ack).contains(&Action::Available));
    assert_eq!(bench.offsets(B, 10), [2]);
    bench.apply(Event::Leave(B));
    assert_eq!(bench.offsets(None, 10), [1, 2, 3], "whoever has not joined takes what is free");
}

#[test]
fn what_is_for_another_consumer_is_found_and_said() {
    let slots = Slots::among(&[A, B]);
    let mine = |consumer| {
        (0..).map(|n| format!("k{n}")).find(|k| slots.owner(KeyHash::of(k).slot()) == Some(consumer)).unwrap()
    };
    let (for_a, for_b) = (mine(A), mine(B));
    let mut bench = Bench::by_key(&[&for_b, &for_b, &for_a]);
    bench.slots = slots.clone();
    let fresh = bench.log.clone();
    let (bytes, lease) = (usize::MAX, LEASE);
    let event = Event::Take { consumer: Some(A), slots: &slots, max: 10, bytes, lease, fresh: &fresh };
    let actions = bench.apply(event);
    assert!(actions.contains(&Action::Available), "B is to be woken");
    assert!(actions.iter().any(|a| matches!(a, Action::Deliver { offset: 2, .. })));
    assert_eq!(bench.group.wakes_at(), Some(bench.now.after(LEASE)), "A does not spin on what is B's");
    assert!(bench.offsets(A, 10).is_empty());
    assert_eq!(bench.offsets(B, 10), [0]);
}

#[test]
fn order_can_be_given_up_and_taken_up() {
    let mut bench = Bench::by_key(&["a", "a", "a", "b"]);
    poison(&mut bench);
    bench.take(None, 10);
    let plain = Rules::from(&definition());
    bench.apply(redefine(&plain));
    let mut all = bench.offsets(None, 10);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2]);
    let tally = bench.group.tally();
    assert_eq!((tally.parked_keys, tally.behind_key, tally.in_flight), (0, 0, 4));
    assert_eq!(bench.disk.records[&0].failures, 0, "as if it had been released");
    let rules = bench.rules.clone();
    bench.apply(redefine(&rules));
    bench.restart();
    assert_eq!(bench.offsets(None, 10), [3, 0], "what the log says counts again");
}

#[test]
fn where_order_begins_it_counts_for_what_was_looked_at_before() {
    let slots = Slots::among(&[A, B]);
    let mine = (0..).map(|n| format!("k{n}"));
    let key = mine.into_iter().find(|k| slots.owner(KeyHash::of(k).slot()) == Some(B)).unwrap();
    let mut bench = Bench::by_key(&[key.as_str(); 6]);
    let (rules, log) = (bench.rules.clone(), bench.log.clone());
    bench.rules = Rules::from(&definition());
    let plain = bench.rules.clone();
    bench.apply(redefine(&plain));
    bench.log.iter_mut().for_each(|message| message.facts.key = None);
    let (of_a, of_b) = (bench.take(A, 2), bench.take(B, 2));
    bench.settle((1, of_a[1].1), &retry("x"));
    bench.settle((3, of_b[1].1), &Outcome::Release);
    assert_eq!(bench.group.unkeyed(), [0, 1, 2, 3]);

    (bench.rules, bench.slots, bench.log) = (rules.clone(), slots, log);
    let facts = bench.log.iter().map(|message| (message.offset, message.facts)).collect();
    bench.apply(Event::Redefine { rules: &rules, facts: &facts });
    assert!(bench.group.unkeyed().is_empty());
    bench.wait(Duration::from_secs(2));
    assert!(bench.offsets(B, 10).is_empty(), "0 and 2 are in flight");
    bench.ack((2, of_b[0].1));
    assert!(bench.offsets(B, 10).is_empty(), "0 is in flight");
    bench.ack((0, of_a[0].1));
    for offset in [1, 3, 4, 5] {
        let taken = bench.take(B, 10);
        assert_eq!(taken.iter().map(|d| d.0).collect::<Vec<_>>(), [offset]);
        bench.ack((offset, taken[0].1));
    }
}

#[test]
fn a_message_that_is_due_later_holds_up_its_key() {
    let mut bench = Bench::by_key(&["a", "a", "a"]);
    bench.log[0].deliver_at = Some(bench.now.after(Duration::from_secs(5)));
    bench.log[2].deliver_at = Some(bench.now.after(Duration::from_secs(50)));
    assert!(bench.offsets(None, 10).is_empty());
    bench.restart();
    bench.wait(Duration::from_secs(5));
    for (offset, wait) in [(0, 0), (1, 44), (2, 1)] {
        let held = bench.one();
        assert_eq!(held.0, offset);
        bench.ack(held);
        if wait > 0 {
            bench.wait(Duration::from_secs(wait));
            assert!(bench.offsets(None, 10).is_empty());
            bench.wait(Duration::from_secs(1));
        }
    }
}
