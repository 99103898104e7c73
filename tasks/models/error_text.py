"""Takes, from an error that explains itself over many lines, the first one that says something."""

from __future__ import annotations

import re

# Of a converter's target.
LACKS = "it has no operation for"
_LACKING = re.compile(
    r"(?<='tf\.)\w+(?=' op is neither a custom op nor a flex op)|(?<=No conversion rule found for operations: ).+"
)
# TensorFlow tells where the graph was built before it tells what is wrong: headings, and frames of a traceback.
_PREAMBLE = ('File "', "Detected at node", "<stack traces")


def telling_line(error: BaseException) -> str:
    """Such as "indices[2,0] = 17 is not in [0, 10)"; empty if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.endswith(":") and not line.startswith(_PREAMBLE)), "")


def typed_line(error: BaseException, most: int = 300) -> str:
    """The same behind the error's type; the type alone where there is no such line. `most` characters of the line."""
    return f"{type(error).__name__}: {telling_line(error)[:most]}".removesuffix(": ")


def converter_line(error: BaseException) -> str:
    """The same of a converter, which puts a stack of source lines before "error: "; 300 characters in all.

    Of one that lacks operations, TensorFlow's names for them behind `LACKS`.
    """
    text = str(error)
    if lacking := ", ".join(_LACKING.findall(text)):
        return f"{LACKS} {', '.join(sorted(set(lacking.split(', '))))}"[:300]
    found = re.search(r"error: (.+)", text)
    return (f"{type(error).__name__}: {found[1].strip()}" if found else typed_line(error))[:300]
