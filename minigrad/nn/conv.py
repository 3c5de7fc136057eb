"""Padding, and convolution as a composition: sliding windows, one matrix product, reshape.

Its gradients of any order follow from those of its parts. Transposed convolution is the adjoint,
part by part: a matrix product and `overlap_add`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .._core import ops
from .._core.engine.graph import Tensor, to_tensor
from ..checks import choice, integer, per_axis, positive, real, wrong_shape
from ..types import Shape
from .applied import Applied
from .linear import _Uniform
from .module import Parameter

__all__ = ["CircularPad1d", "CircularPad2d", "ConstantPad1d", "ConstantPad2d", "Conv1d", "Conv2d"]
__all__ += ["ConvTranspose1d", "ConvTranspose2d", "ReflectionPad1d", "ReflectionPad2d"]
__all__ += ["ReplicationPad1d", "ReplicationPad2d", "ZeroPad1d", "ZeroPad2d"]

LAYOUTS = {1: ("(N, C, L)", "(C, L)"), 2: ("(N, C, H, W)", "(C, H, W)")}  # by spatial axes
Pairs = tuple[tuple[int, int], ...]  # (before, after) for each axis


def _padding(name: str, padding: Shape | str, *options: tuple[int, ...]) -> Pairs:
    """(before, after) for each axis; options: kernel size, stride, dilation."""
    kernel, stride, dilation = options
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{name}: padding must be ints, 'same' or 'valid', got {padding!r}")
        if padding == "same" and max(stride) > 1:
            raise ValueError(f"{name}: padding='same' needs stride 1, got {tuple(stride)}")
        same = padding == "same"
        totals = [d * (k - 1) * same for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((n, n) for n in per_axis(padding, len(kernel), f"{name}: padding", 0))


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0) -> Tensor:
    """Pad x, or crop it where a number is negative. `pad` holds (before, after) for the last axis,
    then for the one before it, and so on, as in PyTorch.

    mode: "constant", "reflect", "replicate" or "circular". Raises ValueError if a reflection is as
    long as its axis, or nothing is left.

    >>> mg.nn.functional.pad(mg.tensor([1.0, 2.0, 3.0]), (1, -1), value=9)
    tensor([9., 1., 2.])
    """
    x = to_tensor(x, "pad")
    try:
        pad = [integer(n, "pad") for n in pad]
    except TypeError:
        raise TypeError(f"pad: expected ints, got {pad!r}") from None
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ValueError(f"pad: expected pairs for up to {x.ndim} axes, got {tuple(pad)}")
    none = ((0, 0),) * (x.ndim - len(pad) // 2)
    return _pad(x, (*none, *zip(pad[-2::-2], pad[::-2], strict=True)), mode, value, "pad")


def _pad(x: Tensor, widths: Pairs, mode: str, value: float, name: str) -> Tensor:
    choice(mode, f"{name}: mode", "constant", "reflect", "replicate", "circular")
    limit = {"reflect": 1, "circular": 0}.get(mode, -math.inf)
    last = mode in ("reflect", "replicate")  # these modes read cropped elements, as in PyTorch
    for size, pair in zip(x.shape, widths, strict=True):
        kept = size + min(pair[0], 0) + min(pair[1], 0) if mode == "circular" else size
        if max(pair) > kept - limit:
            raise ValueError(
                f"{name}: padding {pair} in mode {mode!r} is too large for the size {size} in the "
                f"shape {x.shape}"
            )
        if sum(pair) <= -size - (not last or not size) or (min(pair) < -size and not last):
            raise ValueError(f"{name}: padding {pair} leaves none of {size} elements")
    added = tuple((max(a, 0), max(b, 0)) for a, b in widths)
    y = x if last else _cropped(x, widths)
    y = ops.pad(y, added, mode, value) if any(map(any, added)) else y
    return _cropped(y, widths) if last else y


def _cropped(x: Tensor, widths: Pairs) -> Tensor:
    """Drop the elements that negative widths remove."""
    if all(min(pair) >= 0 for pair in widths):
        return x
    kept = (
        slice(max(-a, 0), n + min(b, 0)) if min(a, b) < 0 else slice(None)
        for n, (a, b) in zip(x.shape, widths, strict=True)
    )
    return ops.getitem(x, tuple(kept))


def _channels_first(name: str, x: Tensor, weight: Tensor, channels: int, groups: int) -> Tensor:
    """Check that x fits the weight, and add a batch axis if it has none."""
    x = to_tensor(x, name)
    axes = weight.ndim - 2
    if x.ndim not in (axes + 1, axes + 2):
        raise wrong_shape(name, x.shape, *LAYOUTS[axes])
    if x.shape[-axes - 1] != channels:
        raise ValueError(
            f"{name}: expected {channels} channels for a weight of shape {weight.shape} and "
            f"groups={groups}, got {x.shape[-axes - 1]} in an input of shape {x.shape}"
        )
    return ops.reshape(x, (1, *x.shape)) if x.ndim == axes + 1 else x


def _check_bias(name: str, bias: Tensor, outputs: int) -> None:
    if (given := getattr(bias, "shape", ())) != (outputs,):
        raise ValueError(f"{name}: expected a bias of shape {(outputs,)}, got {given}")


def _convolve(name: str, x: Tensor, weight: Tensor, bias: Any, options: tuple[Any, ...]) -> Tensor:
    """weight (out, in / groups, *kernel); options: stride, pairs of padding, dilation, groups.

    The columns are (N, C x kernel, places), with one product for each image: its result has the
    layout of the next layer without a transposition, and its columns are still in the cache.
    """
    stride, padding, dilation, groups = options
    batched = _channels_first(name, x, weight, weight.shape[1] * groups, groups)
    if any(map(any, padding)):
        batched = ops.pad(batched, ((0, 0), (0, 0), *padding))
    outputs, kernel, axes = weight.shape[0], weight.shape[2:], len(stride)
    for size, width, gap in zip(batched.shape[2:], kernel, dilation, strict=True):
        if gap * (width - 1) + 1 > size:
            raise ValueError(
                f"{name}: a kernel of {kernel} with dilation {dilation} is larger than the padded "
                f"input of {batched.shape[2:]}"
            )
    windows = ops.sliding_windows(batched, kernel, stride, dilation)  # (N, C, *places, *kernel)
    batch, channels, places = *windows.shape[:2], windows.shape[2 : 2 + axes]
    order = (0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))
    depth = channels * math.prod(kernel)
    group = (groups,) if groups > 1 else ()
    columns = (batch, *group, depth // groups, math.prod(places))
    rows = ops.reshape(weight, (*group, outputs // groups, depth // groups))
    if bias is not None:
        _check_bias(name, bias, outputs)
        bias = ops.reshape(bias, (*group, outputs // groups))
    y = ops.packed_matmul(rows, ops.permute_dims(windows, order), columns, bias)
    y = ops.reshape(y, (batch, outputs, *places))
    return y if batched.ndim == to_tensor(x, name).ndim else ops.reshape(y, y.shape[1:])


def _spread(places: Sequence[int], *options: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes that this many windows span; options: kernel size, stride, dilation."""
    sizes = zip(places, *options, strict=True)
    return tuple((n - 1) * stride + dilation * (k - 1) + 1 for n, k, stride, dilation in sizes)


def _convolve_transposed(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]
) -> Tensor:
    """The adjoint of `_convolve`: its steps in reverse; weight (in, out / groups, *kernel)."""
    stride, padding, output_padding, groups, dilation = options
    batched = _channels_first(name, x, weight, weight.shape[0], groups)
    batch, channels, places = *batched.shape[:2], batched.shape[2:]
    outputs, kernel, axes = weight.shape[1] * groups, weight.shape[2:], len(stride)
    if any(
        extra >= max(s, d) for extra, s, d in zip(output_padding, stride, dilation, strict=True)
    ):
        raise ValueError(
            f"{name}: output_padding {output_padding} must be smaller than either stride {stride} "
            f"or dilation {dilation}"
        )
    full = _spread(places, kernel, stride, dilation)
    crop = tuple((-p, extra - p) for p, extra in zip(padding, output_padding, strict=True))
    if min(places) < 1 or any(n + sum(pair) < 1 for n, pair in zip(full, crop, strict=True)):
        raise ValueError(
            f"{name}: an input of shape {batched.shape} with padding {padding} leaves no output"
        )
    group = (groups,) if groups > 1 else ()
    depth = outputs // groups * math.prod(kernel)
    rows = ops.reshape(weight, (*group, channels // groups, depth))
    values = (batch, *group, channels // groups, math.prod(places))
    columns = ops.packed_matmul(rows.mT, batched, values)
    columns = ops.reshape(columns, (batch, outputs, *kernel, *places))
    order = (0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))
    y = ops.overlap_add(ops.permute_dims(columns, order), (batch, outputs, *full), stride, dilation)
    y = _pad(y, ((0, 0), (0, 0), *crop), "constant", 0, name)
    if bias is not None:
        _check_bias(name, bias, outputs)
        y = y + ops.reshape(bias, (-1, *(1,) * axes))
    return y if batched.ndim == to_tensor(x, name).ndim else ops.reshape(y, y.shape[1:])


def _weight(name: str, weight: Tensor, axes: int, groups: int) -> Tensor:
    weight = to_tensor(weight, name)
    if weight.ndim != axes + 2 or 0 in weight.shape[2:]:
        raise ValueError(
            f"{name}: expected a weight of {axes + 2} dimensions with a kernel of at least 1 along "
            f"each axis, got shape {weight.shape}"
        )
    if weight.shape[0] % groups:
        raise ValueError(f"{name}: groups={groups} does not divide {weight.shape[0]} channels")
    return weight


def _conv(axes: int, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    name, (stride, padding, dilation, groups) = f"conv{axes}d", options
    groups = positive(groups, f"{name}: groups")
    weight = _weight(name, weight, axes, groups)
    stride = per_axis(stride, axes, f"{name}: stride")
    dilation = per_axis(dilation, axes, f"{name}: dilation")
    pairs = _padding(name, padding, weight.shape[2:], stride, dilation)
    return _convolve(name, x, weight, bias, (stride, pairs, dilation, groups))


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Shape = 1,
    padding: Shape | str = 0,
    dilation: Shape = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of x (N, C, L) or (C, L) with weight (out, C / groups, K); see `conv2d`.

    >>> mg.nn.functional.conv1d(mg.tensor([[1.0, 2.0, 4.0]]), mg.tensor([[[1.0, -1.0]]]))
    tensor([[-1., -2.]])
    """
    return _conv(1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Shape = 1,
    padding: Shape | str = 0,
    dilation: Shape = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of x (N, C, H, W) or (C, H, W) with weight (out, C / groups, KH, KW), plus
    bias (out,): (N, out, H', W'), H' = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1.

    padding: the number of zeros on both sides, "valid" for none, or "same" for an output of the
    size of x (stride 1 only). groups splits the channels into independent convolutions. Raises
    ValueError for a wrong number of channels, or a kernel larger than the padded input.

    >>> mg.nn.functional.conv2d(mg.ones(1, 1, 3, 3), mg.ones(1, 1, 2, 2)).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(axes: int, x: Tensor, weight: Tensor, bias: Any, *options: Any) -> Tensor:
    name, (stride, padding, output_padding, groups, dilation) = f"conv_transpose{axes}d", options
    groups = positive(groups, f"{name}: groups")
    checked = (
        per_axis(stride, axes, f"{name}: stride"),
        per_axis(padding, axes, f"{name}: padding", 0),
        per_axis(output_padding, axes, f"{name}: output_padding", 0),
        groups,
        per_axis(dilation, axes, f"{name}: dilation"),
    )
    weight = _weight(name, weight, axes, groups)
    return _convolve_transposed(name, x, weight, bias, checked)


def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Shape = 1,
    padding: Shape = 0,
    output_padding: Shape = 0,
    groups: int = 1,
    dilation: Shape = 1,
) -> Tensor:
    """The adjoint of `conv1d`: x (N, C, L) or (C, L), weight (C, out / groups, K).

    >>> mg.nn.functional.conv_transpose1d(mg.tensor([[1.0, 2.0]]), mg.tensor([[[1.0, -1.0]]]))
    tensor([[ 1.,  1., -2.]])
    """
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Shape = 1,
    padding: Shape = 0,
    output_padding: Shape = 0,
    groups: int = 1,
    dilation: Shape = 1,
) -> Tensor:
    """The adjoint of `conv2d` with the same options: x (N, C, H, W) or (C, H, W), weight (C, out /
    groups, KH, KW) -> (N, out, H', W'), H' = (H - 1) stride - 2 padding + dilation (KH - 1) + 1 +
    output_padding, which chooses among the sizes that a stride maps to one (Dumoulin & Visin 2016).

    >>> mg.nn.functional.conv_transpose2d(mg.ones(1, 1, 2, 2), mg.ones(1, 3, 2, 2), stride=2).shape
    (1, 3, 4, 4)
    """
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, groups, dilation)


# ---------------------------------------------------------------------------------------- layers
class _Conv(_Uniform):
    """Base class of convolutions: options, parameters and their initialisation."""

    _axes: ClassVar[int]
    _transposed: ClassVar[bool] = False
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Shape,
        stride: Shape = 1,
        padding: Shape | str = 0,
        dilation: Shape = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name, axes = type(self).__name__, self._axes
        self.in_channels = in_channels = positive(in_channels, f"{name}: in_channels")
        self.out_channels = out_channels = positive(out_channels, f"{name}: out_channels")
        self.groups = groups = positive(groups, f"{name}: groups")
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        self.kernel_size = per_axis(kernel_size, axes, f"{name}: kernel_size")
        self.stride = per_axis(stride, axes, f"{name}: stride")
        self.dilation = per_axis(dilation, axes, f"{name}: dilation")
        self._pairs = _padding(name, padding, self.kernel_size, self.stride, self.dilation)
        before = tuple(pair[0] for pair in self._pairs)
        self.padding = padding if isinstance(padding, str) else before
        modes = ("zeros",) if self._transposed else ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in modes:
            raise ValueError(
                f"{name}: padding_mode must be {' or '.join(modes)}, got {padding_mode!r}"
            )
        self.padding_mode = padding_mode
        ends = (in_channels, out_channels) if self._transposed else (out_channels, in_channels)
        shape = (ends[0], ends[1] // groups, *self.kernel_size)
        self._add_weight(shape, out_channels, bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, out_channels, ...), or both without N."""
        name, pairs = type(self).__name__, self._pairs
        if self.padding_mode != "zeros":
            x = to_tensor(x, name)
            if x.ndim > self._axes:
                none = ((0, 0),) * (x.ndim - self._axes)
                x = _pad(x, (*none, *pairs), self.padding_mode, 0, name)
            pairs = ((0, 0),) * self._axes
        options = (self.stride, pairs, self.dilation, self.groups)
        return _convolve(name, x, self.weight, self.bias, options)

    def extra_repr(self) -> str:
        """Channels, kernel, stride, and the options that differ from the defaults."""
        zeros, ones = (0,) * self._axes, (1,) * self._axes
        defaults = {"padding": zeros, "output_padding": zeros, "dilation": ones, "groups": 1}
        given = self._changed(**defaults, padding_mode="zeros")
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        bias = ["bias=False"] * (self.bias is None)
        return ", ".join([sizes, f"stride={self.stride}", *given, *bias])


class _ConvTranspose(_Conv):
    _transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Shape,
        stride: Shape = 1,
        padding: Shape = 0,
        output_padding: Shape = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Shape = 1,
        padding_mode: str = "zeros",
        dtype: Any = None,
    ) -> None:
        name = type(self).__name__
        if isinstance(padding, str):
            raise TypeError(f"{name}: padding must be ints, got {padding!r}")
        options = (stride, padding, dilation, groups, bias, padding_mode, dtype)
        super().__init__(in_channels, out_channels, kernel_size, *options)
        self.output_padding = per_axis(output_padding, self._axes, f"{name}: output_padding", 0)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, C, ...) -> (N, out_channels, ...), or both without N; output_size, the sizes after
        the channels, replaces output_padding."""
        name, extra = type(self).__name__, self.output_padding
        padding = tuple(before for before, _ in self._pairs)
        if output_size is not None:
            axes = self._axes
            wanted = per_axis(tuple(output_size)[-axes:], axes, f"{name}: output_size")
            full = _spread(x.shape[-axes:], self.kernel_size, self.stride, self.dilation)
            least = [size - 2 * p for size, p in zip(full, padding, strict=True)]
            extra = tuple(w - n for w, n in zip(wanted, least, strict=True))
            if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
                raise ValueError(
                    f"{name}: output_size {wanted} must be at least {tuple(least)} and less than a "
                    f"stride of {self.stride} larger"
                )
        checked = (self.stride, padding, extra, self.groups, self.dilation)
        return _convolve_transposed(name, x, self.weight, self.bias, checked)


class Conv1d(_Conv):
    """Convolution of (N, C, L) or (C, L); see Conv2d.

    >>> mg.nn.Conv1d(3, 5, kernel_size=3, padding=1)(mg.ones(2, 3, 8)).shape
    (2, 5, 8)
    """

    _axes = 1


class Conv2d(_Conv):
    """Convolution (cross-correlation) of (N, C, H, W) or (C, H, W) with `out_channels` kernels, as
    in `functional.conv2d`.

    kernel_size, stride, padding and dilation are ints, pairs (rows, columns) or tuples of one int;
    padding may be "same" (stride 1 only) or "valid". padding_mode: "zeros", "reflect", "replicate"
    or "circular". weight has the shape (out_channels, in_channels / groups, KH, KW), bias
    (out_channels,); both are initialised uniformly in ±1 / sqrt(fan_in), as in PyTorch. Raises
    ValueError for options out of range, groups that do not divide the channels, a wrong number of
    channels, or a kernel larger than the padded input.

    >>> mg.nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)(mg.ones(2, 3, 8, 8)).shape
    (2, 8, 4, 4)
    """

    _axes = 2


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of (N, C, L) or (C, L); see ConvTranspose2d.

    >>> mg.nn.ConvTranspose1d(3, 5, kernel_size=2, stride=2)(mg.ones(2, 3, 8)).shape
    (2, 5, 16)
    """

    _axes = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of (N, C, H, W) or (C, H, W), the adjoint of Conv2d with the same
    options, as in `functional.conv_transpose2d`; it upsamples images.

    weight has the shape (in_channels, out_channels / groups, KH, KW). A call with `output_size`
    chooses output_padding.

    >>> mg.nn.ConvTranspose2d(8, 3, kernel_size=2, stride=2)(mg.ones(2, 8, 4, 4)).shape
    (2, 3, 8, 8)
    """

    _axes = 2


# -------------------------------------------------------------------------------- layers of padding
@dataclass(eq=False, repr=False)
class _Pad(Applied, function=pad):
    """A Module that applies `pad` to the last axes, in one mode."""

    _axes: ClassVar[int]
    _mode: ClassVar[str]
    padding: Shape

    def _keep(self, given: Mapping[str, Any]) -> None:
        name, count, padding = type(self).__name__, 2 * self._axes, given["padding"]
        sides = padding if isinstance(padding, (tuple, list)) else (padding,) * count
        widths = tuple(integer(n, f"{name}: padding") for n in sides)
        if len(widths) != count:
            raise ValueError(
                f"{name}: padding must be an int or {_SIDES[self._axes]}, got {padding!r}"
            )
        super()._keep({**given, "padding": widths})

    def forward(self, x: Tensor) -> Tensor:
        """The padded tensor."""
        return self._function(x, self.padding, self._mode, vars(self).get("value", 0))


@dataclass(eq=False, repr=False)
class _ConstantPad(_Pad, function=pad, value=real):
    value: float


_SIDES = {1: "(left, right)", 2: "(left, right, top, bottom)"}  # as PyTorch orders them


def _pads(kind: str, mode: str, outside: str, example: list[int], options: str = "2") -> Any:
    """The Modules of a mode, of one axis and of two; example: what [1, 2, 3] becomes."""
    calls = {
        1: f"({options})(mg.tensor([1, 2, 3])).tolist()\n    {example}",
        2: f"({options})(mg.zeros(1, 3, 4, 5)).shape\n    (1, 3, 8, 9)",
    }
    for axes, sides in _SIDES.items():
        name = f"{kind}Pad{axes}d"
        text = f"""Pad the last {"axis" if axes == 1 else "two axes"} with {outside}.

    padding: an int, or {sides}, of which negative ones drop elements.
    Raises ValueError as `functional.pad`.

    >>> mg.nn.{name}{calls[axes]}
    """
        members = {"__doc__": text, "__module__": __name__, "_axes": axes, "_mode": mode}
        yield type(name, (_ConstantPad if kind == "Constant" else _Pad,), members)


ConstantPad1d, ConstantPad2d = _pads(
    "Constant", "constant", "a number, `value`", [9, 9, 1, 2, 3, 9, 9], "2, value=9"
)
ZeroPad1d, ZeroPad2d = _pads("Zero", "constant", "zeros", [0, 0, 1, 2, 3, 0, 0])
ReflectionPad1d, ReflectionPad2d = _pads(
    "Reflection", "reflect", "the input mirrored at its edge", [3, 2, 1, 2, 3, 2, 1]
)
ReplicationPad1d, ReplicationPad2d = _pads(
    "Replication", "replicate", "the element at the edge", [1, 1, 1, 2, 3, 3, 3]
)
CircularPad1d, CircularPad2d = _pads(
    "Circular", "circular", "the input from its other end", [2, 3, 1, 2, 3, 1, 2]
)
