"""What a worker tells while it prepares its models, and has no slot yet.

main process --Preparing--> Redis --> producers, which wait for it; doctor, models, status
"""

from __future__ import annotations

import msgspec

from worker_config.decodable import decodable
from worker_config.foreign_errors import UNDECODABLE


class Preparing(msgspec.Struct, frozen=True):
    """How far a worker is before its children hold their models.

    Nothing but waiting depends on it: a form that is not known here, as that of another version, is read as far as it
    goes.

    Attributes:
        models: the digests of those that it will hold, by name; empty texts until the files have been read.
        doing: what it does now, as "making a snapshot of digits".
        done: how many models are prepared; then children load them.
        since: when it began, in Unix seconds.
        doing_since: when it began with what it does now.
    """

    models: dict[str, str]
    doing: str
    done: int
    since: float
    doing_since: float

    @property
    def step(self) -> str:
        """What it does, and how far it is."""
        return self.doing + (f" ({self.done} of {len(self.models)} models done)" if len(self.models) > 1 else "")

    def in_words(self, now: float) -> str:
        """The same, and for how long it has been preparing at this Unix time."""
        return f"{self.step}, for {max(0.0, now - self.since):.0f} s"


def unpack_preparing(data: bytes | None) -> Preparing | None:
    """What a worker tells; None where it tells nothing that could be read."""
    try:
        return msgspec.msgpack.decode(data, type=decodable(Preparing)) if data else None
    except UNDECODABLE:
        return None
