"""Adagrad: steps divided by the root of the sum of all squared gradients so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .optimizer import Optimizer, options


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011, figure 1, diagonal): p -= lr_t g / (sqrt(s) + eps).

    s = initial_accumulator_value + the sum of g² over all steps, where g is the gradient (its
    negative to maximize) + weight_decay p, and lr_t = lr / (1 + (t - 1) lr_decay).

    Errors: see `Optimizer`.
    State: `step` (t), `sum` (s), made at the first step that has a gradient.

    >>> x = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = mg.optim.Adagrad([x], lr=0.25)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.75, -0.75], requires_grad=True)
    """

    rule = "Adagrad"
    ranges = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """The step and the sum of squares."""
        return "step", "sum"
