//! The side that asks: finds who serves, sends, waits, and notices when the one who took a request has gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{HeaderMap, Request};
use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Message, Reply, Responder, ServiceName, Shutdown};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::{CALL, Refusal, SERVING, TIME, pack, unpack_reply};
use crate::jetstream::connection::Connection;
use crate::jetstream::instance::{INSTANCES, Instance};
use crate::jetstream::store::{Key, KeyStore};

/// How often those that took requests are asked whether they have them.
const ASK: Duration = Duration::from_millis(500);
/// One that has not answered for so long has gone. Shorter, and one that is just changing its nats-server would be taken
/// for gone.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a request may look for somebody who takes it while NATS or its servers are changing places.
const LOOKING: Duration = Duration::from_secs(2);
/// How long to wait before looking again.
const AGAIN: Duration = Duration::from_millis(100);
/// So many calls that nobody waits for any more may wait to be told of; those beyond it end with their time.
const DROPPED: usize = 1024;
/// The server looks at the time itself, and knows better why there is no reply.
const SLACK: Duration = Duration::from_millis(500);

/// The requests that wait for their replies.
pub(super) struct Calls {
    connection: Connection,
    store: KeyStore,
    instance: String,
    turn: AtomicUsize,
    last: AtomicU64,
    open: Mutex<HashMap<String, Open>>,
    /// Calls that nobody waits for any more, and the servers that took them.
    dropped: mpsc::Sender<(String, String)>,
}

/// A request that somebody took.
struct Open {
    server: String,
    since: Instant,
    gone: Option<oneshot::Sender<()>>,
}

/// Whoever serves, as the mirror knows it.
struct Server {
    instance: String,
    number: String,
}

impl Calls {
    pub(super) fn start(
        connection: &Connection,
        store: &KeyStore,
        instance: &Instance,
        shutdown: &Shutdown,
    ) -> Arc<Self> {
        let (dropped, telling) = mpsc::channel(DROPPED);
        let calls = Arc::new(Self {
            dropped,
            connection: connection.clone(),
            store: store.clone(),
            instance: instance.id.clone(),
            turn: AtomicUsize::new(usize::from(rand::random::<u16>())),
            last: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let (asking, shutdown) = (calls.clone(), shutdown.clone());
        let telling = tell(connection.clone(), telling);
        shutdown.clone().tasks().spawn(async move {
            tokio::select! {
                () = asking.ask_after_them() => {}
                () = telling => {}
                () = shutdown.started() => {}
            }
        });
        calls
    }

    /// As [`crossdock_topics::Requests::request`].
    pub(super) async fn request(&self, service: &ServiceName, message: &Message, timeout: Duration) -> Reply {
        let began = Instant::now();
        let (deadline, looking) = (began + timeout, began + timeout.min(LOOKING));
        let payload = pack(&self.connection, message)?;
        loop {
            // Nothing has been sent yet: waiting for the connection does no harm.
            let mut up = self.connection.up();
            if timeout_at(looking, up.wait_for(|up| up.is)).await.is_err() {
                return Err(Error::new(
                    ErrorCode::Unavailable,
                    format!("there is no connection to NATS, so {service} was not asked"),
                )
                .hint("try again"));
            }
            let (mut full, mut missed) = (false, false);
            for server in self.servers(service) {
                match self.send(service, &server, &payload, deadline, timeout).await {
                    Ok(reply) => return reply,
                    Err(Refusal::Full) => full = true,
                    Err(Refusal::Gone) => {}
                    Err(Refusal::Missed) => missed = true,
                }
            }
            if full {
                return Err(Responder::full(service));
            }
            if !missed || Instant::now() + AGAIN >= looking {
                return Err(Responder::nobody(service));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Who serves it, beginning with another one each time.
    fn servers(&self, service: &ServiceName) -> Vec<Server> {
        let prefix = format!("{SERVING}{service}/");
        let (entries, _) = self.store.list_own(&prefix);
        let server = |key: &str| {
            let (instance, number) = key.strip_prefix(&prefix)?.split_once('/')?;
            Some(Server { instance: instance.to_owned(), number: number.to_owned() })
        };
        let mut servers: Vec<Server> = entries.iter().filter_map(|entry| server(&entry.key)).collect();
        if !servers.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % servers.len();
            servers.rotate_left(turn);
        }
        servers
    }

    async fn send(
        &self,
        service: &ServiceName,
        server: &Server,
        payload: &Bytes,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Reply, Refusal> {
        let call = format!("{}.{}", self.instance, self.last.fetch_add(1, Ordering::Relaxed));
        let remaining = deadline.saturating_duration_since(Instant::now());
        let mut headers = HeaderMap::new();
        headers.insert(CALL, call.as_str());
        // No less than it is, so that the server is not the first to lose patience.
        headers.insert(TIME, remaining.as_micros().div_ceil(1000).to_string());
        let subject = format!("{}.r.{}.{}", self.connection.prefix(), server.instance, server.number);
        let (gone, went) = oneshot::channel();
        let waiting = Waiting { calls: self, call, server, answered: false };
        self.open.lock().insert(
            waiting.call.clone(),
            Open { server: server.instance.clone(), since: Instant::now(), gone: Some(gone) },
        );
        let request =
            Request::new().payload(payload.clone()).headers(headers).timeout(Some(remaining + SLACK));
        let answer = tokio::select! {
            biased;
            answer = timeout_at(deadline + SLACK, self.connection.client.send_request(subject, request)) => answer,
            _ = went => {
                waiting.done();
                return Ok(Err(Responder::gone()));
            }
        };
        match answer {
            Ok(Ok(answer)) => {
                waiting.done();
                unpack_reply(answer)
            }
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                waiting.done();
                Err(Refusal::Missed)
            }
            Ok(Err(error)) if error.kind() != RequestErrorKind::TimedOut => Ok(Err(Error::new(
                ErrorCode::Unavailable,
                format!("{service} could not be asked: {error}; it may have done its work or not"),
            )
            .hint("ask again if doing it twice does no harm"))),
            _ => Ok(Err(Error::new(
                ErrorCode::Timeout,
                format!("service {service} did not answer within {}", humantime::format_duration(timeout)),
            )
            .hint("see its log, or allow it more time"))),
        }
    }

    /// Asks those that took requests whether they still have them, for as long as the broker is open.
    async fn ask_after_them(&self) {
        let mut silent: HashMap<String, Instant> = HashMap::new();
        loop {
            tokio::time::sleep(ASK).await;
            let mut calls: HashMap<String, Vec<String>> = HashMap::new();
            for (call, open) in self.open.lock().iter().filter(|(_, open)| open.since.elapsed() >= ASK) {
                calls.entry(open.server.clone()).or_default().push(call.clone());
            }
            silent.retain(|server, _| calls.contains_key(server));
            let asked = calls
                .iter()
                .map(|(server, calls)| async move { (server, self.unknown(server, calls).await) });
            // Nobody is to blame while this engine itself hears nothing.
            let up = self.connection.up().borrow().is;
            for (server, unknown) in futures::future::join_all(asked).await {
                match unknown {
                    Some(unknown) => {
                        silent.remove(server);
                        self.lost(&unknown);
                    }
                    None if !up => drop(silent.remove(server)),
                    None => {
                        let since = *silent.entry(server.clone()).or_insert_with(Instant::now);
                        let known = self.store.peek(&Key::Own(format!("{INSTANCES}{server}"))).is_some();
                        if !known || since.elapsed() >= SILENCE {
                            self.lost(&calls[server]);
                        }
                    }
                }
            }
        }
    }

    /// Which of these calls a server does not know; `None` when it does not answer.
    async fn unknown(&self, server: &str, calls: &[String]) -> Option<Vec<String>> {
        let subject = format!("{}.r.{server}.have", self.connection.prefix());
        let mut unknown = Vec::new();
        // A call's name has less than 40 bytes.
        for calls in calls.chunks(4096) {
            let request = Request::new().payload(calls.join("\n").into()).timeout(Some(ASK));
            let asked = self.connection.client.send_request(subject.clone(), request);
            let answer = timeout_at(Instant::now() + 2 * ASK, asked).await.ok()?.ok()?;
            unknown.extend(String::from_utf8_lossy(&answer.payload).lines().map(str::to_owned));
        }
        Some(unknown)
    }

    /// Tells those who wait that nobody will answer.
    fn lost(&self, calls: &[String]) {
        let mut open = self.open.lock();
        for call in calls {
            if let Some(gone) = open.get_mut(call).and_then(|open| open.gone.take()) {
                let _ = gone.send(());
            }
        }
    }
}

/// A request that waits. If it is dropped first, the server is told that nobody waits any more.
struct Waiting<'a> {
    calls: &'a Calls,
    call: String,
    server: &'a Server,
    answered: bool,
}

impl Waiting<'_> {
    fn done(mut self) {
        self.answered = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.open.lock().remove(&self.call);
        if self.answered {
            return;
        }
        // Whoever drops cannot wait. It is a word of courtesy: the request's own time ends it too.
        let call = std::mem::take(&mut self.call);
        let _ = self.calls.dropped.try_send((self.server.instance.clone(), call));
    }
}

/// Tells servers of calls that nobody waits for any more.
async fn tell(connection: Connection, mut dropped: mpsc::Receiver<(String, String)>) {
    while let Some((server, call)) = dropped.recv().await {
        let subject = format!("{}.r.{server}.drop", connection.prefix());
        let _ = timeout_at(Instant::now() + ASK, connection.client.publish(subject, call.into())).await;
    }
}
