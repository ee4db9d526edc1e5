//! What holds whatever happens.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::group::Tally;

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
        let mut ended = BTreeSet::new();
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
        prop_assert_eq!(bench.group.tally(), Tally { dead: bench.disk.dead.len(), ..Tally::default() });
    }
}
