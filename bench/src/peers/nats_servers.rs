//! nats-servers as they are measured: one, with a sync for each message or without, or a cluster of three.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::Process;
use super::process::free_port;
use crate::Failure;

/// How nats-servers are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// One, that syncs every two minutes, as it does by default.
    One,
    /// One, that syncs each message before it acknowledges it.
    Always,
    /// Three, each of which has each message.
    Three,
}

impl Setting {
    /// All that are measured.
    pub(super) const ALL: [Self; 3] = [Self::One, Self::Always, Self::Three];

    /// On how many servers each message lies.
    pub(super) fn replicas(self) -> usize {
        if self == Self::Three { 3 } else { 1 }
    }

    /// What an acknowledged message is worth.
    pub(super) fn durability(self) -> &'static str {
        match self {
            Self::One => {
                "in the page cache when acknowledged, fsync every 2 minutes: a power loss takes what came since"
            }
            Self::Always => "fsync before each acknowledgement",
            Self::Three => {
                "in the page caches of two of three servers when acknowledged (all on this machine here), fsync every 2 minutes"
            }
        }
    }

    /// What is set otherwise than by default.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::One => "File storage, one replica",
            Self::Always => "sync_interval: always. File storage, one replica",
            Self::Three => "A cluster of three servers on this machine. File storage, three replicas",
        }
    }
}

/// Servers that run.
pub(super) struct Servers {
    pub(super) processes: Vec<Process>,
    /// `127.0.0.1:PORT` of each.
    pub(super) addresses: Vec<String>,
}

/// Where nats-server lies, if it is there.
pub(super) fn binary(folder: &Path) -> Option<PathBuf> {
    super::find("nats-server", &folder.join("nats/bin/nats-server"))
}

/// Starts servers with their stores in the folder, and waits until they take connections.
pub(super) async fn start(binary: &Path, setting: Setting, folder: &Path) -> Result<Servers, Failure> {
    let ports: Vec<(u16, u16)> =
        (0..setting.replicas()).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<_, Failure>>()?;
    let mut servers = Servers { processes: Vec::new(), addresses: Vec::new() };
    for (number, (port, between)) in ports.iter().enumerate() {
        let folder = folder.join(format!("nats-{number}"));
        std::fs::create_dir(&folder)?;
        let store = folder.join("store").display().to_string();
        let sync = if setting == Setting::Always { "sync_interval: always" } else { "" };
        let mut text = format!(
            "server_name: n{number}\nlisten: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}\n {sync} }}\n"
        );
        if setting == Setting::Three {
            let others = ports.iter().filter(|(other, _)| other != port);
            let routes: Vec<_> =
                others.map(|(_, between)| format!("\"nats://127.0.0.1:{between}\"")).collect();
            let routes = routes.join(", ");
            text += &format!(
                "cluster {{ name: bench\n listen: \"127.0.0.1:{between}\"\n routes: [{routes}] }}\n"
            );
        }
        let config = folder.join("nats.conf");
        std::fs::write(&config, text)?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(config);
        servers.processes.push(Process::start(command, &folder)?);
        servers.addresses.push(format!("127.0.0.1:{port}"));
    }
    for (process, (port, _)) in servers.processes.iter_mut().zip(&ports) {
        process.listens(*port, Duration::from_secs(20)).await?;
    }
    Ok(servers)
}
