//! What an operator does to a subscription: pause and resume, move its place, let parked keys go on, and deal with
//! its dead letters.

use std::sync::Arc;

use crossdock_topics::{Durability, Error, Result, StartAt};

use super::Writer;
use crate::delivery::{Operation, SubscriptionState};
use crate::embedded::keys;
use crate::embedded::log::TopicLog;
use crate::group::Event;

impl Writer {
    /// Carries it out; gives how much there was to do it to.
    pub(super) fn operate(
        &mut self,
        subscription: &Arc<SubscriptionState>,
        operation: Operation,
    ) -> Result<usize> {
        if subscription.is_deleted() {
            return Err(Error::not_found("subscription", &subscription.name));
        }
        self.require(Durability::Fsync);
        self.mark(subscription);
        match operation {
            Operation::Pause(paused) => {
                match paused {
                    true => self.batch.put(keys::paused(subscription.id), b""),
                    false => self.batch.delete(keys::paused(subscription.id)),
                }
                Ok(usize::from(subscription.set_paused(paused)))
            }
            Operation::Seek { topic, to } => {
                // A place by time is looked up in the log, which must have what came before this.
                self.commit();
                self.mark(subscription);
                self.require(Durability::Fsync);
                let feeds = subscription.feeds(topic.as_ref());
                let logs: Vec<_> = feeds.iter().filter_map(|feed| self.topics.get(&feed.name)).collect();
                if let Some(topic) = topic.filter(|_| logs.is_empty()) {
                    let message = format!("subscription {} does not read topic {topic}", subscription.name);
                    return Err(Error::new(crossdock_topics::ErrorCode::NotFound, message)
                        .hint("name one of its topics, or none to move it in all of them"));
                }
                let places: Result<Vec<(u32, u64)>> =
                    logs.iter().map(|log| Ok((log.id, self.offset_of(log, to)?))).collect();
                let places = places?;
                subscription.seek(&places, self.now);
                Ok(places.len())
            }
            Operation::ReleaseKeys { parked, give_up } => {
                Ok(subscription.release_keys(&parked, give_up, self.now))
            }
            Operation::Redrive(letters) => {
                let events = letters
                    .iter()
                    .map(|(log, offset, due)| (*log, Event::Redrive { offset: *offset, due: *due }));
                Ok(subscription.revive(events, self.now))
            }
            Operation::Discard(letters) => {
                let events = letters.iter().map(|(log, offset)| (*log, Event::Discard(*offset)));
                Ok(subscription.revive(events, self.now))
            }
            Operation::Mend { log, offset, record } => {
                let is_mended = subscription.mend(log, offset);
                if is_mended {
                    let key = keys::message(subscription.id, log, keys::MENDED, offset);
                    self.batch.put_cf(self.database.family("groups"), key, record);
                }
                Ok(usize::from(is_mended))
            }
        }
    }

    /// Which offset of a log a place is at, in what was written.
    pub(super) fn offset_of(&self, log: &TopicLog, start: StartAt) -> Result<u64> {
        let (head, next) = (log.head(), log.writing.lock().next);
        Ok(match start {
            StartAt::Start => head,
            StartAt::End => next,
            StartAt::Offset(offset) => offset.clamp(head, next),
            StartAt::Time(time) => log.at_time(&self.database, time)?.unwrap_or(next).clamp(head, next),
        })
    }
}
