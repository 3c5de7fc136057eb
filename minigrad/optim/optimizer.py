"""The base class of optimisers: parameter groups, state, checkpoints, and the step over all groups.

Design note
-----------
1. A subclass provides the rule for one parameter (`update_rule`); this file has everything else. A
   rule is an `Update`, which names a formula of `_core/formulas.py` and runs its loop with these
   options, or any function of three arguments. It gets raw C-contiguous arrays, and nothing is
   recorded.
2. Options are read from `param_groups` at every step, because schedulers write there.
3. A step is on the hot path of training: it is one compiled call for all groups. The call checks
   every parameter before it writes to the first: a read-only parameter raises before anything has
   changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from .._core.engine.graph import Tensor
from .._core.fast.updates import Update, apply_updates, drop_gradients
from ..autograd import enable_grad
from ..checks import check_range, flag, instance, plain

__all__ = ["Optimizer"]

LABELS = {"lr": "learning rate", "eps": "epsilon value"}  # the names in PyTorch's errors
FLAGS = {"amsgrad", "centered", "decoupled_weight_decay", "maximize", "nesterov"}
Rule = Callable[[np.ndarray, np.ndarray, "dict[str, Any]"], None]


class Optimizer:
    """The base class of optimisers.

    params: an iterable of leaf Tensors, or of dicts, each with `params` and the options that differ
        from `defaults` for them. `step` skips Tensors without a gradient.
    defaults: the options of groups that do not set their own. unknown: options passed to a subclass
        that does not have them.

    Raises TypeError unless params is an iterable of Tensors or dicts, for Tensors of integers or
    bools and for unknown options; ValueError for an empty list, a tensor that is not a leaf or
    occurs twice, and options out of range: of the options in `ranges`, betas must be in [0, 1), and
    the others must not be negative.

    To write an optimiser, provide the rule for one parameter:

    >>> class SignDescent(mg.optim.Optimizer):
    ...     def update_rule(self, group):
    ...         def update(parameter, gradient, state):
    ...             parameter -= group["lr"] * np.sign(gradient)
    ...         return update
    >>> x = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> SignDescent([x], {"lr": 0.25}).step()
    >>> x
    tensor([ 0.75, -0.75], requires_grad=True)
    """

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], unknown: Iterable[str] = ()
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, defaults)
        self.defaults: dict[str, Any] = {name: plain(value) for name, value in defaults.items()}
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.check_options(self.defaults)
        entries = self._listed(params)
        if not entries:
            raise ValueError(
                f"{type(self).__name__}: got an empty parameter list; nothing to optimise"
            )
        for group in entries if isinstance(entries[0], dict) else [{"params": entries}]:
            self.add_param_group(group)

    # ------------------------------------------------------------------ defined by subclasses
    rule: str = ""  # the name of a formula
    ranges: tuple[str, ...] = ()  # the options that must not be negative; or betas
    keeps: tuple[str, ...] = ()  # per parameter: `step`, `mu_product`, then arrays of its shape
    progress: ClassVar[dict[str, Any]] = {}  # per group: numbers that a step changes, at first
    may_be_missing: tuple[str, ...] = ()  # options that a checkpoint may lack, PyTorch's for one
    mixes = False  # whether elements of a parameter affect each other's steps

    def update_rule(self, group: dict[str, Any]) -> Rule:
        """A function (parameter, gradient, state) that updates one parameter of the group in place.

        It gets C-contiguous arrays of the same shape and dtype, and the state dict of the
        parameter, initially empty. By default an optimiser runs the compiled `rule`.
        """
        if not self.rule:
            raise NotImplementedError(
                f"{type(self).__name__}: an optimiser must define update_rule(group)"
            )
        return Update(self.rule, self.state_names(group), group)

    def check_options(self, group: dict[str, Any]) -> None:
        """Raise if an option in `group` is invalid."""
        owner = type(self).__name__
        for name in FLAGS & group.keys():
            flag(group[name], f"{owner}: {name}")
        for name in self.ranges:
            value = group[name]
            if name == "lr" and self.rule:
                group["lr"] = check_rate(owner, "learning rate", value)
                continue
            if name == "lr" and is_listed(value):
                raise TypeError(
                    f"{owner}: the learning rate must be one number, got {value!r:.60}; rates for "
                    "the members of an nn.Ensemble need an optimiser such as SGD or Adam"
                )
            if name != "betas":
                check_range(owner, LABELS.get(name, f"{name} value"), value)
                continue
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise TypeError(
                    f"{owner}: betas must be a pair of numbers such as (0.9, 0.999), got {value!r}"
                )
            for index, beta in enumerate(value):
                check_range(owner, f"beta parameter at index {index}", beta, upper=1)

    def state_names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """`keeps`; an override returns None in place of an array that the options do not need."""
        return self.keeps

    # ------------------------------------------------------------------ groups
    def _listed(self, params: Any) -> list[Any]:
        if isinstance(params, (Tensor, dict, set, str)) or not isinstance(params, Iterable):
            raise TypeError(
                f"{type(self).__name__}: params must be a list or other ordered iterable of "
                f"Tensors, or of dicts with 'params', got {type(params).__name__}; "
                "pass model.parameters(), or [x] for one tensor x"
            )
        return list(params)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a dict of `params` (a Tensor or an iterable of them) and options, with defaults.

        >>> optimizer = mg.optim.SGD([mg.ones(2, requires_grad=True)], lr=0.1)
        >>> optimizer.add_param_group({"params": mg.ones(3, requires_grad=True), "lr": 0.01})
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.01]
        """
        owner = type(self).__name__
        given: Any = param_group
        instance(given, dict, f"{owner}: a parameter group is a dict")
        if "params" not in given:
            raise ValueError(f"{owner}: a parameter group needs 'params', got keys {list(given)}")
        params = given["params"]
        params = [params] if isinstance(params, Tensor) else self._listed(params)
        refuse_unknown(owner, given, ("params", *self.defaults))
        given = {name: plain(value) for name, value in given.items() if name != "params"}
        group = {**self.progress, **self.defaults, **given, "params": params}
        self.check_options(group)
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for position, parameter in enumerate(group["params"]):
            self._check_parameter(parameter, position, known)
            known.add(id(parameter))
        self.param_groups.append(group)

    def _check_parameter(self, parameter: Any, position: int, known: set[int]) -> None:
        owner = type(self).__name__
        place = f"parameter {position} of group {len(self.param_groups)}"
        way_out = "; pass model.parameters(), not the model or named_parameters()"
        instance(parameter, Tensor, f"{owner}: {place} must be a Tensor", way_out)
        if parameter.dtype.kind != "f":
            raise TypeError(
                f"{owner}: {place} is {parameter.dtype}, but only float32 and float64 can be "
                "optimised; convert it with x.astype(mg.float32), or leave it out"
            )
        if not parameter.is_leaf:
            raise ValueError(
                f"{owner}: {place} is not a leaf but the output of {parameter.grad_fn}, so its "
                "gradient is not kept; optimise the tensor that it was computed from, or "
                "x.detach().requires_grad_()"
            )
        if self.mixes and hasattr(parameter, "active"):
            raise TypeError(
                f"{owner}: {place} belongs to an nn.Ensemble, whose members {owner} would mix; use "
                "an optimiser such as SGD or Adam"
            )
        if id(parameter) in known:
            raise ValueError(
                f"{owner}: {place} occurs in the parameter groups twice; pass each tensor once"
            )

    # ------------------------------------------------------------------ the step
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set every `.grad` to None, or with set_to_none=False fill it with zeros."""
        if set_to_none:
            drop_gradients(self.param_groups)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.detach().zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        closure: a function that recomputes the loss and calls backward; it is called first, and its
            loss is returned.
        Raises ValueError for a read-only parameter, without changing anything.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        rules = [self.update_rule(group) for group in self.param_groups]
        apply_updates(self.param_groups, rules, self.state, type(self).__name__)
        return loss

    def _refuse_read_only(self, parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            if not parameter._array.flags.writeable:
                raise ValueError(
                    f"{type(self).__name__}: a parameter of shape {parameter.shape} shares "
                    "read-only memory and cannot be updated; make it of a copy: "
                    "mg.tensor(array, requires_grad=True)"
                )

    # ------------------------------------------------------------------ checkpoints
    def state_dict(self) -> dict[str, Any]:
        """A snapshot: {'state': {index: {...}}, 'param_groups': [{..., 'params': [index, ...]}]}.

        Parameters are numbered across all groups. Arrays are copied into Tensors: the next step
        does not change the snapshot. `mg.save` writes it to a file.

        >>> x = mg.ones(2, requires_grad=True)
        >>> mg.optim.SGD([x], lr=0.5).state_dict()["param_groups"][0]["params"]
        [0]
        """
        state, groups, count = {}, [], 0
        for group in self.param_groups:
            indices = list(range(count, count + len(group["params"])))
            count += len(indices)
            options = {name: plain(value) for name, value in group.items() if name != "params"}
            groups.append({**copy.deepcopy(options), "params": indices})
            for index, parameter in zip(indices, group["params"], strict=True):
                if parameter in self.state:
                    mine = self.state[parameter].items()
                    state[index] = {name: _snapshot(value) for name, value in mine}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load copies of options and state, with arrays converted to the parameters' dtypes.

        state_dict: returned by `state_dict()` of such an optimiser, or of PyTorch's of that name.
        Raises ValueError if groups, sizes, options or shapes do not match; nothing is changed.

        >>> x = mg.ones(2, requires_grad=True)
        >>> optimizer = mg.optim.SGD([x], lr=0.5)
        >>> optimizer.load_state_dict(mg.optim.SGD([x], lr=0.1).state_dict())
        >>> optimizer.param_groups[0]["lr"]
        0.1
        """
        given: Any = state_dict
        if not isinstance(given, dict) or not {"state", "param_groups"} <= set(given):
            raise self._misfit(
                "expected a dict with 'state' and 'param_groups', as returned by state_dict()"
            )
        if not isinstance(given["state"], dict) or not isinstance(given["param_groups"], list):
            raise self._misfit("'state' must be a dict and 'param_groups' a list")
        groups = self._loaded_groups(state_dict["param_groups"])
        owners = [(parameter, group) for group in groups for parameter in group["params"]]
        numbers = [index for saved in state_dict["param_groups"] for index in saved["params"]]
        parameter_of = dict(zip(numbers, owners, strict=True))
        state = {}
        for index, saved in state_dict["state"].items():
            if index not in parameter_of:
                raise self._misfit(
                    f"it has state for parameter {index!r}, which is in none of its groups"
                )
            parameter, group = parameter_of[index]
            state[parameter] = self._loaded_state(index, saved, parameter, group)
        for group, loaded in zip(self.param_groups, groups, strict=True):
            group.update(loaded)
        self.state = state

    def _misfit(self, message: str) -> ValueError:
        return ValueError(f"{type(self).__name__}.load_state_dict: {message}; nothing was loaded")

    def _loaded_groups(self, saved_groups: list[Any]) -> list[dict[str, Any]]:
        if len(saved_groups) != len(self.param_groups):
            raise self._misfit(
                f"it has {len(saved_groups)} parameter groups, "
                f"this optimiser has {len(self.param_groups)}"
            )
        groups = []
        for number, (saved, group) in enumerate(zip(saved_groups, self.param_groups, strict=True)):
            if not isinstance(saved, dict) or not isinstance(saved.get("params", []), list):
                raise self._misfit(f"group {number} must be a dict with a list of 'params'")
            saved = {**{name: group[name] for name in self.may_be_missing}, **saved}
            missing = [n for n in ("params", *self.defaults, *self.progress) if n not in saved]
            if missing:
                raise self._misfit(
                    f"group {number} lacks {', '.join(missing)}; is it from another optimiser?"
                )
            if len(saved["params"]) != len(group["params"]):
                raise self._misfit(
                    f"group {number} has {len(saved['params'])} parameters there, "
                    f"{len(group['params'])} here"
                )
            options = {name: plain(value) for name, value in saved.items() if name != "params"}
            groups.append({**copy.deepcopy(options), "params": group["params"]})
            self.check_options(groups[-1])
        return groups

    def _loaded_state(
        self, index: int, saved: Any, parameter: Tensor, group: dict[str, Any]
    ) -> dict[str, Any]:
        if not isinstance(saved, dict):
            raise self._misfit(
                f"the state of parameter {index} must be a dict, got {type(saved).__name__}"
            )
        loaded = {name: _copied(value) for name, value in saved.items()}
        for name in filter(None, self.state_names(group) if saved else ()):
            value = loaded.get(name)
            if value is None:
                raise self._misfit(f"the state of parameter {index} lacks {name}")
            if np.asarray(value).dtype.kind not in "biuf":
                raise self._misfit(
                    f"{name} of parameter {index} must consist of numbers, got {value!r:.40}"
                )
            if name == "step":
                loaded[name] = self._loaded_step(index, value)
            elif name == "mu_product" and np.ndim(value) == 0:
                loaded[name] = float(value)
            elif np.shape(value) != parameter.shape:
                raise self._misfit(
                    f"{name} of parameter {index} has shape {np.shape(value)}, "
                    f"the parameter has {parameter.shape}"
                )
            else:
                loaded[name] = np.asarray(value, dtype=parameter.dtype, order="C")
        return loaded

    def _loaded_step(self, index: int, value: Any) -> int:
        """A number of steps; PyTorch stores it as a float array."""
        if np.ndim(value) or not value >= 0 or not float(value).is_integer():
            raise self._misfit(f"step of parameter {index} must be an int >= 0, got {value!r}")
        return int(value)

    def __repr__(self) -> str:
        lines = [type(self).__name__ + "("]
        for number, group in enumerate(self.param_groups):
            options = ", ".join(f"{n}={value!r}" for n, value in group.items() if n != "params")
            lines.append(f"  group {number}: {len(group['params'])} parameters, {options}")
        return "\n".join([*lines, ")"])


def _snapshot(value: Any) -> Any:
    if isinstance(value, list):
        return [_snapshot(item) for item in value]
    return Tensor(value.copy()) if isinstance(value, np.ndarray) else copy.deepcopy(value)


def _copied(value: Any) -> Any:
    """A copy of a value in a state dict; Tensors (also PyTorch's) become our own arrays."""
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return np.array(np.asarray(value)) if hasattr(value, "__array__") else copy.deepcopy(value)


def options(arguments: dict[str, Any]) -> dict[str, Any]:
    """The options passed to a constructor, from its `locals()` before it defines others."""
    others = ("self", "params", "unknown", "__class__")
    return {name: value for name, value in arguments.items() if name not in others}


def is_listed(rate: Any) -> bool:
    """Whether it is a list, or an array or tensor of one axis: a rate for each member of an
    nn.Ensemble."""
    return isinstance(rate, (list, tuple)) or getattr(rate, "ndim", 0) == 1


def check_rate(owner: str, label: str, rate: Any) -> Any:
    """A learning rate, or a new array of them, each in [0, inf)."""
    if not is_listed(rate):
        return check_range(owner, label, rate)
    return np.array([check_range(owner, label, each) for each in plain(rate)], np.float64)


def refuse_unknown(owner: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for unknown options, and list the known ones."""
    known = list(known)
    unknown = [repr(name) for name in options if name not in known]
    if unknown:
        raise TypeError(
            f"{owner}: unknown option {', '.join(unknown)}; known are {', '.join(known)}"
        )
