//! A server on another process's broker, or on one of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Args;

use super::Caller;
use crate::failure::Result;
use crate::output::{Show, print};
use crate::server::broker::{BrokerUrl, Opening};
use crate::server::machine;
use crate::server::ports::Place;
use crate::server::run::{Options, Ready, run};

/// Run a server: gateway, services and Admin API, on a broker here or in another process
#[derive(Debug, Args)]
#[command(after_help = "\
All servers of one broker are one cluster: each has the same configuration and runs the
same services, and any of them can be killed. With rocksdb:PATH the broker is in this
process, and others reach it over its wire. With nats://A,B,C NATS JetStream keeps
everything, and every server is equal.

Credentials for a broker elsewhere are never given on the command line: they come from
the environment, from --credentials, or from the saved context that leads there. Those
for crossdock:// need admin permission.

Environment:
  CROSSDOCK_BROKER                     the broker; nats://USER:PASSWORD@A,B,C goes here
  CROSSDOCK_USER, CROSSDOCK_PASSWORD   the user to come to crossdock:// as
  CROSSDOCK_API_KEY                    an API key instead
  CROSSDOCK_ADMIN_PASSWORD             with rocksdb:PATH and nats://A,B,C, the password of
                                       the user admin, who is made if need be
  CROSSDOCK_ADMIN_PASSWORD_FILE        a file with it instead
  CROSSDOCK_LOG, RUST_LOG              what is logged

Examples:
  crossdock server --broker crossdock://127.0.0.1:7402 --port-base 7500
  crossdock server --broker crossdocks://broker.example:7402 --credentials /run/secrets/crossdock.json
  crossdock server --broker nats://a.example,b.example,c.example --credentials /run/secrets/nats.json
  crossdock server --broker rocksdb:/var/lib/crossdock/broker --dir /var/lib/crossdock/server \\
    --bind-wire 0.0.0.0 --tls-cert cert.pem --tls-key key.pem")]
pub(super) struct Arguments {
    /// The broker: rocksdb:PATH, crossdock://HOST:PORT, crossdocks://HOST:PORT with TLS, nats://A,B,C, or tls://A,B,C
    /// [default: CROSSDOCK_BROKER]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// This server's own directory, from which services are run
    #[arg(long, value_name = "DIR", default_value = "./crossdock-server")]
    dir: PathBuf,
    /// What it is called, different from all other servers of the cluster [default: HOSTNAME-PORT]
    #[arg(long)]
    name: Option<String>,
    /// The HTTP gateway's port; the Admin API's is the next one, the broker's wire the one after; 0 for any that
    /// are free
    #[arg(long, value_name = "P", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(0..=65533))]
    port_base: u16,
    /// Where the gateway and the Admin API listen
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Where the broker's wire listens, with rocksdb:PATH and nats://A,B,C
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind_wire: IpAddr,
    /// The host name or address under which others reach this server, as it is shown to them [default: where it
    /// listens; the machine's name where that is everywhere]
    #[arg(long, value_name = "HOST", value_parser = host)]
    advertise: Option<String>,
    /// The certificate, with its chain, that encrypts the broker's wire: a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key: a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let what is not encrypted be reached from other machines, and send credentials to the broker so
    #[arg(long)]
    insecure: bool,
    /// A file with the credentials for the broker: like the context.json of a quickstart; for NATS {"user": ...,
    /// "password": ...}, {"token": ...}, or what nsc makes
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Go on without acknowledged messages that a damaged disk has lost, where it would refuse to start
    #[arg(long)]
    accept_loss: bool,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let broker = BrokerUrl::given(self.broker.as_deref())?;
        let wire = (!matches!(broker, BrokerUrl::Remote(_))).then_some(self.bind_wire);
        let options = Options {
            broker,
            directory: self.dir,
            name: self.name.clone(),
            place: Place { base: self.port_base, http: self.bind, wire },
            advertise: self.advertise,
            tls: self.tls_cert.zip(self.tls_key),
            opening: Opening {
                name: self.name.unwrap_or_else(machine),
                ca: caller.ca.clone(),
                insecure: self.insecure,
                credentials: self.credentials,
                context: caller.context.clone(),
                accept_loss: self.accept_loss,
            },
        };
        Box::pin(run(options, |ready| {
            if caller.for_people() { print(&welcome(ready)) } else { caller.output.next(ready) }
        }))
        .await
    }
}

impl Show for Ready {
    const COLUMNS: &'static [&'static str] = &["name", "gateway", "admin api", "broker", "ready in ms"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.gateway_url.clone(),
            self.admin_url.clone(),
            self.broker_url.clone().unwrap_or_default(),
            self.ready_in_ms.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// A host as it stands in a URL, without a port.
fn host(text: &str) -> std::result::Result<String, String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return match ip {
            ip if ip.is_unspecified() => Err("nobody reaches a server there".into()),
            IpAddr::V4(ip) => Ok(ip.to_string()),
            IpAddr::V6(ip) => Ok(format!("[{ip}]")),
        };
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_name = !text.is_empty() && text.len() <= 253 && text.chars().all(fine);
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("it is a host name or an IP address, without a port".into())
    }
}

/// The last line is the one that scripts may wait for.
fn welcome(ready: &Ready) -> String {
    let mut lines = vec![
        format!("Crossdock {} runs as {}", env!("CARGO_PKG_VERSION"), ready.name),
        String::new(),
        format!("  HTTP gateway  {}", ready.gateway_url),
        format!("  Admin API     {}", ready.admin_url),
    ];
    lines.extend(ready.broker_url.iter().map(|url| format!("  Broker        {url}")));
    lines.push(String::new());
    lines.push(format!("ready in {} ms", ready.ready_in_ms));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn a_host_is_written_as_in_a_url() {
        for (text, written) in [
            ("crossdock-1", "crossdock-1"),
            ("10.0.0.7", "10.0.0.7"),
            ("fd00::7", "[fd00::7]"),
            ("[fd00::7]", "[fd00::7]"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(written));
        }
        for wrong in ["", "0.0.0.0", "::", "one:7400", "http://one", "one two"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
