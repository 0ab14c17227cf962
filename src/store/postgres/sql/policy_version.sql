-- The incarnation of the server with the version of its policy, and of how many changes that is the sum.
SELECT {run}, (sum(p.step) % 9223372036854775807)::int8, count(*), {server_time}
FROM {policy_changes} p
WHERE {writable}
