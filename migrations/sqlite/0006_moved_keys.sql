-- A balance counts what its key spent and holds in the account that it is of. Where the host's own SQL moves the key, or
-- puts one in the place of another, the balance says so by a period that is none, and is counted anew when the key is
-- next looked at. Money that comes and goes in the account that the key was of changes nothing here.
CREATE TRIGGER agentkey_balance_key_moved AFTER UPDATE OF id, account_id ON agent_keys
WHEN OLD.id IS NOT NEW.id OR OLD.account_id IS NOT NEW.account_id
BEGIN
    INSERT INTO agentkey_balances (key_id, period, spent, held, since) VALUES (NEW.id, '', 0, 0, 0)
    ON CONFLICT (key_id) DO UPDATE SET period = '';
END;

CREATE TRIGGER agentkey_balance_key_replaced AFTER INSERT ON agent_keys
BEGIN UPDATE agentkey_balances SET period = '' WHERE key_id = NEW.id; END;

-- Of keys that were moved before: those that hold more or less than their live holds, and those that were charged in
-- another account, with their ancestors.
WITH live AS (
    SELECT p.value AS key_id, h.account_id, total(h.amount) AS held FROM agentkey_holds h CROSS JOIN json_each(h.path) p
    WHERE h.state = 'live' AND json_valid(h.path) GROUP BY p.value, h.account_id)
UPDATE agentkey_balances SET period = ''
WHERE EXISTS (SELECT 1 FROM agent_keys k LEFT JOIN live l ON l.key_id = k.id AND l.account_id = k.account_id
    WHERE k.id = agentkey_balances.key_id AND agentkey_balances.held <> coalesce(l.held, 0))
OR key_id IN (WITH RECURSIVE moved (id) AS (
    SELECT k.id FROM agentkey_entries e CROSS JOIN agent_keys k ON k.id = e.key_id WHERE k.account_id <> e.account_id
    UNION SELECT k.parent_id FROM moved m CROSS JOIN agent_keys k ON k.id = m.id WHERE k.parent_id IS NOT NULL)
    SELECT id FROM moved);
UPDATE agentkey_ledger SET version = random();
