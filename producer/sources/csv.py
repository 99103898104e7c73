"""CSV files --types of columns, by all rows--> columns by name, in blocks of 16 MiB.

They are read twice: a column has a type only where all its values are of it, in all files; what is neither numbers nor
truth values is text. A value that is missing is null.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from producer.rows.readers import BatchReader
from producer.rows.source import Table
from producer.sources.arrays import stamp_of
from producer.sources.files import find_files
from tasks.datasets.arrow import rows_of
from tasks.datasets.columns import check_names, missing_column
from tasks.datasets.read_errors import one_line_errors
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from worker_config.columns import expanded
from worker_config.errors import InputError
from worker_config.optional_imports import import_optional

# What says that a number or a truth value is missing; in a column of text it is text, the empty one too.
NULLS = ("", "NA", "N/A", "n/a", "null", "NULL", "None", "<NA>", "#N/A")
TEXT = "string"
# Names of Arrow's types, the likeliest first.
_TYPES = ("int64", "uint64", "float64", "bool")
# So many digits may be more than a float can bring back.
_LONG = 16


def open_csv(path: str | Path, columns: Sequence[str] | None = None) -> BatchReader:
    """Open a CSV file, the `.csv` files of a folder or those of a pattern, in sorted order.

    The first line has the names of the columns; values are separated by commas, in UTF-8. Columns are integers, floats,
    truth values (`true`, `false`) or text, as dates are.

    Args:
        path: a file, a folder or a pattern.
        columns: names of the columns to read, in this order; p0..p783 are p0, p1 and so on. All if left out.

    Raises:
        InputError: no such file or column, or files that do not fit together.
        ConfigError: pyarrow is not installed.
    """
    import_optional("pyarrow.csv", "parquet")
    files = [_CsvFile(file) for file in find_files(path, ".csv")]
    kinds: dict[str, str] = {}
    for name in files[0].names:
        if missing := [file for file in files if name not in file.names]:
            raise missing_column(str(missing[0].path), name, missing[0].names)
        known = [file.kinds[name] for file in files if name in file.kinds]
        kinds[name] = next((kind for kind in _TYPES if known and all(kind in one for one in known)), TEXT)
    return _reader(Path(path).name, files, kinds, list(kinds) if columns is None else expanded(columns))


def _reader(label: str, files: list[_CsvFile], kinds: dict[str, str], names: Sequence[str]) -> BatchReader:
    for name in names:
        if name not in kinds:
            raise missing_column(str(files[0].path), name, kinds)

    def read() -> Batches:
        for file in files:
            yield from file.read({name: kinds[name] for name in names})

    table = Table(names, lambda chosen: _reader(label, files, kinds, chosen))
    rows = sum(file.rows for file in files)
    return BatchReader(label, rows, read, table=table)


class _CsvFile:
    """One file, all of whose rows are looked at when it is opened.

    Attributes:
        names: of its columns; one without a name is called by its place, as "column0".
        rows: how many there are.
        kinds: of each column that has values the types that all of them are of.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = stamp_of(path.stat())
        self.names: list[str] = []
        self.rows = 0
        self.kinds: dict[str, list[str]] = {}
        with one_line_errors(str(path)):
            csv = import_optional("pyarrow.csv", "parquet")
            with path.open("rb") as opened:
                head = opened.readline(MAX_BATCH_BYTES)
            if b"," not in head and (other := next((one for one in ";\t" if one.encode() in head), None)):
                raise InputError(f"{path}: its values are separated by {other!r}; separate them by commas")
            with csv.open_csv(path, read_options=_blocks(csv)) as opened:
                self._given = opened.schema.names
            self.names = [name or f"column{place}" for place, name in enumerate(self._given)]
            check_names(self.names, str(path))
            with closing(self._batches(self._given)) as batches:
                for batch in batches:
                    self.rows += batch.num_rows
                    self._narrow(batch)

    def read(self, kinds: dict[str, str]) -> Batches:
        """These columns, of these types; rows where one is missing are marked."""
        arrow = import_optional("pyarrow", "parquet")
        first_row, given = 0, [self._given[self.names.index(name)] for name in kinds]
        with one_line_errors(str(self.path)), closing(self._batches(given)) as batches:
            for batch in batches:
                values = [_typed(batch.column(place), kind) for place, kind in enumerate(kinds.values())]
                if any(column is None for column in values):
                    raise self._changed()
                typed = arrow.RecordBatch.from_arrays(values, list(kinds))
                yield rows_of(typed, list(kinds), str(self.path), first_row)
                first_row += batch.num_rows
            if first_row != self.rows or stamp_of(self.path.stat()) != self._stamp:
                raise self._changed()

    def _narrow(self, batch: Any) -> None:
        """Strike out the types that the values of some rows are not of."""
        for place, name in enumerate(self.names):
            if left := self.kinds.get(name, list(_TYPES)):
                values = _without_nulls(batch.column(place))
                if values.null_count < len(values):
                    names = _made_of_digits(values)
                    self.kinds[name] = [kind for kind in left if kind not in names and _cast(values, kind) is not None]

    def _batches(self, names: Sequence[str]) -> Generator[Any, None, None]:
        """The columns of these names, as the file has them, all as text."""
        csv, arrow = import_optional("pyarrow.csv", "parquet"), import_optional("pyarrow", "parquet")
        texts = csv.ConvertOptions(
            column_types=dict.fromkeys(names, arrow.string()), include_columns=list(names), strings_can_be_null=False
        )
        # An empty line is an empty value, where there is one column; else it is no row.
        parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(self.names) > 1)
        with csv.open_csv(self.path, _blocks(csv), parse, texts) as opened:
            yield from opened

    def _changed(self) -> InputError:
        return InputError(f"{self.path}: has changed since it was opened; leave the file as it is while a job reads it")


def _blocks(csv: Any) -> Any:
    return csv.ReadOptions(block_size=MAX_BATCH_BYTES)


def _without_nulls(texts: Any) -> Any:
    """The texts, without spaces around them; null where they say that nothing is there."""
    compute, arrow = import_optional("pyarrow.compute", "parquet"), import_optional("pyarrow", "parquet")
    texts = compute.ascii_trim_whitespace(texts)
    missing = compute.is_in(texts, value_set=arrow.array(NULLS))
    return compute.if_else(missing, arrow.scalar(None, arrow.string()), texts)


def _made_of_digits(texts: Any) -> tuple[str, ...]:
    """The types that would not bring back all texts which are made of digits: those of names, such as postal codes."""
    compute = import_optional("pyarrow.compute", "parquet")

    def any_is(suspects: Any, pattern: str) -> bool:
        return bool(compute.any(compute.match_substring_regex(texts.filter(suspects), pattern)).as_py())

    zero = compute.starts_with(texts, "0")  # regular expressions are slow
    for sign in "-+":
        zero = compute.or_(zero, compute.starts_with(texts, f"{sign}0"))
    if any_is(zero, "^[+-]?0[0-9xX]"):
        return "int64", "uint64", "float64"
    is_long = any_is(compute.greater_equal(compute.binary_length(texts), _LONG), "^[+-]?[0-9]+$")
    return ("float64",) if is_long else ()


def _typed(texts: Any, kind: str) -> Any:
    """Values of a type; None where one is of another."""
    return texts if kind == TEXT else _cast(_without_nulls(texts), kind)


def _cast(texts: Any, kind: str) -> Any:
    compute, arrow = import_optional("pyarrow.compute", "parquet"), import_optional("pyarrow", "parquet")
    try:
        values = compute.cast(texts, arrow.type_for_alias(kind))
    except arrow.ArrowInvalid:
        return None
    if kind == "float64" and compute.any(endless := compute.fill_null(compute.is_inf(values), False)).as_py():
        # Numbers that are too large for any float are texts like others.
        named = compute.match_substring_regex(texts.filter(endless), "(?i)^[+-]?inf(inity)?$")
        return values if compute.all(named).as_py() else None
    return values
