//! How a server and its cluster are.

use std::time::Duration;

use clap::Args;
use crossdock_control::api::Status;

use super::Caller;
use crate::failure::Result;
use crate::output::{Show, size};

/// Show how the server and its cluster are
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock status
  crossdock status -o json | jq .backlog")]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let status: Status = caller.connect()?.get(&["status"]).await?;
        caller.output.one(&status)
    }
}

impl Show for Status {
    const COLUMNS: &'static [&'static str] = &["server", "version", "up", "ready", "servers"];

    fn row(&self) -> Vec<String> {
        vec![
            self.server.clone(),
            self.version.clone(),
            humantime::format_duration(Duration::from_secs(self.uptime_seconds)).to_string(),
            if self.health.ready { "yes" } else { "no" }.into(),
            self.members.len().to_string(),
        ]
    }

    fn name(&self) -> String {
        self.server.clone()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let Self { counts, backlog, .. } = self;
        let mut all: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        all.extend(self.health.reason.clone().map(|reason| ("not ready", reason)));
        all.push(("broker", self.health.engine.clone()));
        all.extend(self.health.detail.clone().map(|detail| ("", detail)));
        all.extend(self.health.warning.clone().map(|warning| ("warning", warning)));
        all.extend(self.broker_url.clone().map(|url| ("broker wire", url)));
        for member in &self.members {
            let text = format!(
                "{} {} since {}, {}",
                member.name, member.version, member.started, member.gateway_url
            );
            all.push(("member", text));
        }
        all.push((
            "topics",
            format!("{}, {} messages, {}", counts.topics, counts.messages, size(counts.bytes)),
        ));
        all.push(("subscriptions", counts.subscriptions.to_string()));
        all.push((
            "backlog",
            format!(
                "{} waiting, {} in flight, {} set aside, {} dead letters",
                backlog.waiting, backlog.in_flight, backlog.set_aside, backlog.dead_letters
            ),
        ));
        let states = self.services_by_state.iter().map(|(state, count)| format!(", {count} {state}"));
        all.push(("services", counts.services.to_string() + &states.collect::<String>()));
        all.push(("rest channels", counts.rest_channels.to_string()));
        all.push(("users", format!("{}, {} permissions", counts.users, counts.permissions)));
        if let Some(resident) = self.memory.resident_bytes {
            let peak = self.memory.peak_resident_bytes.map(|peak| format!(", at most {}", size(peak)));
            all.push(("memory", size(resident) + &peak.unwrap_or_default()));
        }
        all
    }
}
