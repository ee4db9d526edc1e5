//! `GET /subscriptions/{name}/stream`: messages as server-sent events.
//!
//! The next messages are taken only when the connection has room for them, so a slow reader holds one page
//! and what its socket buffers; one that reads nothing is cut by the listener. However the stream ends, its
//! consumer leaves, and what was not settled is delivered again at once.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use crossdock_http::{Authenticated, MessageJson, Problem, Result, authenticate};
use crossdock_topics::{ConsumerId, Delivery, Error, Fetch, SharedBroker, SubscriptionName};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use super::fetch::{Query, Wish};
use super::gateway::Gateway;
use super::path::Named;

/// How long nothing may come before a comment is sent, so that both sides notice a connection that is gone;
/// and how often whoever listens is asked again who it is.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The most that is taken at once beyond one message.
const PAGE_BYTES: usize = 128 * 1024;

/// Messages as they come, for as long as the connection lasts.
pub(super) async fn stream(
    State(gateway): State<Gateway>,
    Authenticated(principal): Authenticated,
    Named(name): Named<SubscriptionName>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response> {
    let wish = Wish::of(query)?;
    gateway.consumable(&principal, &name).await?;
    let id = gateway.broker.join(&name).await?;
    let consumer = Consumer { broker: gateway.broker.clone(), name, id };
    let credentials = [AUTHORIZATION, http::HeaderName::from_static("x-api-key")]
        .into_iter()
        .filter_map(|header| Some((header.clone(), headers.get(&header)?.clone())))
        .collect();
    let fetch =
        Fetch { max_bytes: PAGE_BYTES, lease: wish.lease(), ..Fetch::new(Some(id), wish.max(64), HEARTBEAT) };
    let reader =
        Reader { gateway, consumer, credentials, checked: Instant::now(), fetch, phase: Phase::Opening };
    let events = futures::stream::unfold(reader, |mut reader| async move {
        let chunk = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), reader))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect a response before they pass it on would never pass this one on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// A consumer, for as long as this lives.
struct Consumer {
    broker: SharedBroker,
    name: SubscriptionName,
    id: ConsumerId,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.broker.leave(&self.name, self.id);
    }
}

struct Reader {
    gateway: Gateway,
    consumer: Consumer,
    credentials: HeaderMap,
    checked: Instant,
    fetch: Fetch,
    phase: Phase,
}

enum Phase {
    Opening,
    Open,
    Ended,
}

impl Reader {
    /// The next part of the stream; none after its end.
    async fn next(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Opening => {
                self.phase = Phase::Open;
                Some(Bytes::from_static(b"retry: 1000\n\n"))
            }
            Phase::Open => {
                let shutdown = self.gateway.shutdown.clone();
                let page = tokio::select! {
                    biased;
                    () = shutdown.started() => return None,
                    page = self.page() => page,
                };
                Some(page.unwrap_or_else(|problem| {
                    self.phase = Phase::Ended;
                    let mut event = b"event: error\ndata: ".to_vec();
                    event.extend(problem.to_json());
                    event.extend(b"\n\n");
                    event.into()
                }))
            }
            Phase::Ended => None,
        }
    }

    async fn page(&mut self) -> Result<Bytes> {
        if self.checked.elapsed() >= HEARTBEAT {
            let principal = authenticate(&self.credentials, &self.gateway.access).await?;
            self.gateway.consumable(&principal, &self.consumer.name).await?;
            self.checked = Instant::now();
        }
        let deliveries = self.gateway.broker.fetch(&self.consumer.name, self.fetch.clone()).await?;
        if deliveries.is_empty() {
            return Ok(Bytes::from_static(b":\n\n"));
        }
        let size: usize = deliveries.iter().map(|delivery| delivery.record.size() + 320).sum();
        let mut text = Vec::with_capacity(size);
        for delivery in &deliveries {
            event(delivery, &mut text)?;
        }
        Ok(text.into())
    }
}

/// Writes one message as an event.
fn event(delivery: &Delivery, out: &mut Vec<u8>) -> Result<(), Problem> {
    out.extend(format!("id: {}\nevent: message\ndata: ", delivery.id).as_bytes());
    let start = out.len();
    serde_json::to_writer(&mut *out, &MessageJson::delivered(delivery))
        .map_err(|error| Error::internal(format!("a message cannot be written: {error}")))?;
    // In JSON a line break can only stand between tokens; in an event it would end the line.
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.extend(b"\n\n");
    Ok(())
}
