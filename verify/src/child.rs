//! The broker's process: started, told apart from what it says, stopped for a while, and killed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crossdock_topics::{Error, ErrorCode, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdin, Command};

/// How long a start may take, recovery included.
const START: Duration = Duration::from_secs(60);

/// How a broker's process is started: this program with these arguments, then `--directory FOLDER --listen ADDRESS`
/// and perhaps `--file-limit BYTES`. When it can be reached it writes the address it listens on as one line; it ends
/// when its standard input does.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// What comes before the rest.
    pub arguments: Vec<String>,
}

/// A broker's process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    pub(crate) address: SocketAddr,
    /// Its standard input: when this process dies, so does that one.
    _alive: ChildStdin,
}

impl Child {
    /// Starts a broker on a folder, at a port that is free or was its own before. What it logs is appended to a file
    /// beside the folder. With a limit it cannot make files larger than so many bytes.
    ///
    /// # Errors
    /// [`ErrorCode::Unavailable`] with the end of its log, when it ends or does not get ready.
    pub(crate) async fn start(
        launch: &Launch,
        folder: &Path,
        port: u16,
        file_limit: Option<u64>,
    ) -> Result<Self> {
        let failed = |what: String| Error::new(ErrorCode::Unavailable, what);
        let log_path = folder.with_extension("log");
        let log = OpenOptions::new().create(true).append(true).read(true).open(&log_path);
        let mut log = log.map_err(|cause| failed(format!("cannot write {}: {cause}", log_path.display())))?;
        let began = log.seek(SeekFrom::End(0)).unwrap_or(0);
        let stderr = log.try_clone().map_err(|cause| failed(cause.to_string()))?;
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.arguments)
            .arg("--directory")
            .arg(folder)
            .args(["--listen", &SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()]);
        if let Some(limit) = file_limit {
            command.args(["--file-limit", &limit.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let spawned = command.spawn();
        let mut process =
            spawned.map_err(|cause| failed(format!("cannot start {}: {cause}", launch.program.display())))?;
        let (Some(alive), Some(said)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(failed("the broker's process has no standard input and output".into()));
        };
        let mut lines = BufReader::new(said).lines();
        let address = match tokio::time::timeout(START, lines.next_line()).await {
            Ok(Ok(Some(line))) => line.trim().parse().ok(),
            _ => None,
        };
        match address {
            Some(address) => Ok(Self { process, address, _alive: alive }),
            None => {
                let _ = process.kill().await;
                Err(failed(format!("the broker did not start: {}", tail(log, began))))
            }
        }
    }

    /// Kills it with SIGKILL, at once.
    pub(crate) async fn kill(mut self) {
        let _ = self.process.kill().await;
    }

    /// Stops it with SIGSTOP for a while.
    pub(crate) async fn suspend(&self, length: Duration) {
        let pid = self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { return };
        if kill_process(pid, Signal::STOP).is_ok() {
            tokio::time::sleep(length).await;
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

/// The last lines that were logged since the process began.
fn tail(mut log: File, began: u64) -> String {
    let mut text = String::new();
    let from = log.metadata().map_or(began, |data| began.max(data.len().saturating_sub(2000)));
    let _ = log.seek(SeekFrom::Start(from)).and_then(|_| log.read_to_string(&mut text));
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
