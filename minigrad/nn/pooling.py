"""Pooling and resampling, composed, so that no gradient is written: a maximum is
taken at its index, a mean is the sum of a window over its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .._core.engine.graph import Tensor, adopt, to_tensor
from .._core.fast.loops import memory_checked
from .._core.ops import getitem, pad, sliding_windows, where, window_max
from ..checks import choice, integer, per_axis, positive, real, wrong_shape
from ..types import Shape
from .applied import Applied, AppliedToOne
from .conv import LAYOUTS

__all__ = ["AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool1d", "AvgPool2d"]
__all__ += ["MaxPool1d", "MaxPool2d", "Upsample"]

Output = int | None | Sequence[int | None]
Sides = list[tuple[np.ndarray, np.ndarray]]  # the starts and stops of the windows along each axis


def _checked(name: str, x: Tensor, axes: int) -> Tensor:
    x = to_tensor(x, name)
    if x.ndim not in (axes + 1, axes + 2) or 0 in x.shape[-axes:]:
        raise wrong_shape(name, x.shape, *LAYOUTS[axes], where=", none of these sizes 0")
    return x


@memory_checked
def _find_windows(
    name: str, size: int, window: tuple[int, ...], ceil_mode: bool, inside: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The starts and stops of the windows along an axis of `size` elements, with the padding at the
    edges or, if `inside`, without it. With ceil_mode the last window may extend beyond it."""
    kernel, stride, padding, dilation = window
    span = dilation * (kernel - 1) + 1
    options = f"kernel_size={kernel}, stride={stride}, padding={padding}, dilation={dilation}"
    if 2 * padding > span:
        raise ValueError(
            f"{name}: padding must be at most half of the window, which spans {span} with {options}"
        )
    room = size + 2 * padding - span
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # a window must start in the input or the padding before it
    if count < 1:
        raise ValueError(
            f"{name}: a window of {kernel} with dilation {dilation} is larger than the padded "
            f"input ({size} + 2 * {padding}) with {options}"
        )
    starts = np.arange(count) * stride - padding
    stops = starts + span
    if not inside:
        return starts, stops
    starts, stops = np.where(starts < 0, starts % dilation, starts), np.minimum(stops, size)
    if (starts >= stops).any():
        raise ValueError(
            f"{name}: window {np.argmax(starts >= stops)} over the {size} elements of an axis is "
            f"all padding with {options}"
        )
    return starts, stops


_windows = lru_cache(1024)(_find_windows)


def _each_axis(
    name: str, axes: int, kernel_size: Shape, stride: Any, padding: Shape, dilation: Shape = 1
) -> list[tuple[int, ...]]:
    """Kernel size, stride (default: kernel size), padding and dilation for every axis."""
    kernel = per_axis(kernel_size, axes, f"{name}: kernel_size")
    strides = kernel if stride is None else per_axis(stride, axes, f"{name}: stride")
    paddings = per_axis(padding, axes, f"{name}: padding", 0)
    dilations = per_axis(dilation, axes, f"{name}: dilation")
    return list(zip(kernel, strides, paddings, dilations, strict=True))


# --------------------------------------------------------------------------------------- maximum
def _max_pool(name: str, axes: int, x: Tensor, *options: Any) -> Any:
    """options: those of MaxPool2d, in the order of its constructor."""
    *shapes, indices, ceil_mode = options
    x = _checked(name, x, axes)
    windows = _each_axis(name, axes, *shapes)
    pairs = zip(x.shape[-axes:], windows, strict=True)
    sides = [_windows(name, size, window, bool(ceil_mode), True) for size, window in pairs]
    starts, stops = zip(*sides, strict=True)
    dilation = tuple(window[3] for window in windows)
    if x.dtype.kind == "f":
        return window_max(x, starts, stops, dilation, indices)
    found = window_max(x.astype(np.float64), starts, stops, dilation, True)  # exact up to 2**53
    largest = found[0].astype(x.dtype)
    return (largest, found[1]) if indices else largest


def max_pool1d(
    x: Tensor,
    kernel_size: Shape,
    stride: Shape | None = None,
    padding: Shape = 0,
    dilation: Shape = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window of x (N, C, L) or (C, L); see `max_pool2d`.

    >>> mg.nn.functional.max_pool1d(mg.tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    tensor([[3., 2.]])
    """
    options = kernel_size, stride, padding, dilation, return_indices, ceil_mode
    return _max_pool("max_pool1d", 1, x, *options)


def max_pool2d(
    x: Tensor,
    kernel_size: Shape,
    stride: Shape | None = None,
    padding: Shape = 0,
    dilation: Shape = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window of x (N, C, H, W) or (C, H, W). The gradient goes to the first
    maximum; a NaN wins.

    kernel_size, stride (kernel_size by default), padding, dilation: ints, or tuples of one or two.
    padding: by -inf, at most half a window. ceil_mode: the last window may extend beyond the
    padding if it starts before it. return_indices: also return the positions of the maxima in the
    flattened H x W, int64. Raises ValueError for a window larger than the padded input, and for one
    that is all padding, where PyTorch gives -inf and an invalid position.

    >>> mg.nn.functional.max_pool2d(mg.tensor([[[1.0, 3.0], [2.0, 0.0]]]), 2, return_indices=True)
    (tensor([[[3.]]]), tensor([[[1]]]))
    """
    options = kernel_size, stride, padding, dilation, return_indices, ceil_mode
    return _max_pool("max_pool2d", 2, x, *options)


# ------------------------------------------------------------------------------------------ mean
@memory_checked
def _avg_pool(name: str, axes: int, x: Tensor, *options: Any) -> Tensor:
    """options: those of AvgPool1d or AvgPool2d, in the order of its constructor."""
    kernel_size, stride, padding, ceil_mode, include, *divisors = options
    x = _checked(name, x, axes)
    windows = _each_axis(name, axes, kernel_size, stride, padding)
    widths, counts = [(0, 0)] * (x.ndim - axes), np.ones(())
    for size, window in zip(x.shape[-axes:], windows, strict=True):
        starts, stops = _windows(name, size, window, bool(ceil_mode), False)
        padding = window[2]
        widths.append((padding, max(int(stops[-1]) - size, 0)))
        counted = padding if include else 0
        lengths = np.minimum(stops, size + counted) - np.maximum(starts, -counted)
        counts = counts[..., None] * lengths
    if divisors and divisors[0] is not None:
        counts = np.array(integer(divisors[0], f"{name}: divisor_override"))
        if counts == 0:
            raise ValueError(f"{name}: divisor_override must not be 0")
    if any(map(any, widths)):
        x = pad(x, tuple(widths))
    kernel, stride, *_ = zip(*windows, strict=True)
    total = sliding_windows(x, kernel, stride).sum(axis=tuple(range(-axes, 0)))
    if counts.min() == counts.max():
        return total / float(counts.flat[0])
    return total / adopt(counts.astype(total.dtype))


def avg_pool1d(
    x: Tensor,
    kernel_size: Shape,
    stride: Shape | None = None,
    padding: Shape = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window of x (N, C, L) or (C, L); see `avg_pool2d`.

    >>> mg.nn.functional.avg_pool1d(mg.tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    tensor([[2., 1.]])
    """
    options = kernel_size, stride, padding, ceil_mode, count_include_pad
    return _avg_pool("avg_pool1d", 1, x, *options)


def avg_pool2d(
    x: Tensor,
    kernel_size: Shape,
    stride: Shape | None = None,
    padding: Shape = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of x (N, C, H, W) or (C, H, W), padded with zeros.

    kernel_size, stride (kernel_size by default), padding: ints, or tuples of one or two.
    count_include_pad: whether the zeros count; elements beyond the padding, which ceil_mode may
    include, never do. divisor_override, not 0, divides all sums instead.

    >>> mg.nn.functional.avg_pool2d(mg.tensor([[[1.0, 3.0], [2.0, 0.0]]]), 2)
    tensor([[[1.5]]])
    """
    options = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _avg_pool("avg_pool2d", 2, x, *options)


# -------------------------------------------------------------------------------------- adaptive
@memory_checked
def _adaptive(name: str, x: Tensor, axes: int, output_size: Output) -> tuple[Tensor, Sides]:
    """Windows that divide each axis as evenly as possible; they overlap if it is not divisible."""
    x = _checked(name, x, axes)
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * axes
    if len(sizes) != axes:
        raise ValueError(f"{name}: output_size must have {axes} sizes, got {output_size!r}")
    sides = []
    for size, given in zip(x.shape[-axes:], sizes, strict=True):
        n = size if given is None else positive(given, f"{name}: output_size")
        places = np.arange(n)
        sides.append((places * size // n, -(-(places + 1) * size // n)))
    return x, sides


@memory_checked
def _adaptive_avg_pool(name: str, axes: int, x: Tensor, output_size: Output) -> Tensor:
    x, sides = _adaptive(name, x, axes, output_size)
    pairs = zip(x.shape[-axes:], sides, strict=True)
    if all(size % len(starts) == 0 for size, (starts, _) in pairs):
        kernel = tuple(int(stops[0]) for _, stops in sides)
        return sliding_windows(x, kernel, kernel).mean(axis=tuple(range(-axes, 0)))
    for axis, (starts, stops) in enumerate(sides, x.ndim - axes):
        index = starts[:, None] + np.arange((stops - starts).max())
        shape = (*index.shape, *(1,) * (x.ndim - axis - 1))
        taken = getitem(x, (slice(None),) * axis + (np.minimum(index, x.shape[axis] - 1),))
        inside = where(adopt((index < stops[:, None]).reshape(shape)), taken, 0.0)
        counts = (stops - starts).reshape(-1, *shape[2:]).astype(x.dtype)
        x = inside.sum(axis=axis + 1) / adopt(counts)
    return x


def _adaptive_max_pool(name: str, axes: int, x: Tensor, size: Output, indices: bool) -> Any:
    x, sides = _adaptive(name, x, axes, size)
    starts, stops = zip(*sides, strict=True)
    return window_max(x, starts, stops, (1,) * axes, indices)


def adaptive_avg_pool1d(x: Tensor, output_size: Output) -> Tensor:
    """Reduce x (N, C, L) or (C, L) to `output_size` means; see `adaptive_avg_pool2d`.

    >>> mg.nn.functional.adaptive_avg_pool1d(mg.tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    tensor([[2., 1.]])
    """
    return _adaptive_avg_pool("adaptive_avg_pool1d", 1, x, output_size)


def adaptive_avg_pool2d(x: Tensor, output_size: Output) -> Tensor:
    """Reduce x (N, C, H, W) or (C, H, W) to means over `output_size` windows (an int or a pair;
    None keeps a size): window i of n goes from floor(i H / n) to ceil((i + 1) H / n).

    >>> mg.nn.functional.adaptive_avg_pool2d(mg.ones(2, 3, 5, 7), (2, None)).shape
    (2, 3, 2, 7)
    """
    return _adaptive_avg_pool("adaptive_avg_pool2d", 2, x, output_size)


def adaptive_max_pool2d(x: Tensor, output_size: Output, return_indices: bool = False) -> Any:
    """Like `adaptive_avg_pool2d`, with maxima; return_indices as in `max_pool2d`.

    >>> mg.nn.functional.adaptive_max_pool2d(mg.tensor([[[1.0, 3.0], [2.0, 0.0]]]), 1)
    tensor([[[3.]]])
    """
    return _adaptive_max_pool("adaptive_max_pool2d", 2, x, output_size, return_indices)


# ------------------------------------------------------------------------------------ resampling
INTERPOLATING = {"linear": 1, "bilinear": 2}  # the modes between elements, and their axes


@memory_checked
def interpolate(
    x: Tensor,
    size: Shape | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """x (N, C, L) or (N, C, H, W) in another size, given as such or as a factor.

    mode: "nearest" takes for each place the element of x at floor(place * old size / new size), or
    floor(place / factor). "linear", for (N, C, L), and "bilinear", for (N, C, H, W), weight the two
    elements along each axis between which (place + 1/2) * old size / new size - 1/2 falls, or, with
    align_corners=True, place * (old size - 1) / (new size - 1), which maps ends to ends.

    Raises ValueError unless exactly one of size and scale_factor is given, for another mode, and
    for align_corners with "nearest"; TypeError for integers between which to interpolate.

    >>> x = mg.tensor([[[1.0, 2.0]]])
    >>> mg.nn.functional.interpolate(x, scale_factor=2)
    tensor([[[1., 1., 2., 2.]]])
    >>> mg.nn.functional.interpolate(x, size=4, mode="linear")
    tensor([[[1.  , 1.25, 1.75, 2.  ]]])
    """
    x = to_tensor(x, "interpolate")
    axes = x.ndim - 2
    if axes < 1 or 0 in x.shape[2:]:
        raise wrong_shape("interpolate", x.shape, "(N, C, ...)")
    _resampling_mode(mode, "interpolate: mode")
    if mode == "nearest":
        if align_corners is not None:
            raise ValueError("interpolate: align_corners is for the modes 'linear' and 'bilinear'")
    elif axes != INTERPOLATING[mode]:
        layout = LAYOUTS[INTERPOLATING[mode]][0]
        raise wrong_shape("interpolate", x.shape, layout, where=f" for mode={mode!r}")
    elif x.dtype.kind != "f":
        raise TypeError(
            f"interpolate: mode={mode!r} needs float32 or float64, got {x.dtype}; use "
            "x.astype(mg.float32)"
        )
    for axis, (n, old, new) in enumerate(_resampled(x, size, scale_factor), 2):
        places, last = np.arange(n), x.shape[axis] - 1
        if mode == "nearest":
            at = np.floor(places * old / new)
        elif align_corners:
            at = places * last / max(n - 1, 1)
        else:
            at = np.maximum((places + 0.5) * old / new - 0.5, 0.0)
        low = np.minimum(at.astype(np.int64), last)
        share = at - low if mode != "nearest" else np.zeros(n)
        if share.any():
            weight = share.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
            high = np.minimum(low + 1, last)
            x = _taken(x, axis, low) * adopt(1 - weight) + _taken(x, axis, high) * adopt(weight)
        elif not np.array_equal(low, np.arange(last + 1)):
            x = _taken(x, axis, low)
    return x


def _resampling_mode(value: Any, name: str) -> Any:
    return choice(value, name, "nearest", *INTERPOLATING)


def _taken(x: Tensor, axis: int, places: np.ndarray) -> Tensor:
    return getitem(x, (slice(None),) * axis + (places,))


def _resampled(x: Tensor, size: Any, scale_factor: Any) -> list[tuple[int, Any, Any]]:
    """For each axis its new size, and two numbers in whose ratio the old elements are denser."""
    axes, old_sizes = x.ndim - 2, x.shape[2:]
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    if size is not None:
        if isinstance(size, (tuple, list)) and len(size) != axes:
            raise ValueError(f"interpolate: size must be an int or {axes} ints, got {size!r}")
        sizes = per_axis(size, axes, "interpolate: size")
        return [(n, old, n) for n, old in zip(sizes, old_sizes, strict=True)]
    factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * axes
    positives = all(real(factor, "interpolate: scale_factor") > 0 for factor in factors)
    if len(factors) != axes or not positives:
        raise ValueError(
            f"interpolate: scale_factor must be positive, one for each of {axes} axes, got "
            f"{scale_factor!r}"
        )
    resampled = [(int(old * f), 1, f) for old, f in zip(old_sizes, factors, strict=True)]
    if 0 in (n for n, *_ in resampled):
        raise ValueError(
            f"interpolate: scale_factor={scale_factor} gives an empty output for {x.shape}"
        )
    return resampled


# ---------------------------------------------------------------------------------------- layers
class _Pooling(Applied):
    """A Module that applies a function of the class name, number of axes, x and options."""

    _axes: ClassVar[int]

    def forward(self, x: Tensor) -> Any:
        """The means or maxima, and with return_indices the positions of the maxima."""
        return self._function(type(self).__name__, self._axes, x, *self._values(self))


class _WindowPool(_Pooling):
    """Stores sizes as given, NumPy's integers as ints; the stride defaults to the kernel size."""

    def _keep(self, given: Mapping[str, Any]) -> None:
        names = ("kernel_size", "stride", "padding", "dilation")
        shapes = {name: given[name] for name in names if name in given}
        if shapes["stride"] is None:
            shapes["stride"] = shapes["kernel_size"]
        _each_axis(type(self).__name__, self._axes, **shapes)
        for name, size in shapes.items():
            shapes[name] = tuple(map(int, size)) if isinstance(size, (tuple, list)) else int(size)
        super()._keep({**given, **shapes})


@dataclass(eq=False, repr=False)
class _MaxPool(_WindowPool, function=_max_pool):
    _shown = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    kernel_size: Shape
    stride: Shape | None = None
    padding: Shape = 0
    dilation: Shape = 1
    return_indices: bool = False
    ceil_mode: bool = False


class MaxPool1d(_MaxPool, like=max_pool1d):
    """Maxima of windows of (N, C, L): `functional.max_pool1d` as a Module."""

    _axes = 1


class MaxPool2d(_MaxPool, like=max_pool2d):
    """Maxima of windows of (N, C, H, W): `functional.max_pool2d` as a Module."""

    _axes = 2


@dataclass(eq=False, repr=False)
class _AvgPool(_WindowPool, function=_avg_pool):
    kernel_size: Shape
    stride: Shape | None = None
    padding: Shape = 0
    ceil_mode: bool = False
    count_include_pad: bool = True


class AvgPool1d(_AvgPool, like=avg_pool1d):
    """Means of windows of (N, C, L): `functional.avg_pool1d` as a Module."""

    _axes = 1


@dataclass(eq=False, repr=False)
class AvgPool2d(_AvgPool, function=_avg_pool, like=avg_pool2d):
    """Means of windows of (N, C, H, W): `functional.avg_pool2d` as a Module."""

    _axes = 2
    divisor_override: int | None = None


@dataclass(eq=False, repr=False)
class _AdaptiveAvgPool(_Pooling, function=_adaptive_avg_pool):
    output_size: Output


class AdaptiveAvgPool1d(_AdaptiveAvgPool, like=adaptive_avg_pool1d):
    """output_size means of (N, C, L): `functional.adaptive_avg_pool1d` as a Module."""

    _axes = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool, like=adaptive_avg_pool2d):
    """output_size means of (N, C, H, W): `functional.adaptive_avg_pool2d` as a Module."""

    _axes = 2


@dataclass(eq=False, repr=False)
class AdaptiveMaxPool2d(_Pooling, function=_adaptive_max_pool, like=adaptive_max_pool2d):
    """output_size maxima of (N, C, H, W): `functional.adaptive_max_pool2d` as a Module."""

    _axes, _shown = 2, ("output_size",)
    output_size: Output
    return_indices: bool = False


@dataclass(eq=False, repr=False)
class Upsample(AppliedToOne, function=interpolate, like=interpolate, mode=_resampling_mode):
    """Another size of (N, C, L) or (N, C, H, W): `functional.interpolate` as a Module."""

    size: Shape | None = None
    scale_factor: float | Sequence[float] | None = None
    mode: str = "nearest"
    align_corners: bool | None = None

    def extra_repr(self) -> str:
        """The size or factor, and the mode."""
        which = "size" if self.scale_factor is None else "scale_factor"
        given = [f"{which}={getattr(self, which)}", f"mode={self.mode!r}"]
        return ", ".join([*given, *self._changed(align_corners=None)])
