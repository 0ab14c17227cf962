-- Which policy is in force, for those that keep look-ups in memory: another number with every change of what a look-up
-- reads, but for figures of money, whoever makes it. Drawn by lot, so that a file restored from a backup never has the
-- number of another policy.
CREATE TABLE agentkey_policy (
    id      INTEGER PRIMARY KEY CHECK (id = 0),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO agentkey_policy (id, version) VALUES (0, random());

-- A new key changes nothing that was read before, unless it takes the place of another (INSERT OR REPLACE).
CREATE TRIGGER agentkey_policy_key_replaced BEFORE INSERT ON agent_keys
WHEN EXISTS (SELECT 1 FROM agent_keys WHERE id = NEW.id OR key_hash = NEW.key_hash)
BEGIN UPDATE agentkey_policy SET version = random(); END;

CREATE TRIGGER agentkey_policy_key_changed AFTER UPDATE OF id, account_id, parent_id, name, prefix, start, key_hash,
    scopes, limit_micros, period, created_at, expires_at, revoked_at ON agent_keys
BEGIN UPDATE agentkey_policy SET version = random(); END;

CREATE TRIGGER agentkey_policy_key_deleted AFTER DELETE ON agent_keys
BEGIN UPDATE agentkey_policy SET version = random(); END;

CREATE TRIGGER agentkey_policy_token_retired AFTER INSERT ON agentkey_retired_tokens
BEGIN UPDATE agentkey_policy SET version = random(); END;

CREATE TRIGGER agentkey_policy_token_changed AFTER UPDATE ON agentkey_retired_tokens
BEGIN UPDATE agentkey_policy SET version = random(); END;

CREATE TRIGGER agentkey_policy_token_deleted AFTER DELETE ON agentkey_retired_tokens
BEGIN UPDATE agentkey_policy SET version = random(); END;

-- Postings write the other columns only, and so fire nothing.
CREATE TRIGGER agentkey_policy_account_changed AFTER UPDATE OF id, limit_micros, period, created_at ON agentkey_accounts
BEGIN UPDATE agentkey_policy SET version = random(); END;

CREATE TRIGGER agentkey_policy_account_deleted AFTER DELETE ON agentkey_accounts
BEGIN UPDATE agentkey_policy SET version = random(); END;
