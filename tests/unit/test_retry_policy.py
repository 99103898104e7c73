"""How retries, limits and waits depend on each other."""

from __future__ import annotations

import inspect

import pytest

from producer import Client
from tasks.celery import app
from tasks.protocol.messages import TASK_NAME
from tasks.transport.connection import connect
from worker_config import retry_policy
from worker_config.celery_app import celery_settings
from worker_config.settings import Settings


def test_a_worker_that_lives_is_never_taken_for_gone() -> None:
    """Two heartbeats may be lost, and one may wait for Redis to be found again."""
    late = 3 * retry_policy.HEARTBEAT_SECONDS + retry_policy.LONGEST_BACKOFF_SECONDS
    assert late < retry_policy.WORKER_TTL_SECONDS
    assert retry_policy.LIVENESS_LOOK_SECONDS < retry_policy.HEARTBEAT_SECONDS


def test_a_producer_waits_for_workers_for_longer_than_one_that_is_gone_seems_up() -> None:
    assert retry_policy.WORKER_TIMEOUT_SECONDS > retry_policy.WORKER_TTL_SECONDS
    assert inspect.signature(Client).parameters["worker_timeout_seconds"].default == 30.0


def test_a_worker_is_back_before_a_producer_gives_it_up() -> None:
    assert retry_policy.LEAST_BACKOFF_SECONDS < retry_policy.LONGEST_BACKOFF_SECONDS
    assert retry_policy.LONGEST_BACKOFF_SECONDS < retry_policy.HEARTBEAT_SECONDS
    assert retry_policy.CONNECT_TIMEOUT_SECONDS + retry_policy.LONGEST_BACKOFF_SECONDS < retry_policy.WORKER_TTL_SECONDS


def test_a_blocking_read_ends_before_its_socket_s_limit() -> None:
    assert 2 * retry_policy.BLOCK_SECONDS < retry_policy.SOCKET_TIMEOUT_SECONDS
    with connect("redis://host/0") as client:
        options = client.connection_pool.connection_kwargs
    assert options["socket_timeout"] == retry_policy.SOCKET_TIMEOUT_SECONDS
    assert options["retry"].get_retries() == retry_policy.COMMAND_RETRIES


def test_outputs_are_there_for_as_long_as_their_child_tries_to_tell_of_them() -> None:
    try_seconds = retry_policy.SOCKET_TIMEOUT_SECONDS + retry_policy.LONGEST_BACKOFF_SECONDS
    assert (retry_policy.CHILD_COMMAND_RETRIES + 1) * try_seconds < retry_policy.UNANSWERED_TTL_SECONDS


def test_a_probe_bears_some_statuses_that_are_late() -> None:
    busy = retry_policy.SOCKET_TIMEOUT_SECONDS + retry_policy.HEARTBEAT_SECONDS
    assert busy + 2 * retry_policy.STATUS_SECONDS < retry_policy.SILENT_SECONDS


def test_a_chunk_is_sent_more_often_than_celery_tries_it() -> None:
    assert retry_policy.TASK_RETRIES < retry_policy.MAX_SENDS < retry_policy.MAX_SENDS_OF_KILLERS
    task = app.tasks[TASK_NAME]
    assert (task.max_retries, task.default_retry_delay) == (retry_policy.TASK_RETRIES, retry_policy.TASK_RETRY_SECONDS)


def test_rows_that_kill_are_condemned_by_their_child_before_the_producer_gives_up() -> None:
    """Even where each row of a batch of 256 kills."""
    deaths = retry_policy.MAX_DEATHS + 256 * retry_policy.MAX_DEATHS_PER_ROW
    assert deaths < retry_policy.MAX_SENDS_OF_KILLERS


def test_a_late_chunk_s_copies_wait_longer_and_longer() -> None:
    assert retry_policy.RESEND_BACKOFF > 1
    assert retry_policy.STRAGGLER_LOOK_SECONDS < retry_policy.STRAGGLER_SLACK_SECONDS
    assert retry_policy.STRAGGLER_SLACK_SECONDS < retry_policy.LEAST_RESEND_SECONDS
    assert retry_policy.LEAST_RESEND_SECONDS < retry_policy.STRAGGLER_UNKNOWN_SECONDS


@pytest.mark.parametrize(("chunk", "load"), [(1, 1), (600, 600), (1, 600), (7200, 1)])
def test_celery_gives_no_message_twice_while_its_chunk_may_run(chunk: int, load: int) -> None:
    settings = Settings(chunk_timeout_seconds=chunk, load_timeout_seconds=load)
    options = celery_settings(settings)["broker_transport_options"]
    assert options["visibility_timeout"] > chunk + load
    assert options["unacked_restore_interval"] == retry_policy.RESTORE_SECONDS
    assert options["socket_timeout"] > retry_policy.LONGEST_BACKOFF_SECONDS


def test_a_detached_job_is_kept_for_longer_than_a_worker_seems_up() -> None:
    assert retry_policy.LEAST_TTL_SECONDS > retry_policy.WORKER_TTL_SECONDS + retry_policy.WORKER_TIMEOUT_SECONDS
    assert Settings().job_ttl_seconds < retry_policy.QUEUE_TTL_SECONDS


def test_models_that_were_replaced_outlive_a_job_s_start() -> None:
    assert retry_policy.REPLACED_GRACE_SECONDS > retry_policy.WORKER_TIMEOUT_SECONDS


def test_a_store_is_waited_for_within_a_chunk_s_time_and_the_wait_is_told() -> None:
    assert retry_policy.STORE_REQUEST_SECONDS < retry_policy.STORE_WAIT_SECONDS
    assert retry_policy.STORE_BACKOFF_SECONDS < retry_policy.STORE_TELL_SECONDS < retry_policy.STORE_WAIT_SECONDS
    assert Settings().chunk_timeout_seconds > 2 * retry_policy.STORE_WAIT_SECONDS


def test_a_training_loop_waits_until_its_job_has_seen_that_it_is_cancelled() -> None:
    assert retry_policy.CANCEL_SECONDS > 2 * retry_policy.LIVENESS_LOOK_SECONDS
    assert retry_policy.CANCEL_SECONDS >= retry_policy.SOFT_SHUTDOWN_SECONDS
