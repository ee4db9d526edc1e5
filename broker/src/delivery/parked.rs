//! Keys that are parked, as an operator sees them.

use std::sync::Arc;

use crossdock_topics::{Error, ParkedKey, Record, Result, Timestamp};

use super::feed::Feed;
use super::fetch::look_up;
use super::subscription::SubscriptionState;
use super::{Engine, keys};
use crate::group::{KeyHash, Waiting};

/// A message that keeps its key parked.
pub(crate) struct Parked {
    pub(crate) log: Arc<Feed>,
    pub(crate) offset: u64,
    /// How many messages wait behind it.
    pub(crate) behind: usize,
}

/// The same with what is on the disk.
struct Known {
    parked: Parked,
    waiting: Waiting,
    since: Timestamp,
    record: Record,
}

impl SubscriptionState {
    /// The keys that are parked, by topic and offset, at most `max`.
    pub(crate) async fn parked_keys(&self, engine: &impl Engine, max: usize) -> Result<Vec<ParkedKey>> {
        let mut found = Vec::new();
        for parked in self.parked(None, max) {
            let Some(Known { parked, waiting, since, record }) = self.known(engine, parked).await? else {
                continue;
            };
            found.push(ParkedKey {
                topic: parked.log.name.clone(),
                key: record.key().unwrap_or_default().to_owned(),
                offset: parked.offset,
                reason: waiting.reason,
                failures: waiting.failures,
                by: waiting.by,
                since,
                waiting: parked.behind as u64,
            });
        }
        Ok(found)
    }

    /// Where exactly this key is parked, and what is known of the message that keeps it so.
    pub(crate) async fn where_parked(
        &self,
        engine: &impl Engine,
        key: &str,
    ) -> Result<Vec<(u32, u64, Waiting)>> {
        let mut found = Vec::new();
        for parked in self.parked(Some(KeyHash::of(key)), usize::MAX) {
            // Another key may have the same hash.
            if let Some(known) = self.known(engine, parked).await?.filter(|k| k.record.key() == Some(key)) {
                found.push((known.parked.log.id, known.parked.offset, known.waiting));
            }
        }
        Ok(found)
    }

    /// Nothing when it was parked, or let go on, this very moment.
    async fn known(&self, engine: &impl Engine, parked: Parked) -> Result<Option<Known>, Error> {
        let key = keys::message(self.id, parked.log.id, keys::WAITING, parked.offset);
        let Some(bytes) = engine.kept(self, &key)? else { return Ok(None) };
        let waiting = Waiting::decode(&bytes)?;
        let Some(since) = waiting.parked.map(|since| since.0) else { return Ok(None) };
        let found = look_up(engine, &parked.log, parked.offset).await?;
        Ok(found.map(|(_, record)| Known { parked, waiting, since, record }))
    }

    /// The messages that keep keys parked, or those that keep this one, by topic and offset, at most `max`.
    pub(crate) fn parked(&self, key: Option<KeyHash>, max: usize) -> Vec<Parked> {
        let inner = self.inner.lock();
        let mut members: Vec<_> = inner.members.iter().collect();
        members.sort_by(|a, b| a.log.name.cmp(&b.log.name));
        let parked = members.into_iter().flat_map(|member| {
            let only = key.map(|key| member.group.parked(key));
            let keys = member.group.parked_keys();
            keys.filter(move |(offset, ..)| only.is_none_or(|only| only == Some(*offset)))
                .map(|(offset, _, behind)| Parked { log: member.log.clone(), offset, behind })
        });
        parked.take(max).collect()
    }
}
