SELECT e.refunds, {of_entry} FROM {entries} e WHERE e.refunds = ANY ($1::uuid[])
