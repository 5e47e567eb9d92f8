//! The calls that nodes make of the store, of Redis and of the clock, counted by node, so that the n-th can be disturbed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::sleep;

use crate::scripts::BOUND;

/// How late an answer comes that comes late.
pub(crate) const LATE: Duration = Duration::from_secs(5);
/// What a machine's clock may run wrong, in millionths: within a bound it can come to this much behind.
const CLOCK_RATE_ERROR_PPM: u32 = 200;
/// For how long a machine slept that sleeps, and that sleeps long.
const NAP: Duration = Duration::from_secs(2);
const SLEEP: Duration = Duration::from_hours(1);

/// Of whom a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whom {
    Store,
    Redis,
    Clock,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error: nothing was done.
    Fails,
    /// It was done, and the answer is lost.
    AnswerLost,
    /// Nothing is done, and no answer comes.
    Hangs,
    /// It is done, and no answer comes.
    HangsDone,
    /// It is done, and answered, five seconds later.
    Late,
    /// It is done at once, and answered five seconds later, by what was so then.
    LateAnswer,
    /// It is done at once, and answered just before nobody waits for it any more.
    Slow,
    /// The clock tells the same time for as much as it may run wrong within a bound.
    StandsStill,
    /// The clock goes back by as much.
    GoesBack,
    /// The clock goes on after the machine slept for longer than the bound, and than anything.
    Naps,
    Sleeps,
}

/// What is disturbed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disturbance {
    pub(crate) node: usize,
    pub(crate) whom: Whom,
    /// The first call is 1.
    pub(crate) nth: u64,
    pub(crate) fault: Fault,
}

/// The calls of one run.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) are_counted: bool,
    pub(crate) made: BTreeMap<(usize, Whom), u64>,
    pub(crate) planned: Option<Disturbance>,
    pub(crate) struck: Option<Struck>,
}

/// The call that was disturbed.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    pub(crate) at: Duration,
    pub(crate) what: String,
}

/// A call, with what becomes of it.
#[must_use]
pub(crate) struct Call {
    fault: Option<Fault>,
    /// How long it is waited for.
    waits: Duration,
}

/// It comes to nothing.
pub(crate) struct Lost;

impl Calls {
    /// One more; what becomes of it, if it is the one.
    pub(crate) fn count(
        &mut self,
        node: usize,
        whom: Whom,
        what: &str,
        now: Duration,
    ) -> Option<Fault> {
        if !self.are_counted {
            return None;
        }
        let made = self.made.entry((node, whom)).or_default();
        *made += 1;
        let is_it = |it: &Disturbance| (it.node, it.whom, it.nth) == (node, whom, *made);
        let Disturbance { fault, .. } = self.planned.filter(is_it)?;
        self.struck = Some(Struck { at: now, what: what.to_owned() });
        Some(fault)
    }

    /// What this node's clock counts when so much time has passed.
    pub(crate) fn clock(&self, node: usize, passed: Duration) -> Duration {
        let (Some(planned), Some(Struck { at, .. })) = (self.planned, &self.struck) else {
            return passed;
        };
        if planned.node != node {
            return passed;
        }
        let behind = passed.saturating_sub(lost_in_a_bound());
        match planned.fault {
            Fault::StandsStill => behind.max(*at),
            Fault::GoesBack => behind,
            Fault::Naps => passed + NAP,
            Fault::Sleeps => passed + SLEEP,
            _ => passed,
        }
    }
}

impl Call {
    pub(crate) const fn new(fault: Option<Fault>, waits: Duration) -> Self {
        Self { fault, waits }
    }

    /// On its way there.
    pub(crate) async fn before(&self) -> Result<(), Lost> {
        match self.fault {
            Some(Fault::Fails) => return Err(Lost),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::Late) => sleep(LATE).await,
            _ => {}
        }
        Ok(())
    }

    /// On the way back.
    pub(crate) async fn after(&self) -> Result<(), Lost> {
        match self.fault {
            Some(Fault::AnswerLost) => return Err(Lost),
            Some(Fault::HangsDone) => std::future::pending().await,
            Some(Fault::LateAnswer) => sleep(LATE).await,
            Some(Fault::Slow) => sleep(Fault::Slow.lasts(self.waits)).await,
            _ => {}
        }
        Ok(())
    }
}

impl Fault {
    const ALL: [(Self, &str); 11] = [
        (Self::Fails, "fails"),
        (Self::AnswerLost, "answer-lost"),
        (Self::Hangs, "hangs"),
        (Self::HangsDone, "hangs-done"),
        (Self::Late, "late"),
        (Self::LateAnswer, "late-answer"),
        (Self::Slow, "slow"),
        (Self::StandsStill, "stands-still"),
        (Self::GoesBack, "goes-back"),
        (Self::Naps, "naps"),
        (Self::Sleeps, "sleeps"),
    ];

    /// All that can become of a call of this kind.
    pub(crate) const fn of(whom: Whom) -> &'static [Self] {
        match whom {
            Whom::Store | Whom::Redis => &[
                Self::Fails,
                Self::AnswerLost,
                Self::Hangs,
                Self::HangsDone,
                Self::Late,
                Self::LateAnswer,
                Self::Slow,
            ],
            Whom::Clock => &[Self::StandsStill, Self::GoesBack, Self::Naps, Self::Sleeps],
        }
    }

    /// For how long there is no answer, for whoever waits so long.
    pub(crate) fn lasts(self, waits: Duration) -> Duration {
        match self {
            Self::Hangs | Self::HangsDone => waits,
            Self::Late | Self::LateAnswer => waits.min(LATE),
            Self::Slow => waits * 3 / 4,
            _ => Duration::ZERO,
        }
    }

    /// Whether answers cannot be expected of a node after it.
    pub(crate) const fn is_trouble(self, whom: Whom) -> bool {
        match whom {
            Whom::Store => true,
            // It is never needed.
            Whom::Redis => false,
            // What a clock may do without a reason to doubt it.
            Whom::Clock => !matches!(self, Self::StandsStill | Self::GoesBack),
        }
    }
}

impl Whom {
    pub(crate) const ALL: [(Self, &str); 3] =
        [(Self::Store, "store"), (Self::Redis, "redis"), (Self::Clock, "clock")];
}

impl Disturbance {
    /// The reverse of its `Display`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next();
        let (node, whom, nth, fault) = (next()?, next()?, next()?, next()?);
        Some(Self {
            node: node.parse().ok()?,
            whom: Whom::ALL.into_iter().find(|(_, name)| *name == whom)?.0,
            nth: nth.parse().ok()?,
            fault: Fault::ALL.into_iter().find(|(_, name)| *name == fault)?.0,
        })
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whom = Whom::ALL.into_iter().find(|(it, _)| *it == self.whom);
        let fault = Fault::ALL.into_iter().find(|(it, _)| *it == self.fault);
        let (whom, fault) = (whom.map_or("", |it| it.1), fault.map_or("", |it| it.1));
        write!(f, "{}:{whom}:{}:{fault}", self.node, self.nth)
    }
}

fn lost_in_a_bound() -> Duration {
    BOUND * CLOCK_RATE_ERROR_PPM / 1_000_000
}
