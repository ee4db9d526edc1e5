//! Messages out, and what became of them back in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{
    ConsumerId, Delivery, Error, Fetch, Page, Result, Settled, Settlement, SharedBroker, SubscriptionName,
    TopicName,
};
use crossdock_wire::session::{
    self, MAX_DELIVERIES, OutcomeRange, Outputs, PageRun, Ranges, ToClient, ToServer,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::frames;
use super::gate::Gate;
use super::session::{Answered, Flowing, Joined, Session, Stop};
use crate::remote::pieces::Pieces;

/// The most bytes of messages in one frame, but for the last message of it.
const MAX_BYTES: u64 = 1 << 20;
/// How long one fetch of a flow waits before it looks again.
const WAIT: Duration = Duration::from_secs(60);
/// The most outcomes in one settlement: as many as can be under way.
const MAX_OUTCOMES: u64 = 1 << 20;

/// How much more may flow.
#[derive(Default)]
pub(super) struct Credit {
    left: Mutex<(u64, u64)>,
    more: Notify,
}

impl Credit {
    pub(super) fn new(messages: u64, bytes: u64) -> Self {
        Self { left: Mutex::new((messages, bytes)), more: Notify::new() }
    }

    pub(super) fn add(&self, messages: u64, bytes: u64) {
        let mut left = self.left.lock();
        *left = (left.0.saturating_add(messages), left.1.saturating_add(bytes));
        drop(left);
        self.more.notify_one();
    }

    /// Takes one message's worth, if there is one.
    pub(super) fn take_one(&self) -> bool {
        let mut left = self.left.lock();
        let some = left.0 > 0;
        left.0 -= u64::from(some);
        some
    }

    /// Waits until there is some of both.
    async fn some(&self) -> (u64, u64) {
        loop {
            let more = self.more.notified();
            let left = *self.left.lock();
            if left.0 > 0 && left.1 > 0 {
                return left;
            }
            more.await;
        }
    }

    fn spend(&self, messages: u64, bytes: u64) {
        let mut left = self.left.lock();
        *left = (left.0.saturating_sub(messages), left.1.saturating_sub(bytes));
    }
}

/// A request's part of what a session knows.
pub(super) struct Desk {
    pub(super) broker: SharedBroker,
    pub(super) gate: Arc<Gate>,
}

impl Session {
    pub(super) fn desk(&self) -> Desk {
        Desk { broker: self.server.broker.clone(), gate: self.gate.clone() }
    }

    /// Begins a request.
    pub(super) fn request(&mut self, header: ToServer, payload: Bytes) {
        let desk = self.desk();
        match header {
            ToServer::Read { id, topic, place, value, max, wait_ms } => {
                self.run(id, None, |stop| async move {
                    let read = desk.read(id, &topic, (place, value), max, wait_ms, stop);
                    Answered::from(id, read.await)
                });
            }
            ToServer::Join { id, subscription } => self.run(id, None, |_| desk.join(id, subscription)),
            // A consumer is its connection's: what another one took would not be given back when that one breaks.
            ToServer::Fetch { id, consumer: Some(consumer), .. }
                if !self.consumers.contains_key(&ConsumerId(consumer)) =>
            {
                let error = Error::not_found("consumer", consumer)
                    .hint("join over this connection first; whoever has left gets nothing");
                self.run(id, None, |_| async move { Answered::from(id, Err(error)) });
            }
            ToServer::Fetch { id, subscription, consumer, max, max_bytes, wait_ms, lease_ms } => {
                let fetch = Fetch {
                    consumer: consumer.map(ConsumerId),
                    max: (max as usize).min(MAX_DELIVERIES),
                    max_bytes: usize::try_from(max_bytes.min(MAX_BYTES)).unwrap_or(usize::MAX),
                    wait: Duration::from_millis(wait_ms),
                    lease: lease_ms.map(Duration::from_millis),
                };
                self.run(id, None, |stop| desk.fetch(id, subscription, fetch, stop));
            }
            ToServer::Consume { id, subscription, messages, bytes, lease_ms } => {
                let credit = Arc::new(Credit::new(messages, bytes));
                let lease = lease_ms.map(Duration::from_millis);
                let flowing = self.flowing.clone();
                self.run(id, Some(credit.clone()), |mut stop| async move {
                    let drain = stop.drain.clone();
                    let ended = tokio::select! {
                        ended = desk.consume(id, &subscription, &credit, lease, flowing, drain) => ended.map(Some),
                        () = stop.cancelled() => Ok(None),
                    };
                    match ended {
                        // It stays until it leaves or the connection ends, so that it can settle what it holds.
                        Ok(joined) => Answered { joined, ..Answered::new(id, frames::plain(&ToClient::End { id })) },
                        Err(error) => Answered::from(id, Err(error)),
                    }
                });
            }
            ToServer::Settle { id, subscription, outcomes, outputs, by } => {
                self.run(id, None, |_| async move {
                    let settled = desk.settle(&subscription, outcomes, outputs, by, payload).await;
                    answer_settled(id, settled, true)
                });
            }
            ToServer::Extend { id, subscription, lease_ms, deliveries } => {
                self.run(id, None, |_| async move {
                    let lease = Duration::from_millis(lease_ms);
                    answer_settled(id, desk.extend(&subscription, &deliveries, lease).await, false)
                });
            }
            other => self.serve_or_call(other, payload),
        }
    }
}

impl Desk {
    async fn read(
        &self,
        id: u64,
        topic: &str,
        (place, value): (u8, i64),
        max: u32,
        wait_ms: u64,
        mut stop: Stop,
    ) -> Result<Pieces> {
        let topic: TopicName = topic.parse()?;
        self.gate.read(&topic)?;
        let from = session::place_of(place, value)
            .ok_or_else(|| Error::invalid(format!("{place} with {value} is no place in a topic")))?;
        let max = (max as usize).min(MAX_DELIVERIES);
        let reading = self.broker.read(&topic, from, max, Duration::from_millis(wait_ms));
        let page = tokio::select! {
            page = reading => page?,
            () = stop.ended() => Page { messages: Vec::new(), next: 0 },
        };
        let (mut runs, mut run) = (Vec::new(), Pieces::default());
        for stored in &page.messages {
            PageRun::add(&mut runs, stored.offset, stored.time.0);
            run.record(&stored.record);
        }
        Ok(frames::whole(&ToClient::Page { id, next: page.next, runs }, run))
    }

    async fn enter(&self, subscription: &str) -> Result<Joined> {
        let subscription = self.gate.consume(&*self.broker, subscription).await?;
        let consumer = self.broker.join(&subscription).await?;
        Ok(Joined { broker: self.broker.clone(), subscription, consumer })
    }

    async fn join(self, id: u64, subscription: String) -> Answered {
        match self.enter(&subscription).await {
            Ok(joined) => {
                let pieces = frames::plain(&ToClient::Joined { id, consumer: joined.consumer.0 });
                Answered { joined: Some(joined), ..Answered::new(id, pieces) }
            }
            Err(error) => Answered::from(id, Err(error)),
        }
    }

    async fn fetch(self, id: u64, subscription: String, fetch: Fetch, mut stop: Stop) -> Answered {
        let alone = fetch.consumer.is_none();
        let fetching = async {
            let subscription = self.gate.consume(&*self.broker, &subscription).await?;
            let deliveries = self.broker.fetch(&subscription, fetch).await?;
            Ok((subscription, deliveries))
        };
        let fetched: Result<(SubscriptionName, Vec<Delivery>)> = tokio::select! {
            biased;
            // What was not taken yet is not taken.
            () = stop.ended() => return Answered::new(id, frames::deliveries(id, &[], false)),
            fetched = fetching => fetched,
        };
        match fetched {
            Ok((subscription, deliveries)) => {
                let mut answered = Answered::new(id, frames::deliveries(id, &deliveries, false));
                answered.held = i64::try_from(deliveries.len()).unwrap_or(0);
                if alone && !deliveries.is_empty() {
                    let ids = deliveries.iter().map(|delivery| delivery.id).collect();
                    answered.loose = Some((subscription, ids));
                }
                answered
            }
            Err(error) => Answered::from(id, Err(error)),
        }
    }

    /// Delivers as long as there is credit; the consumer leaves when this is dropped. Drained, it gives the consumer.
    async fn consume(
        &self,
        id: u64,
        subscription: &str,
        credit: &Credit,
        lease: Option<Duration>,
        flowing: mpsc::Sender<Flowing>,
        drain: CancellationToken,
    ) -> Result<Joined> {
        let joined = self.enter(subscription).await?;
        let begun = frames::plain(&ToClient::Joined { id, consumer: joined.consumer.0 });
        if flowing.send(Flowing { pieces: begun, deliveries: 0 }).await.is_err() {
            return Ok(joined);
        }
        loop {
            let (messages, bytes) = tokio::select! {
                credit = credit.some() => credit,
                () = drain.cancelled() => return Ok(joined),
            };
            let fetch = Fetch {
                consumer: Some(joined.consumer),
                max: usize::try_from(messages).unwrap_or(usize::MAX).min(MAX_DELIVERIES),
                max_bytes: usize::try_from(bytes.min(MAX_BYTES)).unwrap_or(usize::MAX),
                wait: WAIT,
                lease,
            };
            let deliveries = tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(joined),
                deliveries = self.broker.fetch(&joined.subscription, fetch) => deliveries?,
            };
            if deliveries.is_empty() {
                continue;
            }
            let bytes: usize = deliveries.iter().map(|delivery| delivery.record.size()).sum();
            credit.spend(deliveries.len() as u64, bytes as u64);
            let pieces = frames::deliveries(id, &deliveries, true);
            // When this is dropped here, leaving gives them back.
            if flowing.send(Flowing { pieces, deliveries: deliveries.len() }).await.is_err() {
                return Ok(joined);
            }
        }
    }

    async fn settle(
        &self,
        subscription: &str,
        ranges: Vec<OutcomeRange>,
        outputs: Outputs,
        by: Option<String>,
        payload: Bytes,
    ) -> Result<Settled> {
        let subscription = self.gate.consume(&*self.broker, subscription).await?;
        check_count(ranges.iter().map(|range| u64::from(range.range().3)).sum())?;
        let mut outcomes = Vec::new();
        for range in ranges {
            let outcome =
                range.outcome().ok_or_else(|| Error::invalid(format!("{} is no outcome", range.0)))?;
            outcomes.extend(range.range().ids().map(|id| (id, outcome.clone())));
        }
        let (outputs, _) = frames::outputs(&self.gate, outputs, payload)?;
        self.broker.settle(&subscription, Settlement { outcomes, outputs, by }).await
    }

    async fn extend(&self, subscription: &str, deliveries: &Ranges, lease: Duration) -> Result<Settled> {
        let subscription = self.gate.consume(&*self.broker, subscription).await?;
        check_count(deliveries.len())?;
        let deliveries: Vec<_> = deliveries.ids().collect();
        self.broker.extend(&subscription, &deliveries, lease).await
    }
}

/// Ranges are short however much they name.
fn check_count(deliveries: u64) -> Result<()> {
    if deliveries > MAX_OUTCOMES {
        return Err(Error::new(
            crossdock_topics::ErrorCode::TooLarge,
            format!("{deliveries} deliveries in one frame, the limit is {MAX_OUTCOMES}"),
        ));
    }
    Ok(())
}

fn answer_settled(id: u64, settled: Result<Settled>, gone: bool) -> Answered {
    match settled {
        Ok(Settled { settled, stale }) => {
            let stale: Ranges = stale.into_iter().collect();
            let gone = if gone { i64::try_from(settled as u64 + stale.len()).unwrap_or(0) } else { 0 };
            let header = ToClient::Settled { id, settled: settled as u64, stale };
            Answered { held: -gone, ..Answered::new(id, frames::plain(&header)) }
        }
        Err(error) => Answered::from(id, Err(error)),
    }
}
