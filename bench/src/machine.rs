//! What the figures were taken on.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A machine, as far as it matters here.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    system: String,
    disk: String,
    version: String,
}

/// This machine, with the disk that a folder is on.
pub(crate) fn describe(folder: &Path) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kilobytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name")
            .unwrap_or_else(|| std::env::consts::ARCH.into()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: kilobytes / 1024 / 1024,
        system: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        disk: disk(folder, &read("/proc/mounts")),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The device and file system of the mount that holds a folder: the longest that it lies under.
fn disk(folder: &Path, mounts: &str) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let holds = |line: &&str| line.split(' ').nth(1).is_some_and(|mount| folder.starts_with(mount));
    let mount = mounts.lines().filter(holds).max_by_key(|line| line.split(' ').nth(1).map_or(0, str::len));
    let mut parts = mount.unwrap_or_default().split(' ');
    let (device, system) = (parts.next().unwrap_or("unknown"), parts.nth(1).unwrap_or("unknown"));
    format!("{device} ({system})")
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, memory_gib, system, disk, version } = self;
        write!(
            f,
            "Crossdock {version} on {cores} cores of {processor}, {memory_gib} GiB, {system}, disk {disk}."
        )
    }
}

/// How much memory a process has now, and the most it had, in megabytes.
pub(crate) fn memory(pid: u32) -> Option<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}
