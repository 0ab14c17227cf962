//! Holds, and the charge of an interrupted request.

use std::time::Duration;

use crate::ledger::OnExpiry;
use crate::model::Amount;

/// Money to set aside, and what becomes of it if it expires. An [`Amount`] is a hold with the
/// defaults.
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
    /// Returns a hold of so much.
    pub const fn new(amount: Amount) -> Self {
        Self { amount, ttl: None, on_expiry: OnExpiry::Release }
    }

    /// Sets how long it lives without a renewal. Default: that of the
    /// [builder](crate::Builder::hold_ttl), 60 s. At least 1 s.
    ///
    /// So long does a killed process keep the money set aside.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl.max(Duration::from_secs(1)));
        self
    }

    /// Sets what becomes of it when it expires. Default: it is released.
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

/// What a request is charged if it is cut short: by a disconnect, a panic, or an error of its body.
///
/// A timeout in the handler, or between the handler and the layer, is not seen as an interruption.
/// It drops the [`Charge`](crate::Charge) as a finished handler does. Put such layers outside
/// [`AgentKeyLayer`](crate::AgentKeyLayer), or add the cost before the work that may be cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnInterrupt {
    /// What was added.
    #[default]
    Added,
    /// The whole hold, or what was added if that is more: for work that cannot be metered.
    ///
    /// What a handle adds later counts against the hold. Later holds are not part of the
    /// interruption.
    WholeHold,
}
