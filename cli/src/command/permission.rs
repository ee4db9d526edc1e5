//! Permissions: what users may do.

use clap::{Args, Subcommand};
use crossdock_config::{Name, Permission};
use crossdock_control::api::PermissionList;
use crossdock_topics::{Error, TopicPattern};

use super::Caller;
use crate::client::Client;
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

#[derive(Debug, Subcommand)]
enum Action {
    /// List permissions
    Ls,
    /// Remove a permission; its users lose at once what it gave them
    Rm {
        /// The permission
        name: Name,
    },
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        match self.action {
            Action::Ls => caller.output.list(&all(&client).await?),
            Action::Rm { name } => {
                let found = all(&client).await?.into_iter().find(|permission| permission.name == name);
                let permission = found.ok_or_else(|| Error::not_found("permission", &name))?;
                client.delete(&["permissions", name.as_str()]).await?;
                caller.output.done(&permission, &format!("removed permission {name}"))
            }
        }
    }
}

async fn all(client: &Client) -> Result<Vec<Permission>, Error> {
    Ok(client.get::<PermissionList>(&["permissions"]).await?.permissions)
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
