//! What is timed.

use std::time::Duration;

use agentkey::ledger::{Action, OnExpiry, Posting};
use agentkey::model::Note;
use agentkey::store::Found;
use agentkey::store::Store;
use agentkey::{Amount, EntryQuery};

use crate::fill::{Size, hash};
use crate::support::Result;

pub struct Step {
    pub name: &'static str,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Find,
    Charge,
    HoldAndSettle,
    EntriesOfKey,
}

pub const STEPS: [Step; 4] = [
    Step { name: "authenticate, a key at random", what: What::Find },
    Step { name: "authenticate + posting, a key at random", what: What::Charge },
    Step { name: "authenticate + hold + settle, a key at random", what: What::HoldAndSettle },
    Step { name: "the last entries of a key", what: What::EntriesOfKey },
];

impl Step {
    pub async fn take(&self, store: &dyn Store, size: Size, turn: i64) -> Result<()> {
        // A large prime walks over all keys.
        let id = (turn * 4 + self.what as i64) * 15_485_863 % size.keys + 1;
        let found = find(store, id).await?;
        let posting =
            |action| Posting::new(found.lineage.account_id().clone(), found.lineage.id(), action);
        let cost = |holds| Action::Settle {
            holds,
            void: vec![],
            cost: Amount::micros(1),
            note: Note::default(),
            claim: None,
        };
        match self.what {
            What::Find => {}
            What::Charge => post(store, posting(cost(vec![]))).await?,
            What::HoldAndSettle => {
                let (amount, ttl) = (Amount::micros(2), Duration::from_secs(60));
                let hold = posting(Action::Hold {
                    amount,
                    ttl,
                    on_expiry: OnExpiry::Release,
                    note: Note::default(),
                    claim: None,
                });
                let id = hold.id;
                post(store, hold).await?;
                post(store, posting(cost(vec![id]))).await?;
            }
            What::EntriesOfKey => {
                let query = EntryQuery::for_account(found.lineage.account_id().clone())
                    .key(found.lineage.id())
                    .limit(10);
                assert!(!store.entries(&query).await?.is_empty());
            }
        }
        Ok(())
    }
}

async fn find(store: &dyn Store, id: i64) -> Result<Found> {
    let found = store.find(&[hash(id)]).await?.into_iter().flatten().next();
    Ok(found.ok_or("a key that is not there")?)
}

async fn post(store: &dyn Store, posting: Posting) -> Result<()> {
    store.post(&[posting]).await?.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(())
}
