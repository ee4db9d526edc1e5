//! A broker in another process.

mod connection;
mod driver;
mod lanes;
mod link;
mod log;
mod options;
mod requests;
mod serving;
mod store;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{Broker, Health, Result};

pub(crate) use connection::Peer;
pub use options::{Address, DEFAULT_PORT, RemoteOptions};

use link::Link;

/// A broker in another process, over one connection, which is made again when it is lost.
///
/// Meanwhile [`Broker::health`] says that it is not ready. What was published and has no receipt is sent again, in
/// order, and stored once; questions whose answer changes nothing are asked again; watches go on where they were;
/// consumers join again under the name they have. What cannot be repeated fails with `Unavailable` and says so. After
/// [`RemoteOptions::patience`] without a connection everything that waits fails so.
pub struct Remote {
    link: Arc<Link>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("address", &self.link.shown).finish_non_exhaustive()
    }
}

impl Remote {
    /// Connects.
    ///
    /// # Errors
    /// `Unavailable` when nobody answers there; what the server refuses the client with, such as `Unauthenticated`;
    /// `InvalidArgument` for credentials that would be sent in the open.
    pub async fn connect(options: RemoteOptions) -> Result<Arc<Self>> {
        options.check_credentials()?;
        let (patience, waiting_bytes) = (options.patience, options.waiting_bytes);
        Self::to(options, patience, waiting_bytes).await
    }

    /// Connects to another process, however that is reached; `patience` and `waiting_bytes` as in [`RemoteOptions`].
    ///
    /// # Errors
    /// As [`Remote::connect`].
    pub(crate) async fn to(peer: impl Peer, patience: Duration, waiting_bytes: usize) -> Result<Arc<Self>> {
        let pipe = connection::connect(&peer).await?;
        // Whoever gives up waiting ends it with that.
        let remote = Arc::new(Self { link: Arc::new(Link::new(peer, patience, waiting_bytes)) });
        remote.link.tasks.spawn(driver::drive(remote.link.clone(), pipe));
        remote.link.connected().await?;
        Ok(remote)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.link.begin_close();
    }
}

#[async_trait]
impl Broker for Remote {
    fn health(&self) -> Health {
        self.link.health()
    }

    /// Closes the connection: the broker goes on for others.
    async fn close(&self) {
        self.link.begin_close();
        self.link.tasks.close();
        self.link.tasks.wait().await;
    }
}
