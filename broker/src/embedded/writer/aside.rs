//! Commands that wait until the ids of their topic have been read back from its log. What comes to that topic meanwhile
//! waits behind them, so that all of it keeps its order; what goes to others does not wait.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Error, Result};

use super::{Command, PASS_BYTES, Writer};
use crate::embedded::dedup::Dedup;
use crate::embedded::log::TopicLog;
use crate::embedded::recall::Wanted;

/// So much of a log is read at once, with nobody put aside: that takes no longer than a write.
const SOON: u64 = 2 * 1024 * 1024;

/// What waits for a topic's ids.
pub(super) struct Aside {
    commands: Vec<Command>,
}

impl Writer {
    /// Puts a command aside if it has to wait; gives it back otherwise.
    pub(super) fn put_aside(&mut self, command: Command) -> Option<Command> {
        let waits_for = match &command {
            Command::Publish { log, batch, .. } => self.waits(log, batch.has_ids()).then_some(log.id),
            Command::Refused { log, .. } => self.waits(log, false).then_some(log.id),
            Command::Settle { outputs, .. } => {
                outputs.iter().find(|(log, batch)| self.waits(log, batch.has_ids())).map(|(log, _)| log.id)
            }
            _ => None,
        };
        match waits_for.and_then(|id| self.aside.get_mut(&id)) {
            Some(aside) => {
                aside.commands.push(command);
                None
            }
            None => Some(command),
        }
    }

    /// Whether what is appended to a topic has to wait; has its ids read back if they are needed and not there.
    fn waits(&mut self, log: &Arc<TopicLog>, has_ids: bool) -> bool {
        if !self.aside.is_empty() && self.aside.contains_key(&log.id) {
            return true;
        }
        if !has_ids || log.is_deleted() {
            return false;
        }
        let window = log.definition().0.dedup_window;
        let Some(from) = log.writing.lock().unread_ids(self.now, window, SOON) else { return false };
        // What is read is what is written.
        self.commit();
        if self.shared.recalling.push(Wanted { log: log.clone(), from, window }).is_err() {
            return false;
        }
        self.aside.insert(log.id, Aside { commands: Vec::new() });
        true
    }

    /// Takes in the ids of a topic, and lets what waited for them go on.
    pub(super) fn recalled(&mut self, log: &Arc<TopicLog>, window: Duration, ids: Result<Dedup, Error>) {
        let Some(aside) = self.aside.remove(&log.id) else { return };
        let failed = match ids {
            Ok(ids) => {
                // With another window they are read again.
                if log.definition().0.dedup_window == window {
                    log.writing.lock().know_ids(ids);
                }
                false
            }
            Err(error) => {
                tracing::error!(topic = %log.name, %error, "the ids of a topic cannot be read back");
                true
            }
        };
        self.go_on(aside, failed);
    }

    /// Lets everything that was put aside go on, and read for itself what it needs.
    pub(super) fn go_on_all(&mut self) {
        for (_, aside) in std::mem::take(&mut self.aside) {
            self.go_on(aside, true);
        }
    }

    fn go_on(&mut self, aside: Aside, reads_itself: bool) {
        for command in aside.commands {
            if reads_itself {
                self.carry_out_now(command);
            } else {
                self.carry_out(command);
            }
            if self.pass.bytes > PASS_BYTES || self.batch.size_in_bytes() > PASS_BYTES {
                self.commit();
            }
        }
    }
}
