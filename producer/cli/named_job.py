"""`celeriac predict --job NAME`: a job that is done once, however often and on however many machines it is begun.

name --claim in Redis, lock beside the output--> nobody else runs it --> done before? --no--> run, or continue
                                             |-> somebody runs it --> wait, show how far it is --> end as it ends

What is done stands beside the output, and is read there; what Redis knows of a name, for as long as it keeps jobs,
tells who runs it and what it does. Without a broker the output alone tells, and its lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import msgspec

from producer.broker import jobs, redis_backoff
from producer.broker.shard_clients import open_shards
from producer.cli.terminal import say
from producer.cli.viewing import viewing
from producer.cli.watch import LOOK_SECONDS, JobScreen
from producer.job.job import Job
from producer.outputs.fetch_to_output import NotWaitedForError
from producer.outputs.sidecar_files import RunRecord, is_told_of, ledger_of_whole
from producer.outputs.summary import PredictionFailedError, Summary
from producer.records import job_names
from producer.records.job_names import Ended, Work
from producer.records.name_claim import NameClaim
from producer.sinks import JournalHead, is_there
from producer.sinks.changes import differences, lets_rows_fail
from tasks.protocol.messages import from_json
from worker_config.errors import (
    BrokerError,
    BrokerRefusedError,
    CeleriacError,
    ExitCode,
    MessageError,
    OutputError,
    OutputInUseError,
    UnknownJobError,
    UsageError,
)
from worker_config.settings import Settings

# In which a process that has given its output its name writes the ledger beside it.
_LEDGER_SECONDS = 5.0

# Does the work, with what to do when there is a job; `resume` says whether rows of an earlier run are continued.
Run: TypeAlias = Callable[[Callable[[Job], None], bool], Summary]


class EndedElsewhereError(CeleriacError):
    """The job was run by another process, and did not end well."""

    def __init__(self, text: str, code: ExitCode) -> None:
        super().__init__(text)
        self.exit_code = code  # type: ignore[misc]


@dataclass(frozen=True)
class NamedJob:
    """What is to be done once.

    Attributes:
        head: what must be the same for it to be the same job, besides the output.
        force: do it again though it was done, with this work whatever the name's was.
        accept_changes: go on though data set or models are others.
    """

    name: str
    broker_url: str | None
    output: Path
    head: JournalHead
    force: bool
    accept_changes: bool
    quiet: bool

    @property
    def work(self) -> dict[str, Any]:
        """What the job does."""
        return {**self.head.as_dict(), "chunk_rows": self.head.chunk_rows, "output": str(self.output)}

    def run_once(self, run: Run) -> Summary:
        """Run it, or wait for who does, or find it done.

        Raises:
            UsageError: the name is that of other work; or it was done on a machine that does not share the output.
            OutputError: the output is of other work, or of none that is known.
            EndedElsewhereError: who ran it did not end well.
            NotWaitedForError: interrupted, while another process runs it.
            CeleriacError: whatever `run` raises.
        """
        if self.broker_url is None:
            return self._run_where_nobody_writes(run, lambda _: None)
        with closing(NameClaim(self.broker_url, self.name, Settings.from_env().job_ttl_seconds)) as claim:
            while True:
                self._wait_for_claim(claim)
                try:
                    with self._telling_end(claim):
                        return self._run_claimed(claim, run)
                except OutputInUseError as error:  # with a Redis that has lost the name
                    self._say(f"{error}; waiting for its end")
                    claim.give_back()
                _pause(self.name)

    def _run_claimed(self, claim: NameClaim, run: Run) -> Summary:
        named = claim.read()
        self._check_work(named.work, is_running=False)
        if not self.force and (done := self._done()):
            claim.begin(self.work)
            return done
        if named.ended and named.ended.exit_code == ExitCode.OK and not (self.force or is_there(self.output)):
            raise UsageError(
                f"job {self.name!r} was done by {named.ended.owner}, and {self.output} is not there: share its folder "
                "with that machine, or do it again with --force"
            )
        claim.begin(self.work)

        def begun(job: Job) -> None:
            claim.on_lost = job.cancel
            claim.note_job(job.id)

        return run(begun, not self.force)

    def _run_where_nobody_writes(self, run: Run, begun: Callable[[Job], None]) -> Summary:
        """By the output and its lock alone."""
        waited_until = 0.0
        while True:
            try:
                return (None if self.force else self._done()) or run(begun, not self.force)
            except OutputInUseError as error:
                if not waited_until:
                    self._say(f"{error}; waiting for its end")
                waited_until = time.monotonic() + _LEDGER_SECONDS
            except OutputError:
                if is_told_of(self.output) or time.monotonic() > waited_until:
                    raise
            _pause(self.name)

    def _done(self) -> Summary | None:
        """What an earlier run has done, all of it; None where there is something to do."""
        path = self.output
        try:
            ledger = ledger_of_whole(path)
        except OutputError as error:
            raise OutputError(f"{path}: exists, and not as the output of job {self.name!r}: {error}") from None
        if ledger is None:
            return None
        work = self.work
        del work["output"]
        if changes := differences({name: getattr(ledger, name) for name in work}, work):
            raise OutputError(
                f"{path}: exists, and is of other work than job {self.name!r}: {', and '.join(changes.values())}; "
                "choose another output, or replace it with --force"
            )
        known = {name: getattr(ledger, name) for name in RunRecord.__struct_fields__}
        return Summary(**known, output=str(path), error=None, done_before=True)

    def _wait_for_claim(self, claim: NameClaim) -> None:
        """Until nobody else has the name, or the process that was waited for has ended badly."""
        seen = set[str]()
        with self._watching() as show:
            while owner := self._take(claim):
                if owner not in seen:
                    self._say(f"job {self.name!r} is run by {owner}; waiting for its end")
                seen.add(owner)
                named = claim.read()
                self._check_work(named.work, is_running=True)
                show(named.job)
                _pause(self.name)
        ended = claim.read().ended if seen else None
        if ended and ended.owner in seen and ended.exit_code != ExitCode.OK:
            claim.give_back()
            _raise_as(self.name, ended)

    def _take(self, claim: NameClaim) -> str:
        tries = 0
        while True:
            try:
                return claim.take()
            except BrokerRefusedError:
                raise
            except BrokerError as error:
                if not tries:
                    self._say(f"{error}; job {self.name!r} waits for it")
            url = job_names.url_of_names(str(self.broker_url))
            redis_backoff.wait_for_redis(url, tries, threading.Event(), lambda: False)
            tries += 1

    @contextmanager
    def _watching(self) -> Iterator[Callable[[str], None]]:
        """What shows how far a job is, by its id."""
        screens: dict[str, JobScreen] = {}

        def show(job_id: str) -> None:
            if self.quiet or not job_id:
                return
            try:
                state, record = jobs.read_parts(shards, job_id, viewer).whole()
            except (UnknownJobError, MessageError, BrokerError):
                return  # which the next look may know
            screen = screens.get(job_id) or screens.setdefault(job_id, JobScreen(record))
            screen.show(state, record)

        try:
            with viewing() as viewer, open_shards(str(self.broker_url)) as shards:
                yield show
        finally:
            for screen in screens.values():
                screen.close()

    @contextmanager
    def _telling_end(self, claim: NameClaim) -> Iterator[None]:
        """Those that wait are told how it ended; nothing where another process writes the output."""
        try:
            yield
        except OutputInUseError:
            raise
        except PredictionFailedError as failed:
            if claim.lost_to:
                failed.error.args = (f"{failed.error}; job {self.name!r} was taken over by {claim.lost_to}",)
            claim.give_back(Ended(claim.owner, failed.error.exit_code, str(failed.error), failed.summary.as_json()))
            raise
        except CeleriacError as error:
            claim.give_back(Ended(claim.owner, error.exit_code, str(error)))
            raise
        else:
            claim.give_back(Ended(claim.owner, ExitCode.OK))

    def _check_work(self, then: Work, *, is_running: bool) -> None:
        """The name's work, if there is any, is this one."""
        if not then or (not is_running and (self.force or self.accept_changes)):
            return
        changes = differences(then, self.work)
        if not is_running and lets_rows_fail(then, self.work):  # the output's journal tells whether it can
            del changes["on_error"]
        if changes:
            other = "" if is_running else ", or give it this work with --force"
            raise UsageError(
                f"job {self.name!r} does other work: {', and '.join(changes.values())}; choose another name{other}"
            )

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(f"celeriac: {text}")


def _pause(name: str) -> None:
    try:
        time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        raise NotWaitedForError(f"interrupted: job {name!r} goes on where it runs") from None


def _raise_as(name: str, ended: Ended) -> NoReturn:
    """End as who ran the job has ended."""
    error = EndedElsewhereError(f"job {name!r} was run by {ended.owner}: {ended.error}", ended.exit_code)
    if not ended.summary:
        raise error
    summary: Summary = from_json(ended.summary, Summary)
    raise PredictionFailedError(error, msgspec.structs.replace(summary, error=str(error)))
