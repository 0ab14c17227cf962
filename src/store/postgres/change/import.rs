//! Imports of keys whose tokens another program made.

use std::collections::{BTreeSet, HashMap};

use super::{ChangeOutcome, PolicyTransaction, UNIQUE};
use crate::ledger::{Action, ImportDraft, ImportWrite, Load, Needs, Posting, Rules};
use crate::model::{AccountId, ChangeError, Imported, KeyId, TokenHash};
use crate::store::ImportResult;
use crate::store::postgres::decode::{Cells, ReadCells};
use crate::store::postgres::error::{Error, Result, code, invalid_row};
use crate::store::postgres::inner::Inner;

impl Inner {
    /// Imports keys in one transaction. If the table refuses one of them, each is imported by itself.
    pub(in crate::store::postgres) async fn import_keys(
        &self,
        imports: &[ImportDraft],
        rules: &Rules,
    ) -> Result<Vec<ImportResult>> {
        match self.import_together(imports, rules).await {
            Ok(Ok(answers)) => return Ok(answers),
            Err(error) if !is_unique_violation(&error) => return Err(error),
            _ => {}
        }
        let mut answers = Vec::with_capacity(imports.len());
        for import in imports {
            let alone = self.import_together(std::slice::from_ref(import), rules).await?;
            match alone {
                Ok(imported) => answers.extend(imported),
                Err(refused) => answers.push(Err(refused)),
            }
        }
        Ok(answers)
    }

    async fn import_together(
        &self,
        imports: &[ImportDraft],
        rules: &Rules,
    ) -> ChangeOutcome<Vec<ImportResult>> {
        self.attempt(async |mut session| session.import_keys(imports, rules).await.map(Ok)).await
    }
}

/// Returns whether a row has a value that must be unique, such as the hash of a key that another process has imported in
/// the meantime.
fn is_unique_violation(error: &Error) -> bool {
    code(error).is_some_and(|code| code == UNIQUE)
}

impl PolicyTransaction<'_, '_, '_> {
    async fn import_keys(
        &mut self,
        imports: &[ImportDraft],
        rules: &Rules,
    ) -> Result<Vec<ImportResult>> {
        let accounts: BTreeSet<_> = imports.iter().map(|import| &import.draft.account).collect();
        self.lock_accounts(accounts).await?;
        let mut known = self.known_tokens(imports).await?;
        let mut times = HashMap::new();
        let (mut answers, mut openings) = (Vec::with_capacity(imports.len()), Vec::new());
        for import in imports {
            if let Some(key) = known.get(&import.token.hash) {
                answers.push(Ok(Imported::Known(*key)));
                continue;
            }
            answers.push(match self.decide_import(import, rules, &mut times).await? {
                Ok(ImportWrite { write, spent }) => {
                    let key = self.write_key(write).await?;
                    known.insert(import.token.hash, key.id);
                    let opening = Action::Opening { amount: spent };
                    let opening = Posting::new(key.account, key.id, opening);
                    openings.extend((!spent.is_zero()).then_some(opening));
                    Ok(Imported::New(key.id))
                }
                Err(refused) => Err(refused),
            });
        }
        let needs = Needs::of(&openings);
        for posted in self.inner.post_in(self.statements, &openings, &needs).await? {
            posted.map_err(invalid_row)?;
        }
        Ok(answers)
    }

    /// Returns the keys that have one of the tokens, or had it before a rotation.
    async fn known_tokens(&mut self, imports: &[ImportDraft]) -> Result<HashMap<TokenHash, KeyId>> {
        let hashes: Vec<_> = imports.iter().map(|import| import.token.hash.to_string()).collect();
        let rows = self.statements.fetch(self.inner.sql.known_tokens.query().bind(hashes)).await?;
        let mut known = HashMap::with_capacity(rows.len());
        for row in &rows {
            let mut cells = Cells::new(row);
            let hash = cells.text()?.parse().map_err(invalid_row)?;
            known.insert(hash, cells.key_id()?);
        }
        Ok(known)
    }

    /// Decides an import. The times of accounts are read once.
    async fn decide_import<'i>(
        &mut self,
        import: &'i ImportDraft,
        rules: &Rules,
        times: &mut HashMap<&'i AccountId, jiff::Timestamp>,
    ) -> ChangeOutcome<ImportWrite> {
        let now = self.now;
        let (parent, time) = match import.load() {
            Load::Lineage(id) => (self.lineage(id).await?, now),
            Load::Time(account) => match times.get(account) {
                Some(time) => (None, *time),
                None => {
                    let time = self.account(account).await?.map_or(now, |(_, at)| at);
                    times.insert(account, time);
                    (None, time)
                }
            },
        };
        let decided = import.decide(parent.as_ref(), time, rules);
        let check = |import: ImportWrite| -> Result<_, ChangeError> {
            self.inner.schema.columns.check(&import.write)?;
            Ok(import)
        };
        Ok(decided.and_then(check))
    }
}
