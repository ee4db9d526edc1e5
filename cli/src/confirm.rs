//! Asking before something is done that nothing can undo.

use std::io::{self, IsTerminal};

use crossdock_topics::Error;

use crate::output::{ask, say};

/// Whether to go on: as `--yes` says, or as the person at the terminal answers.
///
/// # Errors
/// `InvalidArgument` when neither is there.
pub(crate) fn confirmed(yes: bool, question: &str) -> Result<bool, Error> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Error::invalid(format!("{question} nobody is there to answer")).hint("say --yes"));
    }
    ask(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|cause| Error::internal(format!("cannot read the answer: {cause}")))?;
    let yes = ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str());
    if !yes {
        say("nothing was done");
    }
    Ok(yes)
}
