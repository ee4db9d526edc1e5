//! Something between a client and a server that cuts their connections at any byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Passes bytes on, and cuts each connection after so many of them in either direction.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    cuts: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Cuts the first `cuts` connections after 100 to `bytes` bytes; those after them live.
    pub(crate) async fn start(to: SocketAddr, cuts: usize, bytes: usize, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let counted = made.clone();
        let task = tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            while let Ok((client, _)) = listener.accept().await {
                let cut = counted.load(Ordering::SeqCst) < cuts;
                let mut limit = || if cut { random.random_range(100..bytes) } else { usize::MAX };
                let (to_server, to_client) = (limit(), limit());
                let counted = counted.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(to).await else { return };
                    let (client_in, client_out) = client.into_split();
                    let (server_in, server_out) = server.into_split();
                    tokio::select! {
                        () = pass(client_in, server_out, to_server) => {}
                        () = pass(server_in, client_out, to_client) => {}
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, cuts: made, task }
    }

    pub(crate) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut left: usize) {
    let mut buffer = vec![0; 16 * 1024];
    while left > 0 {
        let most = buffer.len().min(left);
        match from.read(&mut buffer[..most]).await {
            Ok(read @ 1..) => {
                left -= read;
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
