//! Reading back what was kept of a subscription in one topic.

use std::collections::BTreeSet;
use std::sync::Arc;

use crossdock_topics::{Error, Result, Subscription};

use super::block::Block;
use super::keys;
use super::reader::Regard;
use crate::group::{Dead, Group, Place, Rules, Saved, Waiting};

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
            _ => {}
        }
        Ok(())
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
        let regard = Regard::new(definition, None);
        if regard.has_facts() {
            let mut near: Option<Arc<Block>> = None;
            for offset in saved.place.open.iter() {
                if near.as_ref().is_none_or(|block| block.range().end <= offset) {
                    near = block(offset)?;
                }
                if let Some(found) = near.as_ref().and_then(|block| block.find(offset)) {
                    saved.facts.insert(offset, regard.facts(&found.record));
                }
            }
        }
        Ok((Group::new(Rules::from(definition), saved, token), self.mended))
    }
}
