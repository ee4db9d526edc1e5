//! Making a connection: dial, encrypt, say who is asking.

use std::future::poll_fn;
use std::time::Duration;

use async_trait::async_trait;
use crossdock_access::Credentials;
use crossdock_topics::{Error, ErrorCode, Result};
use crossdock_wire::session::{self, Login, ToClient, ToServer};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;

use super::options::RemoteOptions;
use crate::remote::pieces::Pieces;
use crate::remote::pipe::{Pipe, Stream};
use crate::remote::tls;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Another process that offers a broker, and how it is reached.
#[async_trait]
pub(crate) trait Peer: Send + Sync + 'static {
    /// What it is called in errors and logs.
    fn shown(&self) -> String;

    /// Who is asking: a name for its logs, and what proves it.
    fn asking(&self) -> (String, Option<Login>);

    /// Something to talk over.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be reached.
    async fn dial(&self) -> Result<Box<dyn Stream>>;
}

/// A connection that has been welcomed, and what holds in it.
pub(super) struct Connected {
    pub(super) pipe: Pipe,
    pub(super) heartbeat: Duration,
    pub(super) server: String,
}

/// Makes a connection.
///
/// # Errors
/// `Unavailable`, or what the server says.
pub(super) async fn connect(peer: &dyn Peer) -> Result<Connected> {
    match tokio::time::timeout(PATIENCE, introduce(peer)).await {
        Ok(connected) => connected,
        Err(_) => Err(Error::new(
            ErrorCode::Unavailable,
            format!("{} did not answer within {}", peer.shown(), humantime::format_duration(PATIENCE)),
        )),
    }
}

#[async_trait]
impl Peer for RemoteOptions {
    fn shown(&self) -> String {
        self.address.to_string()
    }

    fn asking(&self) -> (String, Option<Login>) {
        (self.name.clone(), self.credentials.as_ref().map(login))
    }

    async fn dial(&self) -> Result<Box<dyn Stream>> {
        let address = &self.address;
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|error| {
            Error::new(ErrorCode::Unavailable, format!("{address} cannot be reached: {error}"))
                .hint("see that the broker's server runs there, and that nothing is in the way")
        })?;
        // Frames are gathered here already.
        let _ = stream.set_nodelay(true);
        if address.tls { tls::encrypt(self, stream).await } else { Ok(Box::new(stream)) }
    }
}

async fn introduce(peer: &dyn Peer) -> Result<Connected> {
    let mut pipe = Pipe::new(peer.dial().await?);
    let (name, login) = peer.asking();
    let hello = ToServer::Hello { id: 0, min: session::VERSION, max: session::VERSION, name, login };
    let broken = |why: String| {
        Error::new(ErrorCode::Unavailable, format!("{} broke off the greeting: {why}", peer.shown())).hint(
            "see that it is a crossdock server, and whether the URL should be crossdock:// or crossdocks://",
        )
    };
    pipe.send(&hello, Pieces::default()).map_err(|error| Error::invalid(error.to_string()))?;
    poll_fn(|cx| pipe.poll_flush(cx)).await.map_err(|error| broken(error.to_string()))?;
    let frame = poll_fn(|cx| pipe.poll_frame(cx)).await.map_err(|error| broken(error.to_string()))?;
    let frame = frame.ok_or_else(|| broken("it closed the connection".into()))?;
    match frame.header().map_err(|error| broken(error.to_string()))? {
        ToClient::Welcome { version: session::VERSION, server, heartbeat_ms, .. } => {
            pipe.greeted();
            Ok(Connected { pipe, heartbeat: Duration::from_millis(heartbeat_ms), server })
        }
        ToClient::Failed { error, .. } => Err(error.into()),
        other => Err(broken(format!("it began with {other:?}"))),
    }
}

fn login(credentials: &Credentials) -> Login {
    match credentials {
        Credentials::Basic { user, password } => {
            Login(Some(user.clone()), password.expose_secret().to_owned())
        }
        Credentials::ApiKey(key) => Login(None, key.expose_secret().to_owned()),
    }
}
