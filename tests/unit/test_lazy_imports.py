"""Commands and `import producer` import what they need, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import celeriac
import producer
from producer.cli.commands import COMMANDS, cli

REPOSITORY = Path(__file__).parents[2]
# No one listens there: what can be imported is, when the command finds that out.
NOWHERE = "redis://127.0.0.1:1/0"
CLI = "from producer.cli import main; import atexit, sys; atexit.register(lambda: print('\\n', *sys.modules)); main()"


def imported(code: str, *words: str) -> set[str]:
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    return set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["no-such-command"], []])
def test_the_help_imports_no_library_but_click(words: list[str]) -> None:
    modules = imported(CLI, *words)
    assert "click" in modules
    assert not modules & {"asyncio", "celery", "kombu", "msgpack", "msgspec", "numpy", "redis", "tqdm"}
    assert not [name for name in modules if name.startswith("tasks.")]


@pytest.mark.parametrize("words", [["status", "3f2a"], ["jobs"], ["failures", "3f2a"], ["cancel", "3f2a"]])
def test_commands_that_look_at_jobs_import_redis_and_no_celery(words: list[str]) -> None:
    modules = imported(CLI, *words, "--broker", NOWHERE)
    assert {"redis", "producer.records.job_store"} <= modules
    assert not modules & {"celery", "kombu", "msgpack", "ml_dtypes", "numpy", "tqdm"}


def test_a_plan_is_made_without_what_a_job_needs() -> None:
    modules = imported(CLI, "plan", "--rows", "100", "--slots", "2", "--row-seconds", "1")
    assert "producer.capacity.simulation" in modules
    assert not modules & {"celery", "kombu", "msgpack", "ml_dtypes", "numpy", "redis", "tqdm"}


def test_the_package_imports_a_name_s_module_when_the_name_is_used() -> None:
    tell = "import sys; import producer; {}; print(*sys.modules)"
    assert not imported(tell.format("pass")) & {"celery", "click", "msgspec", "numpy", "redis"}
    assert "numpy" not in imported(tell.format("producer.JobState"))
    # The client is imported while the worker starts.
    assert not imported(tell.format("producer.local")) & {"numpy", "producer.client", "redis", "tqdm"}
    modules = imported(tell.format("producer.Client"))
    assert "numpy" in modules
    # Its messages are made by hand (`tasks/transport/task_message.py`).
    assert not modules & {"celery", "kombu"}


@pytest.mark.parametrize("name", ["celeriac", "producer"])
def test_both_packages_have_the_same_names_and_import_no_tensorflow(name: str) -> None:
    assert celeriac.__all__ == producer.__all__
    assert all(getattr(celeriac, one) is getattr(producer, one) for one in producer.__all__)
    assert set(celeriac.__all__) <= set(dir(celeriac))
    modules = imported(f"import sys, {name}; [getattr({name}, one) for one in {name}.__all__]; print(*sys.modules)")
    assert "producer.client" in modules
    assert not modules & {"tensorflow", "keras"}
    with pytest.raises(AttributeError, match="module 'celeriac' has no attribute 'Clint'"):
        celeriac.Clint  # noqa: B018


def test_a_tasks_module_of_the_program_s_own_does_no_harm_to_who_imports_celeriac(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("raise SystemExit('imported')")
    own = "from tasks.protocol.codec import encode; print(*sys.modules)"
    code = f"import sys; sys.path.append({str(REPOSITORY)!r}); from celeriac import Client, local; {own}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = code.replace("from celeriac", "from producer")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "tasks.py hides Celeriac's package `tasks`" in done.stderr


def test_the_package_has_every_name_that_it_lists_and_no_other() -> None:
    assert {name: getattr(producer, name).__name__.rpartition(".")[2] for name in producer.__all__} == {
        name: name for name in producer.__all__
    }
    assert set(producer.__all__) <= set(dir(producer))
    assert len(producer.__all__) == 20
    with pytest.raises(AttributeError, match="module 'producer' has no attribute 'Clint'"):
        producer.Clint  # noqa: B018


def test_the_group_s_help_is_that_of_the_commands() -> None:
    context = click.Context(cli)
    assert cli.list_commands(context) == sorted(COMMANDS)
    for name, line in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help is not None
        assert command.help.startswith(line)
        for width in (20, 45, 66, 200):
            assert command.get_short_help_str(width) == cli.commands[name].get_short_help_str(width)


def test_a_mistyped_command_is_told_like_any_group_s() -> None:
    result = CliRunner().invoke(cli, ["statsu"])
    assert result.exit_code == 2
    assert "No such command 'statsu'" in result.output
    assert "status" in result.output
