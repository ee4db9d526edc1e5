//! Waiting until topics show here what has a receipt.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{ErrorCode, Result, StartAt};
use futures::{StreamExt, TryStreamExt};

use super::owned::Owned;
use super::topics::Topics;
use crate::delivery::Feed;
use crate::jetstream::log::TopicLog;

/// How long a topic may take to show what has a receipt.
pub(super) const CATCH_UP: Duration = Duration::from_secs(2);
/// So many topics are asked at once how far they go.
const AT_ONCE: usize = 32;

impl Owned {
    /// Waits until its topics show what has a receipt by now.
    pub(super) async fn catch_up(&self) -> Result<()> {
        if self.state.definition().0.topics.iter().any(|pattern| pattern.literal().is_none()) {
            // Another engine may have made one that matches.
            self.common.topics.come().await;
        }
        self.catch_topics().await?;
        let logs: Vec<_> = self.reads.lock().values().map(|read| read.log.clone()).collect();
        let catching = futures::stream::iter(logs)
            .map(|log| async move { catch_up(&self.common.topics, &log).await.map(drop) });
        catching.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Waits until its topics show what this engine has given receipts for.
    pub(super) async fn catch_up_with_receipts(&self) {
        let behind: Vec<(Arc<Feed>, u64)> = {
            let reads = self.reads.lock();
            let behind = reads.values().filter(|read| read.log.known_tail() > read.need.feed().tail());
            behind.map(|read| (read.need.feed().clone(), read.log.known_tail())).collect()
        };
        for (feed, end) in behind {
            reached(&feed, end).await;
        }
    }
}

/// Waits until a topic shows what has a receipt by now, for a while; gives where that ends.
pub(super) async fn catch_up(topics: &Topics, log: &TopicLog) -> Result<u64> {
    match topics.place(log, StartAt::End).await {
        Ok(end) => {
            reached(&log.following.feed, end).await;
            Ok(end)
        }
        // It has gone.
        Err(error) if error.code == ErrorCode::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Waits until a topic shows all before an offset, for a while.
async fn reached(feed: &Feed, end: u64) {
    let reached = async {
        loop {
            let moved = feed.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if feed.tail() >= end || feed.is_deleted() {
                return;
            }
            moved.await;
        }
    };
    let _ = tokio::time::timeout(CATCH_UP, reached).await;
}
