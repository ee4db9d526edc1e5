//! Handing subscriptions over to other engines, with what consumers hold of them.
//!
//! The engine that owns one delivers nothing more of it, writes down what is with consumers and names the next owner, who
//! hears from then on what becomes of that. So nobody gets a message twice because its subscription is elsewhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crossdock_topics::Result;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::hub::Hub;
use super::owned::Owned;
use super::pass::Command;
use crate::jetstream::peers::Peers;

/// How long consumers may wait while what they hold comes to its end.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const AGAIN: Duration = Duration::from_millis(5);
/// How long the other engine may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// So many are handed over at once.
const AT_ONCE: usize = 32;

/// Stops delivering; whether all that is with consumers came to its end soon.
pub(super) async fn quiet(owned: &Owned) -> bool {
    let until = Instant::now() + PAUSE;
    owned.pause();
    loop {
        if owned.in_flight() == 0 {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Hands one over that delivers nothing. Whether that succeeds or not, this engine has let go of it.
///
/// # Errors
/// `Unavailable`; `Conflict` when it is not this engine's any more.
pub(super) async fn hand_over(hub: &Hub, owned: &Owned, other: &str) -> Result<()> {
    let (owners, id, to) = (hub.owners.clone(), owned.state.id, other.to_owned());
    let other = to.clone();
    let give = Box::pin(async move { owners.give(id, &other).await });
    let handed = owned.ask(|answer| Command::HandOver { to, give, answer }).await;
    owned.end();
    handed
}

/// Hands over all that this engine owns, to whoever owns least: it leaves. Those that nobody takes stay; whoever calls bounds
/// the time.
pub(super) async fn hand_over_all(hub: &Hub, peers: &Peers) {
    if let Err(error) = hub.owners.leave().await {
        return tracing::debug!(%error, "nothing is handed over: nobody was told that this server leaves");
    }
    let (mut silent, mut meant) = (HashSet::new(), HashMap::<u32, String>::new());
    loop {
        let mut counts = hub.owners.counts();
        counts.retain(|other, _| !silent.contains(other));
        let ours = hub.owners.all_ours();
        if ours.is_empty() || counts.is_empty() {
            return;
        }
        let asked = silent.len();
        silent.extend(who_is_silent(peers, &counts).await);
        if silent.len() > asked {
            continue;
        }
        let at_work: HashMap<u32, _> = hub.all_at_work().into_iter().map(|one| (one.state.id, one)).collect();
        // What consumers hold is of worth only to whom it was first written down for.
        meant.retain(|_, other| counts.contains_key(other));
        for (id, other) in ours.iter().zip(shares(counts, ours.len())) {
            meant.entry(*id).or_insert(other);
        }
        let shares = ours.iter().filter_map(|id| Some((*id, meant.get(id)?)));
        let handing = stream::iter(shares).for_each_concurrent(AT_ONCE, |(id, other)| {
            let owned = at_work.get(&id);
            async move {
                let handed = match owned {
                    Some(owned) => {
                        quiet(owned).await;
                        hand_over(hub, owned, other).await
                    }
                    None => hub.give_idle(id, other).await,
                };
                match handed {
                    Ok(()) => tracing::debug!(subscription = id, other, "handed over"),
                    Err(error) => {
                        tracing::debug!(subscription = id, other, %error, "it could not be handed over yet");
                    }
                }
            }
        });
        handing.await;
        tokio::time::sleep(AGAIN).await;
    }
}

/// Those of them that do not answer.
async fn who_is_silent(peers: &Peers, counts: &BTreeMap<String, usize>) -> Vec<String> {
    let until = Instant::now() + ANSWER;
    let asking = counts.keys().map(|other| async move {
        let error = peers.get(other, until).await.err()?;
        tracing::debug!(other, %error, "nothing is handed over to it");
        Some(other.clone())
    });
    futures::future::join_all(asking).await.into_iter().flatten().collect()
}

/// To whom each of so many goes.
fn shares(mut counts: BTreeMap<String, usize>, many: usize) -> Vec<String> {
    let next = || {
        let (other, count) = counts.iter_mut().min_by_key(|(_, count)| **count)?;
        *count += 1;
        Some(other.clone())
    };
    std::iter::from_fn(next).take(many).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_behind_is_shared_by_those_who_stay() {
        let counts = BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 0)]);
        assert_eq!(shares(counts.clone(), 5), ["b", "b", "b", "a", "b"]);
        assert!(shares(counts, 0).is_empty());
        assert!(shares(BTreeMap::new(), 3).is_empty());
    }
}
