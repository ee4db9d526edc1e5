//! Bytes on a socket, for requests that no HTTP client would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection to `host:port`.
///
/// # Panics
/// When nobody listens there.
pub async fn open(address: &str) -> TcpStream {
    TcpStream::connect(address).await.unwrap_or_else(|cause| panic!("{address}: {cause}"))
}

/// Sends these bytes and gives what comes back until the other side closes or is silent for `patience`.
///
/// # Panics
/// When nobody listens there.
pub async fn exchange(address: &str, bytes: &[u8], patience: Duration) -> String {
    let mut stream = open(address).await;
    // The other side may close before it has read all of it: what it said until then counts.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(length @ 1..)) = tokio::time::timeout(patience, stream.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
