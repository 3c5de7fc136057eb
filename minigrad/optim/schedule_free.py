"""Optimisers that need no schedule of the learning rate, since they average the weights.

Design note
-----------
1. The parameters are y, where gradients are taken, or in evaluation mode x, the mean. Only y and z
   are kept: x follows from them, and y from x and z, as in the authors' package `schedulefree`.
2. The weights of the mean depend on the step and on the rates so far, which the parameters of a
   group share. They live in the group (`progress`), where checkpoints keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, ClassVar

from .._core.fast.updates import Update
from ..checks import check_count, check_range
from .optimizer import Optimizer, Rule, options

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class _ScheduleFree(Optimizer):
    """What both share: the rates, the weights of the mean, and the two modes."""

    progress: ClassVar[dict[str, Any]] = {
        "k": 0,
        "weight_sum": 0.0,
        "lr_max": 0.0,
        "scheduled_lr": 0.0,  # of the last step, for those who watch it
        "train_mode": True,
    }
    may_be_missing = ("maximize", "scheduled_lr")  # as in the package, the second before 1.4

    def _betas(self, group: dict[str, Any]) -> tuple[float, float]:
        """The momentum and the weight of the old mean square, 0 without one."""
        return group["betas"] if "betas" in group else (group["momentum"], 0.0)

    def check_options(self, group: dict[str, Any]) -> None:
        """Raise if an option in `group` is out of its range."""
        super().check_options(group)
        owner = type(self).__name__
        if check_range(owner, "momentum", self._betas(group)[0], upper=1) == 0:
            raise ValueError(
                f"{owner}: the momentum must be greater than 0: without it the parameters do not "
                "hold the mean; average them with an AveragedModel instead"
            )
        group["warmup_steps"] = check_count(owner, "warmup_steps", group["warmup_steps"], least=0)
        for name in self.progress:
            check_range(owner, name, group.get(name, 0))

    # ------------------------------------------------------------------ the step
    def _advanced(self, group: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """The progress of a group after its next step, and the share of that step in the mean."""
        step = group["k"] + 1
        lr = float(group["lr"]) * min(1.0, step / max(group["warmup_steps"], 1))
        lr_max = max(lr, group["lr_max"])
        weight = step ** group["r"] * lr_max ** group["weight_lr_power"]
        total = group["weight_sum"] + weight
        after = {"k": step, "weight_sum": total, "lr_max": lr_max, "scheduled_lr": lr}
        return after, weight / total if total else 0.0

    def update_rule(self, group: dict[str, Any]) -> Rule:
        """The compiled rule with the rate of this step and its share in the mean."""
        (after, share), (momentum, beta2) = self._advanced(group), self._betas(group)
        numbers = {"lr": after["scheduled_lr"], "share": share, "momentum": momentum}
        numbers |= {"beta2": beta2, "correction": 1 - beta2 ** after["k"]}
        return Update("ScheduleFree", self.state_names(group), {**group, **numbers})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; see `Optimizer.step`.

        Raises RuntimeError in evaluation mode.
        """
        if not all(group["train_mode"] for group in self.param_groups):
            raise RuntimeError(
                f"{type(self).__name__}.step: in evaluation mode the parameters are the mean, and "
                "gradients are not taken there; call optimizer.train() before the forward pass"
            )
        loss = super().step(closure)
        for group in self.param_groups:
            group.update(self._advanced(group)[0])
        return loss

    # ------------------------------------------------------------------ the modes
    def train(self) -> None:
        """Make the parameters y, where gradients are taken. A new optimiser is in this mode."""
        self._set_mode(True)

    def eval(self) -> None:
        """Make the parameters x, the mean: to evaluate the net, or to save it.

        >>> weight = mg.tensor([0.0], requires_grad=True)
        >>> optimizer = mg.optim.ScheduleFreeSGD([weight], lr=0.5, momentum=0.5)
        >>> for _ in range(2):
        ...     weight.grad = mg.tensor([-1.0])
        ...     optimizer.step()
        >>> optimizer.eval()
        >>> weight.tolist()  # z was 0.5, then 1
        [0.75]
        """
        self._set_mode(False)

    def _set_mode(self, train: bool) -> None:
        groups = [group for group in self.param_groups if group["train_mode"] != train]
        averaged = [[p for p in group["params"] if self.state.get(p)] for group in groups]
        self._refuse_read_only(chain(*averaged))
        for group, parameters in zip(groups, averaged, strict=True):
            momentum = self._betas(group)[0]
            share = 1 - momentum if train else 1 - 1 / momentum
            for parameter in parameters:
                parameter._array[...] += share * (self.state[parameter]["z"] - parameter._array)
                parameter._bump_version()
            group["train_mode"] = train


class ScheduleFreeSGD(_ScheduleFree):
    """Schedule-free SGD (Defazio et al. 2024, "The Road Less Scheduled", section 1).

    With the gradient g at y (its negative to maximize), plus weight_decay y:
    z -= lr g, x = (1 - c) x + c z, y = (1 - momentum) z + momentum x. The mean x needs no schedule
    of the rate that knows the last step. Call `optimizer.eval()`, which makes the parameters x,
    before evaluating or saving the net, and `optimizer.train()`, which makes them y again, before
    training on. BatchNorm's running statistics are those of y: after `eval()`,
    `nn.recalibrate(net, batches)` sets them for x.

    momentum: in (0, 1). warmup_steps: the number of steps in which lr rises linearly from 0.
    r, weight_lr_power: c is this step's share of the sum of t^r lr_max^weight_lr_power over all
        steps t, where lr_max is the largest rate so far.
    A good lr is 10 to 50 times that of SGD with momentum. Names and defaults follow the authors'
    package `schedulefree`, whose class is SGDScheduleFree; an optimiser here starts in training
    mode. Errors: see `Optimizer`; `step` raises RuntimeError in evaluation mode.
    State: `z`; in the groups `k` (the number of steps), `weight_sum`, `lr_max` and `train_mode`.

    >>> x = mg.tensor([3.0], requires_grad=True)
    >>> optimizer = mg.optim.ScheduleFreeSGD([x], lr=0.5)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     ((x - 1) ** 2).sum().backward()
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> round(x.item(), 2)
    1.0
    """

    ranges = ("lr", "weight_decay", "r", "weight_lr_power")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """z alone."""
        return "z", None


class ScheduleFreeAdamW(_ScheduleFree):
    """Schedule-free AdamW (Defazio et al. 2024, "The Road Less Scheduled", algorithm 1).

    ScheduleFreeSGD with g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay y in the place of the
    gradient, where v = beta2 v + (1 - beta2) g² after t steps; beta1 is the momentum. Call
    `optimizer.eval()` before evaluating or saving the net, and `optimizer.train()` afterwards.

    A good lr is 1 to 10 times that of AdamW. The other options and errors are ScheduleFreeSGD's;
    the class of the authors' package is AdamWScheduleFree.
    State: `z`, `exp_avg_sq` (v); in the groups that of ScheduleFreeSGD.

    >>> x = mg.tensor([3.0], requires_grad=True)
    >>> optimizer = mg.optim.ScheduleFreeAdamW([x], lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     ((x - 1) ** 2).sum().backward()
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> round(x.item(), 1)
    1.0
    """

    ranges = ("lr", "eps", "weight_decay", "r", "weight_lr_power", "betas")
    keeps = ("z", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)
