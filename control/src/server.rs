//! What every handler works on.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use crossdock_access::Access;
use crossdock_config::Member;
use crossdock_http::Limits;
use crossdock_topics::{Page, Result, SharedBroker, Shutdown, StartAt, Store, TopicName};

/// This server, cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) broker: SharedBroker,
    /// Where the broker is reached over the wire.
    pub(crate) broker_url: Option<Arc<str>>,
    pub(crate) access: Access,
    pub(crate) member: Arc<Member>,
    pub(crate) limits: Limits,
    pub(crate) shutdown: Shutdown,
}

impl Server {
    /// The largest body of a request: a configuration with the code of its services, or a batch of messages.
    pub(crate) const MAX_BODY: usize = 32 * 1024 * 1024;
    /// How long a publish may take to become durable.
    pub(crate) const PUBLISH: Duration = Duration::from_secs(30);

    /// The store of the cluster.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.broker
    }
}

impl FromRef<Server> for Access {
    fn from_ref(server: &Server) -> Self {
        server.access.clone()
    }
}

impl FromRef<Server> for Limits {
    fn from_ref(server: &Server) -> Self {
        server.limits
    }
}

impl Server {
    /// Reads a topic, not waiting any longer once this server is stopping.
    pub(crate) async fn read(
        &self,
        topic: &TopicName,
        from: StartAt,
        max: usize,
        wait: Duration,
    ) -> Result<Page> {
        tokio::select! {
            page = self.broker.read(topic, from, max, wait) => page,
            () = self.shutdown.started() => self.broker.read(topic, from, max, Duration::ZERO).await,
        }
    }
}
