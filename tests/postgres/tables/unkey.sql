-- Tables of a self-hosted Unkey, copied from MySQL to PostgreSQL, with the columns that say something of a key. Names are
-- those of unkeyed/unkey@fc99b6b925, pkg/mysql/schema/{keys,identities,permissions,keys_permissions,keys_roles,
-- roles_permissions}.sql, and types those that PostgreSQL has for them. The rows are ours.

CREATE TABLE keys (
    id varchar(48) NOT NULL UNIQUE,
    hash varchar(256) NOT NULL UNIQUE,
    start varchar(256) NOT NULL,
    workspace_id varchar(48) NOT NULL,
    for_workspace_id varchar(48),
    name varchar(256),
    identity_id varchar(48),
    meta text,
    expires timestamp(3),
    created_at_m bigint NOT NULL DEFAULT 0,
    deleted_at_m bigint,
    refill_day smallint,
    refill_amount bigint,
    last_refill_at timestamp(3),
    enabled boolean NOT NULL DEFAULT true,
    remaining_requests bigint,
    pending_migration_id varchar(48)
);
CREATE TABLE identities (
    id varchar(48) NOT NULL UNIQUE,
    external_id varchar(256) NOT NULL
);
CREATE TABLE permissions (
    id varchar(48) NOT NULL UNIQUE,
    slug varchar(128) NOT NULL
);
CREATE TABLE keys_permissions (
    key_id varchar(48) NOT NULL,
    permission_id varchar(48) NOT NULL
);
CREATE TABLE keys_roles (
    key_id varchar(48) NOT NULL,
    role_id varchar(48) NOT NULL
);
CREATE TABLE roles_permissions (
    role_id varchar(48) NOT NULL,
    permission_id varchar(48) NOT NULL
);

INSERT INTO identities (id, external_id) VALUES ('id_1', 'user-1');
INSERT INTO permissions (id, slug) VALUES ('perm_1', 'documents.read'), ('perm_2', 'settings.*');
INSERT INTO keys_permissions (key_id, permission_id) VALUES ('key_plain', 'perm_1');
INSERT INTO keys_roles (key_id, role_id) VALUES ('key_plain', 'role_1');
INSERT INTO roles_permissions (role_id, permission_id) VALUES ('role_1', 'perm_2');

INSERT INTO keys (id, hash, start, workspace_id, name, identity_id, meta, expires, deleted_at_m, refill_day,
    refill_amount, last_refill_at, enabled, remaining_requests, pending_migration_id)
SELECT 'key_' || name, encode(sha256(secret::bytea), 'base64'), left(secret, 7), 'ws_1', name, owner, meta,
    expires::timestamp, deleted, day, amount, refilled::timestamp, enabled, remaining, migration
FROM (VALUES
    ('uk_3ZyTqK8mWbRxNvCdLpHs0001', 'plain', 'id_1', '{"plan":"pro"}', '2027-01-01', NULL, NULL, NULL, NULL, true, NULL, NULL),
    ('uk_3ZyTqK8mWbRxNvCdLpHs0002', 'counted', NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, 40, NULL),
    ('uk_3ZyTqK8mWbRxNvCdLpHs0003', 'daily', 'id_1', NULL, NULL, NULL, NULL, 100, '2026-11-26', true, 25, NULL),
    ('uk_3ZyTqK8mWbRxNvCdLpHs0004', 'monthly', 'id_1', NULL, NULL, NULL, 15, 1000, '2026-11-15', true, 900, NULL),
    ('uk_3ZyTqK8mWbRxNvCdLpHs0005', 'disabled', 'id_1', NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
    ('uk_3ZyTqK8mWbRxNvCdLpHs0006', 'deleted', 'id_1', NULL, NULL, 1, NULL, NULL, NULL, true, NULL, NULL),
    ('uk_3ZyTqK8mWbRxNvCdLpHs0007', 'pending', 'id_1', NULL, NULL, NULL, NULL, NULL, NULL, true, NULL, 'mig_1')
) v (secret, name, owner, meta, expires, deleted, day, amount, refilled, enabled, remaining, migration);
