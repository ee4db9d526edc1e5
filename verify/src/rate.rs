//! How much a publisher may send here so that its acknowledgements come soon.
//!
//! Messages of 1 KiB are published at a fixed rate, as they would come from outside, each to be acknowledged after
//! fsync. The rate doubles for as long as the disk keeps up: as long as 99 of 100 acknowledgements take no longer than
//! a bound that follows from the disk.

use std::time::Duration;

use crossdock_topics::{Batch, Expect, Message, PublishOptions, Result, SharedBroker, Topic};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::disk::Times;

/// One step is so long.
const STEP: Duration = Duration::from_secs(1);
/// How many times in a step batches are sent.
const TICKS: u64 = 500;

/// A rate that held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    /// Messages a second; 0 when not even the lowest did.
    pub(crate) per_second: u64,
    /// 99 of 100 acknowledgements took no longer.
    pub(crate) p99: Duration,
}

/// Looks for the highest of 1,000, 2,000, 4,000 ... messages a second that holds, for no longer than `length`.
pub(crate) async fn measure(broker: &SharedBroker, bound: Duration, length: Duration) -> Result<Rate> {
    let topic = Topic::new("verify.rate".parse()?);
    broker.put_topic(topic.clone(), Expect::Any).await?;
    let (mut held, deadline) = (Rate::default(), Instant::now() + length);
    let mut per_second = 1000;
    while Instant::now() + STEP <= deadline && per_second <= 1_024_000 {
        // One bad second is the machine's; two are the rate's.
        let mut p99 = step(broker, &topic, per_second).await?;
        if p99 > bound {
            p99 = step(broker, &topic, per_second).await?;
        }
        if p99 > bound {
            break;
        }
        held = Rate { per_second, p99 };
        per_second *= 2;
    }
    broker.delete_topic(&topic.name).await?;
    Ok(held)
}

/// The 99th percentile of how long acknowledgements took, counted from the moment the batch should have been sent.
async fn step(broker: &SharedBroker, topic: &Topic, per_second: u64) -> Result<Duration> {
    let message = Message::new(vec![0x5A; 1024]);
    let mut ticks = interval(STEP / TICKS as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut waits = tokio::task::JoinSet::new();
    let mut sent = 0;
    for tick in 1..=TICKS {
        let due = ticks.tick().await;
        let until = per_second * tick / TICKS;
        while sent < until {
            let mut batch = Batch::default();
            while sent < until && batch.len() < 1000 {
                batch.push(&message)?;
                sent += 1;
            }
            let published = broker.publish(&topic.name, batch, PublishOptions::default());
            waits.spawn(async move { published.await.map(|_| due.elapsed()) });
        }
    }
    let mut times = Vec::new();
    while let Some(time) = waits.join_next().await {
        // A queue that is full has not kept up.
        times.push(time.ok().and_then(Result::ok).unwrap_or(Duration::MAX));
    }
    Ok(Times::new(times).percentile(99))
}
