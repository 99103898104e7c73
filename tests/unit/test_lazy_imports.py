"""Commands and `import producer` import what they need, and no more."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import producer
from producer.cli.commands import COMMANDS, cli

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


def test_the_package_imports_a_name_s_module_when_the_name_is_used() -> None:
    tell = "import sys; import producer; {}; print(*sys.modules)"
    assert not imported(tell.format("pass")) & {"celery", "click", "msgspec", "numpy", "redis"}
    assert "numpy" not in imported(tell.format("producer.JobState"))
    modules = imported(tell.format("producer.Client"))
    assert "numpy" in modules
    # Its messages are made by hand (`tasks/transport/task_message.py`).
    assert not modules & {"celery", "kombu"}


def test_the_package_has_every_name_that_it_lists_and_no_other() -> None:
    assert {name: getattr(producer, name).__name__.rpartition(".")[2] for name in producer.__all__} == {
        name: name for name in producer.__all__
    }
    assert set(producer.__all__) <= set(dir(producer))
    assert len(producer.__all__) == 19
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
