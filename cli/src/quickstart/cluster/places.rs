//! Which ports a cluster on one machine takes.

use std::net::TcpListener;

use crossdock_topics::{Error, ErrorCode, Result};
use rand::RngExt;

/// How many servers, and how many nats-servers.
pub(super) const SERVERS: usize = 3;
/// From the first port of one to that of the next.
const STEP: u16 = 10;
/// Ports of each: gateway, Admin API, wire; or clients, cluster, monitoring.
const EACH: u16 = 3;
/// From the first port to the last one.
const ALL: u16 = STEP * (2 * SERVERS as u16 - 1) + EACH - 1;
/// Where ports are looked for when any will do: below those that systems give out by themselves.
const ANY: std::ops::Range<u16> = 10_000..30_000;

/// The first port of each, all on the loopback address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) servers: Vec<u16>,
    pub(super) nats: Vec<u16>,
}

impl Places {
    /// From `base` on, or with 0 wherever all are free. Ports in use are found now, not when a program has started.
    ///
    /// # Errors
    /// `Conflict` when one is in use, naming it; `InvalidArgument` for a base beyond which there are too few.
    pub(super) fn find(base: u16) -> Result<Self> {
        if base == 0 {
            for _ in 0..100 {
                let places = Self::from(rand::rng().random_range(ANY));
                if places.taken().is_none() {
                    return Ok(places);
                }
            }
            return Err(Error::new(ErrorCode::Conflict, "no ports were found to be free")
                .hint("name some with --port-base"));
        }
        if base > u16::MAX - ALL {
            return Err(Error::invalid(format!(
                "a cluster takes ports from {base} to {}",
                u32::from(base) + u32::from(ALL)
            ))
            .hint(format!("--port-base can be {} at most", u16::MAX - ALL)));
        }
        let places = Self::from(base);
        match places.taken() {
            None => Ok(places),
            Some(port) => {
                Err(Error::new(ErrorCode::Conflict, format!("port {port} is in use by another program"))
                    .hint("stop that program, or use other ports: --port-base"))
            }
        }
    }

    /// Where clients of NATS go, without a login.
    pub(super) fn nats_url(&self) -> String {
        let hosts: Vec<String> = self.nats.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("nats://{}", hosts.join(","))
    }

    fn from(base: u16) -> Self {
        let first = |number: usize| base + STEP * number as u16;
        Self { servers: (0..SERVERS).map(first).collect(), nats: (SERVERS..2 * SERVERS).map(first).collect() }
    }

    fn taken(&self) -> Option<u16> {
        let all = self.servers.iter().chain(&self.nats).flat_map(|first| *first..first + EACH);
        all.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_three_ports_of_its_own() {
        let places = Places::from(7400);
        assert_eq!(
            (places.servers.as_slice(), places.nats.as_slice()),
            (&[7400, 7410, 7420][..], &[7430, 7440, 7450][..])
        );
        assert_eq!(places.nats_url(), "nats://127.0.0.1:7430,127.0.0.1:7440,127.0.0.1:7450");
        assert_eq!(Places::find(65_535).unwrap_err().code, ErrorCode::InvalidArgument);
        Places::from(u16::MAX - ALL);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let free = Places::find(0).unwrap();
        let port = free.nats[1] + 2;
        let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let error = Places::find(free.servers[0]).unwrap_err();
        assert!(error.code == ErrorCode::Conflict && error.message.contains(&port.to_string()), "{error}");
    }
}
