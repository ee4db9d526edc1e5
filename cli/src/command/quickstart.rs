//! A running platform from one command.

use std::path::PathBuf;

use clap::Args;

use super::Caller;
use crate::failure::Result;
use crate::output::{Show, print};
use crate::quickstart::{Options, Ready, run};

/// Start a whole platform in one process, and make this command line talk to it
#[derive(Debug, Args)]
#[command(after_help = "\
Makes DIR, the user admin and a password, which is printed once and kept in
DIR/context.json (readable by you alone). Started again on the same DIR it goes
on where it was. It listens on 127.0.0.1 only. Ctrl-C drains: listeners first,
then services, then the broker; a second Ctrl-C ends it at once.

Environment:
  CROSSDOCK_ADMIN_PASSWORD   the password of the user admin
  CROSSDOCK_LOG, RUST_LOG    what is logged: debug, warn,crossdock_gateway=debug

Examples:
  crossdock quickstart
  crossdock quickstart /var/lib/crossdock --port-base 8400")]
pub(super) struct Arguments {
    /// Where everything is kept
    #[arg(value_name = "DIR", default_value = "./crossdock-data")]
    directory: PathBuf,
    /// The HTTP gateway's port; the Admin API's is the next one, the broker's wire the one after; 0 for any
    /// that are free
    #[arg(long, value_name = "P", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(0..=65533))]
    port_base: u16,
    /// Go on without acknowledged messages that a damaged disk has lost, where it would refuse to start
    #[arg(long)]
    accept_loss: bool,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let options =
            Options { directory: self.directory, port_base: self.port_base, accept_loss: self.accept_loss };
        Box::pin(run(options, |ready| {
            if caller.for_people() { print(&welcome(ready)) } else { caller.output.next(ready) }
        }))
        .await
    }
}

impl Show for Ready {
    const COLUMNS: &'static [&'static str] = &["gateway", "admin api", "user", "ready in ms"];

    fn row(&self) -> Vec<String> {
        vec![
            self.gateway_url.clone(),
            self.admin_url.clone(),
            self.user.clone(),
            self.ready_in_ms.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.admin_url.clone()
    }
}

/// What a newcomer needs to know. The last line is the one that scripts may wait for.
fn welcome(ready: &Ready) -> String {
    let mut lines = vec![
        format!("Crossdock {} runs in {}", env!("CARGO_PKG_VERSION"), ready.directory.display()),
        String::new(),
        format!("  HTTP gateway  {}   publish, consume, REST channels", ready.gateway_url),
        format!("  Admin API     {}   OpenAPI at /api/v1/openapi.json", ready.admin_url),
    ];
    lines.extend(
        ready
            .broker_url
            .iter()
            .map(|url| format!("  Broker wire   {url}   servers and clients of other processes")),
    );
    lines.push(format!("  User          {}", ready.user));
    match (&ready.password, &ready.password_note) {
        (Some(password), _) => {
            lines.push(format!("  Password      {password}   shown this once, kept in context.json there"));
        }
        (None, note) => lines.push(format!("  Password      {}", note.as_deref().unwrap_or_default())),
    }
    lines.push(String::new());
    lines.push("Try, in another terminal: crossdock status".into());
    lines.push(format!("ready in {} ms", ready.ready_in_ms));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(password: Option<&str>) -> Ready {
        Ready {
            directory: "/srv/data".into(),
            gateway_url: "http://127.0.0.1:7400".into(),
            admin_url: "http://127.0.0.1:7401".into(),
            broker_url: Some("crossdock://127.0.0.1:7402".into()),
            user: "admin".into(),
            password: password.map(str::to_owned),
            password_note: password.is_none().then(|| "as before, in /srv/data/context.json".into()),
            ready_in_ms: 42,
        }
    }

    #[test]
    fn a_first_start_and_a_later_one() {
        let both = [welcome(&ready(Some("s3cr3t"))), welcome(&ready(None))];
        insta::assert_snapshot!(both.join("----\n"));
    }
}
