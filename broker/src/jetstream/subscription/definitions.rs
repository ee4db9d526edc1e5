//! How subscriptions are defined: what the store says of them, and the number that each has for its life.

use std::collections::HashMap;

use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Expect, Result, Revision, Subscription, SubscriptionName, Watch};

use super::moving::{LAST_NUMBER, number_key, number_read, number_written};
use crate::jetstream::store::{Key, KeyStore};

/// Where the store has them.
const PREFIX: &str = "subscriptions/";

/// The definitions of a cluster's subscriptions.
#[derive(Clone)]
pub(super) struct Definitions(pub(super) KeyStore);

/// A subscription as the store has it.
#[derive(Clone)]
pub(super) struct Defined {
    pub(super) definition: Subscription,
    pub(super) revision: Revision,
}

impl Definitions {
    /// Whether there is such a subscription, as this engine knows it.
    pub(super) fn knows(&self, name: &SubscriptionName) -> bool {
        self.0.peek(&key(name)).is_some()
    }

    /// Whether there is one; what this engine knows is enough.
    pub(super) async fn has(&self, name: &SubscriptionName) -> Result<bool> {
        Ok(self.knows(name) || self.still_has(name).await?)
    }

    /// Whether there is one, as of now.
    pub(super) async fn still_has(&self, name: &SubscriptionName) -> Result<bool> {
        self.0.come().await?;
        Ok(self.knows(name))
    }

    /// One as this engine knows it.
    ///
    /// # Errors
    /// `NotFound`; `Internal` when this release cannot read it.
    pub(super) fn peek(&self, name: &SubscriptionName) -> Result<Defined> {
        let entry = self.0.peek(&key(name)).ok_or_else(|| not_found(name))?;
        let definition = serde_json::from_slice(&entry.value).map_err(|error| {
            Error::internal(format!("subscription {name} in the store is damaged: {error}"))
        })?;
        Ok(Defined { definition, revision: entry.revision })
    }

    /// All of them, as this engine knows them.
    pub(super) fn peek_all(&self) -> Vec<Subscription> {
        let (entries, _) = self.0.list_shared(PREFIX);
        entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
    }

    /// All of them.
    pub(super) async fn all(&self) -> Result<Vec<Subscription>> {
        self.0.come().await?;
        Ok(self.peek_all())
    }

    /// All that have a number, by that, with the revision of each, as this engine knows them; and the revision that it is as
    /// of.
    pub(super) fn by_number(&self) -> (HashMap<u32, (SubscriptionName, Revision)>, Revision) {
        let (entries, revision) = self.0.list_shared(PREFIX);
        let numbered = entries.iter().filter_map(|entry| {
            let name: SubscriptionName = entry.key.strip_prefix(PREFIX)?.parse().ok()?;
            Some((self.peek_number(&name)?, (name, entry.revision)))
        });
        (numbered.collect(), revision)
    }

    /// What changes behind a revision.
    pub(super) fn watch(&self, after: Revision) -> Result<Watch> {
        self.0.watch_shared(PREFIX, after)
    }

    /// The revision of one.
    pub(super) async fn revision(&self, name: &SubscriptionName) -> Result<Option<Revision>> {
        Ok(self.0.get(&key(name)).await?.map(|entry| entry.revision))
    }

    /// Writes one.
    pub(super) async fn put(&self, definition: &Subscription, expect: Expect) -> Result<Revision> {
        let json = serde_json::to_vec(definition)
            .map_err(|cause| Error::internal(format!("cannot write a definition: {cause}")))?;
        self.0.put(&key(&definition.name), json.into(), expect, None).await
    }

    /// Deletes one that is at this revision.
    pub(super) async fn delete(&self, name: &SubscriptionName, revision: Revision) -> Result<()> {
        self.0.delete(&key(name), Expect::At(revision)).await.map(drop)
    }

    /// The number of one, as this engine knows it.
    pub(super) fn peek_number(&self, name: &SubscriptionName) -> Option<u32> {
        number_read(&self.0.peek(&Key::Own(number_key(name)))?.value)
    }

    /// The number of one, which is never given to another one.
    pub(super) async fn number(&self, name: &SubscriptionName) -> Result<u32> {
        if let Some(number) = self.peek_number(name) {
            return Ok(number);
        }
        if !self.has(name).await? {
            return Err(not_found(name));
        }
        let damaged =
            || Error::internal(format!("the number of subscription {name} in the store is damaged"));
        let (own, next) = (Key::Own(number_key(name)), Key::Own(LAST_NUMBER.into()));
        loop {
            if let Some(entry) = self.0.get(&own).await? {
                return number_read(&entry.value).ok_or_else(damaged);
            }
            let before = self.0.get(&next).await?;
            let expect = before.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            let last = before.map_or(Some(0), |entry| number_read(&entry.value)).ok_or_else(damaged)?;
            let number: Bytes = number_written(last + 1);
            for (key, expect) in [(&next, expect), (&own, Expect::Absent)] {
                match self.0.put(key, number.clone(), expect, None).await {
                    Ok(_) if *key == own => return Ok(last + 1),
                    Ok(_) => {}
                    Err(error) if error.code == ErrorCode::Conflict => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// The next life of this name has another number.
    pub(super) async fn forget_number(&self, id: u32, name: &SubscriptionName) -> Result<()> {
        let own = Key::Own(number_key(name));
        let entry = self.0.get(&own).await?;
        match entry.filter(|entry| number_read(&entry.value) == Some(id)) {
            Some(entry) => self.0.delete(&own, Expect::At(entry.revision)).await.map(drop),
            None => Ok(()),
        }
    }
}

fn key(name: &SubscriptionName) -> Key {
    Key::Shared(format!("{PREFIX}{name}"))
}

pub(super) fn not_found(name: &SubscriptionName) -> Error {
    Error::not_found("subscription", name)
        .hint(format!("make it with `crossdock sub create {name} --topic TOPIC`"))
}
