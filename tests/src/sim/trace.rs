//! What happened: a hash of all of it, and the newest of it as text.

use core::fmt::Arguments;
use std::collections::VecDeque;

/// The record of one run. The text is only made when asked for: a failing seed is run again to get it.
#[derive(Debug, Default)]
pub(super) struct Trace {
    texts: Option<VecDeque<String>>,
    shown: usize,
    hash: u64,
    pub(super) now: u64,
}

impl Trace {
    /// Keeps the newest `shown` events as text.
    pub(super) fn new(shown: usize) -> Self {
        Self {
            texts: (shown > 0).then(VecDeque::new),
            shown,
            hash: 0xcbf2_9ce4_8422_2325,
            now: 0,
        }
    }

    /// Mixes bytes into the hash (FNV-1a, eight bytes at a time).
    pub(super) fn mix(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash ^ u64::from_le_bytes(word))
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(29);
        }
        self.hash ^= bytes.len() as u64;
    }

    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn note(&mut self, text: Arguments<'_>) {
        if let Some(texts) = &mut self.texts {
            if texts.len() == self.shown {
                texts.pop_front();
            }
            texts.push_back(format!("{:>9} {text}", self.now));
        }
    }

    /// The newest events, oldest first.
    pub(super) fn into_lines(self) -> Vec<String> {
        self.texts.map(Vec::from).unwrap_or_default()
    }
}
