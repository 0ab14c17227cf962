UPDATE {keys} SET {k.revoked_at} = $2::timestamptz{zone.revoked_at}, {k.revoked_reason} = $3 WHERE {k.id} = $1
