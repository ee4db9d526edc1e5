//! What has arrived, held against what was sent.

use std::collections::HashMap;

use crossdock_topics::{Error, Result};

use super::house::{Held, House, Standing};
use super::summary::{Summary, of_standing, of_store, summarize};
use super::{Move, Progress, Seen};

impl Move<'_> {
    /// Reads through the target; gives in words what was compared.
    ///
    /// # Errors
    /// `Internal` naming what differs.
    pub(super) async fn check(
        &mut self,
        target: &dyn House,
        seen: &HashMap<u32, Seen>,
        standings: &[Standing],
    ) -> Result<Vec<String>> {
        let arrived = target.inventory().await?;
        let mut differences = Vec::new();
        if of_store(&arrived)? != of_store(&self.inventory)? {
            differences.push(format!(
                "definitions and keys of the store: {} topics, {} subscriptions and {} keys were sent, {}, {} and {} are there",
                self.inventory.topics.len(),
                self.inventory.subscriptions.len(),
                self.inventory.entries.len(),
                arrived.topics.len(),
                arrived.subscriptions.len(),
                arrived.entries.len()
            ));
        }
        let there: HashMap<u32, &Held> = arrived.topics.iter().map(|held| (held.number, held)).collect();
        let total = seen.values().map(|seen| seen.summary.messages).sum();
        let (mut checked, mut messages) = (0, 0);
        for held in &self.inventory.topics {
            let (Some(sent), Some(there)) = (seen.get(&held.number), there.get(&held.number)) else {
                differences.push(format!("topic {} is not there", held.topic.name));
                continue;
            };
            let mut sent = sent.summary.clone();
            let tell = &mut self.tell;
            let mut got = summarize(target, there, 0, |_| {
                checked += 1;
                if checked % 1000 == 0 {
                    tell(Progress::Checked(checked, total));
                }
                Ok(())
            })
            .await?;
            if got != sent && held.topic.retention.drop_unread {
                (sent, got) = self.what_is_left(held, target, there).await?;
            }
            messages += got.messages;
            differences.extend(difference(held, there, &sent, &got));
        }
        (self.tell)(Progress::Checked(checked, total));
        for (known, sent) in self.inventory.subscriptions.iter().zip(standings) {
            let got = target.standing(known).await?;
            if of_standing(known, &got) != of_standing(known, sent) {
                differences.push(format!(
                    "subscription {} does not stand where it stood: {} entries were sent, {} are there",
                    known.definition.name,
                    sent.kept.len(),
                    got.kept.len()
                ));
            }
        }
        if !differences.is_empty() {
            return Err(Error::internal(format!(
                "what has arrived is not what was sent:\n  {}",
                differences.join("\n  ")
            ))
            .hint(
                "do not start a server at the target; remove what was copied and begin anew, with nothing else at \
                 work at either place; the source is as it was",
            ));
        }
        Ok(vec![
            format!(
                "{} topics: definition, next offset, and the offset, time, headers, key, id and payload of each of {messages} messages (SHA-256)",
                self.inventory.topics.len()
            ),
            format!(
                "{} subscriptions: definition, place in each topic, what is set aside with its time and counters, \
                 parked keys, dead letters, edited messages, whether paused (SHA-256)",
                standings.len()
            ),
            format!("{} keys of the store with their values (SHA-256)", self.inventory.entries.len()),
        ])
    }

    /// What both have of a topic that NATS trims by itself, from where the source begins by now.
    async fn what_is_left(
        &self,
        held: &Held,
        target: &dyn House,
        there: &Held,
    ) -> Result<(Summary, Summary)> {
        let now = self.source.inventory().await?;
        let now = now.topics.into_iter().find(|now| now.number == held.number);
        let now = now.ok_or_else(|| Error::not_found("topic", &held.topic.name))?;
        let sent = summarize(self.source, &now, now.head, |_| Ok(())).await?;
        Ok((sent, summarize(target, there, now.head, |_| Ok(())).await?))
    }
}

fn difference(held: &Held, there: &Held, sent: &Summary, got: &Summary) -> Option<String> {
    let name = &held.topic.name;
    if there.tail != held.tail {
        return Some(format!("topic {name} goes on at offset {}, and should at {}", there.tail, held.tail));
    }
    if sent.messages != got.messages {
        return Some(format!(
            "topic {name}: {} messages were sent, {} are there",
            sent.messages, got.messages
        ));
    }
    (sent.digest != got.digest)
        .then(|| format!("topic {name}: its {} messages are not the same", got.messages))
}
