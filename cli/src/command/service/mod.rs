//! Services.

mod deploy;
mod invoke;
mod logs;
mod new;
mod rollout;

use std::time::Duration;

use clap::{Args, Subcommand};
use crossdock_config::{Handler, Manifest, ServiceStatus, ServiceVersion};
use crossdock_control::api::{RollbackRequest, ServiceInfo, ServiceList};
use crossdock_topics::time::human;
use crossdock_topics::{Error, ServiceName, TopicPattern};
use reqwest::Method;

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::message::{gist, one_line, printable};
use crate::output::Show;

use rollout::{Rollout, stands};

/// Write, deploy, call and watch services
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock service new route
  crossdock service deploy route.py
  crossdock service ls
  crossdock service invoke route '{\"id\": 1}'
  crossdock service logs route -f
  crossdock service rollback route")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    New(new::Arguments),
    Deploy(deploy::Arguments),
    /// List services
    Ls,
    /// Show one service: its versions, what it consumes, how it stands on each server
    Get {
        /// The service
        name: ServiceName,
    },
    Invoke(invoke::Arguments),
    Logs(logs::Arguments),
    /// Go back to an earlier version
    Rollback {
        /// The service
        name: ServiceName,
        /// The version, as in `crossdock service get`; without it, the one before
        version: Option<String>,
        /// How long to wait until it runs on every server
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = human::parse)]
        wait: Duration,
    },
    /// Stop a service until it is resumed; its messages wait
    Pause {
        /// The service
        name: ServiceName,
    },
    /// Run a service again that was paused, or given up
    Resume {
        /// The service
        name: ServiceName,
    },
    /// Remove a service with its versions; its subscriptions and messages stay
    Rm {
        /// The service
        name: ServiceName,
    },
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        match self.action {
            Action::New(arguments) => arguments.run(),
            Action::Deploy(arguments) => arguments.run(caller).await,
            Action::Ls => {
                let list: ServiceList = caller.connect()?.get(&["services"]).await?;
                caller.output.list(&list.services)
            }
            Action::Get { name } => caller.output.one(&get(&caller.connect()?, &name).await?),
            Action::Invoke(arguments) => arguments.run(caller).await,
            Action::Logs(arguments) => arguments.run(caller).await,
            Action::Rollback { name, version, wait } => {
                let client = caller.connect()?;
                let request = client.api(Method::POST, &["services", name.as_str(), "rollback"]);
                let request = request.json(&RollbackRequest { version, wait: Some(wait) });
                Rollout { name, wait, verb: "rolled back" }.run(caller, &client, request).await
            }
            Action::Pause { name } => change(caller, &name, Some("pause"), "paused").await,
            Action::Resume { name } => change(caller, &name, Some("resume"), "resumed").await,
            Action::Rm { name } => change(caller, &name, None, "removed").await,
        }
    }
}

async fn get(client: &Client, name: &ServiceName) -> Result<ServiceInfo, Error> {
    client.get(&["services", name.as_str()]).await
}

/// Pauses, resumes, or (without a verb) removes.
async fn change(caller: &Caller, name: &ServiceName, verb: Option<&str>, done: &str) -> Result<()> {
    let client = caller.connect()?;
    let mut info = get(&client, name).await?;
    match verb {
        Some(verb) => {
            let path = ["services", name.as_str(), verb];
            client.send(client.api(Method::POST, &path)).await?;
            info = get(&client, name).await?;
        }
        None => client.delete(&["services", name.as_str()]).await?,
    }
    caller.output.done(&info, &format!("{done} service {name}"))
}

/// What a service consumes and what it answers to, in a few words.
fn does(name: &ServiceName, manifest: &Manifest) -> String {
    let handler = |handler: &Handler| match handler {
        Handler::Consume { topics, .. } => {
            topics.iter().map(TopicPattern::as_str).collect::<Vec<_>>().join(", ")
        }
        Handler::Serve { name: own, .. } => format!("requests to {}", own.as_ref().unwrap_or(name)),
    };
    manifest.handlers.iter().map(handler).collect::<Vec<_>>().join("; ")
}

fn current(info: &ServiceInfo) -> Option<&ServiceVersion> {
    info.versions.iter().find(|version| version.version == info.current)
}

impl Show for ServiceInfo {
    const COLUMNS: &'static [&'static str] =
        &["name", "version", "state", "takes", "deployed", "by", "reason"];

    fn row(&self) -> Vec<String> {
        let current = current(self);
        vec![
            self.name.to_string(),
            self.current.clone(),
            if self.paused { "paused".into() } else { stands(&self.servers) },
            current.map(|version| does(&self.name, &version.manifest)).unwrap_or_default(),
            current.map(|version| version.deployed_at.to_string()).unwrap_or_default(),
            current.map(|version| version.by.clone()).unwrap_or_default(),
            reason(&self.servers),
        ]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let short = Self::COLUMNS.len() - 1; // the whole reason comes with its server
        let mut all: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).take(short).collect();
        all.push(("processes", self.settings.processes.to_string()));
        all.push(("timeout", humantime::format_duration(self.settings.timeout).to_string()));
        all.push(("memory", self.settings.memory.to_string()));
        all.extend(self.settings.env.keys().map(|name| ("env", name.clone())));
        all.extend(self.servers.iter().map(|status| ("server", server(status))));
        all.extend(self.versions.iter().map(|version| {
            ("has version", format!("{} of {} by {}", version.version, version.deployed_at, version.by))
        }));
        all
    }
}

/// Why it does not run where it does not, in one short line.
fn reason(servers: &[ServiceStatus]) -> String {
    const SHORT: usize = 80;
    let reason = servers.iter().find_map(|status| status.reason.as_deref()).unwrap_or_default();
    let line = one_line(gist(reason));
    match line.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn server(status: &ServiceStatus) -> String {
    let mut text = format!(
        "{}: {} since {}, version {}, {} processes, {} restarts",
        status.server, status.state, status.since, status.version, status.processes, status.restarts
    );
    if let Some(reason) = &status.reason {
        text.push('\n');
        text.push_str(&printable(reason));
    }
    text
}
