"""Cases of operations that move, choose, count and reduce numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.operations.case import COLUMNS, Case, plain, spec

raw = tf.raw_ops
REDUCTIONS = "Sum Mean Prod Max Min EuclideanNorm".split()
# Structure: one function, for floats and for integers.
MOVES: dict[str, Callable[[Any], Any]] = {
    "Reshape": lambda x: tf.reshape(x, [-1, 11, 3]),
    "Transpose": lambda x: raw.Transpose(x=raw.Reshape(tensor=x, shape=[-1, 11, 3]), perm=[0, 2, 1]),
    "ExpandDims": lambda x: tf.expand_dims(x, 1),
    "Squeeze": lambda x: raw.Squeeze(input=raw.ExpandDims(input=x, axis=1), axis=[1]),
    "ConcatV2": lambda x: tf.concat([x, x], -1),
    "Pack": lambda x: tf.stack([x, x], 1),
    "Unpack": lambda x: tf.unstack(x, axis=1)[:3],
    "Split": lambda x: tf.split(x, 3, axis=-1),
    "SplitV": lambda x: tf.split(x, [3, 10, 20], axis=-1),
    "StridedSlice": lambda x: [x[:, 1:30:3], x[:, ::-1], x[:, -1], x[:, None, 2:]],
    "Slice": lambda x: tf.slice(x, [0, 4], [-1, 7]),
    "Tile": lambda x: tf.tile(x, [1, 3]),
    "Pad": lambda x: tf.pad(x, [[0, 0], [2, 1]]),
    "PadV2": lambda x: tf.pad(x, [[0, 0], [2, 1]], constant_values=7),
    "MirrorPad": lambda x: [tf.pad(x, [[0, 0], [2, 1]], mode) for mode in ("REFLECT", "SYMMETRIC")],
    "Roll": lambda x: tf.roll(x, 5, 1),
    "ReverseV2": lambda x: tf.reverse(x, [1]),
    "BroadcastTo": lambda x: raw.BroadcastTo(input=x[:, None, :], shape=[9, 4, COLUMNS]),
    "Cumsum": lambda x: [tf.cumsum(x, 1), tf.cumsum(x, 1, exclusive=True), tf.cumsum(x, 1, reverse=True)],
    "Cumprod": lambda x: tf.math.cumprod(x[:, :4], 1),
    "TopKV2": lambda x: list(tf.math.top_k(x, 5)),
    "sort": lambda x: [tf.sort(x), tf.sort(x, direction="DESCENDING")],
    "argsort": lambda x: tf.argsort(x, stable=True),
    "ArgMax": lambda x: [tf.argmax(x, -1), tf.argmax(x, -1, output_type=tf.int32)],
    "ArgMin": lambda x: [tf.argmin(x, -1), tf.argmin(x, -1, output_type=tf.int32)],
    "GatherV2 of fixed places": lambda x: tf.gather(x, [0, 5, 5, 32], axis=1),
    "GatherNd of fixed places": lambda x: tf.gather_nd(x, [[[3], [0]]] * 9, batch_dims=1),
    "MatrixDiagV3": lambda x: tf.linalg.diag(x[:, :6]),
    "MatrixDiagPartV3": lambda x: tf.linalg.diag_part(tf.reshape(x, [-1, 3, 11])),
    "MatrixBandPart": lambda x: tf.linalg.band_part(tf.reshape(x, [-1, 3, 11]), 1, 0),
    "MatrixSetDiagV3": lambda x: tf.linalg.set_diag(tf.reshape(x, [-1, 3, 11]), x[:, :3]),
    "tensor_scatter_update at fixed places": lambda x: tf.tensor_scatter_nd_update(x, [[0, 0], [0, 5]], x[0, :2]),
    "repeat": lambda x: tf.repeat(x, 3, axis=1),
    "meshgrid": lambda x: x[:, :, None] * tf.ones_like(x)[:, None, :],
    "Where, a count": lambda x: tf.math.count_nonzero(x, axis=1),
    "unique": lambda x: tf.unique(tf.reshape(x, [-1])).y,
    "boolean_mask": lambda x: tf.boolean_mask(x, x[:, 0] > 0),
    "zeros_like, fill": lambda x: tf.fill(tf.shape(x), tf.constant(3, x.dtype)) + x,
    "EnsureShape": lambda x: tf.ensure_shape(x, [None, COLUMNS]),
    "ReverseSequence": lambda x: tf.reverse_sequence(x, [1, 2, 3, 4, 5, 6, 7, 8, 9], seq_axis=1),
    "segment_sum of fixed places": lambda x: tf.math.segment_sum(tf.transpose(x), [0] * 11 + [1] * 22),
    "segment_mean of fixed places": lambda x: tf.math.segment_mean(tf.transpose(x), [0] * 11 + [1] * 22),
    "unsorted_segment_max": lambda x: tf.math.unsorted_segment_max(tf.transpose(x), [0, 1, 2] * 11, 4),
    "unsorted_segment_sum": lambda x: tf.math.unsorted_segment_sum(tf.transpose(x), [0, 1, 2] * 11, 4),
    "AddV2 of a row": lambda x: x + tf.constant(np.arange(COLUMNS), x.dtype),
    "Mul of a row": lambda x: x * tf.constant(np.arange(COLUMNS) % 5 - 2, x.dtype),
    "Range, Less": lambda x: tf.cast(tf.range(COLUMNS)[None], x.dtype) < x[:, :1],
}
_SHOWN = {
    "Transpose": "Transpose/{}", "Squeeze": "Squeeze/{}", "BroadcastTo": "BroadcastTo/{}", "Cumprod": "Cumprod/{}",
    "MatrixDiagPartV3": "MatrixDiagPartV3/{}", "MatrixBandPart": "MatrixBandPart/{}", "MatrixDiagV3": "MatrixDiagV3/{}",
    "MatrixSetDiagV3": "MatrixSetDiagV3/{}", "segment_sum of fixed places": "SegmentSum/{},constant",
    "segment_mean of fixed places": "SegmentMean/{},constant", "unsorted_segment_max": "UnsortedSegmentMax/{},constant",
    "unsorted_segment_sum": "UnsortedSegmentSum/{},constant", "unique": "Unique/{}",
    "tensor_scatter_update at fixed places": "TensorScatterUpdate/{},constant",
}  # fmt: skip
INDICES = spec(5, dtype="int32")
WITH_INDICES: dict[str, Callable[[Any], Any]] = {
    "gather of a table": lambda i: tf.gather(_table(10, 3), i),
    "gather_nd of a table": lambda i: tf.gather_nd(_table(10, 3), i[..., None]),
    "embedding_lookup": lambda i: tf.nn.embedding_lookup(_table(256, 4), i),
    "OneHot": lambda i: tf.one_hot(i, 10),
    "ScatterNd": lambda i: tf.scatter_nd(i[..., None], tf.ones([9, 5]), [10]),
    "TensorScatterUpdate": lambda i: tf.tensor_scatter_nd_update(_table(10), i[..., None], tf.ones([9, 5])),
    "TensorScatterAdd": lambda i: tf.tensor_scatter_nd_add(_table(10), i[..., None], tf.ones([9, 5])),
    "TensorScatterMax": lambda i: tf.tensor_scatter_nd_max(_table(10), i[..., None], tf.ones([9, 5])),
    "TensorScatterMin": lambda i: tf.tensor_scatter_nd_min(_table(10), i[..., None], tf.ones([9, 5])),
    "TensorScatterSub": lambda i: tf.tensor_scatter_nd_sub(_table(10), i[..., None], tf.ones([9, 5])),
    "UnsortedSegmentSum": lambda i: tf.math.unsorted_segment_sum(_table(9, 5), i, 10),
    "UnsortedSegmentMax": lambda i: tf.math.unsorted_segment_max(_table(9, 5), i, 10),
    "UnsortedSegmentMin": lambda i: tf.math.unsorted_segment_min(_table(9, 5), i, 10),
    "UnsortedSegmentProd": lambda i: tf.math.unsorted_segment_prod(_table(9, 5), i, 10),
    "SegmentSum": lambda i: tf.math.segment_sum(_table(9, 5), i[:, 0]),
    "SegmentMax": lambda i: tf.math.segment_max(_table(9, 5), i[:, 0]),
    "SegmentMean": lambda i: tf.math.segment_mean(_table(9, 5), i[:, 0]),
    "DenseBincount": lambda i: raw.DenseBincount(input=i, size=10, weights=tf.zeros([0]), binary_output=False),
    "DenseBincount, binary": lambda i: raw.DenseBincount(input=i, size=10, weights=tf.zeros([0]), binary_output=True),
    "DenseBincount of counts": lambda i: raw.DenseBincount(input=i, size=10, weights=tf.zeros([0], tf.int32)),
    "Bincount": lambda i: raw.Bincount(arr=i, size=10, weights=tf.zeros([0])),
    "math.bincount": lambda i: tf.math.bincount(i, minlength=10, maxlength=10, axis=-1),
    "InTopKV2": lambda i: tf.math.in_top_k(i[:, 0], _table(9, 5), 2),
    "sequence_mask": lambda i: tf.sequence_mask(i[:, 0], 8),
    "lookup table": lambda i: _lookup(i),
    "confusion_matrix": lambda i: tf.math.confusion_matrix(i[:, 0], i[:, 1], 10),
    "slice from an index": lambda i: tf.slice(_table(10, 3), [i[0, 0], 0], [1, 3]),
    "strided slice to an index": lambda i: _table(10, 3)[i[0, 0]],
    "While by rows": lambda i: tf.while_loop(lambda n: tf.reduce_any(n > 0), lambda n: n // 2, [i])[0],
    "If by rows": lambda i: tf.cond(tf.reduce_any(i > 5), lambda: i + 1, lambda: i * 2),
    "Case by rows": lambda i: tf.switch_case(i[0, 0], [lambda: i, lambda: i + 1]),
    "Range by rows": lambda i: tf.range(tf.clip_by_value(i[0, 0], 0, 9)),
    "Assert": lambda i: _asserted(tf.debugging.assert_less(i, 200), i),
}
_INDEX_SHOWN = {
    "TensorScatterUpdate": "TensorScatterUpdate/float", "While by rows": "While", "If by rows": "If",
    "Case by rows": "Case", "Assert": "Assert", "ScatterNd": "ScatterNd/float",
    "TensorScatterAdd": "TensorScatterAdd/float",
    "TensorScatterMax": "TensorScatterMax/float", "TensorScatterMin": "TensorScatterMin/float",
    "TensorScatterSub": "TensorScatterSub/float", "gather_nd of a table": "GatherNd/float",
    "SegmentSum": "SegmentSum/float", "SegmentMax": "SegmentMax/float", "SegmentMean": "SegmentMean/float",
    "InTopKV2": "InTopKV2/int", "slice from an index": "Slice/float",
    "strided slice to an index": "StridedSlice/float", "Range by rows": "Range",
}  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for name, move in MOVES.items():
        for dtype, which in (("float32", "float"), ("int32", "int")):
            shown = (_SHOWN[name].format(which),) if name in _SHOWN else ()
            label = name if dtype == "float32" else f"{name} of int32"
            yield Case(label, plain(move), [spec(COLUMNS, dtype=dtype)], shows=shown)
    for name in ("Reshape", "ConcatV2", "GatherV2 of fixed places", "StridedSlice", "ExpandDims", "Pack"):
        for dtype in ("int64", "uint8", "bool"):
            yield Case(f"{name} of {dtype}", plain(MOVES[name]), [spec(COLUMNS, dtype=dtype)])
    for name in REDUCTIONS:
        for label, axis, keep in (
            ("over columns", 1, False),
            ("over columns, kept", -1, True),
            ("over places", 2, False),
        ):
            inputs = [spec(COLUMNS)] if axis != 2 else [spec(5, 7)]
            is_exact = name in ("Max", "Min")  # the others round
            yield Case(f"{name} {label}", plain(_reduction(name, axis, keep)), inputs, is_exact=is_exact)
        yield Case(f"{name} of int32", plain(_reduction(name, 1, False)), [spec(COLUMNS, dtype="int32")])
    for name in ("All", "Any"):
        yield Case(name, plain(_reduction(name, 1, False)), [spec(COLUMNS, dtype="bool")])
    for name, choice in WITH_INDICES.items():
        shown = (_INDEX_SHOWN[name],) if name in _INDEX_SHOWN else ()
        for dtype in ("int64",) if name == "lookup table" else ("int32", "int64"):
            yield Case(f"{name}, {dtype}", plain(choice), [spec(5, dtype=dtype)], shows=shown)
    yield Case(
        "gather in each row",
        plain(lambda x, i: tf.gather(x, i, batch_dims=1, axis=1)),
        [spec(COLUMNS), INDICES],
        has_places=False,
    )
    yield Case("take_along_axis", plain(_take_along), [spec(COLUMNS), INDICES], has_places=False)
    yield Case("assert_less", plain(lambda x: _asserted(tf.debugging.assert_less(x, 200.0), x)), has_places=False)
    yield Case("assert_near", plain(lambda x: _asserted(tf.debugging.assert_near(x, x * 1.0), x)), has_places=False)
    for name in ("SearchSorted left", "SearchSorted right"):
        side = name.rpartition(" ")[2]
        yield Case(name, plain(_searched(side)), shows=("LowerBound/float" if side == "left" else "UpperBound/float",))
    yield Case("cumulative_logsumexp", plain(lambda x: tf.math.cumulative_logsumexp(x, axis=1)))
    yield Case("histogram_fixed_width", plain(lambda x: tf.histogram_fixed_width(x, [0.0, 5.0], 6)))
    yield Case("a list in a loop", plain(_looped), [spec(4, COLUMNS)], shows=_LISTS)
    yield Case("map_fn", plain(lambda x: tf.map_fn(lambda row: row * 2.0, x)))
    yield Case("scan", plain(lambda x: tf.scan(lambda total, row: total + row, tf.transpose(x))))


_LISTS = (
    "TensorListSetItem/float", "TensorListGetItem/float", "TensorListStack/float", "TensorListFromTensor/float",
)  # fmt: skip


def _table(*sizes: int) -> Any:
    return tf.constant(np.arange(np.prod(sizes)).reshape(sizes) % 13 - 4, tf.float32)


def _lookup(keys: Any) -> Any:
    holder = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant([1, 2, 9], keys.dtype), tf.constant([5, 6, 7], tf.int64)), -1
    )
    return holder.lookup(keys)


def _asserted(check: Any, result: Any) -> Any:
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(result)


def _reduction(name: str, axis: int, keep: bool) -> Callable[..., Any]:
    return lambda x: getattr(raw, name)(input=x, axis=axis, keep_dims=keep)


def _searched(side: str) -> Callable[..., Any]:
    return lambda x: tf.searchsorted(tf.tile(tf.constant([[-1.0, 0.0, 0.5, 7.0, 100.0]]), [9, 1]), x, side)


def _take_along(x: Any, i: Any) -> Any:
    import keras

    return keras.ops.take_along_axis(x, i, axis=1)


def _looped(x: Any) -> Any:
    """As Keras unrolls no recurrence: steps over the second axis."""
    steps = tf.TensorArray(tf.float32, 4, element_shape=[None, COLUMNS]).unstack(tf.transpose(x, [1, 0, 2]))
    results = tf.TensorArray(tf.float32, 4, element_shape=[None, COLUMNS])
    _n, results = tf.while_loop(
        lambda n, _: n < 4, lambda n, out: (n + 1, out.write(n, steps.read(n) * 2.0)), [tf.constant(0), results]
    )
    return tf.transpose(results.stack(), [1, 0, 2])
