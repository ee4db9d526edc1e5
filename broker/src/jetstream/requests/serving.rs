//! The side that serves: takes requests from NATS, hands them over, and sends the replies.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use crossdock_topics::{
    Error, ErrorCode, Expect, Record, Reply, Request, Responder, Result, ServiceName, Shutdown,
};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{CALL, REFUSED, SERVING, TIME, pack_reply};
use crate::jetstream::connection::Connection;
use crate::jetstream::instance::Instance;
use crate::jetstream::store::{Key, KeyStore};

/// How long a request that is under way may take when the broker is closed, and how long sending a reply.
const LAST: Duration = Duration::from_secs(1);

/// What is served here.
pub(super) struct Servings {
    connection: Connection,
    store: KeyStore,
    instance: Instance,
    shutdown: Shutdown,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    closed: bool,
    servings: HashMap<u64, Serving>,
    /// The calls that were taken and not answered; dropping one's sender lets its request know that its caller has gone.
    calls: HashMap<String, oneshot::Sender<()>>,
}

struct Serving {
    service: ServiceName,
    requests: mpsc::Sender<Request>,
}

impl Servings {
    pub(super) async fn start(
        connection: &Connection,
        store: &KeyStore,
        instance: &Instance,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>> {
        let servings = Arc::new(Self {
            connection: connection.clone(),
            store: store.clone(),
            instance: instance.clone(),
            shutdown: shutdown.clone(),
            state: Mutex::default(),
        });
        let subject = format!("{}.r.{}.*", connection.prefix(), instance.id);
        let mut subscriber = connection.client.subscribe(subject).await.map_err(|error| {
            Error::new(ErrorCode::Unavailable, format!("requests cannot be received from NATS: {error}"))
        })?;
        let here = servings.clone();
        shutdown.tasks().spawn(async move {
            loop {
                tokio::select! {
                    message = subscriber.next() => match message {
                        Some(message) => here.take(message).await,
                        None => return,
                    },
                    () = here.shutdown.started() => return,
                }
            }
        });
        shutdown.tasks().spawn(register_again(servings.clone()));
        Ok(servings)
    }

    /// As [`crossdock_topics::Requests::serve`].
    pub(super) async fn serve(
        self: &Arc<Self>,
        service: &ServiceName,
        capacity: usize,
    ) -> Result<mpsc::Receiver<Request>> {
        let (requests, receiver) = mpsc::channel(capacity.max(1));
        let number = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(crate::jetstream::closed());
            }
            state.last += 1;
            let number = state.last;
            state.servings.insert(number, Serving { service: service.clone(), requests: requests.clone() });
            number
        };
        let key = self.key(service, number);
        if let Err(error) = self.register(&key).await {
            self.state.lock().servings.remove(&number);
            return Err(error);
        }
        let here = self.clone();
        self.shutdown.tasks().spawn(async move {
            tokio::select! {
                () = requests.closed() => {}
                // With the instance's lease all its keys go.
                () = here.shutdown.started() => return,
            }
            here.state.lock().servings.remove(&number);
            if let Err(error) = here.store.delete(&key, Expect::Any).await {
                tracing::debug!(%error, %key, "callers will be told that it is not served here any more");
            }
        });
        Ok(receiver)
    }

    /// Ends what everybody here receives.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.servings.clear();
    }

    fn key(&self, service: &ServiceName, number: u64) -> Key {
        Key::Own(format!("{SERVING}{service}/{}/{number}", self.instance.id))
    }

    async fn register(&self, key: &Key) -> Result<()> {
        let lease = self.instance.held().borrow().lease;
        self.store.put(key, Bytes::new(), Expect::Any, Some(lease)).await.map(drop)
    }

    async fn take(self: &Arc<Self>, message: async_nats::Message) {
        let kind = message.subject.rsplit('.').next().unwrap_or_default();
        if kind == "drop" {
            let call = String::from_utf8_lossy(&message.payload).into_owned();
            self.state.lock().calls.remove(&call);
        }
        let Some(reply) = message.reply.clone() else { return };
        match kind {
            "have" => {
                let asked = String::from_utf8_lossy(&message.payload);
                let unknown: Vec<&str> = {
                    let state = self.state.lock();
                    asked.lines().filter(|call| !state.calls.contains_key(*call)).collect()
                };
                self.send(reply, HeaderMap::new(), unknown.join("\n").into()).await;
            }
            number => {
                if let Err(why) = self.hand_over(number, &message, &reply) {
                    let mut headers = HeaderMap::new();
                    headers.insert(REFUSED, why);
                    self.send(reply, headers, Bytes::new()).await;
                }
            }
        }
    }

    /// Hands a request over; `Err` with why it is not taken.
    fn hand_over(
        self: &Arc<Self>,
        number: &str,
        message: &async_nats::Message,
        reply: &Subject,
    ) -> Result<(), &'static str> {
        let header = |name| Some(message.headers.as_ref()?.get(name)?.as_str());
        let (Some(call), Some(millis)) = (header(CALL), header(TIME).and_then(|millis| millis.parse().ok()))
        else {
            return Err("gone");
        };
        let number: u64 = number.parse().map_err(|_| "gone")?;
        let Ok(record) = Record::from_packed(message.payload.clone()) else { return Err("gone") };
        let deadline = Instant::now() + Duration::from_millis(millis).min(super::LONGEST_WAIT);
        let (responder, answered) = Responder::pair();
        let request = Request { message: record.to_message(), deadline, responder };
        let (here, dropped) = oneshot::channel();
        {
            let mut state = self.state.lock();
            let serving = state.servings.get(&number).ok_or("gone")?;
            serving.requests.try_send(request).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => "full",
                mpsc::error::TrySendError::Closed(_) => "gone",
            })?;
            state.calls.insert(call.to_owned(), here);
        }
        let (servings, call, reply) = (self.clone(), call.to_owned(), reply.clone());
        self.shutdown.tasks().spawn(servings.answer(call, reply, deadline, answered, dropped));
        Ok(())
    }

    /// Sends the reply as soon as it is there.
    async fn answer(
        self: Arc<Self>,
        call: String,
        reply: Subject,
        deadline: Instant,
        mut answered: oneshot::Receiver<Reply>,
        dropped: oneshot::Receiver<()>,
    ) {
        let closing = async {
            self.shutdown.started().await;
            tokio::time::sleep(LAST).await;
        };
        let answer = tokio::select! {
            biased;
            answer = &mut answered => Some(answer.unwrap_or_else(|_| Err(Responder::gone()))),
            _ = dropped => None,
            () = tokio::time::sleep_until(deadline.into()) => Some(Err(late())),
            () = closing => Some(Err(Responder::gone())),
        };
        // Before the caller can tell, so that both agree on whether somebody waits.
        drop(answered);
        if let Some(answer) = answer {
            let (headers, payload) = pack_reply(&self.connection, &answer);
            self.send(reply, headers, payload).await;
        }
        // Behind the reply: who asks whether the call is known gets that first.
        self.state.lock().calls.remove(&call);
    }

    async fn send(&self, to: Subject, headers: HeaderMap, payload: Bytes) {
        // What cannot be sent now is noticed by who waits for it.
        let sent = self.connection.client.publish_with_headers(to, headers, payload);
        match timeout(LAST, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a reply could not be sent"),
            Err(_) => tracing::debug!("a reply could not be sent: the connection to NATS takes nothing"),
        }
    }
}

/// Says again what is served here when this engine has another lease than before.
async fn register_again(servings: Arc<Servings>) {
    let mut held = servings.instance.held();
    let mut known = held.borrow_and_update().lease;
    loop {
        tokio::select! {
            changed = held.changed() => if changed.is_err() { return },
            () = servings.shutdown.started() => return,
        }
        let lease = held.borrow_and_update().lease;
        if lease == known {
            continue;
        }
        let keys: Vec<Key> = {
            let state = servings.state.lock();
            state.servings.iter().map(|(number, serving)| servings.key(&serving.service, *number)).collect()
        };
        let mut all = true;
        for key in keys {
            if let Err(error) = servings.register(&key).await {
                tracing::warn!(%error, %key, "nobody can be told yet what is served here");
                all = false;
            }
        }
        if all {
            known = lease;
        }
    }
}

fn late() -> Error {
    Error::new(ErrorCode::Timeout, "the service did not answer in time")
        .hint("see its log, or allow it more time")
}
