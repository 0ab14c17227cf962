//! Postings inside a transaction of the application.

use sqlx::PgConnection;

use super::PostgresStore;
use super::connection::Statements;
use super::error::{is_conflict, store_error};
use crate::ledger::{Action, Needs, Posting};
use crate::model::{AccountId, Amount, EntryId, KeyId, Note, Refusal};
use crate::store::{PostingError, StoreError};

impl PostgresStore {
    /// Charges a known price inside a transaction of the application: its own rows and the money are committed together
    /// or not at all. The account stays locked until then, so commit soon.
    ///
    /// A transaction above `READ COMMITTED` may have to be retried (SQLSTATE 40001). It also follows the policy of its
    /// begin: a key that was revoked since can still pay.
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
    /// Returns [`PostingError::Refused`] as [`pay`](crate::Charge::pay) is refused, and [`PostingError::Store`] if the
    /// database fails. Then roll the transaction back.
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

    /// Refunds an entry, in part or whole, inside a transaction of the application.
    ///
    /// # Errors
    ///
    /// Fails as [`AgentKeys::refund`](crate::AgentKeys::refund) does.
    pub async fn refund_in(
        &self,
        tx: &mut PgConnection,
        account: &AccountId,
        entry: EntryId,
        amount: Amount,
    ) -> Result<EntryId, PostingError> {
        let charged =
            self.inner.entry_in(&mut self.statements(tx), entry).await.map_err(store_error)?;
        let key = charged.ok_or(Refusal::UnknownEntry)?.key;
        let action = Action::Refund { entry, amount };
        let posting = Posting::new(account.clone(), key, action);
        self.post_into(tx, posting).await
    }

    /// Posts inside the transaction. Returns the entry, which has the id of its posting.
    async fn post_into(
        &self,
        tx: &mut PgConnection,
        posting: Posting,
    ) -> Result<EntryId, PostingError> {
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
        Statements::external(tx, &self.inner.connections)
    }
}
