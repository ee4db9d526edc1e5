//! REST channels: paths of the gateway.

use clap::{Args, Subcommand};
use crossdock_config::{Method, Name, RestChannel};
use crossdock_control::api::RestChannelList;
use crossdock_topics::Error;

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::output::Show;

/// List and remove REST channels; they are made with `apply`
#[derive(Debug, Args)]
#[command(after_help = "\
The service or topic behind a channel stays when it is removed.

Examples:
  crossdock channel ls
  crossdock channel rm intake")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List REST channels
    Ls,
    /// Remove a REST channel; its path leads nowhere from then on
    Rm {
        /// The channel
        name: Name,
    },
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        match self.action {
            Action::Ls => caller.output.list(&all(&client).await?),
            Action::Rm { name } => {
                let found = all(&client).await?.into_iter().find(|channel| channel.name == name);
                let channel = found.ok_or_else(|| Error::not_found("REST channel", &name))?;
                client.delete(&["rest-channels", name.as_str()]).await?;
                caller.output.done(&channel, &format!("removed REST channel {name}"))
            }
        }
    }
}

async fn all(client: &Client) -> Result<Vec<RestChannel>, Error> {
    Ok(client.get::<RestChannelList>(&["rest-channels"]).await?.rest_channels)
}

impl Show for RestChannel {
    const COLUMNS: &'static [&'static str] = &["name", "path", "methods", "leads to", "authenticate"];

    fn row(&self) -> Vec<String> {
        let target = match (&self.service, &self.topic) {
            (Some(service), _) => format!("service {service}"),
            (None, Some(topic)) => format!("topic {topic}"),
            (None, None) => String::new(),
        };
        vec![
            self.name.to_string(),
            self.path.to_string(),
            self.methods.iter().map(|method| Method::as_str(*method)).collect::<Vec<_>>().join(", "),
            target,
            if self.authenticate { "yes" } else { "no" }.into(),
        ]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}
