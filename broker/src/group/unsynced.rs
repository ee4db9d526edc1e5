//! What waits until the disk has what was decided.
//!
//! With order by key a message is delivered when the one before it is done with for good, and not merely in memory:
//! were the process killed in between, the earlier one would come again after the later one has been seen. So each
//! change that another message's turn depends on has a number, and the turn passes on when the change is durable.

use std::collections::VecDeque;

use super::aside::{Aside, Wait};
use super::key::KeyHash;
use super::{AT_ONCE, Action, Group};

/// Changes that are not durable yet, as far as something waits for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsynced {
    /// One for each: the key whose message is done with, or none where it concerns all.
    waiting: VecDeque<Option<KeyHash>>,
    /// The number of the last one that is durable.
    synced: u64,
    /// Nothing is delivered before the change of this number is durable.
    hold: u64,
}

impl Unsynced {
    fn last(&self) -> u64 {
        self.synced + self.waiting.len() as u64
    }

    pub(super) fn holds(&self) -> bool {
        self.hold > self.synced
    }
}

impl Group {
    /// The number of the last change that something waits for, if there is one. Once all that was to be persisted until
    /// now is durable, [`Event::Synced`](super::Event::Synced) is to say so.
    #[must_use]
    pub fn awaited(&self) -> Option<u64> {
        (!self.unsynced.waiting.is_empty()).then(|| self.unsynced.last())
    }

    /// Whether nothing is delivered before the last change is durable.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.unsynced.holds()
    }

    /// A message of this key is done with: the next one's turn comes when that is durable.
    pub(super) fn leave_lane(&mut self, key: Option<KeyHash>, offset: u64) {
        let Some(key) = key else { return };
        if self.lanes.leave(key, offset, self.unsynced.last() + 1) {
            self.unsynced.waiting.push_back(Some(key));
        }
    }

    /// The place or the rules have changed: with order by key, what is done with by that is many messages, or none that
    /// is known here, so nothing is delivered before it is durable.
    pub(super) fn hold(&mut self, actions: &mut Vec<Action>) {
        self.unsynced.waiting.push_back(None);
        self.unsynced.hold = self.unsynced.last();
        actions.push(Action::Place);
    }

    /// Everything up to the change of this number is durable.
    pub(super) fn synced(&mut self, number: u64, actions: &mut Vec<Action>) {
        let held = self.is_held();
        let mut any = false;
        while self.unsynced.synced < number
            && let Some(key) = self.unsynced.waiting.pop_front()
        {
            self.unsynced.synced += 1;
            let next = key.and_then(|key| self.lanes.pass_on(key, self.unsynced.synced));
            if let Some((next, aside)) = next.and_then(|next| Some((next, self.pick_up(next)?))) {
                let wait = if aside.due == AT_ONCE { Wait::Ready } else { Wait::Later };
                self.put_down(next, Aside { wait, ..aside });
                any = true;
            }
        }
        if any || (held && !self.is_held()) {
            actions.push(Action::Available);
        }
    }
}
