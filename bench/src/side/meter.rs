//! What a server uses while a work is done.

use std::time::Instant;

use crate::peers::{Process, Server, Usage};
use crate::samples::Latencies;

use super::results::Sample;

/// The system counts processor time in hundredths of a second: less than this says nothing.
const RESOLVED: f64 = 0.05;

/// Watches a server from now on.
pub(crate) struct Meter<'a> {
    server: &'a dyn Server,
    before: Usage,
    start: Instant,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(server: &'a dyn Server) -> Self {
        server.processes().iter().for_each(Process::forget_peak);
        Self { server, before: server.usage().unwrap_or_default(), start: Instant::now() }
    }

    /// What it used for so many messages, done by now.
    pub(crate) fn stop(self, messages: u64, latencies: Option<&Latencies>) -> Sample {
        let seconds = self.start.elapsed().as_secs_f64();
        self.stop_after(seconds, messages, latencies)
    }

    /// The same where what counts took another time.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn stop_after(self, seconds: f64, messages: u64, latencies: Option<&Latencies>) -> Sample {
        let after = self.server.usage();
        let quantile = |part| latencies.map(|latencies| latencies.quantile(part));
        Sample {
            rate: Some(messages as f64 / seconds),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            cpu_s_per_million: after
                .map(|after| after.cpu - self.before.cpu)
                .filter(|used| messages > 0 && *used >= RESOLVED)
                .map(|used| used / (messages as f64 / 1e6)),
            rss: after.map(|after| after.peak),
        }
    }
}
