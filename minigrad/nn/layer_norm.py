"""LayerNorm, GroupNorm, InstanceNorm1d, InstanceNorm2d, RMSNorm: normalisation within each sample.

They differ only in the axes that the statistics are taken over; the formulas stand in `functional`.
DynamicTanh takes their place without statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .._core.engine.graph import Tensor, to_tensor
from .._core.ops import reshape, tanh
from ..checks import nonnegative_real, positive, real, wrong_shape
from ..creation import full
from . import functional, init
from .module import Parameter
from .norm import _Affine, _Tracking

__all__ = ["DynamicTanh", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "LayerNorm", "RMSNorm"]


class _TrailingNorm(_Affine):
    """What acts along the last axes: weight (and bias) of their shape."""

    _details = "{0.normalized_shape}, eps={0.eps}, elementwise_affine={0.elementwise_affine}"
    eps: float | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        elementwise_affine: bool,
        bias: bool,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        given = normalized_shape if isinstance(normalized_shape, Sequence) else [normalized_shape]
        sizes = tuple(positive(size, f"{name}: normalized_shape") for size in given)
        if not sizes:
            raise ValueError(f"{name}: normalized_shape must name at least one size, got ()")
        self.normalized_shape, self.elementwise_affine = sizes, elementwise_affine
        self._add_affine(sizes, elementwise_affine, elementwise_affine and bias, dtype)


class LayerNorm(_TrailingNorm):
    """Layer normalisation over the last axes, which have shape normalized_shape (Ba et al. 2016);
    see `functional.layer_norm`. The same in training and evaluation.

    weight and bias have the shape normalized_shape and start at 1 and 0; elementwise_affine=False
    omits both, bias=False the bias. Raises ValueError for an input of another shape.

    >>> y = mg.nn.LayerNorm(3)(mg.tensor([[1.0, 2.0, 6.0]]))
    >>> y.detach().numpy().round(2)
    array([[-0.93, -0.46,  1.39]], dtype=float32)
    """

    _details = _TrailingNorm._details + "{0._without_bias}"
    eps: float

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(normalized_shape, elementwise_affine, bias, dtype)
        self.eps = nonnegative_real(eps, "LayerNorm: eps")

    def forward(self, x: Tensor) -> Tensor:
        """The normalised tensor, of the shape of x."""
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(_TrailingNorm):
    """Division by the root mean square over the last axes, which have shape normalized_shape
    (Zhang & Sennrich 2019); see `functional.rms_norm`. eps=None means the machine epsilon of the
    input's dtype.

    >>> mg.nn.RMSNorm(4, eps=0.0)(mg.tensor([3.0, 4.0, 0.0, 0.0])).tolist()[2:]
    [0.0, 0.0]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(normalized_shape, elementwise_affine, False, dtype)
        self.eps = eps if eps is None else nonnegative_real(eps, "RMSNorm: eps")

    def forward(self, x: Tensor) -> Tensor:
        """The scaled tensor, of the shape of x."""
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class DynamicTanh(_TrailingNorm):
    """weight * tanh(alpha x) + bias in the place of a normalisation (Zhu et al. 2025, section 4),
    without statistics. The same in training and evaluation.

    normalized_shape: the sizes of the last axes of x, as for LayerNorm; a 1 fits any size, so that
    images (N, C, H, W) with a weight for each channel have normalized_shape=(C, 1, 1).
    alpha: one number, in the shape (1,), that starts at alpha_init_value. weight and bias have the
    shape normalized_shape and start at 1 and 0. Raises ValueError for an input of other sizes.

    >>> mg.nn.DynamicTanh(2)(mg.tensor([[0.0, 1000.0]])).tolist()
    [[0.0, 1.0]]
    """

    _details = (
        "{0.normalized_shape}, alpha_init_value={0.alpha_init_value}, "
        "elementwise_affine={0.elementwise_affine}{0._without_bias}"
    )

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        alpha_init_value: float = 0.5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(normalized_shape, elementwise_affine, bias, dtype)
        self.alpha_init_value = real(alpha_init_value, "DynamicTanh: alpha_init_value")
        self.alpha = Parameter(full((1,), float(alpha_init_value), dtype=dtype))

    def reset_parameters(self) -> None:
        """Start again with alpha alpha_init_value, weight 1 and bias 0.

        >>> layer = mg.nn.DynamicTanh(2)
        >>> layer.reset_parameters()
        >>> layer.alpha.tolist()
        [0.5]
        """
        super().reset_parameters()
        init.constant_(self.alpha, self.alpha_init_value)

    def forward(self, x: Tensor) -> Tensor:
        """The squashed tensor, of the shape of x."""
        x, sizes = to_tensor(x, "DynamicTanh"), self.normalized_shape
        last = x.shape[-len(sizes) :]
        if len(last) < len(sizes) or any(n not in (1, m) for n, m in zip(sizes, last, strict=True)):
            raise wrong_shape("DynamicTanh", x.shape, f"(*, {', '.join(map(str, sizes))})")
        y = tanh(self.alpha * x)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


class GroupNorm(_Affine):
    """Group normalisation of (N, C, ...) over groups of consecutive channels (Wu & He 2018); see
    `functional.group_norm`. The same in training and evaluation.

    weight and bias have the shape (num_channels,) and start at 1 and 0. num_groups=1
    normalises all channels together, num_groups=num_channels each on its own.

    >>> mg.nn.GroupNorm(3, 6)(mg.randn(2, 6, 4, 4)).shape
    (2, 6, 4, 4)
    """

    _details = "{0.num_groups}, {0.num_channels}, eps={0.eps}, affine={0.affine}{0._without_bias}"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = num_groups = positive(num_groups, "GroupNorm: num_groups")
        self.num_channels = num_channels = positive(num_channels, "GroupNorm: num_channels")
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels {num_channels} cannot be split into {num_groups} groups"
            )
        self.eps, self.affine = nonnegative_real(eps, "GroupNorm: eps"), affine
        self._add_affine(num_channels, affine, affine and bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised tensor, of the shape of x."""
        x = to_tensor(x, "GroupNorm")
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise wrong_shape("GroupNorm", x.shape, f"(N, {self.num_channels}, ...)")
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class _InstanceNorm(_Tracking):
    """What InstanceNorm1d and InstanceNorm2d share. Its members are those of BatchNorm."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised tensor, of the shape of x; in training the running statistics move."""
        x = to_tensor(x, type(self).__name__)
        single = x.ndim == min(self._layouts) - 1  # a sample without a batch
        batch = self._checked(reshape(x, (1, *x.shape)) if single else x)
        mine, momentum = self.training or self.running_mean is None, self.momentum or 0.0
        state = self.running_mean, self.running_var, self.weight, self.bias
        y = functional.instance_norm(batch, *state, mine, momentum, self.eps)
        return reshape(y, x.shape) if single else y


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (N, C, L) or (C, L): each channel of each sample is normalised by
    its own mean and biased variance (Ulyanov et al. 2016); see `functional.instance_norm`.

    By default it has no weight and bias (affine) and no running statistics. With
    track_running_stats=True evaluation uses running statistics; momentum is the weight of a new
    batch, None means 0, as in PyTorch. Raises ValueError for a wrong rank or number of channels,
    and for one element per channel.

    >>> mg.nn.InstanceNorm1d(1, eps=0.0)(mg.tensor([[[1.0, 3.0]], [[5.0, 9.0]]])).tolist()
    [[[-1.0, 1.0]], [[-1.0, 1.0]]]
    """

    _layouts: ClassVar[dict[int, str]] = {3: "(N, C, L)"}


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (N, C, H, W) or (C, H, W); see InstanceNorm1d.

    >>> mg.nn.InstanceNorm2d(3)(mg.randn(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    _layouts: ClassVar[dict[int, str]] = {4: "(N, C, H, W)"}
