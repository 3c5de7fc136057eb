"""The losses that estimators know by name: values, outputs and predictions.

A loss turns the outputs of a net and the targets into one value per sample and target. What else an
estimator must know about it stands beside it: how many outputs it needs for each target, how the
targets can be standardised, and what is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from .._core.engine.graph import Tensor
from .._core.ops import clip, exp, reshape, softmax_cross_entropy, square
from ..checks import real
from ..functions import stack
from ..nn import functional
from ..rng import Generator, drawing_from

LARGEST = math.log(np.finfo(np.float64).max)
FLAT = -12.0  # the least log-variance of a standardised target: a standard deviation of 0.0025


@dataclass(frozen=True)
class Loss:
    """A loss of outputs z (n, targets * outputs) and targets y, with what belongs to it."""

    values: Callable[[Tensor, Tensor], Tensor]
    outputs: int = 1  # per target
    # How targets are standardised: "affine", to mean 0 and variance 1; "log", where outputs are
    # logarithms of what is predicted, to mean 1; or not at all.
    scaling: str | None = None
    log_variances: tuple[int, ...] = ()  # which of the outputs of a target
    predict: Callable[[np.ndarray], np.ndarray] = field(default=lambda z: z[..., 0])
    by_sample: bool = True  # the value of a sample depends on no other one

    def mean(self, z: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        """The mean over the samples, each times its weight; 0-d.

        Raises ValueError if there are weights, but the loss is a mean already.
        """
        values = self.values(z, y)
        if weight is None:
            return values.mean() if values.ndim else values
        if values.ndim == 0:
            raise ValueError(
                "the loss returns a mean, which sample_weight and class_weight cannot weigh; "
                "return one value per sample, e.g. nn.HuberLoss(reduction='none')"
            )
        if values.ndim > 1:
            values = values.mean(axis=tuple(range(1, values.ndim)))
        return (values * weight).mean()

    def members(
        self, z: Tensor, y: Tensor, weight: Tensor | None, generators: Sequence[Generator]
    ) -> Tensor:
        """The mean of each member, (K,), from outputs, targets and weights with the members along
        the first axis. A function of the user gets one member at a time, and draws from its
        generator."""
        count = z.shape[0]
        if self.by_sample:
            rows = (reshape(t, (-1, *t.shape[2:])) for t in (z, y))
            values = reshape(self.values(*rows), (count, z.shape[1], -1)).mean(axis=2)
            return (values if weight is None else values * weight).mean(axis=1)
        means = []
        for k, generator in enumerate(generators):
            with drawing_from(generator):
                means.append(self.mean(z[k], y[k], None if weight is None else weight[k]))
        return stack(means)


def _gaussian(z: Tensor, y: Tensor) -> Tensor:
    """The negative log-likelihood of y ~ N(mean, exp s) without its constant (Nix & Weigend 1994),
    for outputs that alternate between mean and s."""
    outputs = reshape(z, (len(y), -1, 2))
    s = clip(outputs[:, :, 1], min=FLAT)
    return 0.5 * (s + square(y - outputs[:, :, 0]) * exp(-s))


def pinball(levels: tuple[float, ...]) -> Loss:
    """The pinball loss max(q e, (q - 1) e), e = y - z, for each level q (Koenker & Bassett 1978).

    Predicted quantiles that cross are sorted (Chernozhukov, Fernández-Val & Galichon 2010).
    """
    place = np.argsort(np.argsort(levels))

    def values(z: Tensor, y: Tensor) -> Tensor:
        return functional.quantile_loss(reshape(z, (len(y), -1, len(levels))), y, levels, "none")

    def predict(z: np.ndarray) -> np.ndarray:
        return np.sort(z, axis=-1)[..., place] if len(levels) > 1 else z[..., 0]

    return Loss(values, len(levels), "affine", predict=predict)


REGRESSION = {
    "squared": Loss(lambda z, y: square(z - y), scaling="affine"),
    "huber": Loss(lambda z, y: functional.huber_loss(z, y, "none"), scaling="affine"),
    "poisson": Loss(
        lambda z, y: functional.poisson_nll_loss(z, y, reduction="none"),
        scaling="log",
        predict=lambda z: np.exp(z[..., 0]),
    ),
    "gaussian": Loss(_gaussian, 2, "affine", log_variances=(1,)),
}
CROSS_ENTROPY = Loss(softmax_cross_entropy)
BINARY = Loss(lambda z, y: functional.binary_cross_entropy_with_logits(z, y, reduction="none"))


def by_columns(sizes: Sequence[int]) -> Loss:
    """The cross-entropy of each column of targets, of which column k has sizes[k] classes.

    >>> by_columns([2, 3]).values(mg.zeros(1, 5), mg.tensor([[0, 2]]))
    tensor([[0.6931472, 1.0986123]])
    """
    ends = [0, *accumulate(sizes)]

    def values(z: Tensor, y: Tensor) -> Tensor:
        parts = enumerate(pairwise(ends))
        return stack([softmax_cross_entropy(z[:, a:b], y[:, k]) for k, (a, b) in parts], 1)

    return Loss(values)


def checked_levels(quantile: Any, name: str) -> tuple[float, ...]:
    """The levels of the quantile loss as a tuple; raise ValueError unless all are in (0, 1).

    >>> checked_levels(0.5, "NetRegressor: quantile")
    (0.5,)
    """
    levels = tuple(quantile) if isinstance(quantile, (tuple, list, np.ndarray)) else (quantile,)
    if not levels or not all(0 < real(level, name) < 1 for level in levels):
        raise ValueError(f"{name} must be a level between 0 and 1, or several, got {quantile!r}")
    return tuple(float(level) for level in levels)


def variance(z: np.ndarray) -> np.ndarray:
    """The variance predicted by the Gaussian loss, from outputs (..., 2).

    >>> variance(np.array([[3.0, 0.0]]))
    array([1.])
    """
    return np.exp(np.minimum(z[..., 1], LARGEST))
