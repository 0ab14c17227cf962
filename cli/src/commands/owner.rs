//! The account or the key that a command is about.

use agentkey::jiff::Timestamp;
use agentkey::model::{ChangeError, Lineage};
use agentkey::{AccountId, AgentKeys, KeyId};
use clap::Args;

use crate::error::Error;
use crate::values;

/// The account of a service that has only one.
pub(crate) const DEFAULT_ACCOUNT: &str = "default";

/// Whose entries are read, and of which time.
#[derive(Debug, Args)]
pub(crate) struct OwnerArgs {
    /// Of this account
    #[arg(long, env = "AGENTKEY_ACCOUNT", value_name = "ACCOUNT", default_value = DEFAULT_ACCOUNT)]
    account: AccountId,
    /// Of this key
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// Of the key and those minted from it
    #[arg(long, requires = "key")]
    pub(crate) subtree: bool,
    /// From this instant on: 7d ago, 2027-01-31, or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::instant)]
    pub(crate) since: Option<Timestamp>,
    /// Before this instant
    #[arg(long, value_name = "TIME", value_parser = values::instant)]
    pub(crate) until: Option<Timestamp>,
}

impl OwnerArgs {
    /// Returns the account, and the key if one was named. Neither is taken to exist unread.
    pub(crate) async fn owner(
        &self,
        keys: &AgentKeys,
    ) -> Result<(AccountId, Option<KeyId>), Error> {
        if let Some(key) = self.key {
            return Ok((find(keys, key).await?.account_id().clone(), Some(key)));
        }
        match keys.account(&self.account).await? {
            Some(account) => Ok((account.id, None)),
            None => Err(unknown(&self.account)),
        }
    }
}

/// Returns the error of an account that does not exist.
pub(crate) fn unknown(account: &AccountId) -> Error {
    Error::NotFound(format!(
        "there is no account {account}: name another with `--account`; `agentkey account list` \
         shows those that there are"
    ))
}

/// Returns the key with this id.
pub(crate) async fn find(keys: &AgentKeys, key: KeyId) -> Result<Lineage, Error> {
    Ok(keys.find_by_id(key).await?.ok_or(ChangeError::UnknownKey(key))?)
}
