//! Real nats-servers: one, or a cluster of several, each a process on free ports that can be killed, halted and started
//! again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::ports::free;
use crate::server::signal;
use crate::{Line, eventually};

/// The largest message that a topic can allow in tests, and what that takes.
const PAYLOAD: &str = "max_payload: 16MB";
const SYNCED: &str = "sync_interval: always";
/// How long a server may take to start, and a cluster to agree, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// nats-servers that belong together, in a folder of their own. They end when this is dropped, or when the process does.
#[derive(Debug)]
pub struct Nats {
    nodes: Vec<Node>,
    guard: Guard,
    binary: PathBuf,
    client: reqwest::Client,
    /// Those of a cluster that can be cut: from which server to which.
    lines: Vec<(usize, usize, Line)>,
    folder: TempDir,
}

/// One nats-server.
#[derive(Debug)]
struct Node {
    /// For clients; the cluster's is the next one, the monitoring's the one after.
    port: u16,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Nats {
    /// One server that has each message on the disk before it acknowledges it.
    pub async fn single() -> Self {
        Self::start(1, PAYLOAD, SYNCED).await
    }

    /// A cluster of so many servers, which write to the disk when they come to it.
    pub async fn cluster(nodes: usize) -> Self {
        Self::start(nodes, PAYLOAD, "").await
    }

    /// So many servers, with more lines for their configuration and for its JetStream part.
    ///
    /// # Panics
    /// When there is no nats-server on this machine, or it does not start.
    pub async fn start(nodes: usize, more: &str, jetstream: &str) -> Self {
        Self::begin(nodes, more, jetstream, false, None).await
    }

    /// A cluster of so many servers, the lines between which can be cut.
    pub async fn cuttable(nodes: usize) -> Self {
        Self::begin(nodes, PAYLOAD, "", true, None).await
    }

    /// Another server, with what this one would have on its disk of the streams of a prefix if it were killed now: as
    /// [`Nats::single`], of which it is a copy. What is written meanwhile may be there in part.
    pub async fn copy(&self, prefix: &str) -> Self {
        Self::begin(1, PAYLOAD, SYNCED, false, Some((self, prefix))).await
    }

    fn streams(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("n{node}/store/jetstream/$G/streams"))
    }

    async fn begin(
        nodes: usize,
        more: &str,
        jetstream: &str,
        cuttable: bool,
        from: Option<(&Self, &str)>,
    ) -> Self {
        let binary = nats_server();
        let folder = tempfile::Builder::new().prefix("crossdock-nats-").tempdir().expect("a folder");
        let guard = Guard::start(folder.path());
        let first = free(u16::try_from(nodes * 3).expect("a few servers"));
        let ports: Vec<u16> = (0..nodes).map(|node| first + 3 * node as u16).collect();
        let mut nats = Self {
            nodes: Vec::new(),
            guard,
            binary,
            client: crate::tls::http().build().expect("an HTTP client"),
            lines: Vec::new(),
            folder,
        };
        for (number, port) in ports.iter().enumerate() {
            let folder = nats.folder.path().join(format!("n{number}"));
            std::fs::create_dir(&folder).expect("a folder");
            let config = folder.join("nats.conf");
            let store = folder.join("store").display().to_string();
            let (cluster_port, http_port) = (port + 1, port + 2);
            let mut text = format!(
                "server_name: n{number}\nlisten: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{http_port}\"\n\
                 jetstream {{ store_dir: {store:?}\n {jetstream} }}\n{more}\n"
            );
            if nodes > 1 {
                let mut routes = Vec::new();
                for (other, port) in ports.iter().enumerate().filter(|(other, _)| *other != number) {
                    let mut address = format!("127.0.0.1:{}", port + 1);
                    if cuttable {
                        let line = Line::to(&address).await;
                        address = line.address().to_string();
                        nats.lines.push((number, other, line));
                    }
                    routes.push(format!("\"nats://{address}\""));
                }
                // Servers tell each other where others are; there is nobody there, so that all goes over the lines.
                let advertise = if cuttable { "advertise: \"127.0.0.1:1\"\n no_advertise: true" } else { "" };
                text += &format!(
                    "cluster {{ name: crossdock\n listen: \"127.0.0.1:{cluster_port}\"\n {advertise}\n routes: [{}] }}\n",
                    routes.join(", ")
                );
            }
            std::fs::write(&config, text).expect("a configuration");
            nats.nodes.push(Node { port: *port, config, log: folder.join("log"), child: None });
        }
        if let Some((from, prefix)) = from {
            copy_streams(&from.streams(0), &nats.streams(0), prefix);
        }
        for number in 0..nodes {
            nats.launch(number).await;
        }
        for number in 0..nodes {
            nats.healthy(number).await;
        }
        nats
    }

    /// The address of all of them, for clients.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("nats://{}", hosts.join(","))
    }

    /// The address of one of them.
    #[must_use]
    pub fn url_of(&self, node: usize) -> String {
        format!("nats://127.0.0.1:{}", self.nodes[node].port)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// There is always one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Which one calls itself so, as JetStream names the leader of a stream.
    #[must_use]
    pub fn named(&self, name: &str) -> usize {
        name.strip_prefix('n').and_then(|number| number.parse().ok()).expect("the name of a node")
    }

    /// Kills one: no chance to finish anything.
    ///
    /// # Panics
    /// When it is not running.
    pub async fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node].child.take().expect("a server that runs");
        let pid = child.id().expect("a child that runs");
        child.kill().await.expect("to kill the child");
        self.guard.tell('-', pid).await;
    }

    /// Halts one, as a machine that hangs does.
    pub async fn halt(&self, node: usize) {
        signal(self.pid(node), "STOP").await;
    }

    /// Lets one that was halted go on.
    pub async fn resume(&self, node: usize) {
        signal(self.pid(node), "CONT").await;
    }

    /// Starts one again that was killed, and waits until it has caught up.
    pub async fn restart(&mut self, node: usize) {
        self.start_again(node).await;
        self.healthy(node).await;
    }

    /// Starts one again that was killed, and does not wait: it may not work without others.
    pub async fn start_again(&mut self, node: usize) {
        self.launch(node).await;
    }

    /// Keeps a copy of what one has of a stream. It is killed for that, and started again.
    pub async fn keep(&mut self, node: usize, stream: &str) {
        let (stored, copy) = self.places(node, stream);
        self.kill(node).await;
        copy_folder(&stored, &copy);
        self.restart(node).await;
    }

    /// Puts such a copy in the place of what one has of a stream by now.
    pub async fn put_back(&mut self, node: usize, stream: &str) {
        let (stored, copy) = self.places(node, stream);
        self.kill(node).await;
        std::fs::remove_dir_all(&stored).expect("a stream's folder");
        copy_folder(&copy, &stored);
        self.restart(node).await;
    }

    /// Where one has a stream, and a copy of it.
    fn places(&self, node: usize, stream: &str) -> (PathBuf, PathBuf) {
        let folder = self.folder.path().join(format!("n{node}"));
        (folder.join("store/jetstream/$G/streams").join(stream), folder.join("copies").join(stream))
    }

    /// Cuts one off from all others; its clients still reach it.
    ///
    /// # Panics
    /// When the cluster is not one of [`Nats::cuttable`].
    pub fn cut_off(&self, node: usize) {
        assert!(!self.lines.is_empty(), "there are no lines to cut");
        for (_, _, line) in self.lines.iter().filter(|(from, to, _)| *from == node || *to == node) {
            line.cut();
        }
    }

    /// Mends all lines.
    pub fn mend(&self) {
        for (_, _, line) in &self.lines {
            line.mend();
        }
    }

    /// How many messages a stream has, as one server's monitoring says; 0 when it is not there.
    pub async fn messages_in(&self, node: usize, stream: &str) -> u64 {
        let url = format!("http://127.0.0.1:{}/jsz?streams=true", self.nodes[node].port + 2);
        let Ok(answer) = self.client.get(&url).timeout(Duration::from_secs(2)).send().await else { return 0 };
        let Ok(text) = answer.text().await else { return 0 };
        let said: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let streams = said["account_details"][0]["stream_detail"].as_array().cloned().unwrap_or_default();
        let found = streams.iter().find(|found| found["name"] == stream);
        found.and_then(|found| found["state"]["messages"].as_u64()).unwrap_or(0)
    }

    /// Which one leads a stream, as any that runs says.
    pub async fn leader_of(&self, stream: &str) -> Option<usize> {
        for node in (0..self.len()).filter(|node| self.nodes[*node].child.is_some()) {
            let url = format!("http://127.0.0.1:{}/jsz?streams=true", self.nodes[node].port + 2);
            let Ok(answer) = self.client.get(&url).timeout(Duration::from_secs(2)).send().await else {
                continue;
            };
            let Ok(text) = answer.text().await else { continue };
            let said: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let streams = said["account_details"][0]["stream_detail"].as_array().cloned().unwrap_or_default();
            let found = streams.iter().find(|found| found["name"] == stream);
            if let Some(leader) = found.and_then(|found| found["cluster"]["leader"].as_str()) {
                return Some(self.named(leader));
            }
        }
        None
    }

    fn pid(&self, node: usize) -> u32 {
        self.nodes[node].child.as_ref().and_then(Child::id).expect("a server that runs")
    }

    async fn launch(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&node.log).expect("a log");
        let errors = log.try_clone().expect("another handle of the log");
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(&node.config).stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.kill_on_drop(true).spawn().expect("nats-server starts");
        self.guard.tell('+', child.id().expect("a child that runs")).await;
        node.child = Some(child);
    }

    /// Waits until a server and its JetStream work.
    async fn healthy(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let url = format!("http://127.0.0.1:{}/healthz", node.port + 2);
        let (client, child, log) = (&self.client, node.child.as_mut(), &node.log);
        let child = child.expect("a server that runs");
        eventually("a nats-server that works", PATIENCE, || {
            let ended = child.try_wait().ok().flatten();
            assert!(ended.is_none(), "nats-server ended with {ended:?}:\n{}", read(log));
            let asked = client.get(&url).timeout(Duration::from_secs(2)).send();
            async { asked.await.ok().filter(|answer| answer.status().is_success()).map(drop) }
        })
        .await;
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, node) in self.nodes.iter().enumerate() {
                let log = read(&node.log);
                let from = log.len().saturating_sub(4000);
                eprintln!(
                    "--- the end of the log of nats-server n{number}\n{}\n---",
                    log.get(from..).unwrap_or(&log)
                );
            }
        }
    }
}

/// Ends the servers and removes their folder when this process has ended without doing so: a test program's statics are
/// never dropped. It is a shell that reads which processes there are, and acts when its input ends.
#[derive(Debug)]
struct Guard {
    input: ChildStdin,
    _shell: Child,
}

const GUARD: &str = r#"
pids=" "
while read -r what pid; do
  case $what in
    +) pids="$pids$pid " ;;
    -) pids="${pids%% $pid *} ${pids#* $pid }" ;;
  esac
done
for pid in $pids; do kill -KILL "$pid"; done 2>/dev/null
sleep 0.2
rm -rf "$1"
"#;

impl Guard {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "guard"]).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.spawn().expect("a shell");
        Self { input: shell.stdin.take().expect("its input"), _shell: shell }
    }

    async fn tell(&mut self, what: char, pid: u32) {
        self.input.write_all(format!("{what} {pid}\n").as_bytes()).await.expect("a shell that listens");
    }
}

/// Where nats-server is: as CROSSDOCK_NATS_SERVER says, on the PATH, or where `scripts/peers nats` puts it.
///
/// # Panics
/// When it is nowhere, saying how to get it.
#[must_use]
pub fn nats_server() -> PathBuf {
    if let Some(named) = std::env::var_os("CROSSDOCK_NATS_SERVER") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let fetched = cache.map(|cache| cache.join("crossdock/peers/nats/bin/nats-server"));
    let found = std::env::split_paths(&path).map(|folder| folder.join("nats-server")).chain(fetched);
    found.into_iter().find(|file| file.is_file()).unwrap_or_else(|| {
        panic!(
            "there is no nats-server here; fetch it with `scripts/peers ~/.cache/crossdock/peers nats`, or name one in \
             CROSSDOCK_NATS_SERVER"
        )
    })
}

/// Copies what makes up the streams of a prefix; their consumers go.
fn copy_streams(from: &Path, to: &Path, prefix: &str) {
    for stream in entries(from) {
        let name = stream.file_name().expect("a name").to_string_lossy().into_owned();
        let rest = name.trim_start_matches("KV_").trim_start_matches("OBJ_");
        if rest.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')) {
            copy_folder(&stream, &to.join(name));
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in entries(from) {
        let to = to.join(entry.file_name().expect("a name"));
        if entry.file_name().is_some_and(|name| name == "obs") {
            continue;
        }
        if entry.is_dir() {
            copy_folder(&entry, &to);
        } else {
            // What is written anew may be gone by now.
            let _ = std::fs::copy(&entry, &to);
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}
