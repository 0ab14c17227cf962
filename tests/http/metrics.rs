//! What the metrics say, as Prometheus reads it: their names and labels, and what each counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentkey::{AgentKeys, Amount, Charge, MemoryStore, NewKey, Rejection, RequireScope};
use axum::Router;
use axum::routing::{get, post};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::refusals::{answer, ask, ask_with, paid};
use super::support::{Fault, Faults, World, dollar, is_hold, is_settle, soon};

const DOCUMENT: &str = include_str!("../../docs/operations.md");
const DASHBOARD: &str = include_str!("../../docs/grafana-dashboard.json");

/// A recorder of one test. The handle has to be built while it is the recorder of the thread.
fn recorder() -> (&'static PrometheusRecorder, PrometheusHandle) {
    let recorder: &'static PrometheusRecorder =
        Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
    (recorder, recorder.handle())
}

/// The value of a series; zero if there is none.
fn value(prometheus: &PrometheusHandle, series: &str) -> f64 {
    let text = prometheus.render();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// The names, the kinds and the labels of everything in a text for Prometheus, without the quantiles of summaries.
fn series(prometheus: &PrometheusHandle) -> BTreeSet<String> {
    let text = prometheus.render();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let series = lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
    series.filter(|series| !series.contains("quantile")).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Described {
    kind: String,
    help: String,
    label: String,
    values: BTreeSet<String>,
}

/// The metrics that a handle registers, by name.
fn registered(prometheus: &PrometheusHandle) -> BTreeMap<String, Described> {
    let text = prometheus.render();
    let mut metrics: BTreeMap<String, Described> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
            let (kind, label, values) = Default::default();
            metrics.insert(name.into(), Described { kind, help: help.into(), label, values });
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' '))
        {
            let kind = if kind == "summary" { "histogram" } else { kind };
            metrics.get_mut(name).expect(name).kind = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let name = name.trim_end_matches("_sum").trim_end_matches("_count");
            let (labels, _) = labels.split_once('}').unwrap();
            let own = labels.split(',').filter(|label| !label.starts_with("quantile"));
            for (label, value) in own.map(|label| label.split_once('=').unwrap()) {
                let metric = metrics.get_mut(name).unwrap();
                assert!(metric.label.is_empty() || metric.label == label, "{line}");
                metric.label = label.to_owned();
                metric.values.insert(value.trim_matches('"').to_owned());
            }
        }
    }
    metrics
}

fn documented() -> BTreeMap<String, Described> {
    let (_, table) = DOCUMENT.split_once("| Name | Kind | Label | Values | Meaning |\n").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let words = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, label, values, help] = cells[..] else { panic!("{row}") };
        let name = words(name).pop_first().unwrap();
        let label = words(label).pop_first().unwrap_or_default();
        let (kind, help) = (kind.to_owned(), help.to_owned());
        (name, Described { kind, help, label, values: words(values) })
    })
    .collect()
}

#[tokio::test]
async fn the_document_has_every_metric() {
    let (recorder, prometheus) = recorder();
    let _recording = metrics::set_default_local_recorder(recorder);
    let world = World::new().await;
    // The one decision of those in the table that is not there before it is made.
    let app = Router::new().route("/", get(async || "")).layer(world.layer().optional(true));
    assert_eq!(answer(&app, ask("/")).await.status, 200);
    assert_eq!(registered(&prometheus), documented());
}

/// Fails if an expression of Prometheus reads a series that no metric has, or sums by another label; the metrics it reads.
fn reads(expression: &str, metrics: &BTreeMap<String, Described>) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = expression.split(|c| !is_name(c)).filter(|word| word.starts_with("agentkey_"));
    let read: BTreeSet<String> = names
        .map(|name| {
            let parts = ["_bucket", "_sum", "_count"];
            let of_histogram = parts.iter().find_map(|part| name.strip_suffix(part));
            let (name, kind) = of_histogram.map_or((name, None), |name| (name, Some("histogram")));
            let metric = metrics.get(name).unwrap_or_else(|| panic!("no {name}: {expression}"));
            assert_eq!(kind.is_some(), metric.kind == "histogram", "{expression}");
            let is_rate = ["rate(", "increase("].iter().any(|rate| expression.contains(rate));
            assert_eq!(is_rate, metric.kind != "gauge", "{expression}");
            name.to_owned()
        })
        .collect();
    for by in expression.split("by (").skip(1) {
        for label in by.split(')').next().unwrap().split(", ").filter(|label| *label != "le") {
            assert!(read.iter().any(|name| metrics[name].label == label), "{label}: {expression}");
        }
    }
    let pieces: Vec<_> = expression.split('"').collect();
    for [before, values] in pieces.as_chunks::<2>().0 {
        if values.starts_with('$') {
            continue; // a variable of the dashboard
        }
        let label = before.trim_end_matches(['=', '~']).rsplit(|c| !is_name(c)).next().unwrap();
        let of_label = read.iter().map(|name| &metrics[name]).find(|metric| metric.label == label);
        let of_label = of_label.unwrap_or_else(|| panic!("{label}: {expression}"));
        assert!(values.split('|').all(|value| of_label.values.contains(value)), "{expression}");
    }
    read
}

#[test]
fn the_dashboard_and_the_alerts_read_metrics_that_there_are() {
    let metrics = documented();
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let shown: BTreeSet<_> =
        targets.flat_map(|target| reads(target["expr"].as_str().unwrap(), &metrics)).collect();
    assert!(shown.iter().eq(metrics.keys()), "each metric has a panel: {shown:?}");

    let (_, table) = DOCUMENT.split_once("| Alert | Why |\n").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    for row in rows {
        let alert = row.split('`').nth(1).unwrap().replace("\\|", "|");
        assert!(!reads(&alert, &metrics).is_empty(), "{row}");
    }
}

async fn panics() -> &'static str {
    panic!("the handler fails")
}

#[tokio::test]
async fn each_request_counts_once_by_its_decision() {
    let (recorder, prometheus) = recorder();
    let _recording = metrics::set_default_local_recorder(recorder);
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (_, poor) = world.create(NewKey::new("poor".parse().unwrap()).budget(dollar())).await;
    let (gone, revoked) = world.create(NewKey::new("poor".parse().unwrap())).await;
    world.keys.revoke(gone, None).await.unwrap();
    let decided = |decision: &str| {
        value(&prometheus, &format!("agentkey_requests_total{{decision=\"{decision}\"}}"))
    };
    let routes = Router::new()
        .route("/paid", get(paid))
        .route("/dear", get(async |charge: Charge| charge.hold(Amount::units(2)).await))
        .route("/panic", get(panics))
        .route("/scoped", get(async || "").layer(RequireScope::one("docs.write").unwrap()));
    // Refusals that the application answers in its own way count too, and two layers count once.
    let own = world.layer().on_refusal(|_, _| http::Response::new("mine".into()));
    for (round, app) in [
        routes.clone().layer(world.layer()),
        routes.clone().layer(world.layer()).layer(world.layer()),
        routes.layer(own),
    ]
    .into_iter()
    .enumerate()
    {
        for (request, decision) in [
            (ask("/paid"), "missing_key"),
            (ask_with("/paid", &revoked), "revoked_key"),
            (ask_with("/dear", &token), "budget_exceeded"),
            (ask_with("/scoped", &poor), "insufficient_scope"),
            (ask_with("/paid", &token), "accepted"),
        ] {
            let before = (decided(decision), decided("accepted"));
            drop(answer(&app, request).await);
            let accepted = if decision == "accepted" { 1.0 } else { 0.0 };
            let after = (decided(decision), decided("accepted"));
            assert_eq!(after, (before.0 + 1.0, before.1 + accepted), "{decision} in round {round}");
        }
        // A request that was let through and has no response was accepted.
        let before = decided("accepted");
        let panicking = tokio::spawn({
            let (app, request) = (app.clone(), ask_with("/panic", &token));
            async move { answer(&app, request).await }
        });
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!(decided("accepted"), before + 1.0);
    }
}

#[tokio::test]
async fn money_is_counted_in_micros_and_open_holds_while_they_are_open() {
    let (recorder, prometheus) = recorder();
    let _recording = metrics::set_default_local_recorder(recorder);
    let world = World::new().await;
    let (_, token) = world.key().await;
    let posted = |posting: &str| {
        value(&prometheus, &format!("agentkey_posted_micros_total{{posting=\"{posting}\"}}"))
    };
    let open = {
        let prometheus = prometheus.clone();
        move || ["charges", "holds"].map(|it| value(&prometheus, &format!("agentkey_open_{it}")))
    };
    let seen = open.clone();
    let meter = async move |charge: Charge| -> Result<(), Rejection> {
        assert_eq!(seen(), [1.0, 0.0]);
        charge.hold(Amount::cents(10)).await?;
        charge.hold(Amount::cents(20)).await?;
        // What is refused is not counted.
        charge.hold(Amount::units(5)).await.unwrap_err();
        assert_eq!(seen(), [1.0, 2.0]);
        let receipt = charge.pay(Amount::cents(3)).await?;
        charge.refund(&receipt, Amount::cents(1)).await?;
        charge.add(Amount::micros(70_001));
        Ok(())
    };
    let app = Router::new().route("/", post(meter)).layer(world.layer());
    let request = http::Request::post("/").header("x-api-key", token.expose());
    assert_eq!(answer(&app, request).await.status, 200);
    assert_eq!(open(), [0.0, 0.0]);
    let amounts = ["hold", "settle", "pay", "refund"].map(posted);
    assert_eq!(amounts, [300_000.0, 70_001.0, 30_000.0, 10_000.0]);
    for series in ["agentkey_settle_backlog", "agentkey_settles_lost_total"] {
        assert_eq!(value(&prometheus, series), 0.0, "{series}");
    }
    for queue in ["lookups", "postings"] {
        let of = |name: &str| value(&prometheus, &format!("{name}{{queue=\"{queue}\"}}"));
        assert_eq!(of("agentkey_queue_depth"), 0.0);
        let (sum, count) = (of("agentkey_batch_size_sum"), of("agentkey_batch_size_count"));
        assert!(count > 0.0 && sum >= count, "{queue}: {sum} in {count}");
    }
    let postings = value(&prometheus, "agentkey_batch_size_sum{queue=\"postings\"}");
    assert_eq!(postings, 6.0, "three holds, a payment, a refund and a settle");
    let calls = value(&prometheus, "agentkey_store_duration_seconds_count{operation=\"post\"}");
    assert_eq!(calls, 6.0);
}

/// The time is that of tokio, and goes on when nothing else does.
#[tokio::test(start_paused = true)]
async fn a_backlog_of_settles_is_seen_with_its_age_and_its_loss() {
    let (recorder, prometheus) = recorder();
    let _recording = metrics::set_default_local_recorder(recorder);
    let builder = AgentKeys::builder().settle_timeout(Duration::from_secs(60));
    let world = World::on(builder, Box::new(MemoryStore::new()));
    let (_, token) = world.key().await;
    let app = Router::new().route("/", get(paid)).layer(world.layer());
    let backlog = || {
        let of = |name: &str| value(&prometheus, name);
        (of("agentkey_settle_backlog"), of("agentkey_settle_oldest_age_seconds"))
    };
    let retries = |reason: &str| {
        value(&prometheus, &format!("agentkey_retries_total{{reason=\"{reason}\"}}"))
    };
    for (fault, reason) in [(Fault::Down, "unavailable"), (Fault::Broken, "rejected")] {
        world.spy.set(Faults::posts(fault).only(is_settle));
        let request = tokio::spawn({
            let (app, request) = (app.clone(), ask_with("/", &token));
            async move { answer(&app, request).await }
        });
        if fault == Fault::Broken {
            // No retry cures it.
            assert_eq!(request.await.unwrap().status, 503);
            assert_eq!(retries(reason), 1.0);
            continue;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let (size, age) = backlog();
        assert_eq!(size, 1.0);
        assert!((18.0..=20.0).contains(&age), "{age}");
        assert_eq!(value(&prometheus, "agentkey_open_charges"), 1.0);
        assert!(retries(reason) > 1.0);
        world.spy.mend();
        assert_eq!(request.await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(backlog(), (0.0, 0.0));
        assert_eq!(value(&prometheus, "agentkey_settles_lost_total"), 0.0);
    }
    assert_eq!(value(&prometheus, "agentkey_settles_lost_total"), 1.0);
    assert_eq!(backlog().0, 0.0);
    let decided = |decision: &str| {
        value(&prometheus, &format!("agentkey_requests_total{{decision=\"{decision}\"}}"))
    };
    assert_eq!([decided("accepted"), decided("unavailable")], [1.0, 1.0]);
}

#[tokio::test]
async fn a_store_that_fails_is_counted_and_what_waits_for_it() {
    let (recorder, prometheus) = recorder();
    let _recording = metrics::set_default_local_recorder(recorder);
    let world = World::new().await;
    let (_, token) = world.key().await;
    let app = Router::new().route("/", get(paid)).layer(world.layer());
    let errors = |operation: &str| {
        value(&prometheus, &format!("agentkey_store_errors_total{{operation=\"{operation}\"}}"))
    };
    world.spy.set(Faults::finds(Fault::Down));
    assert_eq!(answer(&app, ask_with("/", &token)).await.status, 503);
    assert_eq!(errors("find"), 1.0);
    assert_eq!(errors("post"), 0.0);

    world.spy.set(Faults::posts(Fault::Hang).only(is_hold));
    let request = tokio::spawn(async move { answer(&app, ask_with("/", &token)).await });
    world.spy.arrived(1, is_hold).await;
    let depth = || value(&prometheus, "agentkey_queue_depth{queue=\"postings\"}");
    assert_eq!(depth(), 1.0);
    world.spy.mend();
    assert_eq!(soon(request).await.unwrap().status, 200);
    assert_eq!((depth(), errors("post")), (0.0, 0.0));
    let created = "agentkey_store_duration_seconds_count{operation=\"change\"}";
    assert_eq!(value(&prometheus, created), 1.0);
}

#[tokio::test]
async fn no_label_grows_with_keys_accounts_and_routes() {
    let (recorder, prometheus) = recorder();
    let _recording = metrics::set_default_local_recorder(recorder);
    let world = World::new().await;
    let app = Router::new().route("/{any}", get(paid)).layer(world.layer());
    let mut before = None;
    for n in 0..50 {
        let account = format!("account-{n}").parse().unwrap();
        let (_, token) = world.create(NewKey::new(account).name(format!("key-{n}"))).await;
        let path = format!("/route-{n}");
        assert_eq!(answer(&app, ask_with(&path, &token)).await.status, 200);
        let series = series(&prometheus);
        assert_eq!(before.get_or_insert_with(|| series.clone()), &series);
    }
}
