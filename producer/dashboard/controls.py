"""What the page's buttons do: the same as the commands of these names.

cancel, priority        --broker.jobs--> Redis                  as `celeriac cancel`, `celeriac priority`
drain, resume, reload   --`celery control`--> one worker        signed, if there is a key, as whoever calls it would
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from producer.broker import jobs
from producer.broker.shard_clients import open_shards
from producer.records.job_store import JobState
from producer.scheduling.priority import priority_name, weight_of
from worker_config.broker import shard_urls
from worker_config.decodable import decodable
from worker_config.environment import check_no_shadow
from worker_config.errors import InfrastructureError, UsageError

COMMANDS: Final = {"drain": "drain", "resume": "resume", "reload": "reload_models"}
ANSWER_SECONDS = 5
TIMEOUT_SECONDS = 60


def cancel(url: str, job_id: str) -> str:
    """End a job; what has come of it, in words."""
    with open_shards(url, retries=0) as shards:
        ended = jobs.cancel(shards, job_id)
    jobs.check_reached(shards, f"job {ended.id} is cancelled")
    if ended.state is JobState.RUNNING or ended.detached:
        return f"Job {ended.id} is being cancelled."
    return f"Job {ended.id} is {ended.state} already."


def set_priority(url: str, job_id: str, priority: str) -> str:
    """Change what a running job has against others; what has come of it, in words."""
    weight = weight_of(priority)
    with open_shards(url, retries=0) as shards:
        job_id = jobs.set_weight(shards, job_id, weight)
    jobs.check_reached(shards, f"job {job_id} has its new priority")
    return f"Job {job_id} is {priority_name(weight)} now."


def control(url: str, node: str, command: str) -> str:
    """Have one worker do one of `COMMANDS`, by Celery's own command in a process of its own; the worker's words.

    Celery and a worker's code would stay in this process for a button that is seldom pressed.

    Raises:
        UsageError: there is no such command, or the worker refuses.
        InfrastructureError: the worker, or Redis, does not answer.
    """
    if command not in COMMANDS or not node or node.startswith("-") or "," in node:
        raise UsageError(f"worker {node!r} cannot be told to {command!r}; commands are {', '.join(COMMANDS)}")
    check_no_shadow(Path.cwd())
    url, node = shard_with(url, node)
    words = ["-A", "tasks", "control", "-j", "-t", str(ANSWER_SECONDS), "-d", node, COMMANDS[command]]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "celery", *words],
            env=os.environ | {"CELERIAC_BROKER_URL": url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"`celery control` has not ended within {TIMEOUT_SECONDS} s") from None
    answer = _answer_of(ended.stdout, node)
    if text := answer.get("ok"):
        return f"{node}: {text}"
    if text := answer.get("error"):
        raise UsageError(f"{node} refuses: {text}")
    said = [line.removeprefix("celeriac: ") for line in ended.stderr.splitlines() if line.startswith("celeriac: ")]
    unheard = f"{node} does not answer; is it up, and does CELERIAC_REMOTE_CONTROL let it?"
    raise InfrastructureError("; ".join(said) or unheard)


def shard_with(url: str, node: str) -> tuple[str, str]:
    """The URL of the worker's shard, and its name there; of several its own has the shard behind it, as of queues."""
    urls = shard_urls(url)
    name, _, number = node.rpartition("@")
    is_further = len(urls) > 1 and "@" in name and number.isdecimal() and int(number) < len(urls)
    return (urls[int(number)], name) if is_further else (urls[0], node)


def _answer_of(output: str, node: str) -> dict[str, Any]:
    """Of the replies that Celery prints, [{NODE: REPLY}], that of the worker; empty where there is none."""
    for line in output.splitlines():
        with suppress(msgspec.DecodeError):
            for replies in msgspec.json.decode(line, type=decodable(list[dict[str, dict[str, Any]]])):
                if node in replies:
                    return replies[node]
    return {}
