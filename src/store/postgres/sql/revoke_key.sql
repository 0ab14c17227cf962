-- Without a reason, the column stays as it is: the application's own may be NOT NULL.
UPDATE {keys} SET {k.revoked_at} = $2::timestamptz{zone.revoked_at}, {k.revoked_reason} = coalesce($3, {k.revoked_reason}) WHERE {k.id} = $1
