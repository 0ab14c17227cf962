//! What one step costs on SQLite: `cargo bench -p agentkey-benches --bench steps`.
//!
//! One request at a time, so the figures of the store are those of a quiet service: a look-up is one statement, a
//! posting one transaction with an fsync.

use std::time::{Duration, Instant};

use agentkey::http::OnExpiry;
use agentkey::ledger::{Action, Posting};
use agentkey::model::Note;
use agentkey::store::Store;
use agentkey::{AgentKeys, Amount, Budget, NewKey, ScopeSet, SqliteStore, Token};
use criterion::{Criterion, criterion_group, criterion_main};

fn token(c: &mut Criterion) {
    let token = Token::generate(&"ak_live".parse().unwrap()).unwrap();
    let text = token.expose().to_owned();
    c.bench_function("token parse + hash", |b| {
        b.iter(|| Token::parse(&text).map(|token| token.hash()))
    });
}

fn sqlite(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.db");
    let file = file.to_str().unwrap();
    let (keys, store, created) = runtime.block_on(async {
        let keys = AgentKeys::sqlite(file).await.unwrap();
        let new = NewKey::new("acme".parse().unwrap())
            .scopes(ScopeSet::unrestricted())
            .budget(Budget::unlimited());
        let created = keys.create(new).await.unwrap();
        (keys, SqliteStore::connect(file).await.unwrap(), created)
    });

    c.bench_function("authenticate on SQLite", |b| {
        b.to_async(&runtime)
            .iter(async || keys.find(&created.token).await.unwrap().unwrap().check_active());
    });

    let posting = |action| Posting::new(created.key.account.clone(), created.key.id, action);
    c.bench_function("hold + settle on SQLite", |b| {
        b.to_async(&runtime).iter_custom(async |times| {
            let start = Instant::now();
            for _ in 0..times {
                let amount = Amount::cents(5);
                let ttl = Duration::from_secs(60);
                let on_expiry = OnExpiry::Release;
                let hold = posting(Action::Hold {
                    amount,
                    ttl,
                    on_expiry,
                    note: Note::default(),
                    claim: None,
                });
                let holds = vec![hold.id];
                store.post(&[hold]).await.unwrap().pop().unwrap().unwrap();
                let settle = Action::Settle {
                    holds,
                    void: vec![],
                    cost: Amount::cents(3),
                    note: Note::default(),
                    claim: None,
                };
                store.post(&[posting(settle)]).await.unwrap().pop().unwrap().unwrap();
            }
            start.elapsed()
        });
    });
}

criterion_group!(benches, token, sqlite);
criterion_main!(benches);
