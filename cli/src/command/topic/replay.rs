//! Replaying a part of a topic into another one.

use clap::Args;
use crossdock_control::api::{ReplayRequest, ReplayStep};
use crossdock_topics::{Backoff, Error, ErrorCode, StartAt, TopicName};
use serde::Serialize;
use std::time::Duration;

use crate::client::Client;
use crate::command::Caller;
use crate::failure::Result;
use crate::output::{Show, progress};

/// Publish messages of a topic again, to another topic
#[derive(Debug, Args)]
#[command(after_help = "\
Each copy has headers that say where it came from (crossdock-origin, -time and -id). Run
again after an interruption it goes on: what was replayed within the dedup window of the
topic it goes to is not stored twice.")]
pub(super) struct Arguments {
    /// The topic that is read
    name: TopicName,
    /// The topic that is published to
    #[arg(long, value_name = "TOPIC")]
    into: TopicName,
    /// Where to begin: start, an offset, or a moment like 2026-11-22T17:00:00Z
    #[arg(long, value_name = "PLACE")]
    from: StartAt,
    /// Where to end, which is left out: end (as it is now), an offset, or a moment
    #[arg(long, value_name = "PLACE", default_value = "end")]
    to: StartAt,
    /// At most so many messages a second, from 0.1
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Only say which messages they are
    #[arg(long)]
    dry_run: bool,
}

/// How long a step that failed for a while is tried again.
const TRIES: u32 = 8;

impl Arguments {
    pub(super) async fn run(self, caller: &Caller, client: &Client) -> Result<()> {
        let mut request =
            ReplayRequest { into: self.into, from: self.from, to: self.to, rate: self.rate, dry_run: true };
        let range = step(client, &self.name, &request).await?;
        let mut replayed = Replayed {
            topic: self.name,
            into: request.into.clone(),
            first: range.next,
            next: range.next,
            end: range.end,
            stored: 0,
            duplicates: 0,
        };
        if self.dry_run {
            let sentence = format!(
                "would replay offsets {} up to {} of {} into {}",
                range.next, range.end, replayed.topic, replayed.into
            );
            return caller.output.done(&replayed, &sentence);
        }
        request.dry_run = false;
        request.to = StartAt::Offset(range.end);
        let bar = progress(range.end - range.next, "offsets");
        while replayed.next < replayed.end {
            request.from = StartAt::Offset(replayed.next);
            match step(client, &replayed.topic, &request).await {
                Ok(step) => replayed.add(step),
                Err(error) => {
                    bar.finish_and_clear();
                    return Err(replayed.interrupted(error).into());
                }
            }
            bar.set_position(replayed.next - replayed.first);
        }
        bar.finish_and_clear();
        caller.output.done(&replayed, &replayed.sentence())
    }
}

/// One step, tried again for a while: whatever of it was done is not done twice.
async fn step(client: &Client, topic: &TopicName, request: &ReplayRequest) -> Result<ReplayStep, Error> {
    let backoff = Backoff { first: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(5) };
    let mut failed = 0;
    loop {
        match client.post(&["topics", topic.as_str(), "replay"], request).await {
            Err(error)
                if matches!(
                    error.code,
                    ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::Timeout
                ) && !request.dry_run
                    && failed < TRIES =>
            {
                failed += 1;
                tokio::time::sleep(backoff.wait(failed, rand::random())).await;
            }
            other => return other,
        }
    }
}

/// How far it came.
#[derive(Debug, Serialize)]
struct Replayed {
    topic: TopicName,
    into: TopicName,
    /// The first offset.
    first: u64,
    /// Where it has come to, and where it ends.
    next: u64,
    end: u64,
    /// How many messages were stored, and how many had been before.
    stored: u64,
    duplicates: u64,
}

impl Replayed {
    fn add(&mut self, step: ReplayStep) {
        self.stored += step.stored;
        self.duplicates += step.duplicates;
        self.next = if step.done { self.end } else { step.next };
    }

    fn sentence(&self) -> String {
        let before = match self.duplicates {
            0 => String::new(),
            count => format!("; {count} had been replayed before"),
        };
        format!("replayed {} messages of {} into {}{before}", self.stored, self.topic, self.into)
    }

    /// Says how far it came, and how to go on.
    fn interrupted(&self, error: Error) -> Error {
        let message = format!("{}, then: {}", self.sentence(), error.message);
        let hint = format!("go on with --from {} --to {}", self.next, self.end);
        Error { message: message.into(), ..error }.hint(hint)
    }
}

impl Show for Replayed {
    const COLUMNS: &'static [&'static str] =
        &["topic", "into", "first", "next", "end", "stored", "duplicates"];

    fn row(&self) -> Vec<String> {
        let numbers = [self.first, self.next, self.end, self.stored, self.duplicates];
        let names = [self.topic.to_string(), self.into.to_string()];
        names.into_iter().chain(numbers.iter().map(u64::to_string)).collect()
    }

    fn name(&self) -> String {
        self.into.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_says_how_to_go_on() {
        let mut replayed = Replayed {
            topic: "orders".parse().unwrap(),
            into: "copies".parse().unwrap(),
            first: 3,
            next: 3,
            end: 9,
            stored: 0,
            duplicates: 0,
        };
        replayed.add(ReplayStep { stored: 1, duplicates: 1, next: 5, end: 9, done: false });
        let error = replayed.interrupted(Error::new(ErrorCode::Unavailable, "gone"));
        assert_eq!(
            error.to_string(),
            "replayed 1 messages of orders into copies; 1 had been replayed before, then: gone; go on with --from 5 --to 9"
        );
    }
}
