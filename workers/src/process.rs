//! One python3 process: started, greeted, and ended for certain.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use crossdock_config::Manifest;
use crossdock_topics::{Error, ErrorCode, Result};
use crossdock_wire::session::process::{FromProcess, Start, ToProcess};
use crossdock_wire::session::{VERSION, codec};
use crossdock_wire::{Frame, FrameCodec};
use futures::{SinkExt, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::logs::{Logs, Tail};

/// How long a process that has closed its socket is given to end by itself, so that its exit status is known.
const EXIT_WITHIN: Duration = Duration::from_millis(300);

/// What finds the SDK in the folder named by the first argument, and nothing else in the working directory.
const BOOTSTRAP: &str = "import sys; sys.path[0] = sys.argv.pop(1); import crossdock; crossdock._main()";

/// What a process is to be.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) python: PathBuf,
    /// How long it may take to import its code and say what it holds.
    pub(crate) ready_within: Duration,
    /// Where the SDK lies.
    pub(crate) sdk: PathBuf,
    /// The working directory.
    pub(crate) folder: PathBuf,
    /// All of its environment.
    pub(crate) env: Vec<(OsString, SecretString)>,
    pub(crate) start: Start,
}

impl Spec {
    /// The file in which the process says what it is working on.
    pub(crate) fn beacon(&self) -> Option<PathBuf> {
        self.start.beacon.as_ref().map(PathBuf::from)
    }
}

/// A process that is ready for calls. Dropping it kills it, and whatever it started.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) reader: FramedRead<OwnedReadHalf, FrameCodec>,
    pub(crate) writer: FramedWrite<OwnedWriteHalf, FrameCodec>,
    pub(crate) credit: usize,
    pub(crate) in_order: bool,
    pub(crate) manifest: Manifest,
    pub(crate) life: Life,
}

/// The hold on a process's life.
#[derive(Debug)]
pub(crate) struct Life {
    child: Child,
    group: Option<rustix::process::Pid>,
    tail: Tail,
    _ended: DropGuard,
}

impl Process {
    /// Starts a process, waits until it has imported its code, and gives it with its manifest. What it prints
    /// goes to `logs`.
    ///
    /// # Errors
    /// `ServiceFailed` with the traceback when the code cannot be run, or not in time; `Unavailable` when there
    /// is no python3.
    pub(crate) async fn start(spec: &Spec, logs: &Logs) -> Result<Self> {
        if let Some(beacon) = spec.beacon() {
            tokio::fs::write(beacon, [0; 8]).await.map_err(|e| no_process(spec, &e))?;
        }
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| no_process(spec, &e))?;
        let mut command = Command::new(&spec.python);
        command
            .args(["-u", "-c", BOOTSTRAP])
            .arg(&spec.sdk)
            .env_clear()
            .envs(spec.env.iter().map(|(name, value)| (name, value.expose_secret())))
            .current_dir(&spec.folder)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| no_process(spec, &e))?;
        drop(command); // and with it our copy of the process's end of the socket
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        let ended = CancellationToken::new();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let tail = logs.follow(&spec.start.version, stdout, stderr, ended.clone());
        let mut life = Life { child, group, tail, _ended: ended.drop_guard() };
        ours.set_nonblocking(true).map_err(|e| no_process(spec, &e))?;
        let (reader, writer) = UnixStream::from_std(ours).map_err(|e| no_process(spec, &e))?.into_split();
        let mut reader = FramedRead::new(reader, codec());
        let mut writer = FramedWrite::new(writer, codec());
        match tokio::time::timeout(spec.ready_within, greet(spec, &mut reader, &mut writer)).await {
            Ok(Ok((ready, payload))) => {
                let FromProcess::Ready { credit, in_order, .. } = ready else {
                    life.end().await;
                    return Err(failed(String::from_utf8_lossy(&payload).into_owned()));
                };
                let manifest = serde_json::from_slice(&payload)
                    .map_err(|e| failed(format!("what the service declares is not understood: {e}")))?;
                Ok(Self { reader, writer, credit: credit.max(1) as usize, in_order, manifest, life })
            }
            Ok(Err(None)) => {
                let ended = life.end().await;
                Err(failed(format!("the process {ended} before it was ready{}", life.last_words())))
            }
            Ok(Err(Some(error))) => Err(error),
            Err(_) => {
                life.kill();
                let words = life.last_words();
                Err(failed(format!("it was not ready after {:?}{words}", spec.ready_within))
                    .hint("what stands outside of functions must be quick"))
            }
        }
    }
}

/// Speaks first and gives the answer; no error means that the process has ended.
async fn greet(
    spec: &Spec,
    reader: &mut FramedRead<OwnedReadHalf, FrameCodec>,
    writer: &mut FramedWrite<OwnedWriteHalf, FrameCodec>,
) -> Result<(FromProcess, Bytes), Option<Error>> {
    let strange = |e: &dyn std::fmt::Display| Some(failed(format!("the process is not understood: {e}")));
    let start = serde_json::to_vec(&spec.start).map_err(|e| strange(&e))?;
    let start = ToProcess::Start { version: VERSION }.frame(start.into()).map_err(|e| strange(&e))?;
    writer.send(start).await.map_err(|_| None)?;
    let Frame { header, payload } = match reader.next().await {
        None | Some(Err(crossdock_wire::FrameError::Io(_))) => return Err(None),
        Some(frame) => frame.map_err(|e| strange(&e))?,
    };
    let answer = Frame { header, payload: Bytes::new() }.header().map_err(|e| strange(&e))?;
    match answer {
        FromProcess::Ready { version: VERSION, .. } | FromProcess::Refused { version: VERSION } => {
            Ok((answer, payload))
        }
        other => Err(strange(&format!("{other:?}"))),
    }
}

fn failed(message: String) -> Error {
    Error::new(ErrorCode::ServiceFailed, message)
}

fn no_process(spec: &Spec, cause: &std::io::Error) -> Error {
    Error::new(ErrorCode::Unavailable, format!("{} cannot be started: {cause}", spec.python.display()))
        .hint("install python3 (3.9 or later) on the server")
}

impl Life {
    /// Kills the process and all it has started.
    pub(crate) fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }

    /// Waits a moment for it to end by itself, kills what is left of it, and says how it ended.
    pub(crate) async fn end(&mut self) -> Ended {
        let waited = tokio::time::timeout(EXIT_WITHIN, self.child.wait()).await;
        self.kill();
        let ended = match waited {
            Ok(status) => Ended(status.ok()),
            Err(_) => {
                let _ = self.child.wait().await;
                Ended(None)
            }
        };
        self.tail.complete().await;
        ended
    }

    /// Waits for it to end.
    pub(crate) async fn ended(&mut self) {
        let _ = self.child.wait().await;
    }

    /// The last lines that its last call wrote to its standard error, to be put behind a sentence.
    pub(crate) fn last_words(&self) -> String {
        let words = self.tail.text();
        if words.is_empty() { String::new() } else { format!("; its last words: {words}") }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a process ended, as in "the process exited with status 1".
#[derive(Debug)]
pub(crate) struct Ended(Option<ExitStatus>);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::os::unix::process::ExitStatusExt;
        match self.0 {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exited with status {code}"),
                (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
                (None, None) => f.write_str("ended"),
            },
            None => f.write_str("closed its connection"),
        }
    }
}
