//! What keys have used of their rate limits, for all instances on one database.

use std::collections::BTreeSet;

use sqlx::postgres::PgRow;

use super::connection::Query;
use super::decode::Cells;
use super::error::{Result, invalid_row};
use super::inner::Inner;
use super::types::Instant;
use crate::ledger::{Take, Taken};

/// The parameters of `agentkey_take_rates`, from `keys` to `shown`.
struct TakeParams {
    keys: Vec<i64>,
    /// The place of each limit's key in `keys`.
    places: Vec<i32>,
    intervals: Vec<i64>,
    capacities: Vec<i64>,
    sizes: Vec<i32>,
    requests: Vec<i32>,
}

impl TakeParams {
    fn new(takes: &[Take]) -> Self {
        let limits = || takes.iter().flat_map(|take| &take.limits);
        let keys: BTreeSet<_> = limits().map(|(key, _)| key.get()).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let place = |key: i64| keys.binary_search(&key).map_or(0, |at| small(at + 1));
        Self {
            places: limits().map(|(key, _)| place(key.get())).collect(),
            intervals: limits().map(|(_, quota)| quota.interval).collect(),
            capacities: limits().map(|(_, quota)| quota.capacity).collect(),
            sizes: takes.iter().map(|take| small(take.limits.len())).collect(),
            requests: takes.iter().map(|take| small(take.requests as usize)).collect(),
            keys,
        }
    }
}

/// Batches are far smaller than this.
fn small(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl Inner {
    /// Adds the parameters of what is to be taken to a query.
    pub(super) fn bind_takes<'q>(&self, query: Query<'q>, takes: &[Take]) -> Query<'q> {
        let TakeParams { keys, places, intervals, capacities, sizes, requests } =
            TakeParams::new(takes);
        let query = query.bind(keys).bind(places).bind(intervals).bind(capacities);
        query.bind(sizes).bind(requests).bind(self.clock.set().map(Instant))
    }

    /// Takes requests from rate limits, without a look-up.
    pub(super) async fn take(&self, takes: &[Take]) -> Result<Vec<Taken>> {
        let query = self.bind_takes(self.sql.take_rates.query(), takes);
        let rows =
            self.connections.lookup(async |connection| connection.fetch(query).await).await?;
        let row = rows.first().ok_or_else(|| invalid_row("nothing was taken"))?;
        taken(takes, row)
    }
}

/// Decodes what was taken, from the row that ends with `granted`, `used`, `taken_at` and the server's time.
pub(super) fn taken(takes: &[Take], row: &PgRow) -> Result<Vec<Taken>> {
    let mut cells = Cells::last(row, 4);
    let granted: Vec<i32> = cells.read()?;
    let used: Vec<i64> = cells.read()?;
    let at: i64 = cells.read()?;
    let mut places = TakeParams::new(takes).places.into_iter();
    let taken = takes.iter().zip(granted).map(|(take, granted)| {
        let of_take = places.by_ref().take(take.limits.len());
        let used = of_take.map(|place| {
            let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
            used.get(place).copied().ok_or_else(|| invalid_row("a limit has no use"))
        });
        Ok(Taken { granted: granted.unsigned_abs(), used: used.collect::<Result<_>>()?, at })
    });
    taken.collect()
}
