//! Saved contexts: where the command line connects, and as whom.

use std::path::Path;

use clap::{Args, Subcommand};
use crossdock_topics::Error;
use serde::Serialize;

use super::Caller;
use crate::context::Contexts;
use crate::env;
use crate::failure::Result;
use crate::output::Show;

/// List the saved contexts, and choose the one to connect to
#[derive(Debug, Args)]
#[command(after_help = "\
Each quickstart saves one under its directory's whole path and makes it the
current one. --context and CROSSDOCK_CONTEXT choose for one command.

Examples:
  crossdock context ls
  crossdock context use /srv/crossdock-data")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List saved contexts
    Ls,
    /// Make a saved context the current one
    Use {
        /// The context
        name: String,
    },
}

/// A saved context, without its secret.
#[derive(Debug, Serialize)]
struct Saved {
    name: String,
    current: bool,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
}

impl Arguments {
    pub(super) fn run(self, caller: &Caller) -> Result<()> {
        let directory = env::config_dir().ok_or_else(|| {
            Error::invalid("neither XDG_CONFIG_HOME nor HOME is set, so no context can be saved")
                .hint("set one of them to an absolute path, or use CROSSDOCK_URL")
        })?;
        match self.action {
            Action::Ls => caller.output.list(&all(&directory)?),
            Action::Use { name } => {
                Contexts::choose(&directory, &name)?;
                let chosen = all(&directory)?.into_iter().find(|saved| saved.name == name);
                let chosen = chosen.ok_or_else(|| Error::not_found("saved context", &name))?;
                caller.output.done(&chosen, &format!("commands go to {} now, context {name}", chosen.url))
            }
        }
    }
}

fn all(directory: &Path) -> Result<Vec<Saved>, Error> {
    let Contexts { current, contexts } = Contexts::load(directory)?;
    let saved = contexts.into_iter().map(|(name, context)| Saved {
        current: current.as_ref() == Some(&name),
        name,
        url: context.url,
        user: context.user,
    });
    Ok(saved.collect())
}

impl Show for Saved {
    const COLUMNS: &'static [&'static str] = &["name", "current", "url", "user"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            if self.current { "yes" } else { "" }.into(),
            self.url.clone(),
            self.user.clone().unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
