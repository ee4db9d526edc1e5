//! A platform of one's own, and everything that can happen to it.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::server::{Server, signal};
use crate::{Beside, Client, SmallDisk};

/// What a sandbox will be.
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    env: Vec<(String, String)>,
    disk: Option<SmallDisk>,
    folder: PathBuf,
    ports: u16,
    cluster: bool,
}

impl Builder {
    /// Listens on ports that stay the same over restarts: three from the one that is found to be free.
    #[must_use]
    pub fn on_fixed_ports(mut self) -> Self {
        self.ports = crate::ports::free(3);
        self
    }

    /// Starts a cluster of three servers and three nats-servers instead of one process.
    #[must_use]
    pub fn as_cluster(self) -> Self {
        let nats = crate::nats::nats_server().display().to_string();
        Self { cluster: true, ..self.env("CROSSDOCK_NATS_SERVER", &nats) }
    }

    /// Makes the sandbox's folder in this one, instead of the system's for temporary files.
    #[must_use]
    pub fn under(mut self, folder: &Path) -> Self {
        self.folder = folder.to_owned();
        self
    }

    /// Sets a variable of the server's (and the command line's) environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Keeps the data on this disk.
    #[must_use]
    pub fn on(mut self, disk: SmallDisk) -> Self {
        self.disk = Some(disk);
        self
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> Sandbox {
        let mut sandbox = self.prepare();
        sandbox.start().await;
        sandbox
    }

    /// Everything but the start.
    ///
    /// # Panics
    /// When no folder can be made for it.
    #[must_use]
    pub fn prepare(self) -> Sandbox {
        let folder = self.folder.canonicalize().expect("a folder that exists");
        let home = tempfile::Builder::new().prefix("crossdock-").tempdir_in(folder).expect("a folder");
        let Self { binary, env, disk, ports, cluster, .. } = self;
        Sandbox { home, binary, env, disk, ports, cluster, server: None }
    }
}

/// A platform in a folder of its own: the folder is also the home of whoever uses the command line there, so
/// that nothing of the machine's real user is read or changed. What a failing test leaves in the log is
/// printed.
#[derive(Debug)]
pub struct Sandbox {
    // Dropped first: the server dies before its folder goes.
    server: Option<Server>,
    disk: Option<SmallDisk>,
    binary: PathBuf,
    env: Vec<(String, String)>,
    ports: u16,
    cluster: bool,
    home: TempDir,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The command line.
    pub command: String,
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its data.
    pub stdout: String,
    /// Its talk.
    pub stderr: String,
}

impl Ran {
    /// The command, when it ended with this code.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[must_use]
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let Self { command, stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "{command}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }
}

impl Sandbox {
    /// A sandbox of this binary.
    #[must_use]
    pub fn builder(binary: impl Into<PathBuf>) -> Builder {
        let (binary, folder) = (binary.into(), std::env::temp_dir());
        Builder { binary, env: Vec::new(), disk: None, folder, ports: 0, cluster: false }
    }

    /// Starts the server, again or for the first time, on the same folder.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&mut self) {
        if let Err(code) = self.try_start().await {
            panic!("the server ended with {code:?} instead of starting");
        }
    }

    /// Starts the server where it may refuse to.
    ///
    /// # Errors
    /// Its exit code when it ended; [`Sandbox::log`] has what it said.
    pub async fn try_start(&mut self) -> Result<(), Option<i32>> {
        assert!(self.server.is_none(), "the server runs already");
        let mut command = match &self.disk {
            Some(disk) => disk.command(&self.binary),
            None => Command::new(&self.binary),
        };
        command.arg("quickstart").arg(self.inner_data()).args(["--port-base", &self.ports.to_string()]);
        command.args(self.cluster.then_some("--cluster"));
        self.at_home(&mut command);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log");
        self.server = Some(Server::start(command, &self.data(), log).await?);
        Ok(())
    }

    /// Starts another server beside it, on the broker of this one, in the folder `name` of the home. It finds its
    /// credentials in the saved context.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn beside(&self, name: &str) -> Beside {
        let broker = self.broker_url();
        let mut command = Command::new(&self.binary);
        command.args([
            "server",
            "--broker",
            &broker,
            "--dir",
            name,
            "--name",
            name,
            "--port-base",
            "0",
            "-o",
            "json",
        ]);
        self.at_home(&mut command);
        let log = self.home.path().join(format!("{name}.log"));
        Beside::start(command, name, log, self.password()).await
    }

    /// Where its broker is reached over the wire.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn broker_url(&self) -> String {
        self.server().broker_url.clone()
    }

    /// Kills the server: no chance to finish anything.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self) {
        self.server.take().expect("a server that runs").kill().await;
    }

    /// Stops the server as Ctrl-C and init systems do, and checks that it ends well.
    ///
    /// # Panics
    /// When it does not run, or does not end with 0.
    pub async fn stop(&mut self) {
        let code = self.server.take().expect("a server that runs").stop().await;
        assert_eq!(code, Some(0), "the server stopped with another code than 0");
    }

    /// Waits until the server has ended on its own.
    ///
    /// # Panics
    /// When it does not run or does not end.
    pub async fn wait(&mut self) {
        self.server.as_mut().expect("a server that runs").ended().await;
        self.server = None;
    }

    /// Makes the disk larger that the data is on.
    ///
    /// # Panics
    /// When it is not on a [`SmallDisk`].
    pub async fn grow_disk(&self, megabytes: u32) {
        self.disk.as_ref().expect("a small disk").grow(megabytes).await;
    }

    /// Sends the server a signal, such as `STOP`.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn signal(&self, name: &str) {
        signal(self.server().pid, name).await;
    }

    /// Its HTTP gateway, as the user `admin`.
    #[must_use]
    pub fn gateway(&self) -> &Client {
        &self.server().gateway
    }

    /// Its Admin API, as the user `admin`.
    #[must_use]
    pub fn admin(&self) -> &Client {
        &self.server().admin
    }

    /// The password of the user `admin`.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.server().password
    }

    /// How long the last start took.
    #[must_use]
    pub fn ready_in(&self) -> Duration {
        self.server().ready_in
    }

    /// The server's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server().pid
    }

    /// The server's folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.home.path().join("data"), SmallDisk::seen_from_outside)
    }

    /// The home of whoever uses the command line here.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Everything the server has printed, in all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// Writes a file to the home folder.
    ///
    /// # Panics
    /// When it cannot.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("to make a folder");
        std::fs::write(&path, text).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
    }

    /// Runs the command line in the home folder.
    pub async fn cli(&self, arguments: &[&str]) -> Ran {
        self.cli_with(arguments, "").await
    }

    /// Runs the command line in the home folder with something on its standard input.
    ///
    /// # Panics
    /// When it takes longer than two minutes.
    pub async fn cli_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        self.run(command, format!("crossdock {}", arguments.join(" ")), input).await
    }

    /// Runs a script in the home folder, with the binary on the path as `crossdock`; `-e` and `-u` are on.
    ///
    /// # Panics
    /// When it takes longer than two minutes.
    pub async fn bash(&self, script: &str) -> Ran {
        let folder = self.binary.parent().expect("a folder").to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-eu", "-o", "pipefail", "-c", script]);
        command.env("PATH", format!("{}:{path}", folder.display()));
        self.run(command, script.to_owned(), "").await
    }

    async fn run(&self, mut command: Command, shown: String, input: &str) -> Ran {
        self.at_home(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|cause| panic!("{shown}: {cause}"));
        let mut stdin = child.stdin.take().expect("a standard input");
        let feed = async {
            // A command that does not read its input is no failure.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(Duration::from_secs(120), both).await;
        let output = output.unwrap_or_else(|_| panic!("{shown}: still running after two minutes"));
        let output = output.expect("the command's output");
        Ran {
            command: shown,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn at_home(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CROSSDOCK_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.home.path()).env("HOME", self.home.path());
        command.env("XDG_CONFIG_HOME", self.home.path().join(".config")).env("NO_COLOR", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
    }

    fn inner_data(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.home.path().join("data"), |_| SmallDisk::seen_from_inside())
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("a server that runs")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- the server's log, its end ({})\n{tail}\n---", self.log_path().display());
            if std::env::var_os("CROSSDOCK_KEEP_SANDBOX").is_some() {
                self.home.disable_cleanup(true);
            }
        }
    }
}
