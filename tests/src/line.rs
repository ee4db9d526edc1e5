//! A line between two processes that can be cut, held up and mended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long whoever sends does not notice that it is held up.
const UNNOTICED: Duration = Duration::from_millis(20);
/// How long what was held up may take to arrive.
const LATE: Duration = Duration::from_secs(5);

/// What becomes of what is sent. Each connection has the number of times that there had been a hold-up when it began.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Connections end, and new ones find nobody.
    is_cut: bool,
    /// How often what was sent was held up.
    held: u64,
    /// Of how many of these times it has been let through.
    let_through: u64,
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
        let state = watch::Sender::new(State::default());
        let states = state.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut states = states.clone();
                let State { is_cut, held, .. } = *states.borrow_and_update();
                if is_cut {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(to).await else { return };
                    let _ = pass(client, server, held, states).await;
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
        self.state.send_modify(|state| state.is_cut = true);
    }

    /// Holds up what is sent over the connections that are there, and ends them for the one who sends a moment later. New
    /// ones are let through, and what was held up is only when the line is mended.
    pub fn hold_up(&self) {
        self.state.send_modify(|state| state.held += 1);
    }

    /// Lets new ones through again, and what was held up.
    pub fn mend(&self) {
        self.state.send_modify(|state| (state.is_cut, state.let_through) = (false, state.held));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes on what is sent either way over the connection of a number.
async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    number: u64,
    mut states: watch::Receiver<State>,
) -> io::Result<()> {
    let (mut from_client, mut from_server) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        // Nothing is given up half way: a part of what was sent would be taken for something else.
        tokio::select! {
            read = client.read(&mut from_client) => match read? {
                0 => return Ok(()),
                count => server.write_all(&from_client[..count]).await?,
            },
            read = server.read(&mut from_server) => match read? {
                0 => return Ok(()),
                count => client.write_all(&from_server[..count]).await?,
            },
            is_cut = until(&mut states, |state| state.held > number) => {
                if is_cut {
                    return Ok(());
                }
                break;
            }
        }
    }
    let mut held_up = Vec::new();
    let _ = timeout(UNNOTICED, client.read_to_end(&mut held_up)).await;
    drop(client);
    if !until(&mut states, |state| state.let_through > number).await {
        server.write_all(&held_up).await?;
        // It is dealt with while the other end does not seem to have gone.
        let _ = timeout(LATE, server.read_to_end(&mut Vec::new())).await;
    }
    Ok(())
}

/// Waits for a state; gives whether the line was cut instead.
async fn until(states: &mut watch::Receiver<State>, is: impl Fn(&State) -> bool) -> bool {
    let state = states.wait_for(|state| state.is_cut || is(state)).await;
    state.map_or(true, |state| state.is_cut)
}
