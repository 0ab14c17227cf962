//! What the parts of the store share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::backoff::ConflictBackoff;
use super::clock::ServerClock;
use super::connection::Connections;
use super::schema::Schema;
use super::sql::StoreSql;
use super::validator::Cache;
use super::write::WriteSql;
use crate::model::AccountId;

pub(super) struct Inner {
    pub(super) connections: Connections,
    pub(super) clock: Arc<ServerClock>,
    pub(super) cache: Cache,
    pub(super) backoff: ConflictBackoff,
    /// Accounts of which postings failed, and were not posted since.
    pub(super) quarantine: Mutex<HashSet<AccountId>>,
    /// Accounts that the last sweep could not bring up to date, where it did not come to all.
    pub(super) passed_over: Mutex<Vec<AccountId>>,
    pub(super) sql: StoreSql,
    pub(super) writes: WriteSql,
    pub(super) layout: Schema,
}

impl Inner {
    pub(super) fn new(connections: Connections, layout: Schema) -> Self {
        Self {
            clock: connections.clock().clone(),
            connections,
            cache: Cache::default(),
            backoff: ConflictBackoff::default(),
            quarantine: Mutex::default(),
            passed_over: Mutex::default(),
            sql: StoreSql::new(&layout),
            writes: WriteSql::default(),
            layout,
        }
    }
}
