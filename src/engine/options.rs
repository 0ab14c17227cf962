//! Options of the handle.

use std::time::Duration;

use crate::engine::batch::options::BatchOptions;
use crate::engine::open_charges::OpenChargeLimits;
use crate::model::TokenPrefix;

/// The options that the builder has set.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) prefix: TokenPrefix,
    pub(crate) hold_ttl: Duration,
    pub(crate) max_hold_age: Duration,
    pub(crate) sweep_interval: Duration,
    pub(crate) open_charges: OpenChargeLimits,
    pub(crate) batches: BatchOptions,
    pub(crate) shared_rate_limits: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: TokenPrefix::default(),
            hold_ttl: Duration::from_secs(60),
            max_hold_age: Duration::from_secs(15 * 60),
            sweep_interval: Duration::from_secs(30),
            open_charges: OpenChargeLimits::default(),
            batches: BatchOptions::default(),
            shared_rate_limits: false,
        }
    }
}
