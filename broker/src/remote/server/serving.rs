//! Services that clients serve, and requests to any service.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Message, Record, Reply, Request, Responder, Result, ServiceName};
use crossdock_wire::session::{Outputs, ToClient, WireError};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::consume::{Credit, Desk};
use super::frames;
use super::session::{Answered, Flowing, Session};
use crate::remote::pieces::Pieces;

/// How many requests may be on their way from the broker to a flow, which hands them on at once.
const PASSING: usize = 1024;

/// Who serves what, among all clients: one whose hands are full passes a request on to another.
#[derive(Clone, Default)]
pub(super) struct Servings(Arc<Mutex<HashMap<ServiceName, Vec<Arc<Serving>>>>>);

/// One client that serves a service.
struct Serving {
    credit: Arc<Credit>,
    requests: mpsc::UnboundedSender<Request>,
}

/// A client's place on the list, and the requests that were placed with it. Dropping it takes the client off.
struct Listed {
    servings: Servings,
    service: ServiceName,
    serving: Arc<Serving>,
    placed: mpsc::UnboundedReceiver<Request>,
}

impl Servings {
    fn enter(&self, service: &ServiceName, credit: Arc<Credit>) -> Listed {
        // Bounded by the credit.
        let (requests, placed) = mpsc::unbounded_channel();
        let serving = Arc::new(Serving { credit, requests });
        self.0.lock().entry(service.clone()).or_default().push(serving.clone());
        Listed { servings: self.clone(), service: service.clone(), serving, placed }
    }

    /// Gives a request to one that has credit: `first`, or any other.
    fn place(&self, service: &ServiceName, first: &Arc<Serving>, request: Request) {
        let table = self.0.lock();
        let others = table.get(service).map(Vec::as_slice).unwrap_or_default();
        match std::iter::once(first).chain(others).find(|serving| serving.credit.take_one()) {
            // Its flow has not ended, or it would not be listed; then the caller is told that it went away.
            Some(serving) => drop(serving.requests.send(request)),
            None => request.responder.reply(Err(Responder::full(service))),
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut table = self.servings.0.lock();
        if let Some(servings) = table.get_mut(&self.service) {
            servings.retain(|serving| !Arc::ptr_eq(serving, &self.serving));
            if servings.is_empty() {
                table.remove(&self.service);
            }
        }
    }
}

/// The requests that a client has without having answered them.
#[derive(Clone, Default)]
pub(super) struct Replies {
    open: Arc<Mutex<HashMap<u64, oneshot::Sender<Reply>>>>,
    last: Arc<AtomicU64>,
}

/// Takes a request off the list when nobody waits for its reply any more.
struct Open {
    replies: Replies,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.replies.open.lock().remove(&self.id);
    }
}

impl Session {
    pub(super) fn serve(&mut self, id: u64, service: String, capacity: u32) {
        let credit = Arc::new(Credit::new(u64::from(capacity), 0));
        let (desk, servings) = (self.desk(), self.server.servings.clone());
        let (replies, flowing) = (self.replies.clone(), self.flowing.clone());
        self.run(id, Some(credit.clone()), |mut stop| async move {
            let drain = stop.drain.clone();
            let serving = async {
                desk.gate.admin()?;
                let service: ServiceName = service.parse()?;
                let requests = desk.broker.serve(&service, PASSING).await?;
                let listed = servings.enter(&service, credit);
                Passing { id, service, replies, flowing }.on(requests, listed, drain).await;
                Ok(())
            };
            let ended = tokio::select! {
                ended = serving => ended,
                () = stop.cancelled() => Ok(()),
            };
            Answered::from(id, ended.map(|()| frames::plain(&ToClient::End { id })))
        });
    }

    /// Takes a reply: what came out of it is published first.
    pub(super) fn reply(&mut self, id: u64, error: Option<WireError>, outputs: Outputs, payload: Bytes) {
        let Some(waiting) = self.replies.open.lock().remove(&id) else { return };
        if let Some(error) = error {
            drop(waiting.send(Err(error.into())));
            return;
        }
        let parts = frames::outputs(&self.gate, outputs, payload)
            .and_then(|(outputs, record)| Ok((outputs, Record::from_packed(record)?.to_message())));
        let (outputs, message) = match parts {
            Ok(parts) => parts,
            Err(error) => return drop(waiting.send(Err(refused(&error)))),
        };
        if outputs.is_empty() {
            drop(waiting.send(Ok(message)));
            return;
        }
        let broker = self.server.broker.clone();
        let published: Vec<_> = outputs
            .into_iter()
            .map(|(topic, batch)| broker.publish(&topic, batch, Default::default()))
            .collect();
        self.server.shutdown.tasks().spawn(async move {
            let mut reply = Ok(message);
            for receipts in published {
                if let Err(error) = receipts.await {
                    reply = Err(refused(&error));
                }
            }
            drop(waiting.send(reply));
        });
    }
}

fn refused(error: &Error) -> Error {
    Error::new(ErrorCode::ServiceFailed, format!("what the service sent is refused: {error}"))
}

/// Hands requests to a client.
struct Passing {
    id: u64,
    service: ServiceName,
    replies: Replies,
    flowing: mpsc::Sender<Flowing>,
}

impl Passing {
    /// Goes on until there are no requests any more, or none are to be handed out; and then until those that were have
    /// their replies.
    async fn on(self, requests: mpsc::Receiver<Request>, listed: Listed, drain: CancellationToken) {
        let (mut requests, mut listed) = (Some(requests), Some(listed));
        let mut waiting = FuturesUnordered::new();
        let mut up = self.send(frames::plain(&ToClient::Joined { id: self.id, consumer: 0 })).await;
        while up && (listed.is_some() || !waiting.is_empty()) {
            tokio::select! {
                () = drain.cancelled(), if listed.is_some() => (requests, listed) = (None, None),
                request = next(&mut requests) => match (request, &listed) {
                    (Some(request), Some(listed)) => {
                        listed.servings.place(&self.service, &listed.serving, request);
                    }
                    _ => (requests, listed) = (None, None),
                },
                Some(request) = mine(&mut listed) => {
                    let Request { message, deadline, responder } = request;
                    let (answer, answered) = oneshot::channel();
                    let number = self.replies.last.fetch_add(1, Ordering::Relaxed) + 1;
                    match ask(self.id, number, &message, deadline) {
                        Ok(pieces) => {
                            self.replies.open.lock().insert(number, answer);
                            let open = Open { replies: self.replies.clone(), id: number };
                            up = self.send(pieces).await;
                            waiting.push(wait(open, answered, responder));
                        }
                        Err(error) => responder.reply(Err(error)),
                    }
                },
                Some(abandoned) = waiting.next() => {
                    if let Some(id) = abandoned {
                        up = self.send(frames::plain(&ToClient::Abandoned { id })).await;
                    }
                },
            }
        }
    }

    async fn send(&self, pieces: Pieces) -> bool {
        self.flowing.send(Flowing { pieces, deliveries: 0 }).await.is_ok()
    }
}

async fn next(requests: &mut Option<mpsc::Receiver<Request>>) -> Option<Request> {
    match requests {
        Some(requests) => requests.recv().await,
        None => std::future::pending().await,
    }
}

/// The next request that was placed with this client.
async fn mine(listed: &mut Option<Listed>) -> Option<Request> {
    match listed {
        Some(listed) => listed.placed.recv().await,
        None => std::future::pending().await,
    }
}

fn ask(serving: u64, id: u64, message: &Message, deadline: Instant) -> Result<Pieces> {
    let record = Record::of(message)?;
    let budget = deadline.saturating_duration_since(Instant::now());
    let header = ToClient::Request {
        id,
        serving,
        budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
        payload_bytes: frames::payload_bytes(&record),
    };
    Ok(frames::whole(&header, Pieces::from(record.as_bytes().clone())))
}

/// Waits for the reply, and gives it to the caller; or for the caller to go, and gives the request's number.
async fn wait(open: Open, answered: oneshot::Receiver<Reply>, mut responder: Responder) -> Option<u64> {
    tokio::select! {
        answer = answered => {
            // Without one the client went away, and dropping the responder says so.
            if let Ok(reply) = answer {
                responder.reply(reply);
            }
            None
        }
        () = responder.abandoned() => Some(open.id),
    }
}

impl Desk {
    pub(super) async fn invoke(
        &self,
        id: u64,
        service: &str,
        timeout: Duration,
        payload: Bytes,
    ) -> Result<Pieces> {
        let service: ServiceName = service.parse()?;
        self.gate.invoke(&service)?;
        let message = Record::from_packed(payload)?.to_message();
        let reply = self.broker.request(&service, message, timeout).await?;
        let record = Record::of(&reply)?;
        let header = ToClient::Answer { id, payload_bytes: frames::payload_bytes(&record) };
        Ok(frames::whole(&header, Pieces::from(record.as_bytes().clone())))
    }
}
