//! Leases: keys of the bucket that are written again and again by who keeps them alive.
//!
//! Who keeps one alive is promised that it is not taken away before it has lasted its whole time, in all of which the
//! store could be written to; a renewal that was not answered leaves it in doubt, and it is tried again. All others are
//! promised that one which nobody keeps alive goes when its time is up: after trouble with the store its time begins
//! anew, and is [`BACK`] at least.
//!
//! Nobody can see from elsewhere whether somebody is dead or kept from writing. So each engine measures by its own clock
//! how long it has not heard of a lease, and takes it away where
//!
//! * it has followed the store all that time: when the leader did not answer, or late, when the messages that come were
//!   interrupted, when this process stood still, or when a lease could not be taken away, the time of all of them begins
//!   anew, for then others could not write either;
//! * the leader, asked when the time was up, says how far the store is, and a renewal is not among what there is;
//! * the last renewal is still the last message at its key, which NATS looks at as it stores the deletion. So one that was
//!   renewed in the last moment stays, and of all engines one takes it. The deletion is not sent again: it would come
//!   true at a moment of which nothing is known.
//!
//! First the lease goes, then its keys. Where keys are left because that engine went away in between, the others find
//! keys of a lease that is gone.
//!
//! [`BACK`]: crate::jetstream::connection::BACK

use std::time::Duration;

use crossdock_topics::{Error, ErrorCode, Expect, LeaseId, Result, Shutdown};
use tokio::time::Instant;

use super::bucket::{TRY, Trouble, Write};
use super::mirror::Late;
use super::{Key, KeyStore};

/// How often keys of leases that are gone are looked for, at least.
const LOOK: Duration = Duration::from_secs(1);
/// No more often than that.
const PAUSE: Duration = Duration::from_millis(10);
/// Whoever sleeps longer than he wanted to by so much was not there meanwhile.
const STOOD_STILL: Duration = Duration::from_secs(1);

impl KeyStore {
    /// As [`crossdock_topics::Store::grant`].
    pub(in crate::jetstream) async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        if ttl < Duration::from_millis(100) || ttl > Duration::from_secs(3600) {
            return Err(Error::invalid("a lease lasts 100ms to 1h"));
        }
        // Any program that reads JSON has a number of 53 bits as it is.
        let id = LeaseId(rand::random_range(1..1 << 53));
        self.write(&Key::Lease(id), Write::Lease(ttl), Expect::Absent).await?;
        Ok(id)
    }

    /// As [`crossdock_topics::Store::keep_alive`].
    pub(in crate::jetstream) async fn keep_alive(&self, id: LeaseId) -> Result<()> {
        let deadline = Instant::now() + self.bucket.connection.options.patience;
        self.check_lease(id).await?;
        let key = Key::Lease(id);
        loop {
            let (ttl, sequence) = self.mirror.lease(id).ok_or_else(|| gone(id))?;
            match self.bucket.write(&key, Write::Lease(ttl), Some(sequence), deadline).await {
                Ok(sequence) => {
                    let _ = tokio::time::timeout_at(deadline, self.mirror.reaches(sequence)).await;
                    return Ok(());
                }
                Err(Trouble::Failed(error)) => return Err(error),
                // It has just been renewed or taken away.
                Err(Trouble::Moved) => self.fresh.come().await?,
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorCode::Unavailable,
                    format!("lease {} could not be renewed", id.0),
                ));
            }
        }
    }

    /// As [`crossdock_topics::Store::revoke`].
    pub(in crate::jetstream) async fn revoke(&self, id: LeaseId) -> Result<()> {
        self.fresh.come().await?;
        if self.mirror.has_lease(id) {
            self.delete(&Key::Lease(id), Expect::Any).await?;
        }
        self.take_keys(self.mirror.keys_of(id)).await
    }

    /// Whether there is such a lease.
    pub(super) async fn check_lease(&self, id: LeaseId) -> Result<()> {
        if !self.mirror.has_lease(id) {
            self.fresh.come().await?;
        }
        if self.mirror.has_lease(id) { Ok(()) } else { Err(gone(id)) }
    }

    /// Deletes keys that are still as they were found.
    async fn take_keys(&self, keys: Vec<(Key, u64)>) -> Result<()> {
        for (key, revision) in keys {
            match self.delete(&key, Expect::At(revision)).await {
                Ok(_) => {}
                // Somebody else has written or taken it.
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes away a lease, unless it was renewed after all. It is tried once.
    async fn expire(&self, late: Late) -> Result<()> {
        tracing::debug!(lease = late.id.0, "a lease has run out");
        let deadline = Instant::now() + TRY;
        match self.bucket.write(&Key::Lease(late.id), Write::Delete, Some(late.sequence), deadline).await {
            Ok(_) => {
                self.fresh.come().await?;
                self.take_keys(self.mirror.keys_of(late.id)).await
            }
            // What moved it comes here in a moment.
            Err(Trouble::Moved) => self.fresh.come().await,
            Err(Trouble::Failed(error)) => {
                self.mirror.renew_all(std::time::Instant::now());
                Err(error)
            }
        }
    }
}

pub(super) fn gone(id: LeaseId) -> Error {
    Error::not_found("lease", id.0).hint("it has run out; get a new one")
}

/// Takes away the leases that run out, and what belongs to none.
pub(super) async fn run(store: KeyStore, shutdown: Shutdown) {
    let working = async {
        loop {
            let moved = store.mirror.leases_moved.notified();
            let now = std::time::Instant::now();
            let (late, next) = store.mirror.late(now);
            if late.is_empty() {
                let wait = next.map_or(LOOK, |next| next.saturating_duration_since(now).clamp(PAUSE, LOOK));
                tokio::select! {
                    () = moved => {}
                    () = tokio::time::sleep(wait) => {}
                }
                if now.elapsed() > wait + STOOD_STILL {
                    store.mirror.renew_all(std::time::Instant::now());
                }
                tidy(&store).await;
                continue;
            }
            // What was written before now is heard first. When the store is in trouble each lease is given its time anew.
            if store.fresh.come().await.is_ok() {
                for late in late {
                    // Also if there was trouble while the one before it was taken away.
                    if !store.mirror.late(std::time::Instant::now()).0.contains(&late) {
                        continue;
                    }
                    if let Err(error) = store.expire(late).await {
                        tracing::debug!(%error, lease = late.id.0, "a lease could not be taken away yet");
                        break;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = working => {}
        () = shutdown.started() => {}
    }
}

/// Takes away keys of leases that are gone.
async fn tidy(store: &KeyStore) {
    let found = store.mirror.orphans();
    if found.is_empty() {
        return;
    }
    let tidying = async {
        // A lease that is renewed while the store is read anew comes behind its keys.
        store.fresh.come().await?;
        let still = store.mirror.orphans();
        store.take_keys(found.into_iter().filter(|key| still.contains(key)).collect()).await
    };
    if let Err(error) = tidying.await {
        tracing::debug!(%error, "keys of a lease that is gone could not be taken away yet");
    }
}
