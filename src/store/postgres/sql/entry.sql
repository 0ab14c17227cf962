SELECT {of_entry}, {delegator} FROM {entries} e WHERE e.id = $1
