//! A server that is measured, as a process: started on loopback in a folder of its own, watched, stopped by its id.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::Failure;

/// How long a server may take to stop before it is killed; what it has is thrown away.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// A server's process with all its descendants. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: u32,
    log: PathBuf,
}

/// What a server's processes have used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Seconds of processor time since they started, the system's on their behalf included.
    pub(crate) cpu: f64,
    /// Their memory now, in MB.
    pub(crate) rss: f64,
    /// The most they had since [`Process::forget_peak`], in MB.
    pub(crate) peak: f64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let Self { cpu, rss, peak } = other;
        Self { cpu: self.cpu + cpu, rss: self.rss + rss, peak: self.peak + peak }
    }
}

/// A port on loopback that nobody listens on now, for servers that do not choose one themselves.
#[cfg_attr(not(feature = "peers"), allow(dead_code))]
pub(crate) fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Process {
    /// Starts a server; what it prints goes to `server.log` in the folder.
    pub(crate) fn start(mut command: Command, folder: &Path) -> Result<Self, Failure> {
        let log = folder.join("server.log");
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|cause| format!("{program}: {cause}"))?;
        let pid = child.id().ok_or_else(|| format!("{program} ended at once"))?;
        Ok(Self { child, pid, log })
    }

    /// Waits until it takes connections on this port of loopback.
    #[cfg_attr(not(feature = "peers"), allow(dead_code))]
    pub(crate) async fn listens(&mut self, port: u16, within: Duration) -> Result<(), Failure> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + within;
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("it ended ({status}) instead of listening:\n{}", self.said()).into());
            }
            if Instant::now() > deadline {
                return Err(format!("it does not listen after {within:?}:\n{}", self.said()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of what it printed.
    pub(crate) fn said(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// What it and its descendants have used.
    pub(crate) fn usage(&self) -> Usage {
        let mut all = Usage::default();
        for pid in family(self.pid) {
            all.cpu += processor_time(pid).unwrap_or_default();
            let (rss, peak) = crate::machine::memory(pid).unwrap_or_default();
            all.rss += rss;
            all.peak += peak;
        }
        all
    }

    /// Begins to look for the most memory anew.
    pub(crate) fn forget_peak(&self) {
        for pid in family(self.pid) {
            // Where the system refuses that, the peak is that of the whole run, and larger.
            let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    /// Stops it: politely, then not.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let all = family(self.pid);
        send(self.pid, Signal::TERM);
        if tokio::time::timeout(STOPS_WITHIN, self.child.wait()).await.is_err() {
            // Ids are not used again so soon, and these were its own a moment ago.
            for pid in all.into_iter().rev() {
                send(pid, Signal::KILL);
            }
            self.child.wait().await?;
        }
        Ok(())
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The fields of `/proc/PID/stat` after the name of the program, which may hold blanks and brackets.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// Processor time of a process and of those of its children that it has waited for, in seconds.
fn processor_time(pid: u32) -> Option<f64> {
    const TICKS_A_SECOND: f64 = 100.0; // USER_HZ: the same on all of Linux's usual architectures
    let fields = stat(pid)?;
    let ticks = |index: usize| fields.get(index)?.trim().parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?) / TICKS_A_SECOND)
}

/// A process and its descendants, parents before children.
fn family(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> =
        pids.filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?))).collect();
    let mut all = vec![pid];
    let mut looked_at = 0;
    while let Some(parent) = all.get(looked_at).copied() {
        all.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        looked_at += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_watched_with_its_children_and_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // A child that uses processor time until it is killed, and a shell that waits for it.
        command.args(["-c", "sh -c 'while :; do :; done' & wait"]);
        let process = Process::start(command, folder.path()).unwrap();
        let pid = process.pid;
        while family(pid).len() < 2 || process.usage().cpu < 0.05 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(process.usage().rss > 0.1 && process.usage().peak >= 0.1, "{:?}", process.usage());
        for child in family(pid).into_iter().skip(1) {
            send(child, Signal::KILL);
        }
        process.stop().await.unwrap();
        assert_eq!(stat(pid), None);
    }

    #[tokio::test]
    async fn a_server_that_ends_instead_of_listening_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the disk is on strike; exit 3"]);
        let mut process = Process::start(command, folder.path()).unwrap();
        let port = free_port().unwrap();
        let failure = process.listens(port, Duration::from_secs(30)).await.unwrap_err().to_string();
        assert!(failure.contains("the disk is on strike"), "{failure}");
    }
}
