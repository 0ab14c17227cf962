//! The public API as an application meets it: errors that say what to do, responses, lists, records as JSON, spans.
#![cfg(all(feature = "axum", feature = "sqlite"))]

use std::time::Duration;

use agentkey::UsageQuery;
use agentkey::model::{Account, ChangeError, Entry, ManualClock};
use agentkey::store::{SqliteOptions, UsageBy};
use agentkey::{
    AccountId, AgentKeyLayer, AgentKeys, Amount, Budget, BuildError, Created, EntryQuery, Error,
    Grace, Holder, Key, KeyId, KeyPatch, KeyQuery, MemoryStore, NewKey, Prune, ReconcileQuery,
    Refusal, Rejection, RequireScope, ScopeSet, SqliteStore,
};
use axum::response::IntoResponse;
use futures_util::TryStreamExt;
use tower::Layer;

async fn service() -> (AgentKeys, Key) {
    let keys = AgentKeys::in_memory().await.unwrap();
    let new = NewKey::new("acme".parse().unwrap()).budget(Budget::monthly(Amount::cents(500)));
    let key = keys.create(new).await.unwrap().key;
    (keys, key)
}

#[tokio::test]
async fn an_option_out_of_range_fails_in_build_and_names_what_it_takes() {
    let refused =
        |builder: agentkey::Builder| builder.build(MemoryStore::new()).unwrap_err().to_string();
    assert_eq!(
        refused(AgentKeys::builder().hold_ttl(Duration::from_millis(10))),
        "hold_ttl is 10ms, and must be from 1 s to a day"
    );
    assert_eq!(
        refused(AgentKeys::builder().max_depth(65)),
        "max_depth is 65, and must be from 1 to 64"
    );
    assert_eq!(
        refused(AgentKeys::builder().max_queue(0)),
        "max_queue is 0, and must be from 1 to 536,870,911"
    );
    for builder in [
        AgentKeys::builder().hold_ttl(Duration::MAX),
        AgentKeys::builder().max_hold_age(Duration::ZERO),
        AgentKeys::builder().sweep_interval(Duration::ZERO),
        AgentKeys::builder().cache(Duration::MAX),
        AgentKeys::builder().request_timeout(Duration::MAX),
        AgentKeys::builder().settle_timeout(Duration::MAX),
        AgentKeys::builder().max_open_charges(usize::MAX),
        AgentKeys::builder().max_open_charges_per_account(0),
    ] {
        assert!(matches!(builder.build(MemoryStore::new()), Err(BuildError::OutOfRange { .. })));
    }
}

#[test]
fn a_handle_outside_of_a_runtime_is_an_error() {
    let error = AgentKeys::new(MemoryStore::new()).unwrap_err();
    assert_eq!(error, BuildError::NoRuntime);
    assert!(error.to_string().contains("#[tokio::main]"), "{error}");
}

#[tokio::test]
async fn a_url_picks_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.db");
    for url in [
        "sqlite::memory:".to_owned(),
        format!("sqlite://{}", file.display()),
        file.display().to_string(),
    ] {
        AgentKeys::connect(&url).await.unwrap().shutdown().await;
    }
    assert!(file.exists());
    let error =
        AgentKeys::connect("mysql://user:secret@localhost/keys").await.unwrap_err().to_string();
    assert!(error.starts_with("mysql: ") && error.contains("postgres://"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    for dsn in ["host=db password=secret", "password=secret options='-c a=b://c'"] {
        let error = AgentKeys::connect(dsn).await.unwrap_err();
        let error = format!("{error} {:?}", std::error::Error::source(&error));
        assert!(error.contains("postgres://") && !error.contains("secret"), "{error}");
    }
}

/// The application reads which key is the reason. A client does not: the key may be another's.
#[tokio::test]
async fn a_key_that_is_not_in_force_is_named_to_the_application_only() {
    let clock = ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap());
    let keys = AgentKeys::new(MemoryStore::with_clock(&clock)).unwrap();
    let new = NewKey::new("acme".parse().unwrap()).expires_in("30d".parse().unwrap());
    let root = keys.create(new).await.unwrap().key.id;
    let key = keys.create(NewKey::child_of(root)).await.unwrap().key.id;
    let by_ancestor =
        |what: &str| format!("key {key} is not in force: its ancestor, key {root}, {what}");
    let changes = async || {
        let rename = || KeyPatch::new().name("b");
        [
            (root, keys.create(NewKey::child_of(root)).await.map(drop)),
            (root, keys.update(root, rename()).await.map(drop)),
            (root, keys.rotate(root, Grace::NONE).await.map(drop)),
            (key, keys.create(NewKey::child_of(key)).await.map(drop)),
            (key, keys.update(key, rename()).await.map(drop)),
            (key, keys.rotate(key, Grace::NONE).await.map(drop)),
        ]
    };
    clock.advance(Duration::from_secs(31 * 24 * 3_600));
    let expired: Vec<_> = changes().await.into_iter().filter_map(|(_, it)| it.err()).collect();
    // An expired key may be changed, for example to expire later.
    let texts = expired.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts, [format!("key {root} has expired"), by_ancestor("has expired")]);

    keys.revoke(root, None).await.unwrap();
    for (changed, result) in changes().await {
        let error = result.unwrap_err();
        let text = if changed == root {
            format!("key {root} was revoked")
        } else {
            by_ancestor("was revoked")
        };
        assert_eq!(error.to_string(), text);
        let body = error.to_response().into_body();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"], "not_in_force");
        assert_eq!(
            body["detail"],
            "the key to be changed, or an ancestor of it, is revoked or expired"
        );
    }
}

#[tokio::test]
async fn a_key_of_another_account_is_not_revoked() {
    let (keys, key) = service().await;
    let other = "other".parse().unwrap();
    let theirs = keys.create(NewKey::new(other)).await.unwrap().key;
    for (account, key) in [(&key.account, theirs.id), (&theirs.account, key.id)] {
        let error = keys.revoke_in(account, key, None).await.unwrap_err();
        assert!(
            matches!(error, Error::Change(ChangeError::UnknownKey(id)) if id == key),
            "{error}"
        );
        assert_eq!(keys.find_by_id(key).await.unwrap().unwrap().key().revoked_at, None);
    }
    let revoked = keys.revoke_in(&theirs.account, theirs.id, Some("leaked")).await.unwrap();
    assert!(revoked.revoked_at.is_some() && revoked.revoked_reason.as_deref() == Some("leaked"));
}

#[test]
fn a_grouping_is_one_word_as_in_the_query_of_an_url() {
    for (by, text) in [
        (UsageBy::Key, "key"),
        (UsageBy::Hour, "hour"),
        (UsageBy::Day, "day"),
        (UsageBy::Month, "month"),
        (UsageBy::Label("model".into()), "label:model"),
        (UsageBy::Label("a:b \"c\"".into()), "label:a:b \"c\""),
    ] {
        assert_eq!((by.to_string().as_str(), text.parse().as_ref()), (text, Ok(&by)));
        let json = serde_json::to_string(text).unwrap();
        assert_eq!(serde_json::to_string(&by).unwrap(), json);
        assert_eq!(serde_json::from_str::<UsageBy>(&json).unwrap(), by);
    }
    for text in ["", "Key", "label", "label:", "week", "key "] {
        let error = serde_json::from_value::<UsageBy>(text.into()).unwrap_err().to_string();
        assert!(error.starts_with("usage is grouped by `key`"), "{error}");
    }
}

#[tokio::test]
async fn every_error_is_a_response() {
    let (keys, key) = service().await;
    let unknown = keys.revoke(agentkey::KeyId::new(99), None).await.unwrap_err();
    let invalid = keys
        .create(NewKey::child_of(key.id).budget(Budget::monthly(Amount::cents(-1))))
        .await
        .unwrap_err();
    let too_much = keys.refund(
        &key.account,
        "018f0000-0000-7000-8000-000000000000".parse().unwrap(),
        Amount::cents(1),
    );
    let cases: [(Error, u16, &str); 4] = [
        (unknown, 404, "unknown_key"),
        (invalid, 400, "invalid_field"),
        (too_much.await.unwrap_err(), 404, "unknown_entry"),
        (
            Error::Change(ChangeError::NotInForce {
                key: KeyId::new(4711),
                by: KeyId::new(4712),
                refusal: Refusal::ExpiredKey,
            }),
            409,
            "not_in_force",
        ),
    ];
    for (error, status, code) in cases {
        let response = error.to_response();
        assert_eq!(response.status(), status, "{error}");
        assert!(
            !response.headers().contains_key("www-authenticate"),
            "it is no error of the client's own credential"
        );
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["error"], code, "{body}");
        if code == "invalid_field" {
            assert_eq!(body["field"], "budgets", "{body}");
        }
        assert_eq!(Rejection::from(error).into_response().status(), status);
    }
    let failed = agentkey::StoreError::failed("disk image is malformed");
    assert_eq!(failed.to_string(), "the store failed", "what it was is its source");
    assert_eq!(std::error::Error::source(&failed).unwrap().to_string(), "disk image is malformed");
    let broken = Error::from(failed);
    let response = broken.to_response();
    assert_eq!(response.status(), 500);
    assert!(
        !String::from_utf8_lossy(response.body()).contains("malformed"),
        "inner details stay inside"
    );
    assert_eq!(
        Error::from(agentkey::StoreError::unavailable("down")).into_response().status(),
        503
    );
    assert_eq!(Refusal::MissingKey.into_response().status(), 401);
}

#[tokio::test]
async fn lists_are_pages_and_streams_of_the_same() {
    let (keys, root) = service().await;
    for _ in 0..7 {
        keys.create(NewKey::child_of(root.id)).await.unwrap();
        keys.adjust(root.id, Amount::cents(1), "a line of the ledger", None).await.unwrap();
    }
    let ids = |keys: Vec<Key>| keys.into_iter().map(|key| key.id.get()).collect::<Vec<_>>();
    let query = KeyQuery::for_account(root.account.clone()).limit(3);
    let first = keys.keys(&query).await.unwrap();
    assert_eq!((ids(first.items), first.next.map(agentkey::KeyId::get)), (vec![1, 2, 3], Some(3)));
    assert_eq!(
        ids(keys.key_stream(query).try_collect().await.unwrap()),
        (1..=8).collect::<Vec<_>>()
    );
    let children = KeyQuery::children_of(root.id).limit(2);
    assert_eq!(
        ids(keys.key_stream(children).try_collect().await.unwrap()),
        (2..=8).collect::<Vec<_>>()
    );

    let entries = EntryQuery::for_account(root.account.clone()).limit(2);
    let all: Vec<Entry> = keys.entry_stream(entries.clone()).try_collect().await.unwrap();
    assert_eq!(all.len(), 7);
    // No number: it is above 2^53, and JavaScript would round it.
    let next = serde_json::to_value(keys.entries(&entries).await.unwrap()).unwrap()["next"].clone();
    assert!(next.is_string(), "{next}");
    let rest = entries.clone().after(serde_json::from_value(next).unwrap()).limit(100);
    assert_eq!(keys.entries(&rest).await.unwrap().items, all[2..]);
    for limit in [0, 1_001] {
        let refused = keys.entries(&entries.clone().limit(limit)).await.unwrap_err().to_string();
        assert_eq!(refused, format!("limit: is {limit}, and must be 1 to 1,000"));
        let mut stream = keys.entry_stream(entries.clone().limit(limit));
        assert!(stream.try_next().await.is_err());
        assert!(stream.try_next().await.unwrap().is_none(), "it ends with the error");
    }
}

#[tokio::test]
async fn balances_are_compared_in_pages_accounts_first() {
    let keys = AgentKeys::in_memory().await.unwrap();
    let mut wanted: Vec<Holder> = Vec::new();
    let mut made = Vec::new();
    for account in ["a", "b", "c"] {
        let account: AccountId = account.parse().unwrap();
        wanted.push(account.clone().into());
        for _ in 0..2 {
            let key = keys.create(NewKey::new(account.clone())).await.unwrap().key;
            keys.adjust(key.id, Amount::cents(3), "a correction", None).await.unwrap();
            made.push(key);
        }
    }
    wanted.extend(made.iter().map(|key| Holder::Key(key.id)));
    for size in [1, 2, 3, 4, 100] {
        let mut query = ReconcileQuery::all().limit(size);
        let mut found = Vec::new();
        loop {
            let page = keys.reconcile(&query).await.unwrap();
            assert!(page.items.len() <= size as usize && page.items.iter().all(|it| it.agrees()));
            found.extend(page.items.iter().map(|it| it.holder()));
            // The cursor survives in the hands of a client.
            let Some(next) = page.next else { break };
            let next = serde_json::from_value(serde_json::to_value(next).unwrap()).unwrap();
            query = query.after(next);
        }
        assert_eq!(found, wanted, "{size}");
    }
    let of_b: Vec<_> = keys
        .reconcile_stream(ReconcileQuery::for_account("b".parse().unwrap()).limit(1))
        .map_ok(|found| found.holder())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(of_b, [wanted[1].clone(), made[2].id.into(), made[3].id.into()]);
    let unknown = ReconcileQuery::for_account("nobody".parse().unwrap());
    assert_eq!(keys.reconcile(&unknown).await.unwrap().items, []);
    assert!(matches!(
        keys.reconcile(&ReconcileQuery::all().limit(0)).await,
        Err(Error::Change(ChangeError::Invalid { field: "limit", .. }))
    ));

    assert!(keys.mend_balance(made[0].id).await.unwrap().agrees());
    let account: AccountId = "nobody".parse().unwrap();
    let error = keys.mend_balance(account.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Change(ChangeError::UnknownAccount(of)) if of == account));
    let error = keys.mend_balance(KeyId::new(99)).await.unwrap_err();
    assert!(matches!(error, Error::Change(ChangeError::UnknownKey(of)) if of.get() == 99));
}

#[tokio::test]
async fn records_are_read_back_as_they_were_written() {
    fn read_back<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }
    let keys = AgentKeys::in_memory().await.unwrap();
    let account: Account = keys
        .ensure_account("acme".parse().unwrap(), Budget::daily(Amount::units(9)))
        .await
        .unwrap();
    let new = NewKey::new(account.id.clone())
        .name("crawler")
        .scopes(ScopeSet::parse(["read", "docs.*"]).unwrap())
        .budget(Budget::monthly(Amount::cents(500)).and_daily(Amount::cents(50)))
        .delegated_by("user_456")
        .metadata(r#"{"team":"search"}"#.parse().unwrap())
        .expires_in("30d".parse().unwrap());
    let created = keys.create(new).await.unwrap();
    keys.adjust(created.key.id, Amount::cents(3), "a line", Some("ticket 17")).await.unwrap();
    let same: Created = read_back(&created);
    assert_eq!((same.key, same.token.expose()), (created.key.clone(), created.token.expose()));
    // A record without one of its members is not read as one that allows more.
    let whole = serde_json::to_value(&created.key).unwrap();
    for member in whole.as_object().unwrap().keys() {
        let mut part = whole.clone();
        part.as_object_mut().unwrap().remove(member);
        assert!(serde_json::from_value::<agentkey::Key>(part).is_err(), "{member}");
    }
    assert_eq!(read_back(&account), account);
    let page = keys.entries(&EntryQuery::for_account(account.id.clone())).await.unwrap();
    assert_eq!(page.items.len(), 1);
    assert_eq!(read_back(&page), page);
    let usage =
        keys.usage(&UsageQuery::for_account(account.id.clone(), UsageBy::Key)).await.unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!(read_back(&usage), usage);
}

#[tokio::test]
async fn services_give_their_inner_service_back() {
    let (keys, _) = service().await;
    let mut scoped = RequireScope::one("read").unwrap().layer(7);
    *scoped.get_mut() += 1;
    assert_eq!(*scoped.get_ref(), 8);
    assert_eq!(AgentKeyLayer::new(&keys).layer(scoped).into_inner().into_inner(), 8);
    let layer = AgentKeyLayer::new(&keys);
    assert_eq!(agentkey::http::AgentKeyService::new(9, &layer).into_inner(), 9);
}

/// What the response keeps from the client is in the log, also where a handler only says `?`.
#[tokio::test]
async fn an_error_that_the_response_hides_is_logged() {
    use tracing_subscriber::layer::SubscriberExt;

    let recorder = spans::Recorder::default();
    let _guard =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(recorder.clone()));
    let broken = || Error::from(agentkey::StoreError::failed("disk image is malformed"));
    let logged = || {
        recorder.0.lock().unwrap().iter().filter(|(_, value)| value.contains("malformed")).count()
    };
    drop(broken().to_response());
    assert_eq!(logged(), 1);
    drop(Rejection::from(broken()).into_response());
    assert_eq!(logged(), 2);
    assert_eq!(Refusal::from(broken()), Refusal::Misconfigured);
    assert_eq!(logged(), 3);
    drop(Error::Refused(Refusal::MissingKey).to_response());
    assert_eq!(recorder.0.lock().unwrap().iter().filter(|(field, _)| field == "error").count(), 3);
}

/// The fields of spans and events, as a subscriber sees them.
mod spans {
    use std::fmt;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};

    #[derive(Clone, Default)]
    pub(super) struct Recorder(pub(super) Arc<Mutex<Vec<(String, String)>>>);

    impl Visit for &Recorder {
        fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
            self.0
                .lock()
                .unwrap()
                .push((field.name().to_owned(), format!("{value}: {:?}", value.source())));
        }

        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.lock().unwrap().push((field.name().to_owned(), format!("{value:?}")));
        }
    }

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Recorder {
        fn on_new_span(
            &self,
            _: &Attributes<'_>,
            _: &Id,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
        }

        fn on_record(
            &self,
            _: &Id,
            values: &Record<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            values.record(&mut &*self);
        }

        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            event.record(&mut &*self);
        }
    }
}

#[tokio::test]
async fn the_span_of_a_request_gets_the_key_and_the_account() {
    use tower::ServiceExt;
    use tracing::Instrument;
    use tracing_subscriber::layer::SubscriberExt;

    let keys = AgentKeys::in_memory().await.unwrap();
    let created = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let app = axum::Router::new()
        .route("/", axum::routing::get(|| async { "hello" }))
        .layer(AgentKeyLayer::new(&keys));
    let recorder = spans::Recorder::default();
    let _guard =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(recorder.clone()));
    let span = tracing::info_span!(
        "request",
        agentkey.key_id = tracing::field::Empty,
        agentkey.account = tracing::field::Empty
    );
    let request = axum::http::Request::get("/").header("x-api-key", created.token.expose());
    let response = app
        .oneshot(request.body(axum::body::Body::empty()).unwrap())
        .instrument(span)
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let recorded = recorder.0.lock().unwrap().clone();
    let field = |name: &str| {
        recorded.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone())
    };
    assert_eq!(field("agentkey.key_id"), Some(created.key.id.get().to_string()), "{recorded:?}");
    assert_eq!(field("agentkey.account"), Some("\"acme\"".to_owned()), "{recorded:?}");
}

#[tokio::test]
async fn each_table_is_pruned_in_turn_and_none_waits_for_another() {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
    let store = SqliteStore::open(SqliteOptions::new(":memory:").clock(&clock)).await.unwrap();
    let keys = AgentKeys::new(store).unwrap();
    let key = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap().key;
    let context = keys.authorize_by_id(key.id).await.unwrap();
    let charge = keys.charge(&context).await.unwrap();
    charge.hold(Amount::cents(1)).await.unwrap();
    for _ in 0..1_100 {
        charge.pay(Amount::micros(1)).await.unwrap();
    }
    charge.settle().await.unwrap();
    clock.advance(100 * DAY);
    let mut reports = Vec::new();
    let prune = Prune::older_than(90 * DAY);
    let pruned = keys.prune_reporting(&prune, |so_far| reports.push(*so_far)).await.unwrap();
    assert_eq!((pruned.entries, pruned.holds, pruned.events), (1_100, 1, 1));
    let first = reports.iter().find(|so_far| so_far.holds + so_far.events == 2).unwrap();
    assert!(first.entries < 1_100, "{first:?}");
    assert!(reports.windows(2).all(|two| two[0].entries <= two[1].entries));
}
