"""What is left beside the output of a detached job that is cancelled: removed, where this machine reaches it.

journal names the job --> its working folder and journal go; else it is told where they are
"""

from __future__ import annotations

from pathlib import Path

from producer.sinks import JournalHead, is_there, is_unfinished, open_sink, output_path
from producer.sinks.journal import job_in_journal, journal_path
from producer.sinks.journal_files import open_journal_file
from producer.sinks.output_place import place_of
from tasks.protocol.plan import Plan
from worker_config.errors import CeleriacError, OutputInUseError


def discard_left(plan: Plan) -> str:
    """Remove what workers have left of an output that will not be; says what became of it, if there was any."""
    left = plan.output
    if left is None:
        return ""
    stays = f"what workers have left of {left.path}/ is in {left.folder}, and goes with the next run that has --force"
    try:
        path = output_path(left.path)
        if not is_unfinished(path):
            return f"{left.path}/ stays" if is_there(path) else f"{stays}, where that folder is"
        if job_in_journal(path) != left.job:
            return f"{left.path}/ is written by another job, and stays"
        head = JournalHead.of(left.head)
        open_sink(path, left.rows, True, journal=head, resume=True, in_parts=True, job=left.job).discard()
    except OutputInUseError:
        return f"a fetch was writing {left.path}/: what is left of it goes with the next run that has --force"
    except CeleriacError as error:
        return f"{stays}: {error}"
    return f"what workers have left of {left.path}/ is gone"


def clear_up(path: Path) -> None:
    """End what a fetch had still to do that was killed when its output was complete; OutputInUseError if it goes on."""
    journal = open_journal_file(path, journal_path(path), is_staged=False)
    try:
        journal.read()
        place_of(path).remove_working("")
        journal.remove()
    finally:
        journal.close()
