//! This server as a member of its cluster, for as long as it lives.

use std::time::Duration;

use crossdock_config::{Member, keys};
use crossdock_topics::{Error, ErrorCode, Expect, LeaseId, Result, Shutdown, Store};

use crate::records;

/// How long a server that is not heard of any more stays a member.
const TTL: Duration = Duration::from_secs(10);
/// How often it is heard of: three times before it would be missed.
const BEAT: Duration = Duration::from_secs(3);
/// How long one call to the store may take.
const CALL: Duration = Duration::from_secs(5);

/// Keeps `members/NAME` there until shutdown begins, then takes it away. Whatever goes wrong meanwhile is
/// tried again at the next beat: a lease that ran out (a machine that slept, a store that was away) is
/// replaced.
pub(crate) async fn keep(store: &dyn Store, member: &Member, shutdown: &Shutdown) {
    let mut lease = None;
    let mut failing = false;
    loop {
        match bounded(beat(store, member, &mut lease)).await {
            Ok(()) if failing => {
                failing = false;
                tracing::info!(server = member.name, "a member of the cluster again");
            }
            Ok(()) => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(server = member.name, %error, "cannot say that this server is alive");
                }
                failing = true;
            }
        }
        tokio::select! {
            () = shutdown.started() => break,
            () = tokio::time::sleep(BEAT) => {}
        }
    }
    if let Some(lease) = lease
        && let Err(error) = bounded(store.revoke(lease)).await
    {
        tracing::debug!(%error, "the membership ends by itself");
    }
}

/// One beat: the lease lives on and the record is there, or both are made anew.
async fn beat(store: &dyn Store, member: &Member, lease: &mut Option<LeaseId>) -> Result<()> {
    let key = keys::member(&member.name);
    let value = records::write(&key, member)?;
    if let Some(held) = *lease {
        match store.keep_alive(held).await {
            Ok(()) => {
                match store.get(&key).await? {
                    Some(entry) if entry.value == value => return Ok(()),
                    Some(_) => tracing::warn!(
                        server = member.name,
                        "another server goes by this name; give each one its own"
                    ),
                    None => {}
                }
                return store.put(&key, value, Expect::Any, Some(held)).await.map(drop);
            }
            Err(error) if error.code == ErrorCode::NotFound => *lease = None,
            Err(error) => return Err(error),
        }
    }
    let granted = store.grant(TTL).await?;
    *lease = Some(granted);
    store.put(&key, value, Expect::Any, Some(granted)).await.map(drop)
}

async fn bounded<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorCode::Timeout, format!("the store did not answer in {CALL:?}")))
    })
}
