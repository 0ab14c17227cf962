//! What the tests share: a store to spy on and to break, a service on a socket, clients.

mod client;
mod logs;
mod spy;
mod verifier;

use std::net::SocketAddr;
use std::time::Duration;

use agentkey::model::ManualClock;
use agentkey::store::Store;
use agentkey::{
    AccountId, AgentKeyLayer, AgentKeys, Amount, Budget, Builder, EntryQuery, KeyId, NewKey,
    ScopeSet, Token,
};
use axum::Router;
use tokio::net::TcpListener;

pub(crate) use client::{Client, Seen, Version, raw};
pub(crate) use logs::{capture_logs, logged};
pub(crate) use spy::{Fault, Faults, Spy, is_hold, is_open, is_pay, is_settle};
pub(crate) use verifier::{Table, subject};

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

pub(crate) const NOON: &str = "2026-01-31T12:00:00Z";

/// The store that the tests run on: the one place where it is made.
async fn store(clock: Option<&ManualClock>) -> Box<dyn Store> {
    #[cfg(feature = "sqlite")]
    {
        let mut options = agentkey::store::SqliteOptions::new(":memory:");
        if let Some(clock) = clock {
            options = options.clock(clock);
        }
        Box::new(agentkey::SqliteStore::open(options).await.unwrap())
    }
    #[cfg(not(feature = "sqlite"))]
    {
        Box::new(clock.map_or_else(agentkey::MemoryStore::new, agentkey::MemoryStore::with_clock))
    }
}

/// Keys on a store of their own.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) keys: AgentKeys,
    pub(crate) spy: std::sync::Arc<Spy>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(AgentKeys::builder()).await
    }

    pub(crate) async fn with(builder: Builder) -> Self {
        Self::on(builder, store(None).await)
    }

    /// With a clock that a test sets.
    pub(crate) async fn at(clock: &ManualClock) -> Self {
        Self::with_clock(AgentKeys::builder(), clock).await
    }

    pub(crate) async fn with_clock(builder: Builder, clock: &ManualClock) -> Self {
        Self::on(builder, store(Some(clock)).await)
    }

    pub(crate) fn on(builder: Builder, store: Box<dyn Store>) -> Self {
        let (store, spy) = spy::on(store);
        Self { keys: builder.build(store).unwrap(), spy }
    }

    pub(crate) fn layer(&self) -> AgentKeyLayer {
        AgentKeyLayer::new(&self.keys)
    }

    /// A key that may do everything named, with $1 to spend in its life.
    pub(crate) async fn key(&self) -> (KeyId, Token) {
        self.create(NewKey::new(acme()).scopes(ScopeSet::parse(["*"]).unwrap()).budget(dollar()))
            .await
    }

    pub(crate) async fn create(&self, new: NewKey) -> (KeyId, Token) {
        let created = self.keys.create(new).await.unwrap();
        (created.key.id, created.token)
    }

    /// What the account's ledger says now. All budgets of these tests are for life, so entries must add up.
    pub(crate) async fn ledger(&self) -> Ledger {
        let account = self.keys.account(&acme()).await.unwrap().unwrap();
        let entries =
            self.keys.entries(&EntryQuery::for_account(acme()).limit(1_000)).await.unwrap().items;
        let entries = entries.iter().map(|entry| (entry.kind.as_str(), entry.amount)).collect();
        Ledger { entries, spent: account.balance.spent(), held: account.balance.held }
    }

    /// Looks at the ledger until it is as it should be.
    pub(crate) async fn until(&self, wanted: &Ledger) {
        let mut seen = self.ledger().await;
        let looking = async {
            while seen != *wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
                seen = self.ledger().await;
            }
        };
        if tokio::time::timeout(HANG, looking).await.is_err() {
            panic!("the ledger says {seen:?}, never {wanted:?}");
        }
    }
}

/// What a ledger says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) entries: Vec<(&'static str, Amount)>,
    pub(crate) spent: Amount,
    pub(crate) held: Amount,
}

impl Ledger {
    /// These entries, in cents, their sum spent, and nothing held.
    pub(crate) fn of(entries: &[(&'static str, i32)]) -> Self {
        Self {
            entries: entries.iter().map(|(kind, amount)| (*kind, Amount::cents(*amount))).collect(),
            spent: Amount::cents(entries.iter().map(|(_, amount)| amount).sum()),
            held: Amount::ZERO,
        }
    }

    pub(crate) fn holding(mut self, cents: i32) -> Self {
        self.held = Amount::cents(cents);
        self
    }
}

pub(crate) fn acme() -> AccountId {
    "acme".parse().unwrap()
}

pub(crate) fn dollar() -> Budget {
    Budget::lifetime(Amount::units(1))
}

pub(crate) fn clock() -> ManualClock {
    ManualClock::at(NOON.parse().unwrap())
}

/// Serves on a port of its own until the test's runtime ends.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

/// Waits for something that only a hang keeps from happening.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, what).await.expect("it never happened")
}
