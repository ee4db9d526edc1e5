//! Promises about what consumers did: every message is settled for good once, in the order of its key, with its
//! outputs, and failures are counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Rule, Together, Verdicts};
use crate::history::{Answer, Event, Found, Reader, Verdict};

/// Something that a consumer said of a delivery.
#[derive(Clone, Copy, Debug)]
struct Said {
    settlement: u64,
    verdict: Verdict,
    /// The event with which it began.
    began: usize,
}

/// What is known of one message on one subscription.
#[derive(Default)]
struct Story {
    delivered: Vec<(usize, u32)>,
    said: Vec<Said>,
}

/// How settlements ended.
struct Settlements {
    /// The answer, and the event with which it came. One that is not here was never answered.
    answers: HashMap<u64, (Answer, usize)>,
    stale: BTreeSet<(u64, u64)>,
    /// The messages of which there is an output.
    outputs: BTreeMap<u64, BTreeSet<u64>>,
    together: Together,
}

/// Whether something that was said took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Yes,
    No,
    Perhaps,
}

impl Settlements {
    fn read(events: &[Event], found: &Found, together: Together) -> Self {
        let (answers, stale, outputs) = (HashMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut all = Self { answers, stale, outputs, together };
        for (index, event) in events.iter().enumerate() {
            match *event {
                Event::Settled { settlement, answer } => _ = all.answers.insert(settlement, (answer, index)),
                Event::Stale { settlement, offset } => _ = all.stale.insert((settlement, offset)),
                _ => {}
            }
        }
        for output in &found.outputs {
            all.outputs.entry(output.settlement).or_default().insert(output.of);
        }
        all
    }

    fn answer(&self, settlement: u64) -> Answer {
        self.answers.get(&settlement).map_or(Answer::Unknown, |(answer, _)| *answer)
    }

    /// Whether what was said of this message took effect. Where there are outputs, they say so.
    fn effect(&self, reader: Reader, offset: u64, said: &Said) -> Effect {
        if self.stale.contains(&(said.settlement, offset)) {
            return Effect::No;
        }
        match self.answer(said.settlement) {
            Answer::Done => Effect::Yes,
            Answer::Refused => Effect::No,
            Answer::Unknown
                if self.together == Together::InOneWrite
                    && reader == Reader::Effects
                    && said.verdict == Verdict::Ack =>
            {
                let there = self.outputs.get(&said.settlement).is_some_and(|of| of.contains(&offset));
                if there { Effect::Yes } else { Effect::No }
            }
            Answer::Unknown => Effect::Perhaps,
        }
    }
}

pub(super) fn judge(events: &[Event], found: &Found, together: Together, verdicts: &mut Verdicts) {
    let mut stories: BTreeMap<(Reader, u64), Story> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        match *event {
            Event::Delivered { reader, offset, attempt, .. } => {
                stories.entry((reader, offset)).or_default().delivered.push((index, attempt));
            }
            Event::Settling { reader, settlement, offset, verdict } => {
                let said = Said { settlement, verdict, began: index };
                stories.entry((reader, offset)).or_default().said.push(said);
            }
            _ => {}
        }
    }
    let settlements = Settlements::read(events, found, together);
    endings(&stories, &settlements, found, verdicts);
    match together {
        Together::InOneWrite => outputs(&stories, &settlements, found, verdicts),
        Together::OutputsFirst => outputs_first(&stories, &settlements, found, verdicts),
    }
    keys(&stories, &settlements, found, verdicts);
    failures(&stories, &settlements, verdicts);
    dead_letters(&stories, &settlements, found, verdicts);
}

/// Each message of the log is settled for good, once, on each subscription.
fn endings(
    stories: &BTreeMap<(Reader, u64), Story>,
    settlements: &Settlements,
    found: &Found,
    verdicts: &mut Verdicts,
) {
    let none = Story::default();
    for reader in Reader::ALL {
        for (offset, freight) in (0..).zip(&found.freight) {
            let story = stories.get(&(reader, offset)).unwrap_or(&none);
            let effects = |wanted: Effect| {
                let ends = story.said.iter().filter(|said| said.verdict.ends());
                ends.filter(|said| settlements.effect(reader, offset, said) == wanted).count()
            };
            let (sure, perhaps) = (effects(Effect::Yes), effects(Effect::Perhaps));
            let name = reader.name();
            verdicts.unless(sure < 2, Rule::Undone, || {
                format!("{freight} at {offset} was settled for good {sure} times on {name}")
            });
            verdicts.unless(sure + perhaps > 0, Rule::NeverSettled, || {
                format!(
                    "{freight} at {offset} was delivered {} times on {name}, and never settled",
                    story.delivered.len()
                )
            });
        }
    }
}

/// Of each settlement all outputs are there or none; all when it was acknowledged, none when it was refused.
fn outputs(
    stories: &BTreeMap<(Reader, u64), Story>,
    settlements: &Settlements,
    found: &Found,
    verdicts: &mut Verdicts,
) {
    let mut expected: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for ((_, offset), story) in stories.range((Reader::Effects, 0)..=(Reader::Effects, u64::MAX)) {
        for said in story.said.iter().filter(|said| said.verdict == Verdict::Ack) {
            expected.entry(said.settlement).or_default().insert(*offset);
        }
    }
    let none = BTreeSet::new();
    for (settlement, of) in &expected {
        let there = settlements.outputs.get(settlement).unwrap_or(&none);
        let right = match settlements.answer(*settlement) {
            Answer::Done => there == of,
            Answer::Refused => there.is_empty(),
            Answer::Unknown => there.is_empty() || there == of,
        };
        verdicts.unless(right, Rule::HalfDone, || {
            let answer = settlements.answer(*settlement);
            format!("settlement {settlement} ({answer:?}) of {of:?} has outputs of {there:?}")
        });
    }
    for (settlement, there) in &settlements.outputs {
        verdicts.unless(expected.contains_key(settlement), Rule::HalfDone, || {
            format!("there are outputs of {there:?} by a settlement {settlement} that nobody made")
        });
    }
    let mut count: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for output in &found.outputs {
        *count.entry((output.settlement, output.of)).or_default() += 1;
    }
    for ((settlement, of), times) in count {
        verdicts.unless(times == 1, Rule::StoredTwice, || {
            format!("the output of {of} by settlement {settlement} is there {times} times")
        });
    }
}

/// Each message that was acknowledged has one output, of some settlement that said so; no message has more, and none has
/// one of which nobody said so.
fn outputs_first(
    stories: &BTreeMap<(Reader, u64), Story>,
    settlements: &Settlements,
    found: &Found,
    verdicts: &mut Verdicts,
) {
    let none = Story::default();
    let mut there: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for output in &found.outputs {
        there.entry(output.of).or_default().push(output.settlement);
    }
    for (of, by) in &there {
        verdicts.unless(by.len() == 1, Rule::StoredTwice, || {
            format!("the output of {of} is there {} times, by the settlements {by:?}", by.len())
        });
        let story = stories.get(&(Reader::Effects, *of)).unwrap_or(&none);
        let said = |settlement: &u64| {
            let mut said = story.said.iter().filter(|said| said.verdict == Verdict::Ack);
            said.any(|said| said.settlement == *settlement)
        };
        verdicts.unless(by.iter().all(said), Rule::HalfDone, || {
            format!("there is an output of {of} by the settlements {by:?}, which did not acknowledge it")
        });
    }
    for ((_, offset), story) in stories.range((Reader::Effects, 0)..=(Reader::Effects, u64::MAX)) {
        let mut acked = story.said.iter().filter(|said| said.verdict == Verdict::Ack);
        let done = acked.any(|said| settlements.effect(Reader::Effects, *offset, said) == Effect::Yes);
        verdicts.unless(!done || there.contains_key(offset), Rule::HalfDone, || {
            format!("the message at {offset} was acknowledged, and its output is not there")
        });
    }
}

/// On the subscription by key, a message is not delivered before the one before it of its key is settled for good.
fn keys(
    stories: &BTreeMap<(Reader, u64), Story>,
    settlements: &Settlements,
    found: &Found,
    verdicts: &mut Verdicts,
) {
    let mut last: HashMap<String, u64> = HashMap::new();
    for (offset, freight) in (0..).zip(&found.freight) {
        let Some(key) = freight.key() else { continue };
        let Some(before) = last.insert(key.clone(), offset) else { continue };
        let Some(story) = stories.get(&(Reader::Keys, before)) else { continue };
        let ended = |wanted: Effect| {
            let ends = story.said.iter().filter(|said| said.verdict.ends());
            ends.filter(|said| settlements.effect(Reader::Keys, before, said) == wanted)
                .map(|s| s.began)
                .min()
        };
        // Settled for good for sure; or else at one of the times when nobody answered.
        let ended = ended(Effect::Yes).or_else(|| ended(Effect::Perhaps));
        let delivered = stories.get(&(Reader::Keys, offset)).and_then(|story| story.delivered.first());
        if let (Some(ended), Some((delivered, _))) = (ended, delivered) {
            verdicts.unless(ended < *delivered, Rule::KeyOvertaken, || {
                format!(
                    "key {key}: the message at {offset} was delivered before the one at {before} was settled"
                )
            });
        }
    }
}

/// Each delivery says as many failures as there were: a restart and a consumer that leaves count none.
fn failures(stories: &BTreeMap<(Reader, u64), Story>, settlements: &Settlements, verdicts: &mut Verdicts) {
    for ((reader, offset), story) in stories {
        let failed: Vec<(&Said, Effect)> = story
            .said
            .iter()
            .filter(|said| said.verdict == Verdict::Retry)
            .map(|said| (said, settlements.effect(*reader, *offset, said)))
            .filter(|(_, effect)| *effect != Effect::No)
            .collect();
        for (at, attempt) in &story.delivered {
            let most = failed.iter().filter(|(said, _)| said.began < *at).count();
            let answered =
                |said: &Said| settlements.answers.get(&said.settlement).is_some_and(|(_, when)| when < at);
            let least =
                failed.iter().filter(|(said, effect)| *effect == Effect::Yes && answered(said)).count();
            let right = (least + 1..=most + 1).contains(&(*attempt as usize));
            verdicts.unless(right, Rule::Miscounted, || {
                format!("{offset} on {}: attempt {attempt} after {least} to {most} failures", reader.name())
            });
        }
    }
}

/// What was rejected is a dead letter, and nothing else is.
fn dead_letters(
    stories: &BTreeMap<(Reader, u64), Story>,
    settlements: &Settlements,
    found: &Found,
    verdicts: &mut Verdicts,
) {
    let dead: BTreeSet<u64> = found.dead.iter().copied().collect();
    let none = Story::default();
    for offset in 0..found.freight.len() as u64 {
        let story = stories.get(&(Reader::Mixed, offset)).unwrap_or(&none);
        let effects = |verdict: Verdict, wanted: Effect| {
            let said = story.said.iter().filter(|said| said.verdict == verdict);
            said.filter(|said| settlements.effect(Reader::Mixed, offset, said) == wanted).count() > 0
        };
        let rejected = effects(Verdict::Reject, Effect::Yes);
        let perhaps = effects(Verdict::Reject, Effect::Perhaps) && !effects(Verdict::Ack, Effect::Yes);
        let is_dead = dead.contains(&offset);
        verdicts.unless(!rejected || is_dead, Rule::DeadLetters, || {
            format!("{offset} was rejected, and is no dead letter")
        });
        verdicts.unless(!is_dead || rejected || perhaps, Rule::DeadLetters, || {
            format!("{offset} is a dead letter, and nobody rejected it")
        });
    }
}
