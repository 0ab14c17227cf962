//! What is measured, and the services it is measured on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agentkey::model::RateLimit;
use agentkey::{AgentKeyLayer, AgentKeys, MemoryStore, SqliteStore};

use crate::support::{Result, jwt, service};

/// In every set of keys.
pub const KEYS: usize = 1_000;

/// How old what a cache says may be.
const STALE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Sqlite,
    Postgres,
    SqliteCached,
    PostgresCached,
    MemoryCached,
    /// With a rate limit, counted in this process.
    SqliteLimited,
    PostgresLimited,
    /// With a rate limit that all processes on the database share.
    SqliteShared,
    PostgresShared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    InOneAccount,
    InAccountsOfTheirOwn,
    Hot,
    /// Subjects of another issuer, with signed tokens.
    Subjects,
}

pub struct Case {
    pub on: On,
    pub path: &'static str,
    keys: Keys,
    /// The least share of the bare route.
    pub bar: Option<f64>,
}

const fn case(on: On, path: &'static str, keys: Keys, bar: Option<f64>) -> Case {
    Case { on, path, keys, bar }
}

pub const CASES: [Case; 34] = {
    use Keys::*;
    use On::*;
    [
        case(Sqlite, "/read", InOneAccount, Some(0.60)),
        case(Sqlite, "/read", Hot, None),
        case(Sqlite, "/refused", InOneAccount, None),
        case(Sqlite, "/add", InOneAccount, Some(0.30)),
        case(Sqlite, "/add", InAccountsOfTheirOwn, Some(0.30)),
        case(Sqlite, "/add", Hot, Some(0.30)),
        case(Sqlite, "/hold", InOneAccount, None),
        case(Sqlite, "/hold", InAccountsOfTheirOwn, None),
        case(Postgres, "/read", InOneAccount, Some(0.40)),
        case(Postgres, "/read", Hot, None),
        case(Postgres, "/refused", InOneAccount, None),
        case(Postgres, "/add", InOneAccount, Some(0.20)),
        case(Postgres, "/add", InAccountsOfTheirOwn, Some(0.20)),
        case(Postgres, "/add", Hot, Some(0.20)),
        case(Postgres, "/hold", InOneAccount, Some(0.12)),
        case(Postgres, "/hold", InAccountsOfTheirOwn, Some(0.12)),
        case(PostgresCached, "/read", InOneAccount, Some(0.80)),
        case(PostgresCached, "/read", Hot, Some(0.80)),
        case(PostgresCached, "/add", InOneAccount, None),
        case(SqliteCached, "/read", InOneAccount, None),
        case(SqliteCached, "/read", Hot, None),
        case(SqliteCached, "/add", InOneAccount, None),
        case(MemoryCached, "/read", InOneAccount, None),
        case(MemoryCached, "/read", Hot, None),
        case(SqliteLimited, "/read", InOneAccount, None),
        case(SqliteLimited, "/add", InOneAccount, None),
        case(SqliteShared, "/read", InOneAccount, None),
        case(SqliteShared, "/add", InOneAccount, None),
        case(PostgresLimited, "/read", InOneAccount, None),
        case(PostgresLimited, "/add", InOneAccount, None),
        case(PostgresShared, "/read", InOneAccount, None),
        case(PostgresShared, "/add", InOneAccount, None),
        case(MemoryCached, "/jwt", Subjects, None),
        case(Sqlite, "/jwt", Subjects, None),
    ]
};

impl Case {
    pub fn name(&self) -> String {
        let on = match self.on {
            On::Sqlite => "SQLite",
            On::Postgres => "PostgreSQL",
            On::SqliteCached => "SQLite with cache",
            On::PostgresCached => "PostgreSQL with cache",
            On::MemoryCached => "MemoryStore with cache",
            On::SqliteLimited => "SQLite with limits",
            On::PostgresLimited => "PostgreSQL with limits",
            On::SqliteShared => "SQLite with shared limits",
            On::PostgresShared => "PostgreSQL with shared limits",
        };
        let what = match self.path {
            "/read" => "authenticate + scope",
            "/refused" => "authenticate + a refusal, counted",
            "/jwt" => "authenticate by JWT (RS256) + scope",
            "/add" => "authenticate + one posting",
            _ => "authenticate + hold + settle",
        };
        let keys = match (self.keys, self.path) {
            (Keys::Hot, _) => "one hot key",
            (_, "/read" | "/refused") => "1,000 keys",
            (Keys::Subjects, _) => "1,000 subjects",
            (Keys::InOneAccount, _) => "1,000 keys in one account",
            (Keys::InAccountsOfTheirOwn, _) => "1,000 keys in 1,000 accounts",
        };
        format!("{on}: {what}, {keys}")
    }
}

/// The services that some cases need, each with its handle and at its port.
pub struct Services {
    running: Vec<Service>,
    description: String,
    #[cfg(feature = "postgres")]
    _postgres: Option<crate::support::database::Database>,
    _dir: tempfile::TempDir,
}

struct Service {
    on: On,
    keys: AgentKeys,
    addr: SocketAddr,
    tokens: Arc<Tokens>,
}

struct Tokens {
    in_one_account: Vec<String>,
    in_accounts_of_their_own: Vec<String>,
    of_subjects: Vec<String>,
}

impl Services {
    pub async fn start(cases: &[&Case]) -> Result<Self> {
        let needs = |on: On| cases.iter().any(|case| case.on == on);
        let dir = tempfile::tempdir()?;
        let mut running = Vec::new();
        let on_sqlite = [On::Sqlite, On::SqliteCached, On::SqliteLimited, On::SqliteShared];
        if on_sqlite.into_iter().any(needs) {
            let file = dir.path().join("keys.db");
            let plain = AgentKeys::new(SqliteStore::connect(&file).await?)?;
            let cached =
                AgentKeys::builder().cache(STALE).build(SqliteStore::connect(&file).await?)?;
            let limited = AgentKeys::new(SqliteStore::connect(&file).await?)?;
            let shared = AgentKeys::builder().shared_rate_limits(true);
            let shared = shared.build(SqliteStore::connect(&file).await?)?;
            let handles = [
                (On::Sqlite, plain),
                (On::SqliteCached, cached),
                (On::SqliteLimited, limited),
                (On::SqliteShared, shared),
            ];
            running.extend(Service::together(handles).await?);
        }
        if needs(On::MemoryCached) {
            let cached = AgentKeys::builder().cache(STALE).build(MemoryStore::new())?;
            let tokens = Tokens::make(&cached).await?;
            running.push(Service::start(On::MemoryCached, cached, tokens).await?);
        }
        let services = Self {
            running,
            description: format!(
                "SQLite on a file in {}",
                dir.path().parent().unwrap_or(dir.path()).display()
            ),
            #[cfg(feature = "postgres")]
            _postgres: None,
            _dir: dir,
        };
        let on_postgres =
            [On::Postgres, On::PostgresCached, On::PostgresLimited, On::PostgresShared];
        if on_postgres.into_iter().any(needs) {
            services.with_postgres().await
        } else {
            Ok(services)
        }
    }

    #[cfg(feature = "postgres")]
    async fn with_postgres(mut self) -> Result<Self> {
        use agentkey::PostgresStore;

        let Some(database) = crate::support::database::Database::start().await else {
            return Ok(self);
        };
        let plain = AgentKeys::new(PostgresStore::connect(database.url()).await?)?;
        let cached = AgentKeys::builder()
            .cache(STALE)
            .build(PostgresStore::connect(database.url()).await?)?;
        let limited = AgentKeys::new(PostgresStore::connect(database.url()).await?)?;
        let shared = AgentKeys::builder().shared_rate_limits(true);
        let shared = shared.build(PostgresStore::connect(database.url()).await?)?;
        let handles = [
            (On::Postgres, plain),
            (On::PostgresCached, cached),
            (On::PostgresLimited, limited),
            (On::PostgresShared, shared),
        ];
        self.running.extend(Service::together(handles).await?);
        self.description = format!("{}; {}", self.description, database.describe().await?);
        self._postgres = Some(database);
        Ok(self)
    }

    #[cfg(not(feature = "postgres"))]
    async fn with_postgres(self) -> Result<Self> {
        Ok(self)
    }

    /// What they run on.
    pub fn description(&self) -> &str {
        &self.description
    }

    pub fn has(&self, on: On) -> bool {
        self.running.iter().any(|service| service.on == on)
    }

    /// Where to send requests, and with which tokens.
    pub fn of(&self, case: &Case) -> (SocketAddr, &[String]) {
        let service = self
            .running
            .iter()
            .find(|service| service.on == case.on)
            .expect("a service that is there");
        let tokens = match case.keys {
            Keys::InOneAccount => &service.tokens.in_one_account[..],
            Keys::InAccountsOfTheirOwn => &service.tokens.in_accounts_of_their_own[..],
            Keys::Hot => &service.tokens.in_one_account[..1],
            Keys::Subjects => &service.tokens.of_subjects[..],
        };
        (service.addr, tokens)
    }

    pub async fn stop(self) {
        for service in &self.running {
            service.keys.shutdown().await;
        }
    }
}

impl Service {
    /// Handles on the same database.
    async fn together(handles: [(On, AgentKeys); 4]) -> Result<Vec<Self>> {
        let tokens = Tokens::make(&handles[0].1).await?;
        let mut services = Vec::new();
        for (on, keys) in handles {
            services.push(Self::start(on, keys, tokens.clone()).await?);
        }
        Ok(services)
    }

    async fn start(on: On, keys: AgentKeys, tokens: Arc<Tokens>) -> Result<Self> {
        let layer = AgentKeyLayer::new(&keys);
        let layer = match on {
            On::SqliteLimited | On::PostgresLimited | On::SqliteShared | On::PostgresShared => {
                layer.rate_limit(RateLimit::per_second(1_000_000))
            }
            _ => layer,
        };
        let app = service::keyed_by(layer)
            .merge(service::refused(&keys))
            .merge(service::of_subjects(jwt::layer(&keys)?));
        let addr = service::serve(app).await?;
        Ok(Self { on, keys, addr, tokens })
    }
}

impl Tokens {
    async fn make(keys: &AgentKeys) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            in_one_account: service::make_keys(keys, KEYS, 1).await?,
            in_accounts_of_their_own: service::make_keys(keys, KEYS, KEYS).await?,
            of_subjects: jwt::make_tokens(keys, KEYS).await?,
        }))
    }
}
