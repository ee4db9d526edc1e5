//! What a service has written.

use std::time::Duration;

use clap::Args;
use crossdock_control::api::{LogLine, LogPage};
use crossdock_topics::{Error, ErrorCode, ServiceName, StartAt, TopicInfo};
use reqwest::Method;

use super::{Caller, get};
use crate::client::Client;
use crate::failure::Result;
use crate::follow::{self, WAIT, persist};
use crate::message::one_line;
use crate::output::Show;

/// Print what a service has written to standard output and error, and what its server says about it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock service logs route
  crossdock service logs route -f
  crossdock service logs route --from start -o json")]
pub(super) struct Arguments {
    /// The service
    name: ServiceName,
    /// Go on with lines as they come, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Where to begin: start, end, an offset, or a moment like 2026-11-22T17:00:00Z
    #[arg(long, value_name = "PLACE", conflicts_with = "lines")]
    from: Option<StartAt>,
    /// Print so many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: u64,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        let topic = format!("_logs.{}", self.name);
        let tail = match client.get::<TopicInfo>(&["topics", &topic]).await {
            Ok(info) => info.tail,
            Err(error) if error.code == ErrorCode::NotFound => {
                // A service that has not written anything yet has no log; one that is not there is an error.
                get(&client, &self.name).await?;
                0
            }
            Err(error) => return Err(error.into()),
        };
        let mut from = self.from.unwrap_or(StartAt::Offset(tail.saturating_sub(self.lines)));
        if !self.follow && tail == 0 {
            return Ok(());
        }
        loop {
            let wait = if self.follow { WAIT } else { Duration::ZERO };
            let ask = || page(&client, &self.name, from, wait);
            let page = match if self.follow { persist(ask).await } else { ask().await } {
                Ok(page) => page,
                Err(error) if self.follow && error.code == ErrorCode::NotFound => {
                    // It has written nothing yet, unless it is gone.
                    get(&client, &self.name).await?;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for line in &page.lines {
                if !self.follow && line.offset >= tail {
                    return Ok(());
                }
                caller.output.next(line)?;
            }
            if page.lines.is_empty() && !self.follow {
                return Ok(());
            }
            from = StartAt::Offset(page.next);
        }
    }
}

async fn page(client: &Client, name: &ServiceName, from: StartAt, wait: Duration) -> Result<LogPage, Error> {
    let from = follow::place(from);
    let wait_text = humantime::format_duration(wait).to_string();
    let request = client.api(Method::GET, &["services", name.as_str(), "logs"]).query(&[
        ("from", from),
        ("max", "1000".to_owned()),
        ("wait", wait_text),
    ]);
    client.json(Client::patient(request, wait)).await
}

impl Show for LogLine {
    const COLUMNS: &'static [&'static str] = &["time", "server", "stream", "line"];

    fn row(&self) -> Vec<String> {
        vec![
            self.time.to_string(),
            self.server.clone().unwrap_or_default(),
            format!("{:<6}", self.stream.as_deref().unwrap_or_default()),
            one_line(&self.line),
        ]
    }

    fn name(&self) -> String {
        self.offset.to_string()
    }
}
