-- The incarnation of the server, its policy version, and the number of changes that it sums up.
SELECT {server_incarnation}, (sum(p.step) % 9223372036854775807)::int8, count(*), {server_time}
FROM {policy_changes} p
WHERE {writable}
