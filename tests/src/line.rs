//! A line between two processes that can be cut and mended.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections end, and new ones find nobody.
    Cut,
}

/// Passes connections on until it is cut.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    state: watch::Sender<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Line {
    /// A line to an address, or to a URL of one, whole at first.
    ///
    /// # Panics
    /// When that is no address, or this machine gives no port.
    pub async fn to(address: &str) -> Self {
        let to = address.split_once("://").map_or(address, |(_, address)| address);
        let to: SocketAddr = to.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = watch::Sender::new(State::Whole);
        let states = state.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut states = states.clone();
                if *states.borrow_and_update() == State::Cut {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = states.wait_for(|state| *state == State::Cut) => {}
                    }
                });
            }
        });
        Self { address, state, task }
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it begins, for clients of NATS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Ends all connections; new ones find nobody.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Lets new ones through again.
    pub fn mend(&self) {
        self.state.send_replace(State::Whole);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}
