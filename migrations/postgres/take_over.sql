-- What keys had spent in their windows becomes opening entries. The spending of a window that has ended is dropped.
INSERT INTO {entries} (id, seq, account_id, key_id, kind, amount, at, counts_at, labels)
SELECT gen_random_uuid(),
    (extract(epoch FROM {now}) * 1000000)::int8 * 256 + row_number() OVER (PARTITION BY {account} ORDER BY k.{k.id}) - 1,
    {account}, k.{k.id}, 'opening', least({used}::int8, 922337203685477) * 10000, {now}, {now}, {labels}
FROM {keys} k
WHERE {used} > 0 AND {has_account} AND ({key_period} = 'lifetime' OR coalesce({resets_at} > {now}, true));

-- A balance is what the key and its descendants had spent. Windows continue from the old start of the next window.
WITH RECURSIVE chain AS (
    SELECT e.id AS entry, e.amount, e.account_id, e.key_id, 0 AS depth FROM {entries} e WHERE e.kind = 'opening'
    UNION ALL
    SELECT c.entry, c.amount, c.account_id, p.{k.id}::int8, c.depth + 1 FROM chain c
    JOIN {keys} k ON k.{k.id} = c.key_id
    JOIN {keys} p ON p.{k.id} = k.{k.parent} AND p.{k.account}::text COLLATE "C" = c.account_id
    WHERE c.depth < 64
), spent AS (
    SELECT c.key_id, least(sum(c.amount), 9223372036854775807)::int8 AS amount
    FROM (SELECT DISTINCT entry, key_id, amount FROM chain) c GROUP BY c.key_id
)
INSERT INTO {balances} (key_id, account_id, period, spent, held, since, anchor)
SELECT k.{k.id}, {account}, {key_period}, coalesce(s.amount, 0), 0, {now}, {anchor}
FROM {keys} k LEFT JOIN spent s ON s.key_id = k.{k.id}
WHERE {has_account} AND (s.amount IS NOT NULL OR {anchor} IS NOT NULL);

INSERT INTO {accounts} (id, version, changed_at, period, created_at, spent, held, since, last_entry)
SELECT e.account_id, 1, {now}, 'lifetime', {now}, least(sum(e.amount), 9223372036854775807)::int8, 0, '-infinity',
    max(e.seq)
FROM {entries} e GROUP BY e.account_id;
