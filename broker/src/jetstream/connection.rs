//! The connection to NATS that all parts of the engine share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::context::{ContextBuilder, CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::stream;
use async_nats::{Client, ConnectOptions, Event, Request, jetstream};
use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Result, Shutdown};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::choice::Choice;
use super::options::{JetStreamOptions, NatsLogin};

/// How often a quiet connection is asked whether it is there; it is given up after two that were not answered. That is
/// what ends one whose buffer is full, over which nothing else can be asked: sooner than a lease of this engine does.
const PING: Duration = Duration::from_secs(2);
/// How often it is seen to that the server answers.
const ALIVE: Duration = Duration::from_secs(1);
/// A server that has not answered for so long is left.
const DEAD: Duration = Duration::from_secs(3);
/// After so long without success through one server another one is tried.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// How long connecting to one server may take.
const CONNECTING: Duration = Duration::from_secs(3);
/// Within this time an engine has a nats-server through which it can write again, once there is one: it has noticed that
/// the one it had is silent ([`ALIVE`], [`DEAD`]), has tried another one that is silent too ([`CONNECTING`]), and has sent
/// again what was not answered. A busy machine may take its time.
pub(super) const BACK: Duration = Duration::from_secs(10);
/// For how long the leader of a stream may say that a message is on its way before it is taken to be wrong.
pub(super) const STUCK: Duration = Duration::from_secs(5);
/// How long NATS may need until it can find or make a stream.
const STARTING: Duration = Duration::from_secs(30);
/// How long it may take to find a stream, and to make one, before it is tried again: a cluster that has no leader yet never
/// answers what it was asked before.
const FINDING: Duration = Duration::from_secs(1);
const MAKING: Duration = Duration::from_secs(3);
/// So many servers make a cluster that survives one of them.
const CLUSTER: usize = 3;
/// How long their other servers may take to come, before a stream is kept by one of them.
const GATHERING: Duration = Duration::from_secs(10);
/// NATS has not so many servers for a stream.
const NO_PEERS: u64 = 10_005;
/// The oldest NATS that has all that is used here: atomic batches, times to live of messages.
const OLDEST: (i64, i64, i64) = (2, 12, 0);

/// The connection to NATS. It makes itself anew when it is lost.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    pub(super) options: Arc<JetStreamOptions>,
    /// Whether it is up, and a number for each time that it has come up.
    up: watch::Receiver<Up>,
    choice: Choice,
    /// How many replicas new streams are given where nobody says so; 0 while it is not known.
    found: Arc<AtomicUsize>,
}

/// How long something has not been possible through the nats-server that this engine is connected to. That one may be cut
/// off from the others, which it does not say: then another one serves.
#[derive(Debug, Default)]
pub(super) struct Struggle(Mutex<Option<Instant>>);

impl Struggle {
    /// It was possible.
    pub(super) fn over(&self) {
        *self.0.lock() = None;
    }

    /// It was not; after a while of that the server is left for another one.
    pub(super) async fn goes_on(&self, connection: &Connection, what: &str) {
        let long = {
            let mut since = self.0.lock();
            let long = since.get_or_insert_with(Instant::now).elapsed() >= ELSEWHERE;
            if long {
                *since = None;
            }
            long
        };
        if long {
            connection.leave(what).await;
        }
    }
}

/// Whether a connection is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Up {
    pub(super) is: bool,
    /// How often it has come up.
    pub(super) times: u64,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// `InvalidArgument` for options that cannot be; `Unavailable` when no server answers, is too old, or has no
    /// JetStream; `Unauthenticated` when the login is refused.
    pub(super) async fn open(options: JetStreamOptions) -> Result<Self> {
        options.check()?;
        let (state, mut up) = watch::channel(Up::default());
        let choice = Choice::default();
        let connect = settings(&options, choice.clone()).await?.event_callback(move |event| {
            match event {
                Event::Connected => state.send_modify(|up| *up = Up { is: true, times: up.times + 1 }),
                Event::Disconnected | Event::Closed => state.send_modify(|up| up.is = false),
                Event::SlowConsumer(subscription) => {
                    tracing::warn!(subscription, "messages from NATS came faster than they were taken");
                }
                Event::ServerError(error) => tracing::warn!(%error, "NATS complains"),
                Event::ClientError(error) => tracing::debug!(%error, "the connection to NATS"),
                Event::LameDuckMode | Event::Draining => {}
            }
            std::future::ready(())
        });
        let client = connect.connect(&options.servers[..]).await.map_err(|error| {
            let shown = options.shown();
            match error.kind() {
                async_nats::ConnectErrorKind::Authentication
                | async_nats::ConnectErrorKind::AuthorizationViolation => {
                    Error::new(ErrorCode::Unauthenticated, format!("{shown} refuses the login"))
                        .hint("give a user and a password in the URL, or a credentials file")
                }
                _ => Error::new(ErrorCode::Unavailable, format!("{shown} cannot be reached: {error}"))
                    .hint("see that nats-server runs there, and that nothing is in the way"),
            }
        })?;
        // The event comes a moment after the connection.
        let _ = timeout(CONNECTING, up.wait_for(|up| up.is)).await;
        let info = client.server_info();
        let (major, minor, patch) = OLDEST;
        if !client.is_server_compatible(major, minor, patch) {
            return Err(Error::new(
                ErrorCode::Unavailable,
                format!("nats-server there is version {}, {major}.{minor} or newer is needed", info.version),
            )
            .hint("update nats-server; a cluster can be updated one server at a time"));
        }
        if !info.jetstream {
            return Err(Error::new(
                ErrorCode::Unavailable,
                format!("nats-server {} has no JetStream", info.server_name),
            )
            .hint("add jetstream { store_dir: ... } to its configuration"));
        }
        let context = ContextBuilder::new()
            .timeout(options.patience)
            .ack_timeout(options.patience)
            .build(client.clone());
        let known = info.connect_urls.len().max(options.servers.len());
        let found = match info.cluster {
            None => 1,
            Some(_) if known >= CLUSTER => CLUSTER,
            // Servers need not tell of each other. What can be made will show.
            Some(_) => 0,
        };
        let found = Arc::new(AtomicUsize::new(found));
        Ok(Self { client, context, options: Arc::new(options), up, choice, found })
    }

    /// Leaves a nats-server that does not answer for another one. Without it one whose machine hangs, or is cut off, would
    /// be noticed only when two pings have gone unanswered.
    pub(super) fn watch_over(&self, shutdown: &Shutdown) {
        let (here, shutdown) = (self.clone(), shutdown.clone());
        shutdown.clone().tasks().spawn(async move {
            tokio::select! {
                () = here.leave_the_dead() => {}
                () = shutdown.started() => {}
            }
        });
    }

    /// Leaves the nats-server that it is connected to, for another one if there is one.
    pub(super) async fn leave(&self, why: &str) {
        tracing::warn!(
            server = self.client.server_info().server_name,
            why,
            "a nats-server is left for another one"
        );
        self.choice.leave();
        // What is to be sent may fill the line to the connection; then its pings find out.
        let _ = timeout(DEAD, self.client.force_reconnect()).await;
    }

    async fn leave_the_dead(&self) {
        // Nobody listens there, which the server that this connection leads to says at once.
        let nobody = format!("{}.nobody", self.prefix());
        let mut up = self.up();
        while up.wait_for(|up| up.is).await.is_ok() {
            let times = up.borrow().times;
            let request = Request::new().payload(Bytes::new()).timeout(Some(DEAD));
            let asked = self.client.send_request(nobody.clone(), request);
            let silent = match timeout(DEAD, asked).await {
                Ok(answer) => answer.is_err_and(|error| error.kind() == RequestErrorKind::TimedOut),
                Err(_) => true,
            };
            if silent && *up.borrow() == (Up { is: true, times }) {
                self.leave("it does not answer").await;
                // It takes a moment to notice.
                let _ = timeout(DEAD, up.wait_for(|up| up.times != times)).await;
            }
            tokio::time::sleep(ALIVE).await;
        }
    }

    /// What every name in NATS begins with.
    pub(super) fn prefix(&self) -> &str {
        &self.options.prefix
    }

    /// Whether it is up, now and as it changes.
    pub(super) fn up(&self) -> watch::Receiver<Up> {
        self.up.clone()
    }

    /// How many replicas a new stream is given.
    pub(super) fn replicas(&self) -> usize {
        let found = match self.found.load(Ordering::Relaxed) {
            0 => CLUSTER,
            found => found,
        };
        self.options.replicas.unwrap_or(found)
    }

    /// Whether NATS is a cluster, and new streams are kept by one of its servers though nobody said so.
    pub(super) fn is_cluster_of_one(&self) -> bool {
        let is_cluster = self.client.server_info().cluster.is_some();
        is_cluster && self.options.replicas.is_none() && self.replicas() < CLUSTER
    }

    /// Takes in with how many replicas a stream could be made, or was found.
    fn finds(&self, replicas: usize) {
        let _ = self.found.compare_exchange(0, replicas, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Finds a stream, or makes it where it is not there. A cluster that has just started may need a while to agree.
    ///
    /// # Errors
    /// `Unavailable` when NATS does not answer in time, or refuses.
    pub(super) async fn stream(&self, mut config: stream::Config) -> Result<stream::Stream> {
        let name = config.name.clone();
        let began = Instant::now();
        let deadline = began + STARTING;
        loop {
            let error = match timeout(FINDING, self.context.get_stream(&name)).await {
                Ok(Ok(stream)) => {
                    self.finds(stream.cached_info().config.num_replicas);
                    return Ok(stream);
                }
                Ok(Err(_)) => match timeout(MAKING, self.context.create_stream(config.clone())).await {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => {
                        let is_known =
                            self.found.load(Ordering::Relaxed) > 0 || self.options.replicas.is_some();
                        if !is_known && has_too_few(&error) && began.elapsed() >= GATHERING {
                            config.num_replicas = 1;
                        }
                        error.to_string()
                    }
                    Err(_) => "nobody answers".to_owned(),
                },
                Err(_) => "nobody answers".to_owned(),
            };
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorCode::Unavailable,
                    format!("the stream {name} can neither be found nor made in NATS: {error}"),
                )
                .hint("see that JetStream works there (`nats server check jetstream`), and what this user may do"));
            }
            tracing::debug!(name, error, "a stream is not there yet");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Has another nats-server lead a stream. One that was cut off while a message was on its way may believe for ever that
    /// it still is, and takes no other one of that subject; that ends when it does not lead any more.
    pub(super) async fn change_leader(&self, stream: &str) {
        tracing::warn!(
            stream,
            "NATS takes a message for one that is on its way: another leader is asked for"
        );
        let request = Request::new().payload(Bytes::new()).timeout(Some(FINDING));
        let asked = self.client.send_request(format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}"), request);
        if let Ok(Err(error)) = timeout(FINDING, asked).await {
            tracing::debug!(stream, %error, "no other leader");
        }
    }

    /// Closes it, with what waits to be sent sent, if it goes on its way at all.
    pub(super) async fn close(&self) {
        let _ = timeout(CONNECTING, self.client.flush()).await;
        let _ = timeout(CONNECTING, self.client.drain()).await;
    }
}

/// Whether a stream could not be made because there are not so many servers.
fn has_too_few(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(error) if error.error_code().0 == NO_PEERS)
}

async fn settings(options: &JetStreamOptions, choice: Choice) -> Result<ConnectOptions> {
    let mut connect = ConnectOptions::new()
        .name(&options.name)
        .ping_interval(PING)
        .connection_timeout(CONNECTING)
        .request_timeout(Some(options.patience))
        .reconnect_to_server_callback(move |servers, _| std::future::ready(choice.next(&servers)));
    match &options.login {
        None => {}
        Some(NatsLogin::Password(user, password)) => {
            connect = connect.user_and_password(user.clone(), password.expose_secret().to_owned());
        }
        Some(NatsLogin::Token(token)) => connect = connect.token(token.expose_secret().to_owned()),
        Some(NatsLogin::File(path)) => {
            connect = connect.credentials_file(path).await.map_err(|error| {
                Error::invalid(format!("the credentials in {} cannot be used: {error}", path.display()))
            })?;
        }
    }
    if let Some(ca) = &options.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    Ok(connect)
}
