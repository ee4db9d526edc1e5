//! The configuration as it is.

use clap::Args;
use crossdock_config::{Document, parse};
use crossdock_topics::{Error, ErrorCode};
use reqwest::Method;

use super::Caller;
use crate::failure::Result;
use crate::output::{Format, Show, print_bytes, say};

/// Print the configuration as it is, as YAML that `apply` takes
#[derive(Debug, Args)]
#[command(after_help = "\
Users' passwords and API keys are not in it, nor are their hashes: applied to
another platform, nobody can log in as them until they are applied there too.

Examples:
  crossdock export > cluster.yaml")]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        let response = client.send(client.api(Method::GET, &["export"])).await?;
        let text = response.text().await.map_err(|cause| {
            Error::new(ErrorCode::Unavailable, format!("the answer broke off: {cause}")).hint("try it again")
        })?;
        say("passwords and API keys are not part of it: on another platform, apply them for each user");
        if caller.for_people() || caller.output.format() == Format::Yaml {
            return print_bytes(text.as_bytes());
        }
        let document = parse(text.as_bytes(), None, None).map_err(Error::from)?.document;
        caller.output.one(&document)
    }
}

impl Show for Document {
    const COLUMNS: &'static [&'static str] = &["topics", "subscriptions", "services", "users"];

    fn row(&self) -> Vec<String> {
        let counts = [self.topics.len(), self.subscriptions.len(), self.services.len(), self.users.len()];
        counts.iter().map(ToString::to_string).collect()
    }

    /// All that it names, one a line.
    fn name(&self) -> String {
        let topics = self.topics.iter().map(|topic| format!("topic/{}", topic.name));
        let subscriptions = self.subscriptions.iter().map(|sub| format!("subscription/{}", sub.name));
        let services = self.services.iter().map(|service| format!("service/{}", service.name));
        let users = self.users.iter().map(|user| format!("user/{}", user.name));
        let permissions = self.permissions.iter().map(|permission| format!("permission/{}", permission.name));
        let channels = self.rest_channels.iter().map(|channel| format!("rest_channel/{}", channel.name));
        let all = topics.chain(subscriptions).chain(services).chain(users).chain(permissions).chain(channels);
        all.collect::<Vec<_>>().join("\n")
    }
}
