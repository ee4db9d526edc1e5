//! The newest messages of all topics that are followed, as far as they stay in memory: so many bytes for all together, and
//! the oldest go first, whichever topic's they are.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::delivery::Feed;
use crate::delivery::block::Block;

/// The blocks that are in memory.
pub(super) struct Recent {
    limit: usize,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// Oldest first: whose each is, where it ends, and the memory it takes.
    order: VecDeque<(Arc<Feed>, u64, usize)>,
    bytes: usize,
}

impl Recent {
    /// At most so many bytes, or one block.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, blocks: Mutex::default() }
    }

    /// Makes a topic's next block visible, and lets go of the oldest ones of all topics that have no room any more.
    pub(super) fn add(&self, feed: &Arc<Feed>, block: Arc<Block>) {
        let (end, memory) = (block.range().end, block.memory());
        feed.advance(&[block]);
        let mut blocks = self.blocks.lock();
        blocks.order.push_back((feed.clone(), end, memory));
        blocks.bytes += memory;
        let mut gone = Vec::new();
        while blocks.bytes > self.limit && blocks.order.len() > 1 {
            let Some((feed, end, memory)) = blocks.order.pop_front() else { break };
            blocks.bytes -= memory;
            gone.push((feed, end));
        }
        drop(blocks);
        for (feed, end) in gone {
            feed.evict(end);
        }
    }

    /// Lets go of all that is in memory of a topic.
    pub(super) fn forget(&self, feed: &Arc<Feed>) {
        let mut blocks = self.blocks.lock();
        let mut freed = 0;
        blocks.order.retain(|(other, _, memory)| {
            let stays = !Arc::ptr_eq(other, feed);
            freed += if stays { 0 } else { *memory };
            stays
        });
        blocks.bytes -= freed;
        drop(blocks);
        feed.evict(feed.tail());
    }
}
