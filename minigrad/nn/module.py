"""Module: parameters, buffers and submodules by name.

A module stores its members in its `__dict__` like any other attribute, so `self.weight` in
`forward` costs no more than in plain Python; `_members` only records the kind of each name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.lib.array_utils import byte_bounds

from .._core.engine.graph import RemovableHandle, Tensor
from ..checks import check_device, flag, instance
from ..creation import asarray
from ..namespace import Constructed, note_place

__all__ = ["Module", "Parameter"]

PARAMETER, BUFFER, TRANSIENT, MODULE = "parameter", "buffer", "transient buffer", "module"

Self = TypeVar("Self", bound="Module")
Hook = Callable[..., Any]


class Parameter(Tensor):
    """A Tensor that a Module registers when it is assigned as an attribute, for an optimiser.

    data: a Tensor, array or nested list of floats, float32 or float64. Memory is shared where
    possible. Operations on it give plain Tensors. RuntimeError for integers that require grad.

    >>> mg.nn.Parameter([1.0, 2.0])
    Parameter containing:
    tensor([1., 2.], requires_grad=True)
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        shared = asarray(data)
        super().__init__(
            shared if shared._array.flags.writeable else shared.numpy(copy=True),
            requires_grad=requires_grad,
        )

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class LoadResult(NamedTuple):
    """The keys that `load_state_dict(strict=False)` ignored."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module(Constructed):
    """The base of layers and nets: assign Parameters and Modules in `__init__`, write `forward`.

    >>> class Net(mg.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = mg.nn.Linear(3, 1)
    ...     def forward(self, x):
    ...         return mg.tanh(self.layer(x))
    >>> net = Net()
    >>> net(mg.ones(5, 3)).shape
    (5, 1)
    >>> [name for name, parameter in net.named_parameters()]
    ['layer.weight', 'layer.bias']
    """

    training: bool = True
    _details: ClassVar[str] = ""  # of the text between the parentheses; {0}: the module
    _members: Mapping[str, str] = MappingProxyType({})
    _forward_hooks: tuple[Hook, ...] | list[Hook] = ()
    _forward_pre_hooks: tuple[Hook, ...] | list[Hook] = ()
    _forward_wrappers: tuple[Hook, ...] | list[Hook] = ()
    _has_hooks: bool = False  # now or earlier
    # buffers that a checkpoint may lack, because they were added to the format later
    _may_be_missing: tuple[str, ...] = ()
    # while frozen: the names of its own parameters that required grad before
    _frozen: tuple[str, ...] | None = None

    def __init__(self) -> None:
        object.__setattr__(self, "_members", {})
        self.training = True

    if TYPE_CHECKING:  # so that a subclass may take what it likes
        forward: Callable[..., Any]
    else:

        def forward(self, *inputs: Any) -> Any:
            """What the module computes; every subclass writes its own. Call the module, not this.

            >>> mg.nn.ReLU().forward(mg.tensor([-1.0, 2.0]))
            tensor([0., 2.])
            """
            raise NotImplementedError(
                f"{type(self).__name__} has no forward(); define what it computes"
            )

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """`forward`, and the hooks if there are any."""
        try:  # free where nothing is raised
            if self._has_hooks:
                return self._call_with_hooks(inputs, options)
            return self.forward(*inputs, **options) if options else self.forward(*inputs)
        except Exception as error:
            note_place(error, self)
            raise

    def _call_with_hooks(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        for hook in list(self._forward_pre_hooks):
            replaced = hook(self, inputs)
            if replaced is not None:
                inputs = replaced if isinstance(replaced, tuple) else (replaced,)
        forward: Callable[..., Any] = self.forward
        for wrapper in list(self._forward_wrappers):
            forward = partial(wrapper, self, forward)
        output = forward(*inputs, **options)
        for hook in list(self._forward_hooks):
            replaced = hook(self, inputs, output)
            if replaced is not None:
                output = replaced
        return output

    def register_forward_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call `hook(module, inputs)` before each forward; a result other than None replaces the
        inputs.

        >>> layer = mg.nn.Linear(2, 1)
        >>> handle = layer.register_forward_pre_hook(lambda module, inputs: print(inputs[0].shape))
        >>> y = layer(mg.ones(4, 2))
        (4, 2)
        >>> handle.remove()
        """
        return self._register_hook("_forward_pre_hooks", hook)

    def register_forward_hook(self, hook: Hook) -> RemovableHandle:
        """Call `hook(module, inputs, output)` after each forward; a result other than None replaces
        the output.

        >>> layer = mg.nn.Linear(2, 1)
        >>> handle = layer.register_forward_hook(lambda module, inputs, output: output * 0 + 7)
        >>> layer(mg.ones(1, 2)).item()
        7.0
        >>> handle.remove()
        """
        return self._register_hook("_forward_hooks", hook)

    def register_forward_wrapper(self, wrapper: Hook) -> RemovableHandle:
        """Call `wrapper(module, forward, *inputs, **options)` instead of each forward, between the
        hooks; its result is the output. Unlike a pair of hooks, it sees exceptions of forward.
        The wrapper registered last is the outermost.

        >>> layer = mg.nn.ReLU()
        >>> handle = layer.register_forward_wrapper(lambda module, forward, x: forward(x) - x)
        >>> layer(mg.tensor([-1.0, 2.0]))
        tensor([1., 0.])
        >>> handle.remove()
        """
        return self._register_hook("_forward_wrappers", wrapper)

    def _register_hook(self, which: str, hook: Hook) -> RemovableHandle:
        if not callable(hook):
            raise TypeError(
                f"{type(self).__name__}: a hook must be a function, got {type(hook).__name__}"
            )
        hooks = self.__dict__.setdefault(which, [])
        hooks.append(hook)
        self.__dict__["_has_hooks"] = True
        return RemovableHandle(hooks, hook)

    # ------------------------------------------------------------------------------ members
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Parameter, Module)):
            self._register(name, value, PARAMETER if isinstance(value, Parameter) else MODULE)
            return
        kind = self._members.get(name)
        if kind is not None and value is not None:
            _check_assigned(f"{type(self).__name__}.{name}", kind, value)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        if name in self._members:
            del self.__dict__["_members"][name]

    def _register(self, name: str, value: Any, kind: str) -> None:
        if "_members" not in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__}: cannot assign {kind} {name!r} before Module.__init__ "
                "has run; call super().__init__() first"
            )
        below = value._collect("", set(), []) if kind == MODULE and value is not None else ()
        if any(module is self for _, module in below):
            raise ValueError(f"{type(self).__name__}.{name}: a module cannot contain itself")
        object.__setattr__(self, name, value)
        self.__dict__["_members"][name] = kind

    def _check_new(self, name: str, value: Any, kind: str, expected: type) -> None:
        caller = f"{type(self).__name__}: {kind}"
        instance(name, str, f"{caller}: the name must be a string")
        if not name or "." in name:
            raise KeyError(f"{caller}: the name {name!r} must not be empty or contain a dot")
        if hasattr(self, name) and name not in self._members:
            raise KeyError(f"{caller}: there is already an attribute {name!r}")
        if value is not None:
            instance(value, expected, f"{caller} {name!r}: expected a {expected.__name__} or None")

    def _register_new(self, name: str, value: Any, kind: str, expected: type) -> None:
        self._check_new(name, value, kind, expected)
        self._register(name, value, kind)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Register `parameter` under `name`, like an assignment; None reserves the name.

        >>> module = mg.nn.Module()
        >>> module.register_parameter("scale", mg.nn.Parameter([1.0]))
        >>> list(module.state_dict())
        ['scale']
        """
        self._register_new(name, parameter, PARAMETER, Parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register `tensor` as a buffer: no parameter, but in `state_dict` if persistent.

        >>> module = mg.nn.Module()
        >>> module.register_buffer("steps", mg.tensor(0))
        >>> module.steps
        tensor(0)
        """
        self._register_new(name, tensor, BUFFER if persistent else TRANSIENT, Tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Register `module` as a submodule under `name`, like an assignment.

        >>> net = mg.nn.Module()
        >>> net.add_module("0", mg.nn.ReLU())
        >>> [name for name, child in net.named_children()]
        ['0']
        """
        self._register_new(name, module, MODULE, Module)

    def _own(self, *kinds: str) -> list[tuple[str, Any]]:
        """The members of these kinds that are not None, by kind, in the order of registration."""
        values = self.__dict__
        return [
            (name, values[name])
            for wanted in kinds
            for name, kind in self._members.items()
            if kind == wanted and values[name] is not None
        ]

    def _named(
        self, kinds: tuple[str, ...], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        owners = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in owners:
            for name, value in module._own(*kinds):
                if remove_duplicate and id(value) in seen:
                    continue
                seen.add(id(value))
                yield _join(path, name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Names and Parameters, of submodules too; a shared Parameter is listed once.

        >>> [name for name, parameter in mg.nn.Linear(2, 3).named_parameters()]
        ['weight', 'bias']
        """
        return self._named((PARAMETER,), prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The Parameters, for example for an optimiser.

        >>> sum(parameter.size for parameter in mg.nn.Linear(2, 3).parameters())
        9
        """
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and buffers, persistent or not.

        >>> [name for name, buffer in mg.nn.BatchNorm1d(3).named_buffers()]
        ['running_mean', 'running_var', 'num_batches_tracked']
        """
        return self._named((BUFFER, TRANSIENT), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers.

        >>> [buffer.shape for buffer in mg.nn.BatchNorm1d(3).buffers()]
        [(3,), (3,), ()]
        """
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Names and modules one level below.

        >>> [name for name, child in mg.nn.Sequential(mg.nn.ReLU(), mg.nn.Tanh()).named_children()]
        ['0', '1']
        """
        return self._named((MODULE,), "", False, True)

    def children(self) -> Iterator[Module]:
        """The modules one level below.

        >>> list(mg.nn.Sequential(mg.nn.ReLU()).children())
        [ReLU()]
        """
        return (child for _, child in self.named_children())

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module (under the name `prefix`) and all below it, parents first.

        >>> net = mg.nn.Sequential(mg.nn.Sequential(mg.nn.ReLU()))
        >>> [name for name, module in net.named_modules()]
        ['', '0', '0.0']
        """
        return iter(self._collect(prefix, set() if remove_duplicate else None, []))

    def _collect(
        self, path: str, seen: set[int] | None, found: list[tuple[str, Module]]
    ) -> list[tuple[str, Module]]:
        if seen is not None:
            if id(self) in seen:
                return found
            seen.add(id(self))
        found.append((path, self))
        for name, child in self._own(MODULE):
            child._collect(_join(path, name), seen, found)
        return found

    def modules(self) -> Iterator[Module]:
        """This module and all below it.

        >>> len(list(mg.nn.Sequential(mg.nn.ReLU(), mg.nn.Tanh()).modules()))
        3
        """
        return (module for _, module in self.named_modules())

    # -------------------------------------------------------------------------------- modes
    def train(self: Self, mode: bool = True) -> Self:
        """Set training mode (batch statistics, dropout) here and below unless frozen. Returns self.

        >>> mg.nn.Dropout().train(False).training
        False
        """
        mode = flag(mode, "train: mode")
        for module in self.modules():
            module.training = mode and module._frozen is None
        return self

    def eval(self: Self) -> Self:
        """Set evaluation mode (running statistics, no dropout) here and below. Returns self.

        >>> mg.nn.Dropout().eval()(mg.ones(3))
        tensor([1., 1., 1.])
        """
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of all parameters: False freezes them. Returns self.

        >>> mg.nn.Linear(2, 1).requires_grad_(False).weight.requires_grad
        False
        """
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def freeze(self: Self, *kinds: type[Module]) -> Self:
        """Keep this module and all below it, or those of the given classes, in evaluation mode,
        even after `train()`, and their parameters without gradients. Returns self.

        A frozen BatchNorm normalises by its running statistics, which do not change, like
        `trainable = False` in Keras and torchvision's FrozenBatchNorm2d. Existing gradients of the
        parameters are dropped, because an optimiser would still apply them.

        >>> net = mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.BatchNorm1d(3))
        >>> net = net.freeze(mg.nn.BatchNorm1d).train()
        >>> [module.training for module in net], net[1].weight.requires_grad
        ([True, False], False)
        """
        for module in self._of(kinds, "freeze"):
            if module._frozen is None:
                own = module._own(PARAMETER)
                module._frozen = tuple(name for name, p in own if p.requires_grad)
            module.training = False
            for _, parameter in module._own(PARAMETER):
                parameter.requires_grad = False
                parameter.grad = None
        return self

    def unfreeze(self: Self, *kinds: type[Module]) -> Self:
        """Undo `freeze` here and below, or for the given classes: training mode, and gradients for
        the parameters that had them before. Other modules are unchanged. Returns self.

        >>> layer = mg.nn.BatchNorm1d(3).freeze().unfreeze()
        >>> layer.training, layer.weight.requires_grad
        (True, True)
        """
        for module in self._of(kinds, "unfreeze"):
            if module._frozen is not None:
                module.training = True
                for name in module._frozen:
                    module.__dict__[name].requires_grad = True
                module._frozen = None
        return self

    def _of(self, kinds: tuple[Any, ...], caller: str) -> list[Module]:
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Module)):
                raise TypeError(f"{caller}: expected classes of Modules, got {kind!r:.60}")
        return [module for module in self.modules() if not kinds or isinstance(module, kinds)]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or with set_to_none=False fill them with zeros.

        >>> layer = mg.nn.Linear(2, 1)
        >>> layer(mg.ones(1, 2)).sum().backward()
        >>> layer.zero_grad()
        >>> print(layer.weight.grad)
        None
        """
        for module in self.modules():
            for _, parameter in module._own(PARAMETER):
                if set_to_none:
                    parameter.grad = None
                elif parameter.grad is not None:
                    parameter.grad = parameter.grad.detach().zero_()

    def apply(self: Self, function: Callable[[Module], Any]) -> Self:
        """Call `function` on every submodule and then on this module. Returns self.

        >>> net = mg.nn.Sequential(mg.nn.ReLU()).apply(lambda module: print(type(module).__name__))
        ReLU
        Sequential
        """
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def to(self: Self, *to: Any, dtype: Any = None, device: Any = None) -> Self:
        """Convert floating parameters, gradients and buffers to float32 or float64, in place: an
        optimiser that holds the Parameters goes on working. Returns self.

        As in PyTorch a device may stand before the dtype, or in its place, and a tensor for its
        dtype; "cpu" is the only device, and another raises ValueError.

        >>> mg.nn.Linear(2, 1).to(mg.float64).weight.dtype
        dtype('float64')
        >>> mg.nn.Linear(2, 1).to("cpu", mg.float32).weight.dtype
        dtype('float32')
        """
        owner = f"{type(self).__name__}.to"
        if len(to) > 2:
            raise TypeError(f"{owner}: expected a device and a dtype, got {len(to)} arguments")
        check_device(owner, device)
        for value in to:
            if value is None or _names_device(value):
                check_device(owner, value)
            elif dtype is None:
                dtype = value.dtype if isinstance(value, Tensor) else value
            else:
                raise TypeError(f"{owner}: expected one dtype, got {dtype!r} and {value!r}")
        if dtype is None:
            return self
        with suppress(TypeError):  # of PyTorch's
            dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"{owner}: expected float32 or float64, got {dtype}")
        for _, tensor in self._named((PARAMETER, BUFFER, TRANSIENT), "", True, True):
            if tensor.dtype.kind == "f" and tensor.dtype != dtype:
                gradient, tensor.grad = tensor.grad, None
                Tensor.__init__(tensor, tensor.numpy().astype(dtype))
                tensor._bump_version()
                if gradient is not None:
                    tensor.grad = gradient.detach().astype(dtype)
        return self

    def double(self: Self) -> Self:
        """Convert to float64, in place. Returns self.

        >>> mg.nn.Linear(2, 1).double()(mg.ones(1, 2)).dtype
        dtype('float64')
        """
        return self.to(np.float64)

    def float(self: Self) -> Self:
        """Convert to float32, in place. Returns self.

        >>> mg.nn.Linear(2, 1).double().float().weight.dtype
        dtype('float32')
        """
        return self.to(np.float32)

    # -------------------------------------------------------------------------------- state
    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers by name, detached, but sharing memory.

        >>> {name: value.shape for name, value in mg.nn.Linear(2, 3).state_dict().items()}
        {'weight': (3, 2), 'bias': (3,)}
        """
        named = self._named((PARAMETER, BUFFER), prefix, True, False)
        return {name: tensor.detach() for name, tensor in named}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copy Tensors or arrays, PyTorch's too, by name into parameters and persistent buffers.

        Values may differ in precision, but not in shape or kind of dtype. With strict=False missing
        and unexpected keys are returned instead of raised. Raises one RuntimeError that lists
        everything that does not fit, and changes nothing then.

        >>> source, target = mg.nn.Linear(2, 3), mg.nn.Linear(2, 3)
        >>> target.load_state_dict(source.state_dict())
        LoadResult(missing_keys=[], unexpected_keys=[])
        >>> bool((target.weight == source.weight).all())
        True
        """
        instance(state_dict, Mapping, "load_state_dict: expected a dict of Tensors")
        own = self.state_dict()
        optional = {
            _join(path, name)
            for path, module in self.named_modules(remove_duplicate=False)
            for name in module._may_be_missing
        }
        missing = [key for key in own if key not in state_dict and key not in optional]
        unexpected = [key for key in state_dict if key not in own]
        problems = []
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(map(str, unexpected))}")
        fitting = {key: _foreign_array(state_dict[key]) for key in own if key in state_dict}
        for key, value in fitting.items():
            if misfit := _misfit(own[key], value):
                problems.append(f"{key}: {misfit}")
        if problems:
            lines = "\n  ".join(problems)
            raise RuntimeError(
                f"load_state_dict: the state does not fit {type(self).__name__}, "
                f"nothing was changed\n  {lines}"
            )
        for key, value in _apart(fitting, own).items():
            own[key].copy_(value)
        return LoadResult(missing, unexpected)

    # ---------------------------------------------------------------------------------- text
    def extra_repr(self) -> str:
        """The text between the parentheses in `repr`; subclasses override it.

        >>> mg.nn.Dropout(0.1).extra_repr()
        'p=0.1'
        """
        return type(self)._details.format(self)

    def _changed(self, **defaults: Any) -> list[str]:
        """name=value for each attribute that differs from its default."""
        values = {name: getattr(self, name, default) for name, default in defaults.items()}
        return [f"{name}={value!r}" for name, value in values.items() if value != defaults[name]]

    def _rows(self, label: str, indent: str, seen: set[int]) -> tuple[list[tuple[str, int]], int]:
        """The lines of the tree with the number of parameters of each, and their sum."""
        count = 0
        for _, parameter in self._own(PARAMETER):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                count += parameter.size
        head = f"{indent}{label}{type(self).__name__}({self.extra_repr()}"
        rows: list[tuple[str, int]] = []
        for name, child in self._own(MODULE):
            child_rows, child_count = child._rows(f"({name}): ", indent + "  ", seen)
            rows += child_rows
            count += child_count
        if rows:
            return [(head, 0), *rows, (f"{indent})", count)], count
        return [(f"{head})", count)], count

    def __repr__(self) -> str:
        rows, _ = self._rows("", "", set())
        if len(rows) == 1 and rows[0][1] == 0:
            return rows[0][0]
        width = max(len(text) for text, _ in rows) + 2
        lines = [f"{text:{width}}{count:,}" if count else text for text, count in rows[:-1]]
        text, count = rows[-1]
        return "\n".join([*lines, f"{text:{width}}{count:,} parameters"])

    def _repr_html_(self) -> str:
        from ..viz.notebook import module_html  # a notebook asks for it, nothing else

        return module_html(self)


def _check_assigned(name: str, kind: str, value: Any) -> None:
    """Raise unless `value`, not a Parameter or Module, may replace a member of this kind."""
    if kind in (BUFFER, TRANSIENT) and isinstance(value, Tensor):
        return
    expected = {PARAMETER: "a Parameter", MODULE: "a Module"}.get(kind, "a Tensor")
    raise TypeError(
        f"{name} is a {kind}: expected {expected} or None, got {type(value).__name__}; to change "
        "the values of a parameter or buffer use its copy_(...) under mg.no_grad()"
    )


def _names_device(value: Any) -> bool:
    """Whether `Module.to` is given a device, of PyTorch's, by name or, there a GPU, by number."""
    if isinstance(value, str):
        try:
            np.dtype(value)
        except TypeError:
            return True
    return isinstance(value, int) or type(value).__name__ == "device"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _foreign_array(value: Any) -> Any:
    """A tensor of another library as an array, float16 as float32; or the error if it cannot."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "__array__"):
        try:
            value = np.asarray(value)
        except (TypeError, RuntimeError, ValueError) as error:
            return error
    return value.astype(np.float32) if getattr(value, "dtype", None) == np.float16 else value


def _misfit(own: Tensor, value: Any) -> str | None:
    """Why `value` cannot be copied to `own`, or None if it can."""
    if isinstance(value, Exception):
        return f"cannot be converted to an array: {value}"
    if not isinstance(value, (Tensor, np.ndarray, np.generic)):
        return f"expected a Tensor or array, got {type(value).__name__}"
    if value.shape != own.shape:
        return f"expected shape {own.shape}, got {value.shape}"
    if value.dtype.kind != own.dtype.kind:
        return f"expected dtype {own.dtype}, got {value.dtype}"
    if value.dtype.kind == "i" and value.dtype != own.dtype:
        values = np.asarray(value)
        if (values.astype(own.dtype) != values).any():
            return f"values are out of the range of {own.dtype}"
    return None if own._array.flags.writeable else "shares read-only memory"


def _apart(values: dict[str, Any], own: dict[str, Tensor]) -> dict[str, Any]:
    """The values, copied where they share memory with a tensor that is written before them, since a
    net may load its own tensors under other names."""
    low, high = np.array([byte_bounds(own[key]._array) for key in values]).reshape(-1, 2).T
    apart = {}
    for i, (key, value) in enumerate(values.items()):
        first, last = byte_bounds(np.asarray(value))
        shared = ((low[:i] < last) & (first < high[:i])).any()
        apart[key] = np.array(value) if shared else value
    return apart
