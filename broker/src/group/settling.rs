//! What becomes of messages: settled, failed, given up, given back, dropped.

use std::time::Duration;

use crossdock_topics::{ConsumerId, Outcome, Timestamp};

use super::place::{Dead, Waiting, shorten};
use super::{AT_ONCE, Action, Facts, Group, Holders, Known, Lanes, MAX_BY, MAX_REASON, Ready};

impl Group {
    pub(super) fn settle(
        &mut self,
        offset: u64,
        known: Known,
        outcome: &Outcome,
        by: Option<&str>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        match outcome {
            Outcome::Ack => self.done(offset, known, actions),
            Outcome::Retry { after, reason } => self.fail(offset, known, *after, reason, by, now, actions),
            Outcome::Release => {
                self.set_aside(offset, known, AT_ONCE, false);
                actions.push(Action::Available);
            }
            Outcome::Reject { reason } => {
                let failures = known.failures.saturating_add(1);
                self.bury(offset, Known { failures, ..known }, reason, by, now, actions);
            }
        }
    }

    /// Nothing is remembered of a message any more.
    pub(super) fn done(&mut self, offset: u64, known: Known, actions: &mut Vec<Action>) {
        if known.recorded {
            actions.push(Action::Erase(offset));
        } else {
            self.open.remove(offset);
        }
        self.leave_lane(known.facts.key, offset);
        actions.push(Action::Place);
    }

    #[allow(clippy::too_many_arguments)] // one failure, told whole
    fn fail(
        &mut self,
        offset: u64,
        mut known: Known,
        after: Option<Duration>,
        reason: &str,
        by: Option<&str>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        known.failures = known.failures.saturating_add(1);
        if known.failures >= self.rules.max_failures {
            match known.facts.key {
                None => return self.bury(offset, known, reason, by, now, actions),
                Some(key) if self.lanes.of(key).is_none_or(|(head, _)| head == offset) => {
                    return self.park(offset, known, reason, by, now, actions);
                }
                // Taken before order by key began, together with another one of its key. It fails for good when its turn
                // has come.
                Some(_) => {}
            }
        }
        let wait = after.unwrap_or_else(|| self.rules.backoff.wait(known.failures, offset));
        let due = now.after(wait);
        self.open.remove(offset);
        known.recorded = true;
        self.set_aside(offset, known, due, false);
        let waiting = Waiting::of(&known, due, None, reason, by);
        actions.extend([Action::Record { offset, waiting }, Action::Place]);
        if due <= now {
            actions.push(Action::Available);
        }
    }

    pub(super) fn bury(
        &mut self,
        offset: u64,
        known: Known,
        reason: &str,
        by: Option<&str>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let dead = Dead {
            reason: shorten(reason, MAX_REASON),
            failures: known.failures,
            deliveries: known.deliveries,
            by: by.map(|by| shorten(by, MAX_BY)),
            at: now,
            facts: known.facts,
        };
        self.dead.insert(offset, known.facts);
        actions.push(Action::Bury { offset, dead });
        self.done(offset, known, actions);
    }

    pub(super) fn redrive(&mut self, offset: u64, due: Timestamp, actions: &mut Vec<Action>) {
        let Some(facts) = self.dead.remove(&offset) else { return actions.push(Action::Stale) };
        let facts = Facts { key: facts.key.filter(|_| self.rules.by_key), ..facts };
        let known = Known { facts, recorded: true, ..Known::default() };
        self.set_aside(offset, known, due, false);
        let waiting = Waiting::of(&known, due, None, "", None);
        actions.extend([Action::Exhume(offset), Action::Record { offset, waiting }, Action::Available]);
    }

    pub(super) fn leave(&mut self, consumer: ConsumerId, actions: &mut Vec<Action>) {
        let held = self.in_flight.iter().filter(|(_, flight)| flight.consumer == Some(consumer));
        let held: Vec<u64> = held.map(|(offset, _)| *offset).collect();
        for offset in held {
            if let Some(known) = self.land(offset, actions) {
                self.set_aside(offset, known, AT_ONCE, false);
                actions.push(Action::Available);
            }
        }
    }

    /// A lease that runs out counts as a failure: whoever held the message did not manage it. Of what was handed over nobody
    /// can say that: the consumer may have given it back where it was no longer heard.
    pub(super) fn expire_leases(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.in_flight.is_empty() || self.earliest_lease > now {
            return;
        }
        let late = self.in_flight.iter().filter(|(_, flight)| flight.until <= now);
        let late: Vec<(u64, bool)> = late.map(|(offset, flight)| (*offset, flight.handed)).collect();
        for (offset, handed) in late {
            let Some(known) = self.land(offset, actions) else { continue };
            if handed {
                self.set_aside(offset, known, AT_ONCE, false);
                actions.push(Action::Available);
            } else {
                let reason = "the lease ran out: the consumer neither settled nor extended it in time";
                self.fail(offset, known, None, reason, None, now, actions);
            }
        }
        self.earliest_lease =
            self.in_flight.values().map(|flight| flight.until).min().unwrap_or(Timestamp(i64::MAX));
    }

    /// Nothing lies before `head` any more. With `spares_held`, what consumers hold of it stays with them.
    pub(super) fn trim(&mut self, head: u64, spares_held: bool, actions: &mut Vec<Action>) {
        if self.needs() >= head {
            return;
        }
        self.next = self.next.max(head);
        let held = self.in_flight.range(..head).map(|(offset, _)| *offset).filter(|_| !spares_held);
        let mut gone: Vec<u64> = self.aside.range(..head).map(|(offset, _)| *offset).chain(held).collect();
        // In their order, as keys go.
        gone.sort_unstable();
        for offset in gone {
            let known = self.land(offset, actions);
            let Some(known) = known.or_else(|| self.pick_up(offset).map(|aside| aside.known)) else {
                continue;
            };
            if known.recorded {
                actions.push(Action::Erase(offset));
            }
            self.leave_lane(known.facts.key, offset);
        }
        self.open.remove_before(head);
        for (offset, _) in self.in_flight.range(..head).filter(|(_, flight)| !flight.known.recorded) {
            self.open.insert(*offset);
        }
        let kept = self.dead.split_off(&head);
        let gone = std::mem::replace(&mut self.dead, kept);
        actions.extend(gone.into_keys().map(Action::Exhume));
        match self.rules.by_key {
            true => self.hold(actions),
            false => actions.push(Action::Place),
        }
    }

    /// Nothing from `to` on has been looked at.
    pub(super) fn take_back(&mut self, to: u64, actions: &mut Vec<Action>) {
        if self.next <= to {
            return;
        }
        let held = self.in_flight.range(to..).map(|(offset, _)| *offset);
        let mut gone: Vec<u64> = self.aside.range(to..).map(|(offset, _)| *offset).chain(held).collect();
        // In their order, as keys go.
        gone.sort_unstable();
        for offset in gone {
            let known = self.land(offset, actions);
            if let Some(known) = known.or_else(|| self.pick_up(offset).map(|aside| aside.known)) {
                self.done(offset, known, actions);
            }
        }
        actions.extend(self.dead.split_off(&to).into_keys().map(Action::Exhume));
        self.next = to;
        match self.rules.by_key {
            true => self.hold(actions),
            false => actions.push(Action::Place),
        }
        actions.push(Action::Available);
    }

    /// Begins anew at another place. Nothing that was delivered before can be settled any more.
    pub(super) fn seek(&mut self, to: u64, actions: &mut Vec<Action>) {
        let flying = self.in_flight.iter().map(|(offset, flight)| (*offset, flight.known));
        let waiting = self.aside.iter().map(|(offset, aside)| (*offset, aside.known));
        let recorded = flying.chain(waiting).filter(|(_, known)| known.recorded);
        actions.extend(recorded.map(|(offset, _)| Action::Erase(offset)));
        let gone = self.dead.split_off(&to);
        actions.extend(gone.into_keys().map(Action::Exhume));
        self.next = to;
        self.open = super::Ranges::default();
        self.in_flight.clear();
        self.earliest_lease = Timestamp(i64::MAX);
        self.aside.clear();
        self.ready = Ready::default();
        self.later.clear();
        self.lanes = Lanes::default();
        self.holders = Holders::default();
        self.loose.clear();
        self.parked.clear();
        self.ahead = 0;
        match self.rules.by_key {
            true => self.hold(actions),
            false => actions.push(Action::Place),
        }
        actions.push(Action::Available);
    }
}
