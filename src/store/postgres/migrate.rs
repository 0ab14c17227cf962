//! Bringing the tables up to date.
//!
//! Not with sqlx's `Migrator`: its table is that of the application's own migrations, and its texts know no names that are
//! chosen at run time. What is to be run is found out first, and is then run or printed.

use jiff::Timestamp;

use super::adopt::{self, Adopting};
use super::connection::{BEGIN, Connections, Statements};
use super::error::{Error, INSUFFICIENT_PRIVILEGE, Result, config_error, database_error, is_locked};
use super::options::PostgresOptions;
use super::schema::Schema;
use super::step::{Now, Step, first, is_there};

const MIGRATIONS: [&str; 1] = [include_str!("../../../migrations/postgres/0001_init.sql")];

/// Our own table of keys.
const KEYS: &str = include_str!("../../../migrations/postgres/keys.sql");

const TABLE: &str = "CREATE TABLE {migrations} (version int PRIMARY KEY, \
    applied_at timestamptz NOT NULL DEFAULT now())";

/// A process migrates alone.
const LOCK: &str = "SELECT pg_advisory_xact_lock(6004214)";

/// No time is too long for a large table, be it looked at or changed, and the settings of our sessions, which go by
/// index, are not for that. The lock is waited for while another one migrates.
const LONG_WAITS: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'; SET LOCAL enable_seqscan = on; \
    SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";

/// No request of the application waits behind a migration for longer than this.
const SHORT_WAITS: &str = "SET LOCAL lock_timeout = '5s'";

/// Another process held the lock of migrations for too long.
const MIGRATING: &str = "another process has been bringing the tables up to date for a minute, or left its transaction open (it has the \
     advisory lock 6004214 in `pg_locks`): open again once it is done";

struct Plan {
    layout: Schema,
    steps: Vec<Step>,
}

/// Finds out where the keys are. Makes what is missing, in one transaction that no other process runs at the same time; or,
/// where nothing may be made, sees that nothing has to be.
pub(super) async fn open(connections: &Connections, options: &PostgresOptions) -> Result<Schema> {
    let own = options.own_layout()?;
    let migrate = async |statements: &mut Statements<'_>| {
        statements.run_script(LONG_WAITS).await?;
        if options.migrate {
            let locked = statements.run_script(LOCK).await;
            locked.map_err(|error| if is_locked(&error) { Error::TimedOut(MIGRATING) } else { error })?;
        }
        statements.run_script(SHORT_WAITS).await?;
        let at = time(statements, &own, connections).await?;
        let now = Now { at, sql: format!("'{at}'::timestamptz") };
        let Plan { layout, steps } = plan(statements, own, options, now, options.migrate).await?;
        if options.migrate {
            for step in &steps {
                statements.run_script(&step.text).await.map_err(by_hand)?;
            }
        } else if steps.iter().any(|step| step.is_needed) {
            return Err(config_error(
                "the tables are not up to date: run the SQL that `PostgresStore::migration_sql` tells, or open with \
                 `PostgresOptions::migrate(true)`",
            ));
        }
        Ok(layout)
    };
    connections.pooled(migrate).await
}

/// The SQL that opening would run.
pub(super) async fn script(connections: &Connections, options: &PostgresOptions) -> Result<String> {
    let own = options.own_layout()?;
    let look = async |statements: &mut Statements<'_>| {
        statements.run_script(LONG_WAITS).await?;
        statements.run_script(SHORT_WAITS).await?;
        let now = Now { at: time(statements, &own, connections).await?, sql: "now()".to_owned() };
        Ok(plan(statements, own, options, now, true).await?.steps)
    };
    let steps = connections.pooled(look).await?;
    if steps.is_empty() {
        return Ok(String::new());
    }
    let patient = LONG_WAITS.replace("; ", ";\n");
    let mut text = format!("{BEGIN};\n\n{patient};\n{LOCK};\n{SHORT_WAITS};\n");
    for step in &steps {
        text.push('\n');
        text.push_str(step.text.trim_end());
        text.push_str(if step.text.trim_end().ends_with(';') { "\n" } else { ";\n" });
    }
    text.push_str("\nCOMMIT;\n");
    Ok(text)
}

/// What the clock shows, once the server has told.
async fn time(statements: &mut Statements<'_>, own: &Schema, connections: &Connections) -> Result<Timestamp> {
    statements.run(own.sql("SELECT {server_time}").query()).await?;
    Ok(connections.clock().now())
}

/// What is to be run. Where nothing may be, and `must_know` is not set, what the role may not read counts as up to date.
async fn plan(
    statements: &mut Statements<'_>,
    own: Schema,
    options: &PostgresOptions,
    now: Now,
    must_know: bool,
) -> Result<Plan> {
    let newest = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    let mut steps = Vec::new();
    // Looked for first: the right to make a schema is more than many roles have.
    let schema = sqlx::query("SELECT to_regnamespace($1) IS NOT NULL").bind(own.schema.to_string());
    let schema = statements.fetch(schema).await?;
    if !first(&schema, false)? {
        steps.push(Step::needed(own.fill("CREATE SCHEMA IF NOT EXISTS {schema}")));
    }
    let mut applied = 0;
    let migrations = own.fill("{migrations}");
    if !is_there(statements, &migrations).await? {
        steps.push(Step::needed(own.fill(TABLE)));
    } else if !must_know && !may_read(statements, &migrations).await? {
        applied = newest;
    } else {
        let version = own.sql("SELECT coalesce(max(version), 0) FROM {migrations}");
        applied = first(&statements.fetch(version.query()).await?, 0)?;
    }
    if applied > newest {
        return Err(config_error(format!(
            "a newer version of agentkey made its tables (version {applied}; this one knows {newest}): upgrade agentkey"
        )));
    }
    for (version, sql) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > applied) {
        steps.push(Step::needed(own.fill(sql)));
        steps.push(Step::needed(own.fill(&format!("INSERT INTO {{migrations}} (version) VALUES ({version})"))));
    }
    let Some(table) = &options.table else {
        let adoption = own.fill("{adoption}");
        let is_known = must_know || !is_there(statements, &adoption).await? || may_read(statements, &adoption).await?;
        let adopted = if is_known { adopt::adopted(statements, &own).await? } else { None };
        if let Some(table) = adopted {
            return Err(config_error(format!(
                "the tables of the schema {} stand beside {table}: open it with `PostgresOptions::table`, or give \
                 keys of agentkey's own another schema",
                own.schema
            )));
        }
        if !is_there(statements, &own.keys).await? {
            steps.push(Step::needed(own.fill(KEYS)));
        }
        return Ok(Plan { layout: own, steps });
    };
    let adopting = Adopting { table: &options.table_name(table), said: options.adoption.as_ref(), now };
    let (layout, more) = adopt::plan(statements, &own, &adopting).await?;
    steps.extend(more);
    Ok(Plan { layout, steps })
}

/// Whether the role may read a table; warns where it may not.
async fn may_read(statements: &mut Statements<'_>, table: &str) -> Result<bool> {
    let privilege = sqlx::query("SELECT has_table_privilege($1, 'SELECT')").bind(table.to_owned());
    let rows = statements.fetch(privilege).await?;
    let may = first(&rows, false)?;
    if !may {
        tracing::warn!(table, "this role may not read it, so whether the tables are up to date is not known");
    }
    Ok(may)
}

/// Where the role may not do it, another one may.
fn by_hand(error: Error) -> Error {
    match database_error(&error).filter(|error| error.code() == INSUFFICIENT_PRIVILEGE) {
        Some(error) => config_error(format!(
            "{error}: let a role that may run the SQL that `PostgresStore::migration_sql` tells, then open with \
             `PostgresOptions::migrate(false)`"
        )),
        None => error,
    }
}
