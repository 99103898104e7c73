"""A notebook's kernel: what is interrupted there is cancelled, and a cell that fails costs no client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from tests.held import held_child, holding, write_held_models
from tests.systems import RedisServer
from tests.waiting import wait_until

START = """
import models_held
import numpy as np
from producer import local

client = local({"held": models_held.held}, workers=1)
rows = np.float32([[1], [-1], [2]])
"""


class Kernel:
    """One that runs, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=str(folder))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=120)

    def begin(self, code: str) -> str:
        sent: str = self._client.execute(code)
        return sent

    def end(self, sent: str) -> str:
        """What the cell showed on its last line, or as a traceback."""
        shown = ""
        while True:
            message = self._client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != sent:
                continue
            content: dict[str, Any] = message["content"]
            if message["msg_type"] == "execute_result":
                shown = content["data"]["text/plain"]
            elif message["msg_type"] == "error":
                shown = "\n".join(content["traceback"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return shown

    def run(self, code: str) -> str:
        return self.end(self.begin(code))

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("k")
    write_held_models(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # where Jupyter and IPython write
        kernel = Kernel(folder)
        assert kernel.run(START) == ""
        yield kernel
        kernel.close()


@pytest.mark.parametrize("wait", ["job.result()", "await job"])
def test_an_interrupt_cancels_the_job_that_a_cell_waits_for_and_the_client_goes_on(kernel: Kernel, wait: str) -> None:
    with holding(kernel.folder, -1.0):
        cell = kernel.begin(f"job = client.submit('held', rows, chunk_rows=1)\n{wait}")
        wait_until(lambda: held_child(kernel.folder), "the child is held")
        kernel.interrupt()
        shown = kernel.end(cell)
        assert "KeyboardInterrupt" in shown or "CancelledError" in shown, shown
    assert kernel.run("job.wait(60), str(job.state)") == "(True, 'cancelled')"
    assert kernel.run("client.predict('held', rows).ravel().tolist()") == "[2.0, -2.0, 4.0]"


def test_a_cell_that_fails_shows_a_line_and_costs_no_client(kernel: Kernel) -> None:
    assert kernel.run("client.predict('hold', rows)").splitlines()[1:] == ["  line 1: client.predict('hold', rows)"]
    assert kernel.run("local(models={'m': rows})").splitlines() == [
        "UsageError: models['m'] is a ndarray; a model is one of Keras, a tf.Module, a tf.function, the bytes of a "
        ".tflite file, the path of a model, or a function that takes and gives arrays",
        "  line 1: local(models={'m': rows})",
    ]
    assert "models['m'].preprocess: own() uses 'client', a LocalClient" in kernel.run(
        "def own(rows):\n    return client.predict('held', rows)\n\n"
        "local({'m': {'path': 'm.keras', 'preprocess': own}})"
    )
    assert kernel.run("(await client.submit('held', rows)).ravel().tolist()") == "[2.0, -2.0, 4.0]"


def test_without_a_worker_or_a_broker_a_line_says_what_to_start(kernel: Kernel) -> None:
    assert kernel.run("from producer import Client\nClient()").splitlines() == [
        "ConfigError: no broker; give Client a URL or set CELERIAC_BROKER_URL, for example to redis://HOST:6379/0; "
        "producer.local() needs none",
        "  line 2: Client()",
    ]
    server = RedisServer(kernel.folder).start()
    try:
        cell = f"Client({server.url!r}, worker_timeout_seconds=0).predict('held', rows)"
        error, line = kernel.run(cell).splitlines()
    finally:
        server.stop()
    start = "start one with `celeriac worker` (or `celery -A tasks worker`)"
    assert error.startswith(f"NoWorkerError: no worker is up; {start}; looked at "), error
    assert line == f"  line 1: {cell}"
