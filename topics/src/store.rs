//! What a cluster shares beside its topics: a small, revisioned key-value store.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::Result;

/// Counts the writes to a store; each write has a larger one than all before it, across restarts.
pub type Revision = u64;

/// A lease: keys put with it vanish when it is not kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// What must be true of a key for a write to take place; otherwise it fails with
/// [`crate::ErrorCode::Conflict`], which names the revision that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Nothing.
    #[default]
    Any,
    /// That there is no such key.
    Absent,
    /// That it was last written at this revision.
    At(Revision),
}

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// When it was last written.
    pub revision: Revision,
}

/// A write, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key was written.
    Put(Entry),
    /// A key was deleted, or its lease ran out.
    Deleted {
        /// The key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl Change {
    /// The key concerned.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// The revision of the write.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Changes as they become durable, in the order of their revisions. `None` from [`Watch::next`] means that
/// the watcher was too slow or the store has closed: list again, and watch from there.
#[derive(Debug)]
pub struct Watch(pub mpsc::Receiver<Change>);

impl Watch {
    /// The next change.
    pub async fn next(&mut self) -> Option<Change> {
        self.0.recv().await
    }
}

/// A small key-value store that all servers of a cluster share and watch.
///
/// Keys are paths such as `services/orders`: 1 to 512 bytes of printable ASCII without blanks. A value has at most 16 MiB
/// (a service's code fits). Writes are as durable as the engine can make them before they return, and are
/// visible only then. All of it fits in memory by design: keep messages in topics.
///
/// Keys below `topics/` and `subscriptions/` are the broker's own definitions: they can be read and watched
/// here, and are written through [`crate::Log`] and [`crate::Subscriptions`] only.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    async fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// Writes a key if what is expected holds, and gives the write's revision. With a lease the key vanishes
    /// when the lease does; without one it stays, whatever it was put with before.
    ///
    /// # Errors
    /// `Conflict` when the expectation fails; `NotFound` when the lease has run out.
    async fn put(&self, key: &str, value: Bytes, expect: Expect, lease: Option<LeaseId>) -> Result<Revision>;

    /// Deletes a key if what is expected holds. Deleting what is not there succeeds under [`Expect::Any`].
    ///
    /// # Errors
    /// `Conflict` when the expectation fails.
    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision>;

    /// All keys that begin with `prefix`, in order, and the revision they are as of: watching from it misses
    /// nothing.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision)>;

    /// Every change after revision `after` to keys that begin with `prefix`, the ones already made first.
    ///
    /// # Errors
    /// `Conflict` when changes that old are no longer known: list, and watch from there.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch>;

    /// A new lease that lasts `ttl` (100 ms to 1 h) unless kept alive. Leases survive a restart of the store,
    /// which gives each its whole time again.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId>;

    /// Gives a lease its whole time again.
    ///
    /// # Errors
    /// `NotFound` when it has run out.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// Ends a lease and deletes its keys. Ending one that is gone succeeds.
    async fn revoke(&self, lease: LeaseId) -> Result<()>;
}
