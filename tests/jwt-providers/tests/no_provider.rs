//! Sessions where the application has used `jsonwebtoken` without a provider: it panics for good.

use agentkey::session::{NewSession, Sessions};
use agentkey::{AgentKeys, MemoryStore, NewKey};
use jsonwebtoken::{EncodingKey, Header, encode};

#[tokio::test]
async fn sessions_work_where_jsonwebtoken_panics() {
    let key = EncodingKey::from_secret(&[1; 32]);
    let encode = || encode(&Header::default(), &serde_json::json!({}), &key);
    std::panic::catch_unwind(encode).expect_err("it has two providers, and takes neither");

    let keys = AgentKeys::builder().sessions(Sessions::new()).build(MemoryStore::new()).unwrap();
    let parent = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap().key;
    let session = keys.open_session(parent.id, NewSession::new()).await.unwrap();
    keys.authorize(&session.token).await.unwrap();
}
