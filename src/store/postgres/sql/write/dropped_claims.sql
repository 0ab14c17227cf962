DELETE FROM {idempotency_keys} c
USING (SELECT w.*, {=key_id} AS key_id FROM {rows} OFFSET 0) w
WHERE c.key_id = w.key_id AND c.idempotency_key = w.idempotency_key
    AND c.key_id = ANY ({$key_id}) AND c.idempotency_key = ANY ({$idempotency_key})
