//! A program that is kept running until it is told to stop.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossdock_topics::{Backoff, Error, ErrorCode, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;

use crate::output::say;

/// How long to wait before one that has ended is started again.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(10) };
/// One that has run for so long has got over what ended it before.
const STABLE: Duration = Duration::from_secs(30);
/// So many ends in a row, each before that, are too many.
const TRIES: u32 = 10;
/// How much of what it said last is shown when it does not start.
const LAST_WORDS: u64 = 2000;

/// A program, and how it is run.
#[derive(Debug)]
pub(super) struct Program {
    /// What it is called, in front of each line that it says.
    pub(super) name: String,
    /// The program.
    pub(super) path: PathBuf,
    /// Its arguments, in which there are no secrets.
    pub(super) arguments: Vec<OsString>,
    /// Its log, where it writes one instead of saying things.
    pub(super) log: Option<PathBuf>,
    /// How long it may take to stop.
    pub(super) grace: Duration,
}

/// What is expected of programs that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// They start: one that ends cannot be started.
    Starting,
    /// They run: one that ends is started again.
    Running,
    /// They stop.
    Stopping,
}

impl Program {
    /// Runs it, and again when it ends, until the phase is to stop. Dropped, it is killed; and so it is when this process
    /// is killed.
    ///
    /// To be awaited on the thread that lives as long as the process: the operating system ends the program when the
    /// thread that started it does.
    ///
    /// # Errors
    /// `Unavailable` with its last words when it cannot be started, or ends again and again.
    pub(super) async fn keep(&self, mut phase: watch::Receiver<Phase>) -> Result<()> {
        let mut ends = 0;
        loop {
            let began = Instant::now();
            let mut running = self.start()?;
            let status = tokio::select! {
                status = running.ended() => status,
                () = stopping(&mut phase) => return running.stop(self.grace).await,
            };
            if *phase.borrow() == Phase::Starting {
                return Err(self.failed(&format!("ended before it was ready ({status})")));
            }
            ends = if began.elapsed() >= STABLE { 1 } else { ends + 1 };
            if ends > TRIES {
                return Err(self.failed(&format!("ended {ends} times in a row ({status})")));
            }
            let wait = AGAIN.wait(ends, rand::random());
            say(&format!("{} ended ({status}) and is started again in {} ms", self.name, wait.as_millis()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopping(&mut phase) => return Ok(()),
            }
        }
    }

    fn start(&self) -> Result<Running<'_>> {
        let parent = std::process::id();
        let mut command = Command::new(&self.path);
        // In a group of its own: Ctrl-C is for us, who stop all in order.
        command.args(&self.arguments).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        #[allow(unsafe_code)]
        // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // It may have ended already.
                match rustix::process::getppid() {
                    Some(now) if now.as_raw_nonzero().get().cast_unsigned() == parent => Ok(()),
                    _ => Err(std::io::ErrorKind::Interrupted.into()),
                }
            });
        }
        let mut child = command.spawn().map_err(|cause| {
            Error::new(ErrorCode::Unavailable, format!("{} cannot be started: {cause}", self.path.display()))
        })?;
        let said = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
        Ok(Running { program: self, child, said })
    }

    fn failed(&self, what: &str) -> Error {
        let words = self.log.as_deref().and_then(last_words);
        let words = words.map(|words| format!("; its log ends with:\n{words}")).unwrap_or_default();
        Error::new(ErrorCode::Unavailable, format!("{} {what}{words}", self.name))
    }
}

/// A program that runs.
struct Running<'a> {
    program: &'a Program,
    child: Child,
    said: Said,
}

impl Running<'_> {
    /// Passes on what it says until it has ended; gives how.
    async fn ended(&mut self) -> String {
        let status = loop {
            tokio::select! {
                line = next(&mut self.said) => self.pass_on(line),
                status = self.child.wait() => break status,
            }
        };
        // What it said last; somebody else may hold the other end open.
        let rest = async {
            while self.said.is_some() {
                let line = next(&mut self.said).await;
                self.pass_on(line);
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(200), rest).await;
        match status {
            Ok(status) => told(status),
            Err(cause) => format!("nobody knows how: {cause}"),
        }
    }

    fn pass_on(&mut self, line: Option<String>) {
        match line {
            Some(line) => say(&format!("{} | {line}", self.program.name)),
            None => self.said = None,
        }
    }

    /// Tells it to stop, and kills it when it does not within its time.
    async fn stop(mut self, grace: Duration) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // One that has ended meanwhile is what is wanted.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            say(&format!("{} did not stop in {grace:?} and is killed", self.program.name));
            let _ = self.child.kill().await;
        }
        Ok(())
    }
}

type Said = Option<Lines<BufReader<ChildStderr>>>;

/// The next line; none when there will be no more, or none that is text.
async fn next(said: &mut Said) -> Option<String> {
    match said {
        Some(said) => said.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Resolves once the phase is to stop, also because nobody says any more what it is.
async fn stopping(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
}

fn told(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "nobody knows how".into(),
    }
}

/// The end of a log.
fn last_words(log: &std::path::Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS))).ok()?;
    let mut text = Vec::new();
    file.take(LAST_WORDS).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            name: "it".into(),
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: None,
            grace: Duration::from_secs(20),
        }
    }

    #[tokio::test]
    async fn one_that_ends_while_it_starts_is_an_error_and_later_it_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let (marks, log) = (folder.path().join("marks"), folder.path().join("log"));
        std::fs::write(&log, "no room\n").unwrap();
        let script = format!("echo x >> {}; exit 3", marks.display());
        let program = Program { log: Some(log), ..shell(&script) };
        let (phase, seen) = watch::channel(Phase::Starting);
        let error = program.keep(seen.clone()).await.unwrap_err();
        assert!(error.message.contains("exit code 3") && error.message.contains("no room"), "{error}");

        phase.send(Phase::Running).unwrap();
        let twice = async {
            while std::fs::read(&marks).unwrap().len() < 6 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            phase.send(Phase::Stopping).unwrap();
        };
        let (kept, ()) = tokio::join!(program.keep(seen), twice);
        kept.unwrap();
    }

    #[tokio::test]
    async fn one_that_is_told_to_stop_finishes_and_one_that_does_not_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let script = format!(
            "trap 'echo x > {}; exit 0' TERM; touch {0}.up; while :; do sleep 0.05; done",
            done.display()
        );
        let deaf = Program {
            grace: Duration::from_millis(200),
            ..shell("trap '' TERM; while :; do sleep 0.05; done")
        };
        let (phase, seen) = watch::channel(Phase::Running);
        let listening = folder.path().join("done.up");
        let tell = async {
            while !listening.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            phase.send(Phase::Stopping).unwrap();
        };
        let program = shell(&script);
        let (kept, killed, ()) = tokio::join!(program.keep(seen.clone()), deaf.keep(seen), tell);
        kept.unwrap();
        killed.unwrap();
        assert!(done.exists());
    }
}
