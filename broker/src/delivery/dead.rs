//! Dead letters: listed, chosen by a filter, delivered again, forgotten, mended.
//!
//! Whatever is done to many is done a page at a time, so that neither memory nor one write grows with their number.

use std::sync::Arc;

use bytes::Bytes;
use crossdock_topics::{
    DeadLetter, DeadLetterFilter, Error, ErrorCode, Message, Record, Redrive, Result, Selection, Timestamp,
    TopicName,
};

use super::feed::Feed;
use super::fetch::look_up;
use super::subscription::SubscriptionState;
use super::{Engine, LONGEST_WAIT, Operation, keys};
use crate::group::Dead;

/// So many are looked at, or done something to, at one time.
const PAGE: usize = 1024;

/// What is done to dead letters.
#[derive(Clone, Copy)]
enum Fate {
    /// They are counted.
    Count,
    /// They are delivered again: the first now, and so many a second, if that is limited.
    Redrive { from: Timestamp, rate: Option<f64> },
    /// They are forgotten.
    Discard,
}

impl SubscriptionState {
    /// The dead letters after a place.
    pub(crate) async fn dead_letters(
        &self,
        engine: &impl Engine,
        after: Option<&(TopicName, u64)>,
        max: usize,
    ) -> Result<Vec<DeadLetter>> {
        let mut letters = Vec::new();
        for (log, offset) in self.dead(after, max) {
            letters.extend(self.dead_letter(engine, &log, offset, true).await?);
        }
        Ok(letters)
    }

    /// One dead letter, if it still is one. Its message costs a look into the log.
    async fn dead_letter(
        &self,
        engine: &impl Engine,
        log: &Arc<Feed>,
        offset: u64,
        with_message: bool,
    ) -> Result<Option<DeadLetter>> {
        let key = keys::message(self.id, log.id, keys::DEAD, offset);
        // Given up this very moment: the next listing has it.
        let Some(bytes) = engine.kept(self, &key)? else { return Ok(None) };
        let dead = Dead::decode(&bytes)?;
        let mut message = if with_message { look_up(engine, log, offset).await? } else { None };
        if let Some((_, record)) = &mut message
            && let Some(mended) = self.mended(engine, log, offset)?
        {
            *record = mended;
        }
        Ok(Some(DeadLetter {
            topic: log.name.clone(),
            offset,
            reason: dead.reason,
            failures: dead.failures,
            deliveries: dead.deliveries,
            by: dead.by,
            at: dead.at,
            message,
        }))
    }

    /// What a subscription is given in the place of a message, if that was mended.
    pub(crate) fn mended(&self, engine: &impl Engine, log: &Feed, offset: u64) -> Result<Option<Record>> {
        if !self.is_mended(log, offset) {
            return Ok(None);
        }
        let bytes = engine.kept(self, &keys::message(self.id, log.id, keys::MENDED, offset))?;
        bytes.map(|bytes| Record::from_packed(bytes.into())).transpose()
    }

    pub(crate) async fn redrive(self: &Arc<Self>, engine: &impl Engine, redrive: Redrive) -> Result<usize> {
        redrive.check()?;
        let fate = match redrive.dry_run {
            true => Fate::Count,
            false => Fate::Redrive { from: engine.now(), rate: redrive.rate },
        };
        self.each_dead(engine, redrive.selection, fate).await
    }

    pub(crate) async fn discard(
        self: &Arc<Self>,
        engine: &impl Engine,
        selection: Selection,
        dry_run: bool,
    ) -> Result<usize> {
        self.each_dead(engine, selection, if dry_run { Fate::Count } else { Fate::Discard }).await
    }

    /// Does the same to all dead letters that are chosen; gives how many.
    async fn each_dead(
        self: &Arc<Self>,
        engine: &impl Engine,
        selection: Selection,
        fate: Fate,
    ) -> Result<usize> {
        engine.check_open()?;
        let filter = match selection {
            Selection::These(these) => {
                let mut done = 0;
                for page in self.dead_among(&these).chunks(PAGE) {
                    done += self.carry_out(engine, page, done, fate).await?;
                }
                return Ok(done);
            }
            Selection::All => None,
            Selection::Matching(filter) => Some(filter),
        };
        // Those that become dead letters meanwhile are left for another time: this comes to an end.
        let (mut left, mut done) = (self.count_dead(), 0);
        let mut after: Option<(TopicName, u64)> = None;
        while left > 0 {
            let page = self.dead(after.as_ref(), PAGE.min(left));
            let Some((log, offset)) = page.last() else { break };
            after = Some((log.name.clone(), *offset));
            left -= page.len();
            let mut chosen = Vec::with_capacity(page.len());
            for (log, offset) in page {
                let is_meant = match &filter {
                    None => true,
                    Some(filter) => self.is_meant(engine, &log, offset, filter).await?,
                };
                if is_meant {
                    chosen.push((log.id, offset));
                }
            }
            done += self.carry_out(engine, &chosen, done, fate).await?;
        }
        Ok(done)
    }

    async fn is_meant(
        &self,
        engine: &impl Engine,
        log: &Arc<Feed>,
        offset: u64,
        filter: &DeadLetterFilter,
    ) -> Result<bool> {
        if filter.topic.as_ref().is_some_and(|topic| *topic != log.name) {
            return Ok(false);
        }
        let with_message = filter.key.is_some() || !filter.headers.is_empty();
        let letter = self.dead_letter(engine, log, offset, with_message).await?;
        Ok(letter.is_some_and(|letter| filter.matches(&letter)))
    }

    /// Does it to a page of them, by log and offset, of which so many came before.
    async fn carry_out(
        self: &Arc<Self>,
        engine: &impl Engine,
        page: &[(u32, u64)],
        before: usize,
        fate: Fate,
    ) -> Result<usize> {
        let operation = match fate {
            _ if page.is_empty() => return Ok(0),
            Fate::Count => return Ok(page.len()),
            Fate::Discard => Operation::Discard(page.to_vec()),
            Fate::Redrive { from, rate } => {
                let due = |index: usize| match rate {
                    None => from,
                    #[allow(clippy::cast_precision_loss)] // there are never that many
                    Some(rate) => {
                        let wait = std::time::Duration::try_from_secs_f64((before + index) as f64 / rate);
                        from.after(wait.unwrap_or(LONGEST_WAIT))
                    }
                };
                let page = page.iter().enumerate();
                Operation::Redrive(page.map(|(index, (log, offset))| (*log, *offset, due(index))).collect())
            }
        };
        engine.operate(self, operation).await
    }

    /// Gives it something else in the place of a dead letter's message, of a topic that takes payloads of `limit` bytes.
    pub(crate) async fn mend_letter(
        self: &Arc<Self>,
        engine: &impl Engine,
        topic: &TopicName,
        limit: usize,
        offset: u64,
        message: &Message,
    ) -> Result<()> {
        engine.check_open()?;
        let record = Record::of(message)?;
        if message.payload.len() > limit {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!(
                    "the payload has {} bytes, topic {topic} takes at most {limit}",
                    message.payload.len()
                ),
            )
            .hint("make it smaller, or raise the topic's max_message_bytes"));
        }
        let record: Bytes = record.as_bytes().clone();
        let mended = match self.feeds(Some(topic)).first() {
            Some(feed) => engine.operate(self, Operation::Mend { log: feed.id, offset, record }).await?,
            None => 0,
        };
        match mended {
            0 => {
                let place = format!("{topic}/{offset} of subscription {}", self.name);
                Err(Error::not_found("dead letter", place).hint("list them with `crossdock dlq ls`"))
            }
            _ => Ok(()),
        }
    }
}
