"""Initialisation: each function fills a tensor in place and returns it.

fan_in is the number of inputs of one output (in_features; for a convolution in_channels x kernel
size), fan_out the number of outputs that one input reaches, as in Glorot & Bengio 2010 and He et
al. 2015. Random functions draw from `generator`, or from the library's (`mg.manual_seed`).
"""

from __future__ import annotations

import math

import numpy as np

from .._core.engine.graph import Tensor
from ..autograd import no_grad
from ..checks import choice
from ..rng import Generator, generator as numpy_generator

_GAINS = {
    "linear": 1.0,
    **{f"conv{kind}{d}d": 1.0 for kind in ("", "_transpose") for d in (1, 2, 3)},
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 3 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that preserves the variance through a nonlinearity; `param` is the slope of
    leaky_relu, by default 0.01.

    >>> round(mg.nn.init.calculate_gain("relu"), 4)
    1.4142
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(
            f"calculate_gain: unknown nonlinearity {nonlinearity!r}; expected leaky_relu, "
            f"{', '.join(_GAINS)}"
        )
    return _GAINS[nonlinearity]


def _fan(tensor: Tensor, name: str, *modes: str) -> int:
    """The fan_in or fan_out of a tensor, or with both modes their sum."""
    shape = tensor.shape
    if len(shape) < 2:
        raise ValueError(
            f"{name}: fan in and fan out need two or more dimensions, got shape {shape}"
        )
    sizes = {"fan_in": shape[1], "fan_out": shape[0]}
    ends = sum(sizes[choice(mode, f"{name}: mode", *sizes)] for mode in modes)
    return ends * math.prod(shape[2:])


def _write(tensor: Tensor, values: np.ndarray | float) -> Tensor:
    with no_grad():
        return tensor.copy_(values)


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform in [a, b).

    >>> bool((mg.nn.init.uniform_(mg.empty(100), 2.0, 3.0) >= 2).all())
    True
    """
    if not a <= b:
        raise ValueError(f"uniform_: the bounds must be in order, got a={a} and b={b}")
    return _write(tensor, numpy_generator(generator, "uniform_").uniform(a, b, tensor.shape))


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Normal with the given mean and standard deviation.

    >>> mg.nn.init.normal_(mg.empty(3), mean=5.0, std=0.0)
    tensor([5., 5., 5.])
    """
    if not std >= 0:
        raise ValueError(f"normal_: std must not be negative, got {std}")
    drawn = numpy_generator(generator, "normal_").normal(mean, std, tensor.shape)
    return _write(tensor, drawn)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Set every element to `val`.

    >>> mg.nn.init.constant_(mg.empty(2), 7.0)
    tensor([7., 7.])
    """
    return _write(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Set every element to 0.

    >>> mg.nn.init.zeros_(mg.empty(2))
    tensor([0., 0.])
    """
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Set every element to 1.

    >>> mg.nn.init.ones_(mg.empty(2))
    tensor([1., 1.])
    """
    return constant_(tensor, 1.0)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Fill with normal numbers truncated to [a, b]; mean and std are those before truncation.

    Exact, by rejection (Robert 1995), even for bounds far out in a tail. Raises ValueError unless
    std > 0, a < b, mean and std are finite, and [a, b] is not infinitely many std from the mean.

    >>> w = mg.nn.init.trunc_normal_(mg.empty(100), std=0.02, a=-0.04, b=0.04)
    >>> bool((w.abs() <= 0.04).all())
    True
    """
    if not std > 0:
        raise ValueError(f"trunc_normal_: std must be positive, got {std}")
    if not math.isfinite(mean + std):
        raise ValueError(f"trunc_normal_: mean and std must be finite, got {mean} and {std}")
    if not a < b:
        raise ValueError(f"trunc_normal_: the bounds must be in order, got a={a} and b={b}")
    low, high = (a - mean) / std, (b - mean) / std
    if low == high and math.isinf(low):
        raise ValueError(f"trunc_normal_: [{a}, {b}] is too far from mean {mean} for std {std}")
    flipped = low + high < 0  # then the other tail is the nearer one
    random = numpy_generator(generator, "trunc_normal_")
    values = _truncated(random, *((-high, -low) if flipped else (low, high)), tensor.size)
    values = mean + std * (-values if flipped else values)
    return _write(tensor, np.clip(values, a, b).reshape(tensor.shape))  # clip rounding errors


def _truncated(random: np.random.Generator, low: float, high: float, size: int) -> np.ndarray:
    """`size` standard normal numbers within [low, high], where low + high >= 0.

    If a fourth of all normal numbers lie there, they are drawn until enough do. If not, the
    proposals have the density rate e**(-rate x) with rate = low in the tail, or are uniform
    (rate 0) in a narrow interval around 0; accepted with e**(-(x - rate)² / 2)."""
    often = math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)) > 0.5
    rate, width = max(low, 0.0), high - low
    found = np.empty(0)
    while found.size < size:
        count = 2 * (size - found.size) + 16
        if often:
            x = random.standard_normal(count)
            kept = (x >= low) & (x <= high)
        else:
            u = random.random(count)
            x = low + (-np.log1p(u * np.expm1(-rate * width)) / rate if rate else u * width)
            kept = random.random(count) < np.exp(-0.5 * np.square(x - rate))
        found = np.append(found, x[kept])
    return found[:size]


def eye_(tensor: Tensor) -> Tensor:
    """Make a matrix the identity: ones on the diagonal. Raises ValueError for another rank.

    >>> mg.nn.init.eye_(mg.empty(2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected a matrix, got shape {tensor.shape}")
    return _write(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """gain times a random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al.
    2014); of a tensor (rows, ...) the axes after the first are taken as one.

    Computed by the QR decomposition of a normal matrix. The signs of R's diagonal are moved to Q,
    so that all orthogonal matrices are equally likely (Mezzadri 2007, section 5).

    >>> w = mg.nn.init.orthogonal_(mg.empty(2, 3)).numpy()
    >>> np.allclose(w @ w.T, np.eye(2), atol=1e-6)
    True
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: expected two or more dimensions, got shape {tensor.shape}")
    if tensor.size == 0:
        return tensor
    shape = tensor.shape[0], tensor.size // tensor.shape[0]
    normal = numpy_generator(generator, "orthogonal_").standard_normal(shape)
    wide = normal.shape[0] < normal.shape[1]
    q, r = np.linalg.qr(normal.T if wide else normal)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return _write(tensor, (gain * (q.T if wide else q)).reshape(tensor.shape))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill uniformly in ±gain sqrt(3 / fan) (He et al. 2015, equations 10 and 14); a is the slope
    of leaky_relu.

    >>> w = mg.nn.init.kaiming_uniform_(mg.empty(8, 6))
    >>> bool((w.abs() <= 1).all())
    True
    """
    fan = _fan(tensor, "kaiming_uniform_", mode)
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3 / fan)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with normal numbers, mean 0, std gain / sqrt(fan); see `kaiming_uniform_`.

    >>> mg.nn.init.kaiming_normal_(mg.empty(8, 6)).shape
    (8, 6)
    """
    fan = _fan(tensor, "kaiming_normal_", mode)
    std = calculate_gain(nonlinearity, a) / math.sqrt(fan)
    return normal_(tensor, 0.0, std, generator)


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform in ±gain sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, equation 16).

    >>> w = mg.nn.init.xavier_uniform_(mg.empty(3, 3))
    >>> bool((w.abs() <= 1).all())
    True
    """
    bound = gain * math.sqrt(6 / _fan(tensor, "xavier_uniform_", "fan_in", "fan_out"))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with mean 0 and standard deviation gain sqrt(2 / (fan_in + fan_out)) (equation 12).

    >>> mg.nn.init.xavier_normal_(mg.empty(3, 3)).shape
    (3, 3)
    """
    std = gain * math.sqrt(2 / _fan(tensor, "xavier_normal_", "fan_in", "fan_out"))
    return normal_(tensor, 0.0, std, generator)
