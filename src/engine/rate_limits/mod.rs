//! Rate limits: what requests used of them in this process, and how many are in flight.

mod in_flight;
pub(crate) mod table;

use std::sync::Arc;

pub(crate) use in_flight::{InFlight, InFlightPermit};
use table::RateTable;

use crate::ledger::RateId;

/// The most keys and defaults whose use is kept at once. A full table takes about 18 MB.
const MAX_KEYS: usize = 917_504;

/// The rate limits of a handle.
#[derive(Debug)]
pub(crate) struct RateLimits {
    pub(crate) used: RateTable<RateId>,
    pub(crate) in_flight: Arc<InFlight>,
    /// Whether all processes on the database share the rates.
    pub(crate) is_shared: bool,
}

impl RateLimits {
    pub(crate) fn new(is_shared: bool) -> Self {
        let used = RateTable::new(if is_shared { 0 } else { MAX_KEYS });
        Self { used, in_flight: Arc::default(), is_shared }
    }
}
