//! A process with an engine in it, and what it reports.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

/// Tells this binary that it is an engine: a JSON [`Orders`].
pub(crate) const ORDERS: &str = "CROSSDOCK_CHAOS_ORDERS";
/// What begins a line of a report.
pub(crate) const REPORT: &str = "report ";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) url: String,
    /// Names this life of this engine.
    pub(crate) name: String,
}

/// What an engine has done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A message with this number of this engine's is stored at an offset.
    Published(u64, u64),
    /// The counter was raised to this.
    Counted(u64),
    /// The counter may have been raised to this.
    Uncertain(u64),
    /// It led alone, from a moment to another one, in milliseconds of the machine's clock.
    Led(u64, u64),
    /// A request was answered, after so many milliseconds.
    Answered(u64),
    /// It was not, with this code, after so many milliseconds.
    Failed(String, u64),
    /// What a consumer has done.
    Consumed(Consumed),
}

/// What a consumer of one of the subscriptions has done, with offsets; moments in milliseconds of the machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Consumed {
    pub(crate) subscription: usize,
    pub(crate) offsets: Vec<u64>,
    pub(crate) what: Step,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    /// It was given them, having asked at the first moment and got them at the second; some have failed before.
    Given(u64, u64, bool),
    /// It began to settle them.
    Settling(u64),
    /// It was told that they are settled.
    Settled(u64),
}

/// The process. Killed when it is dropped.
pub(crate) struct Engine {
    child: Child,
    /// Hears what it reports, to the last of it.
    hearing: Option<JoinHandle<()>>,
}

impl Engine {
    pub(crate) fn start(orders: &Orders, reports: Sender<(String, Report)>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_engine", "--include-ignored", "--nocapture"])
            .env(ORDERS, serde_json::to_string(orders).unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let name = orders.name.clone();
        let hearing = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // A line that was being written when the process was killed is none.
                let Some(Ok(report)) = line.strip_prefix(REPORT).map(serde_json::from_str) else { continue };
                if reports.send((name.clone(), report)).is_err() {
                    return;
                }
            }
        });
        Self { child, hearing: Some(hearing) }
    }

    /// Kills it; what it has reported is with the judge then.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if let Some(hearing) = self.hearing.take() {
            hearing.join().unwrap();
        }
    }

    pub(crate) fn halt(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn stop(mut self) {
        self.kill();
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(name).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
