//! The one list of all cases. A case that is missing here is dead code, and the compiler says so.

/// Gives the list of all cases to another macro, after what else it is given.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ([$($callback:tt)+] $($context:tt)*) => {
        $($callback)+! {
            $($context)*
            receipts: [
                a_receipt_names_offset_and_durability,
                topics_of_several_durabilities_live_in_one_broker,
                a_publish_can_ask_for_more_and_not_for_less,
                a_durability_that_cannot_be_given_is_refused,
                an_unknown_topic_is_refused,
                an_empty_batch_is_refused,
                one_payload_over_the_limit_refuses_the_whole_batch,
                what_was_acknowledged_survives_a_kill,
            ]
            order: [
                calls_are_stored_in_their_order_however_they_are_awaited,
                batches_of_many_publishers_stay_in_one_piece,
                all_readers_see_the_same_order,
                every_topic_counts_for_itself,
                a_message_comes_back_as_it_was_sent,
                a_restart_changes_nothing,
            ]
            once: [
                the_second_receipt_names_the_first_ones_offset,
                within_one_batch_too,
                a_batch_on_its_way_is_known_already,
                many_publishers_of_one_id_store_it_once,
                every_topic_remembers_for_itself,
                a_window_of_zero_turns_it_off,
                after_the_window_it_is_a_new_message,
                a_restart_does_not_forget,
                what_was_refused_is_not_remembered,
                a_topic_made_anew_knows_no_ids,
                outputs_of_a_settlement_count_as_well,
            ]
            sources: [
                a_batch_sent_again_gets_the_receipts_of_the_first_time,
                a_batch_under_way_is_stored_once,
                those_out_of_order_are_refused_and_nothing_of_them_is_stored,
                a_refused_one_does_not_hold_up_those_behind_it,
                a_refused_one_may_be_sent_again_until_a_later_one_is_stored,
                every_publisher_counts_for_itself_in_every_topic,
                what_was_answered_is_not_remembered,
                more_under_way_than_allowed_are_refused,
                a_restart_does_not_forget_them,
                a_topic_made_anew_knows_none,
            ]
            expected: [
                the_end_as_expected_is_appended_to,
                another_end_is_refused_and_named,
                of_many_who_race_one_wins,
                what_was_dropped_still_counts,
                a_resent_batch_is_not_measured_again,
            ]
            backpressure: [
                a_full_queue_refuses_and_stores_nothing_of_it,
                an_idle_broker_has_room,
            ]
            closing: [
                a_working_broker_says_so,
                what_was_accepted_is_kept,
                whoever_waits_is_answered,
                its_files_are_let_go_of_whoever_still_holds_it,
                what_comes_after_is_refused,
            ]
            topics: [
                a_definition_is_kept_as_it_was_given,
                the_same_again_keeps_its_revision,
                a_durability_can_be_changed_while_in_use,
                expectations_are_about_the_definition,
                what_makes_no_sense_is_refused,
                all_are_listed_by_name,
                what_is_known_follows_the_log,
                a_deleted_topic_is_gone_and_its_name_is_free,
                a_reader_of_a_deleted_topic_is_told,
                a_subscribed_topic_is_not_deleted,
            ]
            reads: [
                from_start_end_and_offset,
                from_a_moment,
                page_after_page_gives_each_message_once,
                a_page_is_about_a_mebibyte_and_never_empty,
                waits_for_the_first_one,
                beyond_the_end_it_waits_until_the_log_has_come_that_far,
                says_where_to_go_on_when_nothing_comes,
                an_unknown_topic_is_refused,
            ]
            purge: [
                all_that_is_stored_goes_and_the_numbers_go_on,
                what_lies_before_an_offset_goes,
                beyond_the_end_is_refused,
                what_subscriptions_have_of_it_goes_too,
                consumers_go_on_behind_it,
                a_restart_does_not_bring_it_back,
                a_name_is_used_again_under_load,
            ]
            redriving: [
                a_rate_sets_their_moments_and_a_restart_keeps_them,
                at_a_rate_they_come_in_order,
                a_dry_run_only_counts,
                a_filter_chooses,
                many_are_gone_through,
                a_mended_one_is_delivered_as_it_is_now,
                a_mended_one_that_fails_again_stays_mended_until_it_is_discarded,
                what_cannot_be_mended_is_refused,
            ]
            compaction: [
                only_the_newest_of_each_key_stays,
                readers_pass_over_the_gaps,
                a_gap_at_the_end_holds_nobody_up,
                what_a_subscription_needs_stays,
                a_topic_can_say_that_nobody_is_asked,
                it_can_be_switched_on_and_off,
                a_restart_changes_nothing_of_it,
                much_of_it_under_load,
                an_append_can_expect_the_newest_of_a_key,
                of_many_who_race_for_a_key_one_wins,
                keys_are_known_of_what_was_there_before,
            ]
            retention: [
                by_number,
                by_size,
                by_age,
                unread_messages_stay_and_it_says_for_whom,
                a_deleted_subscription_holds_nothing,
                a_topic_can_say_that_unread_ones_may_go,
                dead_letters_stay_and_it_says_for_whom,
                a_dead_letters_message_may_go_where_unread_ones_may,
            ]
            subscriptions: [
                a_definition_is_kept_as_it_was_given,
                what_cannot_be_is_refused,
                the_same_again_keeps_its_revision_and_a_change_keeps_the_place,
                each_begins_where_it_says,
                patterns_take_what_matches_and_nothing_else,
                a_topic_made_later_is_taken_from_its_start,
                what_is_taken_can_be_changed,
                one_made_anew_begins_anew,
                who_waits_on_a_deleted_one_is_told,
                it_says_how_it_stands,
                consumers_are_counted,
            ]
            at_least_once: [
                acknowledged_messages_never_come_again,
                every_subscription_gets_every_message,
                a_waiting_consumer_is_woken,
                an_empty_wait_ends_with_nothing,
                a_fetch_is_bounded_by_number_and_bytes,
                a_released_message_comes_again_and_counts_as_nothing,
                a_consumer_that_leaves_gives_back_at_once,
                a_consumer_that_stays_keeps_what_another_leaves,
                a_fetch_that_is_dropped_takes_nothing,
                a_restart_gives_back_and_counts_as_nothing,
                no_more_are_in_flight_than_the_subscription_says,
            ]
            failures: [
                a_failed_message_waits_and_the_others_flow,
                each_failure_waits_longer,
                the_handler_can_say_how_long,
                a_lease_that_runs_out_is_one_failure,
                a_fetch_can_ask_for_another_lease,
                a_lease_can_be_extended,
                one_failure_too_many_is_a_dead_letter,
                leases_that_run_out_end_in_the_dead_letters_too,
                what_is_set_aside_survives_a_restart,
            ]
            due: [
                a_message_is_not_delivered_before_its_time,
                a_delivery_time_survives_a_restart,
                an_expired_message_is_not_delivered,
                it_can_expire_while_it_waits_for_its_time,
            ]
            competing: [
                each_message_goes_to_one_of_them,
                each_takes_them_in_order,
                a_slow_one_holds_up_nobody,
                all_who_wait_are_served,
                a_fetch_that_is_given_up_takes_nothing_along,
            ]
            keys: [
                the_next_one_waits_until_the_one_before_it_is_settled,
                a_failing_one_holds_up_its_key_alone,
                a_poison_key_is_parked_alone,
                a_released_key_goes_on_with_its_message,
                a_key_that_is_given_up_goes_on_without_it,
                all_of_it_survives_a_kill,
                order_holds_with_many_consumers_that_fail_come_and_go,
                keys_stay_with_their_consumers,
                a_slot_that_changes_hands_waits_for_its_old_owner,
                order_can_be_given_up_while_it_is_in_use,
            ]
            priorities: [
                higher_comes_first_then_the_older,
                delivered_again_it_keeps_its_priority,
                it_looks_so_far_ahead_and_no_further,
                they_can_be_turned_on_and_off_but_not_with_keys,
            ]
            filters: [
                by_headers,
                by_a_program_over_the_payload,
                a_program_that_is_none_is_refused,
                a_program_that_runs_on_holds_up_nobody,
                what_does_not_pass_is_settled_for_good,
                a_changed_filter_counts_from_then_on,
                with_keys_and_with_priorities,
            ]
            explain: [
                what_is_stored_is_shown_and_what_is_not_says_why,
                each_state_says_what_it_waits_for,
                keys_say_whom_they_wait_for,
                every_subscription_of_the_topic_is_told_of,
            ]
            sharing: [
                an_exclusive_one_takes_one_consumer,
                when_the_first_one_leaves_the_next_takes_over,
                it_can_be_changed_while_in_use,
            ]
            pausing: [
                nothing_is_delivered_until_it_is_resumed,
                it_survives_a_restart_and_a_changed_definition,
            ]
            seeking: [
                back_everything_comes_again_and_nothing_before,
                forward_what_lies_between_is_passed_over,
                to_a_moment,
                in_one_topic_or_in_all,
                a_new_place_survives_a_kill,
                whoever_waits_is_woken_and_work_goes_on_meanwhile,
            ]
            settle: [
                outputs_come_with_the_ack,
                consumers_of_the_outputs_are_woken,
                outputs_can_come_with_any_outcome_or_none,
                several_outcomes_at_once,
                stale_outcomes_are_named_and_the_others_count,
                another_subscriptions_delivery_is_stale,
                with_a_stale_delivery_no_outputs,
                with_an_output_that_cannot_be_nothing_is_done,
                of_two_who_settle_one_wins,
                an_outcome_survives_a_kill,
                said_twice_at_once_counts_once,
                what_was_delivered_from_what_is_gone_is_stale,
            ]
            dead_letters: [
                a_rejected_message_is_one_with_its_story,
                who_failed_is_cut_to_what_is_kept,
                they_are_listed_page_by_page,
                redriven_they_come_again_with_failures_forgotten,
                discarded_they_are_forgotten,
                of_an_unknown_subscription_there_are_none,
            ]
            store: [
                a_value_is_there_as_it_was_written,
                it_survives_kills_and_restarts,
                a_write_can_expect_what_is_there,
                of_many_who_expect_the_same_one_wins,
                a_list_is_ordered_and_of_one_moment,
                keys_and_values_have_limits,
                definitions_are_read_here_and_written_elsewhere,
            ]
            leases: [
                keys_vanish_with_their_lease,
                a_lease_lasts_while_it_is_kept_alive,
                revoked_it_takes_its_keys_along,
                a_key_written_again_belongs_to_its_last_lease,
                a_lease_survives_a_restart,
                its_time_has_limits,
            ]
            watch: [
                what_was_done_before_comes_first,
                a_list_and_a_watch_miss_nothing,
                all_watchers_see_the_same,
                definitions_can_be_watched,
                a_slow_watcher_loses_its_watch_and_not_a_change,
                what_is_no_longer_known_is_refused,
            ]
            requests: [
                a_request_gets_its_reply,
                many_at_once_each_get_their_own,
                an_error_arrives_as_it_was_sent,
                nobody_there_is_said_at_once,
                a_caller_waits_until_its_time_is_up,
                a_server_that_goes_away_is_noticed,
                what_waits_with_one_who_stops_is_handed_on_or_refused,
                full_queues_refuse,
                several_servers_share_the_work,
                a_caller_that_goes_away_is_noticed,
            ]
            freight: [
                each_message_is_acknowledged_once_in_the_end,
            ]
        }
    };
}

/// Makes a test of each case, in a module for each group, for the engine that the expression's
/// [`Harness`](crate::conformance::Harness) opens; the expression is evaluated once for each test.
///
/// ```ignore
/// crossdock_topics::conformance_tests!(EmbeddedHarness::new());
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::conformance_cases!([$crate::conformance_test_of_each] { $harness });
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_test_of_each {
    ({ $harness:expr } $($group:ident: $names:tt)*) => {
        $($crate::conformance_test_of_group!({ $harness } $group: $names);)*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_test_of_group {
    ({ $harness:expr } $group:ident: [$($name:ident),* $(,)?]) => {
        mod $group {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let harness = ::std::sync::Arc::new($harness);
                $crate::conformance::check(stringify!($group), stringify!($name), harness).await;
            })*
        }
    };
}
