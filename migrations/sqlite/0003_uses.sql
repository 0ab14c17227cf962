-- When keys were last used. Written now and then, for many keys at once.
CREATE TABLE agentkey_uses (
    key_id  INTEGER PRIMARY KEY,
    used_at INTEGER NOT NULL
) STRICT;
