//! Backends that are terminated, and a server that crashes, in the middle of load.

use agentkey::AgentKeys;

use super::*;
use crate::service::{Answers, CENTS, Load, Service};

/// A service on a database, with keys that have all they need.
struct Served {
    service: Service,
    tokens: Vec<String>,
    pool: PgPool,
}

impl Served {
    async fn on(url: &str) -> Self {
        // However slow the machine starts its server again.
        let options = PostgresOptions::new(url).acquire_timeout(HANG);
        let keys = AgentKeys::builder()
            .request_timeout(HANG)
            .build(PostgresStore::open(options).await.unwrap())
            .unwrap();
        let mut tokens = Vec::new();
        for account in ["a", "b"] {
            let root = keys.create(NewKey::new(account.parse().unwrap())).await.unwrap();
            for _ in 0..3 {
                let child = keys.create(NewKey::child_of(root.key.id)).await.unwrap();
                tokens.push(child.token.expose().to_owned());
            }
        }
        Self { service: Service::new(&keys), tokens, pool: host(url).await }
    }

    fn load(&self) -> Load {
        Load::start(&self.service, &self.tokens, 24)
    }

    /// Every acknowledged charge is there once, no refused one is, and no request was answered with anything but 200.
    async fn check(&self, answers: &Answers) {
        let acknowledged: Vec<_> =
            answers.acknowledged.iter().map(|it| (it.clone(), CENTS * 10_000)).collect();
        audit::charged(&self.pool, &acknowledged).await;
        audit::figures(&self.pool).await;
        audit::not_charged(&self.pool, &answers.refused).await;
        assert_eq!(answers.statuses.keys().collect::<Vec<_>>(), [&200], "{:?}", answers.statuses);
    }
}

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'agentkey'";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn terminated_backends_lose_no_request() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let served = Served::on(database.url()).await;
    let load = served.load();
    let mut terminated = 0;
    for _ in 0..20 {
        load.more(30).await;
        terminated += count(&served.pool, TERMINATE).await;
    }
    load.more(30).await;
    let answers = load.stop().await;
    assert!(terminated >= 40, "the batches had connections: {terminated}");
    served.check(&answers).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_crash_of_the_server_loses_no_request() {
    let Some(server) = Server::start(&[]) else { return };
    let server = Arc::new(server);
    let database = server.database().await;
    let served = Served::on(database.url()).await;
    let load = served.load();
    for _ in 0..3 {
        load.more(200).await;
        blocking(&server, |server| {
            server.stop("immediate");
            server.start_again();
        })
        .await;
    }
    load.more(200).await;
    let answers = load.stop().await;
    // The application's own connections went down too.
    let served = Served { pool: host(database.url()).await, ..served };
    served.check(&answers).await;
    assert!(!server.log().contains("deadlock detected"));
}
