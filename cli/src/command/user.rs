//! Users.

use clap::Args;
use crossdock_control::api::{UserInfo, UserList};

use super::Caller;
use super::named::{Action, Named};
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

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        self.action.run::<UserInfo>(caller).await
    }
}

impl Named for UserInfo {
    const PATH: &'static str = "users";
    const KIND: &'static str = "user";
    type List = UserList;

    fn all(list: Self::List) -> Vec<Self> {
        list.users
    }
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
