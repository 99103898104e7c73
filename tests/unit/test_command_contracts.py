"""What scripts lean on: exit codes, and the fields of `--json`, are those that docs/command-line.md tells."""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec
import pytest

from producer.cli import tables
from producer.cli.models import models_values
from producer.cli.predict import predict
from producer.client import Client
from producer.doctor import findings
from producer.outputs.summary import Summary
from producer.records import job_store
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from tasks.protocol.messages import ModelRef
from tests.contracts import fields_told, section
from worker_config.errors import ExitCode

RECORD = job_store.new_record("0123456789ab", [ModelRef("digits", "1d39e655")], "rows.npy", "slices", 3)


def summary() -> dict[str, Any]:
    told = Summary(job=None, ledger=Ledger().as_dict(), seconds=0.0, output=None, error=None)
    return dict(json.loads(told.as_json()))


def test_every_exit_code_is_told() -> None:
    assert [int(code) for code, _ in section("Exit codes")] == sorted(ExitCode)


@pytest.mark.parametrize(
    ("command", "values"),
    [
        ("predict", summary()),
        ("fetch", summary()),
        ("watch", tables.job_values(JobState.DONE, RECORD)),
        ("failures", tables.failures_values(JobState.DONE, RECORD, [])),
        ("models", models_values({}, {}, {}) | {"broken": {}, "preparing": {}}),
        ("doctor", findings.values([])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_object_has_the_fields_that_are_told(command: str, values: dict[str, Any]) -> None:
    assert sorted(fields_told(command)) == sorted(values)


def test_predict_to_has_the_options_of_the_command() -> None:
    options = {str(option.name) for option in predict.params} - {"model", "input_path", "output"}
    keywords = inspect.signature(Client.predict_to).parameters.keys() - {"self", "output", "models", "data"}
    of_the_system = {"manifest", "workers", "broker_url", "worker_timeout_seconds", "metrics_port"}
    of_other_calls = {"detach", "ttl_seconds", "job", "is_dry"}
    assert options - keywords == of_the_system | of_other_calls | {"quiet", "as_json"}
    assert keywords - options == {"show_progress"}


def test_the_ledger_has_the_counts_that_are_told() -> None:
    assert {"rows", "predicted", "failed", "skipped", "written", "resumed"} <= set(Ledger().as_dict())


def test_what_redis_has_of_a_job_does_not_say_what_is_written_as_its_outputs_are_still_taken() -> None:
    record = msgspec.structs.replace(RECORD, ledger=Ledger(9, predicted=9, written=4).as_dict())
    counts = tables.job_values(JobState.DONE, record)["ledger"]
    assert (counts["rows"], counts["predicted"], "written" in counts) == (9, 9, False)
    assert "written" not in tables.job_lines(JobState.DONE, record, 1, 0.0)
