//! Lets other processes use a broker.

mod call;
mod consume;
mod frames;
mod gate;
mod greeting;
mod publish;
mod serving;
mod session;
mod threads;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use crossdock_access::Access;
use crossdock_topics::{Result, SharedBroker, Shutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::pipe::{Pipe, Stream};
use super::tls::ServerTls;
use serving::Servings;
use session::Session;
use threads::Threads;

/// How long the last words to a client may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a broker is offered. The sizes bound what its clients can make this process hold.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// What the server calls itself, for logs of clients.
    pub name: String,
    /// What it proves itself by; without it connections are not encrypted.
    pub tls: Option<ServerTls>,
    /// How many clients may be connected.
    pub connections: usize,
    /// How long a client may take until it has said who it is.
    pub greeting: Duration,
    /// After this time without a word each side says that it is there; after three times as long it is taken for gone.
    pub heartbeat: Duration,
    /// How many requests of one client may be without their answer.
    pub requests: usize,
    /// How many bytes of one client may wait to be stored; then no more is read from it. One batch more fits always.
    pub publishing_bytes: usize,
    /// How many bytes may wait to be read by one client before it gets no more deliveries.
    pub unread_bytes: usize,
}

impl Default for ServeOptions {
    /// Not encrypted; 1024 clients; 10 s to say who it is; a heartbeat of 5 s; 4096 requests, 32 MiB waiting to be stored and 4 MiB
    /// waiting to be read.
    fn default() -> Self {
        Self {
            name: concat!("crossdock/", env!("CARGO_PKG_VERSION")).to_owned(),
            tls: None,
            connections: 1024,
            greeting: Duration::from_secs(10),
            heartbeat: Duration::from_secs(5),
            requests: 4096,
            publishing_bytes: 32 << 20,
            unread_bytes: 4 << 20,
        }
    }
}

/// A broker that is offered, and what all sessions share.
pub(crate) struct Host {
    options: ServeOptions,
    broker: SharedBroker,
    access: Option<Access>,
    servings: Servings,
    shutdown: Shutdown,
}

/// Offers a broker until shutdown. Then clients are told to drain, and this returns when all have gone, or after the
/// shutdown's grace. Without `access` everybody may do everything: only for listeners that nobody else can reach.
/// Connections are served by threads of their own, one for each processor.
pub async fn serve(
    options: ServeOptions,
    listener: TcpListener,
    broker: SharedBroker,
    access: Option<Access>,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(options.connections));
    let part = shutdown.child();
    let threads = Threads::start();
    let server = Arc::new(Host::new(options, broker, access, part.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.started() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others may give some back.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(%peer, limit = server.options.connections, "too many clients, one is refused");
            continue;
        };
        let server = server.clone();
        let thread = threads.place();
        let served = thread.clone();
        let serving = async move {
            match moved_here(stream) {
                Ok(stream) => server.attend(server.encrypted(stream), &peer.to_string()).await,
                Err(error) => tracing::warn!(%peer, %error, "a connection could not be taken over"),
            }
            drop((place, served));
        };
        part.tasks().spawn_on(serving, &thread.executor);
    }
    drop(listener);
    if tokio::time::timeout(part.grace() + Duration::from_secs(1), part.drain()).await.is_err() {
        tracing::warn!("some clients have not gone in time");
    }
    threads.end().await;
}

/// A connection that was accepted on another thread, so that what comes over it wakes this one.
fn moved_here(stream: TcpStream) -> std::io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream.into_std()?)?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

impl Host {
    /// A broker for whoever is [attended](Self::attend) to, until shutdown; whoever calls awaits its tasks. Without
    /// `access` everybody may do everything.
    pub(crate) fn new(
        options: ServeOptions,
        broker: SharedBroker,
        access: Option<Access>,
        shutdown: Shutdown,
    ) -> Self {
        Self { options, broker, access, servings: Servings::default(), shutdown }
    }

    async fn encrypted(&self, stream: TcpStream) -> Result<Box<dyn Stream>> {
        match &self.options.tls {
            Some(tls) => tls.accept(stream).await,
            None => Ok(Box::new(stream)),
        }
    }

    /// One client's whole stay, from when its stream is there.
    pub(crate) async fn attend(
        self: &Arc<Self>,
        stream: impl Future<Output = Result<Box<dyn Stream>>>,
        peer: &str,
    ) {
        let greeting = async {
            let mut pipe = match stream.await {
                Ok(stream) => Pipe::new(stream),
                Err(error) => return (None, Err(error)),
            };
            let guest = greeting::greet(self, &mut pipe).await;
            (Some(pipe), guest)
        };
        let (pipe, guest) = match tokio::time::timeout(self.options.greeting, greeting).await {
            Ok((Some(pipe), Ok(guest))) => (pipe, guest),
            Ok((pipe, Err(error))) => {
                tracing::debug!(peer, %error, "a client was refused");
                if let Some(mut pipe) = pipe {
                    frames::refuse(&mut pipe, &error);
                    pipe.finish(GOODBYE).await;
                }
                return;
            }
            _ => return tracing::debug!(peer, "a client did not say in time who it is"),
        };
        let greeting::Guest { name, gate } = guest;
        tracing::debug!(peer, client = name, "a client has come");
        let mut session = Session::new(self.clone(), pipe, gate);
        let ended = std::future::poll_fn(|cx| session.poll(cx)).await;
        match &ended {
            Ok(()) => tracing::debug!(peer, client = name, "a client has gone"),
            Err(error) => tracing::warn!(peer, client = name, %error, "a client is cut off"),
        }
        let mut pipe = session.leave();
        if let Err(error) = &ended {
            frames::refuse(&mut pipe, error);
        }
        pipe.finish(GOODBYE).await;
    }
}
