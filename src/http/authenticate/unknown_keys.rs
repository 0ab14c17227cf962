//! A limit of requests with unknown tokens, for each client, before their look-up.

use crate::engine::agent_keys::Inner;
use crate::engine::rate_limits::table::RateTable;
use crate::http::client::Client;
use crate::ledger::{Quota, rate_time};
use crate::model::{RateLimit, Refusal};

/// The most clients whose requests are kept count of at once.
const MAX_CLIENTS: usize = 57_344;

/// Counts the look-ups of each client, and takes those back that found a key.
///
/// So look-ups that run at once cannot cross the limit together.
#[derive(Debug)]
pub(super) struct UnknownKeys {
    quota: Quota,
    clients: RateTable<Client>,
}

impl UnknownKeys {
    /// Returns the counts of a limit, if it has a rate.
    pub(super) fn new(limit: RateLimit) -> Option<Self> {
        Some(Self { quota: Quota::of(&limit)?, clients: RateTable::new(MAX_CLIENTS) })
    }

    /// Counts a look-up, or refuses it.
    pub(super) fn count(&self, client: Client, keys: &Inner) -> Result<(), Refusal> {
        let at = rate_time(keys.now());
        let taken = self.clients.take(&[(client, self.quota)], at);
        if taken.granted > 0 {
            return Ok(());
        }
        let used = taken.used.first().copied().unwrap_or_default();
        let nanos = self.quota.next_in(used, at).unwrap_or(self.quota.interval);
        let retry_after = std::time::Duration::from_nanos(nanos.unsigned_abs());
        Err(Refusal::RateLimited { retry_after })
    }

    /// Takes a look-up back that found a key, or that failed.
    pub(super) fn take_back(&self, client: Client) {
        self.clients.give_back(&client, self.quota);
    }
}
