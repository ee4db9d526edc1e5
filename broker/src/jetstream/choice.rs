//! Which nats-server to connect to when the connection was lost, or its server left.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{ReconnectToServer, Server, ServerAddr};
use crossdock_topics::Backoff;
use parking_lot::Mutex;

/// How long to wait before connecting again.
const RECONNECT: Backoff =
    Backoff { first: Duration::from_millis(50), factor: 2.0, max: Duration::from_secs(2) };
/// A server that was left stands behind others that could not be reached so often.
const LEFT: usize = 3;

/// Chooses among the servers. The client by itself takes one of those that it could reach when it last tried, which, after
/// the others have been away, is for ever the one that was left.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice(Arc<Mutex<Chosen>>);

#[derive(Debug, Default)]
struct Chosen {
    /// The one it is connected to, or that was tried last.
    last: Option<ServerAddr>,
    /// The one that was left last.
    left: Option<ServerAddr>,
    /// Whether the one it is connected to is being left.
    is_leaving: bool,
}

impl Choice {
    /// From now on another one than the one it is connected to is better.
    pub(super) fn leave(&self) {
        self.0.lock().is_leaving = true;
    }

    /// The next one to try. None where it was never connected: then all are tried, one after the other.
    pub(super) fn next(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        let mut chosen = self.0.lock();
        let connected = servers.iter().find(|server| server.did_connect)?;
        let last = chosen.last.get_or_insert_with(|| connected.addr.clone()).clone();
        if std::mem::take(&mut chosen.is_leaving) {
            chosen.left = Some(last);
        }
        let behind = |server: &Server| {
            server.failed_attempts + if Some(&server.addr) == chosen.left.as_ref() { LEFT } else { 0 }
        };
        let next = servers.iter().min_by_key(|server| (behind(server), rand::random::<u32>()))?;
        let addr = next.addr.clone();
        let failures = u32::try_from(next.failed_attempts).unwrap_or(u32::MAX);
        let delay = if failures == 0 { Duration::ZERO } else { RECONNECT.wait(failures, rand::random()) };
        chosen.last = Some(addr.clone());
        Some(ReconnectToServer { addr, delay: Some(delay) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16, failed_attempts: usize, did_connect: bool) -> Server {
        Server {
            addr: format!("nats://127.0.0.1:{port}").parse().unwrap(),
            failed_attempts,
            did_connect,
            is_discovered: false,
            last_error: None,
        }
    }

    fn port(choice: &Choice, servers: &[Server]) -> u16 {
        choice.next(servers).unwrap().addr.port()
    }

    #[test]
    fn one_that_was_left_is_taken_again_when_no_other_can_be_reached() {
        let choice = Choice::default();
        assert!(choice.next(&[server(1, 0, false), server(2, 1, false)]).is_none());
        // The others were away when they were last tried.
        let servers = [server(1, 0, true), server(2, 1, false), server(3, 2, true)];
        assert_eq!(port(&choice, &servers), 1);
        choice.leave();
        assert_eq!(port(&choice, &servers), 2);
        assert_ne!(port(&choice, &[server(1, 0, true), server(2, 2, false), server(3, 2, true)]), 1);
        assert_eq!(port(&choice, &[server(1, 0, true), server(2, 4, false), server(3, 4, true)]), 1);
        // Now it is another one that is left.
        choice.leave();
        assert_ne!(port(&choice, &[server(1, 0, true), server(2, 0, true), server(3, 1, true)]), 1);
    }
}
