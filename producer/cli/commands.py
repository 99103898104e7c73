"""The `celeriac` command: name --> the module of that command --> what it ends with, as one line and an exit code.

The help of the group comes from the table below: a command's module, and all that it needs, is imported when it runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from producer.cli.terminal import LinesAboveBars
from worker_config.errors import CeleriacError, ExitCode

# Each with the first line of its help.
COMMANDS = {
    "cancel": "End a running job; its queued chunks are never run.",
    "completion": "Print a script that completes commands and options in SHELL.",
    "dashboard": "Show what goes on, live, as a page for any browser: jobs, slots, models, failures.",
    "demo": "Train a small network on handwritten digits and predict them all, embedded or with a broker's workers.",
    "doctor": "Check this set-up before a run: one line for each check, and what to do where something is wrong.",
    "failures": "List the rows of JOB that have no prediction, and why; its name or the beginning of its id will do.",
    "fetch": "Write the output of JOB, which was left by `predict --detach`; waits until it is done.",
    "init": "Write a manifest of the model files in FOLDER and in its folders; what is there is never overwritten.",
    "jobs": "List the jobs that Redis remembers, the newest first.",
    "models": "List the models of the manifest, or, with a broker, those that workers hold.",
    "plan": "Tell how long a data set would take on so many slots, what would limit it, and what to change.",
    "predict": "Predict every row of INPUT with MODEL, or with several: MODEL,MODEL.",
    "priority": "Change the share that a running JOB has of workers, beside other jobs.",
    "report": "Draw how JOB went, or goes, as one page for any browser; its name or the beginning of its id will do.",
    "status": "Show one job; its name or the beginning of its id will do.",
    "watch": "Show how far JOB is until it ends; its name or the beginning of its id will do.",
    "worker": "Start a worker on this machine; the same as `celery -A tasks worker -c N`.",
}
# The others have modules of their own names.
_MODULES = dict.fromkeys(("cancel", "failures", "priority", "status"), "jobs")

_EXAMPLES = """\b
Examples:
  celeriac demo
  celeriac init models
  celeriac doctor
  celeriac doctor --broker redis://10.0.0.5:6379/0
  celeriac predict digits rows.npy -o scores.npy --dry-run
  celeriac predict digits rows.npy -o scores.npy
  celeriac predict digits rows.npy -o scores.npy --resume
  celeriac predict digits rows.npy -o scores.npy --job nightly
  celeriac predict digits rows.npy -o scores.npy --on-error skip --max-failed 1%
  celeriac predict digits rows.npy -o scores.npy --resume --only-failed
  celeriac predict digits,letters rows.npz -o both.npz --workers 4
  celeriac worker --broker redis://10.0.0.5:6379/0 --workers 8
  celeriac worker --broker redis://10.0.0.5:6379/0 --models digits,letters
  celeriac models --models models.toml --build set
  celeriac predict digits rows.npy -o scores.npy --broker redis://10.0.0.5:6379/0 --json
  celeriac predict digits rows.npy --detach --broker redis://10.0.0.5:6379/0
  celeriac watch 3f2a
  celeriac priority 3f2a interactive
  celeriac failures 3f2a
  celeriac report 3f2a -o report.html
  celeriac dashboard
  celeriac plan --rows 10000000 --rows-per-second 400 --slots 512 --workers 16
  celeriac fetch 3f2a -o scores.npy

\b
Exit codes:
  0  all rows predicted             5  a model: unknown, not to be loaded, wrongly run
  1  a bug in Celeriac              6  no worker for the model, or of another release
  2  bad option, setting or output  7  Redis cannot be reached
  3  bad input                    130  cancelled: Ctrl-C, SIGTERM, `celeriac cancel`
  4  rows failed, more than may, or a model alone
"""


class LazyGroup(click.Group):
    """Commands that are imported when they are asked for; until then each is its help line alone."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"producer.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click's, without importing a command for its help."""
        options = click.Command.shell_complete(self, ctx, incomplete)
        names = [name for name in sorted(COMMANDS) if name.startswith(incomplete)]
        return [*(CompletionItem(name, help=COMMANDS[name]) for name in names), *options]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, without importing one."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit)) for name, command in self.commands.items()])


@click.group(
    cls=LazyGroup,
    commands={name: click.Command(name, help=line) for name, line in COMMANDS.items()},
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="celeriac")
def cli() -> None:
    """Run TensorFlow models over large data sets, on many processes and machines."""


def main() -> NoReturn:
    """Run the command; a user's mistake is one line on stderr and an exit code, never a traceback."""
    logging.basicConfig(format="celeriac: %(message)s", level=logging.WARNING, handlers=[LinesAboveBars()])
    # Zarr's reads go on when one of them has failed; that they are given up at our end is nobody's business.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # What failed, or was not finite, is reported at the end, in the command's own line.
    logging.getLogger("producer.records").setLevel(logging.ERROR)
    # A shell starts what runs in the background with SIGINT ignored, and means it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    # Whoever stops us gets the same tidy end.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = ExitCode.USAGE
    except CeleriacError as error:
        line = "\\n".join(str(error).splitlines())  # the name of a file may have line breaks
        click.echo(f"celeriac: {line}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("celeriac: interrupted", err=True)
        code = ExitCode.CANCELLED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    sys.exit(int(code or 0))


def _interrupt(*_: object) -> NoReturn:
    """Begin a tidy end, which takes a second or two; who presses Ctrl-C again must not cut it short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
