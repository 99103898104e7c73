"""Cases of Keras: every layer that can stand in a model that predicts, every activation, functions of `keras.ops`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks.operations.case import COLUMNS, Case, spec
from benchmarks.operations.numeric import CANCELLING
from tasks.protocol.records import TensorSpec

LEFT_OUT = {
    "Layer InputLayer InputSpec Wrapper Identity Lambda Pipeline": "no computation of their own",
    "FlaxLayer JaxLayer TorchModuleWrapper TFSMLayer": "bring another framework, or another model",
    "StringLookup TextVectorization": "take strings, which stay with the model's own graph",
    "LSTMCell GRUCell SimpleRNNCell StackedRNNCells": "swept inside of RNN",
    "Equalization": "cannot be traced with float pictures of a free number",
    "MaxNumBoundingBoxes": "takes boxes of training data",
    "AugMix CutMix MixUp RandAugment": "augment training data",
}
# Aliases have the same class under another name, and are swept once.
VECTOR, SEQUENCE, PICTURE, VOLUME = spec(COLUMNS), spec(6, 8), spec(8, 8, 4), spec(4, 4, 4, 3)
COLOURS = spec(8, 8, 3)


def _on(form: TensorSpec, *forms: TensorSpec) -> list[TensorSpec]:
    return [form, *forms]


# name -> (a function that makes the layer, inputs)
LAYERS: dict[str, tuple[Callable[[], Any], list[TensorSpec]]] = {}


def _layer(name: str, inputs: list[TensorSpec], **arguments: Any) -> None:
    kind = name.partition(",")[0]
    LAYERS[name] = (lambda: getattr(layers, kind)(**arguments), inputs)


for _activation in ("relu", "softmax", "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "softplus", "log_softmax"):
    _layer(f"Dense, {_activation}", [VECTOR], units=33, activation=_activation)
    _layer(f"Conv2D, {_activation}", [PICTURE], filters=6, kernel_size=3, activation=_activation)
_layer("Dense", [VECTOR], units=33)
_layer("Dense, of a sequence", [SEQUENCE], units=5)
_layer("Dense, without bias", [VECTOR], units=5, use_bias=False)
_layer("EinsumDense", [SEQUENCE], equation="abc,cd->abd", output_shape=(None, 5), bias_axes="d")
for _size, _form in (("1D", SEQUENCE), ("2D", PICTURE), ("3D", VOLUME)):
    _layer(f"Conv{_size}", [_form], filters=5, kernel_size=2)
    _layer(f"Conv{_size}, same, strided", [_form], filters=5, kernel_size=2, strides=2, padding="same")
    _layer(f"Conv{_size}Transpose", [_form], filters=5, kernel_size=2, strides=2)
    _layer(f"MaxPooling{_size}", [_form], pool_size=2)
    _layer(f"MaxPooling{_size}, same", [_form], pool_size=3, strides=2, padding="same")
    _layer(f"AveragePooling{_size}", [_form], pool_size=2)
    _layer(f"AveragePooling{_size}, same", [_form], pool_size=3, strides=2, padding="same")
    _layer(f"GlobalMaxPooling{_size}", [_form])
    _layer(f"GlobalAveragePooling{_size}", [_form])
    _layer(f"AdaptiveAveragePooling{_size}", [_form], output_size=2)
    _layer(f"AdaptiveMaxPooling{_size}", [_form], output_size=2)
    _layer(f"ZeroPadding{_size}", [_form], padding=1)
    _layer(f"Cropping{_size}", [_form], cropping=1)
    _layer(f"UpSampling{_size}", [_form], size=2)
    _layer(f"SpatialDropout{_size}", [_form], rate=0.5)
_layer("ConvLSTM3D", [spec(2, 4, 4, 4, 2)], filters=2, kernel_size=2)
for _size, _form in (("1D", SEQUENCE), ("2D", PICTURE)):
    _layer(f"DepthwiseConv{_size}", [_form], kernel_size=2)
    _layer(f"SeparableConv{_size}", [_form], filters=5, kernel_size=2)
    _layer(f"ConvLSTM{_size}", [spec(3, *_form.shape[1:])], filters=2, kernel_size=2)
_layer("Conv1D, causal", [SEQUENCE], filters=5, kernel_size=2, padding="causal", dilation_rate=2)
_layer("Conv2D, grouped", [PICTURE], filters=4, kernel_size=2, groups=2)
_layer("UpSampling2D, bilinear", [PICTURE], size=2, interpolation="bilinear")
for _cell in ("LSTM", "GRU", "SimpleRNN"):
    _layer(_cell, [SEQUENCE], units=5)
    _layer(f"{_cell}, sequences", [SEQUENCE], units=5, return_sequences=True)
    _layer(f"{_cell}, unrolled", [SEQUENCE], units=5, unroll=True)
    LAYERS[f"Bidirectional, {_cell}"] = (
        lambda _cell=_cell: layers.Bidirectional(getattr(layers, _cell)(5)), [SEQUENCE],
    )  # fmt: skip
    LAYERS[f"RNN, {_cell}Cell"] = (lambda _cell=_cell: layers.RNN(getattr(layers, f"{_cell}Cell")(5)), [SEQUENCE])
    LAYERS[f"Masking, {_cell}"] = (lambda _cell=_cell: _masked(getattr(layers, _cell)(5)), [SEQUENCE])
LAYERS["RNN, StackedRNNCells"] = (
    lambda: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)])), [SEQUENCE],
)  # fmt: skip
LAYERS["TimeDistributed"] = (lambda: layers.TimeDistributed(layers.Dense(4)), [SEQUENCE])
LAYERS["SpectralNormalization"] = (lambda: layers.SpectralNormalization(layers.Dense(4)), [VECTOR])
for _name in ("BatchNormalization", "LayerNormalization", "UnitNormalization", "RMSNormalization"):
    for _form in (VECTOR, SEQUENCE, PICTURE):
        _layer(f"{_name}, {len(_form.shape)} axes", [_form])
_layer("GroupNormalization", [PICTURE], groups=2)
_layer("Normalization", [VECTOR], mean=2.0, variance=4.0)
_layer("Normalization, inverted", [VECTOR], mean=2.0, variance=4.0, invert=True)
for _name in ("Attention", "AdditiveAttention"):
    _layer(_name, [SEQUENCE, SEQUENCE])
LAYERS["MultiHeadAttention"] = (lambda: _itself(layers.MultiHeadAttention(2, 4)), [SEQUENCE])
LAYERS["MultiHeadAttention, causal"] = (
    lambda: _itself(layers.MultiHeadAttention(2, 4), use_causal_mask=True),
    [SEQUENCE],
)
LAYERS["GroupQueryAttention"] = (lambda: _itself(layers.GroupQueryAttention(4, 4, 2)), [SEQUENCE])
_layer("Embedding", [spec(5, dtype="int32")], input_dim=10, output_dim=4)
LAYERS["Embedding, masked LSTM"] = (
    lambda: _sequence(layers.Embedding(256, 4, mask_zero=True), layers.LSTM(3)),
    [spec(5, dtype="int32")],
)
_layer("ReversibleEmbedding", [spec(5, dtype="int32")], input_dim=10, output_dim=4)
for _name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"):
    _layer(_name, [VECTOR, VECTOR])
_layer("Dot", [VECTOR, VECTOR], axes=1)
_layer("Dot, normalized", [VECTOR, VECTOR], axes=1, normalize=True)
_layer("Flatten", [PICTURE])
_layer("Reshape", [VECTOR], target_shape=(11, 3))
_layer("Permute", [SEQUENCE], dims=(2, 1))
_layer("RepeatVector", [VECTOR], n=3)
_layer("Rescaling", [VECTOR], scale=1 / 256, offset=-0.5)
_layer("Masking", [SEQUENCE])
_layer("ActivityRegularization", [VECTOR])
_layer("Activation", [VECTOR], activation="gelu")
for _name in ("Dropout", "GaussianDropout", "AlphaDropout"):
    _layer(_name, [VECTOR], rate=0.5)
_layer("GaussianNoise", [VECTOR], stddev=0.5)
for _name in ("ReLU", "LeakyReLU", "ELU", "Softmax"):
    _layer(_name, [VECTOR])
_layer("ReLU, of all kinds", [VECTOR], max_value=6.0, negative_slope=0.25, threshold=0.5)
_layer("ReLU, 6", [VECTOR], max_value=6.0)
_layer("PReLU", [VECTOR])
LAYERS["Softmax, masked"] = (lambda: _mask_of(layers.Softmax()), [VECTOR, spec(COLUMNS, dtype="bool")])
_layer("Resizing", [PICTURE], height=5, width=11)
_layer("Resizing, nearest", [PICTURE], height=5, width=11, interpolation="nearest")
_layer("CenterCrop", [PICTURE], height=5, width=4)
_layer("Discretization", [VECTOR], bin_boundaries=[-1.0, 0.0, 0.5, 100.0])
_layer("Discretization, one-hot", [spec(1)], bin_boundaries=[-1.0, 0.0, 0.5, 100.0], output_mode="one_hot")
_layer("CategoryEncoding, multi-hot", [spec(5, dtype="int32")], num_tokens=10, output_mode="multi_hot")
_layer("CategoryEncoding, one-hot", [spec(1, dtype="int32")], num_tokens=10, output_mode="one_hot")
_layer("CategoryEncoding, count", [spec(5, dtype="int32")], num_tokens=10, output_mode="count")
_layer("IntegerLookup", [spec(5, dtype="int64")], vocabulary=[1, 2, 7])
_layer("IntegerLookup, multi-hot", [spec(5, dtype="int64")], vocabulary=[1, 2, 7], output_mode="multi_hot")
_layer("Hashing", [spec(5, dtype="int64")], num_bins=8)
_layer("Hashing, salted", [spec(5, dtype="int64")], num_bins=8, salt=3)
_layer("HashedCrossing", [spec(1, dtype="int64"), spec(1, dtype="int64")], num_bins=8)
_layer("MelSpectrogram", [spec(256)], fft_length=64, sequence_stride=32, num_mel_bins=8, sampling_rate=8000)
_layer("STFTSpectrogram", [spec(64, 1)], frame_length=16, frame_step=8, fft_length=16)
for _name in ("AutoContrast", "Solarization", "ContrastLimitedAdaptiveHistogramEqualization"):
    _layer(_name, [COLOURS])
for _name in sorted(n for n in dir(layers) if n.startswith("Random")):
    _factor = {
        "RandomTranslation": (0.1, 0.1),
        "RandomCrop": (5, 5),
        "RandomFlip": (),
        "RandomZoom": (0.1,),
        "RandomPosterization": (4,),
    }
    LAYERS[_name] = (lambda _name=_name, _f=_factor: getattr(layers, _name)(*_f.get(_name, _default(_name))), [COLOURS])

ACTIVATIONS = (
    "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu log_sigmoid log_softmax mish"
    " relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid sparsemax"
    " squareplus tanh tanh_shrink"
).split()
OPS = (
    "absolute arccos arccosh arcsin arcsinh arctan arctanh argmax argmin argsort average cbrt ceil cos cosh"
    " count_nonzero cumprod cumsum deg2rad diff exp2 expm1 fabs flip floor isfinite isinf isnan isneginf isposinf log10"
    " log1p log2 logsumexp max mean median min nan_to_num nanmax nanmean nanmin nanstd nansum nanvar negative ptp"
    " rad2deg reciprocal round rsqrt sign signbit sin sinc sinh sort square std sum tan trunc var logical_not ones_like"
    " sparse_plus i0 erf erfc erfinv"
).split()
OPS_OF_ROWS = "max mean min sum std var median logsumexp nanmax nanmean nanmin nanstd nansum nanvar ptp".split()
OPS_OF_TWO = (
    "arctan2 divide_no_nan floor_divide fmax fmin fmod heaviside hypot isclose logaddexp logaddexp2 logical_xor maximum"
    " minimum mod power nextafter outer true_divide"
).split()
OPS_OF_INTEGERS = (
    "floor_divide mod power gcd lcm bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift"
    " true_divide"
).split()


def cases() -> Iterator[Case]:
    """All of them."""
    for name, (make, inputs) in LAYERS.items():
        yield Case(f"layers.{name}", _weighted(make, inputs), list(inputs), is_exact=False, is_layer=True)
    for name in ACTIVATIONS:
        inputs = [spec(34)] if name == "glu" else [VECTOR]
        yield Case(f"activation {name}", _function(getattr(keras.activations, name)), inputs)
    for name in OPS:
        axis = {"axis": -1} if name in OPS_OF_ROWS else {}
        is_exact = not CANCELLING.search(name) and name != "cumprod"
        yield Case(f"ops.{name}", _function(getattr(keras.ops, name, None), **axis), is_exact=is_exact)
    for name in OPS_OF_TWO:
        yield Case(f"ops.{name}", _function(getattr(keras.ops, name, None)), [VECTOR] * 2)
    for name in OPS_OF_INTEGERS:
        yield Case(
            f"ops.{name} of int32", _function(getattr(keras.ops, name, None)), [spec(COLUMNS, dtype="int32")] * 2
        )
    yield Case("ops.clip", _function(lambda x: keras.ops.clip(x, -2, 3)))
    yield Case("ops.one_hot", _function(lambda i: keras.ops.one_hot(i, 10)), [spec(5, dtype="int32")])
    yield Case(
        "ops.take", _function(lambda i: keras.ops.take(keras.ops.ones((10, 3)), i, axis=0)), [spec(5, dtype="int32")]
    )
    yield Case("ops.take, of rows", _function(lambda x: keras.ops.take(x, [0, 3, -1], axis=1)))
    yield Case("ops.top_k", _function(lambda x: list(keras.ops.top_k(x, 4))))
    yield Case("ops.quantile", _function(lambda x: keras.ops.quantile(x, 0.3, axis=-1)))
    yield Case("ops.bincount", _function(lambda i: keras.ops.bincount(i, minlength=10)), [spec(5, dtype="int32")])
    yield Case("ops.digitize", _function(lambda x: keras.ops.digitize(x, np.array([-1.0, 0.0, 7.0]))))
    yield Case("ops.pad", _function(lambda x: keras.ops.pad(x, [[0, 0], [1, 2]])))
    yield Case("ops.rot90", _function(keras.ops.rot90), [PICTURE])
    yield Case("ops.tril", _function(keras.ops.tril), [SEQUENCE])
    yield Case("ops.where", _function(lambda x: keras.ops.where(x > 0, x, -1.0)))
    yield Case("ops.normalize", _function(lambda x: keras.ops.normalize(x, axis=-1)), is_exact=False)
    yield Case("ops.softmax over places", _function(lambda x: keras.ops.softmax(x, axis=1)), [SEQUENCE])
    yield Case(
        "ops.dot_product_attention", _function(lambda x: keras.ops.dot_product_attention(x, x, x)), [spec(6, 2, 4)]
    )


def _default(name: str) -> tuple[Any, ...]:
    return (
        () if name in ("RandomColorJitter", "RandomElasticTransform", "RandomErasing", "RandomGaussianBlur") else (0.2,)
    )


def _function(function: Any, **arguments: Any) -> Callable[[], tuple[Callable[..., Any], Sequence[Any]]]:
    return lambda: (lambda *tensors: function(*tensors, **arguments), ())


def _weighted(
    make: Callable[[], Any], inputs: Sequence[TensorSpec]
) -> Callable[[], tuple[Callable[..., Any], Sequence[Any]]]:
    """A layer with weights of few bits, at inference."""

    def made() -> tuple[Callable[..., Any], Sequence[Any]]:
        layer = make()
        ends = [keras.Input(one.shape[1:], dtype=one.dtype) for one in inputs]
        model = keras.Model(ends, layer(ends if len(ends) > 1 else ends[0]))
        random = np.random.default_rng(5)
        for variable in model.weights:
            if variable.dtype == "float32":
                values = random.choice([-1.0, -0.5, 0.5, 1.0, 2.0], variable.shape)
                variable.assign(np.abs(values) if "variance" in variable.path else values)

        def run(*tensors: Any) -> Any:
            return model(list(tensors), training=False)

        run.tracked = model  # its lookup tables
        return run, [variable.value for variable in model.variables]  # seeds, too

    return made


class _Calls:
    """Something that is called as a layer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, inputs: Any) -> Any:
        return self.function(inputs)


def _itself(layer: Any, **arguments: Any) -> _Calls:
    return _Calls(lambda x: layer(x, x, **arguments))


def _masked(layer: Any) -> _Calls:
    return _Calls(lambda x: layer(layers.Masking()(x)))


def _sequence(*steps: Any) -> _Calls:
    def run(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return _Calls(run)


def _mask_of(layer: Any) -> _Calls:
    return _Calls(lambda inputs: layer(inputs[0], mask=inputs[1]))
