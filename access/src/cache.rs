//! Remembers which credentials were proven, so that argon2 is paid once.

use std::collections::{HashMap, VecDeque};

use crossdock_topics::Revision;
use sha2::{Digest, Sha256};

/// What stands for credentials in the cache: a hash under a key that this process alone knows and never
/// writes down, so that a look into its memory finds neither secrets nor anything to guess them by elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

/// Credentials that were proven against a user's record as of a revision. Bounded; the oldest go first.
pub(crate) struct Cache {
    key: [u8; 32],
    capacity: usize,
    proven: HashMap<Fingerprint, Revision>,
    order: VecDeque<Fingerprint>,
}

impl Cache {
    pub(crate) fn new(key: [u8; 32], capacity: usize) -> Self {
        Self { key, capacity, proven: HashMap::new(), order: VecDeque::new() }
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

    /// Whether the credentials were proven against the record of this revision. Those that were proven against
    /// an earlier one are forgotten.
    pub(crate) fn proven(&mut self, fingerprint: &Fingerprint, revision: Revision) -> bool {
        match self.proven.get(fingerprint) {
            Some(proven) if *proven == revision => true,
            Some(_) => {
                self.proven.remove(fingerprint);
                self.order.retain(|other| other != fingerprint);
                false
            }
            None => false,
        }
    }

    /// Remembers proven credentials.
    pub(crate) fn remember(&mut self, fingerprint: Fingerprint, revision: Revision) {
        if self.proven.insert(fingerprint, revision).is_some() {
            return;
        }
        self.order.push_back(fingerprint);
        while self.order.len() > self.capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.proven.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_proven_counts_for_its_revision_only() {
        let mut cache = Cache::new([7; 32], 10);
        let alice = cache.fingerprint(0, "alice", "secret");
        assert!(!cache.proven(&alice, 3));
        cache.remember(alice, 3);
        assert!(cache.proven(&alice, 3));
        assert!(!cache.proven(&alice, 4));
        assert!(!cache.proven(&alice, 3), "forgotten for good");
        assert!(cache.order.is_empty());
    }

    #[test]
    fn it_is_bounded_and_the_oldest_go_first() {
        let mut cache = Cache::new([7; 32], 3);
        let prints: Vec<_> = (0..5).map(|n| cache.fingerprint(0, "alice", &n.to_string())).collect();
        for print in &prints {
            cache.remember(*print, 1);
            cache.remember(*print, 1);
        }
        let kept: Vec<_> = prints.iter().map(|print| cache.proven(print, 1)).collect();
        assert_eq!(kept, [false, false, true, true, true]);
        assert_eq!((cache.order.len(), cache.proven.len()), (3, 3));
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
