//! The process that is tortured: a broker on a folder, for everybody who can reach it on this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use crossdock_broker::remote::{ServeOptions, serve};
use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_topics::{Broker, Error, ErrorCode, Shutdown};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Result;
use crate::output;

/// A broker for `crossdock verify`. It ends when its standard input does
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder of the data
    #[arg(long)]
    directory: PathBuf,
    /// Where to listen
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
    /// No file can become larger than this many bytes
    #[arg(long)]
    file_limit: Option<u64>,
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        if !self.listen.ip().is_loopback() {
            return Err(
                Error::invalid("it asks nobody who he is, and so listens on this machine only").into()
            );
        }
        let _limit = self.file_limit.map(limit).transpose()?;
        let listener = TcpListener::bind(self.listen).await;
        let listening = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = listening.map_err(|cause| {
            Error::new(ErrorCode::Unavailable, format!("cannot listen on {}: {cause}", self.listen))
        })?;
        let options = EmbeddedOptions::new(&self.directory);
        let opened = tokio::task::spawn_blocking(move || Embedded::open(options)).await;
        let broker = opened.map_err(|cause| Error::internal(cause.to_string()))??;
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let served =
            tokio::spawn(serve(ServeOptions::default(), listener, broker.clone(), None, shutdown.clone()));
        output::print(&format!("{address}\n"))?;
        let mut rest = [0; 64];
        while tokio::io::stdin().read(&mut rest).await.is_ok_and(|read| read > 0) {}
        shutdown.drain().await;
        let _ = served.await;
        broker.close().await;
        Ok(())
    }
}

/// Lets writes beyond so many bytes of a file fail, as they do on a disk that is full. The signal that comes with it
/// is caught for as long as what this gives is held.
fn limit(bytes: u64) -> Result<Signal, Error> {
    let failed = |cause: std::io::Error| Error::internal(format!("cannot limit the size of files: {cause}"));
    let caught = signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(failed)?;
    let rules = Rlimit { current: Some(bytes), ..getrlimit(Resource::Fsize) };
    setrlimit(Resource::Fsize, rules).map_err(|cause| failed(cause.into()))?;
    Ok(caught)
}
