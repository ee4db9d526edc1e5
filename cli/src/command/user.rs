//! Users.

use clap::{Args, Subcommand};
use crossdock_config::Name;
use crossdock_control::api::{UserInfo, UserList};
use crossdock_topics::Error;

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::output::Show;

/// List and remove users; they are made with `apply`
#[derive(Debug, Args)]
#[command(after_help = "\
Neither the last administrator can be removed nor one whom a permission names.

Examples:
  crossdock user ls
  crossdock user rm alice")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List users
    Ls,
    /// Remove a user whom no permission names any more
    Rm {
        /// The user
        name: Name,
    },
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        match self.action {
            Action::Ls => caller.output.list(&all(&client).await?),
            Action::Rm { name } => {
                let found = all(&client).await?.into_iter().find(|user| user.name == name);
                let user = found.ok_or_else(|| Error::not_found("user", &name))?;
                client.delete(&["users", name.as_str()]).await?;
                caller.output.done(&user, &format!("removed user {name}"))
            }
        }
    }
}

async fn all(client: &Client) -> Result<Vec<UserInfo>, Error> {
    Ok(client.get::<UserList>(&["users"]).await?.users)
}

impl Show for UserInfo {
    const COLUMNS: &'static [&'static str] = &["name", "password", "api key"];

    fn row(&self) -> Vec<String> {
        let there = |is: bool| if is { "yes" } else { "no" }.to_owned();
        vec![self.name.to_string(), there(self.has_password), there(self.has_api_key)]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}
