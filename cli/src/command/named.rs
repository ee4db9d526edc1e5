//! Things that are listed and removed by name, and made with `apply`.

use clap::Subcommand;
use crossdock_config::Name;
use crossdock_topics::Error;
use serde::de::DeserializeOwned;

use super::Caller;
use crate::failure::Result;
use crate::output::Show;

/// What can be done about them.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List them
    Ls,
    /// Remove one
    Rm {
        /// Its name
        name: Name,
    },
}

/// One of a kind of things.
pub(super) trait Named: Show {
    /// Where the Admin API has them.
    const PATH: &'static str;
    /// What one is called.
    const KIND: &'static str;
    /// All of them.
    type List: DeserializeOwned;

    /// Those of a list.
    fn all(list: Self::List) -> Vec<Self>
    where
        Self: Sized;
}

impl Action {
    /// Does it to things of a kind.
    ///
    /// # Errors
    /// `NotFound`, and those of the server.
    pub(super) async fn run<T: Named>(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        let all = T::all(client.get(&[T::PATH]).await?);
        match self {
            Self::Ls => caller.output.list(&all),
            Self::Rm { name } => {
                let found = all.into_iter().find(|one| one.name() == name.as_str());
                let one = found.ok_or_else(|| Error::not_found(T::KIND, &name))?;
                client.delete(&[T::PATH, name.as_str()]).await?;
                caller.output.done(&one, &format!("removed {} {name}", T::KIND))
            }
        }
    }
}
