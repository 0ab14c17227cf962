//! Migrations of the tables.
//!
//! sqlx's `Migrator` does not fit: its table is that of the application's own migrations. Its texts cannot have names
//! that are chosen at run time. The steps are planned first, and are then run or printed.

use jiff::Timestamp;

use super::adopt::{self, Adopting};
use super::connection::{BEGIN, Connections, Statements};
use super::error::{
    Error, INSUFFICIENT_PRIVILEGE, Result, config_error, database_error, is_locked,
};
use super::options::PostgresOptions;
use super::schema::Schema;
use super::step::{Now, Step, exists, first};

const MIGRATIONS: [&str; 1] = [include_str!("../../../migrations/postgres/0001_init.sql")];

/// Our own table of keys.
const KEYS: &str = include_str!("../../../migrations/postgres/keys.sql");

const TABLE: &str = "CREATE TABLE {migrations} (version int PRIMARY KEY, \
    applied_at timestamptz NOT NULL DEFAULT now())";

/// The lock that lets one process migrate at a time.
const LOCK: &str = "SELECT pg_advisory_xact_lock(6004214)";

/// A statement may take any time, because the table may be large. The settings of our sessions, which force index
/// plans, are not for migrations. The lock is waited for while another process migrates.
const LONG_WAITS: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'; SET LOCAL enable_seqscan = on; \
    SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";

/// No request of the application waits for a migration for longer than this.
const SHORT_WAITS: &str = "SET LOCAL lock_timeout = '5s'";

/// The message if another process has held the lock of migrations for too long.
const MIGRATING: &str = "another process has been bringing the tables up to date for a minute, or left its transaction open (it has the \
     advisory lock 6004214 in `pg_locks`): open again once it is done";

struct Plan {
    schema: Schema,
    steps: Vec<Step>,
}

/// Returns the schema in use. Makes what is missing, in one transaction that no other process runs at the same time. If
/// it may not migrate, it checks that nothing is missing.
pub(super) async fn open(connections: &Connections, options: &PostgresOptions) -> Result<Schema> {
    let own = options.own_schema()?;
    let migrate = async |statements: &mut Statements<'_>| {
        statements.run_script(LONG_WAITS).await?;
        if options.migrate {
            let locked = statements.run_script(LOCK).await;
            locked.map_err(
                |error| if is_locked(&error) { Error::TimedOut(MIGRATING) } else { error },
            )?;
        }
        statements.run_script(SHORT_WAITS).await?;
        let at = time(statements, &own, connections).await?;
        let now = Now { at, sql: format!("'{at}'::timestamptz") };
        let Plan { schema, steps } = plan(statements, own, options, now, options.migrate).await?;
        if options.migrate {
            for step in &steps {
                statements.run_script(&step.text).await.map_err(with_advice)?;
            }
        } else if steps.iter().any(|step| step.is_needed) {
            return Err(config_error(
                "the tables are not up to date: run the SQL that `PostgresStore::migration_sql` returns, or open with \
                 `PostgresOptions::migrate(true)`",
            ));
        }
        Ok(schema)
    };
    connections.pooled(migrate).await
}

/// Returns the SQL that opening would run.
pub(super) async fn script(connections: &Connections, options: &PostgresOptions) -> Result<String> {
    let own = options.own_schema()?;
    let find_steps = async |statements: &mut Statements<'_>| {
        statements.run_script(LONG_WAITS).await?;
        statements.run_script(SHORT_WAITS).await?;
        let now = Now { at: time(statements, &own, connections).await?, sql: "now()".to_owned() };
        Ok(plan(statements, own, options, now, true).await?.steps)
    };
    let steps = connections.pooled(find_steps).await?;
    if steps.is_empty() {
        return Ok(String::new());
    }
    let long_waits = LONG_WAITS.replace("; ", ";\n");
    let mut text = format!("{BEGIN};\n\n{long_waits};\n{LOCK};\n{SHORT_WAITS};\n");
    for step in &steps {
        text.push('\n');
        text.push_str(step.text.trim_end());
        text.push_str(if step.text.trim_end().ends_with(';') { "\n" } else { ";\n" });
    }
    text.push_str("\nCOMMIT;\n");
    Ok(text)
}

/// Returns the time of the clock, after the server has set it.
async fn time(
    statements: &mut Statements<'_>,
    own: &Schema,
    connections: &Connections,
) -> Result<Timestamp> {
    statements.run(own.sql("SELECT {server_time}").query()).await?;
    Ok(connections.clock().now())
}

/// Plans what is to be run. Without `must_know`, tables that the role may not read count as up to date.
async fn plan(
    statements: &mut Statements<'_>,
    own: Schema,
    options: &PostgresOptions,
    now: Now,
    must_know: bool,
) -> Result<Plan> {
    let newest = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    let mut steps = Vec::new();
    // The schema is looked up first, because many roles may not create one.
    let find_schema =
        sqlx::query("SELECT to_regnamespace($1) IS NOT NULL").bind(own.name.to_string());
    let found = statements.fetch(find_schema).await?;
    if !first(&found, false)? {
        steps.push(Step::needed(own.fill("CREATE SCHEMA IF NOT EXISTS {schema}")));
    }
    let mut applied = 0;
    let migrations = own.fill("{migrations}");
    if !exists(statements, &migrations).await? {
        steps.push(Step::needed(own.fill(TABLE)));
    } else if !must_know && !may_read(statements, &migrations).await? {
        applied = newest;
    } else {
        let version = own.sql("SELECT coalesce(max(version), 0) FROM {migrations}");
        applied = first(&statements.fetch(version.query()).await?, 0)?;
    }
    if applied > newest {
        return Err(config_error(format!(
            "a newer version of agentkey made its tables (version {applied}; this one supports {newest}): upgrade agentkey"
        )));
    }
    for (version, sql) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > applied) {
        steps.push(Step::needed(own.fill(sql)));
        steps.push(Step::needed(
            own.fill(&format!("INSERT INTO {{migrations}} (version) VALUES ({version})")),
        ));
    }
    let Some(table) = &options.table else {
        let adoption = own.fill("{adoption}");
        let is_known = must_know
            || !exists(statements, &adoption).await?
            || may_read(statements, &adoption).await?;
        let adopted = if is_known { adopt::adopted(statements, &own).await? } else { None };
        if let Some(table) = adopted {
            return Err(config_error(format!(
                "the tables of the schema {} belong to {table}: open it with `PostgresOptions::table`, or give \
                 keys of agentkey's own another schema",
                own.name
            )));
        }
        if !exists(statements, &own.keys).await? {
            steps.push(Step::needed(own.fill(KEYS)));
        }
        return Ok(Plan { schema: own, steps });
    };
    let adopting =
        Adopting { table: &options.table_name(table), adoption: options.adoption.as_ref(), now };
    let (schema, more) = adopt::plan(statements, &own, &adopting).await?;
    steps.extend(more);
    Ok(Plan { schema, steps })
}

/// Returns whether the role may read a table, and logs a warning if not.
async fn may_read(statements: &mut Statements<'_>, table: &str) -> Result<bool> {
    let privilege = sqlx::query("SELECT has_table_privilege($1, 'SELECT')").bind(table.to_owned());
    let rows = statements.fetch(privilege).await?;
    let may = first(&rows, false)?;
    if !may {
        tracing::warn!(
            table,
            "this role may not read the table, so it is unknown whether the tables are up to date"
        );
    }
    Ok(may)
}

/// Returns the error, with advice for a role that lacks a privilege.
fn with_advice(error: Error) -> Error {
    match database_error(&error).filter(|error| error.code() == INSUFFICIENT_PRIVILEGE) {
        Some(error) => config_error(format!(
            "{error}: have a role with that privilege run the SQL that `PostgresStore::migration_sql` returns, then open with \
             `PostgresOptions::migrate(false)`"
        )),
        None => error,
    }
}
