"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

from .optimizer import Optimizer, options


class SGD(Optimizer):
    """Gradient descent with momentum: p -= lr v, where v = momentum v + (1 - dampening) g.

    At the first step v = g; g is the gradient (its negative to maximize) + weight_decay p.
    nesterov: step along g + momentum v instead (Sutskever et al. 2013, section 2, in the form of
        PyTorch); needs a momentum and no dampening, or ValueError. Other errors: see `Optimizer`.
    State: `momentum_buffer`, where there is momentum.

    >>> x = mg.tensor([1.0], requires_grad=True)
    >>> optimizer = mg.optim.SGD([x], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (3.0 * x).sum().backward()
    ...     optimizer.step()
    >>> round(x.item(), 4)  # 1 - 0.1 * 3 - 0.1 * (0.9 * 3 + 3)
    0.13
    """

    rule = "SGD"
    ranges = ("lr", "momentum", "weight_decay")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)

    def check_options(self, group: dict[str, Any]) -> None:
        """Raise if an option in `group` is out of its range."""
        super().check_options(group)
        if not isinstance(group["dampening"], Real):
            raise TypeError(f"SGD: the dampening must be a number, got {group['dampening']!r}")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(
                "SGD: Nesterov momentum requires a momentum and zero dampening, "
                f"got momentum={group['momentum']}, dampening={group['dampening']}"
            )

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """The velocity, if there is momentum."""
        return ("momentum_buffer" if group["momentum"] else None,)
