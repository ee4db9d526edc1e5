//! What comes out of deliveries is published before they are settled.
//!
//! A server that goes away in between leaves outputs without their settlement. The message is delivered again then, and
//! what comes out of it the second time is told to be the same by its name, which is made of the delivery: so it is
//! stored once, within the dedup window of its topic.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Batch, Error, ErrorCode, Outcome, Record, Result, Settled, Settlement, TopicName};

use super::owned::Owned;
use super::pass::stale;
use crate::delivery::Engine;

/// Deliveries are held for at least so long while their outputs are stored.
const HOLD: Duration = Duration::from_secs(30);

impl Owned {
    /// Publishes the outputs, then settles.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge`, `InvalidArgument` (an empty batch), `Conflict` when a delivery is stale; nothing was done
    /// then. `Unavailable`: some outputs may be stored; with the message delivered again they are not stored twice.
    pub(super) async fn settle_outputs(
        self: &Arc<Self>,
        settlement: Settlement,
        outputs: Vec<(TopicName, Batch)>,
    ) -> Result<Settled> {
        self.check_held()?;
        for (topic, batch) in &outputs {
            let (limit, largest) = (self.common.topics.limit(topic)?, batch.largest_payload());
            if batch.is_empty() {
                return Err(Error::invalid("the batch is empty").hint("publish at least one message"));
            }
            if largest > limit {
                return Err(Error::new(
                    ErrorCode::TooLarge,
                    format!("a payload has {largest} bytes, topic {topic} takes at most {limit}"),
                )
                .hint("make it smaller, or raise the topic's max_message_bytes"));
            }
        }
        let Some(failures) = self.state.hold_on(&settlement.outcomes, HOLD, self.now()) else {
            return Err(stale());
        };
        // What is given back is delivered again as if nothing had been: what comes out of it then is something else.
        let named = settlement.outcomes.iter().zip(failures);
        let named =
            named.filter(|((_, outcome), _)| !matches!(outcome, Outcome::Release)).min_by_key(|(o, _)| o.0);
        let base = named.map(|((id, _), failures)| {
            let (subscription, generation) = (self.state.id, self.generation());
            format!("s{subscription}-{generation}-{}-{}-{failures}", id.log, id.offset)
        });
        let published: Vec<_> = outputs
            .into_iter()
            .enumerate()
            .map(|(index, (topic, batch))| {
                let batch = match &base {
                    Some(base) => named_once(batch, &format!("{base}-{index}"))?,
                    None => batch,
                };
                Ok(self.common.topics.publish(&topic, batch))
            })
            .collect::<Result<_>>()?;
        for published in published {
            published.await?;
        }
        self.settle(settlement, true).await
    }
}

/// The messages, each with an id: those that have none get one that says of which delivery they came.
fn named_once(batch: Batch, base: &str) -> Result<Batch> {
    let mut named = Batch::with_capacity(batch.as_bytes().len() + batch.len() * (base.len() + 16));
    let (records, mut at) = (batch.into_bytes(), 0);
    while let Some((record, after)) = Record::slice(&records, at) {
        let mut message = record.to_message();
        message.id.get_or_insert_with(|| format!("{base}-{at}").into());
        named.push(&message)?;
        at = after;
    }
    Ok(named)
}
