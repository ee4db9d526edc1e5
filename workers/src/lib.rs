//! Running services: pools, processes, settling, deployment.
//!
//! [`run`] follows the services in the store (`reconcile`), keeps each as its record says (`service`) with a
//! pool of processes (`pool`, `process`), hands them messages (`consumer`) and requests (`intake`) by way of
//! one `dispatch`, says what became of them (`conversation`), and answers whoever deploys (`deploy`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Broker, Result, Shutdown};
use tokio_util::sync::CancellationToken;

mod call;
mod consumer;
mod conversation;
mod deploy;
mod dispatch;
mod failures;
mod folder;
mod intake;
mod launch;
mod leftovers;
mod logs;
mod pool;
mod process;
mod reconcile;
mod service;
mod status;

pub use folder::PYTHON_SDK;

use folder::Folder;
use launch::Workshop;
use reconcile::Reconciler;
use status::Statuses;

/// How services are run on this server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's name, under which its statuses are known.
    pub server: String,
    /// The interpreter: a path, or a name that is looked up in `PATH`.
    pub python: PathBuf,
    /// How long a process may take to import a service's code; 30 s unless said.
    pub ready_within: Duration,
    /// A folder of the server's own for code and working directories. What is in it matters only while the
    /// server runs.
    pub folder: PathBuf,
}

impl Options {
    /// The server of this name, with `python3` and this folder.
    #[must_use]
    pub fn new(server: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        Self {
            server: server.into(),
            python: "python3".into(),
            ready_within: Duration::from_secs(30),
            folder: folder.into(),
        }
    }
}

/// Runs the services of the cluster on this server until the shutdown begins, and returns when what they held
/// is settled or given back: at the latest when the shutdown's grace is over.
///
/// # Errors
/// When the folder cannot be made, or the broker does not let it serve deployments.
pub async fn run(options: Options, broker: Arc<dyn Broker>, shutdown: Shutdown) -> Result<()> {
    let root = options.folder.clone();
    let folder = tokio::task::spawn_blocking(move || Folder::create(&root))
        .await
        .map_err(|cause| crossdock_topics::Error::internal(cause.to_string()))??;
    // Tasks of our own, so that what writes the statuses can end after all that report them.
    let ours = shutdown.child();
    let workshop = Workshop {
        options: Arc::new(options),
        broker: broker.clone(),
        folder: Arc::new(folder),
        shutdown: ours.clone(),
    };
    let statuses = Statuses::new(broker);
    let stop = CancellationToken::new();
    let writing = shutdown.tasks().spawn(statuses.clone().run(stop.clone()));
    deploy::serve(workshop.clone()).await?;
    ours.tasks().spawn(Reconciler::new(workshop, statuses).run());
    shutdown.started().await;
    if tokio::time::timeout(shutdown.grace(), ours.drain()).await.is_err() {
        tracing::warn!("some services could not be stopped in time");
    }
    stop.cancel();
    let _ = writing.await;
    Ok(())
}
