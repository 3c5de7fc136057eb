"""Adam, AdamW and NAdam: steps scaled by running moments of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .optimizer import Optimizer, options


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): p -= lr m / (1 - beta1ᵗ) / (√(v / (1 - beta2ᵗ)) + eps).

    m and v are running means of the gradient and of its square, with the weights `betas`.

    weight_decay: is added to the gradient times p (L2 regularisation).
    decoupled_weight_decay: p shrinks by the factor 1 - lr weight_decay instead, as in AdamW.
    amsgrad: divide by the largest v so far (Reddi et al. 2018, algorithm 2, with bias correction).
    Errors: see `Optimizer`.
    State: `step` (t), `exp_avg` (m), `exp_avg_sq` (v), and with amsgrad `max_exp_avg_sq`.

    >>> x = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = mg.optim.Adam([x], lr=0.25)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.75, -0.75], requires_grad=True)
    """

    rule = "Adam"
    ranges = ("lr", "eps", "weight_decay", "betas")

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
        decoupled_weight_decay: bool = False,
        **unknown: Any,
    ) -> None:
        defaults = options(locals())
        if defaults.pop("decoupled_weight_decay"):  # which checkpoints without it need not have
            defaults["decoupled_weight_decay"] = True
        super().__init__(params, defaults, unknown)

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """The step, the two moments, and the largest second moment with amsgrad."""
        return "step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else None


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

    rule = "AdamW"

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


class NAdam(Optimizer):
    """Adam with Nesterov momentum (Dozat 2016, algorithm 2, and the schedule of beta1 given there).

    With mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2) and M_t the product mu_1 ... mu_t:
    p -= lr ((1 - mu_t) g / (1 - M_t) + mu_t+1 m / (1 - M_t+1)) / (sqrt(v / (1 - beta2^t)) + eps),
    m and v being Adam's running means of the gradient g and of its square.

    weight_decay, decoupled_weight_decay: as of Adam. Errors: see `Optimizer`.
    State: `step` (t), `mu_product` (M), `exp_avg` (m), `exp_avg_sq` (v).

    >>> x = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = mg.optim.NAdam([x], lr=0.25)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x.detach().numpy().round(3)
    array([ 0.736, -0.736], dtype=float32)
    """

    rule = "NAdam"
    ranges = ("lr", "eps", "weight_decay", "momentum_decay", "betas")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """The step, the product of the momenta, and the two moments."""
        return "step", "mu_product", "exp_avg", "exp_avg_sq"
