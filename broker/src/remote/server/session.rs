//! One client's connection: everything that is under way for it, polled in turn by one task.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crossdock_topics::{
    ConsumerId, DeliveryId, Error, ErrorCode, Health, Outcome, Result, Settlement, SharedBroker,
    SubscriptionName,
};
use crossdock_wire::session::{ToClient, ToServer};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::consume::Credit;
use super::gate::Gate;
use super::publish::Publishing;
use super::serving::Replies;
use super::{Host, frames};
use crate::remote::pieces::Pieces;
use crate::remote::pipe::Pipe;

/// How many frames are taken before others get their turn.
const TURN: usize = 64;
/// How many turns before the executor gets its own.
const TURNS: usize = 32;
/// How often to look at the clock, the broker's health, and the client's permissions.
const TICK: Duration = Duration::from_secs(1);
/// How many frames of flows wait here at most.
const FLOWING: usize = 16;

/// What a request came to.
pub(super) struct Answered {
    pub(super) id: u64,
    pub(super) pieces: Pieces,
    /// A consumer that has joined with it.
    pub(super) joined: Option<Joined>,
    /// Deliveries that nobody would give back if they did not arrive.
    pub(super) loose: Option<(SubscriptionName, Vec<DeliveryId>)>,
    /// By how much the client holds more, or fewer, deliveries.
    pub(super) held: i64,
}

impl Answered {
    pub(super) fn new(id: u64, pieces: Pieces) -> Self {
        Self { id, pieces, joined: None, loose: None, held: 0 }
    }

    pub(super) fn from(id: u64, result: Result<Pieces>) -> Self {
        Self::new(id, result.unwrap_or_else(|error| frames::failed(id, &error)))
    }
}

/// Some of a flow.
pub(super) struct Flowing {
    pub(super) pieces: Pieces,
    /// How many deliveries it holds.
    pub(super) deliveries: usize,
}

/// A consumer that leaves when it is dropped.
pub(super) struct Joined {
    pub(super) broker: SharedBroker,
    pub(super) subscription: SubscriptionName,
    pub(super) consumer: ConsumerId,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.broker.leave(&self.subscription, self.consumer);
    }
}

/// What can still be done about a request that is under way.
pub(super) struct UnderWay {
    /// Ends it early when it is dropped.
    _cancel: oneshot::Sender<()>,
    /// Where its credit is added, if it is a flow.
    pub(super) credit: Option<Arc<Credit>>,
}

type Running = BoxFuture<'static, Answered>;

/// How a request hears that it is to end early.
pub(super) struct Stop {
    cancelled: oneshot::Receiver<()>,
    /// Nothing new is to be handed out: the client or the server is about to go.
    pub(super) drain: CancellationToken,
}

impl Stop {
    /// Its answer is not wanted any more.
    pub(super) async fn cancelled(&mut self) {
        let _ = (&mut self.cancelled).await;
    }

    /// Either.
    pub(super) async fn ended(&mut self) {
        tokio::select! {
            _ = &mut self.cancelled => {}
            () = self.drain.cancelled() => {}
        }
    }
}

/// One client's connection.
pub(super) struct Session {
    pub(super) server: Arc<Host>,
    pub(super) gate: Arc<Gate>,
    pub(super) pipe: Pipe,
    pub(super) publishing: Publishing,
    pub(super) replies: Replies,
    pub(super) flowing: mpsc::Sender<Flowing>,
    running: FuturesUnordered<Running>,
    flows: mpsc::Receiver<Flowing>,
    under_way: HashMap<u64, UnderWay>,
    pub(super) consumers: HashMap<ConsumerId, Joined>,
    loose: Loose,
    /// How many deliveries the client holds, as far as can be told from here.
    held: i64,
    health: Option<Health>,
    renewing: Option<BoxFuture<'static, Option<Result<Gate>>>>,
    renewed: Instant,
    tick: Interval,
    drain: CancellationToken,
    /// Since when the server drains.
    draining: Option<Instant>,
    shutdown: BoxFuture<'static, ()>,
    /// Why the connection ends.
    ended: Option<Result<()>>,
}

impl Session {
    pub(super) fn new(server: Arc<Host>, pipe: Pipe, gate: Gate) -> Self {
        let (flowing, flows) = mpsc::channel(FLOWING);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = server.shutdown.clone();
        Self {
            gate: Arc::new(gate),
            pipe,
            publishing: Publishing::default(),
            replies: Replies::default(),
            flowing,
            running: FuturesUnordered::new(),
            flows,
            under_way: HashMap::new(),
            consumers: HashMap::new(),
            loose: Loose { server: server.clone(), sent: VecDeque::new() },
            held: 0,
            health: None,
            renewing: None,
            renewed: Instant::now(),
            tick,
            drain: CancellationToken::new(),
            draining: None,
            shutdown: Box::pin(async move { shutdown.started().await }),
            ended: None,
            server,
        }
    }

    /// Goes on with everything; ready when the connection is over, with why it had to be cut.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        for _ in 0..TURNS {
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(ended) => return Poll::Ready(ended),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One round; whether anything has moved. `Err` is the end.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Result<()>> {
        let mut moved = self.read(cx)?;
        moved |= self.publishing.poll(cx, &*self.server.broker, &mut self.pipe);
        moved |= self.go_on(cx);
        moved |= self.look(cx)?;
        match self.pipe.poll_flush(cx) {
            Poll::Ready(Ok(())) | Poll::Pending => {}
            // The client has gone in the middle of something, which is its right.
            Poll::Ready(Err(_)) => return Err(Ok(())),
        }
        while self.loose.sent.front().is_some_and(|(end, ..)| *end <= self.pipe.written) {
            self.loose.sent.pop_front();
        }
        if let Some(ended) = self.ended.take() {
            return Err(ended);
        }
        Ok(moved)
    }

    /// Whether more is taken from the client now.
    fn is_reading(&self) -> bool {
        let options = &self.server.options;
        self.publishing.has_room(options.requests, options.publishing_bytes)
            && self.pipe.output.len() < 2 * options.unread_bytes
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Result<()>> {
        let mut moved = false;
        for _ in 0..TURN {
            if !self.is_reading() {
                self.pipe.pause();
                break;
            }
            match self.pipe.poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(None)) => return Err(Ok(())),
                Poll::Ready(Ok(Some(frame))) => {
                    let header = frame.header().map_err(|error| Err(frames::malformed(&error)))?;
                    if matches!(header, ToServer::Leave { .. } | ToServer::Cancel { .. }) {
                        // What was asked before comes first.
                        self.go_on(cx);
                    }
                    self.take(header, frame.payload);
                    moved = true;
                }
                // A stream that breaks is a client that has gone; one that makes no sense is told so.
                Poll::Ready(Err(crossdock_wire::FrameError::Io(_))) => return Err(Ok(())),
                Poll::Ready(Err(error)) => return Err(Err(frames::malformed(&error))),
            }
        }
        Ok(moved)
    }

    /// Goes on with what was asked, and with what flows; whether anything came of it.
    fn go_on(&mut self, cx: &mut Context<'_>) -> bool {
        let mut answers = Vec::new();
        while let Poll::Ready(Some(answered)) = self.running.poll_next_unpin(cx) {
            answers.push(answered);
        }
        let mut moved = !answers.is_empty();
        // What an answer brought about is told before it: whoever serves knows that its caller has gone by the time the
        // caller knows that its time is up.
        while self.pipe.output.len() < self.server.options.unread_bytes
            && let Poll::Ready(Some(flowing)) = self.flows.poll_recv(cx)
        {
            self.held += i64::try_from(flowing.deliveries).unwrap_or(0);
            self.pipe.output.append(flowing.pieces);
            moved = true;
        }
        answers.into_iter().for_each(|answered| self.answer(answered));
        moved
    }

    /// Deals with what does not belong to one part alone.
    fn take(&mut self, header: ToServer, payload: bytes::Bytes) {
        match header {
            ToServer::Hello { .. } => self.end(Err(Error::invalid("Hello comes once"))),
            ToServer::Ping { .. } => {}
            ToServer::Drain { .. } => self.drain.cancel(),
            ToServer::Cancel { id } => drop(self.under_way.remove(&id)),
            ToServer::Leave { consumer, .. } => drop(self.consumers.remove(&ConsumerId(consumer))),
            ToServer::Credit { id, messages, bytes } => {
                if let Some(credit) = self.under_way.get(&id).and_then(|flow| flow.credit.as_ref()) {
                    credit.add(messages, bytes);
                }
            }
            ToServer::Publish { id, topic, durability, expected, source } => {
                self.publish(id, &topic, durability, expected, source, payload);
            }
            other => self.request(other, payload),
        }
    }

    /// Runs a request until it has its answer, or until it is cancelled and says what is left of it.
    pub(super) fn run<F>(&mut self, id: u64, credit: Option<Arc<Credit>>, work: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        if id == 0 || self.under_way.contains_key(&id) {
            return self.end(Err(Error::invalid(format!("the request id {id} is 0 or in use"))));
        }
        let limit = self.server.options.requests;
        if self.under_way.len() >= limit {
            let error =
                Error::new(ErrorCode::Overloaded, format!("{limit} requests wait for their answer already"))
                    .hint("await some before asking more")
                    .retry_after(Duration::from_millis(100));
            return self.pipe.output.append(frames::failed(id, &error));
        }
        let (cancel, cancelled) = oneshot::channel();
        self.under_way.insert(id, UnderWay { _cancel: cancel, credit });
        self.running.push(Box::pin(work(Stop { cancelled, drain: self.drain.clone() })));
    }

    fn answer(&mut self, answered: Answered) {
        let Answered { id, pieces, joined, loose, held } = answered;
        self.under_way.remove(&id);
        self.held += held;
        self.pipe.output.append(pieces);
        if let Some(joined) = joined {
            self.consumers.insert(joined.consumer, joined);
        }
        if let Some((subscription, deliveries)) = loose {
            let end = self.pipe.written + self.pipe.output.len() as u64;
            self.loose.sent.push_back((end, subscription, deliveries));
        }
    }

    /// What depends on the time: the other side's life, permissions, health, and the end.
    fn look(&mut self, cx: &mut Context<'_>) -> Result<bool, Result<()>> {
        let heartbeat = self.server.options.heartbeat;
        let mut moved = false;
        while self.tick.poll_tick(cx).is_ready() {
            moved = true;
            self.pipe.check_life(heartbeat, self.is_reading()).map_err(Err)?;
            if self.renewing.is_none() && self.renewed.elapsed() >= heartbeat.max(TICK) {
                let gate = self.gate.clone();
                self.renewing = Some(Box::pin(async move { gate.renewed().await }));
            }
            self.tell_health();
            if self.pipe.is_ping_due(heartbeat) {
                self.pipe.output.append(frames::plain(&ToClient::Ping { id: 0 }));
            }
            self.drain_on();
        }
        if let Some(renewing) = &mut self.renewing
            && let Poll::Ready(renewed) = Pin::new(renewing).poll(cx)
        {
            (self.renewing, self.renewed, moved) = (None, Instant::now(), true);
            match renewed {
                None => {}
                Some(Ok(gate)) => self.gate = Arc::new(gate),
                // Too busy to say is not a no.
                Some(Err(error)) if error.code == ErrorCode::Overloaded => {}
                Some(Err(error)) => return Err(Err(error)),
            }
        }
        if self.draining.is_none() && self.shutdown.as_mut().poll(cx).is_ready() {
            self.draining = Some(Instant::now());
            self.pipe.output.append(frames::plain(&ToClient::Drain { id: 0 }));
            self.drain.cancel();
            moved = true;
        }
        Ok(moved)
    }

    fn tell_health(&mut self) {
        let health = self.server.broker.health();
        if self.health.as_ref() != Some(&health) {
            let Health { ready, reason, engine, .. } = health.clone();
            self.pipe.output.append(frames::plain(&ToClient::Health { id: 0, ready, reason, engine }));
            self.health = Some(health);
        }
    }

    /// Ends a session that drains once the client has nothing more to say, or when its time is up.
    fn drain_on(&mut self) {
        let Some(since) = self.draining else { return };
        let idle = self.under_way.is_empty() && self.publishing.is_empty() && self.held <= 0;
        if idle && since.elapsed() > TICK || since.elapsed() > self.server.shutdown.grace() {
            self.end(Ok(()));
        }
    }

    pub(super) fn end(&mut self, why: Result<()>) {
        self.ended.get_or_insert(why);
    }

    /// Gives back what the client held. The connection is left, to say goodbye.
    pub(super) fn leave(self) -> Pipe {
        self.pipe
    }
}

/// Deliveries that were sent, or are about to be, and that nobody would give back if they did not arrive. Those that are not
/// written yet when this is dropped, however the session ends, are given back.
struct Loose {
    server: Arc<Host>,
    /// Where in what is written they end.
    sent: VecDeque<(u64, SubscriptionName, Vec<DeliveryId>)>,
}

impl Drop for Loose {
    fn drop(&mut self) {
        let Ok(executor) = tokio::runtime::Handle::try_current() else { return };
        for (_, subscription, deliveries) in self.sent.drain(..) {
            let outcomes = deliveries.into_iter().map(|id| (id, Outcome::Release)).collect();
            let broker = self.server.broker.clone();
            let settlement = Settlement { outcomes, ..Settlement::default() };
            let giving_back = async move {
                // If it fails, the lease gives them back.
                let _ = broker.settle(&subscription, settlement).await;
            };
            self.server.shutdown.tasks().spawn_on(giving_back, &executor);
        }
    }
}
