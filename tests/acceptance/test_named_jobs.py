"""`predict --job NAME`: the work is done once, however often, and wherever, it is begun."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from producer.records import job_names
from producer.records.job_names import CLAIM_SECONDS
from producer.records.name_claim import NameClaim
from tests.acceptance.commands import Celeriac, Ended, Running
from tests.contracts import fields_told
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode

ROWS = 60
MISSING, SAFE = 33, 30


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, special_models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    reads = {"path": special_models / "reads", "allow_file_operations": True}
    with serving(folder, write_manifest(folder, {"reads": reads, **write_held_models(folder)}), 1) as system:
        yield system


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A job's name of the test's own."""
    return f"nightly: {request.node.name}"


def write_rows(celeriac: Celeriac, name: str = "rows.npy") -> np.ndarray:
    rows = np.random.default_rng(3).random((ROWS, 4), np.float32)
    rows[ROWS // 2 :, 0] = 42
    np.save(celeriac.folder / name, rows)
    return rows


def held(system: System, job: str, *words: object, output: str = "out.npy") -> list[str]:
    command = ["predict", "held", "rows.npy", "-o", output, "--chunk-rows", "10", "--broker", system.url, "--json"]
    return [*command, "--job", job, *map(str, words)]


def reads(celeriac: Celeriac, system: System, job: str, *words: object) -> list[str]:
    """Texts that the model makes numbers of; a file of theirs is missing."""
    (celeriac.root / "numbers").mkdir(exist_ok=True)
    paths = [celeriac.root / "numbers" / f"{row}.txt" for row in range(ROWS)]
    for row, path in enumerate(paths):
        if row != MISSING:
            path.write_text(str(row))
    if not (celeriac.folder / "paths.npy").exists():
        np.save(celeriac.folder / "paths.npy", np.array([str(path) for path in paths]))
    command = ["predict", "reads", "paths.npy", "-o", "out.npy", "--chunk-rows", "10", "--broker", system.url, "--json"]
    return [*command, "--job", job, *map(str, words)]


def waits(running: Running) -> bool:
    running.check_running()
    return b"waiting for its end" in running.stderr.read_bytes()


def told(ended: Ended) -> list[str]:
    """What it says on stderr, but for that it waits, and how far the job is."""
    return [line for line in ended.lines if "waiting for its end" not in line and "rows predicted" not in line]


def test_what_was_done_is_not_done_again_and_that_is_said(celeriac: Celeriac, system: System, name: str) -> None:
    rows = write_rows(celeriac)
    first = celeriac.succeeds(*held(system, name))
    assert not first.json["done_before"]
    before = (celeriac.folder / "out.npy").stat()

    again = celeriac.succeeds(*held(system, name))

    assert again.stdout.startswith(f"nothing to do: {ROWS} rows were predicted before, and written to ")
    assert again.json["done_before"]
    for field in ("job", "ledger", "output", "error", "failures"):
        assert again.json[field] == first.json[field]
    after = (celeriac.folder / "out.npy").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), 2 * rows)

    forced = celeriac.succeeds(*held(system, name, "--force"))
    assert forced.json["job"] != first.json["job"]
    assert not forced.json["done_before"]


def test_who_begins_it_while_it_runs_waits_and_ends_the_same(celeriac: Celeriac, system: System, name: str) -> None:
    rows = write_rows(celeriac)
    with holding(system.folder, 42):
        first = celeriac.start(*held(system, name))
        wait_until(lambda: first.check_running() or held_child(system.folder), "the job runs")
        others = [celeriac.start(*held(system, name)) for _ in range(2)]
        for other in others:
            wait_until(lambda other=other: waits(other), "the other one waits")
            wait_until(lambda other=other: b"is running: " in other.stderr.read_bytes(), "it shows how far the job is")
    ended, *same = (one.end() for one in (first, *others))
    assert ended.code == ExitCode.OK, ended
    for one in same:
        assert one.code == ExitCode.OK, one
        assert one.json["job"] == ended.json["job"]
        assert one.json["done_before"]
        assert not told(one)
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), 2 * rows)
    celeriac.check_nothing_is_left()


def test_of_those_that_begin_it_at_one_moment_one_does(celeriac: Celeriac, system: System, name: str) -> None:
    write_rows(celeriac)
    ended = [one.end() for one in [celeriac.start(*held(system, name)) for _ in range(4)]]
    assert [one.code for one in ended] == 4 * [ExitCode.OK], ended
    assert sorted(one.json["done_before"] for one in ended) == [False, True, True, True]
    assert len({one.json["job"] for one in ended}) == 1


def test_a_killed_run_is_taken_over_by_who_waits_for_it(celeriac: Celeriac, system: System, name: str) -> None:
    rows = write_rows(celeriac)
    with holding(system.folder, 42):
        first = celeriac.start(*held(system, name))
        wait_until(lambda: first.check_running() or held_child(system.folder), "the job runs")
        other = celeriac.start(*held(system, name))
        wait_until(lambda: waits(other), "the other one waits")
        first.signal(signal.SIGKILL)
    ended = other.end()
    assert ended.code == ExitCode.OK, ended
    assert not ended.json["done_before"]
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), 2 * rows)


def test_who_waits_for_one_that_fails_ends_as_it_does(celeriac: Celeriac, system: System, name: str) -> None:
    write_rows(celeriac)
    with holding(system.folder, 42):
        first = celeriac.start(*held(system, name))
        wait_until(lambda: first.check_running() or held_child(system.folder), "the job runs")
        other = celeriac.start(*held(system, name))
        wait_until(lambda: waits(other), "the other one waits")
        first.signal(signal.SIGTERM)
        ended, same = first.end(), other.end()
    assert (ended.code, same.code) == (ExitCode.CANCELLED, ExitCode.CANCELLED), same
    (line,) = told(same)
    assert line.startswith(f"celeriac: job {name!r} was run by ")
    assert line.endswith(ended.json["error"])
    assert same.json["job"] == ended.json["job"]
    assert same.json["error"] == line.removeprefix("celeriac: ")


def test_one_that_failed_goes_on_where_it_was(celeriac: Celeriac, system: System, name: str) -> None:
    ended = celeriac.run(*reads(celeriac, system, name))
    assert (ended.code, ended.safe_rows) == (ExitCode.ROWS_FAILED, SAFE), ended
    (celeriac.root / "numbers" / f"{MISSING}.txt").write_text(str(MISSING))
    again = celeriac.succeeds(*reads(celeriac, system, name)[:-2], "--job", name)
    assert again.json["ledger"]["resumed"] == SAFE
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy")[:, 0], np.arange(ROWS))


def test_a_name_of_other_work_is_refused_with_what_differs(celeriac: Celeriac, system: System, name: str) -> None:
    write_rows(celeriac)
    celeriac.succeeds(*held(system, name))
    end = "; choose another name, or give it this work with --force"

    line = celeriac.refuses(ExitCode.USAGE, *held(system, name, output="other.npy"))
    folder = celeriac.folder.resolve()
    other = f"its output is another ({folder / 'out.npy'} before, {folder / 'other.npy'} now)"
    assert line == f"celeriac: job {name!r} does other work: {other}{end}"

    line = celeriac.refuses(ExitCode.USAGE, *reads(celeriac, system, name))
    assert "does other work: its input has changed (path: " in line
    assert ", and its models are not the same (held@" in line

    write_rows(celeriac)  # anew, at another time
    line = celeriac.refuses(ExitCode.USAGE, *held(system, name))
    assert "does other work: its input has changed (modified: " in line
    assert celeriac.succeeds(*held(system, name, "--force")).json["ledger"]["predicted"] == ROWS
    assert celeriac.succeeds(*held(system, name)).json["done_before"]


def test_an_output_that_is_not_there_is_not_said_to_be_done(celeriac: Celeriac, system: System, name: str) -> None:
    write_rows(celeriac)
    celeriac.succeeds(*held(system, name))
    (celeriac.folder / "out.npy").rename(celeriac.folder / "gone.npy")
    line = celeriac.refuses(ExitCode.USAGE, *held(system, name))
    assert f"job {name!r} was done by " in line
    assert line.endswith("out.npy is not there: share its folder with that machine, or do it again with --force")
    assert not celeriac.succeeds(*held(system, name, "--force")).json["done_before"]

    (celeriac.folder / "out.npy.ledger.json").unlink()
    line = celeriac.refuses(ExitCode.USAGE, *held(system, name))
    assert f"out.npy: exists, and not as the output of job {name!r}: " in line


def test_without_a_broker_the_output_and_its_lock_tell(celeriac: Celeriac, name: str) -> None:
    rows = write_rows(celeriac)
    at = ["--models", str(write_manifest(celeriac.root, write_held_models(celeriac.root))), "--chunk-rows", "10"]
    command = ["predict", "held", "rows.npy", "-o", "out.npy", *at, "--json", "--job", name]
    functions = {"PYTHONPATH": str(celeriac.root)}
    with holding(celeriac.root, 42):
        first = celeriac.start(*command, **functions)
        wait_until(lambda: first.check_running() or held_child(celeriac.root), "the job runs")
        other = celeriac.start(*command, **functions)
        wait_until(lambda: waits(other), "the other one waits")
    ended, same = first.end(), other.end()
    assert (ended.code, same.code) == (ExitCode.OK, ExitCode.OK), same
    assert (ended.json["done_before"], same.json["done_before"]) == (False, True)
    assert same.json["job"] == ended.json["job"]
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), 2 * rows)

    write_rows(celeriac)
    line = celeriac.refuses(ExitCode.USAGE, *command)
    assert "out.npy: exists, and is of other work than job " in line
    assert "its input has changed (modified: " in line


def test_a_detached_job_is_left_once(celeriac: Celeriac, system: System, name: str) -> None:
    write_rows(celeriac)
    command = ["predict", "held", "rows.npy", "--detach", "--broker", system.url, "--quiet", "--job", name]
    first = celeriac.succeeds(*command).stdout
    assert celeriac.succeeds(*command).stdout == first
    celeriac.succeeds("fetch", first.strip(), "-o", "out.npy", "--broker", system.url)
    assert celeriac.succeeds(*command).stdout == first
    write_rows(celeriac)
    line = celeriac.refuses(ExitCode.USAGE, *command)
    assert "does other work: its input has changed (modified: " in line
    assert line.endswith(f"choose another name, or end that one with `celeriac cancel {first.strip()}`")
    celeriac.run("cancel", first.strip(), "--broker", system.url)
    assert celeriac.succeeds(*command).stdout != first


def test_options_that_make_no_sense_with_a_name_are_refused(celeriac: Celeriac, system: System) -> None:
    write_rows(celeriac)
    line = celeriac.misused(*held(system, "x", "--resume", "--only-failed"))
    assert line.endswith("--only-failed makes no sense with --job, which changes an output that is done")
    assert "name has 0 characters; 1 to 256 are allowed" in celeriac.refuses(ExitCode.USAGE, *held(system, ""))


def test_every_command_gives_the_fields_that_are_told(celeriac: Celeriac, system: System, name: str) -> None:
    write_rows(celeriac)
    at = ["--broker", system.url, "--json"]
    detach = ["predict", "held", "rows.npy", "--detach", *at, "--job", name]
    told = {"predict --detach": celeriac.succeeds(*detach).json}
    job = told["predict --detach"]["job"]
    told["fetch"] = celeriac.succeeds("fetch", job, "-o", "fetched.npy", *at).json
    told["predict"] = celeriac.succeeds("predict", "held", "rows.npy", "-o", "out.npy", *at).json
    told["predict --dry-run"] = celeriac.succeeds("predict", "held", "rows.npy", "-o", "b.npy", "--dry-run", *at).json
    for command in ("watch", "failures"):
        told[command] = celeriac.succeeds(command, job, *at).json
    told["models"], told["doctor"] = celeriac.run("models", *at).json, celeriac.run("doctor", *at).json
    for command, values in told.items():
        assert sorted(values) == sorted(fields_told(command)), command
    watch = fields_told("watch")
    assert sorted(celeriac.succeeds("status", job, *at).json) == sorted(watch + fields_told("status"))
    (jobs,) = fields_told("jobs")[:1]
    for one in celeriac.succeeds("jobs", *at).json[jobs]:
        assert sorted(one) == sorted(watch + fields_told("jobs")[1:])


# --- the claim in Redis -----------------------------------------------------------------------------------------------


def test_a_claim_is_one_s_own_until_it_is_given_back_or_expires(system: System, name: str) -> None:
    with closing(NameClaim(system.url, name, 600)) as one, closing(NameClaim(system.url, name, 600)) as two:
        assert one.take() == ""
        one.begin({"output": "a"})
        assert two.take() == one.owner
        assert one.take() == ""
        one.give_back()
        assert two.take() == ""
        assert two.read().work == {"output": "a"}
        with system.admin() as client:
            client.hset(f"celeriac:named:{name}", "claimed_until", "1")
            assert job_names.claim(client, name, "third", CLAIM_SECONDS, 600) == "third"
            assert client.ttl(f"celeriac:named:{name}") > 60
        lost: list[int] = []
        two.on_lost = lambda: lost.append(os.getpid())
        wait_until(lambda: bool(lost), "the second one sees that it has lost the name", 30)
        assert two.lost_to == "third"


def test_a_claim_that_redis_forgets_is_taken_again(system: System, name: str) -> None:
    with closing(NameClaim(system.url, name, 600)) as one, system.admin() as client:
        assert one.take() == ""
        client.delete(f"celeriac:named:{name}")
        wait_until(lambda: client.hget(f"celeriac:named:{name}", "owner") == one.owner.encode(), "it is renewed", 30)
        assert one.lost_to == ""
