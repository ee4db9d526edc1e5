//! The commands, one a file: what it takes, what it does, and how its data looks as a table.

mod apply;
mod bench;
mod channel;
mod completion;
mod context;
mod dlq;
mod explain;
mod export;
mod migrate;
mod named;
mod permission;
mod publish;
mod quickstart;
mod server;
mod service;
mod status;
mod sub;
mod tail;
mod topic;
mod user;
mod verify;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::client::Client;
use crate::env;
use crate::failure::Result;
use crate::output::{Format, Output};

/// An integration platform with a durable topic broker at its centre
#[derive(Debug, Parser)]
#[command(
    name = "crossdock",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
Examples:
  crossdock quickstart               a running platform in ./crossdock-data
  crossdock topic create orders
  crossdock pub orders '{\"id\": 1}'
  crossdock tail orders --follow
  crossdock service new route        a small Python service, and its test
  crossdock service deploy route.py

Data goes to standard output, everything else to standard error. Exit codes:
0 done, 1 failed, 2 wrong usage or input, 3 not found, 4 denied, 5 unavailable
or too late, 6 conflict, 7 the service's own code failed."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The format of data
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Everywhere"
    )]
    output: Format,
    /// The saved context to use instead of the current one
    #[arg(long, global = true, env = env::CONTEXT, hide_env = true, value_name = "NAME", help_heading = "Everywhere")]
    context: Option<String>,
    /// The certificates to trust over TLS, a PEM file [default: those this machine trusts]
    #[arg(long, global = true, env = env::CA_FILE, hide_env = true, value_name = "FILE", help_heading = "Everywhere")]
    ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::Arguments),
    Server(server::Arguments),
    Status(status::Arguments),
    Apply(apply::Arguments),
    Export(export::Arguments),
    Topic(topic::Arguments),
    #[command(name = "pub")]
    Publish(publish::Arguments),
    Tail(tail::Arguments),
    Sub(sub::Arguments),
    Dlq(dlq::Arguments),
    Explain(explain::Arguments),
    Service(service::Arguments),
    User(user::Arguments),
    Permission(permission::Arguments),
    Channel(channel::Arguments),
    Context(context::Arguments),
    Bench(bench::Arguments),
    Migrate(migrate::Arguments),
    Verify(verify::Arguments),
    #[command(name = "verify-broker", hide = true)]
    VerifyBroker(verify::Broker),
    Completion(completion::Arguments),
}

/// What a command is given beside its own arguments.
#[derive(Debug)]
struct Caller {
    output: Output,
    context: Option<String>,
    ca: Option<PathBuf>,
}

impl Caller {
    /// Whether data is for a person to read.
    fn for_people(&self) -> bool {
        self.output.format() == Format::Table
    }

    /// A client of the server that the environment or the saved context names.
    fn connect(&self) -> Result<Client> {
        let (context, others) = crate::context::resolve(self.context.as_deref())?;
        Ok(Client::new(context, self.ca.clone())?.beside(others))
    }
}

impl Arguments {
    /// Whether the command is a server, whose log says what goes on.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.command, Command::Quickstart(_) | Command::Server(_) | Command::VerifyBroker(_))
    }

    /// What is logged usually: a server says what it does, a command only warns, and one that breaks connections itself
    /// does not even do that.
    pub(crate) fn log(&self) -> &'static str {
        match self.command {
            Command::Verify(_) => "error",
            _ if self.serves() => "warn,crossdock=info",
            _ => "warn",
        }
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Why it failed, as it is to be shown.
    pub(crate) async fn run(self) -> Result<()> {
        let caller = Caller { output: Output::new(self.output), context: self.context, ca: self.ca };
        match self.command {
            Command::Quickstart(arguments) => arguments.run(&caller).await,
            Command::Server(arguments) => arguments.run(&caller).await,
            Command::Status(arguments) => arguments.run(&caller).await,
            Command::Apply(arguments) => arguments.run(&caller).await,
            Command::Export(arguments) => arguments.run(&caller).await,
            Command::Topic(arguments) => arguments.run(&caller).await,
            Command::Publish(arguments) => arguments.run(&caller).await,
            Command::Tail(arguments) => arguments.run(&caller).await,
            Command::Sub(arguments) => arguments.run(&caller).await,
            Command::Dlq(arguments) => arguments.run(&caller).await,
            Command::Explain(arguments) => arguments.run(&caller).await,
            Command::Service(arguments) => arguments.run(&caller).await,
            Command::User(arguments) => arguments.run(&caller).await,
            Command::Permission(arguments) => arguments.run(&caller).await,
            Command::Channel(arguments) => arguments.run(&caller).await,
            Command::Context(arguments) => arguments.run(&caller),
            Command::Bench(arguments) => arguments.run(&caller).await,
            Command::Migrate(arguments) => arguments.run(&caller).await,
            Command::Verify(arguments) => arguments.run(&caller).await,
            Command::VerifyBroker(arguments) => arguments.run().await,
            Command::Completion(arguments) => arguments.run(),
        }
    }
}

#[cfg(test)]
mod tests;
