//! Each engine owns its part of the subscriptions that are in use: about as many as each other.
//!
//! The one that owns most hands one after the other over to the one that owns least. It delivers nothing more of it, lets
//! what is with consumers come to its end, and writes down what is left; then the other is its owner. What consumers hold
//! for longer than a moment keeps it where it is, until another time: nothing is taken from anybody.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::Shutdown;
use tokio::time::Instant;

use super::hub::Hub;
use super::owned::Owned;
use crate::jetstream::peers::Peers;

/// How often it is looked who owns how many.
const LOOK: Duration = Duration::from_secs(1);
/// How long consumers may wait while what they hold comes to its end.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const AGAIN: Duration = Duration::from_millis(5);
/// How long one that could not be handed over is left alone.
const LATER: Duration = Duration::from_secs(15);
/// How long the other engine may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Hands over what is more than this engine's part, until shutdown.
pub(super) async fn run(hub: Arc<Hub>, peers: Peers, shutdown: Shutdown) {
    let mut later: HashMap<u32, Instant> = HashMap::new();
    let working = async {
        loop {
            later.retain(|_, until| *until > Instant::now());
            let handed = match to_whom(&hub.owners.counts(), hub.owners.me()) {
                Some(other) => hand_one_over(&hub, &peers, &other, &mut later).await,
                None => false,
            };
            if !handed {
                tokio::time::sleep(LOOK).await;
            }
        }
    };
    tokio::select! {
        () = working => {}
        () = shutdown.started() => {}
    }
}

/// To whom this engine is to hand one over, if it is the one that owns most.
fn to_whom(counts: &BTreeMap<String, usize>, me: &str) -> Option<String> {
    let mine = *counts.get(me)?;
    let (least, count) = counts.iter().min_by_key(|(_, count)| **count)?;
    // Of several that own as many it is the first one's turn.
    let first = counts.iter().find(|(_, count)| counts.values().all(|other| other <= count))?.0;
    (first == me && mine > count + 1).then(|| least.clone())
}

/// Hands one over; whether that was possible.
async fn hand_one_over(hub: &Hub, peers: &Peers, other: &str, later: &mut HashMap<u32, Instant>) -> bool {
    // Whoever has just begun, or does not answer, is given nothing.
    if let Err(error) = peers.get(other, Instant::now() + ANSWER).await {
        tracing::debug!(other, %error, "nothing is handed over");
        return false;
    }
    let mut candidates = hub.all_at_work();
    candidates.retain(|owned| !later.contains_key(&owned.state.id));
    let Some(owned) = candidates.into_iter().min_by_key(|owned| owned.in_flight()) else { return false };
    let (id, name) = (owned.state.id, &owned.state.name);
    if !quiet(&owned).await {
        later.insert(id, Instant::now() + LATER);
        owned.go_on();
        return false;
    }
    let handed = async {
        owned.rest().await?;
        hub.owners.give(id, other).await
    };
    match handed.await {
        Ok(()) => tracing::debug!(subscription = %name, other, "handed over"),
        Err(error) => {
            later.insert(id, Instant::now() + LATER);
            tracing::debug!(subscription = %name, other, %error, "it could not be handed over");
        }
    }
    // Not before: it would be taken over here again by who wants something of it. If it is still this engine's after
    // all, that happens now.
    owned.end();
    true
}

/// Stops delivering; whether all that is with consumers came to its end soon.
async fn quiet(owned: &Owned) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(mut counts: BTreeMap<String, usize>) -> (usize, Vec<usize>) {
        let mut moved = 0;
        loop {
            let all: Vec<(String, String)> =
                counts.keys().filter_map(|me| Some((me.clone(), to_whom(&counts, me)?))).collect();
            // Never two at a time.
            assert!(all.len() <= 1, "{all:?}");
            let Some((from, to)) = all.into_iter().next() else { break };
            *counts.get_mut(&from).unwrap() -= 1;
            *counts.get_mut(&to).unwrap() += 1;
            moved += 1;
        }
        (moved, counts.into_values().collect())
    }

    #[test]
    fn each_comes_to_its_part_with_no_more_moves_than_that_takes() {
        let of = |counts: &[usize]| counts.iter().enumerate().map(|(n, c)| (format!("e{n}"), *c)).collect();
        assert_eq!(moves(of(&[10])), (0, vec![10]));
        assert_eq!(moves(of(&[0, 0, 1])), (0, vec![0, 0, 1]));
        assert_eq!(moves(of(&[10, 0])), (5, vec![5, 5]));
        assert_eq!(moves(of(&[3, 2, 3])), (0, vec![3, 2, 3]));
        let (moved, parts) = moves(of(&[10, 10, 0]));
        assert_eq!((moved, parts.iter().max(), parts.iter().min()), (6, Some(&7), Some(&6)));
    }
}
