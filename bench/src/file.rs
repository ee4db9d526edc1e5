//! The yardstick: what a plain append-only file does on the same disk, with the same syncs.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::report::Value;
use crate::samples::Latencies;

/// How large the recycled file is: as large as a log file of the broker.
const RECYCLED: u64 = 64 << 20;

/// What the file's blocks lie on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Space {
    /// New space each time: the file system's journal is written too.
    Growing,
    /// Space that was written before, as recycled log files have it.
    Recycled,
}

/// Writes what is in flight at one go, syncs it, and begins again: the best that a log could do with so many
/// messages waiting for its acknowledgement. Nothing is framed, checked, indexed or answered.
pub(crate) fn append(
    folder: &Path,
    space: Space,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> Result<Value, Failure> {
    let path = folder.join("plain");
    let mut file = File::create(&path)?;
    if matches!(space, Space::Recycled) {
        let megabyte = vec![1; 1 << 20];
        for _ in 0..RECYCLED >> 20 {
            file.write_all(&megabyte)?;
        }
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
    }
    let run = vec![b'x'; size * in_flight];
    let (mut written, mut at) = (0_u64, 0_u64);
    let mut latencies = Latencies::default();
    let start = Instant::now();
    while start.elapsed() < time {
        if matches!(space, Space::Recycled) && at + run.len() as u64 > RECYCLED {
            file.seek(SeekFrom::Start(0))?;
            at = 0;
        }
        let begin = Instant::now();
        file.write_all(&run)?;
        file.sync_data()?;
        latencies.add(begin.elapsed());
        at += run.len() as u64;
        written += in_flight as u64;
    }
    let value = rate(written, start.elapsed());
    drop(file);
    std::fs::remove_file(path)?;
    Ok(Value {
        unit: "messages/s",
        value,
        latency: Some((latencies.quantile(0.5), latencies.quantile(0.99))),
    })
}

/// So many in that time, per second.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
