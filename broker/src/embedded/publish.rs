//! Topics, as [`Log`] has them.

use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{
    Batch, Durability, Error, ErrorCode, Expect, Log, Page, PublishOptions, Published, Result, Revision,
    StartAt, Stored, Topic, TopicInfo, TopicName,
};
use tokio::time::Instant;

use super::log::TopicLog;
use super::writer::Command;
use super::{Embedded, Shared, sources};
use crate::delivery::{Blocks, LONGEST_WAIT, READ_BYTES};

impl Shared {
    fn publish(&self, topic: &TopicName, batch: Batch, options: PublishOptions) -> Result<Published> {
        self.check_open()?;
        let PublishOptions { durability, expected, source } = options;
        source.as_ref().map_or(Ok(()), sources::check)?;
        let log = self.topic(topic)?;
        let durability = match self.accept(&log, &batch, durability) {
            Ok(durability) => durability,
            Err(error) => {
                if let Some(source) = source {
                    self.command(Command::Refused { log, source })?;
                }
                return Err(error);
            }
        };
        let bytes = batch.as_bytes().len();
        let (answer, published) = Published::pending();
        let publish = Command::Publish { log, batch, durability, expected, source, answer };
        if let Err(error) = self.command(publish) {
            self.budget.give(bytes);
            return Err(error);
        }
        Ok(published)
    }

    /// Checks all that can be checked before it is a batch's turn, and takes room for it; gives how safe it must
    /// become.
    fn accept(&self, log: &TopicLog, batch: &Batch, durability: Option<Durability>) -> Result<Durability> {
        log.definition().0.admit(batch)?;
        let least = log.definition().0.durability;
        let durability = durability.map_or(least, |asked| asked.max(least));
        check_durability(durability)?;
        if !self.budget.take(batch.as_bytes().len()) {
            return Err(Error::new(
                ErrorCode::Overloaded,
                format!("{} bytes of messages wait to be stored already", self.options.waiting_bytes),
            )
            .hint("publish more slowly; nothing of this was stored")
            .retry_after(Duration::from_millis(100)));
        }
        Ok(durability)
    }
}

fn check_durability(durability: Durability) -> Result<()> {
    if durability > Durability::Fsync {
        return Err(Error::invalid(format!("{durability} needs a cluster, this broker is one process"))
            .hint("use fsync, os or memory"));
    }
    Ok(())
}

#[async_trait]
impl Log for Embedded {
    async fn put_topic(&self, topic: Topic, expect: Expect) -> Result<Revision> {
        topic.check()?;
        check_durability(topic.durability)?;
        self.shared.ask(|answer| Command::PutTopic { topic, expect, answer }).await
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<()> {
        self.shared.ask(|answer| Command::DeleteTopic { name: name.clone(), answer }).await
    }

    async fn topic(&self, name: &TopicName) -> Result<TopicInfo> {
        Ok(self.shared.topic(name)?.info())
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let mut topics: Vec<TopicInfo> = self.shared.topics.read().values().map(|log| log.info()).collect();
        topics.sort_by(|a, b| a.topic.name.cmp(&b.topic.name));
        Ok(topics)
    }

    async fn purge(&self, name: &TopicName, before: Option<u64>) -> Result<u64> {
        self.shared.ask(|answer| Command::Purge { name: name.clone(), before, answer }).await
    }

    fn publish(&self, topic: &TopicName, batch: Batch, options: PublishOptions) -> Published {
        self.shared.publish(topic, batch, options).unwrap_or_else(Published::refused)
    }

    async fn room(&self) {
        self.shared.budget.wait().await;
    }

    async fn read(&self, topic: &TopicName, from: StartAt, max: usize, wait: Duration) -> Result<Page> {
        let log = self.shared.topic(topic)?;
        let deadline = Instant::now() + wait.min(LONGEST_WAIT);
        let mut offset = match from {
            StartAt::Start => log.head(),
            StartAt::End => log.tail(),
            StartAt::Offset(offset) => offset.max(log.head()),
            StartAt::Time(time) => {
                let (database, searched) = (self.shared.database()?, log.clone());
                tokio::task::spawn_blocking(move || searched.at_time(&database, time))
                    .await
                    .map_err(|cause| Error::internal(format!("reading was interrupted: {cause}")))??
                    .map_or_else(|| log.tail(), |offset| offset.clamp(log.head(), log.tail()))
            }
        };
        let mut page = Page { messages: Vec::new(), next: offset };
        loop {
            let moved = log.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if log.is_deleted() {
                return Err(Error::not_found("topic", topic));
            }
            offset = offset.max(log.head());
            let blocks = self.shared.blocks(&log.feed, offset, READ_BYTES).await?;
            let mut bytes = 0;
            'blocks: for block in &blocks {
                offset = offset.max(block.range().start);
                let mut place = block.seek(offset);
                while let Some(found) = place.and_then(|place| block.next(place)) {
                    if page.messages.len() >= max.max(1) || bytes > READ_BYTES {
                        break 'blocks;
                    }
                    bytes += found.record.size();
                    offset = found.offset + 1;
                    place = Some(found.after);
                    page.messages.push(Stored {
                        offset: found.offset,
                        time: found.time,
                        record: found.record,
                    });
                }
                // Compaction may have left nothing at its end.
                offset = offset.max(block.range().end);
            }
            page.next = offset;
            if page.messages.is_empty() && !blocks.is_empty() {
                continue;
            }
            let closing = self.shared.closing.load(std::sync::atomic::Ordering::Acquire);
            if !page.messages.is_empty() || closing || tokio::time::timeout_at(deadline, moved).await.is_err()
            {
                return Ok(page);
            }
        }
    }
}
