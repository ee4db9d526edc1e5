//! A history without fault passes; each of these doctored ones is caught, by its rule.

use super::*;
use crate::freight::{Freight, Output};
use crate::history::{Answer, Reader, Verdict};

/// A history and what is there in the end: `batches` of three messages each of two publishers, every message settled
/// by every reader after one failure, one rejected.
fn good() -> (Vec<Event>, Found) {
    let (mut events, mut found) = (Vec::new(), Found::default());
    for batch in 0..20u32 {
        let first = Freight { publisher: batch % 2, number: batch / 2 * 3 };
        events.push(Event::Sent { first, count: 3 });
        for number in first.number..first.number + 3 {
            let (freight, offset) = (Freight { number, ..first }, found.freight.len() as u64);
            found.freight.push(freight);
            events.extend([Event::Stored { freight, offset }, Event::Seen { freight, offset }]);
        }
    }
    let mut settlement = 0;
    for (offset, freight) in (0..).zip(found.freight.clone()) {
        for reader in Reader::ALL {
            for verdict in [Verdict::Retry, Verdict::Ack] {
                let rejects = reader == Reader::Mixed && offset == 7 && verdict == Verdict::Ack;
                let verdict = if rejects { Verdict::Reject } else { verdict };
                let attempt = 1 + u32::from(verdict != Verdict::Retry);
                settlement += 1;
                events.extend([
                    Event::Delivered { reader, freight, offset, attempt },
                    Event::Settling { reader, settlement, offset, verdict },
                    Event::Settled { settlement, answer: Answer::Done },
                ]);
                if reader == Reader::Effects && verdict == Verdict::Ack {
                    found.outputs.push(Output { settlement, of: offset });
                }
            }
        }
    }
    found.dead.push(7);
    (events, found)
}

/// The rules that a doctored history breaks.
fn broken(doctor: impl FnOnce(&mut Vec<Event>, &mut Found)) -> Vec<Rule> {
    let (mut events, mut found) = good();
    doctor(&mut events, &mut found);
    tally(&judge(&events, &found, Together::InOneWrite)).into_keys().collect()
}

/// The event of this offset's `nth` settlement on a reader, from 0; the delivery before it is one less.
fn settling(events: &[Event], wanted: Reader, at: u64, nth: usize) -> usize {
    let is = |event: &Event| matches!(event, Event::Settling { reader, offset, .. } if *reader == wanted && *offset == at);
    events.iter().enumerate().filter(|(_, event)| is(event)).nth(nth).unwrap().0
}

fn answer_of(events: &mut [Event], index: usize, new: Answer) {
    let Event::Settled { answer, .. } = &mut events[index + 1] else { panic!("no answer") };
    *answer = new;
}

#[test]
fn a_good_history_has_no_fault() {
    assert_eq!(broken(|_, _| ()), []);
}

#[test]
fn calls_that_were_never_answered_may_have_gone_either_way() {
    // An ack that took effect, one that did not and was said again, and a batch that is not there.
    assert_eq!(
        broken(|events, _| {
            let at = settling(events, Reader::Keys, 3, 1);
            answer_of(events, at, Answer::Unknown);
        }),
        []
    );
    assert_eq!(
        broken(|events, found| {
            let at = settling(events, Reader::Mixed, 3, 1);
            answer_of(events, at, Answer::Unknown);
            let freight = found.freight[3];
            events.extend([
                Event::Delivered { reader: Reader::Mixed, freight, offset: 3, attempt: 2 },
                Event::Settling { reader: Reader::Mixed, settlement: 9999, offset: 3, verdict: Verdict::Ack },
                Event::Settled { settlement: 9999, answer: Answer::Done },
            ]);
        }),
        []
    );
    assert_eq!(
        broken(|events, _| {
            let first = Freight { publisher: 1, number: 900 };
            events.extend([
                Event::Sent { first, count: 2 },
                Event::Unanswered { first, answer: Answer::Unknown },
            ]);
        }),
        []
    );
}

#[test]
fn an_acknowledged_message_that_is_gone_is_lost() {
    let rules = broken(|_, found| found.freight.truncate(57));
    assert!(rules.contains(&Rule::Lost), "{rules:?}");
}

#[test]
fn a_receipt_of_another_offset_is_a_loss() {
    assert_eq!(
        broken(|events, _| events
            .push(Event::Stored { freight: Freight { publisher: 0, number: 0 }, offset: 1 })),
        [Rule::Lost]
    );
}

#[test]
fn a_message_that_was_seen_and_is_gone_was_not_durable() {
    let freight = Freight { publisher: 1, number: 900 };
    let unanswered = [
        Event::Sent { first: freight, count: 1 },
        Event::Unanswered { first: freight, answer: Answer::Unknown },
    ];
    assert_eq!(
        broken(|events, _| {
            events.extend(unanswered);
            events.push(Event::Seen { freight, offset: 60 });
        }),
        [Rule::Vanished]
    );
    assert_eq!(
        broken(|events, _| {
            events.extend(unanswered);
            events.push(Event::Delivered { reader: Reader::Keys, freight, offset: 60, attempt: 1 });
        }),
        [Rule::Vanished]
    );
}

#[test]
fn what_is_stored_twice_is_caught() {
    let rules = broken(|_, found| found.freight.push(Freight { publisher: 0, number: 4 }));
    assert!(rules.contains(&Rule::StoredTwice), "{rules:?}");
    assert_eq!(broken(|_, found| found.outputs.push(found.outputs[4])), [Rule::StoredTwice]);
}

#[test]
fn what_nobody_published_or_was_refused_is_caught() {
    let rules = broken(|_, found| found.freight.push(Freight { publisher: 9, number: 0 }));
    assert!(rules.contains(&Rule::Invented), "{rules:?}");
    let rules = broken(|events, _| {
        events
            .push(Event::Unanswered { first: Freight { publisher: 0, number: 0 }, answer: Answer::Refused });
    });
    assert_eq!(rules, [Rule::Invented]);
}

#[test]
fn messages_out_of_order_are_caught() {
    let rules = broken(|_, found| {
        // Two whole batches of publisher 0 have changed places.
        for offset in 0..3 {
            found.freight.swap(offset, offset + 6);
        }
    });
    assert!(rules.contains(&Rule::OutOfOrder) && !rules.contains(&Rule::Torn), "{rules:?}");
}

#[test]
fn a_batch_in_part_is_caught() {
    let rules = broken(|events, _| {
        let Some(Event::Sent { count, .. }) = events.first_mut() else { panic!("a batch") };
        *count = 6;
        events
            .retain(|event| !matches!(event, Event::Sent { first: Freight { publisher: 0, number: 3 }, .. }));
    });
    assert_eq!(rules, [Rule::Torn]);
}

#[test]
fn a_message_that_a_subscription_never_got_is_caught() {
    for reader in Reader::ALL {
        let rules = broken(|events, found| {
            let at = settling(events, reader, 20, 1);
            events.drain(at - 1..=at + 1);
            found.outputs.retain(|output| reader != Reader::Effects || output.of != 20);
        });
        assert_eq!(rules, [Rule::NeverSettled], "{reader:?}");
    }
}

#[test]
fn an_acknowledged_settlement_that_comes_undone_is_caught() {
    let rules = broken(|events, found| {
        events.extend([
            Event::Delivered { reader: Reader::Mixed, freight: found.freight[9], offset: 9, attempt: 2 },
            Event::Settling { reader: Reader::Mixed, settlement: 9999, offset: 9, verdict: Verdict::Ack },
            Event::Settled { settlement: 9999, answer: Answer::Done },
        ]);
    });
    assert_eq!(rules, [Rule::Undone]);
}

#[test]
fn outputs_without_their_acknowledgement_and_the_other_way_round_are_caught() {
    // Acknowledged, and the output is missing.
    assert_eq!(broken(|_, found| _ = found.outputs.remove(5)), [Rule::HalfDone]);
    // Refused, and the output is there.
    let rules = broken(|events, _| {
        let at = settling(events, Reader::Effects, 5, 1);
        answer_of(events, at, Answer::Refused);
    });
    assert!(rules.contains(&Rule::HalfDone), "{rules:?}");
    // Never answered, the output is there, and the message was delivered and done once more.
    let rules = broken(|events, found| {
        let at = settling(events, Reader::Effects, 5, 1);
        answer_of(events, at, Answer::Unknown);
        events.extend([
            Event::Delivered { reader: Reader::Effects, freight: found.freight[5], offset: 5, attempt: 2 },
            Event::Settling { reader: Reader::Effects, settlement: 9999, offset: 5, verdict: Verdict::Ack },
            Event::Settled { settlement: 9999, answer: Answer::Done },
        ]);
        found.outputs.push(Output { settlement: 9999, of: 5 });
    });
    assert_eq!(rules, [Rule::Undone]);
    // Never answered, no output, and the message did not come again.
    let rules = broken(|events, found| {
        let at = settling(events, Reader::Effects, 5, 1);
        answer_of(events, at, Answer::Unknown);
        found.outputs.retain(|output| output.of != 5);
    });
    assert_eq!(rules, [Rule::NeverSettled]);
    // Of one settlement's two outputs one is there.
    let rules = broken(|events, found| {
        let (one, two) = (settling(events, Reader::Effects, 5, 1), settling(events, Reader::Effects, 6, 1));
        let Event::Settling { settlement: first, .. } = events[one] else { panic!("a settlement") };
        let Event::Settling { settlement, .. } = &mut events[two] else { panic!("a settlement") };
        *settlement = first;
        answer_of(events, one, Answer::Unknown);
        events.remove(two + 1);
        found.outputs.retain(|output| output.of != 6);
    });
    assert!(rules.contains(&Rule::HalfDone), "{rules:?}");
    // An output by nobody.
    assert_eq!(broken(|_, found| found.outputs.push(Output { settlement: 77_777, of: 5 })), [Rule::HalfDone]);
}

#[test]
fn a_message_delivered_before_its_keys_last_one_was_settled_is_caught() {
    let (_, found) = good();
    let key = |offset: usize| found.freight[offset].key();
    let (before, after) = (0..60)
        .flat_map(|before| (before + 1..60).map(move |after| (before, after)))
        .find(|(before, after)| key(*before).is_some() && key(*before) == key(*after))
        .unwrap();
    for reader in [Reader::Keys, Reader::Mixed] {
        let rules = broken(|events, _| {
            // The one before is settled last of all.
            let at = settling(events, reader, before as u64, 1);
            let moved: Vec<Event> = events.drain(at..=at + 1).collect();
            assert!(at < settling(events, reader, after as u64, 0));
            events.extend(moved);
        });
        let expected: &[Rule] = if reader == Reader::Keys { &[Rule::KeyOvertaken] } else { &[] };
        assert_eq!(rules, expected, "only where order is by key");
    }
}

#[test]
fn failures_that_are_forgotten_or_made_up_are_caught() {
    for wrong in [1, 3] {
        let rules = broken(|events, _| {
            let at = settling(events, Reader::Keys, 11, 1);
            let Event::Delivered { attempt, .. } = &mut events[at - 1] else { panic!("a delivery") };
            *attempt = wrong;
        });
        assert_eq!(rules, [Rule::Miscounted], "attempt {wrong} after one failure");
    }
}

#[test]
fn dead_letters_that_are_missing_or_made_up_are_caught() {
    assert_eq!(broken(|_, found| found.dead.clear()), [Rule::DeadLetters]);
    assert_eq!(broken(|_, found| found.dead.push(8)), [Rule::DeadLetters]);
}

#[test]
fn outputs_that_are_stored_first_are_there_once_for_each_message() {
    let broken = |doctor: &dyn Fn(&mut Vec<Event>, &mut Found)| -> Vec<Rule> {
        let (mut events, mut found) = good();
        doctor(&mut events, &mut found);
        tally(&judge(&events, &found, Together::OutputsFirst)).into_keys().collect()
    };
    assert_eq!(broken(&|_, _| {}), []);
    // Settled again after a settlement that was not answered and has left its output.
    let again = |events: &mut Vec<Event>| {
        let at = settling(events, Reader::Effects, 3, 1);
        let (delivered, Event::Settling { settlement, .. }) = (events[at - 1], events[at]) else {
            panic!("no settlement")
        };
        answer_of(events, at, Answer::Unknown);
        events.extend([
            delivered,
            Event::Settling { reader: Reader::Effects, settlement: 9999, offset: 3, verdict: Verdict::Ack },
            Event::Settled { settlement: 9999, answer: Answer::Done },
        ]);
        settlement
    };
    assert_eq!(broken(&|events, _| _ = again(events)), []);
    let twice = broken(&|events, found| {
        again(events);
        found.outputs.push(Output { settlement: 9999, of: 3 });
    });
    assert_eq!(twice, [Rule::StoredTwice]);
    let lost = broken(&|events, found| {
        let settlement = again(events);
        found.outputs.retain(|output| output.settlement != settlement);
    });
    assert_eq!(lost, [Rule::HalfDone]);
    let invented = broken(&|_, found| found.outputs[3].settlement = 9998);
    assert_eq!(invented, [Rule::HalfDone]);
}
