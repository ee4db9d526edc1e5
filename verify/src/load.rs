//! The load of one round: its topics and subscriptions, and the tasks that work on them.

mod backlog;
mod consume;
mod publish;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crossdock_topics::{
    Backoff, Durability, Error, ErrorCode, Expect, Order, Result, Retention, SharedBroker, StartAt, Stored,
    Subscription, SubscriptionName, Topic, TopicName,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch as phases;
use tokio::task::JoinSet;

use backlog::Backlog;

use crate::freight::{Freight, Output};
use crate::history::{Answer, Found, History, Reader};
use crate::judge::Together;
use crate::pace::Pace;

/// How long a broker that was killed, stopped or refused a write may take to answer again.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the load behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Publishers publish, consumers do all that consumers do.
    Load,
    /// Publishers have ended, consumers acknowledge.
    Drain,
    /// Everybody ends.
    Stop,
}

/// The load of one round.
pub(crate) struct Load {
    pub(crate) shared: Arc<Shared>,
    phase: phases::Sender<Phase>,
    publishers: JoinSet<()>,
    others: JoinSet<()>,
}

/// What the tasks of a round share.
pub(crate) struct Shared {
    /// The ways to the broker; the tasks are spread over them.
    brokers: Vec<SharedBroker>,
    pub(crate) history: History,
    freight: TopicName,
    outputs: TopicName,
    seed: u64,
    round: u64,
    /// What the names of the round begin with.
    prefix: String,
    together: Together,
    pub(crate) pace: Pace,
    settlements: AtomicU64,
    backlog: Backlog,
}

/// What a round works on.
pub(crate) struct Work {
    pub(crate) brokers: Vec<SharedBroker>,
    pub(crate) seed: u64,
    pub(crate) round: u64,
    pub(crate) prefix: String,
    pub(crate) durability: Durability,
    pub(crate) together: Together,
}

impl Shared {
    /// The way to the broker of one of the tasks.
    fn broker(&self, task: u64) -> &SharedBroker {
        &self.brokers[usize::try_from(task).unwrap_or(0) % self.brokers.len()]
    }

    /// The choices of one of the tasks.
    fn dice(&self, task: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ (self.round << 32) ^ (task + 1))
    }

    fn subscription(&self, reader: Reader) -> Result<SubscriptionName> {
        format!("{}.{}", self.prefix, reader.name()).parse()
    }
}

/// Whether a call that failed may have been done all the same.
fn answer(error: &Error) -> Answer {
    match error.code {
        ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::Internal => Answer::Unknown,
        _ => Answer::Refused,
    }
}

/// Waits a little before trying again.
async fn pause(dice: &mut StdRng) {
    tokio::time::sleep(Duration::from_millis(dice.random_range(10..60))).await;
}

impl Load {
    /// Makes what the round needs, and starts the tasks.
    pub(crate) async fn start(work: Work) -> Result<Self> {
        let Work { brokers, seed, round, prefix, durability, together } = work;
        let shared = Arc::new(Shared {
            brokers,
            history: History::default(),
            freight: format!("{prefix}.freight").parse()?,
            outputs: format!("{prefix}.outputs").parse()?,
            seed,
            round,
            prefix,
            together,
            pace: Pace::default(),
            settlements: AtomicU64::new(0),
            backlog: Backlog::default(),
        });
        for name in [&shared.freight, &shared.outputs] {
            let retention = Retention { max_age: None, ..Retention::default() };
            let topic = Topic { retention, durability, ..Topic::new(name.clone()) };
            shared.broker(0).put_topic(topic, Expect::Any).await?;
        }
        for reader in Reader::ALL {
            let subscription = Subscription {
                order: if reader == Reader::Keys { Order::Key } else { Order::None },
                // No failure but those that consumers say, and no end to them.
                lease: Duration::from_secs(3600),
                max_failures: 1_000_000,
                backoff: Backoff {
                    first: Duration::from_millis(5),
                    factor: 1.0,
                    max: Duration::from_millis(5),
                },
                ..Subscription::new(shared.subscription(reader)?, vec![shared.freight.clone().into()])
            };
            shared.broker(0).put_subscription(subscription, Expect::Any).await?;
        }
        let (phase, watch) = phases::channel(Phase::Load);
        let (mut publishers, mut others) = (JoinSet::new(), JoinSet::new());
        for number in 0..4 {
            publishers.spawn(publish::run(shared.clone(), number, watch.clone()));
        }
        for task in 0..8 {
            let reader = Reader::ALL[task % Reader::ALL.len()];
            others.spawn(consume::run(shared.clone(), reader, 100 + task as u64, watch.clone()));
        }
        others.spawn(watch::run(shared.clone(), watch));
        Ok(Self { shared, phase, publishers, others })
    }

    /// Lets the publishers end. What they do not know the end of they publish again, as far as that is harmless.
    pub(crate) async fn stop_publishing(&mut self) {
        let _ = self.phase.send(Phase::Drain);
        while self.publishers.join_next().await.is_some() {}
    }

    /// Waits until every message is settled on every subscription; otherwise says where they wait. However slow the machine
    /// is, it waits while something is settled now and then.
    pub(crate) async fn drain(&mut self) -> Result<(), String> {
        let mut deadline = tokio::time::Instant::now() + PATIENCE;
        let last = deadline + 9 * PATIENCE;
        let mut settled = self.shared.backlog.all_settled();
        loop {
            let left = match self.left().await {
                Ok(None) => return Ok(()),
                Ok(Some(left)) => left,
                // That is no standstill of its subscriptions, and comes to an end.
                Err(error) => {
                    deadline = last.min(tokio::time::Instant::now() + PATIENCE);
                    error.to_string()
                }
            };
            let more = self.shared.backlog.all_settled();
            if more > settled {
                settled = more;
                deadline = last.min(tokio::time::Instant::now() + PATIENCE);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(left);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A subscription that is not through with the topic yet.
    async fn left(&self) -> Result<Option<String>> {
        let tail = self.shared.broker(0).topic(&self.shared.freight).await?.tail;
        for reader in Reader::ALL {
            let info = self.shared.broker(0).subscription(&self.shared.subscription(reader)?).await?;
            let progress = info.topics.iter().find(|progress| progress.topic == self.shared.freight);
            let through = progress.is_some_and(|progress| {
                progress.next >= tail && progress.waiting + progress.in_flight + progress.set_aside == 0
            });
            if !through {
                let (name, consumers) = (reader.name(), info.consumers);
                return Ok(Some(format!("{name} of {tail}, {consumers} consumers: {progress:?}")));
            }
        }
        Ok(None)
    }

    /// Ends the tasks, and gives what was seen and what is there. What cannot be read yet is tried again for a while.
    pub(crate) async fn finish(mut self) -> Result<(Arc<Shared>, Found)> {
        let _ = self.phase.send(Phase::Stop);
        while self.others.join_next().await.is_some() {}
        let found = patiently(|| self.shared.read_all()).await?;
        Ok((self.shared, found))
    }
}

impl Shared {
    /// All that the round left in the broker.
    pub(crate) async fn read_all(&self) -> Result<Found> {
        let mut found = Found::default();
        for stored in read_topic(self.broker(0), &self.freight).await? {
            match Freight::read(&stored.record, self.seed) {
                Ok(freight) => found.freight.push(freight),
                Err(wrong) => self.history.wrong(format!("in the log at {}: {wrong}", stored.offset)),
            }
        }
        for stored in read_topic(self.broker(0), &self.outputs).await? {
            match Output::read(&stored.record) {
                Ok(output) => found.outputs.push(output),
                Err(wrong) => self.history.wrong(format!("in the outputs at {}: {wrong}", stored.offset)),
            }
        }
        let mixed = self.subscription(Reader::Mixed)?;
        loop {
            let after = found.dead.last().map(|offset| (self.freight.clone(), *offset));
            let page = self.broker(0).dead_letters(&mixed, after, 1000).await?;
            if page.is_empty() {
                return Ok(found);
            }
            found.dead.extend(page.iter().map(|letter| letter.offset));
        }
    }

    /// Another broker, that is to hold the same.
    pub(crate) fn on(&self, broker: SharedBroker) -> Self {
        Self {
            brokers: vec![broker],
            history: History::default(),
            prefix: self.prefix.clone(),
            pace: Pace::default(),
            freight: self.freight.clone(),
            outputs: self.outputs.clone(),
            settlements: AtomicU64::new(0),
            backlog: Backlog::default(),
            ..*self
        }
    }

    /// Removes what the round made.
    pub(crate) async fn clear(&self) -> Result<()> {
        for reader in Reader::ALL {
            gone(self.broker(0).delete_subscription(&self.subscription(reader)?).await)?;
        }
        gone(self.broker(0).delete_topic(&self.freight).await)?;
        gone(self.broker(0).delete_topic(&self.outputs).await)
    }
}

/// Does something again that the broker cannot do at the moment, for a while.
pub(crate) async fn patiently<T>(mut work: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = tokio::time::Instant::now() + 5 * PATIENCE;
    loop {
        match work().await {
            Err(error)
                if matches!(answer(&error), Answer::Unknown) && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            done => return done,
        }
    }
}

/// What has been deleted, now or by a call that was not answered.
pub(crate) fn gone(deleted: Result<()>) -> Result<()> {
    deleted.or_else(|error| if error.code == ErrorCode::NotFound { Ok(()) } else { Err(error) })
}

/// All messages of a topic. A hole in the offsets is an error.
async fn read_topic(broker: &SharedBroker, topic: &TopicName) -> Result<Vec<Stored>> {
    let mut all: Vec<Stored> = Vec::new();
    loop {
        let next = all.len() as u64;
        let page = broker.read(topic, StartAt::Offset(next), 1000, Duration::ZERO).await?;
        if page.messages.is_empty() {
            return Ok(all);
        }
        for message in page.messages {
            if message.offset != all.len() as u64 {
                let hole = format!("{topic} goes on at {} after {} messages", message.offset, all.len());
                return Err(Error::internal(hole));
            }
            all.push(message);
        }
    }
}

#[cfg(test)]
mod tests;
