//! Remembers which credentials were proven, so that argon2 is paid once.

use std::collections::{HashMap, VecDeque};

use crossdock_topics::Revision;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};

/// What stands for credentials in the cache: a hash under a key that this process alone knows and never
/// writes down, so that a look into its memory finds neither secrets nor anything to guess them by elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

/// Credentials that were proven against a user's record as of a revision. Bounded; the oldest go first. Asking
/// it takes a lock that askers share.
pub(crate) struct Cache {
    key: [u8; 32],
    capacity: usize,
    proven: RwLock<Proven>,
}

#[derive(Default)]
struct Proven {
    at: HashMap<Fingerprint, Revision>,
    order: VecDeque<Fingerprint>,
}

impl Cache {
    pub(crate) fn new(key: [u8; 32], capacity: usize) -> Self {
        Self { key, capacity, proven: RwLock::default() }
    }

    /// What stands for these credentials. The parts' lengths go in too, so that no two triples look alike.
    pub(crate) fn fingerprint(&self, kind: u8, user: &str, secret: &str) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update([kind]);
        hash.update((user.len() as u64).to_le_bytes());
        hash.update(user);
        hash.update(secret);
        Fingerprint(hash.finalize().into())
    }

    /// Whether the credentials were proven against the record of this revision. Revisions never come back, so
    /// what was proven against an earlier one counts no more.
    pub(crate) fn proven(&self, fingerprint: &Fingerprint, revision: Revision) -> bool {
        self.proven.read().at.get(fingerprint) == Some(&revision)
    }

    /// Remembers proven credentials.
    pub(crate) fn remember(&self, fingerprint: Fingerprint, revision: Revision) {
        let proven = &mut *self.proven.write();
        if proven.at.insert(fingerprint, revision).is_some() {
            return;
        }
        proven.order.push_back(fingerprint);
        while proven.order.len() > self.capacity {
            if let Some(oldest) = proven.order.pop_front() {
                proven.at.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_proven_counts_for_its_revision_only() {
        let cache = Cache::new([7; 32], 10);
        let alice = cache.fingerprint(0, "alice", "secret");
        assert!(!cache.proven(&alice, 3));
        cache.remember(alice, 3);
        assert!(cache.proven(&alice, 3));
        assert!(!cache.proven(&alice, 4));
        cache.remember(alice, 4);
        assert!(cache.proven(&alice, 4));
        assert!(!cache.proven(&alice, 3), "forgotten for good");
        assert_eq!(cache.proven.read().order.len(), 1);
    }

    #[test]
    fn it_is_bounded_and_the_oldest_go_first() {
        let cache = Cache::new([7; 32], 3);
        let prints: Vec<_> = (0..5).map(|n| cache.fingerprint(0, "alice", &n.to_string())).collect();
        for print in &prints {
            cache.remember(*print, 1);
            cache.remember(*print, 1);
        }
        let kept: Vec<_> = prints.iter().map(|print| cache.proven(print, 1)).collect();
        assert_eq!(kept, [false, false, true, true, true]);
        let proven = cache.proven.read();
        assert_eq!((proven.order.len(), proven.at.len()), (3, 3));
    }

    #[test]
    fn no_two_credentials_look_alike() {
        let cache = Cache::new([7; 32], 3);
        let print = cache.fingerprint(0, "ab", "c");
        assert!(print != cache.fingerprint(0, "a", "bc"));
        assert!(print != cache.fingerprint(1, "ab", "c"));
        assert!(print != Cache::new([8; 32], 3).fingerprint(0, "ab", "c"));
    }
}
