//! The integers of the domain, each its own type, so that an offset can never stand where a sequence is meant.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);
    };
}

id!(
    /// Milliseconds since the Unix epoch. A host passes wall time at its start plus elapsed monotonic time;
    /// the broker never lets it go back.
    Timestamp(u64)
);
id!(
    /// A connection, numbered by the host, unique among the living ones and those being restored. Below 2^53.
    ConnectionId(u64)
);
id!(
    /// A subscription, numbered by its client, unique within its connection.
    SubscriptionId(u32)
);
id!(
    /// The client's number of a command; the reply carries it. 0 is used where no command is meant.
    RequestId(u64)
);
id!(
    /// A topic's number within its namespace; never used again after the topic is deleted.
    TopicId(u32)
);
id!(
    /// A partition's index within its topic, from 0.
    Partition(u32)
);
id!(
    /// A message's place in its partition: dense, from 0.
    Offset(u64)
);
id!(
    /// A message's place in its namespace, from 1, over all topics. 0 stands before the first.
    Sequence(u64)
);
id!(
    /// One life of a namespace between two restores, from 1.
    Incarnation(u64)
);
id!(
    /// The dense number of a [`crate::Effect::Write`], from 1 in every incarnation. 0 means no write.
    WriteSequence(u64)
);
id!(
    /// The number of an outstanding [`crate::Effect::Load`].
    Ticket(u64)
);

id!(
    /// A message that waits for its time; from the namespace's sequences, so it rises and is not given again. 0 is none.
    ScheduleId(u64)
);
id!(
    /// A consumer group's number within its namespace; never used again after the group is deleted.
    GroupId(u32)
);
id!(
    /// A member's number within its group, from 1; never used again. 0 is nobody.
    MemberId(u64)
);
id!(
    /// How often the partitions of a group were dealt out.
    Generation(u64)
);
id!(
    /// The right of one member to one message, for a time. Not given again in a later incarnation. Below 2^53.
    LeaseId(u64)
);
id!(
    /// A request that can be answered; 0 is none. Not given again in a later incarnation. Below 2^53.
    ReplyTo(u64)
);
id!(
    /// An export or import under way; 0 is none. Not given again in a later incarnation.
    TransferId(u64)
);

impl Timestamp {
    /// This time plus `ms` milliseconds; at the end of time it stays there.
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time, 0 if `earlier` is later.
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Offset {
    /// The offset after this one. Offsets are bounded far below the end of `u64` by storage.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Sequence {
    /// The sequence after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
