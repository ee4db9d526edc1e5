//! The binary's insides: what is typed, who is asked, how it is shown, and the process that `quickstart` runs.
//!
//! [`run`] is all there is to it. `command` has one command a file; `client`, `context`, `output` and `failure`
//! are what they share; `server` puts together the parts of a process that serves, `quickstart` one that needs nothing else.

mod client;
mod command;
mod confirm;
mod context;
mod document;
mod env;
mod exit;
mod failure;
mod follow;
mod log;
mod message;
mod output;
mod place;
mod quickstart;
mod refusal;
mod server;
mod way;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::exit::Exit;
use crate::failure::Failure;

/// Runs a command line to its end, and says how it ended. The first argument is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match command::Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version are data, and go to standard output; the rest is a wrong usage.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let ended = log::start(arguments.log()).map_err(Failure::from).and_then(|()| {
        if arguments.serves() {
            server::memory::tame();
        }
        let runtime = runtime(arguments.serves())?;
        let ended = runtime.block_on(Box::pin(arguments.run()));
        // What is left are reads of standard input, which nobody can interrupt.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            let text = failure.render(output::colour());
            if !text.is_empty() {
                output::say(text.trim_end());
            }
            failure.exit().into()
        }
    }
}

/// A server gets a thread per core, at least two, so that one busy task never stops all others. A command
/// waits for its server most of the time; two threads are enough for those that put load on it.
fn runtime(serves: bool) -> Result<tokio::runtime::Runtime, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(if serves { cores.max(2) } else { 2 })
        .enable_all()
        .build()
        .map_err(|cause| crossdock_topics::Error::internal(format!("cannot start threads: {cause}")).into())
}
