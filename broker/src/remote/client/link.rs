//! What callers and the connection's task share: what waits to be sent, and who waits for which answer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Health, Record, Reply, Responder, Result};
use crossdock_wire::session::{ToClient, ToServer, WireError};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::connection::Peer;
use super::lanes::{Lanes, Told};
use super::subscriptions::Consumers;
use crate::remote::pieces::Pieces;

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) header: ToClient,
    pub(super) payload: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection went away; whether the request was done is not known.
    Lost,
    /// What the server, or this side, says.
    Failed(Error),
}

/// Some of a flow.
pub(super) enum Flowing {
    /// A frame of it.
    Answer(Answer),
    /// A request, the way back, and where its reply comes out.
    Request(Answer, Responder, Replying),
    /// Its end, or that it failed.
    Ended(Result<()>),
}

/// Where the reply to a request comes out, for as long as its caller waits.
pub(super) struct Replying {
    /// Names the request among those of all connections.
    pub(super) number: u64,
    slot: Slot,
    gone: oneshot::Receiver<()>,
}

/// Emptied when the caller goes, so that the responder can tell at once.
type Slot = Arc<Mutex<Option<oneshot::Receiver<Reply>>>>;

/// The caller of a request; it is gone when this is dropped.
pub(super) struct Caller {
    number: u64,
    slot: Slot,
    _gone: oneshot::Sender<()>,
}

impl Caller {
    /// A caller, the way back to it, and where its reply comes out.
    pub(super) fn new(number: u64) -> (Self, Responder, Replying) {
        let (responder, reply) = Responder::pair();
        let (sender, gone) = oneshot::channel();
        let slot = Arc::new(Mutex::new(Some(reply)));
        (Self { number, slot: slot.clone(), _gone: sender }, responder, Replying { number, slot, gone })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.slot.lock().take();
    }
}

impl Replying {
    /// The reply; nothing when the caller has gone first.
    pub(super) async fn reply(mut self) -> Option<Reply> {
        let reply = std::future::poll_fn(|cx| match &mut *self.slot.lock() {
            Some(reply) => Pin::new(reply).poll(cx).map(Some),
            None => Poll::Ready(None),
        });
        tokio::select! {
            reply = reply => reply.map(|reply| reply.unwrap_or_else(|_| Err(Responder::gone()))),
            _ = &mut self.gone => None,
        }
    }
}

/// Who waits for an answer.
pub(super) enum Waiting {
    One(oneshot::Sender<Result<Answer, Trouble>>),
    /// The end of the channel without [`Flowing::Ended`] says that the connection was lost.
    Flow(mpsc::UnboundedSender<Flowing>),
    /// Nobody any more; deliveries are given back to this subscription.
    Nobody(Option<String>),
}

/// What callers and the connection's task share.
pub(super) struct Link {
    pub(super) peer: Box<dyn Peer>,
    /// What the other end is called.
    pub(super) shown: String,
    /// How long a lost connection may stay away before what waits for it fails.
    pub(super) patience: Duration,
    /// How many bytes of published messages may wait for their receipts.
    pub(super) waiting_bytes: usize,
    pub(super) state: Mutex<State>,
    pub(super) driver: AtomicWaker,
    pub(super) room: Notify,
    pub(super) status: watch::Sender<Status>,
    pub(super) consumers: Consumers,
    pub(super) tasks: TaskTracker,
}

pub(super) struct State {
    pub(super) lanes: Lanes,
    /// Frames that are about to be written.
    pub(super) output: Pieces,
    pub(super) waiting: HashMap<u64, Waiting>,
    /// Whose requests have been handed to services here.
    pub(super) callers: HashMap<u64, Caller>,
    pub(super) ids: u64,
    /// The server has no room: ask it before saying that there is.
    pub(super) full: bool,
}

/// How the connection is.
#[derive(Clone, Debug)]
pub(super) struct Status {
    /// Counts connections; 0 before the first.
    pub(super) number: u64,
    /// Whether requests can be sent.
    pub(super) up: bool,
    /// Whether what is held can still be settled, though nothing new is begun: the server drains.
    pub(super) settling: bool,
    /// Whether this side has closed it, for good.
    pub(super) closed: bool,
    /// What the server says of its broker, or why there is none.
    pub(super) health: Health,
}

impl Link {
    pub(super) fn new(peer: impl Peer, patience: Duration, waiting_bytes: usize) -> Self {
        let shown = peer.shown();
        let health = Health {
            ready: false,
            reason: Some("not connected yet".into()),
            engine: shown.clone(),
            detail: None,
            warning: None,
        };
        let status = Status { number: 0, up: false, settling: false, closed: false, health };
        Self {
            peer: Box::new(peer),
            shown,
            patience,
            waiting_bytes,
            state: Mutex::new(State {
                lanes: Lanes::new(rand::random),
                output: Pieces::default(),
                waiting: HashMap::new(),
                callers: HashMap::new(),
                ids: 0,
                full: false,
            }),
            driver: AtomicWaker::new(),
            room: Notify::new(),
            status: watch::Sender::new(status),
            consumers: Consumers::default(),
            tasks: TaskTracker::new(),
        }
    }

    pub(super) fn health(&self) -> Health {
        self.status.borrow().health.clone()
    }

    /// Which connection it is.
    pub(super) fn connection(&self) -> u64 {
        self.status.borrow().number
    }

    /// Whether a connection goes on.
    pub(super) fn is_still(&self, connection: u64) -> bool {
        let status = self.status.borrow();
        (status.up || status.settling) && status.number == connection
    }

    pub(super) fn is_closed(&self) -> bool {
        self.status.borrow().closed
    }

    pub(super) fn begin_close(&self) {
        self.status.send_modify(|status| {
            status.closed = true;
            status.health.ready = false;
            status.health.reason.get_or_insert_with(|| "it has been closed".into());
        });
        self.room.notify_waiters();
        self.driver.wake();
    }

    /// Waits until there is a connection, for as long as the patience lasts.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn connected(&self) -> Result<()> {
        self.connected_within(self.patience).await
    }

    pub(super) async fn connected_within(&self, patience: Duration) -> Result<()> {
        self.when(patience, |status| status.up).await
    }

    async fn when(&self, patience: Duration, fine: impl Fn(&Status) -> bool) -> Result<()> {
        let mut status = self.status.subscribe();
        let found = tokio::time::timeout(patience, status.wait_for(|s| s.closed || fine(s))).await;
        match found {
            Ok(Ok(status)) if !status.closed => Ok(()),
            Ok(_) => Err(closed()),
            Err(_) => {
                let reason = self.health().reason.unwrap_or_default();
                let address = &self.shown;
                Err(Error::new(
                    ErrorCode::Unavailable,
                    format!("there is no connection to {address}: {reason}"),
                )
                .hint("see that the broker's server runs there; the connection is tried again all the time"))
            }
        }
    }

    /// Sends a request and waits for its answer. Given up, it is cancelled, and what it brings is given back.
    pub(super) async fn ask(
        &self,
        request: impl FnOnce(u64) -> ToServer,
        payload: Bytes,
    ) -> Result<Answer, Trouble> {
        self.ask_over(None, request, payload).await
    }

    /// The same, over this connection or none: for what means something else, or nothing, over another one.
    pub(super) async fn ask_over(
        &self,
        connection: Option<u64>,
        request: impl FnOnce(u64) -> ToServer,
        payload: Bytes,
    ) -> Result<Answer, Trouble> {
        let (sender, receiver) = oneshot::channel();
        let (id, gives_back, waits) = {
            // Under the lock that a connection's end takes too: what is asked over one never waits for the next.
            let mut state = self.state.lock();
            let status = self.status.borrow().clone();
            if status.closed {
                return Err(Trouble::Failed(closed()));
            }
            if connection.is_some_and(|number| number != status.number) {
                return Err(Trouble::Lost);
            }
            state.ids += 1;
            let id = state.ids;
            let header = request(id);
            let settling = matches!(header, ToServer::Settle { .. } | ToServer::Extend { .. });
            if !(status.up || settling && status.settling) {
                return Err(Trouble::Lost);
            }
            let gives_back = match &header {
                ToServer::Fetch { subscription, .. } | ToServer::Join { subscription, .. } => {
                    Some(subscription.clone())
                }
                _ => None,
            };
            let waits = matches!(
                header,
                ToServer::Fetch { .. }
                    | ToServer::Read { .. }
                    | ToServer::Invoke { .. }
                    | ToServer::Call { .. }
            );
            add(&mut state, &header, payload).map_err(Trouble::Failed)?;
            state.waiting.insert(id, Waiting::One(sender));
            (id, gives_back, waits)
        };
        self.driver.wake();
        let mut asked = Asked { link: self, id, gives_back, waits, receiver: Some(receiver) };
        match &mut asked.receiver {
            Some(receiver) => {
                let answer = receiver.await;
                asked.receiver = None;
                answer.unwrap_or(Err(Trouble::Lost))
            }
            None => Err(Trouble::Lost),
        }
    }

    /// Asks what may be asked again: over another connection, if need be.
    pub(super) async fn ask_again(
        &self,
        request: impl Fn(u64) -> ToServer,
        payload: Bytes,
    ) -> Result<Answer> {
        loop {
            self.connected().await?;
            match self.ask(&request, payload.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Failed(error)) => return Err(error),
                Err(Trouble::Lost) => {}
            }
        }
    }

    /// Asks what must not be asked twice.
    pub(super) async fn ask_once(
        &self,
        request: impl FnOnce(u64) -> ToServer,
        payload: Bytes,
    ) -> Result<Answer> {
        let patience = self.patience;
        self.when(patience, |status| status.up).await?;
        self.ask(request, payload).await.map_err(|trouble| match trouble {
            Trouble::Failed(error) => error,
            Trouble::Lost => self.lost(),
        })
    }

    /// The same for what concerns deliveries, which can be settled also while the server drains.
    pub(super) async fn ask_settling(
        &self,
        request: impl FnOnce(u64) -> ToServer,
        payload: Bytes,
    ) -> Result<Answer> {
        self.when(self.patience, |status| status.up || status.settling).await?;
        self.ask(request, payload).await.map_err(|trouble| match trouble {
            Trouble::Failed(error) => error,
            Trouble::Lost => self.lost(),
        })
    }

    fn lost(&self) -> Error {
        if self.is_closed() {
            return closed();
        }
        Error::new(
            ErrorCode::Unavailable,
            format!(
                "the connection to {} was lost before it answered; it may have been done or not",
                self.shown
            ),
        )
        .hint("see how things are before doing it again")
    }

    /// Sends what has no answer; nothing happens when there is no connection.
    pub(super) fn tell(&self, header: &ToServer, payload: Bytes) {
        let mut state = self.state.lock();
        let status = self.status.borrow().clone();
        if status.up || status.settling {
            // What cannot be sent is too large for a frame, and nothing without an answer is.
            let _ = add(&mut state, header, payload);
            drop(state);
            self.driver.wake();
        }
    }

    /// Sends the reply to a request, if its caller still waits.
    pub(super) fn reply(&self, id: u64, number: u64, answer: Reply) {
        let packed = answer.and_then(|message| Record::of(&message));
        let (error, payload) = match packed {
            Ok(record) => (None, record.as_bytes().clone()),
            Err(error) => (Some(WireError::from(&error)), Bytes::new()),
        };
        let mut state = self.state.lock();
        // Another connection may have brought a request with the same id.
        if state.callers.get(&id).is_some_and(|caller| caller.number == number) {
            state.callers.remove(&id);
            // It fits: messages are smaller than the largest payload.
            let _ = add(&mut state, &ToServer::Reply { id, error, outputs: Vec::new() }, payload);
            drop(state);
            self.driver.wake();
        }
    }

    /// Opens a flow.
    pub(super) fn flow(
        self: &Arc<Self>,
        request: impl FnOnce(u64) -> ToServer,
        payload: Bytes,
    ) -> Result<Flow, Trouble> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        let status = self.status.borrow().clone();
        if status.closed {
            return Err(Trouble::Failed(closed()));
        }
        if !status.up {
            return Err(Trouble::Lost);
        }
        state.ids += 1;
        let id = state.ids;
        add(&mut state, &request(id), payload).map_err(Trouble::Failed)?;
        state.waiting.insert(id, Waiting::Flow(sender));
        drop(state);
        self.driver.wake();
        Ok(Flow { link: self.clone(), id, receiver })
    }

    /// Tells publishers what became of their batches.
    pub(super) fn told(&self, told: Vec<Told>) {
        for (waiter, answer) in told {
            waiter.send(answer);
        }
        if self.state.lock().lanes.bytes() <= self.waiting_bytes / 2 {
            self.room.notify_waiters();
        }
    }
}

fn add(state: &mut State, header: &ToServer, payload: Bytes) -> Result<()> {
    state.output.add_frame(header, payload.into()).map_err(|error| {
        Error::new(ErrorCode::TooLarge, format!("it does not fit a frame: {error}"))
            .hint("do it in several steps")
    })
}

/// What everything after closing is told.
pub(super) fn closed() -> Error {
    Error::new(ErrorCode::Unavailable, "the connection to the broker has been closed")
}

/// What a server says that makes no sense.
pub(super) fn strange(header: &ToClient) -> Error {
    Error::internal(format!("the server gave an answer of another kind: {header:?}"))
}

/// A request that is under way.
struct Asked<'a> {
    link: &'a Link,
    id: u64,
    gives_back: Option<String>,
    waits: bool,
    receiver: Option<oneshot::Receiver<Result<Answer, Trouble>>>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        let mut state = self.link.state.lock();
        receiver.close();
        if let Ok(answer) = receiver.try_recv() {
            drop(state);
            if let (Ok(answer), Some(subscription)) = (answer, &self.gives_back) {
                super::subscriptions::give_back(self.link, subscription, &answer);
            }
            return;
        }
        if let Some(waiting) = state.waiting.get_mut(&self.id) {
            *waiting = Waiting::Nobody(self.gives_back.take());
            if self.waits {
                let _ = add(&mut state, &ToServer::Cancel { id: self.id }, Bytes::new());
            }
        }
        drop(state);
        self.link.driver.wake();
    }
}

/// A flow that is open. Dropping it ends it.
pub(super) struct Flow {
    link: Arc<Link>,
    pub(super) id: u64,
    pub(super) receiver: mpsc::UnboundedReceiver<Flowing>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut state = self.link.state.lock();
        if let Some(waiting) = state.waiting.get_mut(&self.id) {
            *waiting = Waiting::Nobody(None);
            let _ = add(&mut state, &ToServer::Cancel { id: self.id }, Bytes::new());
            drop(state);
            self.link.driver.wake();
        }
    }
}
