//! Schemathesis, an independent reader of OpenAPI documents, makes requests from the document and
//! checks that the document names each answer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use agentkey::routes::{ProtectedResource, ResourceServer, SelfServe, openapi};
use agentkey::session::{NewSession, Sessions};
use agentkey::store::SqliteOptions;
use agentkey::{AgentKeys, Amount, Budget, NewKey, SqliteStore, Token};
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::header::AUTHORIZATION;
use serde_json::json;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::openapi::{Operation, operations};
use super::support::{Caller, acme, scopes, signup};

/// What schemathesis checks. A request that fits the schema may still be refused: `expires_at` has
/// to be in the future, for one.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,\
    unsupported_method,allow_header_conformance,ignored_auth,use_after_free";

/// A key in force, whatever the requests before have made of it.
struct Login {
    keys: AgentKeys,
    /// What the client sends.
    sent: String,
    current: Mutex<Caller>,
    /// The operations that succeeded.
    succeeded: Mutex<BTreeSet<String>>,
}

async fn new_key(keys: &AgentKeys) -> Caller {
    let new = NewKey::new(acme())
        .scopes(scopes(&["keys", "read", "write.*"]))
        .budget(Budget::monthly(Amount::cents(1_000)).and_daily(Amount::cents(500)));
    let created = keys.create(new).await.unwrap();
    Caller { id: created.key.id, token: created.token }
}

/// A request may revoke or rotate the key of the client, which has the same credential to the end.
async fn log_in(State(login): State<Arc<Login>>, mut request: Request, next: Next) -> Response {
    let sent = request.headers().get(AUTHORIZATION);
    if sent.is_some_and(|sent| sent.as_bytes() == login.sent.as_bytes()) {
        let mut current = login.current.lock().await;
        if login.keys.authorize(&current.token).await.is_err() {
            *current = new_key(&login.keys).await;
        }
        let token = match request.uri().path() {
            "/me" => login.keys.open_session(current.id, NewSession::new()).await.unwrap().token,
            _ => Token::parse(current.token.expose()).unwrap(),
        };
        let header = format!("Bearer {}", token.expose()).parse().unwrap();
        request.headers_mut().insert(AUTHORIZATION, header);
        request.extensions_mut().insert(ResourceServer);
    }
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let operation = format!("{} {}", request.method(), path.unwrap_or_default());
    let response = next.run(request).await;
    if response.status().is_success() {
        login.succeeded.lock().await.insert(operation);
    }
    response
}

async fn serve(keys: &AgentKeys, sent: &str) -> (SocketAddr, Arc<Login>) {
    let routes = SelfServe::new(keys).me().mint().manage().sessions().introspect();
    let routes = routes
        .signup(signup().limits(1_000_000, 1_000_000, Duration::from_secs(60)))
        .account_scope("keys".parse().unwrap())
        .max_children(1_000_000);
    let current = Mutex::new(new_key(keys).await);
    let succeeded = Mutex::default();
    let login = Arc::new(Login { keys: keys.clone(), sent: sent.to_owned(), current, succeeded });
    let resource = ProtectedResource::new("https://api.example.com").unwrap();
    let app = Router::new()
        .merge(routes.into_router().unwrap())
        .merge(resource.into_router())
        .layer(from_fn_with_state(login.clone(), log_in));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, login)
}

/// Writes the document, with ids that there are.
async fn write_document(keys: &AgentKeys, path: &Path) {
    let parent = keys.create(NewKey::new(acme())).await.unwrap().key.id;
    let session = keys.open_session(parent, NewSession::new()).await.unwrap();
    let mut document = serde_json::to_value(openapi()).unwrap();
    for (path, item) in document["paths"].as_object_mut().unwrap() {
        for (_, operation) in item.as_object_mut().unwrap() {
            if path.starts_with("/sessions/") {
                operation["parameters"][0]["example"] = json!(session.session_id);
            } else if path.contains("{id}") {
                operation["parameters"][0]["example"] = json!(parent);
            }
        }
    }
    std::fs::write(path, document.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python: ./scripts/test"]
async fn no_request_gets_an_answer_that_the_document_does_not_name() {
    let Some(program) = std::env::var_os("AGENTKEY_TEST_SCHEMATHESIS") else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(dir.path().join("keys.db"))).await.unwrap();
    let keys = AgentKeys::builder().sessions(Sessions::new()).build(store).unwrap();
    let sent = format!("Bearer {}", Token::generate(&"ak".parse().unwrap()).unwrap().expose());
    let (address, login) = serve(&keys, &sent).await;
    let document = dir.path().join("openapi.json");
    write_document(&keys, &document).await;
    let run = Command::new(program)
        .current_dir(dir.path())
        .arg("run")
        .arg(&document)
        .args([
            "--url",
            &format!("http://{address}"),
            "--header",
            &format!("Authorization: {sent}"),
        ])
        .args(["--checks", CHECKS, "--max-examples", "25", "--seed", "20261122", "--no-color"])
        .args(["--generation-database", "none", "--warnings", "off", "--continue-on-failure"])
        .stdin(Stdio::null())
        .output();
    let run = run.await.unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    // A run whose requests are all refused has not shown much.
    let all: BTreeSet<_> = operations().iter().map(Operation::name).collect();
    assert_eq!(*login.succeeded.lock().await, all, "{said}");
    keys.shutdown().await;
}
