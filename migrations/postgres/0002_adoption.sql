-- The keys table of the host's own that these tables stand beside, where they do: at most one. `columns` says which
-- column has which field. What a row leaves open means `scopes` (NULL is unrestricted), `limit_micros` (NULL is
-- unlimited) with `period`, and `adopted_at` for when it was made.
CREATE TABLE {adoption} (
    is_one       boolean PRIMARY KEY DEFAULT true CHECK (is_one),
    table_name   text        NOT NULL,
    columns      jsonb       NOT NULL,
    scopes       text[],
    limit_micros bigint,
    period       text        NOT NULL,
    adopted_at   timestamptz NOT NULL
);
