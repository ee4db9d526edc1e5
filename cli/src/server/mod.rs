//! The parts of a server, put together around one broker.
//!
//! It starts from the bottom up and stops from the top down: listeners first, so that nothing new comes in, then the
//! services, which finish what they hold, and the broker last. Each has a bound on its time.

pub(crate) mod admin;
pub(crate) mod broker;
mod credentials;
pub(crate) mod memory;
pub(crate) mod ports;
pub(crate) mod run;
pub(crate) mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossdock_access::Access;
use crossdock_broker::remote::ServeOptions;
use crossdock_topics::{Error, Result, SharedBroker, Shutdown, Store};
use tokio::sync::mpsc;

use self::ports::Ports;
use self::signals::Signals;
use crate::failure::Failure;
use crate::output::say;

/// How long each part may take to finish what it holds.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// How long the broker may take to make durable what it has accepted.
const CLOSE: Duration = Duration::from_secs(30);

/// What a server is made of.
pub(crate) struct Parts {
    /// What it is called; different from all other servers of its cluster.
    pub(crate) name: String,
    /// What it works on.
    pub(crate) broker: SharedBroker,
    /// Where services are run from; made anew at each start.
    pub(crate) services: PathBuf,
    /// Where it listens.
    pub(crate) ports: Ports,
    /// Where its gateway is reached.
    pub(crate) gateway_url: String,
    /// Where its broker is reached over the wire, and how that is offered if it is offered here.
    pub(crate) broker_url: Option<String>,
    pub(crate) wire: ServeOptions,
}

/// Everything that runs.
pub(crate) struct Server {
    broker: SharedBroker,
    access: Shutdown,
    workers: Shutdown,
    /// Gateway, Admin API and wire.
    faces: Vec<(&'static str, Shutdown)>,
    ends: mpsc::Receiver<Error>,
}

impl Server {
    /// Starts the parts, from the bottom up.
    ///
    /// # Errors
    /// When one cannot start.
    pub(crate) async fn start(parts: Parts) -> Result<Self> {
        let Parts { name, broker, services, ports, gateway_url, broker_url, wire } = parts;
        let (access_end, workers_end) = (part(), part());
        let access = Access::open(Arc::clone(&broker) as Arc<dyn Store>, &access_end).await?;
        let (ended, ends) = mpsc::channel(4);

        let options = crossdock_workers::Options::new(name.as_str(), services);
        let run = crossdock_workers::run(options, Arc::clone(&broker), workers_end.clone());
        watch(&workers_end, "running services", &ended, run);

        let mut faces = Vec::new();
        if let Some(listener) = ports.wire {
            let end = part();
            let (broker, access, shutdown) = (Arc::clone(&broker), access.clone(), end.clone());
            let run = async move {
                crossdock_broker::remote::serve(wire, listener, broker, Some(access), shutdown).await;
                Ok(())
            };
            watch(&end, "the broker's wire", &ended, run);
            faces.push(("the broker's wire", end));
        }
        let end = part();
        let run = crossdock_gateway::http::run(
            crossdock_gateway::http::Options::default(),
            ports.gateway,
            Arc::clone(&broker),
            access.clone(),
            end.clone(),
        );
        watch(&end, "the HTTP gateway", &ended, run);
        faces.push(("the HTTP gateway", end));

        let end = part();
        let options = crossdock_control::Options { name, gateway_url, broker_url };
        let run = crossdock_control::run(options, ports.admin, Arc::clone(&broker), access, end.clone());
        watch(&end, "the Admin API", &ended, run);
        faces.push(("the Admin API", end));

        Ok(Self { broker, access: access_end, workers: workers_end, faces, ends })
    }

    /// Runs until it is told to stop, and stops.
    ///
    /// # Errors
    /// When a part ended before; [`Failure::Interrupted`] at a second signal.
    pub(crate) async fn until_told(mut self, mut signals: Signals) -> Result<(), Failure> {
        let ended = tokio::select! {
            () = signals.next() => Ok(()),
            ended = self.ends.recv() => {
                Err(ended.unwrap_or_else(|| Error::internal("every part has ended")))
            }
        };
        say("stopping: no new requests; what is under way is finished. Ctrl-C again ends it at once");
        tokio::select! {
            () = self.stop() => {}
            () = signals.next() => return Err(Failure::Interrupted),
        }
        ended.map_err(Failure::from)
    }

    /// Stops the parts, from the top down. Each gets its grace, and a second beyond it to give up in.
    async fn stop(self) {
        futures::future::join_all(self.faces.iter().map(|(what, end)| drain(what, end))).await;
        drain("running services", &self.workers).await;
        drain("the watch over users", &self.access).await;
        if tokio::time::timeout(CLOSE, self.broker.close()).await.is_err() {
            tracing::warn!("the broker did not close in {CLOSE:?}; what was acknowledged is safe");
        }
    }
}

/// A part's own end: it starts when it is told to, and has its own time for it.
fn part() -> Shutdown {
    Shutdown::new(GRACE)
}

/// Runs a part as a task of its own shutdown. One that ends before it was told to is reported.
fn watch(
    end: &Shutdown,
    what: &'static str,
    ended: &mpsc::Sender<Error>,
    run: impl Future<Output = Result<()>> + Send + 'static,
) {
    let (shutdown, ended) = (end.clone(), ended.clone());
    end.tasks().spawn(async move {
        let result = run.await;
        if !shutdown.has_started() {
            let error = result.err().unwrap_or_else(|| Error::internal("it ended for no reason it gave"));
            let message = format!("{what} stopped: {}", error.message);
            // The channel has room for every part.
            let _ = ended.try_send(Error { message: message.into(), ..error });
        }
    });
}

async fn drain(what: &str, end: &Shutdown) {
    let bound = end.grace() + Duration::from_secs(1);
    if tokio::time::timeout(bound, end.drain()).await.is_err() {
        tracing::warn!("{what} did not stop in {bound:?} and is cut off");
    }
}

/// What the machine is called, with the characters a server's name can have. Over a restart it is the same.
pub(crate) fn machine() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fine = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '-' };
    let name: String = host.trim().chars().map(fine).take(90).collect();
    if name.is_empty() { "server".into() } else { name }
}
