//! A line between an engine and a nats-server that can be cut and mended.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of what is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections end, and new ones find nobody.
    Cut,
}

/// Passes connections on until it is cut.
pub(crate) struct Line {
    pub(crate) url: String,
    state: watch::Sender<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Line {
    pub(crate) async fn to(url: &str) -> Self {
        let to: SocketAddr = url.strip_prefix("nats://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
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
        Self { url, state, task }
    }

    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Whole);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}
