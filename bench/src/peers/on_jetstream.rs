//! Crossdock on NATS JetStream: its engine in this process, on nats-servers set as those that are measured bare.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_topics::Durability;

use super::crossdock::{CLIENT, Running};
use super::nats_servers::{self, Setting};
use super::{About, Server, System};
use crate::Failure;

/// One for each bare one, in the same order.
pub(super) fn systems(folder: &Path) -> Option<Vec<Box<dyn System>>> {
    let binary = nats_servers::binary(folder)?;
    let system = |setting| OnJetStream { about: about(setting), binary: binary.clone(), setting };
    Some(Setting::ALL.into_iter().map(|setting| Box::new(system(setting)) as Box<dyn System>).collect())
}

struct OnJetStream {
    about: About,
    binary: PathBuf,
    setting: Setting,
}

fn about(setting: Setting) -> About {
    let (name, option) = match setting {
        Setting::One => ("Crossdock on JetStream", ""),
        Setting::Always => ("Crossdock on JetStream, sync always", " and `?sync=always`"),
        Setting::Three => ("Crossdock on JetStream, three servers", ""),
    };
    let settings = format!(
        "{}. The engine runs in the measuring process, as async-nats does where JetStream is measured by itself: Crossdock's \
         defaults{option}. The server's processor time and memory are nats-server's alone. Client: {CLIENT}",
        setting.words()
    );
    About { name, durability: setting.durability(), settings, redelivers: true }
}

#[async_trait]
impl System for OnJetStream {
    fn about(&self) -> &About {
        &self.about
    }

    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure> {
        let servers = nats_servers::start(&self.binary, self.setting, folder).await?;
        let mut options = JetStreamOptions::new(&format!("nats://{}", servers.addresses.join(",")))?;
        options.sync_always = self.setting == Setting::Always;
        let durability = match self.setting {
            Setting::One => Durability::Os,
            Setting::Always => Durability::Fsync,
            Setting::Three => Durability::Quorum(3),
        };
        let broker = JetStream::open(options).await?;
        Ok(Box::new(Running::new(broker, servers.processes, durability)))
    }
}
