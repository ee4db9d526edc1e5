//! A running platform from one command.

use std::path::PathBuf;

use clap::Args;

use super::Caller;
use crate::failure::Result;
use crate::output::{Show, print};
use crate::quickstart::{Options, Ready, cluster, run};

/// Start a whole platform in one process, and make this command line talk to it
#[derive(Debug, Args)]
#[command(after_help = "\
Makes DIR, the user admin and a password, which is printed once and kept in
DIR/context.json (readable by you alone). Started again on the same DIR it goes
on where it was. It listens on 127.0.0.1 only. Ctrl-C drains: listeners first,
then services, then the broker; a second Ctrl-C ends it at once.

With --cluster it starts a cluster that survives the loss of any of its processes, for
trying it out on one machine: what is acknowledged is on at least two of three
nats-servers, and three servers share the work. One that dies is started again.
The servers take ports from P, P+10 and P+20 on, NATS from P+30, P+40 and P+50 on.

Environment:
  CROSSDOCK_ADMIN_PASSWORD        the password of the user admin
  CROSSDOCK_ADMIN_PASSWORD_FILE   a file with it instead
  CROSSDOCK_NATS_SERVER           the program nats-server, for --cluster
  CROSSDOCK_LOG, RUST_LOG         what is logged: debug, warn,crossdock_gateway=debug

Examples:
  crossdock quickstart
  crossdock quickstart ./cluster --cluster --nats-server /opt/nats/nats-server
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
    /// Start a cluster instead: three nats-servers and three servers, each a process of its own
    #[arg(long, conflicts_with = "accept_loss")]
    cluster: bool,
    /// The program nats-server for the cluster [default: CROSSDOCK_NATS_SERVER, or the one on the PATH]
    #[arg(long, value_name = "FILE", requires = "cluster")]
    nats_server: Option<PathBuf>,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        if self.cluster {
            let options = cluster::Options {
                directory: self.directory,
                port_base: self.port_base,
                nats_server: self.nats_server,
            };
            let ready = |ready: &cluster::Ready| {
                if caller.for_people() { print(&cluster_welcome(ready)) } else { caller.output.next(ready) }
            };
            return Box::pin(cluster::run(options, ready)).await;
        }
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

impl Show for cluster::Ready {
    const COLUMNS: &'static [&'static str] = &["servers", "nats", "user", "ready in ms"];

    fn row(&self) -> Vec<String> {
        let servers: Vec<&str> = self.servers.iter().map(|server| server.gateway_url.as_str()).collect();
        vec![servers.join(" "), self.nats_url.clone(), self.user.clone(), self.ready_in_ms.to_string()]
    }

    fn name(&self) -> String {
        self.servers.first().map(|server| server.admin_url.clone()).unwrap_or_default()
    }
}

/// The same for a cluster.
fn cluster_welcome(ready: &cluster::Ready) -> String {
    let mut lines = vec![
        format!("Crossdock {} runs as a cluster in {}", env!("CARGO_PKG_VERSION"), ready.directory.display()),
        String::new(),
        "               HTTP gateway             Admin API                Wire".into(),
    ];
    lines.extend(ready.servers.iter().map(|server| {
        let cluster::ServerAt { name, gateway_url, admin_url, broker_url } = server;
        format!("  {name:<11}  {gateway_url:<23}  {admin_url:<23}  {broker_url}")
    }));
    lines.push(format!("  NATS         {}   its login is in nats.json there", ready.nats_url));
    lines.push(format!("  User         {}", ready.user));
    lines.push(password(ready.password.as_deref(), ready.password_note.as_deref(), "  Password     "));
    lines.push(String::new());
    lines.push(
        "All servers are equal: what is done at one is so at all. Try, in another terminal: crossdock status"
            .into(),
    );
    lines.push(format!("ready in {} ms", ready.ready_in_ms));
    lines.join("\n") + "\n"
}

fn password(made: Option<&str>, note: Option<&str>, label: &str) -> String {
    match (made, note) {
        (Some(password), _) => format!("{label}{password}   shown this once, kept in context.json there"),
        (None, note) => format!("{label}{}", note.unwrap_or_default()),
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
    lines.push(password(ready.password.as_deref(), ready.password_note.as_deref(), "  Password      "));
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

    #[test]
    fn a_cluster() {
        let at = |number: u16| cluster::ServerAt {
            name: format!("server-{number}"),
            gateway_url: format!("http://127.0.0.1:74{}0", number - 1),
            admin_url: format!("http://127.0.0.1:74{}1", number - 1),
            broker_url: format!("crossdock://127.0.0.1:74{}2", number - 1),
        };
        insta::assert_snapshot!(cluster_welcome(&cluster::Ready {
            directory: "/srv/cluster".into(),
            servers: (1..=3).map(at).collect(),
            nats_url: "nats://127.0.0.1:7430,127.0.0.1:7440,127.0.0.1:7450".into(),
            user: "admin".into(),
            password: Some("s3cr3t".into()),
            password_note: None,
            ready_in_ms: 4200,
        }));
    }
}
