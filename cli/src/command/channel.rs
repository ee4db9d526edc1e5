//! REST channels: paths of the gateway.

use clap::Args;
use crossdock_config::{Method, RestChannel};
use crossdock_control::api::RestChannelList;

use super::Caller;
use super::named::{Action, Named};
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

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        self.action.run::<RestChannel>(caller).await
    }
}

impl Named for RestChannel {
    const PATH: &'static str = "rest-channels";
    const KIND: &'static str = "REST channel";
    type List = RestChannelList;

    fn all(list: Self::List) -> Vec<Self> {
        list.rest_channels
    }
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
