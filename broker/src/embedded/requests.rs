//! Requests to services, within this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossdock_topics::{Error, ErrorCode, Message, Reply, Request, Responder, ServiceName};
use parking_lot::RwLock;
use tokio::sync::mpsc;

/// Who serves what.
#[derive(Default)]
pub(super) struct RequestTable {
    servers: RwLock<HashMap<ServiceName, Vec<mpsc::Sender<Request>>>>,
    turn: AtomicUsize,
}

impl RequestTable {
    pub(super) fn serve(&self, service: &ServiceName, capacity: usize) -> mpsc::Receiver<Request> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let mut table = self.servers.write();
        let servers = table.entry(service.clone()).or_default();
        servers.retain(|server| !server.is_closed());
        servers.push(sender);
        receiver
    }

    /// Ends what all servers receive.
    pub(super) fn close(&self) {
        self.servers.write().clear();
    }

    pub(super) async fn request(&self, service: &ServiceName, message: Message, timeout: Duration) -> Reply {
        let deadline = Instant::now() + timeout;
        let (responder, reply) = Responder::pair();
        self.hand_over(service, Request { message, deadline, responder })?;
        match tokio::time::timeout_at(deadline.into(), reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(Responder::gone()),
            Err(_) => Err(Error::new(
                ErrorCode::Timeout,
                format!("service {service} did not answer within {}", humantime::format_duration(timeout)),
            )
            .hint("see its log, or allow it more time")),
        }
    }

    fn hand_over(&self, service: &ServiceName, mut request: Request) -> Result<(), Error> {
        let table = self.servers.read();
        let servers = table.get(service).map(Vec::as_slice).unwrap_or_default();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut full = false;
        for index in 0..servers.len() {
            match servers[turn.wrapping_add(index) % servers.len()].try_send(request) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(back)) => {
                    full = true;
                    request = back;
                }
                Err(mpsc::error::TrySendError::Closed(back)) => request = back,
            }
        }
        if full {
            return Err(Responder::full(service));
        }
        Err(Responder::nobody(service))
    }
}
