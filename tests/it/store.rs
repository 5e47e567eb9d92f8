//! The suite that every store passes: each case of it on each backend, on a fresh store.
//!
//! A case that is left off the list is dead code, and the compiler says so.

pub(crate) mod support;

mod chains;
mod keys;
mod makers;
mod requests;
mod revocation;
mod rotation;
mod updates;

mod accounts;
mod policy;
mod seed;

mod audit;
mod feed;
mod lists;
mod reading;
mod trail;

mod concurrency;
mod reopening;

mod postgres;
mod sqlite;
mod verify;

/// Makes a test of each case for each backend. A case is given the store; one of `places` is given the
/// place instead, so that it can open it again or look below it.
macro_rules! on_every_backend {
    (
        cases { $($area:ident { $($case:ident,)+ })+ }
        places { $($place_area:ident { $($place_case:ident,)+ })+ }
    ) => {
        on_every_backend!(@backend on_sqlite {
            $($area { $($case,)+ })+
        } {
            $($place_area { $($place_case,)+ })+
        });
        on_every_backend!(@backend on_postgres {
            $($area { $($case,)+ })+
        } {
            $($place_area { $($place_case,)+ })+
        });
    };
    (@backend $backend:ident {
        $($area:ident { $($case:ident,)+ })+
    } {
        $($place_area:ident { $($place_case:ident,)+ })+
    }) => {
        mod $backend {
            $(mod $area {
                $(
                    #[tokio::test]
                    async fn $case() {
                        let place = crate::store::support::place::$backend().await;
                        crate::store::$area::$case(place.open().await).await;
                    }
                )+
            })+
            $(mod $place_area {
                $(
                    #[tokio::test]
                    async fn $place_case() {
                        let place = crate::store::support::place::$backend().await;
                        crate::store::$place_area::$place_case(place).await;
                    }
                )+
            })+
        }
    };
}

on_every_backend! {
    cases {
        keys {
            a_new_key_is_found_by_its_id_and_by_its_digest,
            ids_are_in_order_of_creation,
            an_unknown_scope_is_refused_with_the_nearest_name,
            an_unknown_grantable_scope_names_its_field,
            a_pattern_that_covers_nothing_is_refused,
            an_expiry_in_the_past_is_refused,
            a_span_of_life_counts_from_when_the_key_was_made,
            a_key_beyond_its_makers_grant_is_refused,
            a_key_in_a_foreign_account_is_not_found,
            a_key_for_an_account_that_is_not_there_is_not_found,
            a_suspended_account_gets_no_keys,
            a_plan_of_five_refuses_the_sixth_key,
            keys_that_are_over_do_not_count,
            a_disabled_key_counts,
            operator_keys_have_a_limit_of_their_own,
            latchkeys_own_account_may_have_any_number_of_operator_keys,
            the_token_of_another_key_is_refused,
            a_key_says_who_made_it,
        }
        updates {
            a_change_moves_version_revision_and_time,
            a_revoked_key_is_not_changed,
            another_revision_than_expected_is_refused,
            the_expected_revision_is_let_through,
            pausing_a_key_needs_no_grant,
            resuming_a_key_needs_a_grant,
            a_change_beyond_the_grant_is_refused,
            a_key_that_holds_more_than_the_grant_is_not_changed,
            bringing_an_expired_key_back_counts,
            a_change_of_class_counts,
            scopes_given_anew_are_checked,
            scopes_left_alone_are_not_checked,
            a_new_expiry_in_the_past_is_refused,
            a_change_that_changes_nothing_makes_no_change,
            a_foreign_key_is_not_found,
        }
        requests {
            the_same_request_again_says_what_it_made,
            a_request_id_used_for_something_else_is_refused,
            a_request_is_looked_at_before_the_plan,
            a_request_is_told_apart_by_account_and_by_call,
            a_request_is_forgotten_after_two_days,
            a_rotation_is_not_repeated,
            an_account_is_not_made_twice_by_one_request,
            a_refused_request_may_be_sent_again,
        }
        rotation {
            a_successor_is_a_copy_with_another_token,
            the_old_key_lives_on_for_the_overlap,
            an_overlap_does_not_lengthen_a_life,
            no_overlap_revokes_the_old_key_at_once,
            rotating_again_ends_the_one_before,
            a_rotated_key_is_not_rotated_again,
            a_revoked_key_is_not_rotated,
            an_expired_key_is_not_rotated,
            a_key_of_a_suspended_account_is_not_rotated,
            a_rotation_beyond_the_grant_is_refused,
            a_rotation_is_never_refused_for_the_plan,
            a_predecessor_does_not_count,
            a_predecessors_life_is_not_lengthened,
            a_predecessors_life_may_be_shortened,
        }
        revocation {
            a_revoked_key_stays_revoked,
            revoking_twice_keeps_the_first_date_and_reason,
            a_key_is_revoked_by_its_digest,
            a_key_that_is_not_there_is_not_found,
            a_foreign_key_is_not_found,
            revoking_needs_no_grant,
            what_a_key_made_goes_with_it,
            what_a_key_made_goes_later_too,
            a_key_that_made_itself_by_rotation_ends_the_search,
            a_key_of_latchkeys_own_account_takes_what_it_made_elsewhere,
            keys_of_a_suspended_account_are_revoked,
        }
        makers {
            a_maker_that_is_not_there_is_refused,
            a_revoked_maker_is_refused,
            a_disabled_maker_is_refused,
            an_expired_maker_is_refused,
            a_maker_of_a_suspended_account_is_refused,
            a_maker_without_the_scope_is_refused,
            an_administrator_holds_every_scope_of_latchkey,
        }
        chains {
            no_chain_of_keys_exceeds_its_root,
        }
        accounts {
            a_new_account_is_found,
            an_id_is_made_when_none_is_given,
            a_taken_id_is_refused,
            an_unknown_plan_is_refused_with_the_nearest_name,
            only_the_reserved_account_makes_accounts,
            only_the_reserved_account_changes_plans_and_suspends,
            an_account_changes_its_own_name,
            a_foreign_account_is_not_found,
            the_reserved_account_cannot_be_suspended,
            a_downgrade_keeps_the_keys_and_says_so,
            another_revision_than_expected_is_refused,
            a_change_that_changes_nothing_makes_no_change,
        }
        policy {
            a_new_policy_is_in_force,
            an_equal_policy_makes_no_change,
            a_dry_run_writes_nothing,
            a_wrong_policy_names_its_fields,
            another_revision_than_expected_is_refused,
            only_the_reserved_account_replaces_the_policy,
            a_scope_that_keys_hold_is_not_dropped,
            a_scope_that_keys_may_hand_out_is_not_dropped,
            a_scope_is_dropped_when_told_to,
            a_scope_of_revoked_and_expired_keys_is_dropped,
            what_a_pattern_covers_or_a_scope_implies_counts_as_held,
            a_plan_that_accounts_are_on_is_never_dropped,
        }
        seed {
            a_seeded_store_has_account_policy_and_root_key,
            seeding_again_changes_nothing,
            seeding_at_once_makes_one_root_key,
            an_empty_store_refuses_everything_else,
            no_key_may_seed_or_reset,
            a_reset_makes_a_new_root_key_and_revokes_the_old,
            a_reset_follows_rotations,
            a_demo_is_made_anew_within_its_plan,
            a_demo_refused_half_way_leaves_nothing,
            a_demo_brings_its_policy,
        }
        feed {
            time_never_goes_back_along_the_changes,
            a_refusal_leaves_no_trace,
            commits_are_announced_before_they_are_answered,
            kept_time_only_rises,
        }
        reading {
            the_first_read_brings_the_window_and_the_policy,
            a_later_read_brings_what_changed_as_it_is_now,
            a_read_with_nothing_new_brings_nothing,
            a_read_that_is_behind_says_so_and_goes_on,
            a_change_of_the_policy_is_brought,
            what_stands_at_the_position_asked_after_is_told,
            a_position_ahead_of_the_store_is_not_found,
            wanted_keys_are_brought_or_absent,
            pages_bring_every_key_once,
            an_account_is_brought_once_for_all_its_keys,
            a_read_that_was_given_up_does_no_harm,
        }
        lists {
            keys_are_listed_in_order_of_creation_page_by_page,
            keys_are_listed_by_account_maker_environment_and_hint,
            keys_are_listed_by_their_state,
            accounts_are_listed_by_id_and_plan_with_their_keys,
        }
        trail {
            entries_tell_the_changes_of_the_feed_the_latest_first,
            pages_bring_every_entry_once_while_changes_are_made,
            entries_are_listed_by_key_account_actor_and_kind,
            entries_are_listed_by_time,
            a_reach_is_an_account_with_its_keys_and_the_policy,
            a_page_of_large_changes_is_cut_short,
            each_change_of_each_call_says_who_made_it_from_where,
            keys_that_go_together_are_told_each,
            what_latchkey_does_itself_is_told_by_its_occasion,
        }
        concurrency {
            a_hundred_at_once_make_as_many_keys_as_the_plan_allows,
            one_request_sent_a_hundred_times_at_once_makes_one_key,
            changes_made_at_once_are_numbered_without_a_gap,
            revoking_and_changing_at_once_leaves_the_key_revoked,
        }
    }
    places {
        audit {
            each_change_has_one_row_in_the_audit_trail,
            the_audit_trail_tells_what_changed_and_no_secret,
            rows_that_change_together_have_a_change_each,
        }
        reopening {
            everything_is_there_after_reopening,
            a_repeat_after_reopening_is_recognised,
            a_closed_store_refuses_politely,
            what_was_queued_is_done_before_it_closes,
        }
        verify {
            a_store_is_whole_whatever_was_done_to_it,
            an_empty_store_is_whole,
            a_store_is_whole_at_every_moment_while_it_is_written_to,
            each_kind_of_tampering_is_found_and_named,
        }
    }
}
