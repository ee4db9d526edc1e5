//! Subscriptions.

mod create;
mod keys;
mod show;

use clap::{Args, Subcommand};
use crossdock_control::api::{Count, ParkedKeyList, ReleaseRequest, SeekRequest, SubscriptionList};
use crossdock_topics::{Error, ErrorCode, StartAt, SubscriptionInfo, SubscriptionName, TopicName};
use reqwest::Method;

use self::create::Create;
use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::message::one_line;

/// List, make, steer and remove subscriptions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock sub create billing --topic orders
  crossdock sub create audit --topic 'orders.**' --from end
  crossdock sub create ledger --topic orders --order key
  crossdock sub create large --topic orders --filter-jq '.total > 100'
  crossdock sub ls
  crossdock sub seek audit --to 2026-11-22T17:00:00Z
  crossdock sub release ledger customer-7")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List subscriptions
    Ls,
    /// Show one subscription, with how it stands in each of its topics
    Get {
        /// The subscription
        name: SubscriptionName,
    },
    /// Make a subscription; making the same one again changes nothing
    Create(Create),
    /// Deliver nothing until it is resumed; what consumers hold can be settled
    Pause {
        /// The subscription
        name: SubscriptionName,
    },
    /// Deliver again
    Resume {
        /// The subscription
        name: SubscriptionName,
    },
    /// Go on at another place: everything from there on is delivered (again), nothing before it
    Seek {
        /// The subscription
        name: SubscriptionName,
        /// Where: start, end, an offset, or a moment like 2026-11-22T17:00:00Z
        #[arg(long, value_name = "PLACE")]
        to: StartAt,
        /// In this topic only
        #[arg(long)]
        topic: Option<TopicName>,
    },
    /// List the keys that wait alone, because their message failed too often (with --order key)
    Keys {
        /// The subscription
        name: SubscriptionName,
        /// List at most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        max: u16,
    },
    /// Let a parked key go on: its message is delivered again, with its failures forgotten
    Release {
        /// The subscription
        name: SubscriptionName,
        /// The key
        key: String,
        /// Put its message to the dead letters instead; what waits behind it goes on
        #[arg(long)]
        give_up: bool,
    },
    /// Delete a subscription, with its place and its dead letters' index; messages stay in their topics
    Rm {
        /// The subscription
        name: SubscriptionName,
    },
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        match self.action {
            Action::Ls => {
                let list: SubscriptionList = client.get(&["subscriptions"]).await?;
                caller.output.list(&list.subscriptions)
            }
            Action::Get { name } => caller.output.one(&get(&client, &name).await?),
            Action::Create(create) => {
                let subscription = create.subscription();
                subscription.check()?;
                let name = subscription.name.clone();
                match get(&client, &name).await {
                    Ok(info) if info.subscription == subscription => {
                        return caller.output.done(&info, &format!("subscription {name} is there already"));
                    }
                    Ok(_) => {
                        return Err(Error::new(
                            ErrorCode::AlreadyExists,
                            format!("subscription {name} exists with other settings"),
                        )
                        .hint(format!("see `crossdock sub get {name}`; `crossdock apply` changes settings"))
                        .into());
                    }
                    Err(error) if error.code == ErrorCode::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
                let request = client.api(Method::PUT, &["subscriptions", name.as_str()]);
                client.send(request.json(&subscription)).await?;
                caller.output.done(&get(&client, &name).await?, &format!("made subscription {name}"))
            }
            Action::Pause { name } => {
                let info = act(&client, &name, "pause").await?;
                caller.output.done(&info, &format!("paused subscription {name}"))
            }
            Action::Resume { name } => {
                let info = act(&client, &name, "resume").await?;
                caller.output.done(&info, &format!("subscription {name} delivers again"))
            }
            Action::Seek { name, to, topic } => {
                let path = ["subscriptions", name.as_str(), "seek"];
                let info: SubscriptionInfo = client.post(&path, &SeekRequest { to, topic }).await?;
                let places = info.topics.iter().map(|topic| format!("{} of {}", topic.next, topic.topic));
                let places = places.collect::<Vec<_>>().join(", ");
                caller.output.done(&info, &format!("subscription {name} goes on at {places}"))
            }
            Action::Keys { name, max } => {
                let request = client.api(Method::GET, &["subscriptions", name.as_str(), "parked-keys"]);
                let list: ParkedKeyList = client.json(request.query(&[("max", max)])).await?;
                caller.output.list(&list.keys)
            }
            Action::Release { name, key, give_up } => {
                let path = ["subscriptions", name.as_str(), "parked-keys", "release"];
                let request = ReleaseRequest { key, give_up };
                let released: Count = client.post(&path, &request).await?;
                let key = one_line(&request.key);
                if released.count == 0 {
                    return Err(Error::not_found("parked key", format!("{key} in subscription {name}"))
                        .hint(format!("see `crossdock sub keys {name}`"))
                        .into());
                }
                let what = if give_up {
                    "its message is a dead letter now"
                } else {
                    "its message is delivered again"
                };
                caller.output.done(&get(&client, &name).await?, &format!("key {key} goes on: {what}"))
            }
            Action::Rm { name } => {
                let info = get(&client, &name).await?;
                client.delete(&["subscriptions", name.as_str()]).await?;
                caller.output.done(&info, &format!("deleted subscription {name}"))
            }
        }
    }
}

async fn get(client: &Client, name: &SubscriptionName) -> Result<SubscriptionInfo, Error> {
    client.get(&["subscriptions", name.as_str()]).await
}

async fn act(client: &Client, name: &SubscriptionName, verb: &str) -> Result<SubscriptionInfo, Error> {
    client.json(client.api(Method::POST, &["subscriptions", name.as_str(), verb])).await
}
