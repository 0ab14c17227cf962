//! Whether the tables agree with each other and with what was acknowledged, by plain SQL.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use crate::invariants::{self, CHARGES, Charges, MEMBERS, OVERSPENT, WRONG_FIGURES};

/// Every hold whose path is not the lineage of its key.
const WRONG_PATHS: &str = "paths AS (SELECT key_id, array_agg(member ORDER BY member) AS path FROM up GROUP BY 1) \
    SELECT format('hold %s has the path %s', h.id, h.path) FROM agentkey_holds h JOIN paths p USING (key_id) \
    WHERE (SELECT array_agg(k ORDER BY k) FROM unnest(h.path) k) <> p.path";

/// Every balance that is of another account than its key.
const WRONG_ACCOUNTS: &str = "others AS (SELECT b.key_id, b.account_id FROM agentkey_balances b \
    JOIN agent_keys k ON k.id = b.key_id WHERE b.account_id <> k.account_id) \
    SELECT format('the balance of %s is of %s', key_id, account_id) FROM others";

/// Panics where the tables do not agree with each other.
pub(crate) async fn figures(pool: &PgPool) {
    for check in [WRONG_FIGURES, OVERSPENT, WRONG_PATHS, WRONG_ACCOUNTS] {
        let sql = AssertSqlSafe(format!("{MEMBERS}, {check}"));
        let found: Vec<String> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
        invariants::none(&found);
    }
}

/// Panics where one of these references was not charged exactly once, with so many micro-units.
pub(crate) async fn charged(pool: &PgPool, acknowledged: &[(String, i64)]) {
    invariants::charged(&charges(pool).await, acknowledged);
}

/// Panics where one of these references was charged, and not given back.
pub(crate) async fn not_charged(pool: &PgPool, refused: &[String]) {
    invariants::not_charged(&charges(pool).await, refused);
}

/// Panics where one of these entries is not there.
pub(crate) async fn entries(pool: &PgPool, ids: &[String]) {
    let there =
        sqlx::query_scalar("SELECT id::text FROM agentkey_entries").fetch_all(pool).await.unwrap();
    invariants::entries(&there.into_iter().collect(), ids);
}

async fn charges(pool: &PgPool) -> Charges {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(CHARGES).fetch_all(pool).await.unwrap();
    rows.into_iter().map(|(reference, times, amount)| (reference, (times, amount))).collect()
}
