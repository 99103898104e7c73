"""Cases of products, convolutions, pools, pictures, matrices, waves, and functions of `tf.nn` and `tf.math`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.operations.case import COLUMNS, Case, plain, spec

raw = tf.raw_ops
PICTURE = [spec(8, 8, 5)]


def few_bits(*sizes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Weights whose sums are exact for rows of few bits."""
    return np.random.default_rng((seed, *sizes)).choice([-1, -0.5, 0.5, 1, 2], sizes).astype(np.float32)


def _kernel(*sizes: int) -> Any:
    return tf.constant(few_bits(*sizes))


# Sums of several numbers: where these have all their bits, the order shows.
PRODUCTS: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "MatMul": (lambda x: tf.matmul(x, _kernel(COLUMNS, COLUMNS)), [spec(COLUMNS)]),
    "MatMul, transposed": (lambda x: tf.matmul(x, _kernel(7, COLUMNS), transpose_b=True), [spec(COLUMNS)]),
    "BatchMatMulV2 by weights": (lambda x: raw.BatchMatMulV2(x=x, y=_kernel(1, COLUMNS, 6)), [spec(4, COLUMNS)]),
    "BatchMatMulV2": (lambda x, y: raw.BatchMatMulV2(x=x, y=y), [spec(4, 6), spec(6, 3)]),
    "BatchMatMulV2, transposed": (lambda x, y: raw.BatchMatMulV2(x=x, y=y, adj_y=True), [spec(4, 6), spec(3, 6)]),
    "BatchMatMulV3": (lambda x, y: raw.BatchMatMulV3(x=x, y=y, Tout=tf.float32), [spec(4, 6), spec(6, 3)]),
    "Einsum": (lambda x, y: tf.einsum("bij,bkj->bik", x, y), [spec(4, 6), spec(3, 6)]),
    "Einsum by weights": (lambda x: tf.einsum("bij,jk->bik", x, _kernel(6, 5)), [spec(4, 6)]),
    "tensordot": (lambda x: tf.tensordot(x, _kernel(6, 5), 1), [spec(4, 6)]),
    "Conv2D": (lambda x: tf.nn.conv2d(x, _kernel(3, 3, 5, 24), 1, "SAME"), PICTURE),
    "Conv2D, strided": (lambda x: tf.nn.conv2d(x, _kernel(3, 3, 5, 4), 2, "VALID"), PICTURE),
    "Conv2D, dilated": (lambda x: tf.nn.conv2d(x, _kernel(3, 3, 5, 4), 1, "SAME", dilations=2), PICTURE),
    "Conv2D, 1x1": (lambda x: tf.nn.conv2d(x, _kernel(1, 1, 5, 4), 1, "SAME"), PICTURE),
    "conv1d": (lambda x: tf.nn.conv1d(x, _kernel(3, 5, 4), 1, "SAME"), [spec(12, 5)]),
    "Conv3D": (lambda x: tf.nn.conv3d(x, _kernel(2, 2, 2, 3, 4), [1] * 5, "SAME"), [spec(5, 5, 5, 3)]),
    "DepthwiseConv2dNative": (lambda x: tf.nn.depthwise_conv2d(x, _kernel(3, 3, 5, 1), [1] * 4, "SAME"), PICTURE),
    "DepthwiseConv2dNative, 2 each": (
        lambda x: tf.nn.depthwise_conv2d(x, _kernel(3, 3, 5, 2), [1] * 4, "VALID"), PICTURE,
    ),
    "Conv2DBackpropInput": (
        lambda x: tf.nn.conv2d_transpose(x, _kernel(3, 3, 4, 5), [tf.shape(x)[0], 16, 16, 4], 2, "SAME"),
        PICTURE,
    ),
    "Conv3DBackpropInputV2": (
        lambda x: tf.nn.conv3d_transpose(x, _kernel(2, 2, 2, 4, 3), [tf.shape(x)[0], 8, 8, 8, 4], 2, "SAME"),
        [spec(4, 4, 4, 3)],
    ),
    "AvgPool": (lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"), PICTURE),
    "AvgPool, valid": (lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"), PICTURE),
    "AvgPool3D": (lambda x: tf.nn.avg_pool3d(x, 2, 2, "SAME"), [spec(5, 5, 5, 3)]),
    "ResizeBilinear": (lambda x: tf.image.resize(x, [13, 16]), PICTURE),
    "ResizeBilinear, smaller": (lambda x: tf.image.resize(x, [3, 5]), PICTURE),
    "ResizeBicubic": (lambda x: tf.image.resize(x, [13, 16], "bicubic"), PICTURE),
    "ResizeArea": (lambda x: tf.image.resize(x, [3, 5], "area"), PICTURE),
    "ScaleAndTranslate": (lambda x: tf.image.resize(x, [13, 5], "lanczos3", antialias=True), PICTURE),
    "LRN": (lambda x: tf.nn.local_response_normalization(x, 2), PICTURE),
    "FusedBatchNormV3": (
        lambda x: raw.FusedBatchNormV3(
            x=x, scale=[1.0, 2.0, 0.5, 1.0, 1.0], offset=[0.0, 1.0, 2.0, 0.0, -1.0], mean=[0.0, 1.0, 0.5, 2.0, -1.0],
            variance=[1.0, 4.0, 0.25, 1.0, 0.0625], epsilon=0.0, is_training=False,
        ).y,
        PICTURE,
    ),
    "CropAndResize": (
        lambda x: tf.image.crop_and_resize(x, [[0.1, 0.2, 0.7, 0.9]] * 9, list(range(9)), [4, 4]), PICTURE,
    ),
    "Dilation2D": (lambda x: tf.nn.dilation2d(x, _kernel(3, 3, 5), [1] * 4, "SAME", "NHWC", [1] * 4), PICTURE),
    "RGBToHSV": (lambda x: tf.image.rgb_to_hsv(x), [spec(6, 6, 3)]),
    "HSVToRGB": (lambda x: tf.image.hsv_to_rgb(x), [spec(6, 6, 3)]),
    "rgb_to_grayscale": (lambda x: tf.image.rgb_to_grayscale(x), [spec(6, 6, 3)]),
    "AdjustContrastv2": (lambda x: tf.image.adjust_contrast(x, 2.0), [spec(6, 6, 3)]),
    "AdjustHue": (lambda x: tf.image.adjust_hue(x, 0.1), [spec(6, 6, 3)]),
    "AdjustSaturation": (lambda x: tf.image.adjust_saturation(x, 0.5), [spec(6, 6, 3)]),
    "adjust_brightness": (lambda x: tf.image.adjust_brightness(x, 0.5), [spec(6, 6, 3)]),
    "per_image_standardization": (lambda x: tf.image.per_image_standardization(x), [spec(6, 6, 3)]),
    "ImageProjectiveTransformV3": (
        lambda x: raw.ImageProjectiveTransformV3(
            images=x, transforms=[[1.0, 0.5, 1.0, 0.0, 1.0, 2.0, 0.0, 0.0]], output_shape=[8, 8], fill_value=0.0,
            interpolation="BILINEAR",
        ),
        PICTURE,
    ),
    "FFT": (lambda x: tf.signal.fft(tf.complex(x, x)), [spec(16)]),
    "IFFT": (lambda x: tf.signal.ifft(tf.complex(x, x)), [spec(16)]),
    "RFFT": (lambda x: tf.signal.rfft(x), [spec(16)]),
    "IRFFT": (lambda x: tf.signal.irfft(tf.complex(x, x)), [spec(9)]),
    "FFT2D": (lambda x: tf.signal.fft2d(tf.complex(x, x)), [spec(8, 8)]),
    "RFFT2D": (lambda x: tf.signal.rfft2d(x), [spec(8, 8)]),
    "stft": (lambda x: tf.abs(tf.signal.stft(x, 16, 8)), [spec(64)]),
    "dct": (lambda x: tf.signal.dct(x), [spec(16)]),
    "mel": (lambda x: tf.matmul(x, tf.signal.linear_to_mel_weight_matrix(8, COLUMNS, 16000)), [spec(COLUMNS)]),
    "MatrixInverse": (lambda x: tf.linalg.inv(x), [spec(4, 4)]),
    "MatrixDeterminant": (lambda x: tf.linalg.det(x), [spec(4, 4)]),
    "Cholesky": (lambda x: tf.linalg.cholesky(x), [spec(4, 4)]),
    "Cholesky of a square": (
        lambda x: tf.linalg.cholesky(tf.matmul(x, x, transpose_b=True) + tf.eye(4)), [spec(4, 4)],
    ),
    "MatrixSolve": (lambda x, y: tf.linalg.solve(x, y), [spec(4, 4), spec(4, 2)]),
    "MatrixTriangularSolve": (lambda x, y: tf.linalg.triangular_solve(x, y), [spec(4, 4), spec(4, 2)]),
    "Qr": (lambda x: tf.linalg.qr(x).r, [spec(4, 4)]),
    "Svd": (lambda x: tf.linalg.svd(x, compute_uv=False), [spec(4, 4)]),
    "SelfAdjointEigV2": (lambda x: tf.linalg.eigvalsh(x), [spec(4, 4)]),
    "Lu": (lambda x: tf.linalg.lu(x).lu, [spec(4, 4)]),
    "MatrixExponential": (lambda x: tf.linalg.expm(x), [spec(4, 4)]),
    "norm": (lambda x: tf.norm(x, axis=-1), [spec(COLUMNS)]),
    "Cross": (lambda x, y: tf.linalg.cross(x, y), [spec(3), spec(3)]),
    "trace": (lambda x: tf.linalg.trace(x), [spec(4, 4)]),
}  # fmt: skip
_SHOWN = {
    "FFT": "FFT", "IFFT": "IFFT", "IRFFT": "IRFFT", "FFT2D": "FFT2D", "Qr": "Qr/float",
    "Conv2DBackpropInput": "Conv2DBackpropInput/float",
    "Conv3DBackpropInputV2": "Conv3DBackpropInputV2/float", "Einsum": "Einsum/float", "Svd": "Svd/float",
    "AdjustContrastv2": "AdjustContrastv2/float", "AdjustHue": "AdjustHue/float",
    "AdjustSaturation": "AdjustSaturation/float",
}  # fmt: skip
# Nothing here is rounded in an order of its own.
CHOICES: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "MaxPool": (lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"), PICTURE),
    "MaxPool, valid": (lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"), PICTURE),
    "MaxPool3D": (lambda x: tf.nn.max_pool3d(x, 2, 2, "SAME"), [spec(5, 5, 5, 3)]),
    "MaxPoolWithArgmax": (lambda x: list(tf.nn.max_pool_with_argmax(x, 2, 2, "VALID")), PICTURE),
    "ResizeNearestNeighbor": (lambda x: tf.image.resize(x, [13, 16], "nearest"), PICTURE),
    "DepthToSpace": (lambda x: tf.nn.depth_to_space(x, 2), [spec(4, 4, 8)]),
    "SpaceToDepth": (lambda x: tf.nn.space_to_depth(x, 2), [spec(4, 4, 8)]),
    "SpaceToBatchND": (lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), PICTURE),
    "BatchToSpaceND": (
        lambda x: tf.batch_to_space(tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), [2, 2], [[0, 0], [0, 0]]), PICTURE,
    ),
    "ExtractImagePatches": (
        lambda x: tf.image.extract_patches(x, [1, 3, 3, 1], [1, 2, 2, 1], [1] * 4, "SAME"), PICTURE,
    ),
    "BiasAdd": (lambda x: tf.nn.bias_add(x, [0.5, -1.0, 3.0, 0.0, 2.0]), PICTURE),
    "flip": (lambda x: [tf.image.flip_left_right(x), tf.image.flip_up_down(x), tf.image.rot90(x)], PICTURE),
    "central_crop": (lambda x: tf.image.central_crop(x, 0.5), PICTURE),
    "frame": (lambda x: tf.signal.frame(x, 8, 4), [spec(COLUMNS)]),
    "non_max_suppression": (
        lambda x, s: tf.image.non_max_suppression(x[0], s[:, 0], 5), [spec(9, 4), spec(1)],
    ),
    "Transpose of pictures": (lambda x: tf.transpose(x, [0, 3, 1, 2]), PICTURE),
}  # fmt: skip
_CHOICES_SHOWN = {"BatchToSpaceND": "BatchToSpaceND/float", "non_max_suppression": "NonMaxSuppressionV3/float"}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "nn.gelu": lambda x: tf.nn.gelu(x),
    "nn.gelu, tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "nn.silu": lambda x: tf.nn.silu(x),
    "nn.log_sigmoid": lambda x: tf.math.log_sigmoid(x),
    "nn.crelu": lambda x: tf.nn.crelu(x),
    "nn.l2_normalize": lambda x: tf.nn.l2_normalize(x, -1),
    "nn.moments": lambda x: list(tf.nn.moments(x, [-1])),
    "nn.sigmoid_cross_entropy": lambda x: tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(x), x),
    "nn.softmax_cross_entropy": lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.ones_like(x) / COLUMNS, x),
    "nn.sparse_softmax_cross_entropy": lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits([1] * 9, x),
    "nn.batch_normalization": lambda x: tf.nn.batch_normalization(x, 1.0, 4.0, 0.5, 2.0, 1e-3),
    "nn.dropout of nothing": lambda x: tf.nn.dropout(x, 0.0),
    "nn.weighted_moments": lambda x: list(tf.nn.weighted_moments(x, [-1], 1.0)),
    "math.reduce_logsumexp": lambda x: tf.reduce_logsumexp(x, -1),
    "math.reduce_std": lambda x: tf.math.reduce_std(x, -1),
    "math.reduce_variance": lambda x: tf.math.reduce_variance(x, -1),
    "math.softplus of a difference": lambda x: tf.math.softplus(x - 3.0),
    "math.lbeta": lambda x: tf.math.lbeta(x),
    "math.multiply_no_nan": lambda x: tf.math.multiply_no_nan(x, tf.zeros_like(x)),
    "math.reciprocal_no_nan": lambda x: tf.math.reciprocal_no_nan(x),
    "math.sobol, added": lambda x: x + tf.math.sobol_sample(COLUMNS, 9),
    "math.top_k, gathered": lambda x: tf.gather(x, tf.math.top_k(x, 4).indices, batch_dims=1),
    "math.argmax, one-hot": lambda x: tf.one_hot(tf.argmax(x, -1), COLUMNS),
    "math.logical of comparisons": lambda x: tf.logical_and(x > 0, x < 5),
    "a mean over where": lambda x: tf.reduce_mean(tf.where(tf.math.is_finite(x), x, tf.zeros_like(x)), -1),
    "a masked softmax": lambda x: tf.nn.softmax(tf.where(x > 0, x, tf.fill(tf.shape(x), -np.inf))),
    "a softmax with -1e9": lambda x: tf.nn.softmax(x + tf.cast(x <= 0, tf.float32) * -1e9),
    "hard swish": lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
    "hard sigmoid": lambda x: tf.clip_by_value(x / 6.0 + 0.5, 0.0, 1.0),
    "mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
    "prelu": lambda x: tf.nn.relu(x) - 0.25 * tf.nn.relu(-x),
    "layer norm by hand": lambda x: (
        (x - tf.reduce_mean(x, -1, keepdims=True)) * tf.math.rsqrt(tf.math.reduce_variance(x, -1, keepdims=True) + 1e-3)
    ),
    "rms norm by hand": lambda x: x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6),
    "relu6 by minimum": lambda x: tf.minimum(tf.nn.relu(x), 6.0),
    "relu by maximum": lambda x: tf.maximum(x, 0.0),
    "relu of a sum": lambda x: tf.nn.relu(x + 0.5),
    "relu6 of a sum": lambda x: tf.nn.relu6(x * 2.0 + 0.5),
    "tanh of a sum": lambda x: tf.tanh(x + 0.5),
    "abs by maximum": lambda x: tf.maximum(x, -x),
    "square root of a square": lambda x: tf.sqrt(tf.square(x)),
    "log of exp": lambda x: tf.math.log(tf.exp(x)),
    "log of 1 + exp": lambda x: tf.math.log(1.0 + tf.exp(x)),
    "sigmoid by exp": lambda x: 1.0 / (1.0 + tf.exp(-x)),
    "softmax by exp": lambda x: tf.exp(x) / tf.reduce_sum(tf.exp(x), -1, keepdims=True),
    "log of a softmax": lambda x: tf.math.log(tf.nn.softmax(x)),
    "x / x": lambda x: x / x,
    "x - x": lambda x: x - x,
    "x * 0": lambda x: x * 0.0,
    "0 / x": lambda x: tf.zeros_like(x) / x,
    "pow of 2": lambda x: tf.pow(x, 2.0),
    "floor of a quotient": lambda x: tf.floor(x / 3.0),
    "rounds to even": lambda x: tf.round(x * 0.5),
    "x == x": lambda x: tf.equal(x, x),
    "x != x": lambda x: tf.not_equal(x, x),
}


# Differences of sums: of numbers with all their bits, nothing but rounding may be left.
CANCELLING = re.compile("norm|moments|variance|std|entropy|lbeta")
# What has a pole, away from it.
POSITIVE: dict[str, Callable[..., Any]] = {
    "Rsqrt": lambda x: tf.math.rsqrt(tf.square(x) + 1e-3),
    "Sqrt": lambda x: tf.sqrt(tf.square(x) + 1e-3),
    "Log": lambda x: tf.math.log(tf.abs(x) + 1e-3),
    "Reciprocal": lambda x: tf.math.reciprocal(tf.abs(x) + 1e-3),
    "RealDiv": lambda x: x / (tf.abs(x) + 1e-3),
}


def cases() -> Iterator[Case]:
    """All of them."""
    for name, function in POSITIVE.items():
        yield Case(f"{name} of positive numbers", plain(function), shows=(f"{name}/float,positive",))
    for exact, group, shown in ((False, PRODUCTS, _SHOWN), (True, CHOICES, _CHOICES_SHOWN)):
        for name, (function, inputs) in group.items():
            keys = (shown[name],) if name in shown else ()
            yield Case(name, plain(function), list(inputs), is_exact=exact, shows=keys)
    for name, function in FUNCTIONS.items():
        shown = ("Erfc/float,gelu",) if name == "nn.gelu" else ()
        yield Case(name, plain(function), is_exact=not CANCELLING.search(name), shows=shown)
