//! Deliberate faults, one of which can be switched on to see that the simulator finds it.
//!
//! Without the feature `mutations`, which only the simulator's own check of itself asks for, no fault can be active,
//! and nothing of this is left in the code.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// A receipt of the level sync leaves before its write is durable.
    ReceiptBeforeSync = 1,
    /// A subscription that catches up misses a message now and then.
    CatchUpSkips,
    /// What retention, lag or a crash took is not told.
    GapUntold,
    /// A reader that resumes is not told that a crash put other messages where it had been.
    TruncationUntold,
    /// A subscription gets one message more than it has credit for.
    CreditOffByOne,
    /// That a member of a queue was leased a message is not stored.
    LeaseUnwritten,
    /// How often a message was delivered is forgotten in a restart.
    AttemptsForgotten,
    /// A message is delivered more often than it may be.
    AttemptsUnbounded,
    /// Who has no lease settles it.
    ForeignLeaseSettled,
    /// A message whose lease ends counts as done.
    LeaseEndIsDone,
    /// A queue deals out a key's next message while one of them is with a member.
    KeyNotHeld,
    /// Partitions change hands without a new generation.
    GenerationKept,
    /// A partition is given to the next member before the one that has it let go of it.
    RevokedGivenEarly,
    /// A member commits what it was not delivered.
    CommitBeyondDelivered,
    /// A member commits in a partition that is not its own any more.
    StaleCommit,
    /// A name is forgotten before its window is over.
    NameForgottenEarly,
    /// The names of messages are not stored.
    NamesNotStored,
    /// The producers of messages are not stored.
    ProducersNotStored,
    /// A sequence below a producer's highest is refused.
    LowSequenceRefused,
    /// A name that a batch repeats is published again.
    RepeatedInBatch,
    /// A message that has expired is delivered to who catches up.
    ExpiredDelivered,
    /// A rule acts again on what it made.
    RuleActsAgain,
    /// Rules are not stored.
    RulesNotStored,
    /// A transaction is done without what may not be done of it.
    TransactionTorn,
    /// What a transaction acknowledges is forgotten.
    TransactionAcksForgotten,
    /// Where a connection is present is not stored.
    PresenceNotStored,
    /// That a member's connection ended is not told.
    LeaveUntold,
    /// Who is silent stays present.
    SilenceUnnoticed,
    /// A message that has expired is leased to a member of a queue.
    ExpiredLeased,
    /// What was published when its time came waits in the store all the same.
    ScheduleFiresAgain,
    /// What is due is published in the order of numbers, whatever its time.
    ScheduleByNumber,
    /// A request that was answered can be answered again.
    AnsweredAgain,
    /// A request that nobody would hear is published.
    UnheardRequest,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::ReceiptBeforeSync,
        Self::CatchUpSkips,
        Self::GapUntold,
        Self::TruncationUntold,
        Self::CreditOffByOne,
        Self::LeaseUnwritten,
        Self::AttemptsForgotten,
        Self::AttemptsUnbounded,
        Self::ForeignLeaseSettled,
        Self::LeaseEndIsDone,
        Self::KeyNotHeld,
        Self::GenerationKept,
        Self::RevokedGivenEarly,
        Self::CommitBeyondDelivered,
        Self::StaleCommit,
        Self::NameForgottenEarly,
        Self::NamesNotStored,
        Self::ProducersNotStored,
        Self::LowSequenceRefused,
        Self::RepeatedInBatch,
        Self::ExpiredDelivered,
        Self::RuleActsAgain,
        Self::RulesNotStored,
        Self::TransactionTorn,
        Self::TransactionAcksForgotten,
        Self::PresenceNotStored,
        Self::LeaveUntold,
        Self::SilenceUnnoticed,
        Self::ExpiredLeased,
        Self::ScheduleFiresAgain,
        Self::ScheduleByNumber,
        Self::AnsweredAgain,
        Self::UnheardRequest,
    ];

    /// Whether this fault is switched on.
    #[cfg(feature = "mutations")]
    pub(crate) fn is_active(self) -> bool {
        ACTIVE.load(core::sync::atomic::Ordering::Relaxed) == self as u8
    }

    /// Whether this fault is switched on.
    #[cfg(not(feature = "mutations"))]
    pub(crate) const fn is_active(self) -> bool {
        false
    }
}

#[cfg(feature = "mutations")]
static ACTIVE: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Switches one fault on, in every broker of this process, or all off.
#[cfg(feature = "mutations")]
pub fn mutate(mutation: Option<Mutation>) {
    let number = mutation.map_or(0, |mutation| mutation as u8);
    ACTIVE.store(number, core::sync::atomic::Ordering::Relaxed);
}
