"""RMSprop: steps divided by the running root mean square of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .optimizer import Optimizer, options


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6e): p -= lr g / (sqrt(v) + eps).

    v = alpha v + (1 - alpha) g² is the running mean square of the gradient g, to which weight_decay
    times p is added.

    centered: divide by the running standard deviation, sqrt(v - m²) with m the running mean of g,
        instead (Graves 2013, equations 38 to 45).
    momentum: step along u = momentum u + g / (sqrt(v) + eps) instead: p -= lr u.
    Errors: see `Optimizer`.
    State: `step`, `square_avg` (v), with momentum `momentum_buffer` (u), centered `grad_avg` (m).

    >>> x = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = mg.optim.RMSprop([x], lr=0.25, alpha=0.75)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.5, -0.5], requires_grad=True)
    """

    rule = "RMSprop"
    ranges = ("lr", "eps", "weight_decay", "momentum", "alpha")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """The step, the mean square, the velocity with momentum, and the mean if centered."""
        velocity = "momentum_buffer" if group["momentum"] else None
        return "step", "square_avg", velocity, "grad_avg" if group["centered"] else None
