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

/// Takes a client off the list when it is dropped.
struct Listed {
    servings: Servings,
    service: ServiceName,
    serving: Arc<Serving>,
}

impl Servings {
    fn enter(&self, service: &ServiceName, serving: Arc<Serving>) -> Listed {
        self.0.lock().entry(service.clone()).or_default().push(serving.clone());
        Listed { servings: self.clone(), service: service.clone(), serving }
    }

    /// Gives a request to one that has credit: `first`, or any other.
    fn place(&self, service: &ServiceName, first: &Arc<Serving>, request: Request) {
        let table = self.0.lock();
        let others = table.get(service).map(Vec::as_slice).unwrap_or_default();
        match std::iter::once(first).chain(others).find(|serving| serving.credit.take_one()) {
            // Its flow has not ended, or it would not be listed; then the caller is told that it went away.
            Some(serving) => drop(serving.requests.send(request)),
            None => request.responder.reply(Err(Error::new(
                ErrorCode::Overloaded,
                format!("service {service} has too many requests waiting"),
            )
            .hint("try again later, or give it more processes")
            .retry_after(Duration::from_secs(1)))),
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
        self.run(id, Some(credit.clone()), |cancelled| async move {
            let serving = async {
                desk.gate.admin()?;
                let service: ServiceName = service.parse()?;
                let requests = desk.broker.serve(&service, PASSING).await?;
                pass_on(id, &service, requests, servings, credit, replies, flowing).await;
                Ok(())
            };
            let ended = tokio::select! {
                ended = serving => ended,
                _ = cancelled => Ok(()),
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

/// Hands requests to a client until there are none any more, and replies to their callers.
async fn pass_on(
    id: u64,
    service: &ServiceName,
    mut requests: mpsc::Receiver<Request>,
    servings: Servings,
    credit: Arc<Credit>,
    replies: Replies,
    flowing: mpsc::Sender<Flowing>,
) {
    // Bounded by the credit.
    let (sender, mut mine) = mpsc::unbounded_channel();
    let listed = servings.enter(service, Arc::new(Serving { credit, requests: sender }));
    let mut waiting = FuturesUnordered::new();
    let begun = frames::plain(&ToClient::Joined { id, consumer: 0 });
    if flowing.send(Flowing { pieces: begun, deliveries: 0 }).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            request = requests.recv() => match request {
                Some(request) => servings.place(service, &listed.serving, request),
                None => return,
            },
            Some(request) = mine.recv() => {
                let Request { message, deadline, responder } = request;
                let (answer, answered) = oneshot::channel();
                let number = replies.last.fetch_add(1, Ordering::Relaxed) + 1;
                replies.open.lock().insert(number, answer);
                let open = Open { replies: replies.clone(), id: number };
                match ask(id, number, &message, deadline) {
                    Ok(pieces) => {
                        if flowing.send(Flowing { pieces, deliveries: 0 }).await.is_err() {
                            return;
                        }
                        waiting.push(wait(open, answered, responder));
                    }
                    Err(error) => responder.reply(Err(error)),
                }
            },
            Some(abandoned) = waiting.next() => {
                if let Some(id) = abandoned {
                    let pieces = frames::plain(&ToClient::Abandoned { id });
                    if flowing.send(Flowing { pieces, deliveries: 0 }).await.is_err() {
                        return;
                    }
                }
            },
        }
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
