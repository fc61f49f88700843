//! Calls started and handled, by method and code.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::Code;

/// gRPC's codes, 0 to 16.
const CODES: usize = 17;

/// One runtime's counts of calls. Methods go by their number.
#[derive(Debug)]
pub struct Calls {
    started: Vec<AtomicU64>,
    handled: Vec<[AtomicU64; CODES]>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Calls {
    #[must_use]
    pub fn new(methods: usize) -> Self {
        Self {
            started: (0..methods).map(|_| AtomicU64::new(0)).collect(),
            handled: (0..methods).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect(),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }

    /// Only the thread of the runtime that owns these counts may call it.
    pub fn started(&self, method: usize) {
        add(&self.started[method], 1);
    }

    /// Only the thread of the runtime that owns these counts may call it.
    pub fn handled(&self, method: usize, code: Code) {
        add(&self.handled[method][code as usize], 1);
    }

    /// Only the thread of the runtime that owns these counts may call it.
    pub fn received(&self, bytes: usize) {
        add(&self.received_bytes, bytes as u64);
    }

    /// Only the thread of the runtime that owns these counts may call it.
    pub fn sent(&self, bytes: usize) {
        add(&self.sent_bytes, bytes as u64);
    }

    /// Bytes received from clients and sent to them, in messages.
    #[must_use]
    pub fn read_bytes(&self) -> (u64, u64) {
        (self.received_bytes.load(Relaxed), self.sent_bytes.load(Relaxed))
    }

    #[must_use]
    pub fn read_started(&self, method: usize) -> u64 {
        self.started[method].load(Relaxed)
    }

    /// Handled calls by code number.
    #[must_use]
    pub fn read_handled(&self, method: usize) -> [u64; CODES] {
        std::array::from_fn(|code| self.handled[method][code].load(Relaxed))
    }
}

/// An add without a locked instruction: there is one writer.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}
