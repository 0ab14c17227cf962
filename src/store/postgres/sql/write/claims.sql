INSERT INTO {idempotency_keys} ({names}) SELECT {values} FROM {rows}
ON CONFLICT (key_id, idempotency_key) DO UPDATE SET {updates}
