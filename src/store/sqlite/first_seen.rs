//! Claims to make the key of a subject that was never seen before.

use jiff::Timestamp;
use rusqlite::params;

use super::connection::Open;
use super::error::Result;
use super::statement::run;
use super::transaction::{Written, in_write_transaction};
use super::validator::Cache;
use super::write::micros;
use crate::ledger::FirstSeenClaim;
use crate::model::clock::later;

/// Takes or renews a claim. Returns whether its owner has it now.
pub(super) fn claim(
    open: &mut Open,
    cache: &Cache,
    claim: &FirstSeenClaim,
    now: Timestamp,
) -> Result<bool> {
    const SQL: &str = include_str!("sql/claim_first_seen.sql");
    let until = later(now, claim.lease);
    let row =
        params![claim.subject.to_string(), claim.owner.as_bytes(), micros(until), micros(now)];
    in_write_transaction(open, cache, |connection, _| {
        Ok((run(connection, SQL, row)? > 0, Written::default()))
    })
}

/// Ends a claim, and those whose leases have ended.
pub(super) fn release(
    open: &mut Open,
    cache: &Cache,
    claim: &FirstSeenClaim,
    now: Timestamp,
) -> Result<()> {
    const SQL: &str =
        "DELETE FROM agentkey_first_seen WHERE key_hash = ?1 AND owner = ?2 OR until <= ?3";
    let row = params![claim.subject.to_string(), claim.owner.as_bytes(), micros(now)];
    in_write_transaction(open, cache, |connection, _| {
        Ok((run(connection, SQL, row).map(drop)?, Written::default()))
    })
}
