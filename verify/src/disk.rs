//! What the disk does by itself: how long it takes to make a few KiB durable.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Each write, in bytes.
const WRITE: usize = 4096;

/// Times in ascending order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// So many of a hundred took no longer.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// Appends to a file and syncs it again and again.
pub(crate) fn measure(folder: &Path, length: Duration) -> io::Result<Times> {
    let path = folder.join("probe");
    let mut file = File::create(&path)?;
    let bytes = [0x5A; WRITE];
    let (mut times, began) = (Vec::new(), Instant::now());
    while began.elapsed() < length {
        let start = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    drop(file);
    std::fs::remove_file(&path)?;
    Ok(Times::new(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_taken() {
        let times = Times::new((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(times.percentile(50), Duration::from_millis(101));
        assert_eq!(times.percentile(99), Duration::from_millis(199));
        assert_eq!(Times::default().percentile(99), Duration::ZERO);
        let folder = tempfile::tempdir().unwrap();
        let measured = measure(folder.path(), Duration::from_millis(30)).unwrap();
        assert!(!measured.percentile(50).is_zero() && !folder.path().join("probe").exists());
    }
}
