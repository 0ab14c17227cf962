//! The state that the parts of the store share.

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
    /// Accounts whose last posting failed.
    pub(super) quarantine: Mutex<HashSet<AccountId>>,
    /// Accounts that the last sweep could not bring up to date, if it did not reach all accounts.
    pub(super) skipped_by_sweep: Mutex<Vec<AccountId>>,
    pub(super) sql: StoreSql,
    pub(super) write_sql: WriteSql,
    pub(super) schema: Schema,
}

impl Inner {
    pub(super) fn new(connections: Connections, schema: Schema) -> Self {
        Self {
            clock: connections.clock().clone(),
            connections,
            cache: Cache::default(),
            backoff: ConflictBackoff::default(),
            quarantine: Mutex::default(),
            skipped_by_sweep: Mutex::default(),
            sql: StoreSql::new(&schema),
            write_sql: WriteSql::default(),
            schema,
        }
    }
}
