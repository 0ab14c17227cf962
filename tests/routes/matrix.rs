//! Each operation of the document, by each caller that it must not serve.
//!
//! The table says what each caller gets. An operation that the document has and the table has not
//! fails the test, and so does one that the document no longer has.

use std::time::Duration;

use agentkey::model::Grace;
use agentkey::routes::ProtectedResource;
use agentkey::session::{NewSession, SessionId};
use agentkey::{KeyId, KeyPatch, NewKey, Token};
use serde_json::Value;

use super::openapi::{Operation, operations};
use super::support::{App, Caller, request};

/// Who calls, and on what: the target is the caller's child, or a session of the caller, unless the
/// variant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    NoCredential,
    /// The key of another account.
    Stranger,
    /// A child of the same parent as the target, on the target.
    Sibling,
    /// A child, on its parent.
    Child,
    /// The token that was rotated away, within its grace.
    InGrace,
    Disabled,
    /// A session, on a child of the key that opened it: for what only keys may do.
    Session,
    /// A key, on the child as if that were a session: for what is about sessions.
    Key,
}

const CASES: [Case; 8] = [
    Case::NoCredential,
    Case::Stranger,
    Case::Sibling,
    Case::Child,
    Case::InGrace,
    Case::Disabled,
    Case::Session,
    Case::Key,
];

struct Row {
    operation: &'static str,
    body: &'static str,
    /// The answer in each of [`CASES`].
    expected: [&'static str; 8],
    /// Why a caller is served, where one is.
    why: &'static str,
}

const NO_KEY: &str = "401 missing_key";
const DISABLED: &str = "401 disabled_key";
const NOT_THERE: &str = "404 not_found";
const IN_GRACE: &str = "403 retiring_token";
const SESSION: &str = "403 session_key";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    //                                           none    stranger   sibling    child      in grace  disabled  session    key
    Row { operation: "GET /keys/me", body: "",
        expected: [NO_KEY, "200",     "200",     "200",     "200",    DISABLED, "200",     "200"],
        why: "it has no target: each caller sees itself, and in its grace may read" },
    Row { operation: "GET /keys/me/usage", body: "",
        expected: [NO_KEY, "200",     "200",     "200",     "200",    DISABLED, "200",     "200"],
        why: "it has no target: each caller sees its own entries, and in its grace may read" },
    Row { operation: "GET /keys", body: "",
        expected: [NO_KEY, "200",     "200",     "200",     "200",    DISABLED, "200",     "200"],
        why: "it has no target: each caller sees its own subtree, and in its grace may read" },
    Row { operation: "POST /keys", body: "",
        expected: [NO_KEY, "201",     "201",     "201",     IN_GRACE, DISABLED, SESSION,   "201"],
        why: "it has no target: each caller mints from itself" },
    Row { operation: "GET /keys/{id}", body: "",
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, "200",    DISABLED, NOT_THERE, "200"],
        why: "a token in its grace may read; a key sees its child" },
    Row { operation: "PATCH /keys/{id}", body: r#"{"name": "x"}"#,
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, IN_GRACE, DISABLED, NOT_THERE, "200"],
        why: "a key narrows its child" },
    Row { operation: "DELETE /keys/{id}", body: "",
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, IN_GRACE, DISABLED, NOT_THERE, "200"],
        why: "a key revokes its child" },
    Row { operation: "POST /keys/{id}/rotate", body: "",
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, IN_GRACE, DISABLED, SESSION,   "200"],
        why: "a key rotates its child" },
    Row { operation: "POST /keys/{id}/end-grace", body: "",
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, IN_GRACE, DISABLED, NOT_THERE, "200"],
        why: "a key ends the grace of its child" },
    Row { operation: "POST /keys/{id}/disable", body: "",
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, IN_GRACE, DISABLED, NOT_THERE, "200"],
        why: "a key pauses its child" },
    Row { operation: "POST /keys/{id}/enable", body: "",
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, IN_GRACE, DISABLED, NOT_THERE, "200"],
        why: "a key enables its child" },
    Row { operation: "POST /sessions", body: "",
        expected: [NO_KEY, "201",     "201",     "201",     IN_GRACE, DISABLED, SESSION,   "201"],
        why: "it has no target: each key opens a session of its own" },
    Row { operation: "DELETE /sessions/{id}", body: "",
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, IN_GRACE, DISABLED, NOT_THERE, NOT_THERE],
        why: "" },
    Row { operation: "GET /me", body: "",
        expected: [NO_KEY, NOT_THERE, NOT_THERE, NOT_THERE, NOT_THERE, DISABLED, "200",    NOT_THERE],
        why: "it has no target: a session sees itself" },
    Row { operation: "POST /signup", body: r#"{"email": "a@example.com"}"#,
        expected: ["201"; 8],
        why: "it needs no key, looks at none, and makes an account of its own" },
    Row { operation: "POST /introspect", body: "",
        expected: [NO_KEY; 8],
        why: "" },
    Row { operation: "GET /.well-known/oauth-protected-resource", body: "",
        expected: ["200"; 8],
        why: "it needs no key, and says the same to everybody" },
];

#[test]
fn every_operation_of_the_document_has_its_cases() {
    let mut of_document: Vec<_> = operations().iter().map(Operation::name).collect();
    let mut of_table: Vec<_> = TABLE.iter().map(|row| row.operation.to_owned()).collect();
    of_document.sort();
    of_table.sort();
    assert_eq!(of_table, of_document, "the rows of {} are the operations of the document", file!());
    for row in TABLE {
        let serves = row.expected.iter().any(|expected| expected.starts_with('2'));
        assert_eq!(serves, !row.why.is_empty(), "{}: an exception has a reason", row.operation);
    }
}

#[tokio::test]
async fn no_operation_serves_a_caller_that_it_must_not() {
    for row in TABLE {
        let operation = operations().into_iter().find(|it| it.name() == row.operation).unwrap();
        for (case, expected) in CASES.into_iter().zip(row.expected) {
            run(&operation, row.body, case, expected).await;
        }
    }
}

async fn run(operation: &Operation, body: &str, case: Case, expected: &str) {
    let mut app = App::with(|serve| serve.introspect()).await;
    let resource = ProtectedResource::new("https://api.example.com").unwrap();
    app.router = app.router.merge(resource.into_router());
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let sibling = app.child_of(&agent).await;
    let stranger = app.create(NewKey::new("globex".parse().unwrap())).await;
    let session =
        async |of: &Caller| app.keys.open_session(of.id, NewSession::new()).await.unwrap();
    // Both are what the agent may act on, and the sibling, the session and the stranger may not.
    let (of_child, of_agent) = (session(&child).await, session(&agent).await);
    let target = match case {
        Case::Child => (agent.id, of_agent.session_id),
        Case::Key => (child.id, SessionId::new(child.id)),
        _ => (child.id, of_child.session_id),
    };
    let token: Option<&Token> = match case {
        Case::NoCredential => None,
        Case::Stranger => Some(&stranger.token),
        Case::Sibling => Some(&sibling.token),
        Case::Child => Some(&child.token),
        Case::Session => Some(&of_agent.token),
        Case::InGrace | Case::Disabled | Case::Key => Some(&agent.token),
    };
    if case == Case::InGrace {
        app.keys.rotate(agent.id, Grace::lasting(Duration::from_secs(60))).await.unwrap();
    }
    if case == Case::Disabled {
        app.keys.update(agent.id, KeyPatch::new().disabled(true)).await.unwrap();
    }
    let records = async || {
        let of = |id: KeyId| app.keys.find_by_id(id);
        let key = of(target.0).await.unwrap().unwrap().key().clone();
        let session = of(target.1.key()).await.unwrap().unwrap().key().clone();
        format!("{key:?} {session:?}")
    };
    let before = records().await;
    let id = match operation.path.starts_with("/sessions") {
        true => target.1.to_string(),
        false => target.0.to_string(),
    };
    let path = operation.path.replace("{id}", &id);
    let seen = app.send(request(token, operation.method.clone(), &path, body)).await;
    let name = format!("{} by {case:?}", operation.name());
    let answer = match seen.status.is_success() {
        true => seen.status.as_str().to_owned(),
        false => format!("{} {}", seen.status.as_str(), seen.refused().1),
    };
    assert_eq!(answer, expected, "{name}");
    assert_eq!(seen.status == 401, seen.headers.contains_key("www-authenticate"), "{name}");
    // The agent, and who sees only itself, are served. Nobody else changes or sees a target.
    if !matches!(case, Case::Key | Case::InGrace) {
        assert_eq!(records().await, before, "{name}");
        let of_target = [target.0.to_string(), target.1.to_string()];
        assert!(!ids(&seen.json()).iter().any(|id| of_target.contains(id)), "{name}: {seen:?}");
    }
}

/// Every id that an answer has.
fn ids(answer: &Value) -> Vec<String> {
    match answer {
        Value::Object(members) => {
            let of = |(name, value): (&String, &Value)| match (name.as_str(), value) {
                ("id" | "parent" | "key" | "session_id", Value::Number(_) | Value::String(_)) => {
                    vec![value.to_string().trim_matches('"').to_owned()]
                }
                _ => ids(value),
            };
            members.iter().flat_map(of).collect()
        }
        Value::Array(items) => items.iter().flat_map(ids).collect(),
        _ => Vec::new(),
    }
}
