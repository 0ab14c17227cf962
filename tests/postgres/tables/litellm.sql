-- Tables of LiteLLM's proxy on PostgreSQL, with the columns that say something of a key. Names, types and defaults are
-- those of BerriAI/litellm@01f0e6ce99,
-- litellm-proxy-extras/litellm_proxy_extras/migrations/20250326162113_baseline/migration.sql. The rows are ours.

CREATE TABLE "LiteLLM_BudgetTable" (
    "budget_id" text PRIMARY KEY,
    "max_budget" double precision,
    "budget_duration" text,
    "budget_reset_at" timestamp(3),
    "created_by" text NOT NULL,
    "updated_by" text NOT NULL
);

CREATE TABLE "LiteLLM_TeamTable" (
    "team_id" text PRIMARY KEY,
    "max_budget" double precision,
    "spend" double precision NOT NULL DEFAULT 0.0,
    "models" text[],
    "budget_duration" text,
    "budget_reset_at" timestamp(3),
    "blocked" boolean NOT NULL DEFAULT false
);

CREATE TABLE "LiteLLM_VerificationToken" (
    "token" text PRIMARY KEY,
    "key_name" text,
    "key_alias" text,
    "spend" double precision NOT NULL DEFAULT 0.0,
    "expires" timestamp(3),
    "models" text[],
    "user_id" text,
    "team_id" text,
    "metadata" jsonb NOT NULL DEFAULT '{}',
    "blocked" boolean,
    "max_budget" double precision,
    "budget_duration" text,
    "budget_reset_at" timestamp(3),
    "budget_id" text REFERENCES "LiteLLM_BudgetTable",
    "created_at" timestamp(3) DEFAULT CURRENT_TIMESTAMP
);

INSERT INTO "LiteLLM_BudgetTable" (budget_id, max_budget, budget_duration, budget_reset_at, created_by, updated_by)
VALUES ('daily', 2.5, '1d', '2026-11-27', 'admin', 'admin');

INSERT INTO "LiteLLM_TeamTable" (team_id, models, blocked)
VALUES ('search', '{gpt-4o,gpt-4o-mini}', false), ('blocked', '{}', true), ('open', '{}', false);

INSERT INTO "LiteLLM_VerificationToken"
    (token, key_name, key_alias, spend, expires, models, user_id, team_id, metadata, blocked, max_budget, budget_duration,
    budget_reset_at, budget_id)
SELECT encode(sha256(secret::bytea), 'hex'), 'sk-...' || right(secret, 4), alias, spend, expires::timestamp, models::text[],
    user_id, team_id, metadata::jsonb, blocked, max_budget, duration, reset::timestamp, budget_id
FROM (VALUES
    ('sk-litellm-monthly-0001', 'monthly', 0.30000000000000004, '2027-01-01', '{gpt-4o}', 'user-1', NULL, '{"team": "a"}', NULL, 25, '30d', '2026-12-01', NULL),
    ('sk-litellm-lifetime-0002', 'lifetime', 1e-05, NULL, '{}', 'user-1', NULL, '{}', false, 0.1, NULL, NULL, NULL),
    ('sk-litellm-team-0003', 'of a team', 7, NULL, '{all-team-models}', 'user-2', 'search', '{}', NULL, NULL, NULL, NULL, NULL),
    ('sk-litellm-budget-0004', 'with a budget of its own table', 2.5, NULL, '{gpt-4o,claude}', NULL, 'search', '{}', NULL, NULL, NULL, NULL, 'daily'),
    ('sk-litellm-blocked-0005', 'blocked', 0, NULL, '{}', 'user-3', NULL, '{}', true, NULL, NULL, NULL, NULL),
    ('sk-litellm-blockedteam-0006', 'of a blocked team', 0, NULL, '{}', 'user-3', 'blocked', '{}', NULL, NULL, NULL, NULL, NULL),
    ('sk-litellm-expired-0007', 'expired', 0, '2026-11-01', '{}', 'user-3', NULL, '{}', NULL, NULL, NULL, NULL, NULL),
    ('sk-litellm-minutes-0008', 'a budget each half an hour', 0, NULL, '{}', 'user-3', NULL, '{}', NULL, 1, '30m', '2026-11-26 12:30', NULL),
    ('sk-litellm-wildcard-0009', 'models by a pattern', 0, NULL, '{openai/*}', 'user-3', NULL, '{}', NULL, NULL, NULL, NULL, NULL)
) v (secret, alias, spend, expires, models, user_id, team_id, metadata, blocked, max_budget, duration, reset, budget_id);
