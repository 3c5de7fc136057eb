"""The base class of schedulers: epochs, the rates of the groups, groups added later, checkpoints.

Design note
-----------
`lr_scheduler.py` describes how schedulers behave. This file must not know any particular one.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, ClassVar

import numpy as np

from ..checks import check_count, instance, plain
from ..namespace import Constructed
from .optimizer import Optimizer


class LRScheduler(Constructed):
    """The base class of schedulers: define `multiplier(epoch)`, or `get_lr()` for another form.

    optimizer: its groups' `lr` is set by the constructor and by every `step()`.
    last_epoch: of a resumed run, after `optimizer.load_state_dict`; -1 starts a new run.
    Attributes: `last_epoch` counts the steps from 0; `base_lrs` are the initial rates. A subclass
    that writes other options than the rate into the groups lists all of them in its class attribute
    `driven`: these are saved with the scheduler, and restored in any order of loading.

    Raises KeyError if last_epoch is not -1 and a group has no `initial_lr`.

    >>> class Halving(mg.optim.lr_scheduler.LRScheduler):
    ...     def multiplier(self, epoch):
    ...         return 0.5**epoch
    >>> scheduler = Halving(mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    _moves_on_resuming = False  # follows PyTorch, where it varies between schedulers
    driven: ClassVar[tuple[str, ...]] = ("initial_lr", "lr")
    # attributes that PyTorch saves in another form: how to find them in its state
    _in_pytorch: ClassVar[dict[str, Callable[[dict[str, Any]], Any]]] = {}
    eta_min: float = 0.0  # the rate for a multiplier of 0

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = check_optimizer(self, optimizer)
        last_epoch = check_count(type(self).__name__, "last_epoch", last_epoch, least=-1)
        with undone_after_an_error(optimizer):
            for number, group in enumerate(optimizer.param_groups):
                if last_epoch == -1:
                    group.setdefault("initial_lr", plain(group["lr"]))
                elif "initial_lr" not in group:
                    raise KeyError(
                        f"{type(self).__name__}: group {number} has no 'initial_lr', which "
                        f"resuming at last_epoch={last_epoch} needs; load the optimiser's state "
                        "first, or leave last_epoch at -1"
                    )
            self.base_lrs = [plain(group["initial_lr"]) for group in optimizer.param_groups]
            self.last_epoch = last_epoch
            self._start()

    def __repr__(self) -> str:
        plain_ones = (bool, int, float, str, tuple)
        shown = {
            name: value
            for name, value in vars(self).items()
            if name[0] != "_" and isinstance(value, plain_ones)
        }
        options = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({options}, lr={vars(self).get('_last_lr')})"

    def multiplier(self, epoch: int) -> float:
        """The factor of the initial learning rate at `epoch`."""
        name = type(self).__name__
        raise NotImplementedError(f"{name} must define multiplier(epoch) or get_lr()")

    def get_lr(self) -> list[float]:
        """The rates for `last_epoch`, one per group, computed from the current rates."""
        rates = self._rates_now()
        old = self.multiplier(self.last_epoch - 1) if self.last_epoch > 0 else 1.0
        new, low = self.multiplier(self.last_epoch), self.eta_min
        if new == old:
            return rates
        if old == 0:
            return [lr + (base - low) * new for lr, base in zip(rates, self.base_lrs, strict=True)]
        return [low + (lr - low) * (new / old) for lr in rates]

    def get_last_lr(self) -> list[float]:
        """The rates set by the last step, one per group; see the example of the class."""
        return self._last_lr

    def step(self) -> None:
        """Advance one epoch; call it after `optimizer.step()`. The module has an example."""
        self._go_to(self.last_epoch + 1, self.get_lr)

    def _go_to(self, epoch: int, rates: Callable[[], list[float]]) -> None:
        """Set the epoch and its rates; an error leaves both unchanged."""
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
            group["lr"] = plain(lr)
        self._last_lr = values

    def _join_new_groups(self) -> None:
        """Include the groups added since the last step."""
        groups = self.optimizer.param_groups
        known = vars(self).get("base_lrs", groups)  # without them there is nothing to join
        for number in range(len(known), len(groups)):
            self._join(groups[number], number)
            self.base_lrs.append(groups[number]["initial_lr"])

    def _join(self, group: dict[str, Any], number: int) -> None:
        """Give the group with this number what the schedule needs, at least `initial_lr`."""
        group.setdefault("initial_lr", plain(group["lr"]))

    def _start(self) -> None:
        """The step made by the constructor."""
        stays = self.last_epoch >= 0 and self._has_formula() and not self._moves_on_resuming
        self._go_to(self.last_epoch + 1, self._rates_now if stays else self.get_lr)

    def _restart(self) -> None:
        """Start at epoch 0 with the initial rates, whatever the current rates are."""
        self._go_to(0, self._closed_form if self._has_formula() else self.get_lr)

    def _has_formula(self) -> bool:
        return type(self).get_lr is LRScheduler.get_lr

    def _rates_now(self) -> list[float]:
        return [plain(group["lr"]) for group in self.optimizer.param_groups]

    def _closed_form(self) -> list[float]:
        new, low = self.multiplier(self.last_epoch), self.eta_min
        return [low + (base - low) * new for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything except the optimiser, and of the values it controls in the groups.

        >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=0.5)
        >>> state = mg.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5).state_dict()
        >>> state.pop("groups")
        [{'initial_lr': 0.5, 'lr': 0.5}]
        >>> state
        {'gamma': 0.5, 'base_lrs': [0.5], 'last_epoch': 0, '_last_lr': [0.5]}
        """
        state = {name: _state_of(v) for name, v in vars(self).items() if name != "optimizer"}
        state["groups"] = [
            {name: _state_of(plain(group[name])) for name in self.driven if name in group}
            for group in self.optimizer.param_groups
        ]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the `state_dict()` of such a scheduler, and restore the rates, or momenta, in the
        optimiser's groups. Call it before or after `optimizer.load_state_dict`.

        Raises ValueError, without changing anything, if the optimiser has too few groups or entries
        are missing (except `groups`, which PyTorch does not have; its last rates are used instead)
        or of another kind; unknown entries are ignored.

        >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=0.5)
        >>> scheduler = mg.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> state = scheduler.state_dict()
        >>> scheduler.step()
        >>> scheduler.load_state_dict(state)
        >>> scheduler.last_epoch, optimizer.param_groups[0]["lr"]
        (0, 0.5)
        """
        state_dict = self._check_state(state_dict)
        for name in vars(self).keys() - {"optimizer"}:
            setattr(self, name, _loaded(getattr(self, name), copy.deepcopy(state_dict[name])))
        pairs = zip(self.optimizer.param_groups, _saved_groups(state_dict), strict=False)
        for group, saved in pairs:  # groups missing from the state were added later
            for name in set(self.driven) & set(saved):
                pair = isinstance(group.get(name), tuple) and isinstance(saved[name], list)
                group[name] = tuple(saved[name]) if pair else _rate(saved[name])  # after JSON

    def _check_state(self, state: Any) -> Any:
        """Raise for a state that does not fit; return it, with what PyTorch spells otherwise."""
        name = f"{type(self).__name__}.load_state_dict"
        state = {**instance(state, dict, f"{name}: expected a dict")}
        for key, found in self._in_pytorch.items() if "_step_count" in state else ():
            with suppress(KeyError, TypeError, IndexError, ZeroDivisionError):
                state.setdefault(key, found(state))
        missing = [key for key in vars(self) if key not in state and key != "optimizer"]
        if missing:
            raise ValueError(
                f"{name}: the state lacks {', '.join(missing)}; is it from another scheduler? "
                "Nothing was loaded"
            )
        for key in vars(self).keys() - {"optimizer"}:
            _check_saved(name, key, getattr(self, key), state[key])
        groups, count = _saved_groups(state), len(self.optimizer.param_groups)
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise ValueError(f"{name}: groups must be a list of dicts; nothing was loaded")
        if len(groups) > count:
            raise ValueError(
                f"{name}: the state has {len(groups)} parameter groups, the optimiser {count}; "
                "nothing was loaded"
            )
        for key, value in ((key, group[key]) for group in groups for key in group):
            if key in self.driven and not _is_numeric(value):
                raise ValueError(
                    f"{name}: {key} must be a number, got {value!r:.40}; nothing was loaded"
                )
        return state


def _saved_groups(state: dict[str, Any]) -> Any:
    """The controlled values of the groups; PyTorch keeps only the rates."""
    return state["groups"] if "groups" in state else [{"lr": lr} for lr in state["_last_lr"]]


def _is_numeric(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except ValueError:  # lists of different lengths
        return False


def _rate(saved: Any) -> Any:
    """A rate, or those of the members of an nn.Ensemble, of which `_state_of` made a list."""
    return np.array(saved) if isinstance(saved, list) else plain(saved)


def _has_parts(value: Any) -> bool:
    """Whether it is a list of schedulers or functions, each with a state."""
    return isinstance(value, list) and any(callable(v) or isinstance(v, LRScheduler) for v in value)


def _check_saved(name: str, key: str, mine: Any, saved: Any) -> None:
    """Raise for a state of an attribute that `_loaded` cannot load."""
    fits = True
    if isinstance(mine, LRScheduler):
        mine._check_state(saved)
    elif callable(mine):
        fits = not saved or isinstance(saved, dict)
    elif isinstance(mine, list):
        fits = isinstance(saved, (list, tuple))
        if fits and _has_parts(mine):
            if len(mine) != len(saved):
                raise ValueError(f"{name}: {key} has {len(saved)} entries, not {len(mine)}")
            for item, part in zip(mine, saved, strict=True):
                _check_saved(name, key, item, part)
    elif isinstance(mine, Counter):
        fits = isinstance(saved, dict) and all(str(epoch).isdecimal() for epoch in saved)
    elif isinstance(mine, (int, float)):
        fits = saved is None or (np.ndim(saved) == 0 and _is_numeric(saved))
    if not fits:
        raise ValueError(
            f"{name}: {key} is {saved!r:.40}, where this scheduler has {mine!r:.40}; nothing was "
            "loaded"
        )


def _loaded(mine: Any, saved: Any) -> Any:
    """The value of an attribute, from what `_state_of` saved."""
    if _has_parts(mine):
        return [_loaded(item, part) for item, part in zip(mine, saved, strict=True)]
    if isinstance(mine, LRScheduler):
        mine.load_state_dict(saved)
        return mine
    if callable(mine):
        if saved:
            vars(mine).update(saved)
        return mine
    if isinstance(mine, Counter):  # JSON turned its keys into text
        return Counter({int(key): count for key, count in saved.items()})
    if isinstance(mine, list) and all(isinstance(m, (int, float, np.ndarray)) for m in mine):
        return [_rate(each) for each in saved]
    return np.array(saved, mine.dtype) if isinstance(mine, np.ndarray) else saved


def check_optimizer(scheduler: Any, optimizer: Any) -> Optimizer:
    """Return `optimizer`; raise TypeError if it is not one."""
    must = f"{type(scheduler).__name__}: expected an optimiser such as mg.optim.SGD(...)"
    return instance(optimizer, Optimizer, must)


def _state_of(value: Any) -> Any:
    """What a checkpoint keeps of an attribute: attributes of callables, nothing of functions."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_state_of(item) for item in value]
    if isinstance(value, LRScheduler):
        return value.state_dict()
    if callable(value):
        if isinstance(value, (FunctionType, MethodType, BuiltinFunctionType, type)):
            return None
        return dict(getattr(value, "__dict__", {}))
    return value


@contextmanager
def undone_after_an_error(optimizer: Optimizer) -> Iterator[None]:
    """Restore the options of all groups if the block raises."""
    before = [dict(group) for group in optimizer.param_groups]
    try:
        yield
    except BaseException:
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.clear()
            group.update(old)
        raise


def per_group(owner: str, label: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """One value per group: `value`, or its elements if it is a list or tuple."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [plain(value)] * count
    if len(value) != count:
        raise ValueError(
            f"{owner}: {label} has {len(value)} values, the optimiser {count} parameter groups"
        )
    return [plain(each) for each in value]
