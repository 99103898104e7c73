"""Files in the folder of an output: parts, and what is made of them, by whoever does it.

PartPayload --write_part--> START-STOP-RANDOM.part        MergeOrder --merge_parts--> INDEX-RANDOM.parquet
"""

from __future__ import annotations

from tasks.outputs.formats import WRITERS
from tasks.outputs.parts import MergeOrder, PartPayload, merge
from tasks.outputs.temp_paths import OutputTarget, one_line_errors
from tasks.protocol.messages import PartRef
from tasks.protocol.seal import checksum
from tasks.transport.output_folder import OutputFolder, attempt_name, no_space
from tasks.transport.output_objects import OutputObjects
from worker_config.errors import NoSpaceError, OutputError


def write_part(folder: OutputFolder | OutputObjects, start: int, stop: int, part: PartPayload) -> tuple[PartRef, int]:
    """Leave the part of the rows `[start, stop)`, and give its checksum; OutputError where it cannot be written."""
    name = attempt_name(start, stop, suffix=".part")
    folder.write(name, part.payload)
    return PartRef(name, sum(map(len, part.payload)), part.rows, part.outputs, part.kept), checksum(part.payload)


def merge_parts(order: MergeOrder, folder: OutputFolder | OutputObjects, index: int, suffix: str) -> PartRef:
    """Make one file of parts, by a name of this attempt; what is spent stays.

    Raises:
        OutputError: it cannot be written, or parts are damaged.
    """
    name = attempt_name(index, suffix=suffix)
    with one_line_errors(order.output), folder.new_file(name) as path:
        writer = WRITERS[suffix](OutputTarget(path, order.rows, "merged"))
        try:
            with one_line_errors(order.output):
                merge(order, writer, lambda part: folder.read(str(part.name), part.bytes, part.checksum))
                writer.publish()
                size = writer.published_bytes()
        except NoSpaceError:
            raise no_space(folder.path) from None
        except OutputError as error:
            raise OutputError(str(error).replace(str(writer.target.path), order.output)) from error
        finally:
            writer.close()
            writer.remove()
    return PartRef(name, size, order.rows)
