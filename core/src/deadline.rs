//! What is to be done when: one ordered set for everything that has a deadline.

use alloc::collections::{BTreeSet, btree_set};

use crate::ids::{MemberId, ReplyTo, Timestamp, TransferId};

/// What has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// An export or import of a namespace is given up.
    Transfer(u32, TransferId),
    /// Leases of a group of a namespace end, or messages that wait are due.
    Group(u32, u32),
    /// A member of a group of a namespace may have been silent for too long.
    Member(u32, u32, MemberId),
    /// A group of a namespace does not wait any longer for members that are to let go of partitions.
    Rebalance(u32, u32),
    /// The first publish that a connection holds has its tokens, or is refused.
    Held(u32),
    /// Something that a namespace has scheduled is published.
    Schedule(u32),
    /// A subscription has the tokens that it waits for: namespace, subscription, its serial.
    Paced(u32, u32, u64),
    /// Who asked a request of a namespace is told that nobody answered.
    Inquiry(u32, ReplyTo),
    /// A connection may have been silent for too long.
    Silent(u32),
    /// A device of a namespace was away for as long as it is remembered.
    Device(u32),
    /// What a namespace used is written.
    Usage(u32),
}

impl Due {
    /// The namespace that has something to do; `None` where it is a connection.
    const fn namespace(self) -> Option<u32> {
        match self {
            Self::Held(_) | Self::Silent(_) => None,
            Self::Transfer(namespace, _)
            | Self::Group(namespace, _)
            | Self::Member(namespace, ..)
            | Self::Rebalance(namespace, _)
            | Self::Schedule(namespace)
            | Self::Paced(namespace, ..)
            | Self::Inquiry(namespace, _)
            | Self::Device(namespace)
            | Self::Usage(namespace) => Some(namespace),
        }
    }

    /// Whether only memory knows of it: a broker that is restored from its rows has no such deadline any more, or
    /// begins to wait anew.
    const fn is_fleeting(self) -> bool {
        match self {
            Self::Transfer(..)
            | Self::Rebalance(..)
            | Self::Held(_)
            | Self::Paced(..)
            | Self::Inquiry(..)
            | Self::Usage(_) => true,
            Self::Group(..)
            | Self::Member(..)
            | Self::Schedule(_)
            | Self::Silent(_)
            | Self::Device(_) => false,
        }
    }
}

/// The deadlines, the earliest first.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    ordered: BTreeSet<(Timestamp, Due)>,
    /// How many of them only memory knows of.
    fleeting: u64,
}

impl Deadlines {
    pub(crate) fn insert(&mut self, entry: (Timestamp, Due)) {
        if self.ordered.insert(entry) {
            self.fleeting += u64::from(entry.1.is_fleeting());
        }
    }

    pub(crate) fn remove(&mut self, entry: &(Timestamp, Due)) {
        if self.ordered.remove(entry) {
            self.fleeting -= u64::from(entry.1.is_fleeting());
        }
    }

    /// Forgets everything that a namespace has to do.
    pub(crate) fn remove_all_of(&mut self, namespace: u32) {
        self.ordered
            .retain(|(_, due)| due.namespace() != Some(namespace));
        let fleeting = self.ordered.iter().filter(|(_, due)| due.is_fleeting());
        self.fleeting = fleeting.count() as u64;
    }

    pub(crate) fn first(&self) -> Option<&(Timestamp, Due)> {
        self.ordered.first()
    }

    pub(crate) fn iter(&self) -> btree_set::Iter<'_, (Timestamp, Due)> {
        self.ordered.iter()
    }

    /// Whether there is one that only memory knows of.
    pub(crate) const fn has_fleeting(&self) -> bool {
        self.fleeting > 0
    }
}
