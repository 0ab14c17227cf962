SELECT {of_entry} FROM {entries} e WHERE e.id = $1
