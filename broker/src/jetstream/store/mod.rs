//! The store: a NATS key-value bucket, and a mirror of all of it in the memory of each engine.
//!
//! A revision is the number of the message in the bucket's stream. A write expects what lies at its key by the number
//! of the key's last message, which NATS checks; it returns when the mirror has it too, so that who writes sees it in
//! every list and watch of this engine. A read first asks the bucket's leader how far it has come and waits until the
//! mirror has come as far ([`fresh`]), so that it never misses what any engine was told is written. Watches come from
//! the mirror alone.

mod bucket;
mod fresh;
mod keep;
mod leases;
mod mirror;
mod names;
mod objects;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_topics::{Entry, Error, ErrorCode, Expect, LeaseId, Result, Revision, Shutdown, Store, Watch};
use tokio::time::Instant;

use super::JetStream;
use super::connection::Connection;
use crate::store_view;
use bucket::{Bucket, Trouble, Write};
use fresh::Fresh;
use mirror::{Lies, Mirror, Place};
pub(super) use names::Key;
use objects::Objects;

/// Larger values become objects.
const INLINE: usize = 512 * 1024;
/// How long a read waits for a large value, and how often it looks.
const READING: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// The store of a cluster, as one engine has it.
#[derive(Clone)]
pub(super) struct KeyStore {
    bucket: Bucket,
    objects: Objects,
    mirror: Arc<Mirror>,
    fresh: Fresh,
}

impl KeyStore {
    /// Finds the store in NATS or makes it, and reads all of it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn open(connection: &Connection, shutdown: &Shutdown) -> Result<Self> {
        Self::open_after(connection, 0, shutdown).await
    }

    /// The same; where it is not there yet, its revisions follow on one.
    pub(super) async fn open_after(
        connection: &Connection,
        after: Revision,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let bucket = Bucket::open(connection, after).await?;
        let objects = Objects::open(connection).await?;
        let mirror = Arc::new(Mirror::new());
        Box::pin(keep::start(bucket.clone(), objects.clone(), mirror.clone(), shutdown)).await?;
        let fresh = Fresh::start(bucket.clone(), mirror.clone(), shutdown);
        let store = Self { bucket, objects, mirror, fresh };
        shutdown.tasks().spawn(leases::run(store.clone(), shutdown.clone()));
        Ok(store)
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn exists(connection: &Connection) -> Result<bool> {
        Bucket::exists(connection).await
    }

    /// Why it cannot be relied on at the moment.
    pub(super) fn trouble(&self) -> Option<String> {
        let full = || self.is_full().then(|| format!("NATS has no room left: {}", bucket::FULL));
        self.fresh.trouble().or_else(full)
    }

    /// Whether NATS had no room for what was to be written last.
    pub(super) fn is_full(&self) -> bool {
        self.bucket.is_full()
    }

    /// How many servers keep it, with its large values, as it was found.
    pub(super) fn replicas(&self) -> usize {
        self.bucket.stream.cached_info().config.num_replicas.min(self.objects.replicas())
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        self.mirror.shared.close();
        self.mirror.own.close();
    }

    /// A value, not older than this call.
    pub(super) async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.fresh.come().await?;
        self.have_read(|mirror| mirror.is_unread(key).then(|| key.to_string())).await?;
        Ok(self.peek(key))
    }

    /// Waits a while until there is no such key any more whose value could not be read yet.
    async fn have_read(&self, unread: impl Fn(&Mirror) -> Option<String>) -> Result<()> {
        let deadline = Instant::now() + READING;
        while let Some(key) = unread(&self.mirror) {
            if Instant::now() >= deadline {
                let why = format!("the value of {key} cannot be read from NATS at the moment");
                return Err(Error::new(ErrorCode::Unavailable, why).hint(
                    "see `nats object info` and `nats stream report`; writing the key again mends it",
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Resolves when this engine knows of everything that was stored when this was called.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn come(&self) -> Result<()> {
        self.fresh.come().await
    }

    /// A value as this engine knows it, which may be a moment old.
    pub(super) fn peek(&self, key: &Key) -> Option<Entry> {
        match key {
            Key::Shared(key) => self.mirror.shared.get(key),
            Key::Own(key) => self.mirror.own.get(key),
            Key::Lease(_) => None,
        }
    }

    /// The lease with which a key vanishes, as this engine knows it.
    pub(super) fn lease_of(&self, key: &Key) -> Option<LeaseId> {
        match self.mirror.place(key)?.lies {
            Lies::Value { lease, .. } => lease,
            Lies::Mark(_) => None,
        }
    }

    /// The engine's own keys with this prefix as this engine knows them, and the revision they are as of.
    pub(super) fn list_own(&self, prefix: &str) -> (Vec<Entry>, Revision) {
        self.mirror.own.list(prefix)
    }

    /// Keys of the store that do not vanish with a lease.
    pub(super) fn list_lasting(&self) -> (Vec<Entry>, Revision) {
        let (mut entries, revision) = self.mirror.shared.list("");
        entries.retain(|entry| {
            let place = self.mirror.place(&Key::Shared(entry.key.clone()));
            !matches!(place, Some(Place { lies: Lies::Value { lease: Some(_), .. }, .. }))
        });
        (entries, revision)
    }

    /// The changes of the engine's own keys with this prefix, as [`Store::watch`] has them.
    pub(super) fn watch_own(&self, prefix: &str, after: Revision) -> Result<Watch> {
        self.mirror.own.watch(prefix, after)
    }

    /// What follows this prefix in the store's keys, as this engine knows them, each with its revision.
    pub(super) fn names(&self, prefix: &str) -> Vec<(String, Revision)> {
        self.mirror.shared.names(prefix)
    }

    /// How far this engine knows the store.
    pub(super) fn seen(&self) -> Revision {
        self.mirror.seen()
    }

    /// Keys of the store with this prefix as this engine knows them, and the revision they are as of.
    pub(super) fn list_shared(&self, prefix: &str) -> (Vec<Entry>, Revision) {
        self.mirror.shared.list(prefix)
    }

    /// The changes of the store's keys with this prefix, as [`Store::watch`] has them.
    pub(super) fn watch_shared(&self, prefix: &str, after: Revision) -> Result<Watch> {
        self.mirror.shared.watch(prefix, after)
    }

    /// Writes any key, whoever's it is; otherwise as [`Store::put`].
    pub(super) async fn put(
        &self,
        key: &Key,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<Revision> {
        if let Some(lease) = lease {
            self.check_lease(lease).await?;
        }
        let object = if value.len() > self.inline() {
            Some(self.objects.put(&key.to_string(), &value).await?)
        } else {
            None
        };
        let value = if object.is_some() { Bytes::new() } else { value };
        let write = Write::Put { value, lease, object: object.clone() };
        match self.write(key, write, expect).await {
            Ok((revision, before)) => {
                self.drop_object(before);
                if let Some(lease) = lease
                    && !self.mirror.has_lease(lease)
                {
                    // It ran out on the way. Whoever finds the key first takes it away.
                    let _ = self.delete(key, Expect::At(revision)).await;
                    return Err(leases::gone(lease));
                }
                Ok(revision)
            }
            Err(error) => {
                // Unless it may have been written after all.
                if let Some(object) = object
                    && error.code == ErrorCode::Conflict
                {
                    self.objects.remove(&object).await;
                }
                Err(error)
            }
        }
    }

    /// Deletes any key, whoever's it is; otherwise as [`Store::delete`].
    pub(super) async fn delete(&self, key: &Key, expect: Expect) -> Result<Revision> {
        if expect == Expect::Any && self.is_absent(key) {
            self.fresh.come().await?;
            if self.is_absent(key) {
                return Ok(self.mirror.seen());
            }
        }
        let (revision, before) = self.write(key, Write::Delete, expect).await?;
        self.drop_object(before);
        Ok(revision)
    }

    /// How large a value may be within a message.
    fn inline(&self) -> usize {
        INLINE.min(self.bucket.connection.client.max_payload() / 2)
    }

    fn is_absent(&self, key: &Key) -> bool {
        present(self.mirror.place(key).as_ref()).is_none()
    }

    /// Removes the object of a value that has been replaced.
    fn drop_object(&self, before: Option<Place>) {
        if let Some(Place { lies: Lies::Value { object: Some(object), .. }, .. }) = before {
            let objects = self.objects.clone();
            self.fresh.spawn(async move { objects.remove(&object).await });
        }
    }

    /// Writes if what is expected is so; gives the revision, and what lay there before.
    async fn write(&self, key: &Key, write: Write, expect: Expect) -> Result<(Revision, Option<Place>)> {
        let deadline = Instant::now() + self.bucket.connection.options.patience;
        loop {
            let mut place = self.mirror.place(key);
            if check(key, expect, place.as_ref()).is_err() {
                // What this engine knows may be a moment old.
                self.fresh.come().await?;
                place = self.mirror.place(key);
                check(key, expect, place.as_ref())?;
            }
            let expected = match expect {
                Expect::Any => None,
                Expect::Absent | Expect::At(_) => Some(place.as_ref().map_or(0, |place| place.sequence)),
            };
            match self.bucket.write(key, write.clone(), expected, deadline).await {
                Ok(revision) => {
                    let seen = tokio::time::timeout_at(deadline, self.mirror.reaches(revision)).await;
                    if seen.is_err() {
                        tracing::warn!(%key, revision, "a write is stored, and has not come back to this server");
                    }
                    return Ok((revision, place));
                }
                Err(Trouble::Failed(error)) => return Err(error),
                Err(Trouble::Moved) => {
                    if Instant::now() >= deadline {
                        return Err(Error::new(
                            ErrorCode::Unavailable,
                            format!("too many others write {key}"),
                        )
                        .hint("try again"));
                    }
                    match self.bucket.last_of(key).await? {
                        // NATS keeps the mark of a deletion for a while only.
                        0 => self.mirror.forget(key),
                        last => {
                            let _ = tokio::time::timeout_at(deadline, self.mirror.reaches(last)).await;
                        }
                    }
                }
            }
        }
    }
}

/// The revision of what lies there.
fn present(place: Option<&Place>) -> Option<Revision> {
    place.filter(|place| matches!(place.lies, Lies::Value { .. })).map(|place| place.sequence)
}

/// Whether what is expected is so.
fn check(key: &Key, expect: Expect, place: Option<&Place>) -> Result<()> {
    let is = present(place);
    let conflict = |text: String| Err(Error::new(ErrorCode::Conflict, text).hint("read it, and try again"));
    match (expect, is) {
        (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
        (Expect::At(revision), Some(is)) if revision == is => Ok(()),
        (Expect::Absent, Some(is)) => conflict(format!("{key} is there already, at revision {is}")),
        (Expect::At(revision), Some(is)) => conflict(format!("{key} is at revision {is}, not at {revision}")),
        (Expect::At(revision), None) => {
            conflict(format!("{key} is not there, and not at revision {revision}"))
        }
    }
}

#[async_trait]
impl Store for JetStream {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.check_open()?;
        self.store.get(&Key::Shared(key.to_owned())).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect, lease: Option<LeaseId>) -> Result<Revision> {
        self.check_open()?;
        store_view::check(key, Some(&value))?;
        self.store.put(&Key::Shared(key.to_owned()), value, expect, lease).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision> {
        self.check_open()?;
        store_view::check(key, None)?;
        self.store.delete(&Key::Shared(key.to_owned()), expect).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision)> {
        self.check_open()?;
        self.store.fresh.come().await?;
        self.store.have_read(|mirror| mirror.unread_in(prefix)).await?;
        Ok(self.store.list_shared(prefix))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let watch = self.store.watch_shared(prefix, after)?;
        // Looked at afterwards: closing ends those it finds, and this one finds the closing.
        self.check_open()?;
        Ok(watch)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.check_open()?;
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.check_open()?;
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.check_open()?;
        self.store.revoke(lease).await
    }
}
