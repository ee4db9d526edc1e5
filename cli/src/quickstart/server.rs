//! The parts of a server, put together around one broker.

use std::sync::Arc;
use std::time::Duration;

use crossdock_access::Access;
use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_topics::{Error, ErrorCode, Result, SharedBroker, Shutdown, Store};
use tokio::sync::mpsc;

use super::directory::Directory;
use super::part;
use super::ports::Ports;

/// How long the broker may take to make durable what it has accepted.
const CLOSE: Duration = Duration::from_secs(30);

/// Opens the broker of a directory.
///
/// # Errors
/// `Conflict` when another process has it open.
pub(super) async fn open_broker(directory: &Directory, accept_loss: bool) -> Result<SharedBroker> {
    let options = EmbeddedOptions { accept_loss, ..EmbeddedOptions::new(directory.broker()) };
    let opened = tokio::task::spawn_blocking(move || Embedded::open(options)).await;
    let opened = opened.map_err(|cause| Error::internal(format!("opening the broker failed: {cause}")))?;
    opened.map(|broker| broker as SharedBroker).map_err(|error| match error.code {
        ErrorCode::Conflict => Error::new(
            ErrorCode::Conflict,
            format!("{} is in use by another process", directory.path().display()),
        )
        .hint(
            "it runs already: use it, stop it first, or start this one in another directory with other ports",
        ),
        _ => error,
    })
}

/// Everything that runs.
pub(super) struct Server {
    broker: SharedBroker,
    access: Shutdown,
    workers: Shutdown,
    /// Gateway and Admin API.
    faces: [Shutdown; 2],
    ends: mpsc::Receiver<Error>,
}

impl Server {
    /// Starts the parts, from the bottom up.
    ///
    /// # Errors
    /// When one cannot start.
    pub(super) async fn start(
        broker: SharedBroker,
        directory: &Directory,
        ports: Ports,
        gateway_url: &str,
    ) -> Result<Self> {
        let name = name();
        let (access_end, workers_end) = (part(), part());
        let access = Access::open(Arc::clone(&broker) as Arc<dyn Store>, &access_end).await?;
        let (ended, ends) = mpsc::channel(3);

        let options = crossdock_workers::Options::new(name.as_str(), directory.services());
        let run = crossdock_workers::run(options, Arc::clone(&broker), workers_end.clone());
        watch(&workers_end, "running services", &ended, run);

        let gateway_end = part();
        let options = crossdock_gateway::http::Options::default();
        let run = crossdock_gateway::http::run(
            options,
            ports.gateway,
            Arc::clone(&broker),
            access.clone(),
            gateway_end.clone(),
        );
        watch(&gateway_end, "the HTTP gateway", &ended, run);

        let admin_end = part();
        let options = crossdock_control::Options { name, gateway_url: gateway_url.to_owned() };
        let run =
            crossdock_control::run(options, ports.admin, Arc::clone(&broker), access, admin_end.clone());
        watch(&admin_end, "the Admin API", &ended, run);

        Ok(Self { broker, access: access_end, workers: workers_end, faces: [gateway_end, admin_end], ends })
    }

    /// Resolves when a part has ended before it was told to, with the reason.
    pub(super) async fn ended(&mut self) -> Error {
        match self.ends.recv().await {
            Some(error) => error,
            None => Error::internal("every part has ended"),
        }
    }

    /// Stops the parts, from the top down. Each gets its grace, and a second beyond it to give up in.
    pub(super) async fn stop(self) {
        let [gateway, admin] = &self.faces;
        tokio::join!(drain("the HTTP gateway", gateway), drain("the Admin API", admin));
        drain("running services", &self.workers).await;
        drain("the watch over users", &self.access).await;
        if tokio::time::timeout(CLOSE, self.broker.close()).await.is_err() {
            tracing::warn!("the broker did not close in {CLOSE:?}; what was acknowledged is safe");
        }
    }
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

/// What this server is called: as its machine is, with the characters a name can have. Over a restart it is
/// the same.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fine = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '-' };
    let name: String = host.trim().chars().map(fine).take(100).collect();
    if name.is_empty() { "server".into() } else { name }
}
