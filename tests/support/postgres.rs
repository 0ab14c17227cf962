//! The PostgreSQL that tests and benches run on: started by them, gone with them.
//!
//! A binary includes it once, by its path:
//!
//! ```text
//! #[path = "support/postgres.rs"]
//! mod postgres;
//! ```
//!
//! [`Server::shared`] is one cluster for all tests of a binary, with a database for each. [`Server::start`] is a cluster
//! of one test's own, for it to stop, to copy and to crash. Both are `None` where PostgreSQL is not installed, and the
//! test returns early: one line on stderr has then said so. With `AGENTKEY_TEST_POSTGRES=required` a missing server is a
//! panic, so that a run without PostgreSQL is not mistaken for a run with it.
//!
//! Calls that are not `async` block while programs run: do not make them where others wait for the thread.
#![allow(dead_code)] // Each binary uses its part.

mod programs;

use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Once, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use programs::{Programs, User, pgbouncer};

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

const SUPERUSER: &str = "agentkey";

/// What a standby calls itself to its primary.
const STANDBY: &str = "walreceiver";

/// A PostgreSQL server. What is not [`Server::shared`] stops and is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    superuser_url: String,
    /// None for the server that `AGENTKEY_TEST_DATABASE_URL` names.
    cluster: Option<Cluster>,
    /// Whether a database is dropped with its [`Database`].
    drops: bool,
}

impl Server {
    /// The one server of this binary's tests: that of `AGENTKEY_TEST_DATABASE_URL` (a superuser's URL) where set, else a
    /// cluster made at first use. That one does not wait for the disk, so it is no server to measure or to crash.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        let start = || match env::var("AGENTKEY_TEST_DATABASE_URL") {
            Ok(url) => Some(Self { superuser_url: url, cluster: None, drops: true }),
            Err(_) => Self::start(&[
                ("fsync", "off"),
                ("full_page_writes", "off"),
                ("max_wal_size", "256MB"),
            ])
            .map(|server| Self { drops: true, ..server }),
        };
        SHARED.get_or_init(start).as_ref()
    }

    /// A cluster with these lines in its `postgresql.conf`. A commit waits for the disk, if they say nothing else.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Option<Self> {
        let Some(programs) = Programs::installed() else {
            static ONCE: Once = Once::new();
            leave_out(&ONCE, "PostgreSQL (14 or newer)", ", or set AGENTKEY_TEST_DATABASE_URL");
            return None;
        };
        Some(Self::of(Cluster::create(programs, settings)))
    }

    fn of(cluster: Cluster) -> Self {
        Self { superuser_url: cluster.url("postgres"), cluster: Some(cluster), drops: false }
    }

    /// The URL of a database of this server, for the superuser.
    pub(crate) fn url(&self, database: &str) -> String {
        let (server, query) = match self.superuser_url.split_once('?') {
            Some((server, query)) => (server, format!("?{query}")),
            None => (self.superuser_url.as_str(), String::new()),
        };
        let host =
            server.find("://").expect("AGENTKEY_TEST_DATABASE_URL is not a URL") + "://".len();
        let end = server[host..].find('/').map_or(server.len(), |slash| host + slash);
        format!("{}/{database}{query}", &server[..end])
    }

    /// The URL of the database that others are created from.
    pub(crate) fn superuser_url(&self) -> &str {
        &self.superuser_url
    }

    /// A new, empty database. On the shared server it is dropped with the value: hold it while you use it.
    pub(crate) async fn database(&self) -> Database {
        let name = format!("agentkey_test_{:016x}", random());
        execute(&self.superuser_url, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        let drop_through = self.drops.then(|| self.superuser_url.clone());
        Database { url: self.url(&name), name, drop_through }
    }

    /// Stops it, in the mode that `pg_ctl stop` knows: `fast`, or `immediate` for a crash.
    pub(crate) fn stop(&self, mode: &str) {
        self.cluster().stop(mode);
    }

    /// Starts it after [`Server::stop`], at the same port, and waits until it takes connections.
    pub(crate) fn start_again(&self) {
        self.cluster().start().unwrap();
    }

    /// What it has logged since it was made.
    pub(crate) fn log(&self) -> String {
        self.cluster().log()
    }

    /// A streaming standby, up and caught up; one can read from it. Where `synchronous`, every commit of this server
    /// waits from now on until the standby has it on disk, also after the standby is dropped.
    pub(crate) async fn replica(&self, synchronous: bool) -> Self {
        let primary = &self.superuser_url;
        execute(primary, "ALTER SYSTEM SET wal_keep_size = '512MB'").await;
        if synchronous {
            // Before the copy: the checkpoint that the copy begins with comes from the process that puts it in force.
            execute(primary, &format!("ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'"))
                .await;
        }
        execute(primary, "SELECT pg_reload_conf()").await;

        let replica = Self::of(self.cluster().copy());
        let received = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        let sent = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{STANDBY}' AND state = 'streaming' \
             AND (sync_state <> 'async' OR NOT {synchronous})"
        );
        until(async || {
            count(&replica.superuser_url, received).await > 0 && count(primary, &sent).await > 0
        })
        .await;
        replica
    }

    /// Makes a replica a server of its own, which takes writes when this returns.
    pub(crate) fn promote(&self) {
        let cluster = self.cluster();
        run(cluster.pg_ctl("promote").arg("-w"));
    }

    fn cluster(&self) -> &Cluster {
        self.cluster
            .as_ref()
            .expect("this is for servers that the tests started: see Server::start")
    }
}

/// A database of one test's own.
#[derive(Debug)]
pub(crate) struct Database {
    url: String,
    name: String,
    drop_through: Option<String>,
}

impl Database {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the database to the end of its cluster. At `AGENTKEY_TEST_DATABASE_URL` it stays, as `agentkey_test_…`.
    pub(crate) fn into_url(mut self) -> String {
        self.drop_through = None;
        std::mem::take(&mut self.url)
    }

    /// The URL of this database at another port of 127.0.0.1, where no password is asked for.
    fn url_at(&self, port: u16) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{port}/{}", self.name)
    }

    /// As it stands in the URL.
    fn password(&self) -> Option<&str> {
        let authority = self.url.split("://").nth(1)?.split('/').next()?;
        authority.rsplit_once('@')?.0.split_once(':').map(|(_, password)| password)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = self.drop_through.take() else { return };
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // On a thread of its own: this one may be a runtime's. What cannot be dropped goes with the cluster.
        let dropped = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let dropped = runtime
                .block_on(async { tokio::time::timeout(HANG, try_execute(&server, &drop)).await });
            dropped.map_err(io::Error::other)?.map_err(io::Error::other)
        });
        let _ = dropped.join();
    }
}

/// PgBouncer in transaction mode before one database; killed when this is dropped.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    url: String,
    dir: PathBuf,
    watchdog: Watchdog,
}

impl PgBouncer {
    /// With `pool_size` connections to the server. Clients may be any number.
    pub(crate) fn start(database: &Database, pool_size: usize) -> Option<Self> {
        Self::start_with(database, pool_size, "")
    }

    /// With more settings, or others than those of [`start`](Self::start).
    pub(crate) fn start_with(
        database: &Database,
        pool_size: usize,
        settings: &str,
    ) -> Option<Self> {
        let Some(program) = pgbouncer() else {
            static ONCE: Once = Once::new();
            leave_out(&ONCE, "PgBouncer", "");
            return None;
        };
        let user = User::unprivileged();
        Some(on_free_port(|port| {
            let dir = directory("agentkey-pgbouncer-", user);
            fs::write(
                dir.join("pgbouncer.ini"),
                bouncer_settings(database, port, pool_size) + settings,
            )
            .unwrap();
            let watchdog = Watchdog::start(user, BOUNCER, END_BOUNCER, &program, &dir);
            let url = database.url_at(port);
            let bouncer = Self { url, dir, watchdog };
            bouncer.up().map(|()| bouncer)
        }))
    }

    /// The URL of the database, through PgBouncer.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        read(&self.dir.join("log"))
    }

    /// Waits until it takes connections. The error is its log.
    fn up(&self) -> Result<(), String> {
        let begun = Instant::now();
        while !self.log().contains("process up") {
            let log = self.log();
            if log.contains("FATAL") || begun.elapsed() > HANG {
                return Err(log);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn bouncer_settings(database: &Database, port: u16, pool_size: usize) -> String {
    let server: PgConnectOptions = database.url.parse().unwrap();
    let (host, server_port, user) = (server.get_host(), server.get_port(), server.get_username());
    let password =
        database.password().map(|password| format!(" password='{password}'")).unwrap_or_default();
    let name = &database.name;
    format!(
        "[databases]\n\
         {name} = host={host} port={server_port} dbname={name} user={user}{password}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = transaction\n\
         default_pool_size = {pool_size}\n\
         max_client_conn = 1000\n\
         ignore_startup_parameters = extra_float_digits\n"
    )
}

/// A cluster in a directory of its own: `data`, `log` and the socket.
#[derive(Debug)]
struct Cluster {
    programs: &'static Programs,
    dir: PathBuf,
    port: u16,
    watchdog: Watchdog,
}

impl Cluster {
    fn create(programs: &'static Programs, settings: &[(&str, &str)]) -> Self {
        let mut cluster = Self::empty(programs);
        let made = ["-A", "trust", "-U", SUPERUSER, "--no-sync", "-E", "UTF8", "--locale=C"];
        run(programs.command("initdb").args(made).arg("-D").arg(cluster.data()));
        let socket = cluster.dir.to_str().expect("a path of plain text").to_owned();
        let always = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &*socket),
            ("max_connections", "200"),
            ("log_lock_waits", "on"),
            ("deadlock_timeout", "200ms"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
        ];
        for (name, value) in always.iter().chain(settings) {
            cluster.set("postgresql.conf", name, value);
        }
        cluster.start_somewhere();
        cluster
    }

    /// A standby of it.
    fn copy(&self) -> Self {
        let mut copy = Self::empty(self.programs);
        let port = self.port.to_string();
        let from = ["-h", "127.0.0.1", "-p", &*port, "-U", SUPERUSER, "--no-password"];
        let how = ["-R", "-X", "stream", "-c", "fast", "--no-sync"];
        run(self.programs.command("pg_basebackup").args(from).args(how).arg("-D").arg(copy.data()));
        copy.set(
            "postgresql.conf",
            "unix_socket_directories",
            copy.dir.to_str().expect("a path of plain text"),
        );
        // When promoted, it waits for no standby.
        copy.set("postgresql.auto.conf", "synchronous_standby_names", "");
        copy.start_somewhere();
        copy
    }

    fn empty(programs: &'static Programs) -> Self {
        let dir = directory("agentkey-postgres-", programs.user);
        let watchdog =
            Watchdog::start(programs.user, "", END_CLUSTER, &programs.bin.join("pg_ctl"), &dir);
        Self { programs, dir, port: 0, watchdog }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The last line for a name holds.
    fn set(&self, file: &str, name: &str, value: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join(file)).unwrap();
        writeln!(file, "{name} = '{}'", value.replace('\'', "''")).unwrap();
    }

    fn start_somewhere(&mut self) {
        on_free_port(|port| {
            self.port = port;
            self.start()
        });
    }

    /// The error is the server's log.
    fn start(&self) -> Result<(), String> {
        let options = format!("-p {}", self.port);
        let mut start = self.pg_ctl("start");
        start.args(["-w", "-t", "60", "-o", &options]).arg("-l").arg(self.dir.join("log"));
        start.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        if start.status().unwrap().success() { Ok(()) } else { Err(self.log()) }
    }

    fn stop(&self, mode: &str) {
        run(self.pg_ctl("stop").args(["-w", "-t", "60", "-m", mode]));
    }

    fn pg_ctl(&self, what: &str) -> Command {
        let mut command = self.programs.command("pg_ctl");
        command.arg(what).arg("-D").arg(self.data());
        command
    }

    fn log(&self) -> String {
        read(&self.dir.join("log"))
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }
}

/// Runs PgBouncer. What it has to say before it has a log is there too.
const BOUNCER: &str = r#"
"$1" "$2/pgbouncer.ini" 2>"$2/log" &
bouncer=$!
"#;

const END_BOUNCER: &str = r#"
kill -9 "$bouncer"
rm -rf "$2"
"#;

/// Stops the server and removes its directory. A program that was just starting may have written there meanwhile.
const END_CLUSTER: &str = r#"
until [ ! -e "$2" ]; do
    "$1" stop -D "$2/data" -m immediate -w -t 30
    rm -rf "$2" || sleep 1
done
"#;

/// A shell that waits for the end of this process, whatever end, and cleans up behind it: statics are not dropped, and
/// after `kill -9` nothing is. Its standard input is a pipe whose other end only this process has.
#[derive(Debug)]
struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// The scripts have the program as `$1` and the directory as `$2`.
    fn start(user: Option<User>, first: &str, at_end: &str, program: &Path, dir: &Path) -> Self {
        // What a terminal sends to all is for the tests. The shell then sees them end.
        let script =
            format!("trap '' HUP INT QUIT TERM\n{first}\nwhile read -r _; do :; done\n{at_end}");
        let mut shell = command(Path::new("sh"), user);
        shell.args(["-c", &script, "sh"]).arg(program).arg(dir).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { shell: shell.spawn().unwrap() }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A new temporary directory of the user's. Who removes it is a [`Watchdog`].
fn directory(starts_with: &str, user: Option<User>) -> PathBuf {
    let passable =
        |dir: &Path| fs::metadata(dir).is_ok_and(|dir| dir.permissions().mode() & 0o001 != 0);
    let mut parent = env::temp_dir();
    if user.is_some() && !parent.ancestors().all(passable) {
        parent = "/tmp".into(); // Root's own folder: the user would not get in.
    }
    let dir = tempfile::Builder::new().prefix(starts_with).tempdir_in(parent).unwrap().keep();
    if let Some(user) = user {
        std::os::unix::fs::chown(&dir, Some(user.uid), Some(user.gid)).unwrap();
    }
    dir
}

fn command(program: &Path, user: Option<User>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name); // PGDATA, PGPORT, PGOPTIONS: they are about another server.
    }
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&said)
    );
}

/// Tries ports until one is free.
///
/// They are below those that systems give to clients: one that knocks again and again at a stopped server's port could
/// otherwise be given that very port for its own end, and speak to itself.
fn on_free_port<T>(mut start: impl FnMut(u16) -> Result<T, String>) -> T {
    let mut last = String::new();
    for _ in 0..20 {
        let port = u16::try_from(10_000 + random() % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_err() {
            continue;
        }
        match start(port) {
            Ok(started) => return started,
            Err(error) if error.contains("Address already in use") => last = error,
            Err(error) => panic!("it does not start:\n{error}"),
        }
    }
    panic!("no free port: {last}");
}

fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Nothing, where there is nothing yet.
fn read(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

/// Says so once, past what libtest captures. Where all must be there, it is a panic.
fn leave_out(once: &Once, what: &str, or: &str) {
    let why =
        format!("tests that need {what}, which is not installed; ./scripts/test installs it{or}");
    assert!(
        env::var_os("AGENTKEY_TEST_POSTGRES").is_none_or(|all| all != "required"),
        "there are {why}"
    );
    once.call_once(|| {
        let _ = writeln!(io::stderr(), "left out: {why}");
    });
}

async fn try_execute(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await
}

async fn execute(url: &str, sql: &str) {
    try_execute(url, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn count(url: &str, sql: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let counted =
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    counted
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < HANG, "it does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
