"""The Zarr store that grows while workers write it: stores of whole blocks of rows, one after the other, become one.

the first one --> OUT.zarr, by one rename; of objects each chunk is copied, then the metadata, those of the store last
the next one --y/c/0 to y/c/31, each by a rename or a copy--> OUT.zarr/y/c/32 to 63; then y/zarr.json, with more rows

A reader finds by an array's metadata how many rows it has. These grow when all Zarr chunks of the rows are there, none
of which changes any more: so each array is at any time the beginning of what it will be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from producer.sinks.final_files import FinalFiles, MergedFile
from producer.sinks.output_place import OutputPlace, taken
from producer.sinks.store_files import StoreFiles, store_files
from tasks.outputs.row_spec import output_name
from tasks.outputs.temp_paths import OutputTarget, not_continued, sync_folder
from tasks.outputs.zarr import METADATA, check_replaceable, not_a_store, replace_store
from worker_config.errors import OutputError
from worker_config.object_urls import is_url

_METADATA = METADATA[0]
# What is left of a store whose metadata went first, or have not come.
_OF_A_STORE = re.compile(r"(.*/)?(zarr\.json|c(/\d+)*|\.z(array|group|attrs|metadata)|\d+([./]\d+)*)")


class _Node(NamedTuple):
    """An array, or a group, of a store: the folder that it has in it, and what its metadata say."""

    way: str
    metadata: dict[str, Any]

    def __str__(self) -> str:
        return output_name(tuple(self.way.split("/")) if self.way else ())

    @property
    def is_array(self) -> bool:
        """Not a group, which has others in it."""
        return bool(self.metadata.get("node_type") == "array")

    @property
    def rows(self) -> int:
        return int(self.metadata["shape"][0])

    @property
    def chunk_rows(self) -> int:
        return int(self.metadata["chunk_grid"]["configuration"]["chunk_shape"][0])

    @property
    def file(self) -> str:
        """Of its metadata."""
        return _in(self.way, _METADATA)

    @property
    def inner(self) -> str:
        """What follows the first number in the name of a chunk, as only the first axis is cut."""
        return "/".join("0" for _ in self.metadata["shape"][1:])

    def with_rows(self, rows: int) -> dict[str, Any]:
        """Its metadata, were it of so many rows."""
        return self.metadata | {"shape": [rows, *self.metadata["shape"][1:]]}

    def chunks(self, start: int, stop: int) -> list[str]:
        """The names of these rows, which are whole chunks."""
        return [_in(self.way, f"c/{number}") for number in range(start // self.chunk_rows, -(-stop // self.chunk_rows))]


class ZarrStore(FinalFiles):
    """A store that a merged store begins, and others continue.

    One that replaces another is made beside it, where it can take its place at once; else the other one goes first.
    """

    placed: int

    def __init__(self, target: OutputTarget, place: OutputPlace) -> None:
        super().__init__(target.path, place)
        self._target = target
        self._is_local = not is_url(target.path)
        self._found: tuple[StoreFiles, list[_Node]] | None = None

    def check_replaceable(self) -> None:
        """Nothing but a Zarr store is ever removed."""
        if self._is_local:
            check_replaceable(self.path)
            return
        named = self._place.named()
        if not any(name in METADATA for name in named) and not all(map(_OF_A_STORE.fullmatch, named)):
            raise not_a_store(self.path)

    def title(self, number: int) -> str:
        """Its rows have no file of their own."""
        return f"a Zarr chunk of merged file {number}"

    def reopen(self, files: Sequence[MergedFile], token: str, written: Mapping[str, int]) -> None:
        """As it is for other files; what metadata say is read once."""
        self._found = None
        super().reopen(files, token, written)
        self._found = None

    def has(self, number: int, files: Sequence[MergedFile], named: Mapping[str, int]) -> bool:
        """Whether all its chunks are there, as large as they were, and the arrays have its rows."""
        if self._found is None:
            is_beside = self._is_local and self._beside.exists()  # which may have become the output already
            root = store_files(str(self._beside if is_beside else self.path), named)
            self._found = root, _arrays(self._nodes(root))
        root, arrays = self._found
        start = sum(file.rows for file in files[:number])
        stop = start + files[number].rows
        is_whole = _bytes_of(root, arrays, start, stop) == files[number].bytes
        return is_whole and all(array.rows >= stop for array in arrays)

    def waits(self, file: MergedFile, written: Mapping[str, int]) -> bool:
        """Its chunks are looked at as they are moved."""
        return file.name in written

    def put(self, files: Sequence[MergedFile], token: str) -> None:
        """Move their chunks, and let the arrays grow, with one merged store after the other."""
        start = sum(file.rows for file in files[: self.placed])
        for number in range(self.placed, len(files)):
            self._append(files[number], store_files(f"{self._place.folder(token)}/{files[number].name}"), start)
            self.placed = number + 1
            start += files[number].rows

    def publish(self, files: Sequence[MergedFile], token: str) -> None:
        """One that replaces another takes its name when it is whole."""
        if self.replaces and not self._is_local and not self.placed:
            self._root.remove()
        self.put(files, token)
        if self._is_local and self._beside.exists():
            replace_store(self._beside, self._target)
            sync_folder(self.path.parent)

    def take_back(self) -> None:
        """All of it, but for the folder."""
        store_files(str(self.path)).remove()
        if self._is_local:
            self.path.mkdir(exist_ok=True)

    def _append(self, file: MergedFile, merged: StoreFiles, start: int) -> None:
        root, stop = self._root, start + file.rows
        begins = not start and root.read(_METADATA) is None
        nodes = self._nodes(merged if begins else root)
        arrays = _arrays(nodes)
        if begins or any(array.rows < stop for array in arrays):  # else a run that was killed has grown it
            if lost := {node.way for node in self._nodes(merged)} - {node.way for node in nodes}:
                raise self._damaged(root, min(lost))
            is_whole = not begins or _bytes_of(merged, arrays, 0, stop) == file.bytes
            if is_whole and begins and root.become(merged):
                return
            if not is_whole or sum(self._take(array, root, merged, start) for array in arrays) != file.bytes:
                raise not_continued(self.path, f"{self.title(self.placed)} is gone, or another file")
            for node in nodes if begins else [array for array in arrays if array.rows < stop]:
                metadata = node.with_rows(stop) if node.is_array else node.metadata
                root.replace(node.file, json.dumps(metadata, indent=2).encode(), merged)
        elif not self._is_local and merged.read(_METADATA) is None:
            raise taken(self.path)  # by who has removed it, which `reopen` would have seen
        merged.remove()

    def _take(self, array: _Node, root: StoreFiles, merged: StoreFiles, start: int) -> int:
        if start % array.chunk_rows:
            raise not_continued(self.path, f"the data set has more rows than the {start} that it had before")
        new = self._read(merged, array.way)
        if new.with_rows(0) != array.with_rows(0):
            raise OutputError(
                f"{self.path}: workers write the metadata of {array} in different ways; "
                "let all have the same version of zarr, and begin again with --force"
            )
        names = zip(new.chunks(0, new.rows), array.chunks(start, start + new.rows), strict=True)
        return root.take(merged, dict(names), array.inner)

    def _nodes(self, store: StoreFiles, way: str = "") -> list[_Node]:
        """Arrays and groups, each after what is in it."""
        node = self._read(store, way)
        if node.is_array:
            return [node]
        inner = [self._nodes(store, _in(way, name)) for name in sorted(store.folders(way))]
        return [*chain.from_iterable(inner), node]

    def _read(self, store: StoreFiles, way: str) -> _Node:
        try:
            node = _Node(way, json.loads(store.read(_in(way, _METADATA)) or b""))
            if node.is_array and not (node.rows >= 0 and node.chunk_rows > 0):
                raise ValueError("no array has such a shape")
            return node
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._damaged(store, way) from error

    def _damaged(self, store: StoreFiles, way: str) -> OutputError:
        return not_continued(self.path, f"{store}/{_in(way, _METADATA)} is gone, or damaged")

    @property
    def _beside(self) -> Path:
        """Where a store is made that replaces another."""
        return self._target.temporary() / "store"

    @property
    def _root(self) -> StoreFiles:
        return store_files(str(self._beside if self.replaces and self._is_local else self.path))


def _arrays(nodes: Sequence[_Node]) -> list[_Node]:
    return [node for node in nodes if node.is_array]


def _bytes_of(store: StoreFiles, arrays: Sequence[_Node], start: int, stop: int) -> int:
    return sum(store.bytes_of(array.chunks(start, stop), array.inner) for array in arrays)


def _in(way: str, name: str) -> str:
    return f"{way}/{name}" if way else name
