//! Topics whose streams end before something that was stored there: a stream was put back from a copy, or a nats-server has
//! lost the end of what it had not synced.
//!
//! What comes next is stored under offsets that others had before. So it is said, and what this engine remembers of the
//! topic behind its new end is forgotten: the window of its newest messages, its publishers' receipts. The subscriptions
//! that work here and were further go on where the messages begin that were stored after the newest one they know of:
//! rather some are delivered again than one not at all. What lies before that stays with them as it is.
//!
//! A nats-server that was cut off from the others and does not know it yet tells of less than there is. So it must have
//! been told for longer than such a one takes to notice; unless a message was stored before the end that was known.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Result, Timestamp, TopicName};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::streams::{Info, unavailable};
use super::{Logs, TopicLog};

/// How often it is looked again.
const LOOK: Duration = Duration::from_millis(500);
/// How long NATS may take to say how far a topic goes.
const ANSWER: Duration = Duration::from_secs(5);
/// For how long a stream must have been shorter that lies on one server, and on several: one of those that leads a stream
/// without the others gives up after 10 s.
const ALONE: Duration = Duration::from_secs(2);
const TOGETHER: Duration = Duration::from_secs(15);
/// The clocks of nats-servers may differ by so much.
const CLOCKS: Duration = Duration::from_secs(5);
/// So many topics are named to whoever asks how the broker is.
const NAMED: usize = 8;

/// Topics that may be shorter than they were, and what was found out.
#[derive(Default)]
pub(super) struct Shorter {
    suspects: Mutex<HashMap<u32, Suspect>>,
    found: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Suspect {
    log: Arc<TopicLog>,
    /// Where it ended before.
    was: u64,
    since: Instant,
    /// It was seen that something was stored before that.
    is_sure: bool,
}

impl Shorter {
    /// What was found out, in words.
    pub(super) fn found(&self) -> Vec<String> {
        self.found.lock().clone()
    }
}

impl Logs {
    /// Takes in what the leader of a topic's stream says of it, which ended at `known` at least before it was asked.
    pub(super) fn noted(&self, log: &TopicLog, info: &Info, known: u64) {
        let replicas = info.config.num_replicas;
        if let Some(before) = log.set_replicas(replicas) {
            tracing::warn!(topic = %log.name, before, replicas, "the topic's stream has another number of replicas");
        }
        if info.state.tail() < known {
            self.suspect(log, known, false);
        }
    }

    /// What works, and is less safe than whoever runs it may think.
    pub(in crate::jetstream) fn warnings(&self) -> Vec<String> {
        let wanted = self.streams.connection.replicas();
        let logs = self.topics.read();
        let mut fewer: Vec<&TopicName> =
            logs.values().filter(|log| log.replicas() < wanted).map(|log| &log.name).collect();
        fewer.sort_unstable();
        let mut warnings = self.shorter.found();
        if let Some(first) = fewer.first() {
            let others = match fewer.len() {
                1 => String::new(),
                several => format!(" (and {} more)", several - 1),
            };
            warnings.push(format!(
                "topic {first}{others} is kept by fewer than the {wanted} nats-servers that new ones are kept by, and its \
                 receipts say so: `nats stream edit --replicas {wanted}` for the streams that `nats stream report` shows with \
                 fewer"
            ));
        }
        warnings
    }

    /// Has it looked into whether a topic is shorter than it was.
    pub(super) fn suspect(&self, log: &TopicLog, was: u64, is_sure: bool) {
        let log = self.topics.read().get(&log.name).filter(|known| known.number == log.number).cloned();
        let Some(log) = log else { return };
        let mut suspects = self.shorter.suspects.lock();
        let new = Suspect { log, was, since: Instant::now(), is_sure };
        let suspect = suspects.entry(new.log.number).or_insert(new);
        suspect.is_sure |= is_sure;
    }

    /// Whether it is being looked into whether a topic is shorter than it was.
    pub(super) fn is_suspect(&self, log: &TopicLog) -> bool {
        self.shorter.suspects.lock().contains_key(&log.number)
    }

    /// Forgets what is not so any more of a topic that is shorter than it was, and says so.
    async fn begin_again(&self, suspect: &Suspect, info: &Info) -> Result<()> {
        let (log, state) = (&suspect.log, &info.state);
        let feed = &log.following.feed;
        // What was stored after the newest message that is known here is new. Where none is known, there was none when it
        // was followed first.
        let place = match feed.last() {
            Timestamp(0) => state.head(),
            last => self.at_time(log, state, last.before(CLOCKS)).await?.min(state.tail()),
        };
        log.begin_again(state.tail());
        log.following.begin_again(state.head(), state.tail(), state.last().unwrap_or(Timestamp(0)));
        self.ahead.forget(log.number);
        if let Some(readers) = self.readers.get() {
            readers.begin_again(feed, place);
        }
        let words = format!(
            "topic {} ended at offset {} and ends at {} now: its stream was put back from a copy, or a nats-server has lost \
             its end; what was acknowledged there is gone, and its offsets are used again; subscriptions here that were \
             further go on at offset {place}, publish again what is missing",
            log.name,
            suspect.was,
            state.tail()
        );
        tracing::error!("{words}");
        let mut found = self.shorter.found.lock();
        found.push(words);
        let too_many = found.len().saturating_sub(NAMED);
        found.drain(..too_many);
        Ok(())
    }

    /// What the leader of a topic's stream knows of it, if it is there.
    pub(super) async fn info(&self, log: &TopicLog) -> Result<Option<Info>> {
        let known = log.end();
        let info = self.streams.info(log.number).await?;
        if let Some(info) = &info {
            self.noted(log, info, known);
        }
        Ok(info)
    }
}

/// Looks into what may be shorter than it was, until the engine stops.
pub(super) async fn run(logs: Arc<Logs>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = logs.shutdown.started() => return,
        }
        let suspects: Vec<Suspect> = logs.shorter.suspects.lock().values().cloned().collect();
        for suspect in suspects {
            let looked = tokio::select! {
                looked = look(&logs, &suspect) => looked,
                () = logs.shutdown.started() => return,
            };
            match looked {
                Ok(true) => drop(logs.shorter.suspects.lock().remove(&suspect.log.number)),
                Ok(false) => {}
                Err(error) => tracing::debug!(topic = %suspect.log.name, %error, "it is looked at again"),
            }
        }
    }
}

/// Gives whether that is settled.
async fn look(logs: &Logs, suspect: &Suspect) -> Result<bool> {
    let asked = timeout(ANSWER, logs.streams.info(suspect.log.number)).await;
    let info = asked.map_err(|_| unavailable("it is not said how far the topic goes"))??;
    let Some(info) = info.filter(|_| !suspect.log.is_deleted()) else { return Ok(true) };
    if !suspect.is_sure {
        if info.state.tail() >= suspect.was {
            return Ok(true);
        }
        let patience = if info.config.num_replicas > 1 { TOGETHER } else { ALONE };
        if suspect.since.elapsed() < patience {
            return Ok(false);
        }
    }
    logs.begin_again(suspect, &info).await?;
    Ok(true)
}
