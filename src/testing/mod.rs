//! The conformance suite, which every store has to pass.
//!
//! Each check is a function in the module of its subject, named by what must hold. It takes a
//! function that makes an empty store on a given clock. It panics if the store breaks what
//! [`Store`] promises.
//!
//! [`conformance_tests!`](crate::conformance_tests) makes a `#[tokio::test]` of each check, and
//! [`conformance`] runs them one after the other. The suite is hidden, and may change in every
//! version before 1.0.
//!
//! ```
//! use agentkey::MemoryStore;
//! use agentkey::model::Clock;
//!
//! async fn empty(clock: Clock) -> MemoryStore {
//!     MemoryStore::with_clock(clock)
//! }
//!
//! mod memory_store {
//!     agentkey::conformance_tests!(super::empty); // in tests/conformance.rs: one test for each check
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! agentkey::testing::conformance(empty).await; // or all of them in one place
//! # }
//! ```
//!
//! A store that breaks a promise fails the check:
//!
//! ```should_panic
//! use agentkey::MemoryStore;
//! use agentkey::model::Clock;
//! use agentkey::testing::payments;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! // This store reads the machine's clock instead of the given one.
//! payments::a_note_is_kept(async |_: Clock| MemoryStore::new()).await;
//! # }
//! ```

// A check stops at the first failure, as a test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::missing_panics_doc)] // every check panics where it fails

pub mod adjustments;
pub mod callers;
pub mod concurrency;
pub mod events;
pub mod holds;
pub mod idempotency;
pub mod imports;
pub mod limits;
pub mod lookup;
pub mod payments;
pub mod policy;
pub mod policy_version;
pub mod queries;
pub mod rate_limits;
pub mod reconcile;
pub mod records;
pub mod refunds;
pub mod retention;
pub mod signing_keys;
pub mod subjects;
pub mod windows;
mod world;

use crate::model::Clock;
use crate::store::Store;

pub use world::World;

/// Prints the name of a check that panics, since the panic itself names only a line.
struct Running(&'static str);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the store does not conform: {}", self.0);
        }
    }
}

/// Defines `conformance` and `conformance_tests!` from one list, so that both have every check.
macro_rules! suite {
    ($dollar:tt $($module:ident { $($check:ident)* })*) => {
        /// Runs every check. `make` makes an empty store that reads the time from the given clock.
        ///
        /// # Panics
        ///
        /// Panics at the first check that fails; its name is on standard error.
        pub async fn conformance<S: Store>(make: impl AsyncFn(Clock) -> S) {
            $($({
                let _running = Running(concat!(stringify!($module), "::", stringify!($check)));
                $module::$check(&make).await;
            })*)*
        }

        /// Makes a `#[tokio::test]` of every check of [`testing`](crate::testing).
        ///
        /// Its argument is an `async fn(Clock) -> impl Store`. The calling crate needs tokio with
        /// `macros` and `rt-multi-thread`.
        #[macro_export]
        macro_rules! conformance_tests {
            (ignore = $dollar reason:literal, $dollar make:expr) => {
                $($(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    #[ignore = $dollar reason]
                    async fn $check() {
                        let make = $dollar make;
                        $crate::testing::$module::$check(&make).await;
                    }
                )*)*
            };
            ($dollar make:expr) => {
                $($(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $check() {
                        let make = $dollar make;
                        $crate::testing::$module::$check(&make).await;
                    }
                )*)*
            };
        }
    };
}

suite! { $
    lookup {
        answers_come_in_the_order_of_the_hashes
        a_record_is_found_as_it_was_made
        a_retired_token_works_until_its_grace_ends
        revocation_shows_at_once_on_the_whole_subtree
        expiry_shows_at_its_instant
        what_was_charged_shows_at_once
        holds_that_ran_out_do_not_show
    }
    payments {
        a_payment_counts_on_the_whole_lineage
        a_limit_can_be_spent_to_the_last_micro
        a_refusal_changes_nothing_and_names_the_member
        refusals_are_not_remembered
        negative_amounts_are_refused
        keys_outside_the_account_are_refused
        keys_not_in_force_are_refused_new_work_only
        opening_needs_something_left
        a_payment_takes_effect_once
        a_settlement_takes_effect_once
        cost_is_posted_past_the_limit
        a_settlement_that_cost_nothing_writes_nothing
        a_settlement_outlives_its_key
        a_voided_payment_is_taken_back_once
        figures_saturate_and_never_wrap
        a_batch_is_answered_in_order
        a_refused_posting_does_not_affect_its_batch
        a_batch_may_touch_many_accounts
        a_long_batch_is_one_batch
        a_note_is_kept
    }
    refunds {
        an_entry_is_given_back_in_parts_and_no_further
        a_refund_takes_effect_once
        only_charges_of_the_account_are_refunded
        a_refund_into_a_past_window_leaves_the_current_one
        a_refund_counts_for_each_member_by_its_own_window
        a_refund_of_a_cost_beyond_the_largest_amount_leaves_the_rest
    }
    holds {
        a_hold_sets_money_aside_on_the_whole_lineage
        a_settled_hold_makes_room_for_its_cost
        only_the_named_holds_are_settled
        a_hold_takes_effect_once
        a_hold_that_is_over_is_never_held_again
        a_hold_that_runs_out_is_released
        a_hold_that_runs_out_is_charged_where_asked
        a_settlement_takes_a_charged_expiry_back
        a_late_settlement_posts_its_whole_cost
        a_renewed_hold_lives_longer
        a_hold_gets_no_older_than_the_maximum
        what_is_over_is_not_renewed
        holds_live_through_the_end_of_a_window
        a_sweep_ends_what_ran_out
        a_hold_may_last_to_the_end_of_time
    }
    idempotency {
        a_claim_keeps_others_out_while_it_runs
        a_claim_belongs_to_one_key
        a_charged_claim_answers_with_its_entry
        a_payment_given_back_whole_frees_its_claim
        a_claim_that_cost_nothing_is_free_again
        a_dead_claim_is_taken_over
        a_dead_claim_that_paid_is_charged
        a_claim_kept_beyond_a_settle_is_bound_to_it
        a_voided_payment_frees_its_claim
        a_renewed_claim_stays_in_flight
        a_refused_claim_is_free
        a_claim_may_be_any_text
    }
    adjustments {
        a_top_up_lets_more_be_spent
        a_correction_is_always_accepted
        an_adjustment_counts_along_the_lineage
        an_account_is_adjusted_alone
        an_adjustment_ends_with_its_window
        an_adjustment_takes_effect_once
        an_id_that_another_posting_has_is_a_conflict
        an_adjustment_is_not_refunded
        usage_has_adjustments_in_a_column_of_their_own
        another_period_counts_adjustments
        an_adjustment_saturates
    }
    imports {
        an_imported_key_is_what_the_import_says
        an_opening_counts_along_the_lineage
        an_opening_ends_with_its_window
        an_opening_counts_against_every_limit
        a_hash_is_imported_once
        a_refused_import_does_not_hinder_the_others
        an_imported_key_may_have_expired
        many_keys_are_imported_at_once
    }
    windows {
        every_member_counts_in_its_own_window
        months_do_not_drift
        debt_ends_with_its_window
        a_refusal_says_when_waiting_helps
        time_never_goes_back_for_an_account
        a_key_is_not_made_in_the_past_of_its_account
    }
    limits {
        the_tightest_limit_binds
        a_refusal_names_the_period
        held_counts_against_every_limit
        a_refund_counts_by_each_window
        limits_come_and_go
        an_account_has_several_limits
        the_other_limits_bind_without_the_first
        a_limit_may_be_the_largest_amount
        a_child_stays_inside_every_limit
    }
    records {
        a_delegator_is_inherited
        a_disabled_key_is_refused_and_its_work_goes_on
        a_revocation_keeps_its_reason
        metadata_is_kept
    }
    policy {
        a_child_stays_inside_its_parent
        a_lineage_has_a_greatest_depth
        a_child_needs_a_parent_in_force
        a_parent_must_exist_in_the_account
        a_refused_change_leaves_nothing
        an_account_is_made_once
        an_account_that_exists_keeps_its_ceiling
        the_ceiling_of_an_unknown_account_is_not_set
        an_account_has_a_ceiling_over_its_keys
        an_update_changes_what_it_names
        an_update_stays_inside_the_parent
        another_period_is_counted_again
        another_period_counts_what_was_charged_in_the_account
        another_period_of_the_account_is_counted_again
        a_rotation_keeps_everything_but_the_token
        revoking_again_changes_nothing
        revoked_keys_are_not_changed
        unknown_keys_are_not_changed
        holds_that_ran_out_do_not_count_against_a_change
    }
    callers {
        a_minted_key_inherits_from_its_lineage
        children_in_force_are_counted
        a_caller_must_be_in_force
        a_subtree_is_listed_and_summed
    }
    queries {
        keys_come_in_pages
        accounts_come_in_pages
        open_holds_come_oldest_first
        entries_come_in_pages
        entries_are_narrowed_by_key_and_time
        one_entry_is_found
        last_used_never_goes_back
        usage_by_key
        usage_by_label_of_any_name
        usage_by_time
        usage_counts_a_refund_where_its_charge_was
        usage_leaves_out_what_was_refunded_whole
        usage_by_two_groups
        usage_saturates
        accounts_do_not_see_each_other
    }
    rate_limits {
        rate_limits_and_ranges_are_kept
        a_child_stays_inside_the_ranges_of_its_lineage
        a_burst_is_taken_and_then_the_rate
        all_limits_are_taken_from_or_none
        takes_never_pass_a_limit_together
    }
    events {
        a_change_has_one_event
        the_end_of_no_grace_has_no_event
        a_refused_change_has_no_event
        a_session_opens_and_ends
        accounts_and_imports_have_events
        an_adjustment_has_one_event
        a_charged_hold_has_its_event
        refusals_are_folded
        refusals_are_counted_at_once
        events_come_in_pages
    }
    retention {
        usage_is_the_same_after_a_roll_up
        a_rolled_up_day_counts_at_its_start
        a_label_may_be_left_out
        a_charge_goes_with_its_refunds
        refunds_race_with_a_roll_up
        a_new_limit_counts_what_was_rolled_up
        roll_ups_do_not_overflow
        idempotency_keys_go_with_their_entries
        ended_holds_go
        old_events_go
        refusals_are_counted_after_old_events_went
    }
    signing_keys {
        the_first_signing_key_is_made_once
        signing_keys_go_when_their_sessions_have_ended
        the_newest_signing_key_of_each_algorithm_stays
    }
    subjects {
        a_subject_is_found_by_its_digest
        a_subject_that_is_there_stays_as_it_is
        a_subject_is_made_once
        other_issuers_and_ids_are_other_subjects
        a_subject_has_no_token_to_rotate
        a_subject_is_a_member_of_a_lineage
        the_windows_of_a_subject_turn
        subjects_are_listed
        a_claim_of_first_sight_ends_with_its_lease
    }
    reconcile {
        a_healthy_balance_agrees
        a_saturated_balance_agrees
        unknown_holders_are_not_compared
        a_balance_that_agrees_is_not_mended
        balances_agree_while_they_are_charged
    }
    policy_version {
        a_cached_look_up_knows_the_changes_of_its_store
    }
    concurrency {
        payments_never_pass_a_limit_together
        no_limit_is_passed_while_others_come_and_go
        children_never_pass_their_parent_together
        holds_never_pass_a_limit_together
        one_posting_sent_often_takes_effect_once
        one_claim_is_opened_by_one
        one_account_is_made_by_one
        accounts_in_opposite_order_do_not_deadlock
        a_revocation_stops_what_starts_after_it
    }
}
