//! The task that has the connection: writes what waits, hands out what comes, and connects again.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crossdock_topics::{Backoff, Error, ErrorCode, Health, Receipts, Result};
use crossdock_wire::session::{self, ToClient, ToServer};
use crossdock_wire::{Frame, FrameError};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::connection::{Connected, connect};
use super::lanes::Told;
use super::link::{Answer, Caller, Flowing, Link, Trouble, Waiting};
use crate::remote::pieces::Pieces;
use crate::remote::pipe::Pipe;

/// How long to wait before connecting again.
const RECONNECT: Backoff =
    Backoff { first: Duration::from_millis(50), factor: 2.0, max: Duration::from_secs(3) };
/// How often to look at the clock.
const TICK: Duration = Duration::from_secs(1);
/// No more batches are taken while so many bytes wait to be written: they gather into larger frames meanwhile.
const OUTPUT: usize = 512 * 1024;
/// How many frames are taken before others get their turn.
const TURN: usize = 64;
/// How long the last words may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Keeps the connection until it is closed.
pub(super) async fn drive(link: Arc<Link>, first: Connected) {
    let mut next = Some(first);
    let seed = rand::random();
    loop {
        let connected = match next.take() {
            Some(connected) => connected,
            None => match again(&link, seed).await {
                Some(connected) => connected,
                None => break,
            },
        };
        let Connected { pipe, heartbeat, server } = connected;
        tracing::debug!(address = link.shown, server, "connected");
        let mut connection = Connection::new(&link, pipe, heartbeat);
        attach(&link);
        let ended = poll_fn(|cx| connection.poll(cx)).await;
        let Connection { pipe, .. } = connection;
        let reason = match ended {
            Ok(()) => "the server has gone".to_owned(),
            Err(error) => error.to_string(),
        };
        detach(&link, &reason);
        pipe.finish(GOODBYE).await;
        if link.is_closed() {
            break;
        }
    }
    let mut told = Vec::new();
    link.state.lock().lanes.give_up(None, &super::link::closed(), &mut told);
    link.told(told);
}

/// Lets everybody know that there is a connection; those who had joined over the one before join again.
pub(super) fn attach(link: &Arc<Link>) {
    link.status.send_modify(|status| {
        status.number += 1;
        (status.up, status.settling) = (!status.closed, true);
        (status.health.ready, status.health.reason) = (!status.closed, None);
    });
    link.consumers.join_again(link, link.connection());
}

/// Lets everybody know that the connection is gone.
pub(super) fn detach(link: &Link, reason: &str) {
    if !link.is_closed() {
        tracing::warn!(address = link.shown, reason, "the connection was lost");
    }
    // With the lock held, so that whoever asks either is told here, or sees that there is no connection.
    let mut state = link.state.lock();
    link.status.send_modify(|status| {
        (status.up, status.settling) = (false, false);
        status.health.ready = false;
        status.health.reason = Some(format!("the connection was lost: {reason}"));
    });
    state.lanes.lose();
    state.output = Pieces::default();
    state.callers.clear();
    let waiting = std::mem::take(&mut state.waiting);
    drop(state);
    link.consumers.lose();
    for waiting in waiting.into_values() {
        if let Waiting::One(sender) = waiting {
            let _ = sender.send(Err(Trouble::Lost));
        }
    }
}

/// Connects until it works; `None` when the link is closed first.
async fn again(link: &Link, seed: u64) -> Option<Connected> {
    let lost = Instant::now();
    let mut failures = 0;
    let mut status = link.status.subscribe();
    loop {
        failures += 1;
        let connecting = async {
            tokio::time::sleep(RECONNECT.wait(failures, seed)).await;
            connect(&*link.peer).await
        };
        let error = tokio::select! {
            connected = connecting => match connected {
                Ok(connected) => return Some(connected),
                Err(error) => error,
            },
            _ = status.wait_for(|status| status.closed) => return None,
        };
        tracing::debug!(address = link.shown, %error, failures, "no connection yet");
        if lost.elapsed() >= link.patience {
            let since = Instant::now().checked_sub(link.patience);
            let refusal = Error::new(
                ErrorCode::Unavailable,
                format!("there is no connection to {}: {error}; nothing of this was stored", link.shown),
            );
            let mut told = Vec::new();
            if let Some(since) = since {
                link.state.lock().lanes.give_up(Some(since), &refusal, &mut told);
            }
            link.told(told);
        }
        link.status.send_modify(|status| status.health.reason = Some(error.to_string()));
    }
}

/// One connection.
struct Connection<'a> {
    link: &'a Arc<Link>,
    pipe: Pipe,
    heartbeat: Duration,
    tick: Interval,
    told: Vec<Told>,
    draining: bool,
}

impl<'a> Connection<'a> {
    fn new(link: &'a Arc<Link>, pipe: Pipe, heartbeat: Duration) -> Self {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { link, pipe, heartbeat, tick, told: Vec::new(), draining: false }
    }

    /// Goes on with everything; ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.link.driver.register(cx.waker());
        loop {
            let mut moved = self.write(cx)?;
            let read = self.read(cx);
            if !self.told.is_empty() {
                self.link.told(std::mem::take(&mut self.told));
            }
            match read {
                Ok(some) => moved |= some,
                Err(ended) => return Poll::Ready(ended),
            }
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            while self.tick.poll_tick(cx).is_ready() {
                moved = true;
                self.pipe.check_life(self.heartbeat, true)?;
                if self.pipe.is_ping_due(self.heartbeat) {
                    self.pipe
                        .send(&ToServer::Ping { id: 0 }, Pieces::default())
                        .map_err(|error| Error::internal(error.to_string()))?;
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let mut moved = false;
        {
            let mut state = self.link.state.lock();
            let state = &mut *state;
            if !state.output.is_empty() {
                self.pipe.output.append(std::mem::take(&mut state.output));
                moved = true;
            }
            if !self.draining {
                moved |= state.lanes.fill(&mut self.pipe.output, OUTPUT, Instant::now(), &mut state.ids);
            }
        }
        match self.pipe.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(Error::new(ErrorCode::Unavailable, error.to_string())),
            Poll::Ready(Ok(())) => Ok(moved),
            // When it goes on this is polled again.
            Poll::Pending => Ok(false),
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Result<()>> {
        let mut moved = false;
        for _ in 0..TURN {
            match self.pipe.poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(None)) => return Err(Ok(())),
                Poll::Ready(Ok(Some(frame))) => {
                    self.take(frame).map_err(Err)?;
                    moved = true;
                }
                Poll::Ready(Err(FrameError::Io(error))) => {
                    return Err(Err(Error::new(ErrorCode::Unavailable, error.to_string())));
                }
                Poll::Ready(Err(error)) => return Err(Err(Error::internal(error.to_string()))),
            }
        }
        Ok(moved)
    }

    /// Whether there is nothing left to do here.
    fn is_done(&self) -> bool {
        let closed = self.link.is_closed();
        if !(closed || self.draining) {
            return false;
        }
        let state = self.link.state.lock();
        if closed {
            // Whoever waits is answered by the end; what was accepted is stored first.
            return state.lanes.is_empty() && self.pipe.output.is_empty();
        }
        !state.lanes.is_waiting()
            && state.waiting.values().all(|waiting| matches!(waiting, Waiting::Nobody(_)))
            && state.callers.is_empty()
            && self.link.consumers.is_empty()
            && self.pipe.output.is_empty()
    }

    /// Deals with a frame.
    fn take(&mut self, frame: Frame) -> Result<()> {
        let header: ToClient = frame.header().map_err(|error| Error::internal(error.to_string()))?;
        let payload = frame.payload;
        match header {
            ToClient::Receipts { id, first, count, durability, duplicates } => {
                let durability = session::durability_of(durability)
                    .ok_or_else(|| Error::internal(format!("{durability} is no durability")))?;
                let receipts = Receipts { first, count, durability, duplicates };
                self.link.state.lock().lanes.answer(id, Ok(receipts), Instant::now(), &mut self.told);
            }
            ToClient::Failed { id: 0, error } => return Err(error.into()),
            ToClient::Failed { id, error } => {
                let mut state = self.link.state.lock();
                let error = Error::from(error);
                if state.lanes.knows(id) {
                    state.full |= error.code == ErrorCode::Overloaded;
                    state.lanes.answer(id, Err(error), Instant::now(), &mut self.told);
                    return Ok(());
                }
                let waiting = state.waiting.remove(&id);
                drop(state);
                match waiting {
                    Some(Waiting::One(sender)) => drop(sender.send(Err(Trouble::Failed(error)))),
                    Some(Waiting::Flow(sender)) => drop(sender.send(Flowing::Ended(Err(error)))),
                    Some(Waiting::Nobody(_)) | None => {}
                }
            }
            ToClient::Welcome { .. } => return Err(Error::internal("the server welcomed twice")),
            ToClient::Ping { .. } => {}
            ToClient::Health { ready, reason, engine, .. } => self.link.status.send_modify(|status| {
                tracing::debug!(engine, ready, reason, "the broker's health");
                let engine = std::mem::take(&mut status.health.engine);
                status.health =
                    Health { ready: ready && !status.closed, reason, engine, detail: None, warning: None };
            }),
            ToClient::Drain { .. } => {
                self.draining = true;
                self.link.status.send_modify(|status| {
                    status.up = false;
                    status.health.ready = false;
                    status.health.reason = Some("the server is draining".into());
                });
            }
            ToClient::Abandoned { id } => drop(self.link.state.lock().callers.remove(&id)),
            ToClient::Request { id, serving, .. } => {
                let mut state = self.link.state.lock();
                state.ids += 1;
                let (caller, responder, replying) = Caller::new(state.ids);
                if let Some(Waiting::Flow(sender)) = state.waiting.get(&serving) {
                    let _ = sender.send(Flowing::Request(Answer { header, payload }, responder, replying));
                    state.callers.insert(id, caller);
                }
            }
            ToClient::End { id } => {
                let waiting = self.link.state.lock().waiting.remove(&id);
                if let Some(Waiting::Flow(sender)) = waiting {
                    let _ = sender.send(Flowing::Ended(Ok(())));
                }
            }
            other => self.answer(Answer { header: other, payload }),
        }
        Ok(())
    }

    /// Hands an answer to whoever waits for it.
    fn answer(&mut self, answer: Answer) {
        let (id, goes_on) = match &answer.header {
            ToClient::Done { id, more, .. } => (*id, *more),
            ToClient::Page { id, .. }
            | ToClient::Joined { id, .. }
            | ToClient::Deliveries { id, .. }
            | ToClient::Settled { id, .. }
            | ToClient::Answer { id, .. } => (*id, false),
            _ => return,
        };
        let mut state = self.link.state.lock();
        match state.waiting.remove(&id) {
            Some(Waiting::Flow(sender)) => {
                let flows = goes_on || !matches!(answer.header, ToClient::Done { .. });
                let gone = sender.send(Flowing::Answer(answer)).is_err();
                if flows && !gone {
                    state.waiting.insert(id, Waiting::Flow(sender));
                }
            }
            Some(Waiting::One(sender)) => {
                // Whoever gave up meanwhile looks for the answer themselves, under the same lock.
                let _ = sender.send(Ok(answer));
            }
            Some(Waiting::Nobody(gives_back)) => {
                if goes_on {
                    state.waiting.insert(id, Waiting::Nobody(gives_back));
                } else if let Some(subscription) = gives_back {
                    drop(state);
                    super::subscriptions::give_back(self.link, &subscription, &answer);
                }
            }
            None => {}
        }
    }
}
