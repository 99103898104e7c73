"""Types that bytes are decoded into, which msgspec gets to know one after the other.

msgspec takes a type apart when it meets it for the first time, and Python code runs meanwhile. A second thread that
meets the same type, or one that has it in it, would find it half done, which ends the process: seen with msgspec 0.22.
"""

from __future__ import annotations

import os
import threading
from typing import TypeVar

import msgspec

Form = TypeVar("Form")

_known: set[object] = set()
_lock = threading.Lock()
# A child that is forked meanwhile would find it half done for ever.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def decodable(form: Form) -> Form:
    """The same type, which any thread may decode and convert into from now on."""
    if form not in _known:
        with _lock:
            msgspec.msgpack.Decoder(form)
            _known.add(form)
    return form
