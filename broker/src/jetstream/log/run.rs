//! Where this engine's messages lie in a stream without anybody else's between them.

use std::collections::HashSet;

/// Which part of the stream is known to be this engine's alone, up to the stream's end as its publisher was told itself.
/// Whoever has published in it has done so nowhere else since.
#[derive(Default)]
pub(super) struct Run {
    /// Names what is sent: all that is sent under one number without waiting is sent once, for one place.
    pub(super) number: u64,
    /// The number of the stream's last message, if it is known.
    pub(super) end: Option<u64>,
    members: HashSet<Option<u128>>,
}

impl Run {
    /// Whether a publisher's newest message is known to lie in it.
    pub(super) fn has(&self, publisher: Option<u128>) -> bool {
        self.members.contains(&publisher)
    }

    /// Takes in that the messages from `first` up to the stream's end are this engine's, whose publishers had nothing stored
    /// that was not known.
    pub(super) fn stored(&mut self, first: u64, end: u64, publishers: impl Iterator<Item = Option<u128>>) {
        if self.end.is_none_or(|known| known + 1 != first) {
            self.members.clear();
        }
        self.end = Some(end);
        self.members.extend(publishers);
    }

    /// Takes in who publishes in it now; should it not be stored, the run is broken.
    pub(super) fn joined(&mut self, publishers: impl Iterator<Item = Option<u128>>) {
        self.members.extend(publishers);
    }

    /// Somebody else may have published.
    pub(super) fn broken(&mut self) {
        self.end = None;
        self.members.clear();
    }

    /// Something that was sent for its place may still come to lie there.
    pub(super) fn renew(&mut self) {
        self.broken();
        self.number += 1;
    }
}
