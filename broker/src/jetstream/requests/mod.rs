//! Requests to services, over core NATS: nothing of them is stored.
//!
//! Who serves a service says so by a key of the engine's own that vanishes with it. A caller sends each request to one
//! of them, in turn, and the next one if that one has no room or has gone. While it waits it asks those that took its
//! requests, now and then, whether they still have them: so a server that was killed, and a request or a reply that NATS
//! lost with a connection, are noticed within seconds, whatever the request's own time is.
//!
//! | subject | what |
//! | --- | --- |
//! | `PREFIX.r.INSTANCE.NUMBER` | a request for what is served under this number |
//! | `PREFIX.r.INSTANCE.have` | which of these calls are not known? |
//! | `PREFIX.r.INSTANCE.drop` | nobody waits for this call any more |

mod calls;
mod serving;

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use crossdock_topics::{
    Error, ErrorCode, Message, Record, Reply, Request, Requests, Result, ServiceName, Shutdown,
};
use tokio::sync::mpsc;

use super::connection::Connection;
use super::instance::Instance;
use super::store::KeyStore;
use super::{JetStream, closed};
use calls::Calls;
use serving::Servings;

/// No wait is longer than this, whatever was asked for.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

/// The engine's own keys that say who serves what: `serving/SERVICE/INSTANCE/NUMBER`.
const SERVING: &str = "serving/";

/// A call's name: the caller's instance and a number.
const CALL: &str = "Crossdock-Call";
/// How many milliseconds a request has.
const TIME: &str = "Crossdock-Timeout";
/// The reply is an error.
const FAILED: &str = "Crossdock-Failed";
/// The request was not taken, and why: `full` or `gone`.
const REFUSED: &str = "Crossdock-Refused";

/// Both sides of requests.
#[derive(Clone)]
pub(super) struct RequestDesk {
    calls: Arc<Calls>,
    servings: Arc<Servings>,
}

impl RequestDesk {
    pub(super) async fn start(
        connection: &Connection,
        store: &KeyStore,
        instance: &Instance,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let calls = Calls::start(connection, store, instance, shutdown);
        let servings = Servings::start(connection, store, instance, shutdown).await?;
        Ok(Self { calls, servings })
    }

    /// Ends what is served here.
    pub(super) fn close(&self) {
        self.servings.close();
    }
}

#[async_trait]
impl Requests for JetStream {
    async fn request(&self, service: &ServiceName, message: Message, timeout: Duration) -> Reply {
        self.check_open()?;
        tokio::select! {
            reply = self.requests.calls.request(service, &message, timeout.min(LONGEST_WAIT)) => reply,
            () = self.shutdown.started() => Err(closed()),
        }
    }

    async fn serve(&self, service: &ServiceName, capacity: usize) -> Result<mpsc::Receiver<Request>> {
        self.check_open()?;
        let requests = self.requests.servings.serve(service, capacity).await?;
        // Looked at afterwards: closing ends those it finds, and this one finds the closing.
        self.check_open()?;
        Ok(requests)
    }
}

/// A message as it travels.
fn pack(connection: &Connection, message: &Message) -> Result<Bytes> {
    let bytes = Record::of(message)?.as_bytes().clone();
    let (size, most) = (bytes.len() + 1024, connection.client.max_payload());
    if size > most {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("{} bytes are more than NATS carries in a message, which is {most}", bytes.len()),
        )
        .hint("raise max_payload in nats-server's configuration (8MB is fine), or publish it to a topic"));
    }
    Ok(bytes)
}

/// A reply as it travels.
fn pack_reply(connection: &Connection, reply: &Reply) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let packed = match reply {
        Ok(message) => pack(connection, message),
        Err(error) => Err(error.clone()),
    };
    let payload = packed.unwrap_or_else(|error| {
        headers.insert(FAILED, "1");
        // Nothing in an error can fail to be written.
        serde_json::to_vec(&error).unwrap_or_default().into()
    });
    (headers, payload)
}

/// What a reply says; `None` when the request was not taken.
fn unpack_reply(answer: async_nats::Message) -> Result<Reply, Refusal> {
    let header = |name| Some(answer.headers.as_ref()?.get(name)?.as_str());
    match header(REFUSED) {
        Some("full") => return Err(Refusal::Full),
        Some(_) => return Err(Refusal::Gone),
        None => {}
    }
    Ok(if header(FAILED).is_some() {
        Err(serde_json::from_slice(&answer.payload)
            .unwrap_or_else(|_| Error::internal("the reply cannot be read")))
    } else {
        Record::from_packed(answer.payload).map(|record| record.to_message())
    })
}

/// Why a server did not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Full,
    Gone,
    /// It was not reached: nobody listens there at the moment.
    Missed,
}
