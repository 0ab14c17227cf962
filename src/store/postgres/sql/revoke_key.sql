UPDATE {keys} SET {k.revoked_at} = $2::timestamptz{zone.revoked_at} WHERE {k.id} = $1
