//! Moving house: everything a broker keeps, copied to another place.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use crossdock_broker::moving::{Place, Progress, Report, migrate};
use crossdock_topics::Error;
use indicatif::ProgressBar;
use tokio::time::Instant;

use super::Caller;
use crate::failure::Result;
use crate::output::{Show, progress, say, size};
use crate::server::broker::{BrokerUrl, Opening};

/// How often a line says how far it is where there is no terminal.
const NOW_AND_THEN: Duration = Duration::from_secs(10);

/// Copy everything a broker keeps to another place, and check it
#[derive(Debug, Args)]
#[command(after_help = "\
Copies topics with their messages, offsets and times, subscriptions with where
they stand, what they have set aside and their dead letters, configuration,
users and services. Stop all servers first. What is in the way is said before
anything is copied; at the end all is read again and compared. Ended by
whatever, the same command goes on where it was. The source is left as it is.

Examples:
  crossdock migrate --from rocksdb:crossdock-data/broker --to nats://a,b,c
  crossdock migrate --from nats://a,b,c --to rocksdb:data/broker
  crossdock migrate --from rocksdb:old --to rocksdb:/mnt/larger/broker")]
pub(super) struct Arguments {
    /// The broker to move: rocksdb:PATH, nats://A,B,C or tls://A,B,C
    #[arg(long, value_name = "URL")]
    from: String,
    /// Where to move it, a place where nothing is yet; written the same way
    #[arg(long, value_name = "URL")]
    to: String,
    /// A file with the login for NATS: {"user", "password"} or {"token"} as JSON, or what `nsc` writes
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Send the login for NATS where others can read it
    #[arg(long)]
    insecure: bool,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let opening = Opening {
            name: "crossdock migrate".into(),
            ca: caller.ca.clone(),
            insecure: self.insecure,
            credentials: self.credentials.clone(),
            ..Opening::default()
        };
        let (from, to) = (place(&self.from, &opening)?, place(&self.to, &opening)?);
        let mut teller = Teller::new();
        let report = migrate(&from, &to, &mut |progress| teller.tell(progress)).await;
        teller.end();
        let report = report?;
        say(&format!("{} is now at {}: start the servers with --broker {}", report.from, report.to, self.to));
        caller.output.one(&report)
    }
}

fn place(url: &str, opening: &Opening) -> Result<Place> {
    Ok(match BrokerUrl::given(Some(url))? {
        BrokerUrl::Embedded(path) => Place::Folder(path),
        BrokerUrl::Nats(options) => Place::Nats(Box::new(opening.nats(*options)?)),
        BrokerUrl::Remote(_) => {
            return Err(Error::invalid("what another process has open cannot be moved")
                .hint("stop that process, and name its data: rocksdb:PATH")
                .into());
        }
    })
}

/// Tells how far it is: a bar on a terminal, else a line now and then.
struct Teller {
    bar: Option<(&'static str, ProgressBar)>,
    is_terminal: bool,
    told: Option<Instant>,
}

impl Teller {
    fn new() -> Self {
        Self { bar: None, is_terminal: std::io::stderr().is_terminal(), told: None }
    }

    fn tell(&mut self, news: Progress<'_>) {
        match news {
            Progress::Note(words) => match &self.bar {
                Some((_, bar)) if self.is_terminal => bar.suspend(|| say(words)),
                _ => say(words),
            },
            Progress::Looked(done, of) => self.step("messages looked at", done, of.max(done)),
            Progress::Copied(done, of) => self.step("messages copied", done, of),
            Progress::Checked(done, of) => self.step("messages compared", done, of.max(done)),
        }
    }

    fn step(&mut self, what: &'static str, done: u64, of: u64) {
        let is_new = self.bar.as_ref().is_none_or(|(known, _)| *known != what);
        if is_new {
            self.end();
            self.told = None;
        }
        let (_, bar) = self.bar.get_or_insert_with(|| {
            let bar = progress(of, what);
            // What an earlier run has done was not done in this moment.
            bar.reset_eta();
            (what, bar)
        });
        bar.set_length(of);
        bar.set_position(done);
        let is_time = self.told.is_none_or(|told| told.elapsed() >= NOW_AND_THEN);
        if !self.is_terminal && (is_time || (done == of && !is_new)) {
            self.told = Some(Instant::now());
            say(&format!("{done} of {of} {what}"));
        }
    }

    fn end(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Show for Report {
    const COLUMNS: &'static [&'static str] =
        &["from", "to", "topics", "messages", "subscriptions", "dead letters", "keys"];

    fn row(&self) -> Vec<String> {
        vec![
            self.from.clone(),
            self.to.clone(),
            self.topics.to_string(),
            self.messages.to_string(),
            self.subscriptions.to_string(),
            self.dead_letters.to_string(),
            self.keys.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.to.clone()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let before = match self.messages_before {
            0 => String::new(),
            before => format!(", {before} of them copied before"),
        };
        vec![
            ("from", self.from.clone()),
            ("to", self.to.clone()),
            ("topics", self.topics.to_string()),
            ("messages", format!("{}, {}{before}", self.messages, size(self.bytes))),
            ("subscriptions", self.subscriptions.to_string()),
            ("set aside", format!("{} messages", self.set_aside)),
            ("dead letters", self.dead_letters.to_string()),
            ("keys", format!("{}: configuration, users, services", self.keys)),
            ("the same", self.compared.join("\n")),
        ]
    }
}
