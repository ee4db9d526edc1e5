//! Directories of a broker, made, opened, copied and read by the tests.

// Each test file uses its share of this.
#![allow(dead_code)]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_topics::{Error, Log, Message, StartAt, Stored, TopicName};

/// Opens a directory, off the executor.
pub(crate) async fn open(path: &Path) -> Result<Arc<Embedded>, Error> {
    let options = EmbeddedOptions::new(path);
    tokio::task::spawn_blocking(move || Embedded::open(options)).await.expect("opening panicked")
}

/// Copies a directory while its broker may still have it open, but is idle. The files that say which others
/// count come first: what they name exists before they name it.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    let mut entries = std::fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        !(name == "CURRENT" || name.starts_with("MANIFEST"))
    });
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// All that a topic holds.
pub(crate) async fn read_all(log: &dyn Log, topic: &TopicName) -> Result<Vec<Stored>, Error> {
    read_from(log, topic, StartAt::Start).await
}

/// All that a topic holds from a place on.
pub(crate) async fn read_from(log: &dyn Log, topic: &TopicName, from: StartAt) -> Result<Vec<Stored>, Error> {
    let (mut found, mut from) = (Vec::new(), from);
    loop {
        let page = log.read(topic, from, 10_000, Duration::ZERO).await?;
        if page.messages.is_empty() {
            return Ok(found);
        }
        found.extend(page.messages);
        from = StartAt::Offset(page.next);
    }
}

/// A message of this text.
pub(crate) fn message(text: impl Into<String>) -> Message {
    Message::new(text.into())
}

/// The payload as text.
pub(crate) fn text(stored: &Stored) -> String {
    String::from_utf8_lossy(&stored.record.payload()).into_owned()
}
