//! Reading back what was kept of a subscription in one topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossdock_topics::{Error, Order, Result, Subscription};

use super::block::Block;
use super::keys;
use super::reader::Regard;
use crate::group::{Dead, Facts, Group, Held, Place, Rules, Saved, Waiting};

/// What was kept, as far as it has been read.
#[derive(Default)]
pub(crate) struct Restoring {
    place: Option<Place>,
    saved: Saved,
    mended: BTreeSet<u64>,
}

impl Restoring {
    /// Takes in one of the values that are kept under [`keys::group`].
    ///
    /// # Errors
    /// `Internal` when it is damaged.
    pub(crate) fn read(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let damaged = || Error::internal("a key of what is kept of a subscription is damaged");
        let kind = *key.get(8).ok_or_else(damaged)?;
        if kind == keys::PLACE {
            self.place = Some(Place::decode(value)?);
            return Ok(());
        }
        let offset = key.get(9..).and_then(keys::u64_of).ok_or_else(damaged)?;
        match kind {
            keys::WAITING => self.saved.waiting.push((offset, Waiting::decode(value)?)),
            keys::DEAD => self.saved.dead.push((offset, Dead::decode(value)?.facts)),
            keys::MENDED => drop(self.mended.insert(offset)),
            // Also what was with consumers: it is of worth only to whoever it was handed to.
            _ => {}
        }
        Ok(())
    }

    /// Takes in what was with a consumer when it was handed to this engine, which hears from now on what becomes of it.
    ///
    /// # Errors
    /// `Internal` when it is damaged.
    pub(crate) fn read_held(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let offset = key.get(9..).and_then(keys::u64_of);
        let offset = offset.ok_or_else(|| Error::internal("a key of what consumers hold is damaged"))?;
        self.saved.held.push((offset, Held::decode(value)?));
        Ok(())
    }

    /// Whether its place was kept.
    pub(crate) fn is_placed(&self) -> bool {
        self.place.is_some()
    }

    /// The messages whose blocks [`Restoring::group`] asks for, in order.
    pub(crate) fn wanted(&self, definition: &Subscription) -> BTreeSet<u64> {
        let mut wanted = BTreeSet::new();
        if let Some(place) = &self.place
            && Regard::new(definition, None).has_facts()
        {
            wanted.extend(place.open.iter());
        }
        if definition.order == Order::Key {
            let unkeyed = self.saved.waiting.iter().filter(|(_, waiting)| waiting.facts.key.is_none());
            wanted.extend(unkeyed.map(|(offset, _)| *offset));
        }
        wanted
    }

    /// The group, and the messages in whose place something else is delivered. Its place is `head` if none was kept;
    /// `block` loads the block that holds a message, which is asked for where messages have facts of interest.
    ///
    /// # Errors
    /// What loading fails with.
    pub(crate) fn group(
        self,
        definition: &Subscription,
        head: u64,
        token: u64,
        mut block: impl FnMut(u64) -> Result<Option<Arc<Block>>>,
    ) -> Result<(Group, BTreeSet<u64>)> {
        let mut saved = Saved { place: self.place.unwrap_or_else(|| Place::at(head)), ..self.saved };
        if Regard::new(definition, None).has_facts() {
            saved.facts = facts(definition, saved.place.open.iter(), &mut block)?;
        }
        if definition.order == Order::Key {
            // What was recorded before order by key was chosen.
            let unkeyed = saved.waiting.iter().filter(|(_, waiting)| waiting.facts.key.is_none());
            let keyed = facts(definition, unkeyed.map(|(offset, _)| *offset), &mut block)?;
            for (offset, waiting) in &mut saved.waiting {
                waiting.facts.key = waiting.facts.key.or_else(|| keyed.get(offset)?.key);
            }
        }
        Ok((Group::new(Rules::from(definition), saved, token), self.mended))
    }
}

/// What the log says of these messages, which come in order. Those that are gone are left out.
///
/// # Errors
/// What loading a block fails with.
pub(crate) fn facts(
    definition: &Subscription,
    offsets: impl IntoIterator<Item = u64>,
    mut block: impl FnMut(u64) -> Result<Option<Arc<Block>>>,
) -> Result<BTreeMap<u64, Facts>> {
    let regard = Regard::new(definition, None);
    let mut facts = BTreeMap::new();
    let mut near: Option<Arc<Block>> = None;
    for offset in offsets {
        if near.as_ref().is_none_or(|block| block.range().end <= offset) {
            near = block(offset)?;
        }
        if let Some(found) = near.as_ref().and_then(|block| block.find(offset)) {
            facts.insert(offset, regard.facts(&found.record));
        }
    }
    Ok(facts)
}
