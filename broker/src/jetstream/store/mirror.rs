//! All of the bucket, as it is kept in memory. It knows nothing of NATS: it is told what was stored.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossdock_topics::{Change, Entry, LeaseId, Revision};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::names::Key;
use crate::jetstream::connection::BACK;
use crate::store_view::StoreView;

/// The bucket as of a number of its stream.
pub(super) struct Mirror {
    pub(super) shared: StoreView,
    pub(super) own: StoreView,
    places: Mutex<Places>,
    /// The number of the last message that is in here.
    seen: watch::Sender<Revision>,
    /// The leases are not what they were.
    pub(super) leases_moved: Notify,
}

#[derive(Default)]
struct Places {
    keys: HashMap<Key, Place>,
    leases: HashMap<LeaseId, Lease>,
    /// Keys whose values could not be read yet.
    unread: HashMap<Key, Revision>,
}

/// What lies at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of the message that says so.
    pub(super) sequence: Revision,
    pub(super) lies: Lies,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    /// A value, which vanishes with a lease, or lies in an object.
    Value { lease: Option<LeaseId>, object: Option<String> },
    /// Nothing since this moment: the mark of a deletion.
    Mark(Instant),
}

/// A message of the bucket.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) key: Key,
    pub(super) sequence: Revision,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Put {
        value: Bytes,
        lease: Option<LeaseId>,
        object: Option<String>,
    },
    /// A value in an object that cannot be read yet.
    Unread {
        lease: Option<LeaseId>,
        object: String,
    },
    /// A lease that lasts so long from now on.
    Lease(Duration),
    Deleted,
    /// Something that matters no more, or that others put there.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    sequence: Revision,
    ttl: Duration,
    until: Instant,
}

/// A lease whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) id: LeaseId,
    pub(super) sequence: Revision,
    pub(super) ttl: Duration,
}

impl Mirror {
    pub(super) fn new() -> Self {
        Self {
            shared: StoreView::default(),
            own: StoreView::default(),
            places: Mutex::default(),
            seen: watch::Sender::new(0),
            leases_moved: Notify::new(),
        }
    }

    /// Takes in the whole bucket as of a number, in place of what was here.
    pub(super) fn load(&self, records: Vec<Record>, as_of: Revision, now: Instant) {
        let (mut places, mut shared, mut own) = (Places::default(), HashMap::new(), HashMap::new());
        for record in records {
            let sequence = record.sequence;
            places.note(&record, now);
            let (entries, key) = match record.key {
                Key::Shared(key) => (&mut shared, key),
                Key::Own(key) => (&mut own, key),
                Key::Lease(_) => continue,
            };
            match record.what {
                What::Put { value, .. } => {
                    drop(entries.insert(key.clone(), Entry { key, value, revision: sequence }));
                }
                What::Deleted => drop(entries.remove(&key)),
                What::Unread { .. } | What::Lease(_) | What::Nothing => {}
            }
        }
        *self.places.lock() = places;
        self.shared.restore(shared.into_values(), as_of);
        self.own.restore(own.into_values(), as_of);
        // Another bucket may have come less far than the one that was here.
        self.seen.send_replace(as_of);
        self.leases_moved.notify_waiters();
    }

    /// Takes in the next message.
    pub(super) fn apply(&self, record: Record, now: Instant) {
        let sequence = record.sequence;
        let was_there = self.places.lock().note(&record, now);
        let (view, key) = match record.key {
            Key::Shared(key) => (&self.shared, key),
            Key::Own(key) => (&self.own, key),
            Key::Lease(_) => {
                self.leases_moved.notify_waiters();
                return self.come(sequence);
            }
        };
        match record.what {
            What::Put { value, .. } => {
                view.apply(vec![Change::Put(Entry { key, value, revision: sequence })]);
            }
            // The mark of what was not there changes nothing.
            What::Deleted if was_there => view.apply(vec![Change::Deleted { key, revision: sequence }]),
            What::Unread { .. } | What::Deleted | What::Lease(_) | What::Nothing => {}
        }
        self.come(sequence);
    }

    /// Takes in a value that could not be read when its message came. Nothing, if the key has been written since.
    pub(super) fn read_late(&self, key: &Key, sequence: Revision, value: Bytes) {
        // Held until it is done, so that what is newer comes behind it.
        let mut places = self.places.lock();
        if places.unread.get(key) != Some(&sequence) {
            return;
        }
        places.unread.remove(key);
        let (view, key) = match key {
            Key::Shared(key) => (&self.shared, key.clone()),
            Key::Own(key) => (&self.own, key.clone()),
            Key::Lease(_) => return,
        };
        view.amend(Entry { key, value, revision: sequence });
    }

    /// Whether the value of a key could not be read yet.
    pub(super) fn is_unread(&self, key: &Key) -> bool {
        self.places.lock().unread.contains_key(key)
    }

    /// A key of the store with this prefix whose value could not be read yet.
    pub(super) fn unread_in(&self, prefix: &str) -> Option<String> {
        let places = self.places.lock();
        places.unread.keys().find_map(|key| match key {
            Key::Shared(key) if key.starts_with(prefix) => Some(key.clone()),
            _ => None,
        })
    }

    /// Everything up to this number is in here.
    pub(super) fn come(&self, sequence: Revision) {
        self.seen.send_if_modified(|seen| {
            let further = sequence > *seen;
            *seen = (*seen).max(sequence);
            further
        });
    }

    /// The number of the last message that is in here.
    pub(super) fn seen(&self) -> Revision {
        *self.seen.borrow()
    }

    /// Resolves when everything up to this number is in here.
    pub(super) async fn reaches(&self, sequence: Revision) {
        // Its sender is in here.
        let _ = self.seen.subscribe().wait_for(|seen| *seen >= sequence).await;
    }

    /// What lies at a key; `None` when nothing ever did, or it has been forgotten.
    pub(super) fn place(&self, key: &Key) -> Option<Place> {
        self.places.lock().keys.get(key).cloned()
    }

    /// Forgets the mark of a deletion that NATS has no more.
    pub(super) fn forget(&self, key: &Key) {
        let mut places = self.places.lock();
        if matches!(places.keys.get(key), Some(Place { lies: Lies::Mark(_), .. })) {
            places.keys.remove(key);
        }
    }

    /// Forgets the marks that are older than NATS keeps them.
    pub(super) fn forget_marks(&self, age: Duration, now: Instant) {
        let old = |place: &Place| matches!(place.lies, Lies::Mark(since) if now.saturating_duration_since(since) > age);
        self.places.lock().keys.retain(|_, place| !old(place));
    }

    /// Whether there is such a lease.
    pub(super) fn has_lease(&self, id: LeaseId) -> bool {
        self.places.lock().leases.contains_key(&id)
    }

    /// How long a lease lasts, and the number of its last renewal.
    pub(super) fn lease(&self, id: LeaseId) -> Option<(Duration, Revision)> {
        self.places.lock().leases.get(&id).map(|lease| (lease.ttl, lease.sequence))
    }

    /// Gives every lease its whole time again, because nobody could have kept one alive lately; and no less than it takes
    /// whoever keeps it alive to find a nats-server through which he can.
    pub(super) fn renew_all(&self, now: Instant) {
        for lease in self.places.lock().leases.values_mut() {
            lease.until = now + lease.ttl.max(BACK);
        }
        self.leases_moved.notify_waiters();
    }

    /// The leases whose time is up, and when that of the next one is.
    pub(super) fn late(&self, now: Instant) -> (Vec<Late>, Option<Instant>) {
        let places = self.places.lock();
        let late = places.leases.iter().filter(|(_, lease)| lease.until <= now);
        let late =
            late.map(|(id, lease)| Late { id: *id, sequence: lease.sequence, ttl: lease.ttl }).collect();
        let next = places.leases.values().map(|lease| lease.until).filter(|until| *until > now).min();
        (late, next)
    }

    /// What was put with this lease, and its numbers.
    pub(super) fn keys_of(&self, id: LeaseId) -> Vec<(Key, Revision)> {
        self.keys_where(|lease, _| lease == id)
    }

    /// What was put with a lease that is gone: by one who did not know it yet, or left by one who ended it and did not
    /// come to the end.
    pub(super) fn orphans(&self) -> Vec<(Key, Revision)> {
        self.keys_where(|lease, leases| !leases.contains_key(&lease))
    }

    fn keys_where(&self, fits: impl Fn(LeaseId, &HashMap<LeaseId, Lease>) -> bool) -> Vec<(Key, Revision)> {
        let places = self.places.lock();
        let found = places.keys.iter().filter(|(_, place)| match place.lies {
            Lies::Value { lease: Some(lease), .. } => fits(lease, &places.leases),
            _ => false,
        });
        found.map(|(key, place)| (key.clone(), place.sequence)).collect()
    }

    /// The objects in which values lie.
    pub(super) fn objects(&self) -> std::collections::HashSet<String> {
        let places = self.places.lock();
        let object = |place: &Place| match &place.lies {
            Lies::Value { object, .. } => object.clone(),
            Lies::Mark(_) => None,
        };
        places.keys.values().filter_map(object).collect()
    }
}

impl Places {
    /// Notes a record; whether there was a value at its key.
    fn note(&mut self, record: &Record, now: Instant) -> bool {
        let sequence = record.sequence;
        if let Key::Lease(id) = record.key {
            match record.what {
                What::Lease(ttl) => {
                    self.leases.insert(id, Lease { sequence, ttl, until: now + ttl });
                }
                _ => {
                    self.leases.remove(&id);
                }
            }
        }
        let lies = match &record.what {
            What::Put { lease, object, .. } => Lies::Value { lease: *lease, object: object.clone() },
            What::Unread { lease, object } => Lies::Value { lease: *lease, object: Some(object.clone()) },
            What::Lease(_) => Lies::Value { lease: None, object: None },
            What::Deleted => Lies::Mark(now),
            What::Nothing => return false,
        };
        match record.what {
            What::Unread { .. } => self.unread.insert(record.key.clone(), sequence),
            _ => self.unread.remove(&record.key),
        };
        let before = self.keys.insert(record.key.clone(), Place { sequence, lies });
        before.is_some_and(|place| matches!(place.lies, Lies::Value { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Key, sequence: u64, what: What) -> Record {
        Record { key, sequence, what }
    }

    fn shared(key: &str) -> Key {
        Key::Shared(key.into())
    }

    fn put(lease: Option<u64>) -> What {
        What::Put { value: Bytes::from_static(b"v"), lease: lease.map(LeaseId), object: None }
    }

    #[test]
    fn users_see_neither_the_engines_keys_nor_leases() {
        let (mirror, now) = (Mirror::new(), Instant::now());
        mirror.apply(record(shared("a"), 1, put(None)), now);
        mirror.apply(record(Key::Own("b".into()), 2, put(None)), now);
        mirror.apply(record(Key::Lease(LeaseId(9)), 3, What::Lease(Duration::from_secs(1))), now);
        let (entries, revision) = mirror.shared.list("");
        assert_eq!((entries.len(), entries[0].key.as_str(), revision), (1, "a", 1));
        assert_eq!(mirror.own.list("").0[0].key, "b");
        assert_eq!(mirror.seen(), 3);
    }

    #[test]
    fn a_lease_is_late_when_nobody_renewed_it_and_all_can_be_given_their_time_again() {
        let (mirror, start) = (Mirror::new(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let lease =
            |sequence| record(Key::Lease(LeaseId(1)), sequence, What::Lease(Duration::from_millis(100)));
        mirror.apply(lease(1), at(0));
        assert_eq!(mirror.late(at(99)), (vec![], Some(at(100))));
        mirror.apply(lease(2), at(50));
        assert_eq!(mirror.late(at(149)), (vec![], Some(at(150))));
        let late = Late { id: LeaseId(1), sequence: 2, ttl: Duration::from_millis(100) };
        assert_eq!(mirror.late(at(150)), (vec![late], None));
        mirror.renew_all(at(200));
        let until = at(200) + BACK;
        assert_eq!(mirror.late(until - Duration::from_millis(1)), (vec![], Some(until)));
        // One that is heard of is as alive as ever.
        mirror.apply(lease(3), at(300));
        assert_eq!(mirror.late(at(300)), (vec![], Some(at(400))));
        mirror.apply(record(Key::Lease(LeaseId(1)), 4, What::Deleted), at(399));
        assert!(!mirror.has_lease(LeaseId(1)));
        assert_eq!(mirror.late(until), (vec![], None));
    }

    #[test]
    fn keys_belong_to_the_lease_of_their_last_write() {
        let (mirror, now) = (Mirror::new(), Instant::now());
        for id in [1, 2] {
            mirror.apply(record(Key::Lease(LeaseId(id)), id, What::Lease(Duration::from_secs(1))), now);
        }
        for (key, lease, sequence) in
            [("a", Some(1), 3), ("b", Some(1), 4), ("c", Some(1), 5), ("b", Some(2), 6), ("c", None, 7)]
        {
            mirror.apply(record(shared(key), sequence, put(lease)), now);
        }
        assert_eq!(mirror.keys_of(LeaseId(1)), [(shared("a"), 3)]);
        assert!(mirror.orphans().is_empty());
        mirror.apply(record(Key::Lease(LeaseId(1)), 8, What::Deleted), now);
        assert_eq!(mirror.orphans(), [(shared("a"), 3)]);
    }

    #[test]
    fn a_mark_is_remembered_until_it_is_old_and_changes_nothing_where_nothing_was() {
        let (mirror, now) = (Mirror::new(), Instant::now());
        let mut watch = mirror.shared.watch("", 0).unwrap();
        mirror.apply(record(shared("a"), 1, What::Deleted), now);
        mirror.apply(record(shared("b"), 2, put(None)), now);
        assert_eq!(watch.0.try_recv().unwrap().key(), "b");
        assert!(mirror.place(&shared("a")).is_some());
        mirror.forget_marks(Duration::from_secs(5), now + Duration::from_secs(5));
        assert!(mirror.place(&shared("a")).is_some());
        mirror.forget_marks(Duration::from_secs(5), now + Duration::from_secs(6));
        assert_eq!(mirror.place(&shared("a")), None);
        assert!(mirror.place(&shared("b")).is_some());
    }

    #[test]
    fn a_value_that_is_read_late_is_there_then_and_one_that_was_replaced_is_not() {
        let (mirror, now) = (Mirror::new(), Instant::now());
        mirror.apply(record(shared("a"), 1, put(None)), now);
        let unread = || What::Unread { lease: None, object: "o".into() };
        mirror.apply(record(shared("a"), 2, unread()), now);
        mirror.apply(record(shared("b"), 3, unread()), now);
        mirror.apply(record(shared("c"), 4, put(None)), now);
        let mut watch = mirror.shared.watch("", 4).unwrap();
        assert_eq!((mirror.is_unread(&shared("a")), mirror.seen()), (true, 4));
        assert_eq!(mirror.unread_in("b"), Some("b".into()));
        mirror.apply(record(shared("b"), 5, put(None)), now);
        mirror.read_late(&shared("b"), 3, Bytes::from_static(b"old"));
        assert_eq!(mirror.shared.get("b").unwrap().revision, 5);
        assert!(watch.0.try_recv().is_ok());
        mirror.read_late(&shared("a"), 2, Bytes::from_static(b"late"));
        let found = mirror.shared.get("a").unwrap();
        assert_eq!(
            (&found.value[..], found.revision, mirror.is_unread(&shared("a"))),
            (&b"late"[..], 2, false)
        );
        // Who watched has not been told, and lists again.
        assert!(matches!(watch.0.try_recv(), Err(tokio::sync::mpsc::error::TryRecvError::Disconnected)));
        assert!(mirror.shared.watch("", 4).is_err() && mirror.shared.watch("", 5).is_ok());
        assert!(mirror.objects().contains("o"));
    }

    #[test]
    fn what_is_loaded_anew_ends_all_watches() {
        let (mirror, now) = (Mirror::new(), Instant::now());
        mirror.apply(record(shared("old"), 1, put(None)), now);
        let mut watch = mirror.shared.watch("", 1).unwrap();
        mirror.load(vec![record(shared("new"), 5, put(None))], 7, now);
        assert!(matches!(watch.0.try_recv(), Err(tokio::sync::mpsc::error::TryRecvError::Disconnected)));
        let (entries, revision) = mirror.shared.list("");
        assert_eq!((entries[0].key.as_str(), entries.len(), revision, mirror.seen()), ("new", 1, 7, 7));
        assert!(mirror.shared.watch("", 6).is_err() && mirror.shared.watch("", 7).is_ok());
    }
}
