//! Steps at which a test ends the process, as if it were killed there. Without the feature `failpoints` there are none.

/// The steps of a settlement on its way to its answer, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// The writer has it in hand; nothing has been done.
    Taken = 1,
    /// Its outcomes have taken effect in memory.
    OutcomesApplied,
    /// Its outputs have been appended in memory.
    OutputsAppended,
    /// All that is to be written is together.
    BeforeWrite,
    /// It is written, and not yet durable.
    Written,
    /// It is durable, and nobody has been told.
    Synced,
    /// Whoever asked has been told.
    Answered,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Taken,
        Self::OutcomesApplied,
        Self::OutputsAppended,
        Self::BeforeWrite,
        Self::Written,
        Self::Synced,
        Self::Answered,
    ];
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Step;

    static ARMED: AtomicU8 = AtomicU8::new(0);

    /// From now on the process ends when it reaches this step.
    pub fn arm(step: Step) {
        ARMED.store(step as u8, Ordering::SeqCst);
    }

    pub(in crate::embedded) fn reach(step: Step, is_meant: impl FnOnce() -> bool) {
        if ARMED.load(Ordering::SeqCst) == step as u8 && is_meant() {
            std::process::abort();
        }
    }
}

#[cfg(feature = "failpoints")]
pub use armed::arm;
#[cfg(feature = "failpoints")]
pub(super) use armed::reach;

/// Nothing is armed, and nothing is asked.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(super) fn reach(_: Step, _: impl FnOnce() -> bool) {}
