"""Takes, from an error that explains itself over many lines, the first one that says something."""

from __future__ import annotations

# TensorFlow tells where the graph was built before it tells what is wrong: headings, and frames of a traceback.
_PREAMBLE = ('File "', "Detected at node", "<stack traces")


def telling_line(error: BaseException) -> str:
    """Such as "indices[2,0] = 17 is not in [0, 10)"; empty if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.endswith(":") and not line.startswith(_PREAMBLE)), "")
