//! Holds, and what an interrupted request is charged.

use std::time::Duration;

use crate::ledger::OnExpiry;
use crate::model::Amount;

/// Money to set aside, and what becomes of it if nobody comes back for it. An [`Amount`] is a hold with the defaults.
///
/// ```
/// use agentkey::{Amount, Hold};
/// use agentkey::http::OnExpiry;
///
/// let hold = Hold::new(Amount::cents(5)).on_expiry(OnExpiry::Charge);
/// # let _ = hold;
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a `Hold` is set aside by `Charge::hold`"]
pub struct Hold {
    pub(super) amount: Amount,
    pub(super) ttl: Option<Duration>,
    pub(super) on_expiry: OnExpiry,
}

impl Hold {
    /// A hold of so much.
    pub const fn new(amount: Amount) -> Self {
        Self { amount, ttl: None, on_expiry: OnExpiry::Release }
    }

    /// How long it lives without being renewed: what a killed process keeps others from spending. Default: that of
    /// the [builder](crate::Builder::hold_ttl), 60 s. At least 1 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl.max(Duration::from_secs(1)));
        self
    }

    /// What becomes of it when it runs out. Default: it is released.
    pub const fn on_expiry(mut self, on_expiry: OnExpiry) -> Self {
        self.on_expiry = on_expiry;
        self
    }
}

impl From<Amount> for Hold {
    fn from(amount: Amount) -> Self {
        Self::new(amount)
    }
}

/// What a request is charged that was cut short: by a disconnect, a panic, or an error of its body.
///
/// What the layer does not see is no interruption: a timeout between it and the handler, or in the handler, drops the
/// [`Charge`] as a handler does that is done. Put such layers outside [`AgentKeyLayer`](crate::AgentKeyLayer), or add
/// what is to be charged before the work that may be cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnInterrupt {
    /// What was added.
    #[default]
    Added,
    /// The whole hold, or what was added where that is more: for work that cannot be metered. What a handle adds later
    /// counts against it, and what it holds later is not interrupted any more.
    WholeHold,
}
