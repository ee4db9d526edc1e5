//! Retention and compaction: what is not to be kept any more is dropped, by one server of the cluster at a time.
//!
//! Where unread messages may go, NATS itself drops by the topic's limits. Where they may not, the keeper does, up to what
//! some subscription needs. It holds a key in the store that goes with its server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{Expect, Result, Topic};
use tokio::time::Instant;

use super::super::store::Key;
use super::compaction::{Compaction, Noticed};
use super::definitions::held_by;
use super::stored::From;
use super::streams::State;
use super::{Logs, Needs, TopicLog};

/// How often it looks at all topics, at most; with many of them it looks less often.
const TICK: Duration = Duration::from_millis(500);
/// How often one that drops nothing looks at how all topics are kept.
const LOOK: Duration = Duration::from_secs(60);
/// It spends one part in so many of its time, but looks so often at least: the list of all streams may be long in coming
/// where one of them has just been made.
const PART: u32 = 10;
const LEAST: Duration = Duration::from_secs(5);

/// Drops what is not to be kept any more, until the engine stops.
pub(super) async fn run(logs: Arc<Logs>) {
    let (mut compactions, mut noticed) = (HashMap::new(), HashMap::new());
    let (mut wait, mut looked_at_all) = (TICK, None);
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = logs.shutdown.started() => return,
        }
        let began = Instant::now();
        let looked = tokio::select! {
            looked = look(&logs, &mut compactions, &mut noticed, &mut looked_at_all) => looked,
            () = logs.shutdown.started() => return,
        };
        if let Err(error) = looked {
            tracing::debug!(%error, "retention tries again");
        }
        wait = (began.elapsed() * PART).clamp(TICK, LEAST);
    }
}

async fn look(
    logs: &Arc<Logs>,
    compactions: &mut HashMap<u32, Compaction>,
    noticed: &mut HashMap<u32, Noticed>,
    looked_at_all: &mut Option<Instant>,
) -> Result<()> {
    let topics: Vec<_> = logs.all_topics().into_iter().map(|log| (log.end(), log)).collect();
    let keeps = is_keeper(logs).await;
    if !keeps {
        compactions.clear();
    }
    // While NATS has no room left, nobody can say any more that it is the one: every server drops what it may, for that is
    // what makes room, and twice is as good as once.
    if !keeps && !logs.store.is_full() {
        // Somebody else drops. Who reads on and on here must know of it.
        noticed.retain(|number, _| topics.iter().any(|(_, log)| log.number == *number));
        for log in topics.iter().map(|(_, log)| log).filter(|log| log.following.is_needed()) {
            let looked = async {
                let Some(info) = logs.info(log).await? else { return Ok(()) };
                logs.head_moved(log, info.state.head());
                noticed.entry(log.number).or_default().look(logs, log, &info.state).await
            };
            if let Err(error) = looked.await {
                tracing::debug!(topic = %log.name, %error, "a topic is looked at later");
            }
        }
        if looked_at_all.is_none_or(|last| last.elapsed() >= LOOK) {
            let streams = logs.streams.all().await?.found;
            for (end, log) in &topics {
                if let Some(info) = streams.get(&logs.streams.name(log.number)) {
                    logs.noted(log, info, *end);
                }
            }
            *looked_at_all = Some(Instant::now());
        }
        return Ok(());
    }
    noticed.clear();
    compactions.retain(|number, _| topics.iter().any(|(_, log)| log.number == *number));
    let streams = logs.streams.all().await?.found;
    for (end, log) in topics {
        let Some(info) = streams.get(&logs.streams.name(log.number)) else { continue };
        logs.noted(&log, info, end);
        // Its offsets may be those of other messages by now.
        if logs.is_suspect(&log) {
            continue;
        }
        logs.head_moved(&log, info.state.head());
        let (topic, _) = log.definition();
        let trimmed = trim(logs, &log, &topic, &info.state).await;
        let compacted = if topic.retention.compact && keeps {
            compactions.entry(log.number).or_default().go_on(logs, &log, &info.state).await
        } else {
            compactions.remove(&log.number);
            Ok(())
        };
        // What one topic cannot have now does not keep the others from it.
        if let Err(error) = trimmed.and(compacted) {
            tracing::debug!(topic = %log.name, %error, "retention tries again");
        }
    }
    Ok(())
}

/// Whether this server is the one, or becomes it.
async fn is_keeper(logs: &Logs) -> bool {
    let key = Key::Own("keeper".into());
    let held = *logs.held.borrow();
    if Instant::now() >= held.until {
        return false;
    }
    let mine = Bytes::from(format!("{:016x} {}", logs.engine, held.lease.0));
    match logs.store.peek(&key) {
        Some(entry) => entry.value == mine,
        None => logs.store.put(&key, mine, Expect::Absent, Some(held.lease)).await.is_ok(),
    }
}

/// Drops the oldest messages of a topic, as far as its limits say and what is needed allows.
async fn trim(logs: &Logs, log: &TopicLog, topic: &Topic, state: &State) -> Result<()> {
    let mut target = wanted(logs, log, topic, state).await?;
    let mut held = None;
    if target > state.head() && !topic.retention.drop_unread {
        match logs.needs(log) {
            Needs::Nothing => {}
            Needs::From(offset, words) if offset < target => (target, held) = (offset, Some(words)),
            Needs::From(..) => {}
            Needs::Unknown => return Ok(()),
        }
    }
    if target > state.head() {
        logs.streams.purge(log.number, target, None).await?;
        logs.dropped(log, target);
    }
    let key = held_by(&log.name);
    let said = logs.store.peek(&key);
    match (said, held) {
        (None, None) => {}
        (Some(_), None) => drop(logs.store.delete(&key, Expect::Any).await?),
        (Some(said), Some(words)) if said.value == words.as_bytes() => {}
        (_, Some(words)) => drop(logs.store.put(&key, words.into(), Expect::Any, None).await?),
    }
    Ok(())
}

/// Up to where the limits of a topic say to drop.
async fn wanted(logs: &Logs, log: &TopicLog, topic: &Topic, state: &State) -> Result<u64> {
    let (head, tail) = (state.head(), state.tail());
    let retention = &topic.retention;
    let mut target = head;
    // Where compaction has left gaps, that many offsets hold fewer messages: too few are dropped rather than too many.
    if let Some(excess) = retention.max_messages.and_then(|most| state.messages.checked_sub(most)) {
        target = target.max(head + excess);
    }
    if let Some(excess) = retention.max_bytes.and_then(|most| state.bytes.checked_sub(most))
        && state.messages > 0
    {
        let average = (state.bytes / state.messages).max(1);
        target = target.max(head + excess / average);
    }
    if let Some(age) = retention.max_age
        && state.messages > 0
    {
        let oldest = logs.now().before(age);
        let first = match log.moved.filter(|moved| head < moved.end) {
            Some(_) => {
                logs.streams.read(log.number, From::Offset(head), 1, 1).await?.first().map(|kept| kept.time)
            }
            None => state.first(),
        };
        if first.is_some_and(|first| first < oldest) {
            target = target.max(logs.at_time(log, state, oldest).await?);
        }
    }
    Ok(target.min(tail))
}

impl Logs {
    /// What of a topic may not go.
    pub(super) fn needs(&self, log: &TopicLog) -> Needs {
        if let Some(readers) = self.readers.get() {
            return readers.needs(&log.following.feed);
        }
        let taken = self
            .subscriptions()
            .into_iter()
            .any(|subscription| subscription.topics.iter().any(|pattern| pattern.matches(log.name.as_str())));
        if taken { Needs::Unknown } else { Needs::Nothing }
    }
}
