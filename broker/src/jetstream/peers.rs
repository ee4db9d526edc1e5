//! The other engines of the cluster, and this one as they see it: each asks another one over a [`Tunnel`], in which the
//! same is spoken as between a client and a server.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{Broker, Error, ErrorCode, Result, SharedBroker, Shutdown};
use crossdock_wire::session::Login;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::Connection;
use super::instance::{INSTANCES, Instance};
use super::store::{Key, KeyStore};
use super::tunnel::{Tunnel, subject};
use crate::remote::{Host, Peer, Remote, ServeOptions, Stream};

/// How often it is looked who has gone.
const LOOK: Duration = Duration::from_millis(250);
/// How long an engine may take to answer again, when something was lost on the way. Its lease ends the waiting too.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this time without a word each side says that it is there; after three times as long it is taken for gone.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// An engine has many consumers, each of which waits.
const REQUESTS: usize = 65_536;
/// Nothing is published by way of another engine.
const PUBLISHING: usize = 1 << 20;

/// The other engines of the cluster.
#[derive(Clone)]
pub(super) struct Peers(Arc<Inner>);

struct Inner {
    connection: Connection,
    store: KeyStore,
    instance: Instance,
    shutdown: Shutdown,
    remotes: Mutex<HashMap<String, Connecting>>,
}

/// The way to another engine, or how finding it ended. It goes on whoever of those that wait for it goes away.
type Connecting = Shared<BoxFuture<'static, Result<Arc<Remote>>>>;

impl Peers {
    /// Begins to look after them; `here` is what they are to ask of this engine.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn open(
        connection: &Connection,
        store: &KeyStore,
        instance: &Instance,
        here: SharedBroker,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let peers = Self(Arc::new(Inner {
            connection: connection.clone(),
            store: store.clone(),
            instance: instance.clone(),
            shutdown: shutdown.clone(),
            remotes: Mutex::default(),
        }));
        let calls = connection.client.subscribe(subject(connection, &instance.id)).await;
        let calls = calls.map_err(|error| {
            Error::new(ErrorCode::Unavailable, format!("other servers cannot be heard: {error}"))
        })?;
        shutdown.tasks().spawn(peers.clone().listen(calls, here));
        shutdown.tasks().spawn(peers.clone().look_after());
        Ok(peers)
    }

    /// Another engine.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer, until this moment at most.
    pub(super) async fn get(&self, instance: &str, until: Instant) -> Result<Arc<Remote>> {
        let connecting = {
            let mut remotes = self.0.remotes.lock();
            match remotes.get(instance).filter(|known| !matches!(known.peek(), Some(Err(_)))) {
                Some(known) => known.clone(),
                None => {
                    let through = Through { peers: self.clone(), instance: instance.to_owned() };
                    let shutdown = self.0.shutdown.clone();
                    let connecting = async move {
                        tokio::select! {
                            remote = Remote::to(through, PATIENCE, PUBLISHING) => remote,
                            () = shutdown.started() => Err(super::closed()),
                        }
                    };
                    let connecting = connecting.boxed().shared();
                    self.0.shutdown.tasks().spawn(connecting.clone());
                    remotes.insert(instance.to_owned(), connecting.clone());
                    connecting
                }
            }
        };
        match tokio::time::timeout_at(until, connecting).await {
            Ok(remote) => remote,
            Err(_) => Err(Error::new(ErrorCode::Unavailable, format!("server {instance} does not answer"))),
        }
    }

    /// Whether an engine is there, as far as this one knows.
    fn knows(&self, instance: &str) -> bool {
        self.0.store.peek(&Key::Own(format!("{INSTANCES}{instance}"))).is_some()
    }

    /// Ends the connections to those who have gone: whoever waits for them is told.
    async fn look_after(self) {
        let shutdown = self.0.shutdown.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.started() => break,
            }
            let gone: Vec<_> =
                self.0.remotes.lock().extract_if(|instance, _| !self.knows(instance)).collect();
            for (instance, remote) in gone {
                tracing::debug!(instance, "another server has gone");
                close(&shutdown, &remote);
            }
        }
        self.0.remotes.lock().drain().for_each(|(_, remote)| close(&shutdown, &remote));
    }

    /// Serves the other engines until shutdown.
    async fn listen(self, mut calls: async_nats::Subscriber, here: SharedBroker) {
        let Inner { connection, instance, shutdown, .. } = &*self.0;
        let options = ServeOptions {
            name: connection.options.name.clone(),
            heartbeat: HEARTBEAT,
            requests: REQUESTS,
            publishing_bytes: PUBLISHING,
            ..ServeOptions::default()
        };
        let host = Arc::new(Host::new(options, here, None, shutdown.clone()));
        // One tunnel from each: whoever calls again has lost the one before.
        let mut served: HashMap<String, AbortHandle> = HashMap::new();
        loop {
            let call = tokio::select! {
                call = calls.next() => call,
                () = shutdown.started() => None,
            };
            let Some(call) = call else { return };
            let (caller, tunnel) = match Tunnel::answer(connection, &call, &instance.id).await {
                Ok(answered) => answered,
                Err(error) => {
                    tracing::debug!(%error, "a call could not be answered");
                    continue;
                }
            };
            served.retain(|_, session| !session.is_finished());
            let (peers, host, name) = (self.clone(), host.clone(), caller.clone());
            let session = shutdown.tasks().spawn(async move {
                let stream: Box<dyn Stream> = Box::new(tunnel);
                tokio::select! {
                    () = host.attend(ready(Ok(stream)), &name) => {}
                    () = peers.goes(&name) => {}
                    () = peers.0.shutdown.started() => {}
                }
            });
            if let Some(before) = served.insert(caller, session.abort_handle()) {
                before.abort();
            }
        }
    }

    /// Resolves when an engine has gone.
    async fn goes(&self, instance: &str) {
        // It made itself known before it called, which this engine may not have heard yet.
        let _ = self.0.store.come().await;
        while self.knows(instance) {
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn close(shutdown: &Shutdown, remote: &Connecting) {
    if let Some(Ok(remote)) = remote.peek().cloned() {
        shutdown.tasks().spawn(async move { remote.close().await });
    }
}

/// The way to another engine.
struct Through {
    peers: Peers,
    instance: String,
}

#[async_trait]
impl Peer for Through {
    fn shown(&self) -> String {
        format!("server {}", self.instance)
    }

    fn asking(&self) -> (String, Option<Login>) {
        (self.peers.0.connection.options.name.clone(), None)
    }

    async fn dial(&self) -> Result<Box<dyn Stream>> {
        let Inner { connection, instance, .. } = &*self.peers.0;
        Ok(Box::new(Tunnel::call(connection, &self.instance, &instance.id).await?))
    }
}
