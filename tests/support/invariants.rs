//! What the tables and everything that was acknowledged must agree on. PostgreSQL and SQLite both understand the SQL.

use std::collections::{HashMap, HashSet};

/// Every key with every member above it, itself included; the accounts are added by their names.
pub(crate) const MEMBERS: &str = "WITH RECURSIVE up (key_id, member) AS (SELECT id, id FROM agent_keys UNION ALL \
    SELECT u.key_id, k.parent_id FROM up u JOIN agent_keys k ON k.id = u.member WHERE k.parent_id IS NOT NULL), \
    members (key_id, member, limit_micros) AS ( \
    SELECT u.key_id, CAST(u.member AS text), k.limit_micros FROM up u JOIN agent_keys k ON k.id = u.member UNION ALL \
    SELECT k.id, 'account ' || k.account_id, a.limit_micros FROM agent_keys k JOIN agentkey_accounts a ON a.id = k.account_id)";

/// Every member whose figures are not the sums of its entries and of its live holds. Every window has all entries in it:
/// budgets are for a lifetime, or for a period that began with the test.
pub(crate) const WRONG_FIGURES: &str = "figures (member, spent, held) AS ( \
    SELECT CAST(k.id AS text), coalesce(b.spent, 0), coalesce(b.held, 0) FROM agent_keys k \
    LEFT JOIN agentkey_balances b ON b.key_id = k.id UNION ALL \
    SELECT 'account ' || id, spent, held FROM agentkey_accounts UNION ALL \
    SELECT CAST(key_id AS text), CAST(more_spent -> 'day' ->> 0 AS bigint), held FROM agentkey_balances \
    WHERE more_spent -> 'day' IS NOT NULL UNION ALL \
    SELECT CAST(key_id AS text), CAST(more_spent -> 'month' ->> 0 AS bigint), held FROM agentkey_balances \
    WHERE more_spent -> 'month' IS NOT NULL UNION ALL \
    SELECT 'account ' || id, CAST(more_spent -> 'month' ->> 0 AS bigint), held FROM agentkey_accounts \
    WHERE more_spent IS NOT NULL), \
    entries AS (SELECT m.member, sum(e.amount) AS spent FROM members m JOIN agentkey_entries e USING (key_id) GROUP BY 1), \
    holds AS (SELECT m.member, sum(h.amount) AS held FROM members m JOIN agentkey_holds h USING (key_id) \
    WHERE h.state = 'live' GROUP BY 1) \
    SELECT format('%s has spent %s and holds %s: %s and %s by the rows', f.member, f.spent, f.held, e.spent, h.held) \
    FROM figures f LEFT JOIN entries e USING (member) LEFT JOIN holds h USING (member) \
    WHERE f.spent <> coalesce(e.spent, 0) OR f.held <> coalesce(h.held, 0)";

/// Every charge after which a member had spent more than its limit. No work costs more than was held for it, and limits are
/// only raised.
pub(crate) const OVERSPENT: &str = "history AS (SELECT m.member, m.limit_micros, e.kind, e.seq, sum(e.amount) OVER \
    (PARTITION BY m.member ORDER BY e.seq) AS spent FROM members m JOIN agentkey_entries e USING (key_id)) \
    SELECT format('%s had spent %s of %s with the entry at %s', member, spent, limit_micros, seq) FROM history \
    WHERE kind <> 'refund' AND spent > limit_micros";

/// What every reference was charged: by how many charges that were not given back, and how much.
pub(crate) const CHARGES: &str = "SELECT reference, count(*) FILTER (WHERE amount <> 0) AS times, CAST(sum(amount) AS bigint) \
    FROM (SELECT e.reference, e.amount + \
    coalesce((SELECT sum(r.amount) FROM agentkey_entries r WHERE r.refunds = e.id), 0) AS amount \
    FROM agentkey_entries e WHERE e.kind <> 'refund' AND e.reference IS NOT NULL) e GROUP BY 1";

/// The rows of [`CHARGES`].
pub(crate) type Charges = HashMap<String, (i64, i64)>;

/// Panics where one of these references was not charged exactly once, with so many micro-units.
pub(crate) fn charged(charges: &Charges, acknowledged: &[(String, i64)]) {
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
pub(crate) fn not_charged(charges: &Charges, refused: &[String]) {
    let wrong = refused.iter().filter_map(|reference| {
        let (_, amount) = charges.get(reference).filter(|charged| **charged != (0, 0))?;
        Some(format!("{reference} was refused and charged {amount}"))
    });
    none(&wrong.collect::<Vec<_>>());
}

/// Panics where one of these entries is not there. `there` has them as PostgreSQL writes an UUID.
pub(crate) fn entries(there: &HashSet<String>, named: &[String]) {
    none(&named.iter().filter(|id| !there.contains(*id)).collect::<Vec<_>>());
}

pub(crate) fn none(found: &[impl AsRef<str>]) {
    assert!(found.is_empty(), "{}", found.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\n"));
}
