//! A server that works on the broker of a sandbox's first one.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::server::{is_ready, signal};
use crate::{Client, eventually};

/// How long it may take to start, and to stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server beside the first one. Killed when it is dropped.
#[derive(Debug)]
pub struct Beside {
    name: String,
    child: Child,
    log: PathBuf,
    gateway: Client,
    admin: Client,
}

/// What it prints when it is ready.
#[derive(Deserialize)]
struct Ready {
    gateway_url: String,
    admin_url: String,
}

impl Beside {
    pub(crate) async fn start(mut command: Command, name: &str, log: PathBuf, password: &str) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let errors = file.try_clone().expect("another handle of the log");
        let before = std::fs::metadata(&log).map(|log| log.len()).unwrap_or_default();
        command.stdin(Stdio::null()).stdout(file).stderr(errors).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
        let ready = eventually("a server beside the first one", PATIENCE, || async {
            let text = read(&log);
            let new = text.get(usize::try_from(before).unwrap_or_default()..)?;
            new.lines().find_map(|line| serde_json::from_str::<Ready>(line).ok())
        })
        .await;
        let user = Some(("admin".to_owned(), password.to_owned()));
        let gateway = Client::new(&ready.gateway_url, user.clone());
        let admin = Client::new(&ready.admin_url, user);
        eventually("it to be ready", PATIENCE, || async { is_ready(&admin, &gateway).await.then_some(()) })
            .await;
        Self { name: name.into(), child, log, gateway, admin }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its HTTP gateway, as the user `admin`.
    #[must_use]
    pub fn gateway(&self) -> &Client {
        &self.gateway
    }

    /// Its Admin API, as the user `admin`.
    #[must_use]
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// Its process.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("a child that runs")
    }

    /// Everything it has printed, in all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Kills it: no chance to finish anything.
    ///
    /// # Panics
    /// When that is not possible.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("to kill the child");
    }

    /// Stops it as Ctrl-C does, and checks that it ends well.
    ///
    /// # Panics
    /// When it does not, or not in time.
    pub async fn stop(mut self) {
        signal(self.child.id().expect("a child that runs"), "TERM").await;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let code = ended.expect("it to end in time").expect("a status").code();
        assert_eq!(code, Some(0), "{} stopped with another code than 0", self.name);
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of {}\n{}\n---", self.name, self.log());
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}
