-- The table of Better Auth's API key plugin on PostgreSQL, without its rate limits. Names are those of
-- better-auth/better-auth@451aa4b6e5, packages/api-key/src/schema.ts, and types those of
-- packages/better-auth/src/db/get-migration.ts. The rows are ours.

CREATE TABLE "apikey" (
    "id" text PRIMARY KEY,
    "name" text,
    "start" text,
    "referenceId" text NOT NULL,
    "prefix" text,
    "key" text NOT NULL,
    "refillInterval" integer,
    "refillAmount" integer,
    "lastRefillAt" timestamptz,
    "enabled" boolean,
    "remaining" integer,
    "expiresAt" timestamptz,
    "createdAt" timestamptz NOT NULL,
    "updatedAt" timestamptz NOT NULL,
    "permissions" text,
    "metadata" text
);
CREATE INDEX ON "apikey" ("key");

INSERT INTO "apikey" (id, name, start, "referenceId", prefix, key, "refillInterval", "refillAmount", "lastRefillAt", enabled,
    remaining, "expiresAt", "createdAt", "updatedAt", permissions, metadata)
SELECT 'id-' || name, name, left(secret, 6), owner, 'app_',
    rtrim(translate(encode(sha256(secret::bytea), 'base64'), '+/', '-_'), '='),
    every, amount, refilled::timestamptz, enabled, remaining, expires::timestamptz, '2026-11-20', '2026-11-20', permissions, metadata
FROM (VALUES
    ('app_QwErTyUiOpAsDfGhJkLzXcVbNm0001', 'plain', 'user-1', NULL, NULL, NULL, true, NULL, NULL, '{"files":["read","write"],"chat":["send"]}', '{"plan":"pro"}'),
    ('app_QwErTyUiOpAsDfGhJkLzXcVbNm0002', 'counted', 'user-1', NULL, NULL, NULL, NULL, 40, '2027-01-01', NULL, 'null'),
    ('app_QwErTyUiOpAsDfGhJkLzXcVbNm0003', 'refilled', 'user-2', 86400000, 100, '2026-11-26 06:00Z', true, 25, NULL, '{}', '"{\"plan\":\"free\"}"'),
    ('app_QwErTyUiOpAsDfGhJkLzXcVbNm0004', 'disabled', 'user-2', NULL, NULL, NULL, false, NULL, NULL, NULL, NULL),
    ('app_QwErTyUiOpAsDfGhJkLzXcVbNm0005', 'each hour', 'user-2', 3600000, 100, NULL, true, 25, NULL, NULL, NULL)
) v (secret, name, owner, every, amount, refilled, enabled, remaining, expires, permissions, metadata);
