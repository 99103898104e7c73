"""Runs `python -m tasks.describe`, and shows meanwhile what it does: its stderr --lines `step: ...`--> StartDisplay."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from tempfile import TemporaryFile

from producer.requests.start_display import StartDisplay

_LOOK_SECONDS = 0.2
_STEP = "step: "


def run_showing(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what it has written is in the answer."""
    lines, step = list[str](), "importing TensorFlow"
    with (
        TemporaryFile("w+") as output,
        StartDisplay() as display,
        subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, errors="replace") as process,
    ):
        try:
            reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
            reader.start()
            while reader.is_alive():
                reader.join(_LOOK_SECONDS)
                steps = [line for line in list(lines) if line.startswith(_STEP)]
                step = steps[-1].removeprefix(_STEP).strip() if steps else step
                display.show(step)
            process.wait()
        except BaseException:
            process.terminate()
            raise
        output.seek(0)
        said = "".join(line for line in lines if not line.startswith(_STEP))
        return subprocess.CompletedProcess(command, process.returncode, output.read(), said)
