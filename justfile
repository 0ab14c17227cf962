# `just` lists these. Each is one command that also works without just.

_default:
    @just --list --unsorted

# Every test; installs PostgreSQL and PgBouncer where apt can
test *args:
    ./scripts/test {{ args }}

# What a change must pass: tests, format, lints, docs, features
ci:
    bash .ci/run

# One benchmark: http, latency, scale, memory, overhead or steps
bench name="http" *args:
    cargo bench --locked -p agentkey-benches --features postgres --bench {{ name }} -- {{ args }}

# Processes killed and servers crashed, for so many seconds
chaos seconds="60":
    AGENTKEY_TEST_POSTGRES=required AGENTKEY_CHAOS_SECONDS={{ seconds }} cargo test --locked --all-features --test chaos -- --include-ignored --nocapture

# The documentation, as docs.rs has it
docs:
    cargo doc --locked --no-deps --all-features --open
