//! Sessions in a build that has both cryptographic features of `jsonwebtoken`.

use std::panic::catch_unwind;

use agentkey::session::{NewSession, SessionAlgorithm, Sessions, SigningKey};
use agentkey::{AgentKeys, MemoryStore, NewKey};
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::{EncodingKey, Header, encode};

async fn opens_and_verifies(sessions: Sessions) {
    let keys = AgentKeys::builder().sessions(sessions).build(MemoryStore::new()).unwrap();
    let parent = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap().key;
    let session = keys.open_session(parent.id, NewSession::new()).await.unwrap();
    let context = keys.authorize(&session.token).await.unwrap();
    assert_eq!(context.id(), session.key.id);
}

async fn all_work() {
    opens_and_verifies(Sessions::new()).await;
    opens_and_verifies(Sessions::new().algorithm(SessionAlgorithm::Hs256)).await;
    let own = SigningKey::ed25519("own", &[1; 32]).unwrap();
    opens_and_verifies(Sessions::new().signing_keys(own, [])).await;
}

fn encodes() -> bool {
    let key = EncodingKey::from_secret(&[1; 32]);
    catch_unwind(|| encode(&Header::default(), &serde_json::json!({}), &key).is_ok())
        .unwrap_or(false)
}

/// The application may install the provider that it wants, because sessions install none.
#[tokio::test]
async fn the_provider_is_left_to_the_application() {
    all_work().await;
    DEFAULT_PROVIDER.install_default().expect("sessions have installed none");
    all_work().await;
    assert!(encodes());
}
