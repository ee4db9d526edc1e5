//! Topics.

mod purge;
mod replay;

use std::time::Duration;

use clap::{Args, Subcommand};
use crossdock_config::Size;
use crossdock_control::api::TopicList;
use crossdock_topics::{Durability, Error, ErrorCode, Retention, Topic, TopicInfo, TopicName, time::human};
use reqwest::Method;

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::output::{Show, size};

/// List, make, replay, empty and remove topics
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock topic create orders --max-age 30d
  crossdock topic create prices --compact --max-age forever
  crossdock topic ls
  crossdock topic get orders -o yaml
  crossdock topic replay orders --into orders.test --from 2026-11-22T17:00:00Z --rate 100")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List topics
    Ls {
        /// Show the system's own topics too, which begin with `_`
        #[arg(long)]
        all: bool,
    },
    /// Show one topic
    Get {
        /// The topic
        name: TopicName,
    },
    /// Make a topic; making the same one again changes nothing
    Create(Create),
    Replay(replay::Arguments),
    Purge(purge::Arguments),
    /// Delete a topic with all its messages
    Rm {
        /// The topic
        name: TopicName,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// The topic
    name: TopicName,
    /// What an acknowledgement is worth at least: memory, os or fsync [default: fsync]
    #[arg(long, value_parser = durability)]
    durability: Option<Durability>,
    /// How long messages are kept, such as 12h or 30d; `forever` for no limit [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = age)]
    max_age: Option<Age>,
    /// How many bytes of messages are kept, such as 10GiB
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<Size>,
    /// How many messages are kept
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// Let retention drop messages that a subscription has not settled yet
    #[arg(long)]
    drop_unread: bool,
    /// Keep only the newest message of each key, as far as subscriptions have settled the older ones
    #[arg(long)]
    compact: bool,
    /// How long message ids are remembered, to store each once; 0s for not at all [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = human::parse)]
    dedup_window: Option<Duration>,
    /// The largest payload it takes [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    max_message_bytes: Option<Size>,
}

/// A limit of age, or none.
#[derive(Clone, Copy, Debug)]
struct Age(Option<Duration>);

fn age(text: &str) -> Result<Age, String> {
    if text == "forever" { Ok(Age(None)) } else { human::parse(text).map(|age| Age(Some(age))) }
}

pub(super) fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "memory" => Ok(Durability::Memory),
        "os" => Ok(Durability::Os),
        "fsync" => Ok(Durability::Fsync),
        _ => Err("it can be memory, os or fsync".into()),
    }
}

impl Create {
    fn topic(self) -> Topic {
        let usual = Topic::new(self.name);
        Topic {
            durability: self.durability.unwrap_or(usual.durability),
            retention: Retention {
                max_age: self.max_age.map_or(usual.retention.max_age, |age| age.0),
                max_bytes: self.max_bytes.map(|size| size.0),
                max_messages: self.max_messages,
                drop_unread: self.drop_unread,
                compact: self.compact,
            },
            dedup_window: self.dedup_window.unwrap_or(usual.dedup_window),
            max_message_bytes: self.max_message_bytes.map_or(usual.max_message_bytes, Size::bytes),
            name: usual.name,
        }
    }
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        match self.action {
            Action::Ls { all } => {
                let mut list: TopicList = client.get(&["topics"]).await?;
                list.topics.retain(|info| all || !info.topic.name.is_system());
                caller.output.list(&list.topics)
            }
            Action::Get { name } => caller.output.one(&get(&client, &name).await?),
            Action::Create(create) => {
                let topic = create.topic();
                topic.check()?;
                let name = topic.name.clone();
                match get(&client, &name).await {
                    Ok(info) if info.topic == topic => {
                        return caller.output.done(&info, &format!("topic {name} is there already"));
                    }
                    Ok(_) => {
                        return Err(Error::new(
                            ErrorCode::AlreadyExists,
                            format!("topic {name} exists with other settings"),
                        )
                        .hint(format!("see `crossdock topic get {name}`; `crossdock apply` changes settings"))
                        .into());
                    }
                    Err(error) if error.code == ErrorCode::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
                client.send(client.api(Method::PUT, &["topics", name.as_str()]).json(&topic)).await?;
                caller.output.done(&get(&client, &name).await?, &format!("made topic {name}"))
            }
            Action::Replay(replay) => replay.run(caller, &client).await,
            Action::Purge(purge) => purge.run(caller, &client).await,
            Action::Rm { name } => {
                let info = get(&client, &name).await?;
                client.delete(&["topics", name.as_str()]).await?;
                caller.output.done(&info, &format!("deleted topic {name}"))
            }
        }
    }
}

/// What is known of a topic.
pub(super) async fn get(client: &Client, name: &TopicName) -> Result<TopicInfo, Error> {
    client.get(&["topics", name.as_str()]).await
}

impl Show for TopicInfo {
    const COLUMNS: &'static [&'static str] = &["name", "messages", "size", "durability", "keeps", "last"];

    fn row(&self) -> Vec<String> {
        vec![
            self.topic.name.to_string(),
            (self.tail - self.head).to_string(),
            size(self.bytes),
            self.topic.durability.to_string(),
            keeps(&self.topic.retention),
            self.last.map(|last| last.to_string()).unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.topic.name.to_string()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("name", self.topic.name.to_string()),
            ("messages", (self.tail - self.head).to_string()),
            ("offsets", format!("{} to {}", self.head, self.tail)),
            ("size", size(self.bytes)),
            ("durability", self.topic.durability.to_string()),
            ("keeps", keeps(&self.topic.retention)),
            ("drop unread", if self.topic.retention.drop_unread { "yes" } else { "no" }.into()),
            ("dedup window", humantime::format_duration(self.topic.dedup_window).to_string()),
            ("largest message", Size(self.topic.max_message_bytes as u64).to_string()),
        ];
        all.extend(self.last.map(|last| ("last message", last.to_string())));
        all.extend(self.held_by.clone().map(|held_by| ("held by", held_by)));
        all
    }
}

fn keeps(retention: &Retention) -> String {
    let limits: Vec<String> = [
        retention.max_age.map(|age| humantime::format_duration(age).to_string()),
        retention.max_bytes.map(|bytes| Size(bytes).to_string()),
        retention.max_messages.map(|count| format!("{count} messages")),
    ]
    .into_iter()
    .flatten()
    .chain(retention.compact.then(|| "the newest of each key".to_owned()))
    .collect();
    if limits.is_empty() { "forever".into() } else { limits.join(", ") }
}
