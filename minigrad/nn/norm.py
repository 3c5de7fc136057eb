"""BatchNorm, BatchRenorm and GhostBatchNorm, and exact running statistics for all of them.

The formula is in `functional.batch_norm`, and nobody wrote its gradient. This file has the state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from .._core.engine.graph import Tensor, move_statistics, to_tensor
from .._core.ops import concat
from ..autograd import no_grad
from ..checks import nonnegative_real, positive, real, wrong_shape
from ..creation import ones, tensor, zeros
from ..functions import split
from ..types import Shape
from . import functional, init
from .module import Module, Parameter

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchRenorm1d", "BatchRenorm2d", "GhostBatchNorm"]
__all__ += ["recalibrate"]


class _Affine(Module):
    """Base class of normalisations: a weight and a bias of one shape, which start at 1 and 0."""

    weight: Any  # a Parameter or None
    bias: Any

    def _add_affine(self, shape: Shape, weight: bool, bias: bool, dtype: Any) -> None:
        start = Parameter(ones(shape, dtype=dtype)) if weight else None
        self.register_parameter("weight", start)
        self.register_parameter("bias", Parameter(zeros(shape, dtype=dtype)) if bias else None)

    def reset_parameters(self) -> None:
        """Reset the weight to 1 and the bias to 0.

        >>> layer = mg.nn.LayerNorm(2)
        >>> layer.reset_parameters()
        >>> layer.weight.tolist()
        [1.0, 1.0]
        """
        for parameter, start in ((self.weight, init.ones_), (self.bias, init.zeros_)):
            if parameter is not None:
                start(parameter)

    @property
    def _without_bias(self) -> str:
        """For `repr`: that there is a weight, but no bias."""
        return ", bias=False" * (self.weight is not None and self.bias is None)


_OPTIONS = "eps={0.eps}, momentum={0.momentum}, affine={0.affine}"
_TRACKED = ", track_running_stats={0.track_running_stats}{0._without_bias}"


class _Tracking(_Affine):
    """The options and the running statistics of BatchNorm and InstanceNorm."""

    _layouts: ClassVar[dict[int, str]]
    _details = "{0.num_features}, " + _OPTIONS + _TRACKED
    _may_be_missing = ("num_batches_tracked",)  # PyTorch added it in version 0.4.1

    running_mean: Any  # a Tensor, or None with track_running_stats=False
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        channels = positive(num_features, f"{name}: num_features")
        nonnegative_real(eps, f"{name}: eps")
        if momentum is not None and not 0 <= real(momentum, f"{name}: momentum") <= 1:
            raise ValueError(f"{name}: momentum must be None or between 0 and 1, got {momentum}")
        self.num_features, self.eps, self.momentum = channels, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._add_affine(channels, affine, affine and bias, dtype)
        tracked = track_running_stats
        self.register_buffer("running_mean", zeros(channels, dtype=dtype) if tracked else None)
        self.register_buffer("running_var", ones(channels, dtype=dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", tensor(0) if tracked else None)

    def reset_running_stats(self) -> None:
        """Reset the running mean to 0 and the running variance to 1.

        >>> layer = mg.nn.BatchNorm1d(2)
        >>> y = layer(mg.randn(8, 2))
        >>> layer.reset_running_stats()
        >>> layer.running_var
        tensor([1., 1.])
        """
        if self.running_mean is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Reset the weight to 1, the bias to 0, and the running statistics."""
        self.reset_running_stats()
        super().reset_parameters()

    def _checked(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            x = to_tensor(x, type(self).__name__)
        if x.ndim not in self._layouts:
            raise wrong_shape(type(self).__name__, x.shape, *dict.fromkeys(self._layouts.values()))
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: expected {self.num_features} channels, got {x.shape[1]} "
                f"in an input of shape {x.shape}"
            )
        return x


class _BatchNorm(_Tracking):
    """What normalises by the statistics of a batch: everything but the shapes that it takes."""

    _renorm: Any = None  # of functional.batch_norm

    def _pooled(self, x: Tensor) -> Tensor:
        """What `recalibrate` takes the statistics of, with the channels on axis 1."""
        return self._checked(x)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised tensor, of the shape of x; in training the running statistics move."""
        x = self._checked(x)
        batches, momentum = self.num_batches_tracked, self.momentum
        seen = batches.item() + 1 if self.training and batches is not None else 0
        if momentum is None:
            momentum = 1 / max(seen, 1)
        mean, var = self.running_mean, self.running_var
        weight, bias, training, eps = self.weight, self.bias, self.training, self.eps
        renorm = self._renorm
        y = functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps, renorm)
        if seen:
            batches.fill_(seen)
        return y


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L) per channel (Ioffe & Szegedy 2015).

    y = (x - mean) / sqrt(var + eps) * weight + bias, in training with the mean and the biased
    variance of the batch, in evaluation with running_mean and running_var. These start at 0 and 1
    and are updated by every batch in training: running = (1 - momentum) running + momentum batch,
    with the unbiased variance of the batch. momentum=None weights all batches equally (cumulative
    average), 0 freezes the running statistics.

    affine=False: no weight and bias; bias=False: no bias. track_running_stats=False: no buffers,
    batch statistics in evaluation too. Raises ValueError for another rank or number of channels,
    and in training for one value per channel.

    >>> layer = mg.nn.BatchNorm1d(2)
    >>> y = layer(mg.tensor([[1.0, 10.0], [3.0, 30.0]]))
    >>> y.detach().numpy().round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> layer.running_mean
    tensor([0.2, 2. ])
    """

    _layouts: ClassVar[dict[int, str]] = {2: "(N, C)", 3: "(N, C, L)"}


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W) per channel; see BatchNorm1d.

    >>> mg.nn.BatchNorm2d(3)(mg.randn(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    _layouts: ClassVar[dict[int, str]] = {4: "(N, C, H, W)"}


class _BatchRenorm(_BatchNorm):
    """What BatchRenorm1d and BatchRenorm2d share: the limits of the correction."""

    _details = "{0.num_features}, " + _OPTIONS + "{0._without_bias}, rmax={0.rmax}, dmax={0.dmax}"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        rmax: float = 3.0,
        dmax: float = 5.0,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, dtype=dtype, bias=bias)
        self.rmax, self.dmax = functional.renorm_limits(type(self).__name__, rmax, dmax)

    @property
    def _renorm(self) -> tuple[float, float]:
        return self.rmax, self.dmax


class BatchRenorm1d(_BatchRenorm):
    """Batch renormalisation of (N, C) or (N, C, L) per channel (Ioffe 2017, algorithm 1): BatchNorm
    whose output in training is, up to the limits, that of evaluation, which helps where batches are
    small or their samples alike.

    In training y = ((x - mean) / std * r + d) * weight + bias with the statistics of the batch and
    r = std / running_std, limited to [1/rmax, rmax], and d = (mean - running_mean) / running_std,
    limited to [-dmax, dmax], without a gradient. Then the running statistics move, as those of
    BatchNorm1d, which has the same state and the same evaluation. rmax=1 and dmax=0 are BatchNorm;
    the paper starts there, and raises rmax to 3 and dmax to 5 over the first 40,000 steps, with
    momentum=0.01: assign to `layer.rmax` and `layer.dmax`. Raises ValueError for rmax < 1 or
    dmax < 0, and as BatchNorm1d.

    >>> layer = mg.nn.BatchRenorm1d(1, dmax=0.5)
    >>> layer(mg.tensor([[10.0], [12.0]])).detach().numpy().round(3).ravel()
    array([-0.5,  1.5], dtype=float32)
    """

    _layouts: ClassVar[dict[int, str]] = BatchNorm1d._layouts


class BatchRenorm2d(_BatchRenorm):
    """Batch renormalisation of (N, C, H, W) per channel; see BatchRenorm1d.

    >>> mg.nn.BatchRenorm2d(3)(mg.randn(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    _layouts: ClassVar[dict[int, str]] = BatchNorm2d._layouts


class GhostBatchNorm(_BatchNorm):
    """BatchNorm of (N, C), (N, C, L) or (N, C, H, W) that divides a batch in training into ghost
    batches and normalises each by its own statistics (Hoffer et al. 2017, algorithm 1), so that
    large batches keep the noise that regularises.

    A batch is divided evenly into as few parts of at most virtual_batch_size samples as there can
    be; one that is not larger is BatchNorm's. The running statistics move by one ghost batch after
    the other, and num_batches_tracked counts these. In evaluation it is BatchNorm1d, whose options
    and state it has. Raises ValueError for a ghost batch of one value per channel, and as
    BatchNorm1d; then nothing has moved.

    >>> layer = mg.nn.GhostBatchNorm(1, virtual_batch_size=2)
    >>> layer(mg.tensor([[1.0], [3.0], [100.0], [300.0]])).detach().numpy().round(3).ravel()
    array([-1.,  1., -1.,  1.], dtype=float32)
    """

    _layouts: ClassVar[dict[int, str]] = {**BatchNorm1d._layouts, **BatchNorm2d._layouts}
    _details = "{0.num_features}, virtual_batch_size={0.virtual_batch_size}, " + _OPTIONS + _TRACKED

    def __init__(
        self,
        num_features: int,
        virtual_batch_size: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        size = positive(virtual_batch_size, "GhostBatchNorm: virtual_batch_size")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias=bias)
        self.virtual_batch_size = size

    def forward(self, x: Tensor) -> Tensor:
        """The normalised tensor, of the shape of x; in training the running statistics move."""
        x = self._checked(x)
        samples = x.shape[0]
        ghosts = -(-samples // self.virtual_batch_size)
        tracked = self.running_mean is not None
        if ghosts < 2 or x.size == 0 or (tracked and not self.training):
            return super().forward(x)
        bounds = [k * samples // ghosts for k in range(ghosts + 1)]
        sizes = np.diff(bounds)
        if sizes.min() * x.size < 2 * samples * self.num_features:
            raise ValueError(
                f"GhostBatchNorm: a ghost batch has one value per channel, since {samples} samples "
                f"were divided into {ghosts}; use a larger virtual_batch_size, or another batch"
            )
        moving = tracked and self.training
        mean: Any = None
        var: Any = None
        seen = 0
        if moving:
            mean, var = self.running_mean.clone(), self.running_var.clone()
            seen = self.num_batches_tracked.item()
        outputs = []
        for ghost in split(x, sizes.tolist()):
            seen += 1
            momentum = 1 / seen if self.momentum is None else self.momentum
            options = self.weight, self.bias, moving, momentum, self.eps
            outputs.append(functional.batch_norm(ghost, mean, var, *options))
        y = concat(outputs)
        if moving:  # after all that can fail
            name, averages = type(self).__name__, (self.running_mean, self.running_var)
            move_statistics(name, *averages, mean, var, 1.0, 1.0)
            self.num_batches_tracked.fill_(seen)
        return y


# ------------------------------------------------------------------------------ exact statistics
class _Pool:
    """Mean and variance per channel of all values seen, merged batch by batch in float64 (Chan,
    Golub & LeVeque 1983, equation 2.1), so they do not depend on the division into batches."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray | float = 0.0
        self.squares: np.ndarray | float = 0.0  # the sum of squared distances from the mean

    def add(self, x: Tensor) -> None:
        values = x.numpy().astype(np.float64)
        axes = (0, *range(2, values.ndim))
        count = values.size // values.shape[1]
        if count == 0:
            return
        mean = values.mean(axes, keepdims=True)
        squares = np.square(values - mean).sum(axes)
        total = self.count + count
        distance = mean.reshape(-1) - self.mean
        self.mean = self.mean + distance * (count / total)
        self.squares = self.squares + squares + np.square(distance) * (self.count * count / total)
        self.count = total


def recalibrate(model: Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics of every BatchNorm, BatchRenorm and GhostBatchNorm in `model`
    (in an Ensemble, of every member) by the exact mean and population variance of its input over
    the whole data set, the same however the data are divided into batches.

    Running averages lag behind the weights and depend on the order of the batches. Here the layers
    are recalibrated one by one, in the order in which data reach them: each pass over `batches`
    runs the model in evaluation mode, so a layer sees the outputs of layers that are already
    recalibrated. It takes one pass per BatchNorm; a layer that no data reach keeps its statistics,
    and one that is called several times pools all calls.

    batches: inputs of the model, or tuples or lists whose first element is the input, as a
    DataLoader gives. They are gone over several times and must hold the same data each time; an
    iterator is read into a list. The mode of every module and `num_batches_tracked` stay as they
    were, and so do the averages of InstanceNorm, which are those of samples. Raises TypeError for
    batches that cannot be iterated over, ValueError for no data, or a BatchNorm without running
    statistics; after any error the statistics are the old ones.

    On unlabelled data from another domain this is adaptive BatchNorm (Li et al. 2016): activations
    are normalised there as they were on the training data.

    >>> net = mg.nn.Sequential(mg.nn.BatchNorm1d(1))
    >>> mg.nn.recalibrate(net, [mg.tensor([[1.0], [2.0]]), mg.tensor([[6.0]])])
    >>> net[0].running_mean, net[0].running_var
    (tensor([3.]), tensor([4.6666665]))
    >>> shifted = mg.tensor([[101.0], [102.0], [106.0]])
    >>> mg.nn.recalibrate(net, [shifted])
    >>> net.eval()(shifted).detach().numpy().round(2).tolist()
    [[-0.93], [-0.46], [1.39]]
    """
    waiting: list[Any] = []
    named: list[tuple[str, Any]] = list(model.named_modules())
    for name, module in named:
        if hasattr(module, "_pooled"):
            if module.running_mean is None:
                raise ValueError(
                    f"recalibrate: {name or 'the model'} has no running statistics "
                    "(track_running_stats=False), so its output depends on the batch"
                )
            waiting.append(module)
    try:
        iterator = iter(batches)
    except TypeError:
        raise TypeError(
            f"recalibrate: batches must be a DataLoader or a list, got {type(batches).__name__}"
        ) from None
    if iterator is batches:
        batches = list(batches)
    before = [(layer, layer.running_mean.clone(), layer.running_var.clone()) for layer in waiting]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        while waiting:
            layer, pool = _pool_first(model, batches, waiting)
            if layer is None:
                break
            shape = layer.running_mean.shape
            layer.running_mean.copy_(np.reshape(pool.mean, shape))
            layer.running_var.copy_(np.reshape(pool.squares / pool.count, shape))
            waiting.remove(layer)
    except BaseException:
        for layer, mean, var in before:
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
        raise
    finally:
        for module, mode in modes:
            module.training = mode


def _pool_first(model: Module, batches: Iterable[Any], waiting: list[Any]) -> tuple[Any, _Pool]:
    """Run all batches; pool the inputs of the waiting layer that is called first."""
    first: list[Any] = []
    pool = _Pool()

    def look(layer: Any, inputs: tuple[Any, ...]) -> None:
        if not first:
            first.append(layer)
        if layer is first[0]:
            pool.add(layer._pooled(inputs[0]))

    handles = [layer.register_forward_pre_hook(look) for layer in waiting]
    empty = True
    try:
        with no_grad():
            for batch in batches:
                model(batch[0] if isinstance(batch, (tuple, list)) else batch)
                empty = False
    finally:
        for handle in handles:
            handle.remove()
    if empty or (first and not pool.count):
        raise ValueError("recalibrate: the batches contain no data")
    return (first[0] if first else None), pool
