-- Counts refusals, each with those that are folded into the same row. The accounts are locked before a position is drawn,
-- as for every other event, so that no event appears before a page that was read.
WITH locked AS MATERIALIZED (
    SELECT a.id FROM {accounts} a WHERE a.id = ANY ($2::text[]) ORDER BY a.id FOR NO KEY UPDATE
)
INSERT INTO {events} AS e (at, account_id, key_id, key_name, lineage, delegated_by, kind, actor, request_id, route, reason, count, detail)
SELECT w.at, w.account_id, w.key_id, w.key_name, w.lineage::int8[], w.delegated_by, w.kind, w.actor::jsonb, w.request_id, w.route,
    w.reason, w.count, w.detail::jsonb
FROM unnest($1::timestamptz[], $2::text[], $3::int8[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::int8[], $13::text[])
    w (at, account_id, key_id, key_name, lineage, delegated_by, kind, actor, request_id, route, reason, count, detail)
WHERE (SELECT count(*) FROM locked) >= 0
ORDER BY w.key_id, w.at, w.reason, w.route
ON CONFLICT (key_id, at, reason, coalesce(route, '')) WHERE reason IS NOT NULL DO UPDATE SET count = e.count + excluded.count
