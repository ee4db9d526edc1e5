//! A disk of a few megabytes, to be filled.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use tokio::process::Command;

/// A file system in memory that only the sandbox sees: in a mount namespace, which a process holds open until
/// this is dropped. It outlives the servers that are started on it.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    pid: u32,
}

/// Where it is mounted, inside.
const MOUNT: &str = "/mnt";

impl SmallDisk {
    /// A disk of this many megabytes; `None` where the machine does not let us make one.
    #[must_use]
    pub fn new(megabytes: u32) -> Option<Self> {
        let script = format!("mount -t tmpfs -o size={megabytes}m none {MOUNT} && echo ready && exec cat");
        // As root the user namespace is not needed, and may not be allowed; as anyone else it is.
        for flags in [&["--mount"][..], &["--map-root-user", "--mount"]] {
            let mut command = std::process::Command::new("unshare");
            command.args(flags).args(["sh", "-c", &script]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut holder) = command.spawn() else { return None };
            let mut line = String::new();
            let said = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
            if matches!(said, Some(Ok(_))) && line.trim() == "ready" {
                let pid = holder.id();
                return Some(Self { holder, pid });
            }
            let _ = holder.kill();
            let _ = holder.wait();
        }
        None
    }

    /// A command that runs a program where this disk is.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount"]);
        if std::fs::read_link(format!("/proc/{}/ns/user", self.pid)).ok()
            != std::fs::read_link("/proc/self/ns/user").ok()
        {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// The folder on it, for programs that run there.
    pub(crate) fn seen_from_inside() -> PathBuf {
        Path::new(MOUNT).join("data")
    }

    /// The same folder from everywhere else.
    pub(crate) fn seen_from_outside(&self) -> PathBuf {
        self.root().join("data")
    }

    /// Makes it larger, as somebody who deletes other files would.
    ///
    /// # Panics
    /// When that does not work.
    pub async fn grow(&self, megabytes: u32) {
        let mut command = self.command(Path::new("mount"));
        let status = command.args(["-o", &format!("remount,size={megabytes}m"), MOUNT]).status().await;
        assert!(status.expect("the mount command").success(), "a larger disk");
    }

    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{MOUNT}", self.pid))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
