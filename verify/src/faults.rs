//! What happens to the broker, and when: chosen from the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Which faults there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The process is killed, and now and then stopped for a while.
    pub crash: bool,
    /// The disk refuses to let files grow.
    pub disk_full: bool,
    /// Bytes of a copy of the data are changed while nobody has it open.
    pub corrupt: bool,
}

/// Something that happens to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP for so long.
    Suspend(Duration),
    /// A kill, and a life of so long in which no file grows beyond so many bytes.
    Full(Duration, u64),
}

/// One after another.
pub(crate) struct Plan {
    faults: Faults,
    dice: StdRng,
}

impl Plan {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, dice: StdRng::seed_from_u64(seed ^ 0xFA17) }
    }

    /// What happens next, and after how long of work in peace; `None` when nothing does.
    pub(crate) fn next(&mut self) -> Option<(Duration, Fault)> {
        let Faults { crash, disk_full, .. } = self.faults;
        let peace = Duration::from_millis(self.dice.random_range(20..900));
        let draw = self.dice.random_range(0..100);
        let length = Duration::from_millis(self.dice.random_range(200..1500));
        let bytes = self.dice.random_range(64 * 1024..32 * 1024 * 1024);
        let fault = match (crash, disk_full) {
            (false, false) => return None,
            (false, true) => Fault::Full(length, bytes),
            (true, true) if draw < 10 => Fault::Full(length, bytes),
            (true, _) if draw >= 94 => Fault::Suspend(length),
            (true, _) => Fault::Kill,
        };
        Some((peace, fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(faults: Faults, seed: u64) -> Vec<Option<(Duration, Fault)>> {
        let mut plan = Plan::new(faults, seed);
        (0..200).map(|_| plan.next()).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let all = Faults { crash: true, disk_full: true, corrupt: true };
        assert_eq!(plan(all, 1), plan(all, 1));
        assert_ne!(plan(all, 1), plan(all, 2));
        let kind =
            |wanted: fn(&Fault) -> bool| plan(all, 1).iter().flatten().filter(|(_, f)| wanted(f)).count();
        assert!(kind(|fault| *fault == Fault::Kill) > 100);
        assert!(kind(|fault| matches!(fault, Fault::Suspend(_))) > 2);
        assert!(kind(|fault| matches!(fault, Fault::Full(..))) > 5);
        assert_eq!(plan(Faults { corrupt: true, ..Faults::default() }, 1), [None; 200]);
    }
}
