//! Which engine owns a subscription: a key of the store that vanishes with that engine's lease.

use std::collections::BTreeMap;

use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Expect, LeaseId, Result, SubscriptionName};
use tokio::sync::watch;
use tokio::time::Instant;

use super::owned::moved;
use crate::jetstream::instance::{Held, INSTANCES, Instance};
use crate::jetstream::store::{Key, KeyStore};

/// The engine's own keys that say which engine owns which subscription: `owners/NUMBER`.
const OWNERS: &str = "owners/";
/// Those that say which engines are about to go: `leaving/INSTANCE`.
const LEAVING: &str = "leaving/";

/// Who owns what, as this engine knows it.
#[derive(Clone)]
pub(super) struct Owners {
    store: KeyStore,
    me: String,
    held: watch::Receiver<Held>,
}

impl Owners {
    pub(super) fn new(store: &KeyStore, instance: &Instance) -> Self {
        Self { store: store.clone(), me: instance.id.clone(), held: instance.held() }
    }

    /// Which engine owns a subscription; `None` when nobody does.
    pub(super) fn of(&self, id: u32) -> Option<String> {
        let entry = self.store.peek(&key(id))?;
        Some(String::from_utf8_lossy(&entry.value).into_owned())
    }

    /// Whether this engine is the one.
    pub(super) fn is_me(&self, owner: &str) -> bool {
        owner == self.me
    }

    /// The lease by which this engine owns a subscription, for as long as it does.
    pub(super) fn ours(&self, id: u32) -> Option<LeaseId> {
        let held = *self.held.borrow();
        let is_ours = Instant::now() < held.until
            && self.of(id).is_some_and(|owner| self.is_me(&owner))
            && self.store.lease_of(&key(id)) == Some(held.lease);
        is_ours.then_some(held.lease)
    }

    /// Whether what this engine owns by this lease is surely still its own.
    pub(super) fn holds(&self, lease: LeaseId) -> bool {
        let held = *self.held.borrow();
        held.lease == lease && Instant::now() < held.until
    }

    /// Whether another engine may own by now what this one owned by this lease.
    pub(super) fn has_lost(&self, id: u32, lease: LeaseId) -> bool {
        self.held.borrow().lease != lease || self.of(id).is_none_or(|owner| !self.is_me(&owner))
    }

    /// Changes when the lease is renewed, or is another one.
    pub(super) fn held(&self) -> watch::Receiver<Held> {
        self.held.clone()
    }

    /// Takes a subscription that nobody owns, unless another engine is faster.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn claim(&self, id: u32, name: &SubscriptionName) -> Result<()> {
        let lease = self.held.borrow().lease;
        let me = Bytes::copy_from_slice(self.me.as_bytes());
        match self.store.put(&key(id), me, Expect::Absent, Some(lease)).await {
            Ok(_) => Ok(()),
            Err(error) if error.code == ErrorCode::Conflict => Ok(()),
            // The others took this engine for gone; it has another lease in a moment.
            Err(error) if error.code == ErrorCode::NotFound => Err(moved(name)),
            Err(error) => Err(error),
        }
    }

    /// Hands a subscription of this engine over to another one, as whose it vanishes with that one's lease.
    ///
    /// # Errors
    /// `Unavailable`, also when the other one is gone; `Conflict` when it is not this engine's any more.
    pub(super) async fn give(&self, id: u32, other: &str) -> Result<()> {
        let lease = self.store.lease_of(&Key::Own(format!("{INSTANCES}{other}")));
        let entry = self.store.peek(&key(id)).filter(|entry| entry.value == self.me.as_bytes());
        let (Some(lease), Some(entry)) = (lease, entry) else {
            return Err(Error::new(ErrorCode::Unavailable, "there is nobody to hand it over to"));
        };
        let other = Bytes::copy_from_slice(other.as_bytes());
        self.store.put(&key(id), other, Expect::At(entry.revision), Some(lease)).await.map(drop)
    }

    /// Tells the others that this engine is about to go, so that they hand nothing over to it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn leave(&self) -> Result<()> {
        let lease = self.held.borrow().lease;
        let key = Key::Own(format!("{LEAVING}{}", self.me));
        self.store.put(&key, Bytes::new(), Expect::Any, Some(lease)).await.map(drop)
    }

    /// How many each engine owns, of those that are there and stay.
    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        let (instances, _) = self.store.list_own(INSTANCES);
        let (owners, _) = self.store.list_own(OWNERS);
        let instances = instances.iter().filter_map(|entry| entry.key.strip_prefix(INSTANCES));
        let stays = |name: &&str| self.store.peek(&Key::Own(format!("{LEAVING}{name}"))).is_none();
        let mut counts: BTreeMap<String, usize> =
            instances.filter(stays).map(|name| (name.to_owned(), 0)).collect();
        for entry in &owners {
            let owner = std::str::from_utf8(&entry.value).ok();
            if let Some(count) = owner.and_then(|owner| counts.get_mut(owner)) {
                *count += 1;
            }
        }
        counts
    }

    /// This engine's name.
    pub(super) fn me(&self) -> &str {
        &self.me
    }

    /// Forgets the owner of a subscription that was deleted.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn forget(&self, id: u32) -> Result<()> {
        self.store.delete(&key(id), Expect::Any).await.map(drop)
    }

    /// What is owned by this engine, by number.
    pub(super) fn all_ours(&self) -> Vec<u32> {
        let (entries, _) = self.store.list_own(OWNERS);
        let ours = entries.iter().filter(|entry| entry.value == self.me.as_bytes());
        ours.filter_map(|entry| entry.key.strip_prefix(OWNERS)?.parse().ok()).collect()
    }

    /// Resolves when somebody may own something else than at a revision of the store.
    pub(super) async fn changed(&self, after: u64) -> Result<(), Error> {
        let mut watch = self.store.watch_own(OWNERS, after)?;
        watch.next().await;
        Ok(())
    }

    /// The revision of the store that this engine knows.
    pub(super) fn revision(&self) -> u64 {
        self.store.list_own(OWNERS).1
    }
}

fn key(id: u32) -> Key {
    Key::Own(format!("{OWNERS}{id}"))
}
