//! Whether the tables agree with each other and with what was acknowledged, by plain SQL.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

/// Every key with every member above it, itself included; the accounts are added by their names.
const MEMBERS: &str = "WITH RECURSIVE up (key_id, member) AS (SELECT id, id FROM agent_keys UNION ALL \
    SELECT u.key_id, k.parent_id FROM up u JOIN agent_keys k ON k.id = u.member WHERE k.parent_id IS NOT NULL), \
    members (key_id, member, limit_micros) AS ( \
    SELECT u.key_id, u.member::text, k.limit_micros FROM up u JOIN agent_keys k ON k.id = u.member UNION ALL \
    SELECT k.id, 'account ' || k.account_id, a.limit_micros FROM agent_keys k JOIN agentkey_accounts a ON a.id = k.account_id)";

/// Every member whose figures are not the sums of its entries and of its live holds. Budgets are for a lifetime.
const WRONG_FIGURES: &str = "figures (member, spent, held) AS ( \
    SELECT k.id::text, coalesce(b.spent, 0), coalesce(b.held, 0) FROM agent_keys k \
    LEFT JOIN agentkey_balances b ON b.key_id = k.id AND b.account_id = k.account_id UNION ALL \
    SELECT 'account ' || id, spent, held FROM agentkey_accounts), \
    entries AS (SELECT m.member, sum(e.amount) AS spent FROM members m JOIN agentkey_entries e USING (key_id) GROUP BY 1), \
    holds AS (SELECT m.member, sum(h.amount) AS held FROM members m JOIN agentkey_holds h USING (key_id) \
    WHERE h.state = 'live' GROUP BY 1) \
    SELECT format('%s has spent %s and holds %s: %s and %s by the rows', f.member, f.spent, f.held, e.spent, h.held) \
    FROM figures f LEFT JOIN entries e USING (member) LEFT JOIN holds h USING (member) \
    WHERE f.spent <> coalesce(e.spent, 0) OR f.held <> coalesce(h.held, 0)";

/// Every charge after which a member had spent more than its limit. No work costs more than was held for it.
const OVERSPENT: &str = "history AS (SELECT m.member, m.limit_micros, e.kind, e.id, sum(e.amount) OVER \
    (PARTITION BY m.member ORDER BY e.seq) AS spent FROM members m JOIN agentkey_entries e USING (key_id)) \
    SELECT format('%s had spent %s of %s with %s', member, spent, limit_micros, id) FROM history \
    WHERE kind <> 'refund' AND spent > limit_micros";

/// Every hold whose path is not the lineage of its key.
const WRONG_PATHS: &str = "paths AS (SELECT key_id, array_agg(member ORDER BY member) AS path FROM up GROUP BY 1) \
    SELECT format('hold %s has the path %s', h.id, h.path) FROM agentkey_holds h JOIN paths p USING (key_id) \
    WHERE (SELECT array_agg(k ORDER BY k) FROM unnest(h.path) k) <> p.path";

/// Panics where the tables do not agree with each other.
pub(crate) async fn figures(pool: &PgPool) {
    for check in [WRONG_FIGURES, OVERSPENT, WRONG_PATHS] {
        none(sqlx::query_scalar(AssertSqlSafe(format!("{MEMBERS}, {check}"))).fetch_all(pool).await);
    }
}

/// What every reference was charged: by how many charges that were not given back, and how much.
const CHARGES: &str = "SELECT reference, count(*) FILTER (WHERE amount <> 0) AS times, sum(amount)::int8 AS amount FROM \
    (SELECT e.reference, e.amount + coalesce((SELECT sum(r.amount) FROM agentkey_entries r WHERE r.refunds = e.id), 0) \
    AS amount FROM agentkey_entries e WHERE e.kind <> 'refund') e GROUP BY 1";

/// Panics where one of these references was not charged exactly once, with so many micro-units.
pub(crate) async fn charged(pool: &PgPool, acknowledged: &[(String, i64)]) {
    let charges: Vec<(Option<String>, i64, i64)> = sqlx::query_as(CHARGES).fetch_all(pool).await.unwrap();
    let charges: HashMap<_, _> =
        charges.into_iter().filter_map(|(reference, times, amount)| Some((reference?, (times, amount)))).collect();
    for (reference, amount) in acknowledged {
        let charged = charges.get(reference);
        assert_eq!(
            charged,
            Some(&(1, *amount)),
            "{reference}: how often and how much it was charged, and acknowledged"
        );
    }
}

/// Panics where one of these references was charged, and not given back.
pub(crate) async fn not_charged(pool: &PgPool, refused: &[String]) {
    let wrong = format!(
        "SELECT format('%s was refused and charged %s', reference, amount) FROM ({CHARGES}) c \
         WHERE reference = ANY($1) AND (times <> 0 OR amount <> 0)"
    );
    none(sqlx::query_scalar(AssertSqlSafe(wrong)).bind(refused).fetch_all(pool).await);
}

/// Panics where one of these entries is not there.
pub(crate) async fn entries(pool: &PgPool, ids: &[String]) {
    let missing = "SELECT w.id FROM unnest($1::text[]) w (id) \
        WHERE NOT EXISTS (SELECT FROM agentkey_entries e WHERE e.id = w.id::uuid)";
    none(sqlx::query_scalar(missing).bind(ids).fetch_all(pool).await);
}

fn none(found: sqlx::Result<Vec<String>>) {
    let found = found.unwrap();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
