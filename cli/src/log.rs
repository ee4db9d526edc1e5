//! The process's own log, on standard error.

use std::io::{self, IsTerminal};

use crossdock_topics::Error;
use tracing_subscriber::EnvFilter;

use crate::env;

/// Starts logging as usual for the command, unless `CROSSDOCK_LOG` or `RUST_LOG` says otherwise.
///
/// # Errors
/// `InvalidArgument` when the variable is not understood.
pub(crate) fn start(usual: &str) -> Result<(), Error> {
    let (name, directives) = match (env::get(env::LOG)?, env::get(env::RUST_LOG)?) {
        (Some(directives), _) => (env::LOG, directives),
        (None, Some(directives)) => (env::RUST_LOG, directives),
        (None, None) => ("", usual.to_owned()),
    };
    let filter = EnvFilter::try_new(&directives).map_err(|cause| {
        Error::invalid(format!("{name} is not understood: {cause}"))
            .hint("write it like info, or warn,crossdock_gateway=debug")
    })?;
    let colour = io::stderr().is_terminal() && env::get(env::NO_COLOR)?.is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    // Only a test can have started one before.
    let _ = log.try_init();
    Ok(())
}
