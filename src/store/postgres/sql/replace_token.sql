UPDATE {keys} SET {k.hash} = $2, {k.prefix} = $3, {k.start} = $4 WHERE {k.id} = $1
