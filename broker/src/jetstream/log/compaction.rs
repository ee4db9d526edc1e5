//! Keeping only the newest message of each key in topics that ask for it.
//!
//! The keeper reads such a topic once, and then what comes: it knows the newest offset of each key, and drops the older
//! ones. Those before the first one that stays go at once; each of the others costs NATS a write of its own, so that these
//! wait while much comes, which often makes all go that lies before it. What it knows is in memory only:
//! another keeper reads the topic again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crossdock_topics::{Result, Timestamp};
use futures::StreamExt;

use super::message::decode;
use super::naming::all_without_keys;
use super::stored::From;
use super::streams::State;
use super::{Logs, Needs, TopicLog};
use crate::group::Ranges;

/// So much is read at a time, so that other topics have their turn.
const PAGES: usize = 16;
const PAGE_MESSAGES: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;
/// So many are dropped one by one at a time, and asked for at once.
const DROPS: usize = 5000;
const AT_ONCE: usize = 64;
/// So many dead letters are looked at at a time.
const LOOKS: usize = 5000;
/// While more than so many come between two looks none is dropped one by one, until so many could be, and as many as stay.
const MUCH: u64 = 100;
const MANY: usize = 5000;
/// How long a message stays that says its key is gone.
const GONE_FOR: Duration = Duration::from_secs(86_400);

/// What the keeper knows of a topic.
#[derive(Default)]
pub(super) struct Compaction {
    /// The topic's life ([`TopicLog::lives`]) in which all of this is so.
    life: u64,
    /// All before this has been read.
    read: u64,
    newest: HashMap<String, u64>,
    /// Those, and what has no key.
    stays: Ranges,
    /// Not the newest of their keys any more.
    old: BTreeSet<u64>,
    /// The newest of their keys that say the key is gone.
    gone: VecDeque<(Timestamp, u64, String)>,
}

impl Compaction {
    /// Reads what has come, and drops what may go.
    pub(super) async fn go_on(&mut self, logs: &Logs, log: &TopicLog, state: &State) -> Result<()> {
        if self.life != log.lives() || state.tail() < self.read {
            *self = Self { life: log.lives(), ..Self::default() };
        }
        let came = self.read_on(logs, log, state).await?;
        let now = logs.now();
        while let Some((time, offset, key)) = self.gone.front() {
            if self.newest.get(key) != Some(offset) {
                self.gone.pop_front();
            } else if *time <= now.before(GONE_FOR) {
                self.newest.remove(key);
                self.stays.remove(*offset);
                self.old.insert(*offset);
                self.gone.pop_front();
            } else {
                break;
            }
        }
        let head = state.head();
        self.old = self.old.split_off(&head);
        self.stays.remove_before(head);
        let before = match log.definition().0.retention.drop_unread {
            true => u64::MAX,
            false => match logs.needs(log) {
                Needs::Nothing => u64::MAX,
                Needs::From(offset, _) => offset,
                Needs::Unknown => 0,
            },
        };
        let end = self.stays.first().unwrap_or(self.read).min(before);
        if self.life != log.lives() {
            return Ok(());
        }
        if self.old.first().is_some_and(|first| *first < end) {
            logs.streams.purge(log.number, end, None).await?;
            self.old = self.old.split_off(&end);
            logs.head_moved(log, end);
        }
        if came > MUCH && self.old.len() < self.newest.len().max(MANY) {
            return Ok(());
        }
        let removed: Vec<u64> = self.old.range(..before).take(DROPS).copied().collect();
        if removed.is_empty() || self.life != log.lives() {
            return Ok(());
        }
        let mut drops = futures::stream::iter(removed.iter().copied())
            .map(|offset| logs.streams.drop_one(log.number, offset))
            .buffer_unordered(AT_ONCE);
        while let Some(dropped) = drops.next().await {
            dropped?;
        }
        drop(drops);
        for offset in &removed {
            self.old.remove(offset);
        }
        logs.compacted(log, &removed);
        Ok(())
    }

    /// Reads what has come, as far as that is done at a time; gives how much that was.
    async fn read_on(&mut self, logs: &Logs, log: &TopicLog, state: &State) -> Result<u64> {
        let before = self.read;
        for _ in 0..PAGES {
            if self.read >= state.tail() {
                break;
            }
            let found =
                logs.streams.read(log.number, From::Offset(self.read), PAGE_MESSAGES, PAGE_BYTES).await?;
            let Some(last) = found.last() else { break };
            self.read = last.offset + 1;
            for kept in found {
                let is_gone = kept.payload.is_empty();
                self.stays.insert(kept.offset);
                let Some(key) = decode(Some(&kept.headers), kept.payload).key else { continue };
                let key = key.to_string();
                if is_gone {
                    self.gone.push_back((kept.time, kept.offset, key.clone()));
                }
                if let Some(before) = self.newest.insert(key, kept.offset) {
                    self.stays.remove(before);
                    self.old.insert(before);
                }
            }
        }
        Ok(self.read - before)
    }
}

/// What another server has left of a topic that it compacts, as far as this one has noticed.
#[derive(Default)]
pub(super) struct Noticed {
    /// Where the topic began, and how many gaps it had, when all dead letters had last been looked at.
    seen: Option<(u64, u64)>,
    /// The same of when those were begun with that are being looked at, and before which offset that is done.
    begun: Option<((u64, u64), u64)>,
}

impl Noticed {
    /// Where nobody is asked, dead letters go with their messages: lets the subscriptions here know which have gone.
    pub(super) async fn look(&mut self, logs: &Logs, log: &TopicLog, state: &State) -> Result<()> {
        let retention = &log.definition().0.retention;
        let gaps = (state.tail() - state.head()).saturating_sub(state.messages);
        let now = (state.head(), gaps);
        let is_new = self.begun.is_some() || self.seen != Some(now);
        if !(retention.compact && retention.drop_unread && is_new) {
            return Ok(());
        }
        let (begun, from) = self.begun.unwrap_or((now, 0));
        let dead = logs.readers.get().map(|readers| readers.dead(&log.following.feed)).unwrap_or_default();
        let dead: Vec<u64> = dead.into_iter().skip_while(|offset| *offset < from).take(LOOKS).collect();
        let rest = dead.get(LOOKS - 1).map(|last| (begun, last + 1));
        let mut looks =
            futures::stream::iter(dead).map(|offset| gone(logs, log.number, offset)).buffered(AT_ONCE);
        let mut removed = Vec::new();
        while let Some(looked) = looks.next().await {
            removed.extend(looked?);
        }
        drop(looks);
        if !removed.is_empty() {
            logs.compacted(log, &removed);
        }
        self.begun = rest;
        if rest.is_none() {
            self.seen = Some(begun);
        }
        Ok(())
    }
}

/// The offset, if there is no message at it any more.
async fn gone(logs: &Logs, topic: u32, offset: u64) -> Result<Option<u64>> {
    let found = logs.streams.read(topic, From::Offset(offset), 1, 1).await?;
    let is_there = found.first().is_some_and(|kept| kept.offset == offset);
    Ok((!is_there).then_some(offset))
}

/// The newest message of each key among those that were stored before the topic was compacted: their keys are not in
/// their subjects.
#[derive(Default)]
pub(super) struct OldKeys {
    read: u64,
    newest: HashMap<String, u64>,
}

impl OldKeys {
    /// The newest such message of a key.
    pub(super) async fn find(&mut self, logs: &Logs, log: &TopicLog, key: &str) -> Result<Option<u64>> {
        let subjects = all_without_keys(&logs.streams.base(log.number));
        loop {
            let from = From::On(&subjects, self.read);
            let found = logs.streams.read(log.number, from, PAGE_MESSAGES, PAGE_BYTES).await?;
            let Some(last) = found.last() else { break };
            self.read = last.offset + 1;
            for kept in found {
                if let Some(key) = decode(Some(&kept.headers), kept.payload).key {
                    self.newest.insert(key.to_string(), kept.offset);
                }
            }
        }
        let Some(offset) = self.newest.get(key).copied() else { return Ok(None) };
        let there = logs.streams.read(log.number, From::Offset(offset), 1, 1).await?;
        Ok(Some(offset).filter(|offset| there.first().is_some_and(|kept| kept.offset == *offset)))
    }
}
