"""`celeriac plan`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from producer.capacity.costs import Costs, Work
from producer.cli.commands import cli
from tests.contracts import fields_told
from worker_config.errors import UsageError

USUAL = ["--rows", "4000", "--slots", "8", "--workers", "2", "--rows-per-second", "10"]


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(Costs(Work(0.4, 0.25, 1.0, 1.6), hop_ms=0.1, job_ms=10.0).as_json())
    return path


def plan(costs: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["plan", "--costs", str(costs), *words])


def test_it_tells_how_long_what_limits_and_what_to_change(costs: Path) -> None:
    result = plan(costs, *USUAL)

    assert result.exit_code == 0, result.output
    told = {line.split()[0]: line for line in result.output.splitlines()}
    assert list(told) == ["time", "chunks", "slots", "waiting", "used", "limit", "change"]
    # 4,000 rows on 8 slots of 10 a second.
    assert 50 <= float(told["time"].split()[2]) < 60
    assert told["limit"].split()[1] == "slots"
    assert "more slots" in told["change"]


def test_json_has_the_fields_that_are_told_as_its_last_line(costs: Path) -> None:
    result = plan(costs, *USUAL, "--fail", "worker@50%", "--json")
    values = json.loads(result.output.splitlines()[-1])

    assert sorted(values) == sorted(fields_told("plan"))
    assert values["limit"] == "slots"
    assert values["failure_seconds"] > 10
    assert any(line.startswith("failure  a worker that dies at 50%") for line in result.output.splitlines())


def test_rows_may_be_timed_one_by_one_by_the_second_or_by_the_chunk(costs: Path) -> None:
    size = ["--rows", "4000", "--slots", "8", "--chunk-rows", "5"]
    rate = plan(costs, *size, "--rows-per-second", "10").output
    assert plan(costs, *size, "--row-seconds", "0.1").output == rate
    assert plan(costs, *size, "--chunk-seconds", "0.5").output == rate


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rows", "0"], "rows is 0: it must be at least 1"),
        (["--slots", "-2"], "slots is -2: it must be at least 1"),
        (["--workers", "9"], "9 workers have only 8 slots"),
        (["--brokers", "0"], "brokers is 0: it must"),
        (["--producers", "5000"], "5000 producers have only 4000 rows"),
        (["--row-seconds", "1"], "give one of --row-seconds, --rows-per-second and --chunk-seconds, not 2 of them"),
        (["--rows-per-second", "0"], "--rows-per-second is 0: a row must take"),
        (["--chunk-rows", "0"], "chunk_rows is 0"),
        (["--row-bytes", "nan"], "row_bytes is nan"),
        (["--rows", "9" * 400], "rows is more than 1,000,000,000,000,000"),
        (["--one-host", "--network-ms", "50"], "--network-ms is from host to host: leave it out"),
        (["--rows-per-second", "1e-320"], "--rows-per-second is 9.99989e-321: a row must take 1e-09 to 1,000,000 s"),
        (["--rows-per-second", "-1"], "--rows-per-second is -1: a row must take"),
        (["--fail", "link@50%-10%"], "or link@P%-Q%, with Q more than P"),
        (["--network-ms", "-1"], "network_ms is -1.0"),
        (["--cores-per-host", "0"], "cores_per_host is 0.0"),
        (["--fail", "redis@10%"], "--fail is 'redis@10%': give worker@P% or broker@P%"),
        (["--fail", "worker@100%"], "with P less than 100"),
        (["--fail", "worker@10%", "--workers", "1"], "2 workers at least: 1 of them would be dead or cut off"),
        (["--fail", "worker@10%", "--fail", "worker@30%"], "3 workers at least: 2 of them would be dead or cut off"),
        (["--fail", "broker@1%", "--fail", "broker@1%"], "each is of others, and there are 1 brokers"),
        (["--costs", "nowhere.json"], "nowhere.json: no costs of a capacity plan"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_line(costs: Path, words: list[str], says: str) -> None:
    result = plan(costs, *USUAL, *words)

    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)
    assert len(str(result.exception).splitlines()) == 1


@pytest.mark.parametrize(
    "fails", [["worker@30%", "worker@60%"], ["link@10%-30%", "link@20%-60%"], ["broker@30%", "broker@30%"]]
)
def test_each_failure_of_a_kind_hits_another_one(costs: Path, fails: list[str]) -> None:
    words = ["--rows", "500", "--row-seconds", "1", "--slots", "6", "--workers", "3", "--brokers", "3", "--json"]
    one, both = (
        json.loads(plan(costs, *words, *(f"--fail={fail}" for fail in some)).output.splitlines()[-1])
        for some in (fails[:1], fails)
    )
    assert both["failure_seconds"] > 1.2 * one["failure_seconds"]
    assert both["chunks_sent_again"] > one["chunks_sent_again"]


@pytest.mark.parametrize(
    ("timed", "says"),
    [
        (["--chunk-seconds", "nan", "--chunk-rows", "5"], "--chunk-seconds is nan: a row"),
        (["--row-seconds", "0"], "--row-seconds is 0: a row must take"),
        (["--row-seconds", "1e7"], "--row-seconds is 1e\\+07: a row must take"),
    ],
)
def test_a_time_that_cannot_be_is_told_as_it_was_given(costs: Path, timed: list[str], says: str) -> None:
    result = plan(costs, "--rows", "4000", "--slots", "8", *timed)
    with pytest.raises(UsageError, match=says):
        raise result.exception or AssertionError(result.output)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--rows", "100", "--row-seconds", "900000", "--slots", "2"],
            r"about 5\d\d\.\d days, 2\.\d+e-06 rows per second",
        ),
        (
            ["--rows", "100", "--row-seconds", "3600", "--slots", "2"],
            r"(?s)about 2\.\d days, .* rows, \d\d min each in a slot",
        ),
        (["--rows", "3", "--row-seconds", "1e-6", "--slots", "2"], r"(?s)about 0\.\d\d+ s, .* rows, 0\.00\d+ ms each"),
        (
            ["--rows", "900", "--row-seconds", "1", "--slots", "2", "--workers", "2", "--fail", "worker@99.9%"],
            "at 99.9%",
        ),
    ],
)
def test_figures_are_told_in_units_in_which_they_say_something(costs: Path, words: list[str], told: str) -> None:
    assert re.search(told, plan(costs, *words).output)


@pytest.mark.parametrize("timed", [[], ["--chunk-seconds", "3"]])
def test_what_a_row_takes_must_be_known(costs: Path, timed: list[str]) -> None:
    result = plan(costs, "--rows", "4000", "--slots", "8", *timed)
    assert isinstance(result.exception, UsageError)
