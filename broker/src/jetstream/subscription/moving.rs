//! How subscriptions stand, as it is moved from or to a NATS cluster: what their journals come to.

use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{Result, Timestamp};
use tokio::time::Instant;

use super::entry::Kept;
use super::journal::{Journal, Journals};
use super::owned::{BEGUN, GENERATION, PAUSED, changes};
use crate::delivery::{Keep, keys};
use crate::jetstream::connection::Connection;
use crate::moving::house::{Standing, Subscribed};

/// How long a journal may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The journals of a cluster that is moved from or to.
pub(in crate::jetstream) struct Moving(Journals);

impl Moving {
    pub(in crate::jetstream) async fn open(connection: &Connection) -> Result<Self> {
        Journals::open(connection).await.map(Self)
    }

    /// How a subscription stands; `None` when it has never been at work.
    pub(in crate::jetstream) async fn read(&self, subscription: &Subscribed) -> Result<Option<Standing>> {
        let kept = self.0.kept(subscription.number).await?;
        if kept.get(BEGUN).is_none() {
            return Ok(None);
        }
        // What was being handed over was with consumers that have gone.
        let entries =
            kept.scan(b"").filter(|(key, _)| subscription.owns(key) && !keys::is_of(key, keys::HELD));
        let kept_of = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Some(Standing { paused: kept.get(PAUSED).is_some(), kept: kept_of }))
    }

    /// Puts a subscription where it stands, whatever was there.
    pub(in crate::jetstream) async fn write(
        &self,
        subscription: &Subscribed,
        standing: &Standing,
        now: Timestamp,
    ) -> Result<()> {
        let mut changes = changes();
        changes.put(BEGUN, b"");
        if standing.paused {
            changes.put(PAUSED, b"");
        }
        // Larger than any that it had: other engines keep none, and what came out of a message is known by it.
        changes.put(GENERATION, &u64::try_from(now.0).unwrap_or(0).to_be_bytes());
        for (key, value) in &standing.kept {
            changes.put(key, value);
        }
        let mut kept = Kept::default();
        kept.apply(changes.body())?;
        let deadline = Instant::now() + PATIENCE;
        let (mut journal, _) = Journal::open(&self.0, subscription.number, deadline).await?;
        journal.picture(&kept, deadline).await
    }
}

/// The last number given to a subscription, and that of each, as keys of the engine's own.
pub(in crate::jetstream) const LAST_NUMBER: &str = "next/subscription";

pub(in crate::jetstream) fn number_key(name: &crossdock_topics::SubscriptionName) -> String {
    format!("subscriptions/{name}")
}

/// Such a number, as it is written.
pub(in crate::jetstream) fn number_written(number: u32) -> Bytes {
    number.to_string().into()
}

/// Such a number, as it was written.
pub(in crate::jetstream) fn number_read(value: &[u8]) -> Option<u32> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
