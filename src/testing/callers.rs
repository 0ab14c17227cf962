//! Changes by callers that are not the application's own code.

use super::world::*;
use crate::ledger::{
    Caller, CallerRules, Ceiling, KeyChange, KeyDraft, LeftOut, MAX_DEPTH, MintRules, Minting,
    Rules,
};
use crate::model::key::Expiry;
use crate::model::{
    Budget, ChangeError, Clock, Key, KeyId, KeyPatch, NewKey, Refusal, ScopeSet, Validity,
};
use crate::store::Store;

/// The rules for a key as the caller, which may have two children in force.
fn by(caller: KeyId) -> Rules {
    let mint = MintRules {
        max_lifetime: None,
        default_budget: None,
        max_rate_limit: None,
        max_depth: MAX_DEPTH,
        max_children: 2,
    };
    let caller = CallerRules {
        ceiling: Ceiling::default(),
        token_start: None,
        caller: Caller::Key(caller),
        account_scope: Some("admin".parse().unwrap()),
        minting: Minting::Allowed,
        mint,
    };
    Rules { caller: Some(caller), ..Rules::default() }
}

async fn mint<S: Store>(
    w: &World<S>,
    caller: KeyId,
    expiry: Option<Expiry>,
) -> Result<Key, ChangeError> {
    let change = KeyChange::Create { draft: draft(caller, expiry), token: w.token() };
    w.store.change_key(&change, &by(caller)).await.unwrap()
}

fn draft(parent: KeyId, expiry: Option<Expiry>) -> KeyDraft {
    let left_out = LeftOut { scopes: true, budget: true, expiry: expiry.is_none() };
    KeyDraft {
        account: account("acme"),
        parent: Some(parent),
        name: String::new(),
        scopes: ScopeSet::none(),
        budget: Budget::unlimited(),
        delegated_by: None,
        metadata: Default::default(),
        rate_limit: None,
        allowed_cidrs: None,
        expiry: expiry.unwrap_or(Expiry::Never),
        left_out,
    }
}

fn scopes(list: &[&str]) -> ScopeSet {
    ScopeSet::parse(list).unwrap()
}

/// A new key has the effective scopes and the end of its caller, as they are at that instant.
pub async fn a_minted_key_inherits_from_its_lineage<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().scopes(scopes(&["read", "pay"]))).await;
    let caller = w.create(NewKey::child_of(root.id).scopes(scopes(&["read"]))).await;
    let minted_key = mint(&w, caller.id, None).await.unwrap();
    assert_eq!((&minted_key.scopes, minted_key.expires_at), (&scopes(&["read"]), None));

    let narrower = KeyPatch::new().scopes(scopes(&["pay"])).expires_in(Validity::hours(1));
    let root = w.update(&root, narrower).await.unwrap();
    let minted = mint(&w, caller.id, None).await.unwrap();
    assert_eq!((minted.scopes, minted.expires_at), (ScopeSet::none(), root.expires_at));
    w.revoke(&minted_key).await;
    let late = mint(&w, caller.id, Some(Expiry::Never)).await;
    assert!(matches!(late, Err(ChangeError::Refused(Refusal::BeyondCaller(_)))), "{late:?}");
}

/// Children count while they are neither revoked nor expired.
pub async fn children_in_force_are_counted<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let first = mint(&w, root.id, None).await.unwrap();
    w.create(NewKey::child_of(first.id)).await;
    mint(&w, root.id, Some(Expiry::In(Validity::hours(1)))).await.unwrap();
    let full = Err(ChangeError::Refused(Refusal::TooManyChildren { max: 2 }));
    assert_eq!(mint(&w, root.id, None).await, full);
    w.clock.advance(std::time::Duration::from_secs(3_600));
    mint(&w, root.id, None).await.unwrap();
    assert_eq!(mint(&w, root.id, None).await, full);
    w.revoke(&first).await;
    mint(&w, root.id, None).await.unwrap();
}

/// The caller is asked for again when the change is made, also where it is not in the key's lineage.
pub async fn a_caller_must_be_in_force<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let caller = w.create(acme().scopes(scopes(&["admin"]))).await;
    let child = w.create(NewKey::child_of(caller.id)).await;
    let beside = w.create(acme().scopes(scopes(&["read"]))).await;
    let stranger = w.create(NewKey::new(account("other"))).await;
    let disable = |key: KeyId| KeyChange::Update { key, patch: KeyPatch::new().disabled(true) };
    let changed = async |key| w.store.change_key(&disable(key), &by(caller.id)).await.unwrap();
    let refused = |refusal| Err(ChangeError::Refused(refusal));
    for parent in [child.id, beside.id] {
        let change = KeyChange::Create { draft: draft(parent, None), token: w.token() };
        let minted = w.store.change_key(&change, &by(caller.id)).await.unwrap();
        assert_eq!(minted, refused(Refusal::NotFound), "a key mints from itself");
    }
    for key in [&child, &beside] {
        assert!(changed(key.id).await.unwrap().disabled_at.is_some());
    }
    assert_eq!(changed(stranger.id).await, refused(Refusal::NotFound));
    assert_eq!(changed(caller.id).await, refused(Refusal::OwnKey));
    let unknown = KeyId::new(987_654);
    assert_eq!(changed(unknown).await, Err(ChangeError::UnknownKey(unknown)));

    let other = w.store.change_key(&disable(beside.id), &by(child.id)).await.unwrap();
    assert_eq!(other, refused(Refusal::DisabledKey), "the caller comes before what it asks");
    w.revoke(&caller).await;
    for key in [&child, &beside] {
        assert_eq!(changed(key.id).await, refused(Refusal::RevokedKey));
    }
    assert_eq!(mint(&w, caller.id, None).await, refused(Refusal::RevokedKey));
}

/// A list, entries and sums include the descendants where they are asked to.
pub async fn a_subtree_is_listed_and_summed<S: Store>(make: impl AsyncFn(Clock) -> S) {
    use crate::store::{EntryQuery, KeyQuery, UsageBy, UsageQuery};
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let child = w.create(NewKey::child_of(root.id)).await;
    let beside = w.create(NewKey::child_of(root.id)).await;
    let grandchild = w.create(NewKey::child_of(child.id)).await;
    for (key, cents) in [(&root, 1), (&child, 2), (&beside, 4), (&grandchild, 8)] {
        w.paid(key, cents).await;
    }
    for (key, ids, total) in [
        (&root, vec![root.id, child.id, beside.id, grandchild.id], 15),
        (&child, vec![child.id, grandchild.id], 10),
        (&grandchild, vec![grandchild.id], 8),
    ] {
        let keys = w.store.keys(&KeyQuery::subtree_of(key.id)).await.unwrap();
        assert_eq!(keys.iter().map(|key| key.id).collect::<Vec<_>>(), ids);
        let after =
            w.store.keys(&KeyQuery::subtree_of(key.id).after(ids[0]).limit(1)).await.unwrap();
        assert_eq!(after.first().map(|key| key.id), ids.get(1).copied());
        let query = EntryQuery::for_account(account("acme")).subtree(key.id);
        let entries = w.store.entries(&query).await.unwrap();
        let mut charged: Vec<_> = entries.iter().filter_map(|(_, entry)| entry.key).collect();
        charged.sort_unstable();
        assert_eq!(charged, ids);
        let query = UsageQuery::for_account(account("acme"), UsageBy::Month).subtree(key.id);
        let sums = w.store.usage(&query).await.unwrap();
        assert_eq!(sums.iter().map(|sum| sum.amount).collect::<Vec<_>>(), [c(total)]);
    }
    let none = KeyQuery::subtree_of(KeyId::new(987_654));
    assert!(w.store.keys(&none).await.unwrap().is_empty());
}
