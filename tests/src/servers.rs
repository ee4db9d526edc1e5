//! Several servers on one broker of NATS: each a process of its own, and all equal.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::server::signal;
use crate::{Beside, Ran, Sandbox};

/// The password of the user `admin`, made by whichever server comes first.
const PASSWORD: &str = "correct horse battery";

/// Servers of one cluster, called `s0`, `s1`, ... Each listens on the same ports over restarts. Killed when this is dropped.
#[derive(Debug)]
pub struct Servers {
    running: Vec<Option<Beside>>,
    ports: Vec<u16>,
    binary: PathBuf,
    broker: String,
    /// The home of all of them; no server of its own runs there.
    home: Sandbox,
}

impl Servers {
    /// Starts so many of this binary on the broker behind a URL, which may hold a login.
    ///
    /// # Panics
    /// When one does not start.
    pub async fn start(binary: impl Into<PathBuf>, broker: &str, count: usize) -> Self {
        let binary = binary.into();
        let home = Sandbox::builder(&binary).prepare();
        let ports = (0..count).map(|_| crate::ports::free(3)).collect();
        let running = (0..count).map(|_| None).collect();
        let mut servers = Self { running, ports, binary, broker: broker.into(), home };
        for number in 0..count {
            servers.restart(number).await;
        }
        servers
    }

    /// How many there are, running or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// There is always one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// One that runs.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn get(&self, number: usize) -> &Beside {
        self.running[number].as_ref().expect("a server that runs")
    }

    /// Starts one that does not run, and waits until it is ready.
    ///
    /// # Panics
    /// When it runs, or does not start.
    pub async fn restart(&mut self, number: usize) {
        assert!(self.running[number].is_none(), "s{number} runs already");
        let (name, port) = (format!("s{number}"), self.ports[number].to_string());
        let mut command = Command::new(&self.binary);
        command.args(["server", "--dir", &name, "--name", &name, "--port-base", &port, "-o", "json"]);
        self.home.at_home(&mut command);
        command.env("CROSSDOCK_BROKER", &self.broker).env("CROSSDOCK_ADMIN_PASSWORD", PASSWORD);
        let log = self.home.home().join(format!("{name}.log"));
        self.running[number] = Some(Beside::start(command, &name, log, PASSWORD).await);
    }

    /// Kills one: no chance to finish anything.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self, number: usize) {
        self.running[number].take().expect("a server that runs").kill().await;
    }

    /// Stops one as Ctrl-C does, and checks that it ends well.
    ///
    /// # Panics
    /// When it does not run, or does not end well.
    pub async fn stop(&mut self, number: usize) {
        self.running[number].take().expect("a server that runs").stop().await;
    }

    /// Stops all that run, the last one first.
    pub async fn stop_all(&mut self) {
        for number in (0..self.len()).rev() {
            if self.running[number].is_some() {
                self.stop(number).await;
            }
        }
    }

    /// Halts one, as a machine that hangs does.
    pub async fn halt(&self, number: usize) {
        signal(self.get(number).pid(), "STOP").await;
    }

    /// Lets one that was halted go on.
    pub async fn resume(&self, number: usize) {
        signal(self.get(number).pid(), "CONT").await;
    }

    /// The wire of one, running or not.
    #[must_use]
    pub fn wire(&self, number: usize) -> String {
        format!("crossdock://127.0.0.1:{}", self.ports[number] + 2)
    }

    /// The command line, in the home folder, talking to one of them as the user `admin`: for what goes on whatever becomes
    /// of that one.
    #[must_use]
    pub fn command(&self, number: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        self.home.at_home(&mut command);
        command.args(arguments).env("CROSSDOCK_URL", format!("http://127.0.0.1:{}", self.ports[number] + 1));
        command.env("CROSSDOCK_USER", "admin").env("CROSSDOCK_PASSWORD", PASSWORD);
        command
    }

    /// Whether one runs.
    #[must_use]
    pub fn runs(&self, number: usize) -> bool {
        self.running[number].is_some()
    }

    /// The folder that all of them have as their home.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.home()
    }

    /// Writes a file to the home folder.
    pub fn write(&self, name: &str, text: &str) {
        self.home.write(name, text);
    }

    /// Runs a script in the home folder, in which `crossdock` talks to this server as the user `admin`.
    pub async fn bash(&self, number: usize, script: &str) -> Ran {
        let address = self.get(number).admin().address();
        let login = format!(
            "export CROSSDOCK_URL=http://{address} CROSSDOCK_USER=admin CROSSDOCK_PASSWORD='{PASSWORD}'"
        );
        self.home.bash(&format!("{login}\n{script}")).await
    }
}
