//! Reading a topic.

use std::time::Duration;

use clap::Args;
use crossdock_topics::{StartAt, TopicName};

use super::Caller;
use crate::failure::Result;
use crate::follow::{WAIT, persist};
use crate::output::say;
use crate::way::Way;

/// Print messages of a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Without --from, the last 10 messages, or --max of them. With --from, all from
that place to the topic's end. No subscription's place is touched. With -o json
each message is one line.

Examples:
  crossdock tail orders
  crossdock tail orders --from start -o json | jq .data
  crossdock tail orders --from 2026-11-22T17:00:00Z --max 100
  crossdock tail orders --follow")]
pub(super) struct Arguments {
    /// The topic
    topic: TopicName,
    /// Where to begin: start, end, an offset, or a moment like 2026-11-22T17:00:00Z
    #[arg(long, value_name = "PLACE")]
    from: Option<StartAt>,
    /// Print at most so many
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Go on with messages as they come, until interrupted or --max is reached
    #[arg(short, long)]
    follow: bool,
}

/// How many messages are printed when nobody says where to begin.
const LAST: u64 = 10;

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let way = Way::of(caller.connect()?).await?;
        let info = way.topic(&self.topic).await?;
        let (mut from, mut left) = match self.from {
            Some(from) => (from, self.max),
            None => {
                let last = self.max.unwrap_or(LAST);
                let first = StartAt::Offset(info.tail.saturating_sub(last).max(info.head));
                // Those that follow are not counted: `--max` says how many of the last ones.
                (first, (!self.follow).then_some(last))
            }
        };
        let mut next = 0;
        while left != Some(0) {
            let max = usize::try_from(left.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(1000);
            let wait = if self.follow { WAIT } else { Duration::ZERO };
            let ask = || way.read(&self.topic, from, max, wait);
            let page = if self.follow { persist(ask).await? } else { ask().await? };
            for message in &page.messages {
                if !self.follow && message.offset >= info.tail {
                    return Ok(());
                }
                if self.follow && next > 0 && message.offset > next {
                    say(&format!(
                        "offsets {next} to {} are gone: dropped by retention, or compacted",
                        message.offset - 1
                    ));
                }
                caller.output.next(message)?;
                next = message.offset + 1;
                left = left.map(|left| left - 1);
            }
            if page.messages.is_empty() && !self.follow {
                break;
            }
            from = StartAt::Offset(page.next);
        }
        Ok(())
    }
}
