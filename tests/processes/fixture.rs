//! A database for several processes, and a handle on it.

use agentkey::model::Clock;
use agentkey::{AgentKeys, Amount, Budget, Builder, KeyId, NewKey};

use crate::worker::Worker;

pub const ACCOUNT: &str = "acme";

pub struct Fixture {
    home: Home,
    pub keys: AgentKeys,
    /// How far the clocks of the processes are from that of this machine, one after the other.
    offsets: &'static [&'static str],
}

enum Home {
    #[cfg(feature = "sqlite")]
    Sqlite(tempfile::TempDir),
    #[cfg(feature = "postgres")]
    Postgres(crate::postgres_server::Database),
}

impl Fixture {
    #[cfg(feature = "sqlite")]
    pub async fn sqlite() -> Option<Self> {
        Some(Self::at(Home::Sqlite(tempfile::tempdir().unwrap())).await)
    }

    /// None where no server is installed.
    #[cfg(feature = "postgres")]
    pub async fn postgres() -> Option<Self> {
        let server = crate::postgres_server::Server::shared()?;
        Some(Self::at(Home::Postgres(server.database().await)).await)
    }

    /// The same with processes whose clocks are ten minutes off, either way.
    #[cfg(feature = "postgres")]
    pub async fn postgres_with_other_clocks() -> Option<Self> {
        crate::worker::faketime()?;
        Some(Self { offsets: &["+10m", "-10m"], ..Self::postgres().await? })
    }

    async fn at(home: Home) -> Self {
        let keys = open(&home.address(), Clock::default()).await;
        Self { home, keys, offsets: &[] }
    }

    /// Adds so many old charges of a key by SQL, and refunds of some of them.
    pub async fn add_old_charges(&self, key: KeyId, charges: u32) {
        let address = self.home.address();
        match &self.home {
            #[cfg(feature = "sqlite")]
            Home::Sqlite(_) => crate::retention::add_to_sqlite(&address, key, charges),
            #[cfg(feature = "postgres")]
            Home::Postgres(_) => crate::retention::add_to_postgres(&address, key, charges).await,
        }
    }

    /// The same database once more, at another time.
    pub async fn open_at(&self, clock: impl Into<Clock>) -> AgentKeys {
        open(&self.home.address(), clock.into()).await
    }

    pub fn workers(&self, processes: usize) -> Vec<Worker> {
        let offsets = self.offsets.iter().copied().map(Some).chain([None]).cycle();
        offsets
            .take(processes)
            .map(|offset| Worker::start(&self.home.address(), offset, None))
            .collect()
    }

    /// Workers that share rate limits, at this instant where there is one.
    pub fn limited_workers(&self, processes: usize, at: Option<&str>) -> Vec<Worker> {
        let offsets = self.offsets.iter().copied().map(Some).chain([None]).cycle();
        let limited = Some(at.unwrap_or_default());
        offsets
            .take(processes)
            .map(|offset| Worker::start(&self.home.address(), offset, limited))
            .collect()
    }

    pub async fn key(&self, budget: Budget) -> (KeyId, String) {
        self.create(NewKey::new(ACCOUNT.parse().unwrap()).budget(budget)).await
    }

    pub async fn create(&self, new: NewKey) -> (KeyId, String) {
        let created = self.keys.create(new).await.unwrap();
        (created.key.id, created.token.expose().to_owned())
    }

    pub async fn spent_and_held(&self, key: KeyId) -> (Amount, Amount) {
        let lineage = self.keys.find_by_id(key).await.unwrap().unwrap();
        (lineage.key().balance.spent(), lineage.key().balance.held)
    }
}

impl Home {
    fn address(&self) -> String {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(dir) => dir.path().join("keys.db").to_str().unwrap().to_owned(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.url().to_owned(),
        }
    }
}

/// A file, or a database by its URL.
pub async fn open(address: &str, clock: Clock) -> AgentKeys {
    build(address, clock, AgentKeys::builder()).await
}

pub async fn build(address: &str, clock: Clock, builder: Builder) -> AgentKeys {
    // Refusals are written often, so that a test sees them soon.
    let builder = builder.sweep_interval(std::time::Duration::from_millis(500));
    #[cfg(feature = "postgres")]
    if address.starts_with("postgres") {
        let options = agentkey::store::PostgresOptions::new(address).clock(clock);
        return builder.build(agentkey::PostgresStore::open(options).await.unwrap()).unwrap();
    }
    #[cfg(feature = "sqlite")]
    return builder
        .build(
            agentkey::SqliteStore::open(agentkey::store::SqliteOptions::new(address).clock(clock))
                .await
                .unwrap(),
        )
        .unwrap();
    #[cfg(not(feature = "sqlite"))]
    panic!("no feature for {address}");
}
