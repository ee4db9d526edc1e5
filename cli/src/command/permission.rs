//! Permissions: what users may do.

use clap::Args;
use crossdock_config::{Name, Permission};
use crossdock_control::api::PermissionList;
use crossdock_topics::TopicPattern;

use super::Caller;
use super::named::{Action, Named};
use crate::failure::Result;
use crate::output::Show;

/// List and remove permissions; they are made with `apply`
#[derive(Debug, Args)]
#[command(after_help = "\
The last one that makes somebody an administrator cannot be removed.

Examples:
  crossdock permission ls
  crossdock permission rm traders")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        self.action.run::<Permission>(caller).await
    }
}

impl Named for Permission {
    const PATH: &'static str = "permissions";
    const KIND: &'static str = "permission";
    type List = PermissionList;

    fn all(list: Self::List) -> Vec<Self> {
        list.permissions
    }
}

impl Show for Permission {
    const COLUMNS: &'static [&'static str] = &["name", "users", "admin", "publish", "consume", "invoke"];

    fn row(&self) -> Vec<String> {
        let patterns =
            |all: &[TopicPattern]| all.iter().map(TopicPattern::as_str).collect::<Vec<_>>().join(", ");
        vec![
            self.name.to_string(),
            self.users.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
            if self.admin { "yes" } else { "no" }.into(),
            patterns(&self.publish),
            patterns(&self.consume),
            patterns(&self.invoke),
        ]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}
