//! Taking messages for a consumer.
//!
//! [`SubscriptionState::take`] never touches the disk: it works on what is in memory and says what is missing,
//! so that its lock is held briefly. Whoever fetches loads that, puts it in with [`SubscriptionState::supply`],
//! and takes again.

use std::sync::Arc;

use crossdock_topics::{Delivery, DeliveryId, Error, Fetch, Sharing, Timestamp};

use super::block::Block;
use super::feed::{Feed, READ_BYTES};
use super::members::Member;
use super::reader::{Peeked, Regard};
use super::sieve::Sieve;
use super::sift::Unjudged;
use super::subscription::SubscriptionState;
use crate::group::{Action, Event, Slots};

/// So many messages are looked at in one go, whoever they turn out to be for: then others have their turn at the
/// lock, and what was passed over is persisted.
const LOOKS: usize = 16_384;

/// What a take gave.
#[derive(Default)]
pub(crate) struct Taken {
    /// Messages, ready to be handed out.
    pub(crate) deliveries: Vec<Delivery>,
    /// Messages that were looked at before, whose records must be looked up.
    pub(crate) again: Vec<Again>,
    /// Where the log must be read before anything new can be delivered.
    pub(crate) missing: Option<Missing>,
    /// Messages of which nothing is known before the subscription's program has been asked.
    pub(crate) unjudged: Option<Unjudged>,
    /// Whether there is more to be looked at, though nothing was found.
    pub(crate) unfinished: bool,
    /// When something becomes deliverable by itself.
    pub(crate) wakes_at: Option<Timestamp>,
    /// Whether something changed that is to be persisted.
    pub(crate) changed: bool,
    /// Whether the consumer has not joined, or has left: then there is nothing for it.
    pub(crate) has_left: bool,
    /// Whether whoever fetches must have joined.
    pub(crate) must_join: bool,
}

/// Where a log must be read.
pub(crate) struct Missing {
    pub(crate) log: Arc<Feed>,
    pub(crate) offset: u64,
    /// [`Reader::life`](super::reader::Reader::life) when that was found.
    pub(crate) life: u64,
}

/// A message that is delivered and whose record must be looked up.
pub(crate) struct Again {
    pub(crate) log: Arc<Feed>,
    pub(crate) id: DeliveryId,
    pub(crate) attempt: u32,
    pub(crate) deliveries: u32,
    /// How many of [`Taken::deliveries`] come before it.
    pub(crate) after: usize,
}

/// One take under way.
struct Taking<'a> {
    fetch: &'a Fetch,
    lease: std::time::Duration,
    slots: &'a Slots,
    regard: Regard<'a>,
    /// Whom to ask about each message.
    program: Option<&'a Arc<Sieve>>,
    now: Timestamp,
    left: usize,
    bytes: usize,
    looks: usize,
    /// Whether something was found that is for somebody else.
    for_others: bool,
    taken: Taken,
}

impl SubscriptionState {
    /// Takes messages as far as they are in memory.
    pub(crate) fn take(&self, fetch: &Fetch, now: Timestamp) -> Taken {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        // One that has left gives nothing back any more.
        if fetch.consumer.is_some_and(|consumer| !inner.consumers.contains(&consumer)) {
            return Taken { has_left: true, ..Taken::default() };
        }
        if inner.definition.sharing != Sharing::Shared {
            let first = inner.consumers.first().copied();
            if fetch.consumer.is_none() || fetch.consumer != first {
                return Taken { must_join: fetch.consumer.is_none(), ..Taken::default() };
            }
        }
        if inner.is_paused {
            return Taken::default();
        }
        inner.members.tick(now, &self.listing);
        let definition = inner.definition.clone();
        let mut taking = Taking {
            fetch,
            lease: fetch.lease.unwrap_or(definition.lease),
            slots: &inner.slots,
            regard: Regard::new(&definition, inner.sieve.as_deref()),
            program: inner.sieve.as_ref().filter(|sieve| sieve.has_program()),
            now,
            left: fetch.max,
            bytes: fetch.max_bytes,
            looks: LOOKS,
            for_others: false,
            taken: Taken::default(),
        };
        for _ in 0..self.listing.len() {
            if taking.is_done() {
                break;
            }
            let Some(id) = self.listing.pop() else { break };
            let Some(member) = inner.members.get_mut(id) else { continue };
            member.listed.clear();
            let end = taking.look(member, &mut inner.actions, &mut inner.peeked);
            match end {
                // Whose turn it is comes first, even if that means to wait for the disk: otherwise a topic that
                // always has something new keeps one that is behind from ever being read.
                End::Missing => self.listing.list_first(&member.listed),
                End::More => self.listing.list(&member.listed),
                End::Nothing => {}
            }
            inner.members.look_back(id);
            if end == End::Missing && taking.found_nothing() {
                break;
            }
        }
        let Taking { mut taken, for_others, looks, .. } = taking;
        taken.unfinished = looks == 0;
        taken.wakes_at = inner.members.wakes_at();
        taken.changed = inner.members.is_dirty();
        drop(guard);
        if for_others {
            self.wake();
        }
        taken
    }

    /// Puts in blocks of a topic that were read from the disk because they were missing; gives whether to take again.
    pub(crate) fn supply(&self, missing: &Missing, blocks: Vec<Arc<Block>>) -> Result<bool, Error> {
        let Missing { log, offset: asked, life } = missing;
        let mut inner = self.inner.lock();
        // Something else may lie there by now.
        if inner.members.get(log.id).is_some_and(|member| member.reader.life() != *life) {
            return Ok(true);
        }
        // Retention or compaction may have dropped what the group would have read next; nothing else may. What consumers
        // hold is for those to say who have dropped it.
        if inner.members.get(log.id).is_some_and(|member| log.head() > member.group.next()) {
            inner.members.apply(log.id, Event::Compacted(log.head()), Timestamp(0), &self.listing);
        }
        let Some(member) = inner.members.get_mut(log.id) else { return Ok(false) };
        let next = member.group.next();
        if blocks.iter().any(|block| block.range().contains(&next)) {
            member.reader.supply(blocks);
            self.listing.list_first(&member.listed);
            return Ok(true);
        }
        // Meanwhile the group has moved on, or begun anew, or the topic has gone.
        if next != *asked || next >= log.tail() {
            return Ok(true);
        }
        if log.is_deleted() {
            return Ok(false);
        }
        Err(Error::internal(format!("topic {} has a hole in its log at offset {next}", log.name)))
    }
}

/// How looking at one topic ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is nothing more in it now.
    Nothing,
    /// There may be more.
    More,
    /// There is more, on the disk.
    Missing,
}

impl Taking<'_> {
    fn is_done(&self) -> bool {
        self.left == 0 || self.bytes == 0 || self.looks == 0
    }

    fn found_nothing(&self) -> bool {
        self.taken.deliveries.is_empty() && self.taken.again.is_empty()
    }

    /// Takes from one topic. What expired, waits for its time or is for others is passed over, so that one look may
    /// not be enough.
    fn look(&mut self, member: &mut Member, actions: &mut Vec<Action>, peeked: &mut Peeked) -> End {
        let looks_ahead = member.group.looks_ahead();
        loop {
            let first = member.group.next();
            let wanted = member.group.wants_fresh(self.left).min(self.looks);
            let wanted = match self.program {
                Some(_) if wanted > 0 => wanted.max(member.reader.verdicts.worth_reading()),
                _ => wanted,
            };
            let bytes = if looks_ahead || self.program.is_some() { READ_BYTES } else { self.bytes };
            member.reader.peek(&member.log, first, wanted, bytes, &self.regard, peeked);
            let is_missing = peeked.fresh.is_empty() && wanted > 0 && member.reader.is_behind;
            if is_missing {
                let life = member.reader.life();
                self.taken.missing = Some(Missing { log: member.log.clone(), offset: first, life });
                // The most urgent is known once all have been looked at.
                if looks_ahead {
                    return End::Missing;
                }
            }
            let is_unjudged = self.ask(member, peeked);
            if is_unjudged && looks_ahead {
                return End::Nothing;
            }
            let more = looks_ahead && !peeked.fresh.is_empty();
            let event = Event::Take {
                consumer: self.fetch.consumer,
                slots: self.slots,
                max: if more { 0 } else { self.left },
                bytes: self.bytes,
                lease: self.lease,
                fresh: &peeked.fresh,
            };
            let left = self.left;
            member.group.apply(event, self.now, actions);
            self.carry_out(member, actions, peeked);
            let next = member.group.next();
            let passed = peeked.fresh.partition_point(|message| message.offset < next);
            member.reader.pass(peeked, passed, next);
            self.looks -= passed.min(self.looks);
            if is_missing {
                return End::Missing;
            }
            if self.is_done() {
                return End::More;
            }
            if passed == 0 && left == self.left {
                let again = member.group.has_ready() || (is_unjudged && !member.reader.verdicts.is_judging());
                return if again { End::More } else { End::Nothing };
            }
        }
    }

    /// Goes by what the program has said; gives whether it is to be asked before anything more can be delivered.
    fn ask(&mut self, member: &mut Member, peeked: &mut Peeked) -> bool {
        let Some(sieve) = self.program else { return false };
        let records = member.reader.verdicts.apply(peeked);
        if records.is_empty() {
            return false;
        }
        // One batch is judged by whoever fetches; another topic's has its turn after that.
        if self.taken.unjudged.is_none() && member.reader.verdicts.begin() {
            let (log, life) = (member.log.clone(), member.reader.life());
            self.taken.unjudged = Some(Unjudged { log, sieve: sieve.clone(), records, life });
        }
        true
    }

    /// Collects what is delivered and keeps what is to be persisted.
    fn carry_out(&mut self, member: &mut Member, actions: &mut Vec<Action>, peeked: &mut Peeked) {
        // What is delivered of the fresh ones comes in their order.
        let mut records = peeked.records.drain(..).peekable();
        for action in actions.drain(..) {
            let (offset, token, attempt, deliveries) = match action {
                Action::Deliver { offset, token, attempt, deliveries } => {
                    (offset, token, attempt, deliveries)
                }
                Action::Available => {
                    self.for_others = true;
                    continue;
                }
                action => {
                    member.pending.push(action);
                    continue;
                }
            };
            self.left -= 1;
            let id = DeliveryId { log: member.log.id, offset, token };
            while records.next_if(|(at, ..)| *at < offset).is_some() {}
            match records.next_if(|(at, ..)| *at == offset) {
                Some((_, time, record)) => {
                    self.bytes = self.bytes.saturating_sub(record.size());
                    let topic = member.log.name.clone();
                    self.taken.deliveries.push(Delivery {
                        id,
                        topic,
                        offset,
                        time,
                        attempt,
                        deliveries,
                        record,
                    });
                }
                None => {
                    self.bytes = self.bytes.saturating_sub(member.group.size_in_flight(offset));
                    let (log, after) = (member.log.clone(), self.taken.deliveries.len());
                    self.taken.again.push(Again { log, id, attempt, deliveries, after });
                }
            }
        }
    }
}
