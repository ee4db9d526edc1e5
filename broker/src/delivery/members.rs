//! The topics of one subscription, and which of them have something to do.
//!
//! A subscription may have ten thousand topics of which a few move. So nothing here goes over all of them: a topic
//! whose tail moves or whose group changes is *listed*, and taking looks at those that are listed; what becomes due by
//! itself is in one order of time; and only those with changes to persist are persisted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossdock_topics::Timestamp;
use parking_lot::Mutex;

use super::feed::Feed;
use super::reader::Reader;
use super::{Keep, keys};
use crate::group::{Action, Event, Group};
use crossdock_topics::Error;

/// One topic of a subscription.
pub(crate) struct Member {
    pub(crate) log: Arc<Feed>,
    pub(crate) group: Group,
    pub(crate) reader: Reader,
    /// Changes that are to be persisted with the next write.
    pub(crate) pending: Vec<Action>,
    pub(crate) listed: Arc<Listed>,
    /// Dead letters, and messages that were ones, in whose place something else is delivered.
    pub(crate) mended: BTreeSet<u64>,
    /// Whether events that were taken in have had consequences.
    has_changed: bool,
    /// Whether it is among those to be persisted.
    dirty: bool,
    /// The last of [`Group::awaited`] that is on its way to the disk.
    written: u64,
    /// When it was last said to have something to do by itself.
    timer: Option<Timestamp>,
}

/// What becomes true of a topic's group when what was persisted is durable.
pub(crate) struct Awaited {
    /// Of the very group that was persisted: the topic may have been left and found again since.
    listed: Arc<Listed>,
    number: u64,
}

/// Whether a topic is among those that may have something to take.
pub(crate) struct Listed {
    topic: u32,
    is_listed: AtomicBool,
}

/// The topics that may have something to take, each once, in the order in which they are to be looked at.
#[derive(Default)]
pub(crate) struct Listing(Mutex<VecDeque<u32>>);

impl Listing {
    /// Lists a topic, if it is not.
    pub(crate) fn list(&self, listed: &Listed) {
        if !listed.is_listed.swap(true, Ordering::AcqRel) {
            self.0.lock().push_back(listed.topic);
        }
    }

    /// Lists a topic before all others.
    pub(crate) fn list_first(&self, listed: &Listed) {
        if !listed.is_listed.swap(true, Ordering::AcqRel) {
            self.0.lock().push_front(listed.topic);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// The next one, which is no longer listed once it has been [`Listed::clear`]ed.
    pub(crate) fn pop(&self) -> Option<u32> {
        self.0.lock().pop_front()
    }
}

impl Listed {
    /// From now on it can be listed again. Whoever lists it after this was not seen before it.
    pub(crate) fn clear(&self) {
        self.is_listed.swap(false, Ordering::AcqRel);
    }
}

/// All topics of a subscription, by number.
#[derive(Default)]
pub(crate) struct Members {
    /// Apart, as most subscriptions have one topic, and a tree has room for eleven at once.
    all: BTreeMap<u32, Box<Member>>,
    timers: BTreeSet<(Timestamp, u32)>,
    dirty: Vec<u32>,
    actions: Vec<Action>,
}

impl Members {
    /// Adds a topic, and what of its group is still to be persisted.
    pub(crate) fn insert(&mut self, log: Arc<Feed>, group: Group, pending: Vec<Action>) -> Arc<Listed> {
        let id = log.id;
        let listed = Arc::new(Listed { topic: id, is_listed: AtomicBool::new(false) });
        let reader = Reader::default();
        let member = Member {
            log,
            group,
            reader,
            pending,
            listed: listed.clone(),
            mended: BTreeSet::new(),
            has_changed: false,
            dirty: false,
            written: 0,
            timer: None,
        };
        self.all.insert(id, Box::new(member));
        self.look_back(id);
        listed
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Member> {
        let member = *self.all.remove(&id)?;
        if let Some(timer) = member.timer {
            self.timers.remove(&(timer, id));
        }
        Some(member)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Member> {
        self.all.get(&id).map(|member| &**member)
    }

    /// Whoever changes the group through this calls [`Members::look_back`] afterwards.
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Member> {
        self.all.get_mut(&id).map(|member| &mut **member)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.values().map(|member| &**member)
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.all.keys().copied().collect()
    }

    /// An event for one topic's group; gives whether it meant something that is there.
    pub(crate) fn apply(&mut self, id: u32, event: Event<'_>, now: Timestamp, listing: &Listing) -> bool {
        let held = self.absorb(id, event, now);
        self.conclude(id, listing);
        held
    }

    /// The same for one of several events; [`Members::conclude`] follows the last one of the topic.
    pub(crate) fn absorb(&mut self, id: u32, event: Event<'_>, now: Timestamp) -> bool {
        let Some(member) = self.all.get_mut(&id) else { return false };
        member.group.apply(event, now, &mut self.actions);
        member.has_changed |= !self.actions.is_empty();
        let mut held = true;
        for action in self.actions.drain(..) {
            match action {
                Action::Stale => held = false,
                Action::Available => {}
                action => member.pending.push(action),
            }
        }
        held
    }

    /// Lists a topic whose group has changed, and notes what that has brought.
    pub(crate) fn conclude(&mut self, id: u32, listing: &Listing) {
        let Some(member) = self.all.get_mut(&id) else { return };
        if std::mem::take(&mut member.has_changed) {
            listing.list(&member.listed);
        }
        self.look_back(id);
    }

    /// Notes what a change of a group has brought: something to persist, another moment to wake at.
    pub(crate) fn look_back(&mut self, id: u32) {
        let Some(member) = self.all.get_mut(&id) else { return };
        if !member.dirty && !member.pending.is_empty() {
            member.dirty = true;
            self.dirty.push(id);
        }
        let timer = member.group.wakes_at();
        if timer != member.timer {
            if let Some(old) = std::mem::replace(&mut member.timer, timer) {
                self.timers.remove(&(old, id));
            }
            if let Some(new) = timer {
                self.timers.insert((new, id));
            }
        }
    }

    /// Lets time pass for those topics to which it matters.
    pub(crate) fn tick(&mut self, now: Timestamp, listing: &Listing) {
        if self.timers.first().is_none_or(|(at, _)| *at > now) {
            return;
        }
        let due: Vec<u32> = self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        for id in due {
            self.apply(id, Event::Tick, now, listing);
        }
    }

    /// When something becomes deliverable by itself next.
    pub(crate) fn wakes_at(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether there is something to persist.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Adds all that is to be persisted to what is kept; tells `awaited` what must be [`Members::synced`] when it is
    /// durable.
    pub(crate) fn persist(
        &mut self,
        subscription: u32,
        kept: &mut impl Keep,
        mut awaited: impl FnMut(Awaited),
    ) -> Result<(), Error> {
        for id in self.dirty.drain(..) {
            let Some(member) = self.all.get_mut(&id) else { continue };
            member.dirty = false;
            write(subscription, id, &member.group, &member.pending, kept)?;
            if let Some(number) = member.group.awaited().filter(|number| *number > member.written) {
                member.written = number;
                awaited(Awaited { listed: member.listed.clone(), number });
            }
            for action in member.pending.drain(..) {
                // What was mended is kept for as long as it may be delivered.
                if let Action::Erase(offset) | Action::Exhume(offset) = action
                    && member.mended.contains(&offset)
                    && member.group.is_settled(offset)
                {
                    member.mended.remove(&offset);
                    kept.delete(&keys::message(subscription, id, keys::MENDED, offset));
                }
            }
        }
        Ok(())
    }

    /// What was persisted is durable.
    pub(crate) fn synced(&mut self, awaited: &Awaited, now: Timestamp, listing: &Listing) {
        let id = awaited.listed.topic;
        if self.all.get(&id).is_some_and(|member| Arc::ptr_eq(&member.listed, &awaited.listed)) {
            self.apply(id, Event::Synced(awaited.number), now, listing);
        }
    }
}

/// Adds a group's changes to what is kept, and its place, which they always come with.
pub(crate) fn write(
    subscription: u32,
    topic: u32,
    group: &Group,
    actions: &[Action],
    kept: &mut impl Keep,
) -> Result<(), Error> {
    let key = |kind, offset| keys::message(subscription, topic, kind, offset);
    for action in actions {
        match action {
            Action::Record { offset, waiting } => {
                kept.put(&key(keys::WAITING, *offset), &waiting.encode()?);
            }
            Action::Erase(offset) => kept.delete(&key(keys::WAITING, *offset)),
            Action::Bury { offset, dead } => kept.put(&key(keys::DEAD, *offset), &dead.encode()?),
            Action::Exhume(offset) => kept.delete(&key(keys::DEAD, *offset)),
            Action::Deliver { .. } | Action::Place | Action::Stale | Action::Available => {}
        }
    }
    kept.put(&keys::place(subscription, topic), &group.encoded_place());
    Ok(())
}
