//! Emptying a topic.

use clap::Args;
use crossdock_control::api::PurgeRequest;
use crossdock_topics::{TopicInfo, TopicName};

use super::get;
use crate::client::Client;
use crate::command::Caller;
use crate::confirm::confirmed;
use crate::failure::Result;

/// Drop messages of a topic, from the oldest on, whoever still needs them; asks first
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The topic
    name: TopicName,
    /// Keep what is at this offset and after it [default: keep nothing that is stored now]
    #[arg(long, value_name = "OFFSET")]
    before: Option<u64>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller, client: &Client) -> Result<()> {
        let was = get(client, &self.name).await?;
        let name = &self.name;
        let what = match self.before {
            Some(before) => format!("the messages of {name} before offset {before}"),
            None => format!("all messages of {name}"),
        };
        let warning = "what subscriptions have not settled, and their dead letters, go too";
        if !confirmed(self.yes, &format!("Drop {what}? ({warning})"))? {
            return Ok(());
        }
        let request = PurgeRequest { before: self.before };
        let info: TopicInfo = client.post(&["topics", name.as_str(), "purge"], &request).await?;
        let dropped = info.head.saturating_sub(was.head);
        let sentence = format!("dropped {dropped} messages of {name}; it begins at offset {} now", info.head);
        caller.output.done(&info, &sentence)
    }
}
