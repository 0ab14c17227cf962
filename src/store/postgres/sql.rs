//! The statements of the store, each in the file of its name in `sql/`.

use super::names::Sql;
use super::schema::Schema;

macro_rules! statements {
    ($($name:ident)*) => {
        /// The statements, with the names of a schema filled in.
        pub(super) struct StoreSql {
            $(pub(super) $name: Sql,)*
        }

        impl StoreSql {
            pub(super) fn new(schema: &Schema) -> Self {
                Self { $($name: schema.sql(include_str!(concat!("sql/", stringify!($name), ".sql"))),)* }
            }
        }
    };
}

statements! {
    // Look-ups and lists.
    find lineages revalidate account accounts open_holds overdue_accounts policy_version fold_policy_changes

    // The rows that fill a book, under the lock of its accounts.
    lock_accounts make_accounts unmade_accounts expired_holds next_expiry update_next_expiry holds claims entries

    // Policy changes.
    lock_account lock_new_account lock_key known_tokens insert_key update_anchor switched_off revoke_key upsert_balance upsert_account touch_account
    shorten_retired_tokens retire_token replace_token delete_retired_tokens end_grace in_grace
    children_in_force descendants

    // Subjects.
    subject_key bind_subject claim_first_seen release_first_seen

    // The ledger.
    entry spent_by_key spent_by_account held balances_without_key

    // Whether postings are taken.
    check_writable

    // Retention.
    prunable prunable_accounts prunable_entries refunds upsert_rollups delete_entries prune_holds prune_events
    prune_idempotency_keys prune_rate_limits

    // The audit trail.
    insert_event record_refusals

    // When keys were last used.
    record_last_used last_used

    // Rate limits that all instances share.
    take_rates revalidate_and_take

    // The keys that sign sessions.
    lock_signing_keys signing_keys delete_signing_keys insert_signing_key
}
