//! Serving a listener: bounded connections, a clock on every wait, a drained end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use crossdock_topics::Shutdown;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Limits;
use crate::socket::Socket;
use crate::unread::announce_close;

/// The largest head of a request, and the most that is buffered of a response that nobody takes, in bytes.
const MAX_BUFFER: usize = 128 * 1024;
/// The most headers of a request.
const MAX_HEADERS: usize = 300;

/// Serves HTTP/1.1 until shutdown begins. Then no connection is taken any more, idle ones are closed, requests
/// under way are finished, and what is left after the shutdown's grace is cut.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: &Shutdown) {
    let router = router.layer(axum::middleware::from_fn(announce_close));
    let room = Arc::new(Semaphore::new(limits.connections));
    let connections = shutdown.child();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.started() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, permit)) = accepted else { break };
        let (router, shutdown, cut) = (router.clone(), connections.clone(), cut.clone());
        connections.tasks().spawn(async move {
            tokio::select! {
                () = connection(stream, router, limits, &shutdown) => {}
                () = cut.cancelled() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(shutdown.grace(), connections.drain()).await.is_err() {
        tracing::warn!(left = connections.tasks().len(), "requests did not finish in time and are cut off");
        cut.cancel();
        connections.drain().await;
    }
}

/// The next connection, once there is room for one.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, permit)),
            Err(error) => {
                // Out of file descriptors, or a peer that went away between: neither ends the listener.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, shutdown: &Shutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let socket = TokioIo::new(Socket::new(stream, limits.stall));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADERS)
        .serve_connection(socket, TowerToHyperService::new(router));
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = shutdown.started() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
