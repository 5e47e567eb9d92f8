//! Ways to break the rules, each by one of them alone. The search has to find what goes wrong.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// N3: the lease is counted from the read's answer.
    LeaseFromAnswer,
    /// N3: the lease is read after the look-up.
    LeaseAfterLookUp,
    /// N3: the node's row is written after the read.
    RowAfterRead,
    /// N3: a read confers freshness without a row.
    LeaseWithoutRow,
    /// N4: Redis is trusted without a position.
    RedisWithoutPosition,
    /// N4: Redis is trusted without a tag.
    RedisWithoutTag,
    /// N4: Redis is trusted ahead of what is applied.
    RedisAhead,
    /// N4: Redis is trusted with what is older than the start.
    RedisBeforeStart,
    /// N4: changes after the record are not looked at.
    RedisDespiteChange,
    /// N5: checked in one step, and put in by another.
    CheckedThenInstalled,
    /// N1: two reads overlap.
    OverlappingReads,
    /// N1: a read that was given up is applied.
    GivenUpReadApplied,
    /// N1: `applied` is moved before the cache.
    AppliedBeforeCache,
    /// N6: a mutation is answered without a later read.
    AnsweredWithoutRead,
    /// N6: a mutation is answered after a read that was sent before its commit was known.
    AnsweredByEarlierRead,
    /// N6: no mark after an unknown outcome.
    NoMarkAfterUnknown,
    /// N7: a changed record is dropped without a mark.
    DroppedWithoutMark,
    /// N7: completeness is kept at eviction.
    CompleteAtEviction,
    /// N7: absence is final although the load is still under way.
    AbsentBeforeComplete,
    /// N8: what is not fresh is answered whatever it needs.
    StaleDespiteStrict,
    /// N9: serves before its row is there.
    ServesWithoutRow,
    /// N10: the tag at `applied` is not looked at.
    FenceWithoutTag,
    /// N10: a number behind `applied` is not looked at.
    FenceWithoutNumber,
    /// N10: what a fence drops stays where it is.
    FenceKeepsCache,
    /// Receipt: silent nodes are forgotten.
    ForgetsSilent,
    /// Receipt: a row states what the read after it will bring.
    RowStatesFuture,
    /// Receipt: a row counts by its number alone.
    RowCountsWithoutTag,
}

impl Broken {
    pub const ALL: [Self; 27] = [
        Self::LeaseFromAnswer,
        Self::LeaseAfterLookUp,
        Self::RowAfterRead,
        Self::LeaseWithoutRow,
        Self::RedisWithoutPosition,
        Self::RedisWithoutTag,
        Self::RedisAhead,
        Self::RedisBeforeStart,
        Self::RedisDespiteChange,
        Self::CheckedThenInstalled,
        Self::OverlappingReads,
        Self::GivenUpReadApplied,
        Self::AppliedBeforeCache,
        Self::AnsweredWithoutRead,
        Self::AnsweredByEarlierRead,
        Self::NoMarkAfterUnknown,
        Self::DroppedWithoutMark,
        Self::CompleteAtEviction,
        Self::AbsentBeforeComplete,
        Self::StaleDespiteStrict,
        Self::ServesWithoutRow,
        Self::FenceWithoutTag,
        Self::FenceWithoutNumber,
        Self::FenceKeepsCache,
        Self::ForgetsSilent,
        Self::RowStatesFuture,
        Self::RowCountsWithoutTag,
    ];

    /// The world that is small and shows it.
    pub const fn world(self) -> &'static str {
        match self {
            Self::LeaseFromAnswer
            | Self::LeaseAfterLookUp
            | Self::RowAfterRead
            | Self::AppliedBeforeCache
            | Self::DroppedWithoutMark
            | Self::AbsentBeforeComplete
            | Self::StaleDespiteStrict => "plain",
            Self::LeaseWithoutRow | Self::ServesWithoutRow => "deposed",
            Self::RedisWithoutPosition | Self::RedisDespiteChange | Self::CheckedThenInstalled => {
                "redis"
            }
            Self::RedisBeforeStart => "started",
            Self::GivenUpReadApplied => "given up",
            Self::OverlappingReads
            | Self::AnsweredWithoutRead
            | Self::AnsweredByEarlierRead
            | Self::NoMarkAfterUnknown => "own",
            Self::CompleteAtEviction => "evicted",
            Self::RedisWithoutTag | Self::RedisAhead => "back in time",
            Self::FenceWithoutTag | Self::FenceWithoutNumber | Self::FenceKeepsCache => "fenced",
            Self::ForgetsSilent | Self::RowStatesFuture => "receipts",
            Self::RowCountsWithoutTag => "receipts, back in time",
        }
    }
}
