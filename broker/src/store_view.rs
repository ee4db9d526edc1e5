//! The store as readers and watchers see it: only what is durable.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use crossdock_topics::{Change, Entry, Error, ErrorCode, Revision, Watch};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// So many changes are remembered for those who watch from an earlier revision.
const HISTORY: usize = 4096;
/// And no more than so many bytes of them.
const HISTORY_BYTES: usize = 32 * 1024 * 1024;
/// A watcher that is so many changes behind is let go, and must list again.
const WATCH_CAPACITY: usize = 4096;

#[derive(Default)]
pub(crate) struct StoreView(Mutex<View>);

#[derive(Default)]
struct View {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    /// Every change after this revision is in `history`.
    known_after: Revision,
    history: VecDeque<Change>,
    history_bytes: usize,
    watchers: Vec<(String, mpsc::Sender<Change>)>,
}

impl StoreView {
    /// What is there, as of a revision. Whoever watched must list again.
    pub(crate) fn restore(&self, entries: impl IntoIterator<Item = Entry>, revision: Revision) {
        let mut view = self.0.lock();
        view.entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        view.revision = revision;
        view.known_after = revision;
        (view.history, view.history_bytes) = (VecDeque::new(), 0);
        view.watchers.clear();
    }

    /// Takes in an entry that is older than the newest change. Whoever watched must list again.
    pub(crate) fn amend(&self, entry: Entry) {
        let mut view = self.0.lock();
        view.revision = view.revision.max(entry.revision);
        view.known_after = view.revision;
        view.entries.insert(entry.key.clone(), entry);
        (view.history, view.history_bytes) = (VecDeque::new(), 0);
        view.watchers.clear();
    }

    /// Takes in changes that have become durable.
    pub(crate) fn apply(&self, changes: Vec<Change>) {
        let mut view = self.0.lock();
        for change in changes {
            view.revision = change.revision();
            match &change {
                Change::Put(entry) => drop(view.entries.insert(entry.key.clone(), entry.clone())),
                Change::Deleted { key, .. } => drop(view.entries.remove(key)),
            }
            view.watchers.retain(|(prefix, watcher)| {
                if change.key().starts_with(prefix.as_str()) {
                    watcher.try_send(change.clone()).is_ok()
                } else {
                    !watcher.is_closed()
                }
            });
            view.history_bytes += size(&change);
            view.history.push_back(change);
            while view.history.len() > HISTORY || view.history_bytes > HISTORY_BYTES {
                let Some(oldest) = view.history.pop_front() else { break };
                view.history_bytes -= size(&oldest);
                view.known_after = oldest.revision();
            }
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.0.lock().entries.get(key).cloned()
    }

    pub(crate) fn list(&self, prefix: &str) -> (Vec<Entry>, Revision) {
        let view = self.0.lock();
        let entries = view.entries.range(prefix.to_owned()..);
        let matching = entries.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone());
        (matching.collect(), view.revision)
    }

    /// What follows a prefix in the keys that have it, each with its revision.
    pub(crate) fn names(&self, prefix: &str) -> Vec<(String, Revision)> {
        let view = self.0.lock();
        let entries = view.entries.range(prefix.to_owned()..);
        let names = entries.map_while(|(key, entry)| Some((key.strip_prefix(prefix)?, entry.revision)));
        names.map(|(name, revision)| (name.to_owned(), revision)).collect()
    }

    pub(crate) fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let mut view = self.0.lock();
        if after < view.known_after {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!(
                    "changes after revision {after} are no longer known, only after {}",
                    view.known_after
                ),
            )
            .hint("list the keys, and watch from the revision that comes with the list"));
        }
        let (sender, receiver) = mpsc::channel(HISTORY + WATCH_CAPACITY);
        for change in view.history.iter().filter(|c| c.revision() > after && c.key().starts_with(prefix)) {
            let _ = sender.try_send(change.clone()); // there is room for the whole history
        }
        view.watchers.push((prefix.to_owned(), sender));
        Ok(Watch(receiver))
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.0.lock().watchers.clear();
    }
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Deleted { key, .. } => key.len(),
    }
}

/// Checks a key and a value against the limits of [`crossdock_topics::Store`].
pub(crate) fn check(key: &str, value: Option<&Bytes>) -> Result<(), Error> {
    if key.is_empty() || key.len() > 512 || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(format!(
            "{key:?} is not a key: 1 to 512 bytes of printable ASCII without blanks"
        )));
    }
    if key.starts_with("topics/") || key.starts_with("subscriptions/") {
        return Err(Error::invalid(format!("{key} is the broker's own"))
            .hint("change topics and subscriptions through the broker, not through the store"));
    }
    let size = value.map_or(0, Bytes::len);
    if size > 16 * 1024 * 1024 {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("the value of {key} has {size} bytes, the limit is 16 MiB"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_for_watchers_is_bounded_in_bytes() {
        let view = StoreView::default();
        for revision in 1..=40 {
            let value = Bytes::from(vec![0; 1024 * 1024]);
            view.apply(vec![Change::Put(Entry { key: "services/big".into(), value, revision })]);
        }
        assert!(view.0.lock().history_bytes <= HISTORY_BYTES);
        assert!(view.watch("", 1).is_err() && view.watch("", 39).is_ok());
    }
}
