//! Why a message is where it is, in words an operator understands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossdock_topics::{
    ConsumerId, Explanation, MessageState, Record, Result, Sharing, Situation, StoredFacts, Timestamp,
    TopicName,
};

use super::feed::Feed;
use super::fetch::look_up;
use super::subscription::SubscriptionState;
use super::{Blocks, Engine, keys};
use crate::group::{Dead, KeyHash, Standing, Waiting};

/// What is known of a message beside how subscriptions stand to it.
pub(crate) struct Facts {
    /// When it was stored, and what.
    pub(crate) found: Option<(Timestamp, Record)>,
    /// Why it is not there.
    pub(crate) gone: Option<String>,
}

/// Looks a message up.
pub(crate) async fn facts(engine: &impl Blocks, log: &Arc<Feed>, offset: u64) -> Result<Facts> {
    let (head, tail) = (log.head(), log.tail());
    let found = if (head..tail).contains(&offset) { look_up(engine, log, offset).await? } else { None };
    let gone = match &found {
        Some(_) => None,
        None if offset >= tail => {
            Some(format!("it is not stored yet: the next message of the topic gets offset {tail}"))
        }
        None if offset < log.head() => Some(format!(
            "retention or a purge has dropped it: the oldest message that is kept has offset {}",
            log.head()
        )),
        None => Some("compaction has dropped it: a newer message of its key was stored".to_owned()),
    };
    Ok(Facts { found, gone })
}

impl Facts {
    /// The explanation, with how each subscription stands to it.
    pub(crate) fn explanation(
        self,
        topic: TopicName,
        offset: u64,
        subscriptions: Vec<Situation>,
    ) -> Explanation {
        let stored = self.found.map(|(time, record)| StoredFacts {
            time,
            bytes: record.payload().len() as u64,
            id: record.id().map(str::to_owned),
            key: record.key().map(str::to_owned),
            expires_at: record.expires_at(),
            deliver_at: record.deliver_at(),
        });
        Explanation { topic, offset, stored, gone: self.gone, subscriptions }
    }
}

/// All that is known of one message, of a topic all of whose subscriptions are here.
pub(crate) async fn explain(engine: &impl Engine, log: &Arc<Feed>, offset: u64) -> Result<Explanation> {
    let facts = facts(engine, log, offset).await?;
    let mut states = log.subscribers();
    states.sort_by(|a, b| a.name.cmp(&b.name));
    let mut subscriptions = Vec::new();
    for state in states {
        let record = facts.found.as_ref().map(|(_, record)| record);
        subscriptions.extend(state.situation(engine, log, offset, record)?);
    }
    Ok(facts.explanation(log.name.clone(), offset, subscriptions))
}

impl SubscriptionState {
    /// How one subscription stands to it; nothing when it reads the topic no more.
    pub(crate) fn situation(
        &self,
        engine: &impl Engine,
        log: &Feed,
        offset: u64,
        record: Option<&Record>,
    ) -> Result<Option<Situation>> {
        let now = engine.now();
        let Some(view) = self.view(log, offset, record.and_then(Record::key)) else { return Ok(None) };
        let mut situation = Situation {
            subscription: self.name.clone(),
            state: view.state(),
            why: String::new(),
            deliveries: view.deliveries,
            failures: view.failures,
            reason: None,
            by: None,
            consumer: None,
            until: None,
        };
        let kind = if view.standing == Standing::Dead { keys::DEAD } else { keys::WAITING };
        let kept = engine.kept(self, &keys::message(self.id, log.id, kind, offset))?;
        let mut since = None;
        match (kind, kept) {
            (keys::DEAD, Some(bytes)) => {
                let dead = Dead::decode(&bytes)?;
                (situation.deliveries, situation.failures) = (dead.deliveries, dead.failures);
                (situation.reason, situation.by, since) = (Some(dead.reason), dead.by, Some(dead.at));
            }
            (_, Some(bytes)) => {
                let waiting = Waiting::decode(&bytes)?;
                situation.reason = Some(waiting.reason).filter(|reason| !reason.is_empty());
                (situation.by, since) = (waiting.by, waiting.parked.map(|since| since.0));
            }
            (_, None) => {}
        }
        match view.standing {
            Standing::InFlight { consumer, until } => {
                (situation.consumer, situation.until) = (consumer, Some(until));
            }
            Standing::Later { due } => situation.until = Some(due),
            _ => {}
        }
        situation.why = view.why(offset, log.tail(), record, since, now);
        Ok(Some(situation))
    }
}

/// What a subscription says of a message, at one moment.
struct View {
    standing: Standing,
    deliveries: u32,
    failures: u32,
    next: u64,
    in_flight: usize,
    set_aside: usize,
    is_full: bool,
    is_choked: bool,
    is_held: bool,
    is_paused: bool,
    /// Whether nobody has joined or asks.
    is_alone: bool,
    /// Who alone gets messages, or those of its key.
    owner: Option<ConsumerId>,
}

impl SubscriptionState {
    fn view(&self, log: &Feed, offset: u64, key: Option<&str>) -> Option<View> {
        let inner = self.inner.lock();
        let group = &inner.members.get(log.id)?.group;
        let (standing, deliveries, failures) = group.standing(offset);
        let tally = group.tally();
        let first = inner.consumers.first().copied();
        let owner = match inner.definition.sharing {
            Sharing::Shared => key.and_then(|key| inner.slots.owner(KeyHash::of(key).slot())),
            Sharing::Failover | Sharing::Exclusive => first,
        };
        Some(View {
            standing,
            deliveries,
            failures,
            next: group.next(),
            in_flight: tally.in_flight,
            set_aside: tally.set_aside,
            is_full: group.is_full(),
            is_choked: group.is_choked(),
            is_held: group.is_held(),
            is_paused: inner.is_paused,
            is_alone: first.is_none() && self.waiting.load(Ordering::SeqCst) == 0,
            owner,
        })
    }
}

impl View {
    fn state(&self) -> MessageState {
        match self.standing {
            Standing::Done => MessageState::Done,
            Standing::Unseen => MessageState::Waiting,
            Standing::InFlight { .. } => MessageState::InFlight,
            // What was only looked at waits like what was not.
            Standing::Ready { .. } if self.deliveries == 0 => MessageState::Waiting,
            Standing::Ready { .. } | Standing::Later { .. } => MessageState::SetAside,
            Standing::Behind { .. } => MessageState::BehindKey,
            Standing::Parked => MessageState::Parked,
            Standing::Dead => MessageState::DeadLetter,
        }
    }

    fn why(
        &self,
        offset: u64,
        tail: u64,
        record: Option<&Record>,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> String {
        let key = record.and_then(Record::key).unwrap_or("its key");
        let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
        let expired = record.and_then(Record::expires_at).filter(|expiry| *expiry <= now);
        let failed = |failures: u32| match failures {
            1 => "it failed once".to_owned(),
            more => format!("it failed {more} times"),
        };
        match self.standing {
            Standing::Done => match expired {
                Some(expiry) => format!("it is settled, or was dropped when it expired at {expiry}"),
                None => "it was acknowledged or discarded, did not pass the filter, or lies before the place where \
                         the subscription began"
                    .to_owned(),
            },
            Standing::Unseen if offset >= tail => "it is not stored yet".to_owned(),
            Standing::Unseen => match offset - self.next {
                0 => format!("it comes next; {}", self.delivery()),
                1 => format!("one message comes before it; {}", self.delivery()),
                before => format!("{before} messages come before it; {}", self.delivery()),
            },
            Standing::InFlight { consumer: Some(ConsumerId(consumer)), until } => {
                format!("consumer {consumer} holds it, until {until} if it neither settles nor extends it")
            }
            Standing::InFlight { consumer: None, until } => {
                format!("a consumer that has not joined holds it, until {until} if it neither settles nor extends it")
            }
            Standing::Ready { held_by: Some(ConsumerId(holder)) }
                if self.owner.is_some_and(|owner| owner.0 != holder) =>
            {
                format!("its key changes hands: consumer {holder} still holds messages of the same slot of keys")
            }
            Standing::Ready { .. } => match expired {
                Some(expiry) => format!("it expired at {expiry}, and is dropped when its turn comes"),
                None => format!("it can be delivered; {}", self.delivery()),
            },
            Standing::Later { due } if self.failures > 0 => {
                format!("{}, and waits its backoff until {due}", failed(self.failures))
            }
            Standing::Later { due } => format!("it is to be delivered at {due}, not before"),
            Standing::Behind { head, is_over: false } => {
                format!("it waits for offset {head} of key {key}, which comes before it")
            }
            Standing::Behind { head, is_over: true } => {
                format!("it waits until what became of offset {head} of key {key} is on the disk")
            }
            Standing::Parked => {
                format!("key {key} is parked{since}: {}; release the key, or give it up", failed(self.failures))
            }
            Standing::Dead => format!("it was given up{since}; redrive it, or discard it"),
        }
    }

    /// What keeps anything from being delivered, or who is to take it.
    fn delivery(&self) -> String {
        if self.is_paused {
            return "the subscription is paused".to_owned();
        }
        if self.is_held {
            return "a change of the subscription, of its place or of what retention keeps is not on the disk yet"
                .to_owned();
        }
        if self.is_full {
            return format!("{} messages are in flight, as many as max_in_flight allows", self.in_flight);
        }
        if self.is_choked {
            return format!(
                "{} messages are set aside, and nothing new is delivered until some have gone",
                self.set_aside
            );
        }
        match self.owner {
            _ if self.is_alone => "nobody fetches, and no consumer has joined".to_owned(),
            Some(ConsumerId(owner)) => format!("consumer {owner} is to fetch it"),
            None => "the next consumer that fetches gets it".to_owned(),
        }
    }
}
