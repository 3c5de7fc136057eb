"""The optimisers with a compiled loop: their formulas, options and state.

Design note
-----------
A class names its formula in `_core/formulas.py` (`rule`), of which the build makes a loop, the
options that have a range (`ranges`), and the state per parameter (`keeps`, or `state_names` if it
depends on an option). The signature of its constructor lists its options with their defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..checks import real
from .optimizer import Optimizer, options

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lion", "NAdam", "RAdam", "RMSprop"]


class SGD(Optimizer):
    """Gradient descent with momentum: p -= lr v, where v = momentum v + (1 - dampening) g.

    At the first step v = g; g is the gradient (its negative to maximize) + weight_decay p.
    nesterov: step along g + momentum v instead (Sutskever et al. 2013, section 2, in PyTorch's
        form); ValueError unless momentum > 0 and dampening = 0. Other errors: see `Optimizer`.
    State: `momentum_buffer`, if there is momentum.

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
        real(group["dampening"], "SGD: the dampening")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(
                "SGD: Nesterov momentum requires a momentum and zero dampening, "
                f"got momentum={group['momentum']}, dampening={group['dampening']}"
            )

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """The velocity, if there is momentum."""
        return ("momentum_buffer" if group["momentum"] else None,)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): p -= lr m / (1 - beta1ᵗ) / (√(v / (1 - beta2ᵗ)) + eps).

    m and v are running means of the gradient and of its square, with the weights `betas`.

    weight_decay: weight_decay p is added to the gradient (L2 regularisation).
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
    may_be_missing = ("decoupled_weight_decay",)  # old checkpoints do not have it

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
        super().__init__(params, options(locals()), unknown)

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
        fixed = {"maximize": maximize, "decoupled_weight_decay": True}
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **fixed, **unknown)


class NAdam(Optimizer):
    """Adam with Nesterov momentum (Dozat 2016, algorithm 2, and the schedule of beta1 given there).

    With mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2) and M_t the product mu_1 ... mu_t:
    p -= lr ((1 - mu_t) g / (1 - M_t) + mu_t+1 m / (1 - M_t+1)) / (sqrt(v / (1 - beta2^t)) + eps),
    where m and v are Adam's running means of the gradient g and of its square.

    weight_decay, decoupled_weight_decay: as in Adam. Errors: see `Optimizer`.
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
    keeps = ("step", "mu_product", "exp_avg", "exp_avg_sq")

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


class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020, algorithm 2): Adam whose rate allows for the few gradients
    that v knows at first, in place of a warm-up.

    With rho_inf = 2 / (1 - beta2) - 1 and rho = rho_inf - 2 t beta2^t / (1 - beta2^t), the length
    of the moving average, p -= lr m / (1 - beta1^t) as long as rho <= 5, and afterwards
    p -= lr sqrt(r) m / (1 - beta1^t) sqrt(1 - beta2^t) / (sqrt(v) + eps), where
    r = (rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho) and m and v are Adam's.

    weight_decay, decoupled_weight_decay: as in Adam. Errors: see `Optimizer`.
    State: `step` (t), `exp_avg` (m), `exp_avg_sq` (v).

    >>> x = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = mg.optim.RAdam([x], lr=0.25)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.5, -0.5], requires_grad=True)
    """

    rule = "RAdam"
    ranges = ("lr", "eps", "weight_decay", "betas")
    keeps = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6e): p -= lr g / (sqrt(v) + eps).

    v = alpha v + (1 - alpha) g² is the running mean square of the gradient g, including
    weight_decay p.

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


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011, figure 1, diagonal): p -= lr_t g / (sqrt(s) + eps).

    s = initial_accumulator_value + the sum of g² over all steps, where g is the gradient (its
    negative to maximize) + weight_decay p, and lr_t = lr / (1 + (t - 1) lr_decay).

    Errors: see `Optimizer`.
    State: `step` (t), `sum` (s), created at the first step with a gradient.

    >>> x = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = mg.optim.Adagrad([x], lr=0.25)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x
    tensor([ 0.75, -0.75], requires_grad=True)
    """

    rule = "Adagrad"
    ranges = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
    keeps = ("step", "sum")

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


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): p -= lr (sign(c) + weight_decay p).

    c = beta1 m + (1 - beta1) g, then m = beta2 m + (1 - beta2) g; g is the gradient (its negative
    to maximize). Every element moves by lr: use a 3 to 10 times smaller lr than for Adam, and a
    larger weight_decay (section 5 of the paper). Names and defaults follow the authors' code.

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
    keeps = ("exp_avg",)

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
