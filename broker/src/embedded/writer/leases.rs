//! Leases: keys that vanish when nobody keeps them alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossdock_topics::{Durability, Error, LeaseId, Result, Timestamp};

use super::Writer;
use crate::embedded::keys;

/// All leases, and the keys each holds.
#[derive(Default)]
pub(super) struct Leases(BTreeMap<LeaseId, Lease>);

struct Lease {
    ttl: Duration,
    until: Timestamp,
    keys: BTreeSet<String>,
}

impl Leases {
    /// What was persisted; each has its whole time again.
    pub(super) fn restore(leases: Vec<(LeaseId, Duration)>, now: Timestamp) -> Self {
        let fresh = |(id, ttl)| (id, Lease { ttl, until: now.after(ttl), keys: BTreeSet::new() });
        Self(leases.into_iter().map(fresh).collect())
    }

    /// Notes that a lease holds a key; `false` when there is no such lease, or it has run out.
    pub(super) fn hold(&mut self, lease: LeaseId, key: &str, now: Timestamp) -> bool {
        let lease = self.0.get_mut(&lease).filter(|lease| lease.until > now);
        lease.map(|lease| lease.keys.insert(key.to_owned())).is_some()
    }

    pub(super) fn let_go(&mut self, lease: LeaseId, key: &str) {
        if let Some(lease) = self.0.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Timestamp) -> Result<()> {
        let lease = self
            .0
            .get_mut(&lease)
            .filter(|lease| lease.until > now)
            .ok_or_else(|| Error::not_found("lease", lease.0).hint("it has run out; get a new one"))?;
        lease.until = now.after(lease.ttl);
        Ok(())
    }
}

impl Writer {
    pub(super) fn grant(&mut self, ttl: Duration) -> LeaseId {
        self.numbers.lease += 1;
        self.numbers_changed = true;
        let id = LeaseId(self.numbers.lease);
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.batch.put(keys::lease(id.0), millis.to_be_bytes());
        self.require(Durability::Fsync);
        self.leases.0.insert(id, Lease { ttl, until: self.now.after(ttl), keys: BTreeSet::new() });
        id
    }

    pub(super) fn revoke(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.0.remove(&id) {
            self.batch.delete(keys::lease(id.0));
            self.require(Durability::Fsync);
            for key in lease.keys {
                self.delete_key(&key);
            }
        }
    }

    pub(super) fn expire_leases(&mut self) {
        let late: Vec<LeaseId> =
            self.leases.0.iter().filter(|(_, lease)| lease.until <= self.now).map(|(id, _)| *id).collect();
        for lease in late {
            self.revoke(lease);
        }
    }
}
