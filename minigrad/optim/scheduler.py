"""What all schedulers share: epochs, the rates in the groups, groups added later, checkpoints.

Design note
-----------
`lr_scheduler.py` describes how schedulers behave. This file must not know any one of them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, ClassVar

from ..checks import check_count, plain
from .optimizer import Optimizer


class LRScheduler:
    """The base class of schedulers: give `multiplier(epoch)`, or `get_lr()` for another form.

    optimizer: its groups' `lr` is set, at once and then by every `step()`.
    last_epoch: of a run that is resumed, after `optimizer.load_state_dict`; -1 starts a new one.
    Attributes: `last_epoch` counts the steps from 0; `base_lrs` are the initial rates.

    Raises KeyError for last_epoch from 0 on if a group has no `initial_lr`.

    >>> class Halving(mg.optim.lr_scheduler.LRScheduler):
    ...     def multiplier(self, epoch):
    ...         return 0.5**epoch
    >>> scheduler = Halving(mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    _moves_on_resuming = False  # as PyTorch's, whose rates differ here from one to the other
    _driven: ClassVar[tuple[str, ...]] = ("initial_lr", "lr")  # what it writes in the groups
    eta_min: float = 0.0  # the rate that a multiplier of 0 stands for

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = check_optimizer(self, optimizer)
        last_epoch = check_count(type(self).__name__, "last_epoch", last_epoch, least=-1)
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", plain(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"{type(self).__name__}: group {number} has no 'initial_lr', which resuming at "
                    f"last_epoch={last_epoch} needs; load the optimiser's state first, or leave "
                    "last_epoch at -1"
                )
        self.base_lrs = [plain(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._start()

    def multiplier(self, epoch: int) -> float:
        """What the initial learning rate is multiplied by at `epoch`."""
        raise NotImplementedError(
            f"{type(self).__name__} must define multiplier(epoch) or get_lr()"
        )

    def get_lr(self) -> list[float]:
        """The rates for `last_epoch`, one for each group, from those that the groups have now."""
        rates = self._rates_now()
        old = self.multiplier(self.last_epoch - 1) if self.last_epoch > 0 else 1.0
        new, low = self.multiplier(self.last_epoch), self.eta_min
        if new == old:
            return rates
        if old == 0:
            return [lr + (base - low) * new for lr, base in zip(rates, self.base_lrs, strict=True)]
        return [low + (lr - low) * (new / old) for lr in rates]

    def get_last_lr(self) -> list[float]:
        """The rates that the last step set, one for each group; see the example of the class."""
        return self._last_lr

    def step(self) -> None:
        """Go on to the next epoch; call it after `optimizer.step()`. The module has an example."""
        self._go_to(self.last_epoch + 1, self.get_lr)

    def _go_to(self, epoch: int, rates: Callable[[], list[float]]) -> None:
        """Set the epoch and the rates for it; after an error both are what they were."""
        groups = self.optimizer.param_groups
        self._join_new_groups()
        before, self.last_epoch = self.last_epoch, epoch
        try:
            values = [plain(lr) for lr in rates()]
            if len(values) != len(groups):
                raise ValueError(
                    f"{type(self).__name__}: get_lr gave {len(values)} rates for "
                    f"{len(groups)} parameter groups"
                )
        except BaseException:
            self.last_epoch = before
            raise
        for group, lr in zip(groups, values, strict=True):
            group["lr"] = lr
        self._last_lr = values

    def _join_new_groups(self) -> None:
        """Take in the groups that were added since."""
        groups = self.optimizer.param_groups
        known = vars(self).get("base_lrs", groups)  # without them there is nothing to join
        for number in range(len(known), len(groups)):
            self._join(groups[number], number)
            self.base_lrs.append(groups[number]["initial_lr"])

    def _join(self, group: dict[str, Any], number: int) -> None:
        """Give a group, that of this number, what the schedule needs; `initial_lr` at least."""
        group.setdefault("initial_lr", plain(group["lr"]))

    def _start(self) -> None:
        """The step that the constructor makes."""
        stays = self.last_epoch >= 0 and self._has_formula() and not self._moves_on_resuming
        self._go_to(self.last_epoch + 1, self._rates_now if stays else self.get_lr)

    def _restart(self) -> None:
        """Begin at epoch 0 with the initial rates, whatever the groups have now."""
        self._go_to(0, self._closed_form if self._has_formula() else self.get_lr)

    def _has_formula(self) -> bool:
        return type(self).get_lr is LRScheduler.get_lr

    def _rates_now(self) -> list[float]:
        return [plain(group["lr"]) for group in self.optimizer.param_groups]

    def _closed_form(self) -> list[float]:
        new, low = self.multiplier(self.last_epoch), self.eta_min
        return [low + (base - low) * new for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything but the optimiser, and of what it drives in the optimiser's groups.

        >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=0.5)
        >>> state = mg.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5).state_dict()
        >>> state.pop("groups")
        [{'initial_lr': 0.5, 'lr': 0.5}]
        >>> state
        {'gamma': 0.5, 'base_lrs': [0.5], 'last_epoch': 0, '_last_lr': [0.5]}
        """
        state = {name: _state_of(v) for name, v in vars(self).items() if name != "optimizer"}
        state["groups"] = [
            {name: plain(group[name]) for name in self._driven if name in group}
            for group in self.optimizer.param_groups
        ]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict()` of such a scheduler gave, and set the rates, or momenta, of
        the optimiser's groups to what they were then: before or after `optimizer.load_state_dict`.

        Raises ValueError, and changes nothing, if entries are missing (but `groups`, which PyTorch
        does not have; the rates are then the last that it set) or the optimiser has too few groups;
        unknown entries are left out.

        >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=0.5)
        >>> scheduler = mg.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> state = scheduler.state_dict()
        >>> scheduler.step()
        >>> scheduler.load_state_dict(state)
        >>> scheduler.last_epoch, optimizer.param_groups[0]["lr"]
        (0, 0.5)
        """
        self._check_state(state_dict)
        for name in vars(self).keys() - {"optimizer"}:
            setattr(self, name, _loaded(getattr(self, name), copy.deepcopy(state_dict[name])))
        # a group that the state does not have joined later
        for group, saved in zip(
            self.optimizer.param_groups, _saved_groups(state_dict), strict=False
        ):
            values = {name: plain(saved[name]) for name in self._driven if name in saved}
            if "betas" in values:
                values["betas"] = tuple(values["betas"])  # a list after JSON
            group.update(values)

    def _check_state(self, state: Any) -> None:
        name = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state, dict):
            raise TypeError(f"{name}: expected a dict, got {type(state).__name__}")
        missing = [key for key in vars(self) if key not in state and key != "optimizer"]
        if missing:
            raise ValueError(
                f"{name}: the state lacks {', '.join(missing)}; was it another scheduler's? "
                "Nothing was loaded"
            )
        for key in ("lr_lambdas", "_schedulers"):
            mine, saved = vars(self).get(key, []), state.get(key, [])
            if len(mine) != len(saved):
                raise ValueError(f"{name}: {key} has {len(saved)} entries, not {len(mine)}")
            for item, part in zip(mine, saved, strict=True):
                if isinstance(item, LRScheduler):
                    item._check_state(part)
        groups, count = _saved_groups(state), len(self.optimizer.param_groups)
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise ValueError(f"{name}: groups must be a list of dicts; nothing was loaded")
        if len(groups) > count:
            raise ValueError(
                f"{name}: the state has {len(groups)} parameter groups, the optimiser {count}; "
                "nothing was loaded"
            )
        for key, value in ((key, group[key]) for group in groups for key in group):
            for each in value if isinstance(value, (list, tuple)) else [value]:
                if key in self._driven and not isinstance(plain(each), (int, float)):
                    raise ValueError(
                        f"{name}: {key} must be a number, got {each!r:.40}; nothing was loaded"
                    )


def _saved_groups(state: dict[str, Any]) -> Any:
    """What was driven in the groups; PyTorch keeps the rates alone."""
    return state["groups"] if "groups" in state else [{"lr": lr} for lr in state["_last_lr"]]


def _loaded(mine: Any, saved: Any) -> Any:
    """The value of an attribute that `_state_of` gave `saved` for."""
    if isinstance(mine, list) and any(callable(m) or isinstance(m, LRScheduler) for m in mine):
        return [_loaded(item, part) for item, part in zip(mine, saved, strict=True)]
    if isinstance(mine, LRScheduler):
        mine.load_state_dict(saved)
        return mine
    if callable(mine):
        if saved:
            vars(mine).update(saved)
        return mine
    if isinstance(mine, Counter):  # which has text for keys after JSON
        return Counter({int(key): count for key, count in saved.items()})
    return saved


def check_optimizer(scheduler: Any, optimizer: Any) -> Optimizer:
    """`optimizer`, if it is one."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{type(scheduler).__name__}: expected an optimiser such as mg.optim.SGD(...), "
            f"got {type(optimizer).__name__}"
        )
    return optimizer


def _state_of(value: Any) -> Any:
    """What a checkpoint keeps of an attribute: of callables their attributes, of functions none."""
    if isinstance(value, list):
        return [_state_of(item) for item in value]
    if isinstance(value, LRScheduler):
        return value.state_dict()
    if callable(value):
        if isinstance(value, (FunctionType, MethodType, BuiltinFunctionType, type)):
            return None
        return dict(getattr(value, "__dict__", {}))
    return value


def per_group(owner: str, label: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """One value for each group: `value`, or its elements if it is a list or tuple."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [plain(value)] * count
    if len(value) != count:
        raise ValueError(
            f"{owner}: {label} has {len(value)} values, the optimiser {count} parameter groups"
        )
    return [plain(each) for each in value]
