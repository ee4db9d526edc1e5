//! What a group should do, written as slowly and as plainly as can be: one entry for each message, looked through from
//! the first to the last for every question.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossdock_broker::group::{Fresh, KeyHash, Slots, Standing};
use crossdock_topics::{Backoff, ConsumerId, Outcome, Timestamp};

/// What of a definition counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) by_key: bool,
    pub(crate) by_priority: bool,
    pub(crate) max_failures: u32,
    pub(crate) max_in_flight: usize,
    pub(crate) backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody has looked at it.
    Unseen,
    /// With a consumer.
    Flying { token: u64, consumer: Option<ConsumerId>, until: Timestamp },
    /// To be delivered, not before this moment.
    Waiting { due: Timestamp },
    /// Failed too often: its key waits for somebody to decide.
    Parked,
    /// Given up.
    Dead,
    /// Nothing is to be done.
    Done,
}

/// What a restart must find of a message that failed, or waits for its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) due: Timestamp,
    pub(crate) deliveries: u32,
    pub(crate) failures: u32,
    pub(crate) parked: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) fresh: Fresh,
    pub(crate) state: State,
    pub(crate) deliveries: u32,
    pub(crate) failures: u32,
    pub(crate) memory: Option<Memory>,
    /// Whether its key is not known: it was given up while keys did not count.
    is_unkeyed: bool,
}

/// Whose turn it is, by key.
pub(crate) type Turns = BTreeMap<KeyHash, u64>;

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) rules: Rules,
    pub(crate) messages: Vec<Message>,
    pub(crate) next: u64,
    /// Whose turn it is among the messages of a key that were looked at.
    pub(crate) turn: Turns,
    /// The messages that are done with, and would be open again if the process died now and came back to what is
    /// durable for sure, or to anything since.
    pub(crate) unsynced: BTreeSet<u64>,
    /// Whether nothing may be delivered before what was changed last is durable.
    pub(crate) is_held: bool,
}

impl Message {
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Dead | State::Done)
    }

    /// Whether it will never be delivered if it is looked at now.
    fn is_passed_over(&self, now: Timestamp) -> bool {
        self.fresh.skip || self.fresh.expires_at.is_some_and(|expiry| expiry <= now)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        match self.state {
            State::Unseen => !self.is_passed_over(now) && self.fresh.deliver_at.is_none_or(|due| due <= now),
            State::Waiting { due } => due <= now,
            _ => false,
        }
    }
}

impl Model {
    pub(crate) fn new(rules: Rules) -> Self {
        let (turn, unsynced) = (BTreeMap::new(), BTreeSet::new());
        Self { rules, messages: Vec::new(), next: 0, turn, unsynced, is_held: false }
    }

    pub(crate) fn publish(&mut self, fresh: Fresh) {
        let state = State::Unseen;
        self.messages.push(Message {
            fresh,
            state,
            deliveries: 0,
            failures: 0,
            memory: None,
            is_unkeyed: false,
        });
    }

    fn at(&mut self, offset: u64) -> &mut Message {
        &mut self.messages[usize::try_from(offset).unwrap()]
    }

    pub(crate) fn get(&self, offset: u64) -> &Message {
        &self.messages[usize::try_from(offset).unwrap()]
    }

    pub(crate) fn offsets(&self, is: impl Fn(&Message) -> bool) -> Vec<u64> {
        self.messages.iter().filter(|message| is(message)).map(|message| message.fresh.offset).collect()
    }

    fn key(&self, message: &Message) -> Option<KeyHash> {
        message.fresh.facts.key.filter(|_| self.rules.by_key && !message.is_unkeyed)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.offsets(|message| matches!(message.state, State::Flying { .. })).len()
    }

    pub(crate) fn room(&self) -> usize {
        if self.is_held {
            return 0;
        }
        self.rules.max_in_flight.saturating_sub(self.in_flight())
    }

    /// Those that are done with, and would be delivered again were this what is left after a crash. What has been
    /// passed over would be again.
    pub(crate) fn open_here(&self, done: &Model, now: Timestamp) -> Vec<u64> {
        let is_done = |offset: u64| !done.get(offset).is_open();
        self.offsets(|message| {
            let will_come = message.state != State::Unseen || !message.is_passed_over(now);
            message.is_open() && will_come && is_done(message.fresh.offset)
        })
    }

    /// Whether a message may be handed out although the process may die and come back to what `past` says: then nothing
    /// of its key that is done with comes before it again. There whose turn it is comes first, and then the older. But if
    /// its turn had come by then, as `turns` says, whatever else there is was redriven and comes when it comes.
    pub(crate) fn is_safe(&self, offset: u64, past: &Model, turns: &Turns, now: Timestamp) -> bool {
        let Some(key) = self.key(self.get(offset)) else { return true };
        if turns.get(&key) == Some(&offset) {
            return true;
        }
        let head = past.head(key, now);
        let comes_before = |other: u64| head != Some(offset) && (head == Some(other) || other < offset);
        let again = past.open_here(self, now).into_iter();
        again.filter(|other| self.key(self.get(*other)) == Some(key)).all(|other| !comes_before(other))
    }

    /// Whose turn it is: the one it already is, or the oldest that is open.
    fn head(&self, key: KeyHash, now: Timestamp) -> Option<u64> {
        self.turn.get(&key).copied().or_else(|| {
            let mut open =
                self.messages.iter().filter(|message| self.key(message) == Some(key) && message.is_open());
            open.find(|message| message.state != State::Unseen || !message.is_passed_over(now))
                .map(|message| message.fresh.offset)
        })
    }

    /// Whether a consumer may have this message now, were there room.
    pub(crate) fn may_have(
        &self,
        offset: u64,
        consumer: Option<ConsumerId>,
        slots: &Slots,
        now: Timestamp,
    ) -> Result<(), String> {
        let message = self.get(offset);
        if !message.is_due(now) {
            return Err(format!("{offset} is not due: {message:?}"));
        }
        let Some(key) = self.key(message) else { return Ok(()) };
        if self.head(key, now) != Some(offset) {
            return Err(format!("{offset} comes before {:?} of its key", self.head(key, now)));
        }
        let Some(consumer) = consumer else { return Ok(()) };
        if slots.owner(key.slot()) != Some(consumer) {
            return Err(format!("{offset} is of a slot of {:?}", slots.owner(key.slot())));
        }
        let other = self.messages.iter().find(|other| {
            let holder = match other.state {
                State::Flying { consumer, .. } => consumer,
                _ => None,
            };
            self.key(other).is_some_and(|other| other.slot() == key.slot())
                && holder.is_some_and(|holder| holder != consumer)
        });
        match other {
            Some(other) => {
                Err(format!("{offset}: another consumer holds {} of its slot", other.fresh.offset))
            }
            None => Ok(()),
        }
    }

    /// All messages that a consumer may have now.
    pub(crate) fn deliverable(
        &self,
        consumer: Option<ConsumerId>,
        slots: &Slots,
        now: Timestamp,
    ) -> BTreeSet<u64> {
        let may = |message: &Message| self.may_have(message.fresh.offset, consumer, slots, now).is_ok();
        self.offsets(may).into_iter().collect()
    }

    /// A message is handed out; gives attempt and deliveries.
    pub(crate) fn deliver(
        &mut self,
        offset: u64,
        token: u64,
        consumer: Option<ConsumerId>,
        until: Timestamp,
    ) -> (u32, u32) {
        let message = self.at(offset);
        message.state = State::Flying { token, consumer, until };
        message.deliveries += 1;
        (message.failures + 1, message.deliveries)
    }

    /// Everything before `next` has been looked at.
    pub(crate) fn look(&mut self, next: u64, now: Timestamp) {
        self.next = next;
        for message in self.messages.iter_mut().take(usize::try_from(next).unwrap()) {
            if message.state != State::Unseen {
                continue;
            }
            message.state = match message.fresh.deliver_at.filter(|due| *due > now) {
                _ if message.is_passed_over(now) => State::Done,
                Some(due) => {
                    message.memory = Some(Memory { due, deliveries: 0, failures: 0, parked: false });
                    State::Waiting { due }
                }
                None => State::Waiting { due: now },
            };
        }
        self.turns(now);
    }

    /// Gives the turn on.
    pub(crate) fn turns(&mut self, now: Timestamp) {
        let messages = &self.messages;
        let unsynced = self.unsynced.iter().filter_map(|offset| self.key(self.get(*offset)));
        let unsynced: BTreeSet<KeyHash> = unsynced.collect();
        self.turn.retain(|key, head| {
            messages[usize::try_from(*head).unwrap()].is_open() || unsynced.contains(key)
        });
        let keys: BTreeSet<KeyHash> = self.messages.iter().filter_map(|message| self.key(message)).collect();
        for key in keys {
            if let Some(head) = self.head(key, now).filter(|head| *head < self.next) {
                self.turn.insert(key, head);
            }
        }
    }

    /// Whether this delivery is held.
    pub(crate) fn holds(&self, offset: u64, token: u64) -> bool {
        matches!(self.get(offset).state, State::Flying { token: held, .. } if held == token)
    }

    /// Leases that ran out, in order.
    pub(crate) fn late(&self, now: Timestamp) -> Vec<u64> {
        self.offsets(|message| matches!(message.state, State::Flying { until, .. } if until <= now))
    }

    /// A failure; `due` is when the group says that the message may come again.
    pub(crate) fn fail(&mut self, offset: u64, due: impl FnOnce(u32) -> Timestamp, now: Timestamp) {
        let rules = self.rules;
        let key = self.key(self.get(offset));
        let keyed = key.is_some();
        // Only whose turn it is can park its key.
        let waits = key.and_then(|key| self.head(key, now)).is_some_and(|head| head != offset);
        let message = self.at(offset);
        message.failures += 1;
        let (deliveries, failures) = (message.deliveries, message.failures);
        if failures < rules.max_failures || waits {
            let due = due(failures);
            message.state = State::Waiting { due };
            message.memory = Some(Memory { due, deliveries, failures, parked: false });
        } else if keyed {
            message.state = State::Parked;
            message.memory = Some(Memory { due: now, deliveries, failures, parked: true });
        } else {
            self.end(offset, State::Dead);
        }
    }

    pub(crate) fn settle(
        &mut self,
        offset: u64,
        outcome: &Outcome,
        due: impl FnOnce(u32) -> Timestamp,
        now: Timestamp,
    ) {
        match outcome {
            Outcome::Ack => self.end(offset, State::Done),
            Outcome::Reject { .. } => self.end(offset, State::Dead),
            Outcome::Release => self.at(offset).state = State::Waiting { due: now },
            Outcome::Retry { .. } => self.fail(offset, due, now),
        }
    }

    pub(crate) fn end(&mut self, offset: u64, state: State) {
        if self.get(offset).is_open() {
            self.unsynced.insert(offset);
        }
        let by_key = self.rules.by_key;
        let message = self.at(offset);
        (message.state, message.memory) = (state, None);
        message.is_unkeyed |= state == State::Dead && !by_key;
    }

    pub(crate) fn extend(&mut self, offset: u64, until: Timestamp) {
        if let State::Flying { until: lease, .. } = &mut self.at(offset).state {
            *lease = until;
        }
    }

    pub(crate) fn leave(&mut self, gone: ConsumerId, now: Timestamp) {
        for message in &mut self.messages {
            if matches!(message.state, State::Flying { consumer: Some(consumer), .. } if consumer == gone) {
                message.state = State::Waiting { due: now };
            }
        }
    }

    /// Is to be delivered again with everything forgotten.
    pub(crate) fn renew(&mut self, offset: u64, due: Timestamp) {
        let message = self.at(offset);
        (message.deliveries, message.failures) = (0, 0);
        message.state = State::Waiting { due };
        message.memory = Some(Memory { due, deliveries: 0, failures: 0, parked: false });
    }

    pub(crate) fn trim(&mut self, head: u64, spares_held: bool) {
        for offset in 0..head {
            if !(spares_held && matches!(self.get(offset).state, State::Flying { .. })) {
                self.end(offset, State::Done);
            }
        }
        self.next = self.next.max(head);
    }

    pub(crate) fn seek(&mut self, to: u64) {
        for message in &mut self.messages {
            if message.fresh.offset >= to {
                (message.deliveries, message.failures) = (0, 0);
                (message.state, message.memory) = (State::Unseen, None);
                message.is_unkeyed = false;
            } else if message.state != State::Dead {
                (message.state, message.memory) = (State::Done, None);
            }
        }
        self.next = to;
        self.turn.clear();
    }

    /// Whether a message before `to` waits for one from there on, or for one that is done with.
    pub(crate) fn has_earlier_behind(&self, to: u64) -> bool {
        let ends = |head: u64| head >= to || !self.get(head).is_open();
        self.turn.iter().filter(|(_, head)| ends(**head)).any(|(key, _)| {
            let is_earlier = |other: &Message| other.fresh.offset < to && other.is_open();
            self.messages.iter().any(|other| is_earlier(other) && self.key(other) == Some(*key))
        })
    }

    pub(crate) fn shorten(&mut self, to: u64) {
        for message in self.messages.iter_mut().filter(|message| message.fresh.offset >= to) {
            (message.deliveries, message.failures) = (0, 0);
            (message.state, message.memory) = (State::Unseen, None);
            message.is_unkeyed = false;
        }
        self.next = to;
        self.turn.retain(|_, head| *head < to);
    }

    /// Other rules. Where order by key ends, a parked key's message is as if it had been released; where it begins, what is
    /// with consumers comes first of its key.
    pub(crate) fn redefine(&mut self, rules: Rules, now: Timestamp) {
        let changes = rules.by_key != self.rules.by_key;
        self.rules = rules;
        if !changes {
            return;
        }
        self.turn.clear();
        for message in self.messages.iter_mut().filter(|message| message.is_open()) {
            message.is_unkeyed = false;
            if let (State::Parked, Some(memory)) = (message.state, &mut message.memory) {
                (message.state, message.failures) = (State::Waiting { due: memory.due }, 0);
                *memory = Memory { due: now, failures: 0, parked: false, ..*memory };
            }
        }
        for message in &self.messages {
            if let (State::Flying { .. }, Some(key)) = (message.state, self.key(message)) {
                self.turn.entry(key).or_insert(message.fresh.offset);
            }
        }
        self.turns(now);
    }

    /// What is left after the process died.
    pub(crate) fn restart(&mut self, next: u64, now: Timestamp) {
        self.next = next;
        self.turn.clear();
        self.unsynced.clear();
        self.is_held = false;
        for message in self.messages.iter_mut().filter(|message| message.is_open()) {
            (message.deliveries, message.failures) = (0, 0);
            message.is_unkeyed = false;
            message.state = match message.memory {
                Some(memory) => {
                    (message.deliveries, message.failures) = (memory.deliveries, memory.failures);
                    if memory.parked { State::Parked } else { State::Waiting { due: memory.due } }
                }
                None if message.fresh.offset < next => State::Waiting { due: now },
                None => State::Unseen,
            };
        }
        // A parked key stays parked, whatever came back of it.
        for message in self.messages.clone() {
            if let (State::Parked, Some(key)) = (message.state, self.key(&message)) {
                self.turn.entry(key).or_insert(message.fresh.offset);
            }
        }
        self.turns(now);
    }

    /// Whether what the group says of a message is true.
    pub(crate) fn agrees(
        &self,
        offset: u64,
        (standing, deliveries, failures): (Standing, u32, u32),
        now: Timestamp,
    ) -> bool {
        let message = self.get(offset);
        let head = self.key(message).and_then(|key| self.head(key, now));
        let counted = (deliveries, failures) == (message.deliveries, message.failures);
        match (message.state, standing) {
            (State::Done, Standing::Done)
            | (State::Unseen, Standing::Unseen)
            | (State::Dead, Standing::Dead) => true,
            (State::Parked, Standing::Parked) => counted,
            (State::Flying { consumer, until, .. }, Standing::InFlight { consumer: c, until: u }) => {
                counted && (consumer, until) == (c, u)
            }
            (State::Waiting { .. }, Standing::Behind { head: before, is_over }) => {
                counted && head == Some(before) && is_over != self.get(before).is_open()
            }
            (State::Waiting { due }, Standing::Later { due: said }) => {
                counted && said == due && head.is_none_or(|head| head == offset)
            }
            (State::Waiting { due }, Standing::Ready { .. }) => {
                counted && due <= now && head.is_none_or(|head| head == offset)
            }
            _ => false,
        }
    }

    /// The next moment at which something becomes deliverable to somebody by itself.
    pub(crate) fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let room = self.room() > 0;
        let moments = self.messages.iter().filter_map(|message| match message.state {
            State::Flying { until, .. } => Some(until),
            State::Waiting { due } if room && due > now => {
                let head = self.key(message).and_then(|key| self.head(key, now));
                head.is_none_or(|head| head == message.fresh.offset).then_some(due)
            }
            _ => None,
        });
        moments.min()
    }

    /// The longest that a message can have to wait after a failure, unless a consumer says so.
    pub(crate) fn longest_backoff(&self) -> Duration {
        self.rules.backoff.max
    }
}
