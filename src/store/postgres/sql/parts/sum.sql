-- A sum in two halves, which leave room for any number of entries.
coalesce(sum(e.amount >> 32), 0)::int8, coalesce(sum(e.amount & 4294967295), 0)::int8
