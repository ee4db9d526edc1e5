//! What a topic and all the rest come to, in a few numbers: the same on every engine for the same things.

use std::fmt::Write;

use crossdock_topics::{Record, Result, Timestamp};
use sha2::{Digest, Sha256};

use super::house::{Held, House, Inventory, Item, Standing, Subscribed};

/// What the messages of a topic come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// When the newest one was stored.
    pub(crate) last: Timestamp,
    pub(crate) digest: String,
}

/// Reads all messages of a topic from an offset on; `visit` sees each, and may end it with an error.
///
/// Where clocks have stepped back, a message's time is the one before it: so its readers have seen it.
pub(crate) async fn summarize(
    house: &dyn House,
    topic: &Held,
    from: u64,
    mut visit: impl FnMut(&Item) -> Result<()> + Send,
) -> Result<Summary> {
    let (mut at, mut summary, mut hash) = (from.max(topic.head), Summary::default(), Sha256::new());
    loop {
        let items = house.messages(topic, at).await?;
        let Some(last) = items.last() else { break };
        at = last.stored.offset + 1;
        for mut item in items {
            item.stored.time = item.stored.time.max(summary.last);
            take_in(&mut summary, &mut hash, &item)?;
            visit(&item)?;
        }
        tokio::task::yield_now().await;
    }
    summary.digest = hex(&hash.finalize());
    Ok(summary)
}

fn take_in(summary: &mut Summary, hash: &mut Sha256, item: &Item) -> Result<()> {
    let stored = &item.stored;
    // Publishers may pack the same message in several ways.
    let record = Record::of(&stored.record.to_message())?;
    hash.update(stored.offset.to_le_bytes());
    hash.update(stored.time.0.to_le_bytes());
    hash.update((record.as_bytes().len() as u64).to_le_bytes());
    hash.update(record.as_bytes());
    summary.messages += 1;
    summary.bytes += record.size() as u64;
    summary.last = stored.time;
    Ok(())
}

/// The digest of all keys of the store, and of all definitions.
pub(crate) fn of_store(inventory: &Inventory) -> Result<String> {
    let mut lines: Vec<(String, Vec<u8>)> =
        inventory.entries.iter().map(|entry| (entry.key.clone(), entry.value.to_vec())).collect();
    for held in &inventory.topics {
        lines.push((format!("topics/{} {}", held.topic.name, held.number), json(&held.topic)?));
    }
    for known in &inventory.subscriptions {
        let key = format!("subscriptions/{} {}", known.definition.name, known.number);
        lines.push((key, json(&known.definition)?));
    }
    lines.sort();
    let mut hash = Sha256::new();
    for (key, value) in lines {
        update(&mut hash, key.as_bytes());
        update(&mut hash, &value);
    }
    Ok(hex(&hash.finalize()))
}

/// The digest of how a subscription stands.
pub(crate) fn of_standing(known: &Subscribed, standing: &Standing) -> String {
    let mut hash = Sha256::new();
    hash.update(known.number.to_le_bytes());
    hash.update([u8::from(standing.paused)]);
    for (key, value) in &standing.kept {
        update(&mut hash, key);
        update(&mut hash, value);
    }
    hex(&hash.finalize())
}

/// One digest of several texts.
pub(crate) fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    texts.into_iter().for_each(|text| update(&mut hash, text.as_bytes()));
    hex(&hash.finalize())
}

fn update(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|cause| crossdock_topics::Error::internal(format!("cannot write a definition: {cause}")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
