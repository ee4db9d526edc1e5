//! Who this engine is among those of its cluster: a name for its life, and a lease that others see.

use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{Backoff, ErrorCode, Expect, LeaseId, Result, Shutdown};
use tokio::sync::watch;
use tokio::time::Instant;

use super::store::{Key, KeyStore};

/// How long the others wait for one that is not heard of.
const TTL: Duration = Duration::from_secs(8);
/// How often it is heard of.
const RENEW: Duration = Duration::from_secs(2);
/// How long to wait after a renewal that failed.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(50), factor: 2.0, max: Duration::from_secs(1) };

/// Where the engine's own keys say who there is.
pub(super) const INSTANCES: &str = "instances/";

/// This engine among those of its cluster.
#[derive(Clone)]
pub(super) struct Instance {
    /// Its name, never used again.
    pub(super) id: String,
    held: watch::Receiver<Held>,
    keeping: Shutdown,
}

/// The lease that vanishes with this engine. It is another one after this engine could not be heard of for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) lease: LeaseId,
    /// Until then no other engine takes this one for gone. It is early by a third of the lease's time, so that whoever
    /// looks at it before each thing it does has that long to do it.
    pub(super) until: Instant,
}

impl Instance {
    /// Makes itself known, and stays so until it is closed.
    pub(super) async fn start(store: &KeyStore, name: &str, shutdown: &Shutdown) -> Result<Self> {
        let id = format!("{:016x}", rand::random::<u64>());
        let held = enter(store, &id, name).await?;
        let (state, held) = watch::channel(held);
        let work = keep(store.clone(), id.clone(), name.to_owned(), state);
        // Its own end: whoever says goodbye must not begin anew.
        let keeping = shutdown.child();
        let end = keeping.clone();
        keeping.tasks().spawn(async move {
            tokio::select! {
                () = work => {}
                () = end.started() => {}
            }
        });
        Ok(Self { id, held, keeping })
    }

    /// The lease, now and as it changes.
    pub(super) fn held(&self) -> watch::Receiver<Held> {
        self.held.clone()
    }

    /// Says goodbye.
    pub(super) async fn leave(&self, store: &KeyStore) {
        self.keeping.drain().await;
        let lease = self.held.borrow().lease;
        if let Err(error) = store.revoke(lease).await {
            tracing::debug!(%error, "the others will notice that this server has gone");
        }
    }
}

fn until(since: Instant) -> Instant {
    since + TTL * 2 / 3
}

async fn enter(store: &KeyStore, id: &str, name: &str) -> Result<Held> {
    let since = Instant::now();
    let lease = store.grant(TTL).await?;
    let key = Key::Own(format!("{INSTANCES}{id}"));
    store.put(&key, Bytes::copy_from_slice(name.as_bytes()), Expect::Any, Some(lease)).await?;
    Ok(Held { lease, until: until(since) })
}

async fn keep(store: KeyStore, id: String, name: String, state: watch::Sender<Held>) {
    let (mut failures, seed) = (0, rand::random());
    loop {
        let pause = if failures == 0 { RENEW } else { AGAIN.wait(failures, seed) };
        tokio::time::sleep(pause).await;
        let since = Instant::now();
        let lease = state.borrow().lease;
        let renewed = match store.keep_alive(lease).await {
            Ok(()) => Ok(Held { lease, until: until(since) }),
            Err(error) if error.code == ErrorCode::NotFound => {
                tracing::warn!("the other servers took this one for gone; it begins anew");
                enter(&store, &id, &name).await
            }
            Err(error) => Err(error),
        };
        match renewed {
            Ok(held) => {
                failures = 0;
                let _ = state.send_replace(held);
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, "this server could not renew its lease yet");
            }
        }
    }
}
