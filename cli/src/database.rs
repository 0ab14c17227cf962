//! Which database a command works on, and how it is opened.

use std::env;

use agentkey::model::{Actor, Origin, Scope};
use agentkey::store::{PostgresOptions, SqliteOptions};
use agentkey::{AgentKeys, PostgresStore, SqliteStore};
use clap::Args;

use crate::error::Error;

/// The arguments that name a database.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Database")]
pub(crate) struct DatabaseArgs {
    /// The path of an SQLite file, or postgres://user@host/database
    ///
    /// A password is better in AGENTKEY_DATABASE, PGPASSWORD or ~/.pgpass: others may see arguments.
    #[arg(
        long,
        global = true,
        env = "AGENTKEY_DATABASE",
        hide_env_values = true,
        value_name = "PATH|URL"
    )]
    database: Option<String>,
    /// The schema of the agentkey tables [PostgreSQL; default: public]
    #[arg(long, global = true, env = "AGENTKEY_SCHEMA", value_name = "NAME")]
    schema: Option<String>,
    /// The application's own table of keys, which was adopted [PostgreSQL]
    #[arg(long, global = true, env = "AGENTKEY_TABLE", value_name = "TABLE")]
    table: Option<String>,
    /// The database is behind PgBouncer with pool_mode = transaction [PostgreSQL]
    #[arg(long, global = true, env = "AGENTKEY_TRANSACTION_POOLING")]
    transaction_pooling: bool,
    /// The scope that includes every other one, as the service has it
    #[arg(long, global = true, env = "AGENTKEY_ADMIN_SCOPE", value_name = "SCOPE")]
    admin_scope: Option<Scope>,
    /// Who acts, for the audit trail [default: cli: and the name of the user]
    #[arg(long, global = true, env = "AGENTKEY_ACTOR", value_name = "NAME")]
    actor: Option<String>,
}

/// A database that was named, and not opened yet.
pub(crate) enum Target {
    Sqlite(SqliteOptions),
    Postgres(Box<PostgresOptions>),
}

impl DatabaseArgs {
    /// Returns the options of the named database. They allow everything that opening may do.
    pub(crate) fn target(&self) -> Result<Target, Error> {
        let name = self.name()?;
        if self.postgres_url().is_some() {
            let mut options =
                PostgresOptions::new(name).transaction_pooling(self.transaction_pooling);
            if let Some(schema) = &self.schema {
                options = options.schema(schema);
            }
            if let Some(table) = &self.table {
                options = options.table(table);
            }
            return Ok(Target::Postgres(Box::new(options)));
        }
        if self.schema.is_some() || self.table.is_some() || self.transaction_pooling {
            return Err(Error::Usage(
                "`--schema`, `--table` and `--transaction-pooling` are for PostgreSQL: name a \
                 database such as postgres://user@host/database with `--database`"
                    .to_owned(),
            ));
        }
        if name.ends_with(":memory:") {
            return Err(Error::Usage(
                "a database in memory ends with the command: name a file with `--database`"
                    .to_owned(),
            ));
        }
        Ok(Target::Sqlite(SqliteOptions::new(name)))
    }

    /// Returns the URL, if the database is one of PostgreSQL.
    pub(crate) fn postgres_url(&self) -> Option<&str> {
        let name = self.database.as_deref()?;
        let scheme = name.split_once("://")?.0;
        ["postgres", "postgresql"].contains(&scheme).then_some(name)
    }

    /// Returns the name of the table of keys, if it is the application's own.
    pub(crate) fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    pub(crate) fn with_table(&self, table: &str) -> Self {
        Self { table: Some(table.to_owned()), ..self.clone() }
    }

    /// Returns what the user called the database.
    pub(crate) fn name(&self) -> Result<&str, Error> {
        self.database.as_deref().filter(|name| !name.is_empty()).ok_or_else(|| {
            Error::Usage(
                "no database is named: give `--database PATH|URL`, or set AGENTKEY_DATABASE"
                    .to_owned(),
            )
        })
    }

    /// Opens the database for one piece of work, and closes it. It makes and migrates nothing.
    pub(crate) async fn with_keys<T>(
        &self,
        work: impl AsyncFnOnce(&AgentKeys) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let keys = self.open().await?.with_origin(Origin::by(self.actor()));
        let done = work(&keys).await;
        keys.shutdown().await;
        done
    }

    /// Returns who acts, as the audit trail has it.
    fn actor(&self) -> Actor {
        let user = || env::var("USER").or_else(|_| env::var("USERNAME"));
        let default = || user().map_or_else(|_| "cli".to_owned(), |user| format!("cli:{user}"));
        Actor::principal(&self.actor.clone().unwrap_or_else(default))
    }

    async fn open(&self) -> Result<AgentKeys, Error> {
        let mut builder = AgentKeys::builder();
        if let Some(scope) = &self.admin_scope {
            builder = builder.admin_scope(scope.clone());
        }
        let keys = match self.target()? {
            Target::Sqlite(options) => {
                builder.build(SqliteStore::open(options.migrate(false)).await?)
            }
            Target::Postgres(options) => {
                builder.build(PostgresStore::open(options.migrate(false)).await?)
            }
        };
        keys.map_err(|error| agentkey::Error::from(error).into())
    }
}

impl Target {
    /// Returns the SQL that would bring the tables up to date.
    pub(crate) async fn migration_sql(&self) -> Result<String, Error> {
        Ok(match self {
            Self::Sqlite(options) => SqliteStore::migration_sql(options.clone()).await?,
            Self::Postgres(options) => PostgresStore::migration_sql(*options.clone()).await?,
        })
    }

    /// Makes the tables, or brings them up to date.
    pub(crate) async fn migrate(self) -> Result<(), Error> {
        let keys = match self {
            Self::Sqlite(options) => AgentKeys::new(SqliteStore::open(options).await?),
            Self::Postgres(options) => AgentKeys::new(PostgresStore::open(*options).await?),
        };
        keys.map_err(agentkey::Error::from)?.shutdown().await;
        Ok(())
    }
}
