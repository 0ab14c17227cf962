//! Rows of an adopted table that are for a subject.

use agentkey::model::Subject;
use agentkey::{AgentKeys, Amount, Grace, KeyQuery, NewKey, Refusal};

use super::npm::DUMP;
use super::*;

const ISSUER: &str = "https://clerk.example";

fn subject(id: &str) -> Subject {
    Subject::new(ISSUER, id).unwrap()
}

struct Adopted {
    host: Host,
    keys: AgentKeys,
}

impl Adopted {
    async fn new() -> Option<Self> {
        let host = Host::with(DUMP).await?;
        host.clock.set("2026-11-26T12:00:00Z".parse().unwrap());
        let store = host.open(open_handed().issuer(ISSUER)).await.unwrap();
        Some(Self { keys: AgentKeys::new(store).unwrap(), host })
    }

    async fn id(&self, id: &str) -> Option<i64> {
        let found = self.keys.find_subject(&subject(id)).await.unwrap()?;
        Some(found.id().get())
    }

    /// The number of rows.
    async fn rows(&mut self) -> String {
        self.host.text("SELECT count(*) FROM sdk_api_keys").await
    }
}

fn new() -> NewKey {
    NewKey::new("acct_new".parse().unwrap()).budget(Budget::lifetime(Amount::cents(1)))
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_row_is_found_by_its_subject_from_the_first_request_on() {
    let Some(mut it) = Adopted::new().await else { return };
    let before =
        it.host.text("SELECT md5(string_agg(xmin::text, ',' ORDER BY id)) FROM sdk_api_keys").await;
    let context = it.keys.authorize_subject(&subject("mch_abc")).await.unwrap();
    assert_eq!((context.id().get(), context.subject()), (4, Some(&subject("mch_abc"))));
    assert_eq!(context.remaining(), Some(Amount::cents(260)));
    let charge = it.keys.charge(&context).await.unwrap();
    charge.pay(Amount::cents(250)).await.unwrap();
    drop(charge);
    // To ensure it finds the row, and gives it no other budget.
    let ensured = it.keys.ensure_subject(subject("mch_abc"), new()).await.unwrap();
    assert_eq!((ensured.id.get(), ensured.remaining()), (4, Some(Amount::cents(10))));
    let after =
        it.host.text("SELECT md5(string_agg(xmin::text, ',' ORDER BY id)) FROM sdk_api_keys").await;
    assert_eq!((before, it.rows().await.as_str()), (after, "6"), "the table was not written");
    assert_eq!(it.id("mch_ab").await, None);
    let other = Subject::new("https://other.example", "mch_abc").unwrap();
    assert_eq!(it.keys.find_subject(&other).await.unwrap(), None, "of another issuer");
    assert!(it.keys.rotate(ensured.id, Grace::NONE).await.is_err());

    let of_account = KeyQuery::for_account("mch_abc".parse().unwrap()).subjects();
    assert_eq!(it.keys.keys(&of_account).await.unwrap().items.len(), 1);
    it.keys.revoke(ensured.id, None).await.unwrap();
    let refused = it.keys.authorize_subject(&subject("mch_abc")).await.unwrap_err();
    assert_eq!(refused.refusal(), &Refusal::RevokedKey);
    let ensured = it.keys.ensure_subject(subject("mch_abc"), new()).await.unwrap();
    assert!(ensured.revoked_at.is_some());
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_row_that_the_application_adds_or_changes_is_found_by_what_it_says() {
    let Some(mut it) = Adopted::new().await else { return };
    assert_eq!((it.id("mch_abc").await, it.id("mch_new").await), (Some(4), None));
    it.host
        .run(
            "INSERT INTO sdk_api_keys (account_id, key_hash, key_prefix, external_subject) \
        VALUES ('mch_new', repeat('0', 64), 'ak_ext', 'mch_new')",
        )
        .await;
    assert_eq!(it.id("mch_new").await, Some(7));
    // It is cached, and read again once the row is another's.
    assert_eq!(it.id("mch_new").await, Some(7));
    it.host.run("UPDATE sdk_api_keys SET external_subject = 'mch_other' WHERE id = 7").await;
    assert_eq!((it.id("mch_new").await, it.id("mch_other").await), (None, Some(7)));
    it.host.run("UPDATE sdk_api_keys SET external_subject = NULL WHERE id = 7").await;
    assert_eq!((it.id("mch_new").await, it.id("mch_other").await), (None, None));
    // The subject gets a key of its own, and the old binding opens nothing.
    let made = it.keys.ensure_subject(subject("mch_other"), new()).await.unwrap();
    assert_eq!(it.id("mch_other").await, Some(made.id.get()));
    assert_ne!(made.id.get(), 7);
    it.host.run("UPDATE sdk_api_keys SET external_subject = 'mch_new' WHERE id = 7").await;
    assert_eq!(it.id("mch_new").await, Some(7));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_subject_that_is_made_has_a_row_in_the_table() {
    let Some(mut it) = Adopted::new().await else { return };
    let made = it.keys.ensure_subject(subject("m7"), new()).await.unwrap();
    let other = Subject::new("https://other.example", "m8").unwrap();
    let of_other = it.keys.ensure_subject(other.clone(), new()).await.unwrap();
    let shown = "SELECT string_agg(external_subject || ' ' || agentkey_issuer || ' ' || key_prefix, ',' ORDER BY id) \
        FROM sdk_api_keys WHERE id > 6";
    assert_eq!(
        it.host.text(shown).await,
        format!("m7 {ISSUER} subject:_,m8 https://other.example subject:_")
    );
    assert_eq!(it.id("m7").await, Some(made.id.get()));
    assert_eq!(it.keys.find_subject(&other).await.unwrap().unwrap().id(), of_other.id);

    // The application closes a subject by its column, and opens it again.
    it.host
        .run("UPDATE sdk_api_keys SET external_subject = NULL WHERE external_subject = 'm7'")
        .await;
    assert_eq!(it.id("m7").await, None);
    assert!(it.keys.ensure_subject(subject("m7"), new()).await.is_err());
    it.host.run("UPDATE sdk_api_keys SET external_subject = 'm9' WHERE id = 7").await;
    assert_eq!((it.id("m7").await, it.id("m9").await), (None, Some(7)));
    it.host.run("UPDATE sdk_api_keys SET external_subject = 'm7' WHERE id = 7").await;
    assert_eq!((it.id("m7").await, it.id("m9").await), (Some(7), None));
    assert_eq!(it.rows().await, "8");
}

/// A row whose subject is out of service is no reason to make another one.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_row_out_of_service_stays_the_subjects() {
    let Some(mut it) = Adopted::new().await else { return };
    it.host
        .run(
            "DROP INDEX sdk_api_keys_external_subject_key; \
        UPDATE sdk_api_keys SET account_id = NULL WHERE id = 4",
        )
        .await;
    assert_eq!(it.id("mch_abc").await, None);
    assert!(it.keys.ensure_subject(subject("mch_abc"), new()).await.is_err());
    assert_eq!(it.rows().await, "6");
    it.host.run("UPDATE sdk_api_keys SET account_id = 'mch_abc' WHERE id = 4").await;
    assert_eq!(it.id("mch_abc").await, Some(4));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn the_issuer_is_recorded_with_the_adoption() {
    let Some(it) = Adopted::new().await else { return };
    let later = AgentKeys::new(PostgresStore::open(it.host.options()).await.unwrap()).unwrap();
    assert!(later.find_subject(&subject("mch_abc")).await.unwrap().is_some());
    let other =
        it.host.refused(it.host.options().adopt(open_handed().issuer("https://x.example"))).await;
    assert!(
        other.contains("another issuer of its subjects")
            && other.contains("SET issuer = 'https://x.example'"),
        "{other}"
    );

    let Some(host) = Host::with(DUMP).await else { return };
    let invalid = host.refused(host.options().adopt(open_handed().issuer(""))).await;
    assert!(invalid.contains("`Adoption::issuer`"), "{invalid}");
    let keys = AgentKeys::new(host.open(open_handed()).await.unwrap()).unwrap();
    assert_eq!(keys.find_subject(&subject("mch_abc")).await.unwrap(), None, "no issuer was named");
}
