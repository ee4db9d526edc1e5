//! A service served by this process, over connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Record, Reply, Request, Responder, Result, ServiceName};
use crossdock_wire::session::{ToClient, ToServer};
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

/// A request, as the server and as this side number it, and its answer if the caller still waits.
type Answered = BoxFuture<'static, (u64, u64, Option<Reply>)>;

impl Serving {
    async fn go_on(mut self, link: Arc<Link>, flow: Flow) {
        let mut flow = Some(flow);
        let mut answers: FuturesUnordered<Answered> = FuturesUnordered::new();
        let (closing, mut freed) = (self.sender.clone(), Box::pin(self.sender.clone().reserve_owned()));
        loop {
            tokio::select! {
                biased;
                () = closing.closed() => break,
                // A place is free again: that is credit for another request.
                Ok(place) = &mut freed => {
                    self.places.push(place);
                    if let Some(flow) = &flow {
                        link.tell(&ToServer::Credit { id: flow.id, messages: 1, bytes: 0 }, Bytes::new());
                    }
                    freed = Box::pin(self.sender.clone().reserve_owned());
                }
                Some((request, number, answer)) = answers.next() => {
                    if let Some(answer) = answer {
                        link.reply(request, number, answer);
                    }
                }
                flowing = next(&mut flow) => match flowing {
                    Some(Flowing::Request(request, responder, replying)) => {
                        answers.extend(self.take(&link, request, responder, replying));
                    }
                    Some(Flowing::Answer(_)) => {}
                    Some(Flowing::Ended(Err(error))) if error.code != ErrorCode::Unavailable => {
                        tracing::warn!(service = %self.service, %error, "the service is not served any more");
                        break;
                    }
                    // The connection is gone, or about to go; then what has been asked is still answered.
                    Some(Flowing::Ended(_)) | None => flow = None,
                },
                opened = self.open_again(&link), if flow.is_none() => match opened {
                    Some(opened) => flow = Some(opened),
                    None => break,
                },
            }
        }
        // Those whose requests nobody takes any more are told that the service went away.
        drop((self, freed));
        while let Some((request, number, answer)) = answers.next().await {
            if let Some(answer) = answer {
                link.reply(request, number, answer);
            }
        }
    }

    async fn open_again(&self, link: &Arc<Link>) -> Option<Flow> {
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
                link.reply(id, replying.number, Err(error));
                return None;
            }
        };
        let Some(place) = self.places.pop() else {
            // More than there was credit for.
            let error = Error::new(ErrorCode::Overloaded, "more requests than were asked for");
            link.reply(id, replying.number, Err(error));
            return None;
        };
        let deadline = Instant::now() + Duration::from_millis(budget_ms).min(super::log::LONGEST_WAIT);
        place.send(Request { message, deadline, responder });
        Some(Box::pin(async move { (id, replying.number, replying.reply().await) }))
    }
}

async fn next(flow: &mut Option<Flow>) -> Option<Flowing> {
    match flow {
        Some(flow) => flow.receiver.recv().await,
        None => std::future::pending().await,
    }
}
