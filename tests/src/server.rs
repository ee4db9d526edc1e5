//! One run of the server: a child process, its log, and the signals it gets.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::{Client, eventually};

/// What the server saves about itself in its folder.
#[derive(Debug, Deserialize)]
pub(crate) struct Context {
    pub(crate) url: String,
    pub(crate) gateway_url: Option<String>,
    pub(crate) broker_url: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

/// A server that runs. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) pid: u32,
    pub(crate) gateway: Client,
    pub(crate) admin: Client,
    pub(crate) password: String,
    pub(crate) broker_url: String,
    pub(crate) ready_in: Duration,
}

/// How long a start may take on a busy machine. What a user is promised is measured, not tested.
const START: Duration = Duration::from_secs(60);
/// How long a server may take to drain.
const STOP: Duration = Duration::from_secs(30);

impl Server {
    /// Starts it, and waits until it is ready.
    ///
    /// `data` is its folder as seen from here.
    ///
    /// # Errors
    /// When it ends instead: its exit code, if it ended on its own.
    pub(crate) async fn start(mut command: Command, data: &Path, log: File) -> Result<Self, Option<i32>> {
        let errors = log.try_clone().expect("another handle of the log");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).kill_on_drop(true);
        let context = data.join("context.json");
        let before = identity(&context);
        let start = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
        let pid = child.id().unwrap_or_default();
        let client = loop {
            if let Some(status) = child.try_wait().expect("the child's status") {
                return Err(status.code().or(status.signal().map(|signal| 128 + signal)));
            }
            assert!(start.elapsed() < START, "the server was not ready after {START:?}; see its log");
            if identity(&context) != before
                && let Some((admin, gateway, password, broker_url)) = clients(&context)
                && is_ready(&admin, &gateway).await
            {
                break (admin, gateway, password, broker_url);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let (admin, gateway, password, broker_url) = client;
        Ok(Self { child, pid, gateway, admin, password, broker_url, ready_in: start.elapsed() })
    }

    /// Ends it at once, as a power cut would end a process.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("to kill the child");
    }

    /// Tells it to stop, and waits; gives its exit code.
    pub(crate) async fn stop(mut self) -> Option<i32> {
        signal(self.pid, "TERM").await;
        let status = tokio::time::timeout(STOP, self.child.wait()).await;
        status.unwrap_or_else(|_| panic!("the server did not stop within {STOP:?}")).expect("a status").code()
    }

    /// Waits until it ends on its own.
    pub(crate) async fn ended(&mut self) -> bool {
        let child = &mut self.child;
        eventually("the server to end", STOP, || std::future::ready(child.try_wait().ok().flatten())).await;
        true
    }
}

/// Sends a signal to a process that the sandbox started.
pub(crate) async fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().await;
    assert!(status.expect("the kill command").success(), "kill -{name} {pid}");
}

/// Changes when the file is written anew.
fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

fn clients(context: &Path) -> Option<(Client, Client, String, String)> {
    let context: Context = serde_json::from_slice(&std::fs::read(context).ok()?).ok()?;
    let password = context.password?;
    let user = Some((context.user?, password.clone()));
    let gateway = Client::new(&context.gateway_url?, user.clone());
    Some((Client::new(&context.url, user), gateway, password, context.broker_url?))
}

pub(crate) async fn is_ready(admin: &Client, gateway: &Client) -> bool {
    let answer = admin.send("GET", "/api/v1/health", &[], Vec::new()).await;
    answer.is_ok_and(|answer| answer.status == 200 && answer.json()["ready"] == true)
        && tokio::net::TcpStream::connect(gateway.address()).await.is_ok()
}
