//! The systems that are measured side by side, each a process of its own on this machine, behind one small trait.
//!
//! The works know these traits only, so every system does the same work. What a system does best in its own way
//! (how it keeps messages in flight, how it settles them) is behind them, and written down by it.

mod crossdock;
#[cfg(feature = "peers")]
mod kafka;
#[cfg(feature = "peers")]
mod nats;
#[cfg(feature = "peers")]
mod nats_servers;
#[cfg(feature = "peers")]
mod on_jetstream;
mod process;
#[cfg(feature = "peers")]
mod rabbitmq;
#[cfg(feature = "peers")]
mod redis;

use std::path::Path;

use async_trait::async_trait;

use crate::Failure;
use crate::side::Feed;

pub(crate) use process::{Process, Usage};

/// A system as it is measured: which server, with which settings.
#[async_trait]
pub(crate) trait System: Send + Sync {
    /// What is to be known of it.
    fn about(&self) -> &About;

    /// Starts it on an empty folder.
    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure>;
}

/// What is to be known of a system before its figures.
pub(crate) struct About {
    /// What the tables call it.
    pub(crate) name: &'static str,
    /// What an acknowledged message is worth.
    pub(crate) durability: &'static str,
    /// What is set otherwise than by default, and how its client is used.
    pub(crate) settings: String,
    /// Whether a consumer can say of one message that it failed, and gets it again.
    pub(crate) redelivers: bool,
}

/// A system that runs.
#[async_trait]
pub(crate) trait Server: Send + Sync {
    /// Its processes; none when it runs within this one.
    fn processes(&self) -> &[Process];

    /// What its processes have used, if it has any.
    fn usage(&self) -> Option<Usage> {
        self.processes().iter().map(Process::usage).reduce(|one, other| one + other)
    }

    /// Makes a topic with subscriptions, each of which gets every message.
    async fn create(&self, topic: &str, subscriptions: &[String]) -> Result<(), Failure>;

    /// Adds a subscription to a topic that was made without: it gets what the topic holds, from the first message
    /// on. Where a topic is one queue there is nothing to add, and it gets what the ones before it left.
    async fn subscribe(&self, topic: &str, subscription: &str) -> Result<(), Failure>;

    /// A publisher that keeps so many messages on their way.
    async fn publisher(&self, topic: &str, in_flight: usize) -> Result<Box<dyn Publisher>, Failure>;

    /// A consumer that holds at most so many messages it has not settled.
    async fn consumer(
        &self,
        topic: &str,
        subscription: &str,
        in_flight: usize,
    ) -> Result<Box<dyn Consumer>, Failure>;

    /// Stops it.
    async fn stop(self: Box<Self>) -> Result<(), Failure>;
}

/// Publishes what a feed has, until it is over and everything is acknowledged.
#[async_trait]
pub(crate) trait Publisher: Send {
    async fn run(&mut self, feed: &mut Feed) -> Result<(), Failure>;
}

/// What is said of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done with.
    Ack,
    /// Failed: to be delivered again, at once.
    Fail,
}

/// Looks at a message and says what became of it.
pub(crate) type Handler<'a> = dyn FnMut(&[u8]) -> Verdict + Send + 'a;

/// Takes messages of a subscription and settles each.
#[async_trait]
pub(crate) trait Consumer: Send {
    /// Takes messages that are there, at least one if any comes within a second, asks the handler about each, and
    /// says so to the server, which need not have answered yet. Gives how many it took.
    async fn take(&mut self, handler: &mut Handler<'_>) -> Result<u64, Failure>;

    /// Waits until the server knows all that was said.
    async fn finish(&mut self) -> Result<(), Failure>;
}

/// A system that is not there, and why.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// All systems that can be measured here, and those that cannot. The folder is the one `scripts/peers` fills.
pub(crate) fn all(folder: &Path) -> (Vec<Box<dyn System>>, Vec<Missing>) {
    let mut systems = crossdock::systems();
    let mut missing = Vec::new();
    for (name, found) in others(folder) {
        match found {
            Some(found) => systems.extend(found),
            None => missing.push(Missing { name: name.to_owned(), reason: why(name, folder) }),
        }
    }
    (systems, missing)
}

/// The other brokers by name, with what can be measured of each that is there.
type Others = Vec<(&'static str, Option<Vec<Box<dyn System>>>)>;

#[cfg(feature = "peers")]
fn others(folder: &Path) -> Others {
    vec![
        ("NATS", beside(nats::systems(folder), on_jetstream::systems(folder))),
        ("Redis", redis::systems(folder)),
        ("RabbitMQ", rabbitmq::systems(folder)),
        ("Kafka", kafka::systems(folder)),
    ]
}

/// Each system followed by what is measured against it.
#[cfg(feature = "peers")]
fn beside(
    systems: Option<Vec<Box<dyn System>>>,
    others: Option<Vec<Box<dyn System>>>,
) -> Option<Vec<Box<dyn System>>> {
    Some(systems?.into_iter().zip(others?).flat_map(|(one, other)| [one, other]).collect())
}

#[cfg(not(feature = "peers"))]
fn others(_: &Path) -> Others {
    ["NATS", "Redis", "RabbitMQ", "Kafka"].map(|name| (name, None)).into()
}

/// Why a broker is not there, as far as `scripts/peers` said.
fn why(name: &str, folder: &Path) -> String {
    if !cfg!(feature = "peers") {
        return "built without the feature `peers`; use `make bench`".to_owned();
    }
    let said = std::fs::read_to_string(folder.join("missing")).unwrap_or_default();
    let said = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
    said.unwrap_or("not fetched; `make bench` does that").to_owned()
}

/// A program on the PATH, or else in the folder of fetched ones.
#[cfg(feature = "peers")]
fn find(program: &str, fetched: &Path) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join(program));
    installed.chain([fetched.to_owned()]).find(|file| file.is_file())
}

/// Lets a program find the libraries that were unpacked beside it.
#[cfg(feature = "peers")]
fn libraries(command: &mut tokio::process::Command, root: &Path) {
    let folders = [root.join("usr/lib"), root.join("lib")];
    let inner = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let triplets =
        inner.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    if let Ok(paths) = std::env::join_paths(triplets) {
        command.env("LD_LIBRARY_PATH", paths);
    }
}
