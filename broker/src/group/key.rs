//! Keys as a group knows them, and which consumer each belongs to.

use std::num::NonZeroU64;

use crossdock_topics::ConsumerId;

/// A message's key, as 64 bits that stay the same across restarts and releases. Two keys that share them wait for
/// each other and nothing worse, so a good hash is enough: FNV-1a, and one round of SplitMix64 to spread it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(NonZeroU64);

impl KeyHash {
    /// Of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let fnv = key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(NonZeroU64::new(mix(fnv)).unwrap_or(NonZeroU64::MIN))
    }

    /// Of a number that [`KeyHash::number`] gave.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// As a number, never 0.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0.get()
    }

    /// Which of the slots the key is in.
    #[must_use]
    pub fn slot(self) -> u8 {
        self.0.get().to_be_bytes()[0]
    }
}

/// One round of SplitMix64.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Which consumer each slot of keys belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// One for each slot, or nobody.
    owners: Vec<ConsumerId>,
}

impl Slots {
    /// How many slots there are.
    pub const COUNT: usize = 256;

    /// Spreads them over consumers by rendezvous: each slot goes to the consumer that draws the highest number for it,
    /// so that one who comes or goes changes the owner of its own slots and no others.
    #[must_use]
    pub fn among<'a>(consumers: impl IntoIterator<Item = &'a ConsumerId>) -> Self {
        let consumers: Vec<ConsumerId> = consumers.into_iter().copied().collect();
        let draw = |slot: u64, consumer: ConsumerId| mix(mix(consumer.0) ^ slot);
        let owner =
            |slot| consumers.iter().copied().max_by_key(|consumer| (draw(slot, *consumer), *consumer));
        Self { owners: (0..Self::COUNT as u64).map_while(owner).collect() }
    }

    /// Who owns a slot; nobody while none has joined.
    #[must_use]
    pub fn owner(&self, slot: u8) -> Option<ConsumerId> {
        self.owners.get(usize::from(slot)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_same_for_ever() {
        assert_eq!(KeyHash::of("").number(), 0xc3817c016ba4ff30);
        assert_eq!(KeyHash::of("customer-1").number(), 0xd253a870bbafcefa);
    }

    #[test]
    fn slots_are_shared_evenly_and_only_the_leavers_change_hands() {
        let four = [1, 2, 3, 4].map(|n| ConsumerId(n << 24));
        let all = Slots::among(&four);
        for consumer in four {
            let count = (0..=255).filter(|slot| all.owner(*slot) == Some(consumer)).count();
            assert!((32..=96).contains(&count), "{consumer:?} owns {count} of 256");
        }
        let three = Slots::among(&four[1..]);
        for slot in 0..=255 {
            let before = all.owner(slot);
            assert!(before == Some(four[0]) || three.owner(slot) == before, "slot {slot} changed hands");
        }
        assert_eq!(Slots::among(&[]).owner(7), None);
    }
}
