"""Adam and AdamW: steps scaled by running moments of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._core.updates import Update
from .optimizer import Optimizer, Rule, check_range, refuse_unknown


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): p -= lr m / (1 - beta1ᵗ) / (√(v / (1 - beta2ᵗ)) + eps).

    m and v are running means of the gradient and of its square, with the weights `betas`.

    weight_decay: is added to the gradient times p (L2 regularisation; AdamW decouples it).
    amsgrad: divide by the largest v so far (Reddi et al. 2018, algorithm 2, with bias correction).
    Raises ValueError for a negative lr, eps or weight_decay and betas outside [0, 1), TypeError for
    unknown options.
    State: `step` (t), `exp_avg` (m), `exp_avg_sq` (v), and with amsgrad `max_exp_avg_sq`.

    >>> x = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = mg.optim.Adam([x], lr=0.25)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.75, -0.75], requires_grad=True)
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        refuse_unknown(type(self).__name__, unknown, defaults)
        super().__init__(params, defaults)

    def check_options(self, group: dict[str, Any]) -> None:
        """Raise if an option in `group` is out of its range."""
        owner, betas = type(self).__name__, group["betas"]
        check_range(owner, "learning rate", group["lr"])
        check_range(owner, "epsilon value", group["eps"])
        check_range(owner, "weight_decay value", group["weight_decay"])
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(
                f"{owner}: betas must be a pair of numbers such as (0.9, 0.999), got {betas!r}"
            )
        for index, beta in enumerate(betas):
            check_range(owner, f"beta parameter at index {index}", beta, upper=1)

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """The step, the two moments, and the largest second moment with amsgrad."""
        return "step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else None

    def update_rule(self, group: dict[str, Any]) -> Rule:
        """The fused loop with the options of `group`."""
        beta1, beta2 = group["betas"]
        options = (
            group["lr"],
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["maximize"],
            self.decoupled,
        )
        return Update("adam", self.state_names(group), options)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    p shrinks by the factor 1 - lr weight_decay before Adam's step; the decay does not enter the
    moments. Options, errors and state are Adam's.

    >>> x = mg.tensor([1.0], requires_grad=True)
    >>> optimizer = mg.optim.AdamW([x], lr=0.25, weight_decay=1.0)
    >>> (0.0 * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([0.75], requires_grad=True)
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, **unknown
        )
