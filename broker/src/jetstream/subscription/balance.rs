//! Each engine owns its part of the subscriptions that are in use: about as many as each other.
//!
//! The one that owns most hands one after the other over ([`super::handing`]) to the one that owns least, when what is with
//! consumers has come to its end. What they hold for longer than a moment keeps it where it is, until another time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::Shutdown;
use tokio::time::Instant;

use super::handing::{hand_over, quiet};
use super::hub::Hub;
use crate::jetstream::peers::Peers;

/// How often it is looked who owns how many.
const LOOK: Duration = Duration::from_secs(1);
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
    match hand_over(hub, &owned, other).await {
        Ok(()) => tracing::debug!(subscription = %name, other, "handed over"),
        Err(error) => {
            later.insert(id, Instant::now() + LATER);
            tracing::debug!(subscription = %name, other, %error, "it could not be handed over");
        }
    }
    true
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
