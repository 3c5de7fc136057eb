"""Lion: steps of one size along the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .optimizer import Optimizer, options


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): p -= lr (sign(c) + weight_decay p).

    c = beta1 m + (1 - beta1) g, then m = beta2 m + (1 - beta2) g; g is the gradient (its negative
    to maximize). All elements move by lr, so it wants a 3 to 10 times smaller lr than Adam, and a
    larger weight_decay (section 5 of the paper). Names and defaults are those of the authors' code.

    Errors: see `Optimizer`. State: `exp_avg` (m).

    >>> x = mg.tensor([1.0, -3.0], requires_grad=True)
    >>> optimizer = mg.optim.Lion([x], lr=0.25)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.75, -2.75], requires_grad=True)
    """

    rule = "Lion"
    ranges = ("lr", "weight_decay", "betas")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """The momentum."""
        return ("exp_avg",)
