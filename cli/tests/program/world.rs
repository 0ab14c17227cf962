//! A database, and the program on it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use agentkey::model::ManualClock;
use agentkey::store::{AccountQuery, PostgresOptions, SqliteOptions};
use agentkey::{
    AgentKeys, Amount, Builder, EntryId, EntryQuery, KeyId, KeyQuery, PostgresStore, SqliteStore,
};
use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection};
use tempfile::TempDir;

use crate::postgres;

/// Makes a test of each function, on either database.
macro_rules! on_both_databases {
    ($($name:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&crate::world::World::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            #[ignore = "needs PostgreSQL: ./scripts/test"]
            async fn $name() {
                let Some(world) = crate::world::World::postgres().await else { return };
                super::$name(&world).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;

/// An empty database that is migrated, and a folder for files.
pub(crate) struct World {
    folder: TempDir,
    database: String,
    server: Option<postgres::Database>,
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// An SQLite file with tables.
    pub(crate) fn sqlite() -> Self {
        let world = Self::without_tables();
        world.ok(&["migrate"]);
        world
    }

    /// An SQLite file that does not exist yet.
    pub(crate) fn without_tables() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("keys.db").to_str().unwrap().to_owned();
        Self { folder, database, server: None }
    }

    /// A PostgreSQL database with tables.
    pub(crate) async fn postgres() -> Option<Self> {
        let world = Self::empty_postgres().await?;
        world.ok(&["migrate"]);
        Some(world)
    }

    /// A PostgreSQL database without tables.
    pub(crate) async fn empty_postgres() -> Option<Self> {
        let server = postgres::Server::shared()?.database().await;
        let database = server.url().to_owned();
        Some(Self { folder: tempfile::tempdir().unwrap(), database, server: Some(server) })
    }

    /// Names another database than the world's own.
    pub(crate) fn at(database: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, database: database.to_owned(), server: None }
    }

    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program on the database, without what this process has in its environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("AGENTKEY_DATABASE", &self.database);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command(arguments).output().unwrap())
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Run {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Run::of(&child.wait_with_output().unwrap())
    }

    /// Expects that the command is done. Returns what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        run.stdout
    }

    /// Expects that the command is done, and that it printed one JSON document.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let run = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{arguments:?}: {run:?}");
        run.document()
    }

    /// Expects that the command fails with this code and a sentence with these words, that it changes nothing, and that
    /// `--json` says the same in one document.
    pub(crate) fn fails(&self, arguments: &[&str], code: i32, words: &[&str]) -> String {
        let before = self.state();
        let run = self.run(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (code, ""), "{arguments:?}: {run:?}");
        for word in words {
            assert!(run.stderr.contains(word), "{arguments:?} says nothing of {word:?}: {run:?}");
        }
        // The library's own calls are nothing to type into a terminal.
        let error = run.stderr.split_once("error: ").map_or("", |(_, error)| error);
        assert!(!error.contains("::"), "{arguments:?}: {run:?}");
        let as_json = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(as_json.code, code, "{arguments:?}: {as_json:?}");
        let error = &as_json.document()["error"];
        let kind = ["", "failed", "usage", "not_found", "database"][code as usize];
        assert_eq!(error["code"], kind, "{arguments:?}: {as_json:?}");
        let message = error["message"].as_str().unwrap().lines().next().unwrap();
        assert!(run.stderr.contains(message), "{message:?} and {:?}", run.stderr);
        assert_eq!(self.state(), before, "{arguments:?} changed something");
        run.stderr
    }

    /// Everything that the database has, or why it cannot be read. The library reads it: a process for each comparison
    /// would take most of the time.
    fn state(&self) -> String {
        let read = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                match self.read().await {
                    Ok(state) => state,
                    Err(error) => format!("{error:?}"),
                }
            })
        };
        // A test may have a runtime of its own on this thread.
        thread::scope(|scope| scope.spawn(read).join().unwrap())
    }

    async fn read(&self) -> Result<String, agentkey::Error> {
        let keys = match self.database.starts_with("postgres") {
            true => {
                let options = PostgresOptions::new(&self.database).migrate(false);
                AgentKeys::new(PostgresStore::open(options).await?)?
            }
            false => {
                let options = SqliteOptions::new(&self.database).migrate(false);
                AgentKeys::new(SqliteStore::open(options).await?)?
            }
        };
        let all: Vec<_> = keys.key_stream(KeyQuery::all()).try_collect().await?;
        let accounts: Vec<_> = keys.account_stream(AccountQuery::all()).try_collect().await?;
        let mut entries = Vec::new();
        for account in &accounts {
            let query = EntryQuery::for_account(account.id.clone());
            entries.extend(keys.entry_stream(query).try_collect::<Vec<_>>().await?);
        }
        keys.shutdown().await;
        Ok(format!("{all:?} {accounts:?} {entries:?}"))
    }

    /// Creates a key, and returns its id and its token.
    pub(crate) fn create(&self, arguments: &[&str]) -> (String, String) {
        let created = self.json(&[&["key", "create"], arguments].concat());
        let token = created["token"].as_str().unwrap().to_owned();
        (created["key"]["id"].to_string(), token)
    }

    /// Charges a key as a service does.
    pub(crate) async fn charge(&self, key: &str, cents: i32) -> EntryId {
        let keys = self.service().await;
        let key: KeyId = key.parse().unwrap();
        let charge = keys.charge(&keys.authorize_by_id(key).await.unwrap()).await.unwrap();
        charge.label("model", "small").unwrap();
        charge.add(Amount::cents(cents));
        let entry = charge.settle().await.unwrap();
        keys.shutdown().await;
        entry.expect("it cost something")
    }

    /// The database as a service with another clock opens it.
    pub(crate) async fn service_with_clock(&self, clock: &ManualClock) -> AgentKeys {
        self.build(AgentKeys::builder(), clock).await
    }

    /// The database as a service with another clock and options opens it.
    pub(crate) async fn build(&self, options: Builder, clock: &ManualClock) -> AgentKeys {
        let keys = match &self.server {
            None => {
                let file = SqliteOptions::new(&self.database).clock(clock);
                options.build(SqliteStore::open(file).await.unwrap())
            }
            Some(_) => {
                let server = PostgresOptions::new(&self.database).clock(clock);
                options.build(PostgresStore::open(server).await.unwrap())
            }
        };
        keys.unwrap()
    }

    /// Runs SQL in the database, as a person who does not know better does.
    pub(crate) async fn execute(&self, sql: &str) {
        if self.server.is_none() {
            return rusqlite::Connection::open(&self.database).unwrap().execute_batch(sql).unwrap();
        }
        let mut connection = sqlx::PgConnection::connect(&self.database).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// The database as a service opens it.
    pub(crate) async fn service(&self) -> AgentKeys {
        AgentKeys::connect(&self.database).await.unwrap()
    }
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// Standard output as one JSON document.
    pub(crate) fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentkey"));
    command.args(arguments).stdin(Stdio::null());
    for name in std::env::vars_os().map(|(name, _)| name) {
        let text = name.to_string_lossy();
        if ["AGENTKEY_", "PG", "RUST_LOG", "NO_COLOR"].iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Whether a file is there.
pub(crate) fn is_there(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}
