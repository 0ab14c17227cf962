-- Accounts in which holds may have expired, the most overdue first.
SELECT a.id
FROM {accounts} a
WHERE a.next_expiry <= coalesce($1, statement_timestamp()) AND a.id <> ALL ($2::text[])
ORDER BY a.next_expiry LIMIT 100
