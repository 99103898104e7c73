"""However a job ends, the output is whole or absent, the user is told how far it came, and nothing is left running."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.commands import Celeriac, Ended, Running, seconds_until
from tests.held import held_child, holding, write_held_models
from tests.manifests import by_stem, write_manifest
from tests.systems import System, serving
from tests.waiting import descendants_of, is_alive, slowdown, wait_until
from worker_config.errors import ExitCode

# What a user who presses Ctrl-C is promised.
INTERRUPT_SECONDS = 2.0
# What is left of a killed command is gone by then.
KILLED_SECONDS = 5.0
# Of a job that is held in the middle: 30 chunks of 64.
MANY_ROWS, THIRD = 1_920, 640
SUMMARY_KEYS = {"job", "ledger", "seconds", "output"}
NEVER_LOADED = "import threading\n\nthreading.Event().wait()\n"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path, special_models: Path) -> Iterator[System]:
    """A Redis and a worker that has `held`, `words`, which knows the numbers 0 to 9, and two ordinary models."""
    folder = tmp_path_factory.mktemp("s")
    paths = by_stem(special_models / "words.keras", models / "digits.keras", models / "pair.keras")
    with serving(folder, write_manifest(folder, {**paths, **write_held_models(folder)})) as system:
        yield system


def many_rows(columns: int = 4) -> np.ndarray:
    """Of which those of the second third can be held by 42, and those of the last by 43."""
    rows = np.random.default_rng(5).random((MANY_ROWS, columns), np.float32)
    rows[THIRD:, 0], rows[2 * THIRD :, 0] = 42, 43
    return rows


@pytest.fixture
def let_go(system: System) -> Iterator[Callable[[], None]]:
    """No more than a third of `many_rows` is done until this is called."""
    with holding(system.folder, 42) as let_go:
        yield let_go


def start_held(celeriac: Celeriac, system: System, *words: object) -> Running:
    """Predict `many_rows`, a batch in each chunk."""
    np.save(celeriac.folder / "rows.npy", many_rows())
    return celeriac.start(*predict_held(), "--broker", system.url, *words)


def start_embedded(celeriac: Celeriac, entry: object, rows: np.ndarray, *words: object) -> Running:
    """The same with a fresh system of its own; `models_held` and `never_loaded` have functions for its model."""
    np.save(celeriac.folder / "rows.npy", rows)
    write_held_models(celeriac.root)
    (celeriac.root / "never_loaded.py").write_text(NEVER_LOADED)
    manifest = write_manifest(celeriac.root, {"held": entry})
    words = (*predict_held(), "--models", manifest, *words)
    return celeriac.start(*words, fresh=True, PYTHONPATH=str(celeriac.root))


def predict_held() -> list[object]:
    return ["predict", "held", "rows.npy", "-o", "out.npy", "--chunk-rows", 64]


def check_cancelled(celeriac: Celeriac, ended: Ended) -> None:
    assert ended.code == ExitCode.CANCELLED, ended
    celeriac.check_one_line(ended)
    celeriac.check_nothing_is_left(celeriac.kept_by(ended))
    assert celeriac.visible_names() == {"rows.npy"}
    assert ended.safe_rows or ended.lines[0].endswith("; nothing was left behind")


def check_summary(ended: Ended, output: str | None) -> dict[str, int]:
    """One JSON object as the last line, with a ledger that adds up; returns the ledger."""
    summary = ended.json
    assert summary.keys() >= SUMMARY_KEYS
    assert summary["output"] == output
    assert summary["seconds"] > 0
    ledger: dict[str, int] = summary["ledger"]
    assert ledger["rows"] == ledger["predicted"] + ledger["failed"] + ledger["skipped"]
    return ledger


# --- well -----------------------------------------------------------------------------------------------------------


def test_no_rows_give_an_output_of_no_rows_with_dtype_and_shape(celeriac: Celeriac, system: System) -> None:
    np.save(celeriac.folder / "none.npy", np.zeros((0, 64), np.float32))
    ended = celeriac.succeeds("predict", "digits", "none.npy", "-o", "out.npy", "--json", "--broker", system.url)
    output = np.load(celeriac.folder / "out.npy")
    assert (output.shape, output.dtype) == ((0, 10), np.float32)
    assert check_summary(ended, str(celeriac.folder / "out.npy"))["rows"] == 0


def test_no_rows_give_every_one_of_several_outputs(celeriac: Celeriac, system: System) -> None:
    np.savez(celeriac.folder / "none.npz", left=np.zeros((0, 4), np.float32), right=np.zeros((0, 3), np.int32))
    celeriac.succeeds("predict", "pair", "none.npz", "-o", "out.npz", "--broker", system.url)
    with np.load(celeriac.folder / "out.npz") as output:
        assert {name: output[name].shape for name in output} == {"wide": (0, 6), "narrow": (0, 1)}


def test_a_killed_child_costs_time_and_no_rows(celeriac: Celeriac) -> None:
    rows = many_rows()[: THIRD + 1]
    with holding(celeriac.root, 42):
        running = start_embedded(celeriac, "models_held:held", rows, "--json", "--workers", 2)
        victim = wait_until(lambda: running.check_running() or held_child(celeriac.root), "a child runs the last chunk")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not is_alive(victim), "the child is dead")

    ended = running.end()
    assert ended.code == ExitCode.OK, ended
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), rows * 2)
    assert check_summary(ended, str(celeriac.folder / "out.npy"))["written"] == len(rows)
    celeriac.check_nothing_is_left()


# --- with failed rows -----------------------------------------------------------------------------------------------


def test_failed_rows_are_in_the_summary(celeriac: Celeriac, system: System) -> None:
    words = np.zeros((40, 3), np.int32)
    words[25] = 17
    np.save(celeriac.folder / "words.npy", words)
    ended = celeriac.run(
        *("predict", "words", "words.npy", "-o", "out.npy", "--chunk-rows", 10, "--json"),
        *("--broker", system.url),
    )
    assert ended.code == ExitCode.ROWS_FAILED, ended
    celeriac.check_one_line(ended)
    assert check_summary(ended, None)["failed"] > 0
    assert "row 25 failed" in ended.json["error"]
    assert celeriac.visible_names() == {"words.npy"}


# --- interrupted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_embedded_job_ends_at_once_and_tells_how_far_it_came(
    celeriac: Celeriac, number: signal.Signals
) -> None:
    with holding(celeriac.root, 42):
        running = start_embedded(celeriac, "models_held:held", many_rows(), "--json")
        seen = running.job_that_predicts(running.embedded_url())
        assert len(descendants_of(running.pid)) >= 5  # supervisor, Redis, worker, two children
        seconds = running.signal(number)
    print(f"{number.name}: {seconds:.2f} s")
    ended = running.end()
    check_cancelled(celeriac, ended)
    ledger = check_summary(ended, None)
    assert ledger["predicted"] >= seen.ledger["predicted"]
    line = ended.lines[0]
    assert f"job {seen.id} was cancelled" in line
    assert f"{ledger['predicted']} of {MANY_ROWS} rows were predicted" in line
    assert ended.json["error"] == line.removeprefix("celeriac: ")
    assert seconds < INTERRUPT_SECONDS * slowdown()


def test_an_interrupt_while_the_worker_loads_ends_at_once(celeriac: Celeriac) -> None:
    running = start_embedded(celeriac, "never_loaded:function", many_rows())
    running.embedded_url()
    wait_until(lambda: len(descendants_of(running.pid)) >= 6, "the children are forked")  # with the announcer

    seconds = running.signal(signal.SIGINT)
    print(f"SIGINT while loading: {seconds:.2f} s")
    ended = running.end()
    check_cancelled(celeriac, ended)
    assert ended.lines[0] == "celeriac: interrupted; nothing was left behind"
    assert seconds < INTERRUPT_SECONDS * slowdown()


def test_an_interrupted_job_of_a_broker_ends_at_once_and_its_worker_serves_on(
    celeriac: Celeriac, system: System, let_go: Callable[[], None]
) -> None:
    running = start_held(celeriac, system)
    seen = running.job_that_predicts(system.url)
    seconds = running.signal(signal.SIGINT)
    print(f"SIGINT with a broker: {seconds:.2f} s")
    check_cancelled(celeriac, running.end())
    assert seconds < INTERRUPT_SECONDS * slowdown()

    told = celeriac.succeeds("status", seen.id, "--broker", system.url, "--json").json
    assert told["state"] == "cancelled"
    let_go()
    np.save(celeriac.folder / "rows.npy", many_rows()[-7:])
    celeriac.succeeds("predict", "held", "rows.npy", "-o", "out.npy", "--broker", system.url, "--quiet", "--force")
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), many_rows()[-7:] * 2)


@pytest.mark.usefixtures("let_go")
def test_pressing_ctrl_c_again_and_again_does_not_cut_the_end_short(celeriac: Celeriac, system: System) -> None:
    running = start_held(celeriac, system)
    seen = running.job_that_predicts(system.url)

    def pressed_until_it_ends() -> bool:
        running.process.send_signal(signal.SIGINT)
        return running.process.poll() is not None

    wait_until(pressed_until_it_ends, "the command ends")
    ended = running.end()
    check_cancelled(celeriac, ended)
    assert f"job {seen.id} was cancelled" in ended.lines[0]


def test_a_background_job_of_a_script_ignores_ctrl_c_and_ends_when_terminated(
    celeriac: Celeriac, system: System, let_go: Callable[[], None]
) -> None:
    script = celeriac.root / "in-background"
    script.write_text(f"#!/bin/sh\ntrap '' INT\nexec {celeriac.program} \"$@\"\n")
    script.chmod(0o755)
    celeriac.program = script
    running = start_held(celeriac, system)
    running.job_that_predicts(system.url)
    running.process.send_signal(signal.SIGINT)
    with holding(system.folder, 43):
        let_go()
        wait_until(lambda: running.job_that_predicts(system.url).ledger["predicted"] > THIRD, "more rows are predicted")
        assert running.signal(signal.SIGTERM) < INTERRUPT_SECONDS * slowdown()
    check_cancelled(celeriac, running.end())


@pytest.mark.usefixtures("let_go")
def test_cancel_ends_the_command_that_waits_for_the_job(celeriac: Celeriac, system: System) -> None:
    running = start_held(celeriac, system, "--json")
    seen = running.job_that_predicts(system.url)
    told = celeriac.start("cancel", seen.id[:6], "--broker", system.url).end()
    assert (told.code, told.stdout, told.stderr) == (ExitCode.OK, f"job {seen.id} is being cancelled\n", "")

    ended = running.end()
    check_cancelled(celeriac, ended)
    ledger = check_summary(ended, None)
    assert f"job {seen.id} was cancelled" in ended.lines[0]
    assert f"{ledger['predicted']} of {MANY_ROWS} rows were predicted" in ended.lines[0]


def test_a_killed_embedded_job_leaves_nothing_running(celeriac: Celeriac, models: Path) -> None:
    entry = {"path": models / "digits.keras", "preprocess": "models_held:held"}  # a worker with TensorFlow
    with holding(celeriac.root, 42):
        running = start_embedded(celeriac, entry, many_rows(64))
        running.job_that_predicts(running.embedded_url())
        family = descendants_of(running.pid)
        assert len(family) >= 5  # supervisor, Redis, worker, two children
        assert len(celeriac.processes()) >= 6

        running.signal(signal.SIGKILL)
        assert not is_alive(running.pid)
        seconds = seconds_until(
            lambda: not any(map(is_alive, family)) and not celeriac.processes() and not celeriac.temporary_names(),
            "everything that the command started is gone",
            KILLED_SECONDS,
        )
    print(f"SIGKILL: all gone after {seconds:.2f} s")
    assert not (celeriac.folder / "out.npy").exists()


def test_a_killed_embedded_start_leaves_nothing_running(celeriac: Celeriac) -> None:
    running = start_embedded(celeriac, "never_loaded:function", many_rows())
    running.embedded_url()
    wait_until(lambda: len(descendants_of(running.pid)) >= 6, "the children are forked")  # with the announcer
    running.signal(signal.SIGKILL)
    seconds = seconds_until(
        lambda: not celeriac.processes() and not celeriac.temporary_names(),
        "everything that the command started is gone",
        KILLED_SECONDS,
    )
    print(f"SIGKILL while loading: all gone after {seconds:.2f} s")
