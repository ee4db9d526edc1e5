//! What a connection may take before it is cut.

use std::time::Duration;

/// The bounds of a listener. Every wait on a peer has one of these as its end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time; more wait in the operating system's queue.
    pub connections: usize,
    /// How long the head of a request may take to arrive, and a kept-alive connection may be idle.
    pub head: Duration,
    /// How long a whole body may take to arrive.
    pub body: Duration,
    /// How long a peer may take nothing of what is written to it.
    pub stall: Duration,
    /// The largest body of a request for which nothing narrower is said, in bytes.
    pub max_body: usize,
}

impl Default for Limits {
    /// 4096 connections; 30 s for a head, 60 s for a body, 30 s of no reading; bodies of 1 MiB.
    fn default() -> Self {
        Self {
            connections: 4096,
            head: Duration::from_secs(30),
            body: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            max_body: 1024 * 1024,
        }
    }
}
