//! A service served by this process, over connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Record, Reply, Request, Responder, Result, ServiceName};
use crossdock_wire::session::{ToClient, ToServer, WireError};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::{self, OwnedPermit};

use super::link::{Answer, Flow, Flowing, Link, Replying, Trouble};

/// Serves a service until the receiver is dropped.
///
/// # Errors
/// What the server refuses it with; `Unavailable`.
pub(super) async fn serve(
    link: &Arc<Link>,
    service: &ServiceName,
    capacity: usize,
) -> Result<mpsc::Receiver<Request>> {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let mut serving = Serving { service: service.clone(), sender, places: Vec::new() };
    while let Ok(place) = serving.sender.clone().try_reserve_owned() {
        serving.places.push(place);
    }
    loop {
        link.connected().await?;
        match open(link, &serving).await {
            Ok(flow) => {
                link.tasks.spawn(serving.go_on(link.clone(), flow));
                return Ok(receiver);
            }
            Err(Trouble::Lost) => {}
            Err(Trouble::Failed(error)) => return Err(error),
        }
    }
}

async fn open(link: &Arc<Link>, serving: &Serving) -> Result<Flow, Trouble> {
    let capacity = u32::try_from(serving.places.len()).unwrap_or(u32::MAX);
    let request = |id| ToServer::Serve { id, service: serving.service.as_str().to_owned(), capacity };
    let mut flow = link.flow(request, Bytes::new())?;
    match flow.receiver.recv().await {
        Some(Flowing::Answer(Answer { header: ToClient::Joined { .. }, .. })) => Ok(flow),
        Some(Flowing::Ended(Err(error))) => Err(Trouble::Failed(error)),
        _ => Err(Trouble::Lost),
    }
}

/// A service that is served here.
struct Serving {
    service: ServiceName,
    sender: mpsc::Sender<Request>,
    /// The credit that the server has: as many places as are kept for its requests.
    places: Vec<OwnedPermit<Request>>,
}

/// A request's number, and its answer if the caller still waits.
type Answered = BoxFuture<'static, (u64, Option<Reply>)>;

impl Serving {
    async fn go_on(mut self, link: Arc<Link>, mut flow: Flow) {
        let mut answers: FuturesUnordered<Answered> = FuturesUnordered::new();
        let (closing, mut freed) = (self.sender.clone(), Box::pin(self.sender.clone().reserve_owned()));
        loop {
            tokio::select! {
                biased;
                () = closing.closed() => break,
                // A place is free again: that is credit for another request.
                Ok(place) = &mut freed => {
                    self.places.push(place);
                    link.tell(&ToServer::Credit { id: flow.id, messages: 1, bytes: 0 }, Bytes::new());
                    freed = Box::pin(self.sender.clone().reserve_owned());
                }
                Some((request, answer)) = answers.next() => {
                    if let Some(answer) = answer {
                        reply(&link, request, answer);
                    }
                }
                flowing = flow.receiver.recv() => match flowing {
                    Some(Flowing::Request(request, responder, replying)) => {
                        if let Some(answered) = self.take(&link, request, responder, replying) {
                            answers.push(answered);
                        }
                    }
                    Some(Flowing::Answer(_)) => {}
                    Some(Flowing::Ended(Err(error))) if error.code != ErrorCode::Unavailable => {
                        tracing::warn!(service = %self.service, %error, "the service is not served any more");
                        break;
                    }
                    Some(Flowing::Ended(_)) | None => {
                        // Whoever asked over the lost connection has been told.
                        answers.clear();
                        match self.open_again(&link, &closing).await {
                            Some(again) => flow = again,
                            None => break,
                        }
                    }
                },
            }
        }
        // Requests that nobody here takes any more are refused, or handed on by their callers.
        drop((self.places, freed));
        answers.clear();
    }

    async fn open_again(&self, link: &Arc<Link>, closing: &mpsc::Sender<Request>) -> Option<Flow> {
        let opening = async {
            loop {
                link.connected_within(Duration::MAX).await.ok()?;
                match open(link, self).await {
                    Ok(flow) => return Some(flow),
                    Err(Trouble::Lost) => {}
                    Err(Trouble::Failed(error)) => {
                        tracing::warn!(service = %self.service, %error, "the service could not be served again");
                        return None;
                    }
                }
            }
        };
        tokio::select! {
            opened = opening => opened,
            () = closing.closed() => None,
        }
    }

    /// Hands a request to the service.
    fn take(
        &mut self,
        link: &Link,
        asked: Answer,
        responder: Responder,
        replying: Replying,
    ) -> Option<Answered> {
        let ToClient::Request { id, budget_ms, .. } = asked.header else { return None };
        let message = match Record::from_packed(asked.payload) {
            Ok(record) => record.to_message(),
            Err(error) => {
                reply(link, id, Err(error));
                return None;
            }
        };
        let Some(place) = self.places.pop() else {
            // More than there was credit for.
            reply(link, id, Err(Error::new(ErrorCode::Overloaded, "more requests than were asked for")));
            return None;
        };
        let deadline = Instant::now() + Duration::from_millis(budget_ms).min(super::log::LONGEST_WAIT);
        place.send(Request { message, deadline, responder });
        Some(Box::pin(async move { (id, replying.reply().await) }))
    }
}

fn reply(link: &Link, id: u64, answer: Reply) {
    let packed = answer.and_then(|message| Record::of(&message));
    let (error, payload) = match packed {
        Ok(record) => (None, record.as_bytes().clone()),
        Err(error) => (Some(WireError::from(&error)), Bytes::new()),
    };
    link.tell(&ToServer::Reply { id, error, outputs: Vec::new() }, payload);
}
