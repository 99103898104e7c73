"""Files from parts, made by this process: for outputs that came here, and where no worker of the job is up any more.

MergeOrder --add--> a file, at once
"""

from __future__ import annotations

from collections import deque

from producer.rows.part import StoredPart
from tasks.outputs.part_files import merge_parts
from tasks.outputs.parts import MergeOrder
from tasks.protocol.messages import MergeReply
from tasks.transport.output_folder import open_output_folder


class MergeHere:
    """What `MergeJob` is, without workers."""

    def __init__(self, reply: MergeReply) -> None:
        self._reply = reply
        self._files = deque[StoredPart]()
        self._count = 0

    def add(self, order: MergeOrder) -> None:
        """Make one more file; raises OutputError where it cannot be made."""
        with open_output_folder(self._reply.folder, [self._reply.folder]) as folder:
            folder.remove(order.spent)
            if order.parts:
                self._files.append(StoredPart(merge_parts(order, folder, self._count, self._reply.suffix)))
                self._count += 1

    def end(self) -> None:
        """No more files."""

    def is_ready(self) -> bool:
        """Whether `take` would give one."""
        return bool(self._files)

    def take(self) -> StoredPart:
        """The next file, in the order of the orders."""
        return self._files.popleft()

    def close(self) -> None:
        """Nobody wants the rest."""
