"""Learning rate schedules, with PyTorch's names, defaults and values.

Design note
-----------
1. A schedule is one formula, `multiplier(epoch)`, the factor of the initial learning rate. A step
   multiplies the current rate of the group by multiplier(epoch) / multiplier(epoch - 1): the
   factors of several schedulers on one optimiser multiply, and rates changed elsewhere stay
   changed. This is PyTorch's "chainable form"; the "closed form", the initial rate times
   multiplier(epoch), is used when a sequence starts a schedule, and after a multiplier of 0.
2. LambdaLR, OneCycleLR and CosineAnnealingWarmRestarts set the rate directly, as in PyTorch.
3. The rate is kept in the optimiser's groups (`lr`), where users and other schedulers see it, with
   the initial rate next to it (`initial_lr`), where checkpoints keep it.
4. A scheduler's checkpoint includes the values it controls in the optimiser's groups: on resuming,
   constructor, optimiser state and scheduler state can come in any order.
5. A group added later joins at the next step: a scheduler that multiplies continues from the
   group's rate, one that sets the rate directly sets it for the new group too.
6. There is no warning for calls out of order (`scheduler.step()` before `optimizer.step()`).
7. Every constructor raises TypeError for an argument that is not a number, int or optimiser as
   documented, and ValueError for one out of the documented range.

>>> x = mg.ones(1, requires_grad=True)
>>> optimizer = mg.optim.SGD([x], lr=1.0)
>>> scheduler = mg.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
>>> rates = []
>>> for epoch in range(5):
...     optimizer.step()
...     rates += scheduler.get_last_lr()
...     scheduler.step()
>>> rates
[1.0, 1.0, 0.5, 0.5, 0.25]
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np

from ..checks import check_count, check_length, check_range, check_share, choice, flag, plain
from .optimizer import Optimizer, check_rate
from .schedule_free import _ScheduleFree
from .scheduler import LRScheduler, check_optimizer, per_group, undone_after_an_error

__all__ = [
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR",
    "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "OneCycleLR", "PolynomialLR",
    "ReduceLROnPlateau", "SWALR", "SequentialLR", "StepLR",
]  # fmt: skip
__dir__ = __all__.copy


def _milestones(owner: str, milestones: Iterable[int]) -> list[int]:
    listed = check_length(owner, "milestones", milestones)
    listed = [check_count(owner, "a milestone", value, least=0) for value in listed]
    if listed != sorted(listed):
        raise ValueError(f"{owner}: milestones must be in increasing order, got {listed}")
    return listed


# -------------------------------------------------------------------------------- one formula each
class LambdaLR(LRScheduler):
    """lr = initial lr * lr_lambda(epoch).

    lr_lambda: a function of the epoch, or a list of them, one per parameter group. The state_dict
        does not include functions; for other callables it includes the attributes.

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(self, optimizer)
        self.lr_lambdas = per_group("LambdaLR", "lr_lambda", lr_lambda, optimizer)
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(
                    "LambdaLR: lr_lambda must be a function of the epoch, "
                    f"got {type(function).__name__}"
                )
        super().__init__(optimizer, last_epoch)

    def _spread(self, count: int) -> None:
        """A function shared by all groups also applies to groups added later."""
        if all(function is self.lr_lambdas[0] for function in self.lr_lambdas):
            self.lr_lambdas = self.lr_lambdas[:1] * count

    def _check_state(self, state: Any) -> Any:
        if isinstance(state, dict) and isinstance(state.get("lr_lambdas"), list):
            self._spread(len(state["lr_lambdas"]) or 1)
        return super()._check_state(state)

    def get_lr(self) -> list[float]:
        """The initial rates times the values of the functions at `last_epoch`."""
        self._spread(len(self.base_lrs))
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=False)
        return [base * function(self.last_epoch) for base, function in pairs]


class StepLR(LRScheduler):
    """Multiply lr by gamma (nonnegative) every step_size epochs (a positive int).

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.25)
    >>> [scheduler.multiplier(epoch) for epoch in range(5)]
    [1.0, 1.0, 0.25, 0.25, 0.0625]
    """

    _moves_on_resuming = True

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size = check_count("StepLR", "step_size", step_size)
        self.gamma = check_range("StepLR", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def multiplier(self, epoch: int) -> float:
        """gamma to the number of whole steps so far."""
        return float(self.gamma) ** (epoch // self.step_size)


class MultiStepLR(LRScheduler):
    """Multiply lr by gamma (nonnegative) at each of the milestones (nonnegative ints in increasing
    order).

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5)
    >>> [scheduler.multiplier(epoch) for epoch in range(4)]
    [1.0, 0.5, 0.5, 0.25]
    """

    _moves_on_resuming = True

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = Counter(_milestones("MultiStepLR", milestones))
        self.gamma = check_range("MultiStepLR", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def multiplier(self, epoch: int) -> float:
        """gamma to the number of milestones reached."""
        reached = sum(n for milestone, n in self.milestones.items() if milestone <= epoch)
        return float(self.gamma) ** reached


class ConstantLR(LRScheduler):
    """Multiply lr by `factor`, in [0, 1], for the first total_iters epochs (a nonnegative int).

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> mg.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5).get_last_lr()
    [0.5]
    """

    _moves_on_resuming = True

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.factor = check_share("ConstantLR", "factor", factor)
        self.total_iters = check_count("ConstantLR", "total_iters", total_iters, least=0)
        super().__init__(optimizer, last_epoch)

    def multiplier(self, epoch: int) -> float:
        """The factor before total_iters, 1 afterwards."""
        return float(self.factor) if epoch < self.total_iters else 1.0


class LinearLR(LRScheduler):
    """Multiply lr by a factor that changes from start_factor, in (0, 1], to end_factor, in [0, 1],
    in total_iters equal steps (a positive int).

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> [scheduler.multiplier(epoch) for epoch in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = check_share("LinearLR", "start_factor", start_factor)
        self.end_factor = check_share("LinearLR", "end_factor", end_factor)
        if self.start_factor == 0:
            raise ValueError("LinearLR: start_factor must be greater than 0")
        self.total_iters = check_count("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def multiplier(self, epoch: int) -> float:
        """Linear in the epoch up to total_iters."""
        done = min(epoch, self.total_iters) / self.total_iters
        return float(self.start_factor + (self.end_factor - self.start_factor) * done)


class ExponentialLR(LRScheduler):
    """Multiply lr by gamma (nonnegative) every epoch.

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> [scheduler.multiplier(epoch) for epoch in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = check_range("ExponentialLR", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def multiplier(self, epoch: int) -> float:
        """gamma to the epoch."""
        return float(self.gamma) ** epoch


class PolynomialLR(LRScheduler):
    """Decay lr to 0 in total_iters epochs (a positive int): (1 - epoch / total_iters) to the given
    power (nonnegative).

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=2, power=2.0)
    >>> [scheduler.multiplier(epoch) for epoch in range(4)]
    [1.0, 0.25, 0.0, 0.0]
    """

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        self.total_iters = check_count("PolynomialLR", "total_iters", total_iters)
        self.power = check_range("PolynomialLR", "power", power)
        super().__init__(optimizer, last_epoch)

    def multiplier(self, epoch: int) -> float:
        """The polynomial; 0 from total_iters on."""
        return float((1 - min(epoch, self.total_iters) / self.total_iters) ** self.power)


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (initial lr - eta_min) (1 + cos(π epoch / T_max)) / 2.

    This is equation 5 of Loshchilov & Hutter 2017, without restarts: after T_max epochs lr rises.
    T_max is a positive int, eta_min is nonnegative.

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    >>> [scheduler.multiplier(epoch) for epoch in range(5)]
    [1.0, 0.5, 0.0, 0.5, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max = check_count("CosineAnnealingLR", "T_max", T_max)
        self.eta_min = check_range("CosineAnnealingLR", "eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def multiplier(self, epoch: int) -> float:
        """Half a cosine wave from 1 to 0, and back."""
        return (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class SWALR(LRScheduler):
    """Anneal lr from its value now to swa_lr in anneal_epochs epochs, and leave it there: the rate
    of stochastic weight averaging (Izmailov et al. 2018), see `optim.AveragedModel`.

    swa_lr is nonnegative, a list with a value per parameter group, or a tensor with a value per
    member of an nn.Ensemble; it is kept in the groups, and one added later has that of the first.
    anneal_epochs is a nonnegative int, anneal_strategy "cos" or "linear".

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.SWALR(optimizer, swa_lr=0.5, anneal_epochs=2)
    >>> rates = []
    >>> for _ in range(4):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> rates
    [1.0, 0.75, 0.5, 0.5]
    """

    driven: ClassVar[tuple[str, ...]] = (*LRScheduler.driven, "swa_lr")
    _in_pytorch: ClassVar[Any] = {"anneal_strategy": itemgetter("_anneal_strategy")}

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(self, optimizer)
        self.anneal_epochs = check_count("SWALR", "anneal_epochs", anneal_epochs, least=0)
        self.anneal_strategy = choice(anneal_strategy, "SWALR: anneal_strategy", "cos", "linear")
        last_rates = per_group("SWALR", "swa_lr", swa_lr, optimizer)
        last_rates = [check_rate("SWALR", "swa_lr", lr) for lr in last_rates]
        with undone_after_an_error(optimizer):
            for group, lr in zip(optimizer.param_groups, last_rates, strict=True):
                group["swa_lr"] = lr
            super().__init__(optimizer, last_epoch)

    def _join(self, group: dict[str, Any], number: int) -> None:
        super()._join(group, number)
        group.setdefault("swa_lr", plain(self.optimizer.param_groups[0]["swa_lr"]))

    def multiplier(self, epoch: int) -> float:
        """From 1 to 0 along half a cosine wave, or a line."""
        left = 1 - min(epoch / self.anneal_epochs, 1) if self.anneal_epochs else 0.0
        return left if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * left)) / 2

    def get_lr(self) -> list[float]:
        """The rates between those now and swa_lr; once it is reached, swa_lr whatever they are."""
        old = self.multiplier(self.last_epoch - 1) if self.last_epoch > 0 else 1.0
        new = self.multiplier(self.last_epoch)
        share = new / old if new else 0.0
        ends = [group["swa_lr"] for group in self.optimizer.param_groups]
        return [end + (lr - end) * share for lr, end in zip(self._rates_now(), ends, strict=True)]


class CosineAnnealingWarmRestarts(LRScheduler):
    """Cosine annealing that restarts after T_0 epochs, then T_0 T_mult, then T_0 T_mult², ...
    (SGDR, Loshchilov & Hutter 2017, equation 5).

    T_0 and T_mult are positive ints, eta_min is nonnegative. Attributes: `T_cur`, the number of
    epochs since the last restart, and `T_i`, the number between two restarts.

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        name = "CosineAnnealingWarmRestarts"
        self.T_0, self.T_mult = check_count(name, "T_0", T_0), check_count(name, "T_mult", T_mult)
        self.eta_min = check_range(name, "eta_min", eta_min)
        self.T_i: int = self.T_0
        self.T_cur: float = check_count(name, "last_epoch", last_epoch, least=-1)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The cosine at T_cur out of T_i."""
        new, low = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2, self.eta_min
        return [low + (base - low) * new for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Advance to the next epoch, or to any nonnegative epoch, which may be fractional.

        >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
        >>> scheduler = mg.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)
        >>> scheduler.step(2 / 3)
        >>> round(scheduler.get_last_lr()[0], 6)
        0.75
        """
        if epoch is None:
            epoch, position, length = self.last_epoch + 1, self.T_cur + 1, self.T_i
        else:
            epoch = check_range("CosineAnnealingWarmRestarts", "epoch", epoch, upper=2**63)
            position, length = epoch, self.T_0
        if self.T_mult == 1:
            position %= length
        while position >= length:
            position -= length
            length *= self.T_mult
        before = self.T_cur, self.T_i
        self.T_cur, self.T_i = position, length
        try:
            self._go_to(math.floor(epoch), self.get_lr)
        except BaseException:
            self.T_cur, self.T_i = before
            raise

    def _start(self) -> None:
        self.step(0 if self.last_epoch < 0 else None)

    def _restart(self) -> None:
        self.step(0)


class OneCycleLR(LRScheduler):
    """The 1cycle policy (Smith & Topin 2018): lr rises to max_lr and falls far below its start.

    In the first pct_start of the steps lr rises from max_lr / div_factor to max_lr, then it falls
    to max_lr / div_factor / final_div_factor; with three_phase it first returns to its start in as
    many steps as it rose, and falls to the end in the remaining steps. Step the scheduler after
    every batch.

    total_steps: the length of the cycle; alternatively the product of epochs and steps_per_epoch.
    anneal_strategy: 'cos' or 'linear' interpolation between two values.
    cycle_momentum: move the momentum, or beta1, inversely, from max_momentum to base_momentum and
        back.
    max_lr, base_momentum and max_momentum can be lists with a value per parameter group, max_lr
    also a tensor with a value per member of an nn.Ensemble. A group added later uses the bounds of
    the others; if these differ, set its `max_lr`, `min_lr`, `initial_lr`, `max_momentum` and
    `base_momentum` in `optimizer.param_groups`.
    Raises ValueError if cycle_momentum is set for an optimiser without momentum or betas, or a
    schedule-free one, and for a step beyond the total.

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=0.1, momentum=0.9)
    >>> scheduler = mg.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> scheduler.get_last_lr(), optimizer.param_groups[0]["momentum"]
    ([1.0], 0.85)
    """

    _in_pytorch: ClassVar[Any] = {
        "anneal_strategy": itemgetter("_anneal_func_type"),
        "three_phase": lambda s: len(s["_schedule_phases"]) == 3,
        "pct_start": lambda s: (s["_schedule_phases"][0]["end_step"] + 1) / s["total_steps"],
    }

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        owner = "OneCycleLR"
        check_optimizer(self, optimizer)
        if total_steps is not None:
            self.total_steps = check_count(owner, "total_steps", total_steps)
        elif epochs is not None and steps_per_epoch is not None:
            self.total_steps = check_count(owner, "epochs", epochs)
            self.total_steps *= check_count(owner, "steps_per_epoch", steps_per_epoch)
        else:
            raise ValueError(f"{owner}: give total_steps, or both epochs and steps_per_epoch")
        self.pct_start = check_share(owner, "pct_start", pct_start)
        divisors = [check_range(owner, "divisor", d) for d in (div_factor, final_div_factor)]
        if 0 in divisors:
            raise ValueError(f"{owner}: div_factor and final_div_factor must not be 0")
        self.anneal_strategy = choice(anneal_strategy, f"{owner}: anneal_strategy", "cos", "linear")
        self.three_phase = flag(three_phase, f"{owner}: three_phase")
        self.cycle_momentum = flag(cycle_momentum, f"{owner}: cycle_momentum")
        bounds = {"max_lr": max_lr}
        if cycle_momentum:
            if not {"momentum", "betas"} & set(optimizer.defaults):
                raise ValueError(
                    f"{owner}: {type(optimizer).__name__} has neither momentum nor betas to cycle; "
                    "pass cycle_momentum=False"
                )
            if isinstance(optimizer, _ScheduleFree):
                raise ValueError(
                    f"{owner}: the momentum of {type(optimizer).__name__} must not change, for it "
                    "places the parameters between the mean and z; pass cycle_momentum=False"
                )
            bounds |= {"max_momentum": max_momentum, "base_momentum": base_momentum}
        columns = {}
        for name, bound in bounds.items():
            check = check_rate if name == "max_lr" else check_range
            values = per_group(owner, name, bound, optimizer)
            columns[name] = [check(owner, name, value) for value in values]
        with undone_after_an_error(optimizer):
            for number, group in enumerate(optimizer.param_groups if last_epoch == -1 else ()):
                group.update({name: column[number] for name, column in columns.items()})
                group["initial_lr"] = group["max_lr"] / divisors[0]
                group["min_lr"] = group["initial_lr"] / divisors[1]
            super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates for `last_epoch`; also sets the momenta."""
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"OneCycleLR: step {self.last_epoch} exceeds the {self.total_steps} of the cycle"
            )
        rates = self._cycled(0)
        if self.cycle_momentum:
            self._set_momenta()
        return rates

    def _set_momenta(self) -> None:
        groups = self.optimizer.param_groups
        for group, momentum in zip(groups, self._cycled(1), strict=True):
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum

    @property
    def driven(self) -> tuple[str, ...]:  # type: ignore[override]
        """The options it writes: with cycle_momentum also the momenta and their bounds."""
        momenta = ("momentum", "betas", "max_momentum", "base_momentum")
        return ("initial_lr", "lr", "max_lr", "min_lr", *momenta[: 4 * self.cycle_momentum])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Like the base class; also loads the momenta."""
        super().load_state_dict(state_dict)
        if self.cycle_momentum and "groups" not in state_dict:
            self._set_momenta()

    def _join(self, group: dict[str, Any], number: int) -> None:
        """Give the group the bounds shared by all the others, unless it has its own."""
        own = group if "max_lr" in group else {}
        lacking = set(self.driven) - {"lr", "momentum", "betas"} - set(own)
        bounds = {}
        for name in lacking:
            first, *others = (other[name] for other in self.optimizer.param_groups[:number])
            if not all(np.array_equal(first, other) for other in others):
                raise ValueError(
                    f"OneCycleLR: parameter group {number} was added later and the others differ "
                    f"in {name}; set it, max_lr first, in optimizer.param_groups[{number}]"
                )
            bounds[name] = plain(first)
        group.update(bounds)

    def _cycled(self, which: int) -> list[Any]:
        """The rates (0) or momenta (1) for `last_epoch`."""
        done, *ends = self._phase()
        names = [end[which] for end in ends]
        return [self._between(group, names, done) for group in self.optimizer.param_groups]

    def _phase(self) -> tuple[float, tuple[str, str], tuple[str, str]]:
        """The completed share of the current phase, and the rate and momentum at its two ends."""
        rise = self.pct_start * self.total_steps - 1
        knots = [
            (0.0, ("initial_lr", "max_momentum")),
            (rise, ("max_lr", "base_momentum")),
            (2 * rise, ("initial_lr", "max_momentum")),
            (self.total_steps - 1, ("min_lr", "max_momentum")),
        ]
        if not self.three_phase:
            del knots[2]
        number = bisect_left([end for end, _ in knots[1:-1]], self.last_epoch)
        (begin, start), (end, stop) = knots[number : number + 2]
        return (self.last_epoch - begin) / (end - begin) if end != begin else 1.0, start, stop

    def _between(self, group: dict[str, Any], names: list[str], done: float) -> Any:
        start, end = (plain(group[name]) for name in names)
        if self.anneal_strategy == "cos":
            done = (1 - math.cos(math.pi * done)) / 2
        return start + (end - start) * done


# ------------------------------------------------------------------- driven by schedules and losses
class SequentialLR(LRScheduler):
    """Run schedulers one after another: schedulers[i] starts, at its epoch 0, at milestones[i - 1].

    Raises ValueError for an empty list, schedulers of another optimiser, ReduceLROnPlateau (whose
    step needs a metric), and milestones that are not in order or not one fewer than the schedulers.

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> warm_up = mg.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> decay = mg.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = mg.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], [2])
    >>> rates = []
    >>> for _ in range(5):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> rates
    [0.5, 0.75, 1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = check_optimizer(self, optimizer)
        schedulers = check_length("SequentialLR", "schedulers", schedulers)
        if not schedulers:
            raise ValueError("SequentialLR: expected at least one scheduler, got none")
        for number, scheduler in enumerate(schedulers):
            place = f"SequentialLR: scheduler {number}"
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"{place} must be a scheduler, got {type(scheduler).__name__}")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"{place} is a ReduceLROnPlateau, whose step needs a metric")
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"{place} belongs to another optimiser")
        self._milestones = _milestones("SequentialLR", milestones)
        if len(self._milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} "
                f"milestones, got {len(self._milestones)}"
            )
        self._schedulers = schedulers
        self.last_epoch = check_count("SequentialLR", "last_epoch", last_epoch, least=-1)
        self._start()

    def step(self) -> None:
        """Advance to the next epoch with the scheduler whose turn it is."""
        epoch = self.last_epoch + 1
        turn = bisect_right(self._milestones, epoch)
        scheduler = self._schedulers[turn]
        if turn and self._milestones[turn - 1] == epoch:
            scheduler._restart()
        else:
            scheduler.step()
        self.last_epoch, self._last_lr = epoch, scheduler.get_last_lr()

    def _start(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = plain(group.setdefault("initial_lr", group["lr"]))
        scheduler = self._schedulers[bisect_right(self._milestones, 0)]
        scheduler.last_epoch = -1
        scheduler._start()
        self.last_epoch, self._last_lr = self.last_epoch + 1, scheduler.get_last_lr()

    def _restart(self) -> None:
        self.last_epoch = -1
        self._start()


class ReduceLROnPlateau(LRScheduler):
    """Multiply lr by factor when a metric has not improved for more than patience epochs.

    mode: 'min' or 'max', whether lower or higher is better. threshold: the smallest improvement
    that counts, relative to the magnitude of the best value with threshold_mode 'rel', absolute
    with 'abs'. cooldown: the number of epochs after a reduction in which bad epochs do not count.
    min_lr: a lower bound for lr, a list of bounds per group, or a tensor of bounds per member of an
    nn.Ensemble. eps: skip smaller reductions.
    A NaN is never better. Attributes: `best`, `num_bad_epochs`, `cooldown_counter`.

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler = mg.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    >>> for loss in (5.0, 4.0, 4.0, 4.0):
    ...     scheduler.step(loss)
    >>> scheduler.get_last_lr()
    [0.1]
    """

    driven: ClassVar[tuple[str, ...]] = ("lr",)

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        owner = "ReduceLROnPlateau"
        self.optimizer = check_optimizer(self, optimizer)
        self.mode = choice(mode, f"{owner}: mode", "min", "max")
        self.threshold_mode = choice(threshold_mode, f"{owner}: threshold_mode", "rel", "abs")
        self.factor = check_range(owner, "factor", factor, upper=1)
        self.threshold = check_range(owner, "threshold", threshold)
        self.eps = check_range(owner, "eps", eps)
        self.patience = check_count(owner, "patience", patience, least=0)
        self.cooldown = check_count(owner, "cooldown", cooldown, least=0)
        bounds = per_group(owner, "min_lr", min_lr, optimizer)
        self.min_lrs = [check_rate(owner, "min_lr", bound) for bound in bounds]
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0
        self._last_lr = self._rates_now()

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Record the metric of an epoch, a number, and reduce the rates if it is time."""
        try:
            current = float(metrics)
        except (TypeError, ValueError):
            raise TypeError(
                f"ReduceLROnPlateau: the metric must be a number, got {type(metrics).__name__}"
            ) from None
        self.last_epoch += 1
        self.num_bad_epochs += 1
        if self._is_better(current):
            self.best, self.num_bad_epochs = current, 0
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self._rates_now()

    def _is_better(self, current: float) -> bool:
        sign, margin = 1 if self.mode == "min" else -1, float(self.threshold)
        if self.threshold_mode == "rel" and math.isfinite(self.best):
            margin *= abs(self.best)  # lower is better below 0 too
        return sign * current < sign * self.best - margin

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        bounds = self.min_lrs + self.min_lrs[-1:] * (len(groups) - len(self.min_lrs))
        for group, least in zip(groups, bounds, strict=True):
            lr = plain(group["lr"])
            reduced = np.maximum(lr * self.factor, least)
            group["lr"] = plain(np.where(lr - reduced > self.eps, reduced, lr))
