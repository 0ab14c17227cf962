//! A service with two charged routes, and load on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use agentkey::{AgentKeyLayer, AgentKeys, Amount, Charge, Rejection};
use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::post;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// What a route charges: a payment of 1 cent, or 1 cent of 2 held.
pub(crate) const CENTS: i64 = 1;

async fn pay(charge: Charge, Path(reference): Path<String>) -> Result<&'static str, Rejection> {
    charge.reference(reference)?;
    charge.pay(Amount::cents(1)).await?;
    Ok("paid")
}

async fn hold(charge: Charge, Path(reference): Path<String>) -> Result<&'static str, Rejection> {
    charge.reference(reference)?;
    charge.hold(Amount::cents(2)).await?;
    charge.add(Amount::cents(1));
    Ok("worked")
}

#[derive(Clone, Debug)]
pub(crate) struct Service(Router);

impl Service {
    pub(crate) fn new(keys: &AgentKeys) -> Self {
        let routes = Router::new()
            .route("/pay/{reference}", post(pay))
            .route("/hold/{reference}", post(hold));
        Self(routes.layer(AgentKeyLayer::new(keys)))
    }

    /// The status and the whole body; `None` where it was cut off.
    pub(crate) async fn ask(&self, path: &str, token: &str) -> (StatusCode, Option<String>) {
        let request = Request::post(path).header("x-api-key", token).body(Body::empty()).unwrap();
        let response = self.0.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.ok().map(|body| body.to_bytes());
        (status, body.map(|body| String::from_utf8_lossy(&body).into_owned()))
    }
}

/// Clients that ask one thing after the other.
#[derive(Debug)]
pub(crate) struct Load {
    clients: JoinSet<Answers>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

/// What clients were answered, by reference.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) acknowledged: Vec<String>,
    pub(crate) refused: Vec<String>,
    pub(crate) statuses: BTreeMap<u16, usize>,
}

impl Load {
    pub(crate) fn start(service: &Service, tokens: &[String], clients: usize) -> Self {
        let (stop, acknowledged) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut load = JoinSet::new();
        for client in 0..clients {
            let (service, token) = (service.clone(), tokens[client % tokens.len()].clone());
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            load.spawn(async move {
                let mut answers = Answers::default();
                for request in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let reference = format!("{client}-{request}");
                    let route = if request % 2 == 0 { "pay" } else { "hold" };
                    let (status, body) =
                        service.ask(&format!("/{route}/{reference}"), &token).await;
                    *answers.statuses.entry(status.as_u16()).or_default() += 1;
                    if status == StatusCode::OK && body.is_some() {
                        answers.acknowledged.push(reference);
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    } else {
                        answers.refused.push(reference);
                    }
                }
                answers
            });
        }
        Self { clients: load, stop, acknowledged }
    }

    /// Waits until so many more requests were answered well.
    pub(crate) async fn more(&self, requests: usize) {
        let enough = self.acknowledged.load(Ordering::SeqCst) + requests;
        crate::until(async || self.acknowledged.load(Ordering::SeqCst) >= enough).await;
    }

    pub(crate) async fn stop(self) -> Answers {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Answers::default();
        for answers in self.clients.join_all().await {
            all.acknowledged.extend(answers.acknowledged);
            all.refused.extend(answers.refused);
            for (status, count) in answers.statuses {
                *all.statuses.entry(status).or_default() += count;
            }
        }
        all
    }
}
