-- Which state the file is in, for those that keep what they read in memory: another number with every transaction of the
-- crate's own. Together with that of the policy it stands for everything that look-ups and postings read. Drawn by lot,
-- so that a file restored from a backup never has the number of another state.
CREATE TABLE agentkey_ledger (
    id      INTEGER PRIMARY KEY CHECK (id = 0),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO agentkey_ledger (id, version) VALUES (0, random());

-- Postings do not name this column: it is written where figures are corrected by hand, and when an account is made or changed.
CREATE TRIGGER agentkey_ledger_account_corrected AFTER UPDATE OF version ON agentkey_accounts
BEGIN UPDATE agentkey_ledger SET version = random(); END;

-- One that takes the place of another (INSERT OR REPLACE) fires no trigger of the other's.
CREATE TRIGGER agentkey_policy_account_replaced BEFORE INSERT ON agentkey_accounts
WHEN EXISTS (SELECT 1 FROM agentkey_accounts WHERE id = NEW.id)
BEGIN UPDATE agentkey_policy SET version = random(); UPDATE agentkey_ledger SET version = random(); END;
