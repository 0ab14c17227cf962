SELECT {sum} FROM {entries} e WHERE e.account_id = $1 AND e.seq >= $2 AND e.counts_at >= $3
