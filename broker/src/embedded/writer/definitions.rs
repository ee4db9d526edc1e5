//! Making, changing and deleting topics and subscriptions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crossdock_topics::{
    Durability, Error, ErrorCode, Expect, Order, Result, Revision, StartAt, Subscription, SubscriptionName,
    Timestamp, Topic, TopicName,
};

use super::{Effect, Groups, Writer};
use crate::delivery::{Feed, Sieve, SubscriptionState, facts, members};
use crate::embedded::keys;
use crate::embedded::log::{TopicLog, load};
use crate::embedded::segments::Segments;
use crate::group::{Facts, Group, Place, Rules};

fn json<T: serde::Serialize>(definition: &T) -> Result<bytes::Bytes> {
    serde_json::to_vec(definition)
        .map(Into::into)
        .map_err(|cause| Error::internal(format!("cannot write a definition: {cause}")))
}

impl Writer {
    pub(super) fn put_topic(&mut self, topic: Topic, expect: Expect) -> Result<Revision> {
        let key = format!("topics/{}", topic.name);
        self.check(&key, expect)?;
        let value = json(&topic)?;
        if let Some(log) = self.topics.get(&topic.name).cloned() {
            let (known, revision) = log.definition();
            if *known == topic {
                return Ok(revision);
            }
            let revision = self.put_key(key, value, None);
            log.redefine(topic, revision);
            self.follow_keys(&log);
            return Ok(revision);
        }
        self.numbers.topic += 1;
        let (id, name) = (self.numbers.topic, topic.name.clone());
        self.batch.put(keys::topic(name.as_str()), id.to_be_bytes());
        let revision = self.put_key(key, value, None);
        let log = Arc::new(TopicLog::new(id, topic, revision, 0, Segments::default(), 0, Timestamp(0)));
        self.follow_keys(&log);
        self.topics.insert(name.clone(), log.clone());
        for subscription in self.subscriptions.values().cloned().collect::<Vec<_>>() {
            let (definition, _) = subscription.definition();
            if definition.topics.iter().any(|pattern| pattern.matches(name.as_str())) {
                self.place(&subscription, &definition, &log, StartAt::Start)?;
            }
        }
        self.pass.effects.push(Effect::TopicMade(log));
        Ok(revision)
    }

    pub(super) fn delete_topic(&mut self, name: &TopicName) -> Result<()> {
        let log = self.topics.get(name).cloned().ok_or_else(|| Error::not_found("topic", name))?;
        for subscription in self.subscriptions.values() {
            if subscription
                .definition()
                .0
                .topics
                .iter()
                .any(|pattern| pattern.literal().as_ref() == Some(name))
            {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!("subscription {} needs topic {name}", subscription.name),
                )
                .hint("delete the subscription first"));
            }
        }
        // What this pass has appended to it goes with it.
        self.touched.retain(|touched| !Arc::ptr_eq(touched, &log));
        log.mark_deleted();
        self.topics.remove(name);
        self.delete_key(&format!("topics/{name}"));
        self.batch.delete(keys::topic(name.as_str()));
        self.batch.delete(keys::head(log.id));
        self.batch.delete_range(keys::sources(log.id), keys::sources(log.id + 1));
        self.batch.delete(keys::compact(log.id));
        self.batch.delete_range_cf(
            self.database.family("keys"),
            keys::newest(log.id, b""),
            keys::newest(log.id + 1, b""),
        );
        for family in ["log", "segments"] {
            let family = self.database.family(family);
            self.batch.delete_range_cf(family, keys::log(log.id, 0), keys::log(log.id, u64::MAX));
        }
        // Now, and not when all this is durable: nothing of the groups may be written any more.
        for subscription in log.subscribers() {
            subscription.retain_logs(&log);
            log.detach(&subscription);
            self.forget_group(&subscription, &log);
        }
        self.pass.effects.push(Effect::TopicGone(log));
        Ok(())
    }

    pub(super) fn put_subscription(
        &mut self,
        definition: Subscription,
        sieve: Option<Arc<Sieve>>,
        expect: Expect,
    ) -> Result<Revision> {
        let key = format!("subscriptions/{}", definition.name);
        self.check(&key, expect)?;
        for name in definition.topics.iter().filter_map(crossdock_topics::TopicPattern::literal) {
            if !self.topics.contains_key(&name) {
                return Err(Error::not_found("topic", &name)
                    .hint(format!("make it with `crossdock topic create {name}`")));
            }
        }
        let known = self.subscriptions.get(&definition.name).cloned();
        let mut definition = definition;
        let mut facts = HashMap::new();
        if let Some(known) = &known {
            let (before, revision) = known.definition();
            definition.start = before.start;
            if *before == definition {
                return Ok(revision);
            }
            if definition.order == Order::Key && before.order == Order::None {
                facts = self.open_facts(known, &definition)?;
            }
        }
        let revision = self.put_key(key, json(&definition)?, None);
        let matches =
            |name: &TopicName| definition.topics.iter().any(|pattern| pattern.matches(name.as_str()));
        let state = match known {
            Some(state) => {
                state.redefine(definition.clone(), sieve, revision, &facts, self.now);
                self.mark(&state);
                for log in state.retain(matches) {
                    log.detach(&state);
                    self.forget_group(&state, &log);
                }
                state
            }
            None => {
                self.numbers.subscription += 1;
                let id = self.numbers.subscription;
                self.batch.put(keys::subscription(definition.name.as_str()), id.to_be_bytes());
                let state = Arc::new(SubscriptionState::new(id, definition.clone(), sieve, revision));
                self.subscriptions.insert(definition.name.clone(), state.clone());
                self.pass.effects.push(Effect::SubscriptionMade(state.clone()));
                state
            }
        };
        let wanted: Vec<_> = self.topics.values().filter(|log| matches(&log.name)).cloned().collect();
        for log in wanted {
            if !state.has_topic(&log) {
                self.place(&state, &definition, &log, definition.start)?;
            }
        }
        Ok(revision)
    }

    /// What the log says of the messages of a subscription that are not settled, by topic. Until the next write is durable
    /// it takes no others.
    fn open_facts(
        &mut self,
        state: &Arc<SubscriptionState>,
        definition: &Subscription,
    ) -> Result<HashMap<u32, BTreeMap<u64, Facts>>> {
        self.mark(state);
        let open = state.hold(self.now).into_iter();
        open.map(|(log, offsets)| {
            let block = |offset| Ok(load(&log, &self.database, offset, 0)?.into_iter().next());
            Ok((log.id, facts(definition, offsets, block)?))
        })
        .collect()
    }

    /// Gives a subscription its place in a topic.
    fn place(
        &mut self,
        state: &Arc<SubscriptionState>,
        definition: &Subscription,
        log: &Arc<TopicLog>,
        start: StartAt,
    ) -> Result<()> {
        let offset = self.offset_of(log, start)?;
        let group = Group::new(Rules::from(definition), Place::at(offset).into(), self.shared.token());
        let mut groups = Groups { batch: &mut self.batch, database: &self.database };
        members::write(state.id, log.id, &group, &[], &mut groups)?;
        self.require(Durability::Fsync);
        state.attach(&log.feed, group);
        Ok(())
    }

    fn forget_group(&mut self, state: &SubscriptionState, log: &Feed) {
        self.batch.delete_range_cf(
            self.database.family("groups"),
            keys::group(state.id, log.id).as_slice(),
            keys::group(state.id, log.id + 1).as_slice(),
        );
    }

    pub(super) fn delete_subscription(&mut self, name: &SubscriptionName) -> Result<()> {
        let state = self.subscriptions.remove(name).ok_or_else(|| Error::not_found("subscription", name))?;
        state.mark_deleted();
        if self.marked.remove(&state.id) {
            self.persist.retain(|other| !Arc::ptr_eq(other, &state));
        }
        self.delete_key(&format!("subscriptions/{name}"));
        self.batch.delete(keys::subscription(name.as_str()));
        self.batch.delete(keys::paused(state.id));
        self.batch.delete_range_cf(
            self.database.family("groups"),
            keys::group(state.id, 0).as_slice(),
            keys::group(state.id + 1, 0).as_slice(),
        );
        self.pass.effects.push(Effect::SubscriptionGone(state));
        Ok(())
    }
}
