//! What a repair has asked for, between the one that takes it up and those that commit it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Nearly always nobody asks for anything, and then a transaction needs a statement less.
#[derive(Debug, Default)]
pub(super) struct Repairing {
    wanted: AtomicBool,
    done: AtomicU64,
}

impl Repairing {
    /// Whoever commits a document from now on takes the request for it back.
    pub(super) fn wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Release);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    pub(super) fn done(&self, documents: u64) {
        self.done.fetch_add(documents, Ordering::Relaxed);
    }

    /// How many were done since this was asked last.
    pub(super) fn take_done(&self) -> u64 {
        self.done.swap(0, Ordering::Relaxed)
    }
}
