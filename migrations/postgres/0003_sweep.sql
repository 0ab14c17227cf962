-- The sweep finds accounts by `next_expiry`, which few charges move, and no more by an index that every hold goes into.
CREATE INDEX ON {accounts} (next_expiry);
DROP INDEX IF EXISTS {schema}."agentkey_holds_expires_at_account_id_idx";

-- Made anew for every statement, and looked at for every row: only this crate writes here, and knows no other words.
ALTER TABLE {holds} DROP CONSTRAINT IF EXISTS "agentkey_holds_on_expiry_check", DROP CONSTRAINT IF EXISTS "agentkey_holds_state_check";
