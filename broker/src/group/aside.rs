//! Messages that are set aside, and why.

use std::collections::BTreeMap;

use crossdock_topics::Timestamp;

use super::place::{Held, ParkedSince, Waiting};
use super::ready::Rank;
use super::{AT_ONCE, Action, Facts, Flight, Group, Holders, Known, LOOSE, Lanes, Ready, Rules};

/// A message that is set aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside {
    pub(super) due: Timestamp,
    pub(super) known: Known,
    pub(super) wait: Wait,
    /// Whether it has only been looked at.
    pub(super) ahead: bool,
}

/// What a message that is set aside waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// A consumer.
    Ready,
    /// Its time.
    Later,
    /// An earlier one of its key.
    Behind,
    /// Its key is parked.
    Parked,
}

impl Group {
    /// Sets a message aside until `due`, and in its place among those of its key; gives what it waits for.
    pub(super) fn set_aside(&mut self, offset: u64, known: Known, due: Timestamp, ahead: bool) -> Wait {
        let is_head = known.facts.key.is_none_or(|key| self.lanes.enter(key, offset));
        let wait = match is_head {
            false => Wait::Behind,
            true if due == AT_ONCE => Wait::Ready,
            true => Wait::Later,
        };
        self.put_down(offset, Aside { due, known, wait, ahead });
        wait
    }

    /// Enters a message that is set aside into every index. Its lane knows it already.
    pub(super) fn put_down(&mut self, offset: u64, aside: Aside) {
        match aside.wait {
            Wait::Ready => self.ready.insert(aside.known.facts.key, rank(&self.rules, offset, &aside)),
            Wait::Later => drop(self.later.insert((aside.due, offset))),
            Wait::Parked => drop(self.parked.insert(offset)),
            Wait::Behind => {}
        }
        self.ahead += usize::from(aside.ahead && aside.wait == Wait::Ready);
        if !aside.known.recorded && self.rules.by_key && (aside.ahead || aside.wait == Wait::Behind) {
            self.loose.insert(offset);
        }
        self.aside.insert(offset, aside);
    }

    /// Takes a message out of every index but its lane.
    pub(super) fn pick_up(&mut self, offset: u64) -> Option<Aside> {
        let aside = self.aside.remove(&offset)?;
        match aside.wait {
            Wait::Ready => {
                // Whichever rules it was entered under.
                let Facts { key, priority, .. } = aside.known.facts;
                self.ready.remove(key, Rank::by_time(aside.due, offset));
                self.ready.remove(key, Rank::by_priority(priority, offset));
            }
            Wait::Later => drop(self.later.remove(&(aside.due, offset))),
            Wait::Parked => drop(self.parked.remove(&offset)),
            Wait::Behind => {}
        }
        self.ahead -= usize::from(aside.ahead && aside.wait == Wait::Ready);
        self.loose.remove(&offset);
        Some(aside)
    }

    /// What was set aside until now is ready; gives whether there was any.
    pub(super) fn ripen(&mut self, now: Timestamp) -> bool {
        let mut any = false;
        while let Some((_, offset)) = self.later.first().copied().filter(|(due, _)| *due <= now) {
            let Some(aside) = self.pick_up(offset) else { break };
            self.put_down(offset, Aside { wait: Wait::Ready, ..aside });
            any = true;
        }
        any
    }

    /// Writes down what has waited for others for longest, so that the place stays small.
    pub(super) fn tighten(&mut self, actions: &mut Vec<Action>) {
        while self.loose.len() > LOOSE
            && let Some(offset) = self.loose.pop_first()
        {
            if let Some(aside) = self.aside.get_mut(&offset) {
                aside.known.recorded = true;
                let waiting = Waiting::of(&aside.known, aside.due, None, "", None);
                self.open.remove(offset);
                actions.push(Action::Record { offset, waiting });
            }
        }
    }

    /// Sets aside everything that was open when the group was persisted, but for what is held.
    pub(super) fn restore(
        &mut self,
        facts: &BTreeMap<u64, Facts>,
        waiting: Vec<(u64, Waiting)>,
        held: Vec<(u64, Held)>,
    ) {
        for (offset, waiting) in waiting {
            let known = Known {
                facts: waiting.facts,
                deliveries: waiting.deliveries,
                failures: waiting.failures,
                recorded: true,
            };
            let wait = if waiting.parked.is_some() { Wait::Parked } else { Wait::Later };
            // A record can be there of what the place counts as open, never as done.
            self.open.remove(offset);
            self.aside.insert(offset, Aside { due: waiting.due, known, wait, ahead: false });
        }
        for offset in self.open.iter() {
            let facts = facts.get(&offset).copied().unwrap_or_default();
            let known = Known { facts, ..Known::default() };
            self.aside.insert(offset, Aside { due: AT_ONCE, known, wait: Wait::Later, ahead: false });
        }
        for (offset, Held { token, until, deliveries }) in held {
            let aside = self.aside.get(&offset).filter(|aside| aside.wait != Wait::Parked);
            let Some(known) = aside.map(|aside| Known { deliveries, ..aside.known }) else { continue };
            self.aside.remove(&offset);
            self.earliest_lease = self.earliest_lease.min(until);
            let flight = Flight { token, consumer: None, until, known, handed: true };
            self.in_flight.insert(offset, flight);
        }
        self.rearrange();
    }

    /// Enters everything anew, as the rules are now.
    fn rearrange(&mut self) {
        self.ready = Ready::default();
        self.lanes = Lanes::default();
        self.holders = Holders::default();
        self.later.clear();
        self.loose.clear();
        self.parked.clear();
        self.ahead = 0;
        let by_key = self.rules.by_key;
        for (offset, flight) in &mut self.in_flight {
            flight.known.facts.key = flight.known.facts.key.filter(|_| by_key);
            if let Some(key) = flight.known.facts.key {
                self.lanes.enter(key, *offset);
                if let Some(consumer) = flight.consumer {
                    self.holders.take(consumer, key.slot());
                }
            }
        }
        let aside = std::mem::take(&mut self.aside);
        // A key that is parked stays so, whatever else of it came back meanwhile.
        let (parked, others): (Vec<_>, Vec<_>) =
            aside.into_iter().partition(|(_, aside)| by_key && aside.wait == Wait::Parked);
        for (offset, aside) in parked {
            match aside.known.facts.key {
                Some(key) if self.lanes.enter(key, offset) => self.put_down(offset, aside),
                _ => drop(self.set_aside(offset, aside.known, aside.due, false)),
            }
        }
        for (offset, Aside { due, mut known, ahead, .. }) in others {
            known.facts.key = known.facts.key.filter(|_| by_key);
            self.set_aside(offset, known, due, ahead);
        }
    }

    /// The messages that are not settled and of which no key is known, in order.
    #[must_use]
    pub fn unkeyed(&self) -> Vec<u64> {
        let flying = self.in_flight.iter().map(|(offset, flight)| (*offset, &flight.known));
        let aside = self.aside.iter().map(|(offset, aside)| (*offset, &aside.known));
        let unkeyed = flying.chain(aside).filter(|(_, known)| known.facts.key.is_none());
        let mut offsets: Vec<u64> = unkeyed.map(|(offset, _)| offset).collect();
        offsets.sort_unstable();
        offsets
    }

    /// Other rules. Without order by key nothing waits behind a key any more, and no key is parked. Where it begins, what is
    /// in flight stays there, and its keys go on when all of that is settled.
    pub(super) fn redefine(
        &mut self,
        rules: Rules,
        facts: &BTreeMap<u64, Facts>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let rearrange = rules.by_key != self.rules.by_key || rules.by_priority != self.rules.by_priority;
        let by_key = rules.by_key || self.rules.by_key;
        self.rules = rules;
        if by_key {
            self.hold(actions);
        }
        if !rearrange {
            return;
        }
        if !self.rules.by_key {
            for offset in std::mem::take(&mut self.parked) {
                if let Some(aside) = self.aside.get_mut(&offset) {
                    aside.wait = Wait::Later;
                    aside.known.failures = 0;
                    let waiting = Waiting::of(&aside.known, now, None, "", None);
                    actions.push(Action::Record { offset, waiting });
                }
            }
        }
        let flying = self.in_flight.iter_mut().map(|(offset, flight)| (offset, &mut flight.known));
        let aside = self.aside.iter_mut().map(|(offset, aside)| (offset, &mut aside.known));
        for (offset, known) in flying.chain(aside) {
            known.facts.key = known.facts.key.or_else(|| facts.get(offset)?.key);
        }
        self.rearrange();
        actions.extend([Action::Place, Action::Available]);
    }

    /// The next message of a key that was parked, or the same one again.
    pub(super) fn unpark(&mut self, offset: u64) -> Option<Known> {
        self.parked.contains(&offset).then(|| self.pick_up(offset).map(|aside| aside.known)).flatten()
    }

    pub(super) fn release_key(&mut self, offset: u64, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(known) = self.unpark(offset) else { return actions.push(Action::Stale) };
        let known = Known { deliveries: 0, failures: 0, ..known };
        self.set_aside(offset, known, AT_ONCE, false);
        let waiting = Waiting::of(&known, now, None, "", None);
        actions.extend([Action::Record { offset, waiting }, Action::Available]);
    }

    /// Parks the key of a message that failed too often.
    pub(super) fn park(
        &mut self,
        offset: u64,
        known: Known,
        reason: &str,
        by: Option<&str>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        if !known.recorded {
            self.open.remove(offset);
        }
        let known = Known { recorded: true, ..known };
        let parked = Some(ParkedSince(now));
        let waiting = Waiting::of(&known, now, parked, reason, by);
        self.put_down(offset, Aside { due: now, known, wait: Wait::Parked, ahead: false });
        actions.extend([Action::Record { offset, waiting }, Action::Place]);
    }
}

fn rank(rules: &Rules, offset: u64, aside: &Aside) -> Rank {
    if rules.by_priority {
        Rank::by_priority(aside.known.facts.priority, offset)
    } else {
        Rank::by_time(aside.due, offset)
    }
}
