//! Imports of keys whose tokens another program made.

use std::collections::HashMap;

use crate::engine::agent_keys::AgentKeys;
use crate::engine::error::Error;
use crate::ledger::{ImportDraft, KeyDraft, NewToken};
use crate::model::key::Owner;
use crate::model::{AccountId, ChangeError, Imported, KeyId, KeyImport};
use crate::store::StoreError;

/// How many keys are imported in one transaction, which keeps their accounts locked.
const IMPORT_BATCH: usize = 250;

impl AgentKeys {
    /// Imports keys whose tokens another program made, and answers for each, in the same order.
    ///
    /// Thousands of keys are imported at once, in transactions of a few hundred. A key that is
    /// refused does not hinder the others. An import whose hash is known changes nothing, and is
    /// answered with [`Imported::Known`]: repeat the call after an error.
    ///
    /// What a key has spent becomes an entry of the kind
    /// [`Opening`](crate::model::EntryKind::Opening). It counts along the lineage, as a charge does.
    ///
    /// Tokens of other formats need
    /// [`AgentKeyLayer::foreign_tokens`](crate::AgentKeyLayer::foreign_tokens).
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer. The first transactions may have been
    /// committed. Each key has an error of its own, which is one of those of [`create`](Self::create).
    ///
    /// ```
    /// use agentkey::{AgentKeys, Amount, Budget, Imported, KeyImport, MemoryStore, NewKey, Opening, Token};
    /// use agentkey::model::TokenHash;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let token = Token::parse_foreign("sk-0123456789abcdef")?;
    /// let key = NewKey::new("acme".parse()?).budget(Budget::monthly(Amount::units(20)));
    /// let import = KeyImport::new(key, TokenHash::parse(&token.hash().to_string())?)
    ///     .opening(Opening::spent(Amount::units(5)));
    ///
    /// let imported = keys.import([import.clone()]).await?;
    /// let found = keys.find(&token).await?.expect("it was imported");
    /// assert_eq!(imported, [Ok(Imported::New(found.id()))]);
    /// assert_eq!(found.remaining(), Some(Amount::units(15)));
    /// assert_eq!(keys.import([import]).await?, [Ok(Imported::Known(found.id()))]);
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub async fn import(
        &self,
        imports: impl IntoIterator<Item = KeyImport>,
    ) -> Result<Vec<Result<Imported, ChangeError>>, Error> {
        let mut imports: Vec<_> = imports.into_iter().collect();
        let (mut answers, mut accounts) = (Vec::with_capacity(imports.len()), HashMap::new());
        while !imports.is_empty() {
            let rest = imports.split_off(IMPORT_BATCH.min(imports.len()));
            let (mut drafts, mut unknown) = (Vec::with_capacity(imports.len()), Vec::new());
            for import in std::mem::replace(&mut imports, rest) {
                let owner = self.owner(&import.new.owner, &mut accounts).await?;
                unknown.push(owner.as_ref().err().cloned());
                drafts.extend(owner.map(|(account, parent)| import.draft(account, parent)));
            }
            let rules = &self.inner().rules;
            let imported = self.change_store(|store| store.import_keys(&drafts, rules)).await?;
            let mut imported = imported.into_iter();
            for unknown in unknown {
                let answer = unknown.map(Err).or_else(|| imported.next());
                answers.push(answer.ok_or(StoreError::failed("an import was not answered"))?);
            }
        }
        Ok(answers)
    }

    /// Returns the account of a key to be imported, and its parent.
    async fn owner(
        &self,
        owner: &Owner,
        accounts: &mut HashMap<KeyId, AccountId>,
    ) -> Result<Result<(AccountId, Option<KeyId>), ChangeError>, Error> {
        let parent = match owner {
            Owner::Account(account) => return Ok(Ok((account.clone(), None))),
            Owner::Parent(parent) => *parent,
        };
        if let Some(account) = accounts.get(&parent) {
            return Ok(Ok((account.clone(), Some(parent))));
        }
        let Some(lineage) = self.find_by_id(parent).await? else {
            return Ok(Err(ChangeError::UnknownKey(parent)));
        };
        accounts.insert(parent, lineage.account_id().clone());
        Ok(Ok((lineage.account_id().clone(), Some(parent))))
    }
}

impl KeyImport {
    /// Returns what a store imports.
    pub(crate) fn draft(self, account: AccountId, parent: Option<KeyId>) -> ImportDraft {
        let Self { new, hash, start, opening, is_disabled } = self;
        let prefix = new.prefix.as_ref().map_or("", |prefix| prefix.as_str()).to_owned();
        let token = NewToken { hash, prefix, start };
        ImportDraft { draft: KeyDraft::new(account, parent, new), token, opening, is_disabled }
    }
}
