//! What comes out of deliveries is published before they are settled.
//!
//! A server that goes away in between leaves outputs without their settlement. The message is delivered again then, and
//! what comes out of it the second time is told to be the same by its name, which is made of the delivery: so it is
//! stored once, within the dedup window of its topic.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Batch, DeliveryId, Outcome, Record, Result, Settled, Settlement, TopicName};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::owned::Owned;
use super::pass::stale;
use crate::delivery::Engine;

/// Deliveries are held for at least so long while their outputs are stored, and again until they are settled.
const HOLD: Duration = Duration::from_secs(60);

impl Owned {
    /// Publishes the outputs, then settles.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge`, `InvalidArgument` (an empty batch), `Conflict` when a delivery is stale; nothing was done
    /// then. `Unavailable`: some outputs may be stored; with the message delivered again they are not stored twice.
    pub(super) async fn settle_outputs(
        self: &Arc<Self>,
        settlement: Settlement,
        mut outputs: Vec<(TopicName, Batch)>,
    ) -> Result<Settled> {
        self.check_held()?;
        self.check_read(settlement.outcomes.iter().map(|(id, _)| *id))?;
        // Of two who settle the same delivery at once only one may publish what came out of it.
        let _one = self.settling.begin(&settlement.outcomes).ok_or_else(stale)?;
        // Without their names, for what is wrong with them is wrong of a delivery that has gone too.
        self.common.topics.check_all(&outputs).await?;
        let Some(failures) = self.state.hold_on(&settlement.outcomes, HOLD, self.now()) else {
            return Err(stale());
        };
        let base = self.name(&settlement.outcomes, &failures);
        if let Some(base) = &base {
            for (index, (_, batch)) in outputs.iter_mut().enumerate() {
                *batch = named_once(std::mem::take(batch), &format!("{base}-{index}"))?;
            }
            self.common.topics.check_all(&outputs).await?;
        }
        let published: Vec<_> =
            outputs.into_iter().map(|(topic, batch)| self.common.topics.publish(&topic, batch)).collect();
        let mut published = pin!(futures::future::join_all(published));
        // NATS may be away for longer than a delivery is held.
        let published = loop {
            match timeout(HOLD / 2, published.as_mut()).await {
                Ok(published) => break published,
                Err(_) => drop(self.state.hold_on(&settlement.outcomes, HOLD, self.now())),
            }
        };
        published.into_iter().collect::<Result<Vec<_>>>()?;
        // The settlement itself takes its time too.
        let _ = self.state.hold_on(&settlement.outcomes, HOLD, self.now());
        self.settle(settlement, true).await.map_err(|mut error| {
            // Outputs that have no name are stored once more by whoever does it all again: that is not for the engine to decide.
            error.retry_after = error.retry_after.filter(|_| base.is_some());
            error
        })
    }

    /// What the outputs of a settlement are named by: the messages that they come of, all of them, and what became of each.
    /// A message is acknowledged once, so that what comes out then is stored once, however often it failed in between;
    /// what comes out of failures is told apart by their number. What is given back is delivered again as if nothing had
    /// been: what comes out of it then is something else.
    fn name(&self, outcomes: &[(DeliveryId, Outcome)], failures: &[u32]) -> Option<String> {
        let named = outcomes.iter().zip(failures).filter(|((_, outcome), _)| *outcome != Outcome::Release);
        let mut of: Vec<String> = named
            .map(|((id, outcome), failures)| match outcome {
                Outcome::Ack => format!("{}-{}-ack", id.log, id.offset),
                _ => format!("{}-{}-{failures}", id.log, id.offset),
            })
            .collect();
        of.sort_unstable();
        let of = match &of[..] {
            [] => return None,
            [one] => one.clone(),
            // In other company something else may come out of them.
            several => {
                let digest = Sha256::digest(several.join(" "));
                digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
            }
        };
        Some(format!("s{}-{}-{of}", self.state.id, self.generation()))
    }
}

/// The deliveries whose outputs are being stored.
#[derive(Default)]
pub(super) struct Settling(Mutex<HashSet<DeliveryId>>);

/// Deliveries that nobody else settles with outputs while this is held.
struct Begun<'a>(&'a Settling, Vec<DeliveryId>);

impl Settling {
    /// Takes these deliveries; nothing, if one of them is taken.
    fn begin(&self, outcomes: &[(DeliveryId, Outcome)]) -> Option<Begun<'_>> {
        let mut taken = self.0.lock();
        if outcomes.iter().any(|(id, _)| taken.contains(id)) {
            return None;
        }
        let ids: Vec<DeliveryId> = outcomes.iter().map(|(id, _)| *id).collect();
        taken.extend(ids.iter().copied());
        Some(Begun(self, ids))
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let mut taken = self.0.0.lock();
        taken.retain(|id| !self.1.contains(id));
    }
}

/// The messages, each with an id: those that have none get one that says of which delivery they came, and which of what came
/// out of it they are.
fn named_once(batch: Batch, base: &str) -> Result<Batch> {
    let mut named = Batch::with_capacity(batch.as_bytes().len() + batch.len() * (base.len() + 16));
    let (records, mut at, mut ordinal) = (batch.into_bytes(), 0, 0);
    while let Some((record, after)) = Record::slice(&records, at) {
        let mut message = record.to_message();
        message.id.get_or_insert_with(|| format!("{base}-{ordinal}").into());
        named.push(&message)?;
        (at, ordinal) = (after, ordinal + 1);
    }
    Ok(named)
}
