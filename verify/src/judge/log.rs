//! Promises about the log: what was acknowledged or seen is there, once, whole and in order.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Rule, Verdicts};
use crate::freight::Freight;
use crate::history::{Answer, Event, Found};

pub(super) fn judge(events: &[Event], found: &Found, verdicts: &mut Verdicts) {
    let places = places(found, verdicts);
    let batches = batches(events);
    receipts(events, found, verdicts);
    origin(&batches, &places, verdicts);
    whole(&batches, &places, verdicts);
    order(&batches, found, verdicts);
}

/// Where each message lies.
fn places(found: &Found, verdicts: &mut Verdicts) -> HashMap<Freight, u64> {
    let mut places = HashMap::new();
    for (offset, freight) in (0..).zip(&found.freight) {
        if let Some(first) = places.insert(*freight, offset) {
            verdicts.add(Rule::StoredTwice, format!("{freight} lies at {first} and at {offset}"));
        }
    }
    places
}

/// How many messages a batch has, and whether it was answered by receipts.
struct Sent {
    count: u32,
    answer: Option<Answer>,
}

/// The batches, by their first message.
fn batches(events: &[Event]) -> BTreeMap<Freight, Sent> {
    let mut batches = BTreeMap::new();
    for event in events {
        match *event {
            Event::Sent { first, count } => _ = batches.insert(first, Sent { count, answer: None }),
            Event::Unanswered { first, answer } => {
                if let Some(sent) = batches.get_mut(&first) {
                    sent.answer = Some(answer);
                }
            }
            _ => {}
        }
    }
    batches
}

fn messages(first: Freight, count: u32) -> impl Iterator<Item = Freight> {
    (first.number..first.number + count).map(move |number| Freight { number, ..first })
}

/// What was acknowledged, or seen by anybody, lies where it was said to.
fn receipts(events: &[Event], found: &Found, verdicts: &mut Verdicts) {
    let at = |offset: u64| found.freight.get(usize::try_from(offset).unwrap_or(usize::MAX));
    let mut told: HashSet<(u64, Freight)> = HashSet::new();
    for event in events {
        let (rule, freight, offset) = match *event {
            Event::Stored { freight, offset } => (Rule::Lost, freight, offset),
            Event::Seen { freight, offset } | Event::Delivered { freight, offset, .. } => {
                (Rule::Vanished, freight, offset)
            }
            _ => continue,
        };
        if at(offset) != Some(&freight) && told.insert((offset, freight)) {
            let there = at(offset).map_or("nothing".into(), Freight::to_string);
            verdicts.add(rule, format!("{freight} was at {offset}, where {there} is in the end"));
        }
    }
}

/// Nothing is there that was refused, or that nobody published.
fn origin(batches: &BTreeMap<Freight, Sent>, places: &HashMap<Freight, u64>, verdicts: &mut Verdicts) {
    for (freight, offset) in places {
        let batch = batches.range(..=*freight).next_back();
        let batch = batch.filter(|(first, sent)| {
            first.publisher == freight.publisher && freight.number - first.number < sent.count
        });
        match batch {
            None => verdicts.add(Rule::Invented, format!("{freight} at {offset} was never published")),
            Some((_, sent)) if sent.answer == Some(Answer::Refused) => {
                verdicts.add(Rule::Invented, format!("{freight} at {offset} had been refused"));
            }
            Some(_) => {}
        }
    }
}

/// A batch is there in one piece, or not at all.
fn whole(batches: &BTreeMap<Freight, Sent>, places: &HashMap<Freight, u64>, verdicts: &mut Verdicts) {
    for (first, sent) in batches {
        let lie: Vec<Option<&u64>> =
            messages(*first, sent.count).map(|freight| places.get(&freight)).collect();
        let in_a_row = lie.windows(2).all(|pair| match pair {
            [Some(one), Some(next)] => **one + 1 == **next,
            [None, None] => true,
            _ => false,
        });
        verdicts.unless(in_a_row, Rule::Torn, || {
            format!("the {} messages from {first} lie at {lie:?}", sent.count)
        });
    }
}

/// A publisher's messages lie in the order in which it published them, but those that it may have published again.
fn order(batches: &BTreeMap<Freight, Sent>, found: &Found, verdicts: &mut Verdicts) {
    let again: HashSet<Freight> = batches
        .iter()
        .filter(|(_, sent)| sent.answer == Some(Answer::Unknown))
        .flat_map(|(first, sent)| messages(*first, sent.count))
        .collect();
    let mut last: HashMap<u32, Freight> = HashMap::new();
    for freight in found.freight.iter().filter(|freight| !again.contains(freight)) {
        if let Some(before) = last.insert(freight.publisher, *freight) {
            verdicts
                .unless(before < *freight, Rule::OutOfOrder, || format!("{freight} lies behind {before}"));
        }
    }
}
