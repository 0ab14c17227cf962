-- Makes the rows of accounts whose keys the application's own SQL made. Such accounts may already have holds and
-- entries.
INSERT INTO {accounts} (id, version, changed_at, period, created_at, spent, held, since, next_expiry, last_entry)
SELECT DISTINCT k.{k.account}::text COLLATE "C", $4::int8, $3::timestamptz, 'lifetime', $3, 0, 0, '-infinity'::timestamptz,
    (SELECT min(h.expires_at) FROM {holds} h WHERE h.account_id = k.{k.account}::text COLLATE "C" AND h.state = 'live'),
    (SELECT coalesce(max(e.seq), -9223372036854775808) FROM {entries} e
        WHERE e.account_id = k.{k.account}::text COLLATE "C")
FROM {keys} k WHERE k.{k.id} = ANY($2::int8[]) AND k.{k.account}::text = ANY($1::text[])
ORDER BY 1 ON CONFLICT (id) DO NOTHING
