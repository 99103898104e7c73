"""Outputs --in the form that the caller asks for--> arrays, or the caller's own frame with the outputs as columns.

frame, rows that have outputs --> these rows of it, index and all --and a column for each output--> a frame of its kind
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from producer.rows.part import OutputTree
from tasks.datasets.arrow import without_views
from tasks.outputs.arrow import value_type
from tasks.outputs.row_spec import RowSpec
from tasks.outputs.widen import widened
from tasks.protocol.codec import Array, leaves_of
from worker_config.errors import UsageError
from worker_config.foreign_errors import import_optional, one_line

# What `returns` may be.
Returns: TypeAlias = Literal["arrays", "frame"]

# A frame that comes back as one of its kind.
Frame = TypeVar("Frame")

# Behind the name of an output that a column of the frame has already.
SUFFIX = "_predicted"


@dataclass(frozen=True)
class Form:
    """In what form outputs are given.

    Args:
        returns: "arrays", or "frame" for the frame that the rows were given as, with the outputs beside them.
        frame: that frame; None where there is none.
        keep: columns that stand beside arrays; a frame has all of its own.

    Raises:
        UsageError: there is no frame, or none of a kind that can be given back; or there is one with `keep`.
    """

    returns: Returns = "arrays"
    frame: Any = None
    keep: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.returns not in ("arrays", "frame"):
            raise UsageError(f"returns is {self.returns!r}; it may be 'arrays' or 'frame'")
        if self.returns == "frame" and self.keep:
            raise UsageError(
                "returns='frame' gives all columns back; leave keep out, and drop those that you do not want"
            )
        if self.returns == "frame" and not any(hasattr(self.frame, name) for name in _KINDS):
            what = "no frame" if self.frame is None else f"a {type(self.frame).__name__}"
            raise UsageError(
                f"returns='frame' gives a DataFrame of pandas or polars, or a Table of Arrow, back with its "
                f"predictions, and the data set is {what}; leave it out, or give the rows as one of these"
            )

    def of(self, outputs: OutputTree, numbers: Callable[[], Array], output_name: str = "") -> Any:
        """The outputs in this form.

        A column has the name of its output, "MODEL/OUTPUT" of several models; a single one without a name is "output".
        Where the frame has that name, "_predicted" stands behind it. Rows of shape (1,) are numbers; those of more are
        lists of fixed size, within each other for more axes, or, in pandas, arrays.

        Args:
            outputs: of all rows, or of some.
            numbers: gives which rows these are.
            output_name: of a single output.

        Raises:
            UsageError: an output is of a type, or a shape, for which this kind of frame has no column.
        """
        if self.returns == "arrays":
            return outputs
        rows = numbers()
        named_so = hasattr(type(self.frame), "column_names")  # of pandas, a column may be called so
        taken = set(self.frame.column_names if named_so else self.frame.columns)
        columns: dict[str, Array] = {}
        for key, array in leaves_of(outputs):
            name = "/".join(map(str, key)) or output_name or "output"
            if len(array) != len(rows):
                raise UsageError(
                    f"output {name!r} has {len(array)} rows, and {len(rows)} rows of the frame have outputs; take all "
                    "of them at once, and no parts before"
                )
            while name in taken:
                name += SUFFIX
            taken.add(name)
            columns[name] = widened(array[:, 0] if array.shape[1:] == (1,) else array, None)
        beside = next(add for name, add in _KINDS.items() if hasattr(self.frame, name))
        return beside(self.frame, None if len(rows) == len(self.frame) else rows, columns)


def _beside_pandas(frame: Any, rows: Array | None, columns: dict[str, Array]) -> Any:
    """By position, whatever the index is; the values of other columns are shared, not copied, where all rows stay."""
    whole = (frame if rows is None else frame.iloc[rows]).copy(deep=False)
    for name, array in columns.items():
        whole[name] = list(array) if array.ndim > 1 else array
    return whole


def _beside_polars(frame: Any, rows: Array | None, columns: dict[str, Array]) -> Any:
    table = import_optional("pyarrow", "parquet").table({name: _in_arrow(name, one) for name, one in columns.items()})
    return (frame if rows is None else frame[rows]).hstack(type(frame)(table).get_columns())


def _beside_arrow(frame: Any, rows: Array | None, columns: dict[str, Array]) -> Any:
    whole = frame if rows is None else without_views(frame).take(rows).cast(frame.schema)
    for name, array in columns.items():
        whole = whole.append_column(name, _in_arrow(name, array))
    return whole


def _in_arrow(name: str, array: Array) -> Any:
    """A column of Arrow; numbers are not copied."""
    arrow = import_optional("pyarrow", "parquet")
    kind = value_type(arrow, RowSpec(array.dtype, array.shape[1:]), array)
    if kind is None or 0 in array.shape[1:]:
        raise UsageError(
            f"output {name!r} is {array.dtype} rows of shape {array.shape[1:]}, for which a frame has no column; leave "
            "returns='frame' out"
        )
    flat = np.ascontiguousarray(array).reshape(-1)
    try:
        values = arrow.array(flat.tolist() if array.dtype.kind in "OUS" else flat, kind)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, UnicodeEncodeError) as error:
        raise UsageError(
            f"output {name!r} cannot be a column of {kind}: {one_line(error)}; leave returns='frame' out"
        ) from error
    for size in reversed(array.shape[1:]):
        values = arrow.FixedSizeListArray.from_arrays(values, size)
    return values


# By a method that only this kind has; pandas has no `hstack`, polars no `append_column`.
_KINDS: dict[str, Callable[[Any, Array | None, dict[str, Array]], Any]] = {
    "iloc": _beside_pandas,
    "hstack": _beside_polars,
    "append_column": _beside_arrow,
}
