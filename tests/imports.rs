//! Imports through the handle: keys of a CSV file on SQLite, and thousands of keys at once.
#![cfg(feature = "sqlite")]

#[path = "support/documented.rs"]
mod documented;

use agentkey::model::TokenHash;
use agentkey::{
    AgentKeys, Amount, Budget, Imported, KeyId, KeyImport, NewKey, Opening, Refusal, ScopeSet,
    Token,
};

use documented::{block, import_csv, is_in};

const DOCUMENT: &str = include_str!("../docs/adoption.md");

async fn find(keys: &AgentKeys, token: &str) -> Option<agentkey::model::Lineage> {
    keys.find(&Token::parse_foreign(token).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_csv_file_as_the_document_has_it() {
    is_in(DOCUMENT, "import_csv");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.csv");
    let mut csv = block(DOCUMENT, "### From a CSV file", "csv");
    // Lines that cannot be imported: a hash of another kind, money that is none, and no account.
    let hash = TokenHash::digest("sk-csv-00000004");
    csv.push_str("\n$2b$10$N9qo8uLOickgx2ZMRZoMye,acme,read,,,,,,,,");
    csv.push_str(&format!("\n{hash},acme,read,,five,,,,,,\n{hash},,read,,,,,,,,\n"));
    std::fs::write(&file, csv).unwrap();
    let keys = AgentKeys::sqlite(directory.path().join("keys.db").to_str().unwrap()).await.unwrap();
    for _ in 0..2 {
        import_csv(&keys, file.to_str().unwrap()).await.unwrap();
    }

    let first = find(&keys, "sk-csv-00000001").await.unwrap();
    assert_eq!((first.key().name.as_str(), first.delegated_by()), ("crawler", Some("user_456")));
    assert_eq!(first.key().scopes, ScopeSet::parse(["read", "proxy.*"]).unwrap());
    assert_eq!(first.key().budget, Budget::monthly(Amount::units(50)));
    assert_eq!(first.key().anchor, "2026-12-26T00:00:00Z".parse().unwrap());
    let second = find(&keys, "sk-csv-00000002").await.unwrap();
    assert!(second.key().scopes.is_unrestricted() && second.remaining().is_none());
    let third = find(&keys, "sk-csv-00000003").await.unwrap();
    assert_eq!(third.key().budget, Budget::lifetime(Amount::cents(10)));
    assert_eq!(third.check_active(), Err(Refusal::DisabledKey));
    assert_eq!(third.key().metadata.to_string(), r#"{"team":"search"}"#);
    assert!(find(&keys, "sk-csv-00000004").await.is_none());
    keys.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_are_imported_in_one_call_and_once() {
    const KEYS: usize = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let keys = AgentKeys::sqlite(directory.path().join("keys.db").to_str().unwrap()).await.unwrap();
    let parent = keys.create(NewKey::new("parent".parse().unwrap())).await.unwrap().key.id;
    let imports = || {
        (0..KEYS).map(|n| {
            let key = match n % 100 {
                // What is wrong with a few keys hinders no others.
                0 => NewKey::child_of(KeyId::new(987_654)),
                1 => NewKey::child_of(parent),
                _ => NewKey::new(format!("account-{}", n % 50).parse().unwrap()),
            };
            let hash = TokenHash::digest(&format!("sk-{n:08}"));
            KeyImport::new(key, hash).opening(Opening::spent(Amount::cents(1)))
        })
    };
    let answers = keys.import(imports()).await.unwrap();
    assert_eq!(answers.len(), KEYS);
    let new = answers.iter().filter(|answer| matches!(answer, Ok(Imported::New(_)))).count();
    assert_eq!(new, KEYS - KEYS / 100);
    for (n, answer) in answers.iter().enumerate() {
        let found = find(&keys, &format!("sk-{n:08}")).await;
        match answer {
            Ok(imported) => assert_eq!(found.unwrap().id(), imported.key(), "{n}"),
            Err(error) => {
                assert!(found.is_none(), "{n}");
                assert_eq!(error.to_string(), "there is no key 987654");
            }
        }
    }
    let parent = keys.find_by_id(parent).await.unwrap().unwrap();
    assert_eq!(parent.key().balance.spent(), Amount::cents(20));
    let again = keys.import(imports()).await.unwrap();
    assert!(again.iter().all(|answer| !matches!(answer, Ok(Imported::New(_)))));
    assert_eq!(again.iter().filter(|answer| answer.is_ok()).count(), new);
    keys.shutdown().await;
}

/// Two processes that import the same keys at once make each of them once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_imports_at_once_make_each_key_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let open = async || AgentKeys::sqlite(path.to_str().unwrap()).await.unwrap();
    let (here, there) = (open().await, open().await);
    let imports = || {
        (0..600).map(|n| {
            let key = NewKey::new("acme".parse().unwrap());
            let hash = TokenHash::digest(&format!("sk-{n:08}"));
            KeyImport::new(key, hash).opening(Opening::spent(Amount::cents(1)))
        })
    };
    let (mine, yours) = tokio::join!(here.import(imports()), there.import(imports()));
    let (mine, yours) = (mine.unwrap(), yours.unwrap());
    for (mine, yours) in mine.iter().zip(&yours) {
        let (mine, yours) = (mine.as_ref().unwrap(), yours.as_ref().unwrap());
        assert_eq!(mine.key(), yours.key());
        assert_ne!(mine, yours, "one of them made it");
    }
    let account = here.account(&"acme".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(account.balance.spent(), Amount::cents(600));
    here.shutdown().await;
    there.shutdown().await;
}
