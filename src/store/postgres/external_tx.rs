//! Money inside a transaction of the application's.

use sqlx::PgConnection;

use super::PostgresStore;
use super::connection::Statements;
use super::error::{is_conflict, store_error};
use crate::ledger::{Action, Needs, Posting};
use crate::model::{AccountId, Amount, EntryId, KeyId, Note, Refusal};
use crate::store::{PostingError, StoreError};

impl PostgresStore {
    /// Charges a known price inside a transaction of the host's: the host's own rows and the money are committed
    /// together or not at all. Until then the account is locked, so commit soon; a transaction at a level above
    /// `READ COMMITTED` may have to be begun anew (SQLSTATE 40001), and goes by policy as it was when it began: a key that
    /// was revoked since pays.
    ///
    /// ```no_run
    /// use agentkey::{Amount, KeyContext, PostgresStore};
    /// use agentkey::model::Note;
    ///
    /// async fn order(store: PostgresStore, pool: sqlx::PgPool, key: KeyContext) -> Result<(), Box<dyn std::error::Error>> {
    ///     let mut tx = pool.begin().await?;
    ///     sqlx::query("INSERT INTO orders (item) VALUES (7)").execute(&mut *tx).await?;
    ///     store.pay_in(&mut tx, key.account_id(), key.id(), Amount::cents(250), Note::default()).await?;
    ///     tx.commit().await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PostingError::Refused`] as a [`pay`](crate::Charge::pay) is, and [`PostingError::Store`] where the database fails; then roll
    /// the transaction back.
    pub async fn pay_in(
        &self,
        tx: &mut PgConnection,
        account: &AccountId,
        key: KeyId,
        amount: Amount,
        note: Note,
    ) -> Result<EntryId, PostingError> {
        let posting = Posting::new(account.clone(), key, Action::Pay { amount, note, claim: None });
        self.post_into(tx, posting).await
    }

    /// Gives back what an entry charged, in part or whole, inside a transaction of the host's.
    ///
    /// # Errors
    ///
    /// As [`AgentKeys::refund`](crate::AgentKeys::refund).
    pub async fn refund_in(
        &self,
        tx: &mut PgConnection,
        account: &AccountId,
        entry: EntryId,
        amount: Amount,
    ) -> Result<EntryId, PostingError> {
        let charged = self.inner.entry_in(&mut self.statements(tx), entry).await.map_err(store_error)?;
        let key = charged.ok_or(Refusal::UnknownEntry)?.key;
        let action = Action::Refund { entry, amount };
        let posting = Posting::new(account.clone(), key, action);
        self.post_into(tx, posting).await
    }

    /// An entry has the id of its posting.
    async fn post_into(&self, tx: &mut PgConnection, posting: Posting) -> Result<EntryId, PostingError> {
        let (id, postings) = (posting.id, [posting]);
        let needs = Needs::of(&postings);
        // The application's own SQL may change the key between the read and the write.
        let mut attempt = 1;
        loop {
            match self.inner.post_in(&mut self.statements(tx), &postings, &needs).await {
                Err(error) if is_conflict(&error) && attempt < 4 => attempt += 1,
                Err(error) => return Err(store_error(error).into()),
                Ok(posted) => {
                    let posted = posted.into_iter().next();
                    posted.ok_or_else(|| StoreError::failed("a posting was not answered"))??;
                    return Ok(id.into());
                }
            }
        }
    }

    fn statements<'c>(&'c self, tx: &'c mut PgConnection) -> Statements<'c> {
        Statements::of_host(tx, &self.inner.connections)
    }
}
