"""Sequential, and lists and dictionaries whose Modules or Parameters are members."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from .._core.engine.graph import Tensor
from .module import MODULE, PARAMETER, Module, Parameter

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


class _Container(Module):
    """Members of one kind, Modules or Parameters, in order."""

    _kind: ClassVar[str] = MODULE

    def __len__(self) -> int:
        return len(self._own(self._kind))

    def _checked(self, value: Any) -> Any:
        """`value` as a member: a Module, or a Parameter, which a Tensor becomes."""
        name, module = type(self).__name__, self._kind == MODULE
        if isinstance(value, Tensor) and not (module or isinstance(value, Parameter)):
            return Parameter(value)
        if not isinstance(value, Module if module else Parameter):
            hint = "; an instance is needed, not the class" if isinstance(value, type) else ""
            expected = "Modules" if module else "Parameters or Tensors"
            raise TypeError(f"{name}: expected {expected}, got {value!r:.60}{hint}")
        return value

    def extra_repr(self) -> str:
        """The names and shapes of Parameters."""
        return ", ".join(f"{name}: {value.shape}" for name, value in self._own(PARAMETER))


# ------------------------------------------------------------------------------------------- lists
class _Ordered(_Container):
    """Members under the names '0', '1', ... unless they were given others."""

    def __iter__(self) -> Iterator[Any]:
        return iter([member for _, member in self._own(self._kind)])

    def __getitem__(self: Any, index: int | slice) -> Any:
        named = self._own(self._kind)
        if isinstance(index, slice):
            return self._part(named[index])
        return named[self._position(index)][1]

    def __setitem__(self, index: int | slice, value: Any) -> None:
        named = self._own(self._kind)
        if isinstance(index, slice):
            named[index] = [("0", self._checked(each)) for each in value]
            self._arrange(named)
        else:
            name, _ = named[self._position(index)]
            setattr(self, name, self._checked(value))

    def __delitem__(self, index: int | slice) -> None:
        named = self._own(self._kind)
        del named[index if isinstance(index, slice) else self._position(index)]
        self._arrange(named)

    def _part(self, named: list[tuple[str, Any]]) -> Any:
        raise NotImplementedError

    def _position(self, index: int) -> int:
        name, count = type(self).__name__, len(self)
        try:
            position = operator.index(index)
        except TypeError:
            raise TypeError(
                f"{name}: expected an int or a slice as index, got {index!r:.60}"
            ) from None
        if not -count <= position < count:
            raise IndexError(
                f"{name}: index {position} is out of range, it has {count} {self._kind}s"
            )
        return position % count

    def _arrange(self, named: list[tuple[str, Any]]) -> None:
        """Make these the members, in this order. A number for a name becomes that of the place."""
        values, members = self.__dict__, self.__dict__["_members"]
        for name in [name for name, kind in members.items() if kind == self._kind]:
            if values[name] is not None or name.isdecimal():
                del values[name], members[name]
        for position, (name, member) in enumerate(named):
            self._register(str(position) if name.isdecimal() else name, member, self._kind)

    def append(self: Any, value: Any) -> Any:
        """Add a member at the end. Returns self.

        >>> len(mg.nn.Sequential(mg.nn.ReLU()).append(mg.nn.Tanh()))
        2
        """
        return self.extend([value])

    def extend(self: Any, values: Iterable[Any]) -> Any:
        """Add several members at the end. Returns self.

        >>> len(mg.nn.ModuleList().extend([mg.nn.ReLU(), mg.nn.Tanh()]))
        2
        """
        if isinstance(values, Tensor):
            raise TypeError(f"{type(self).__name__}.extend: expected a list of Tensors, got one")
        added = [self._checked(value) for value in values]
        taken = [int(name) for name in self._members if name.isdecimal()]
        start = max([len(self), *(number + 1 for number in taken)])
        for number, member in enumerate(added, start):
            self._register_new(str(number), member, self._kind, object)
        return self

    def pop(self: Any, index: int | slice = -1) -> Any:
        """Take a member out, by default the last, and return it; as `del` those after it move up.

        >>> net = mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.ReLU(), mg.nn.Linear(3, 1))
        >>> net.pop(1)
        ReLU()
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '1.weight', '1.bias']
        """
        taken = self[index]
        del self[index]
        return taken


class Sequential(_Ordered):
    """Modules applied one after the other, given as arguments or as one OrderedDict with names.

    It is indexed like a list. A slice is a Sequential of the same modules under the same names.
    After `del`, `insert` or an assignment to a slice the modules are numbered anew by their places,
    as in PyTorch, and with them the keys of `state_dict`; other names stay.

    >>> net = mg.nn.Sequential(mg.nn.Linear(4, 8), mg.nn.ReLU(), mg.nn.Linear(8, 2))
    >>> net(mg.ones(3, 4)).shape
    (3, 2)
    >>> net
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)  40
      (1): ReLU()
      (2): Linear(in_features=8, out_features=2, bias=True)  18
    )                                                        58 parameters
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], OrderedDict):
            for name, module in modules[0].items():
                self.add_module(name, self._checked(module))
        else:
            self.extend(modules)

    def _part(self, named: list[tuple[str, Module]]) -> Sequential:
        return Sequential(OrderedDict(named))

    def __add__(self, other: Any) -> Sequential:
        if not isinstance(other, Sequential):
            return NotImplemented
        return Sequential(*self, *other)

    def __iadd__(self, other: Any) -> Any:
        return self.extend(other) if isinstance(other, Sequential) else NotImplemented

    def insert(self, index: int, module: Module) -> Sequential:
        """Put a module before position `index`, from -len to len. Returns self.

        >>> net = mg.nn.Sequential(mg.nn.ReLU()).insert(0, mg.nn.Tanh())
        >>> net[0]
        Tanh()
        """
        named = self._own(MODULE)
        if not -len(named) <= operator.index(index) <= len(named):
            raise IndexError(
                f"Sequential: index {index} is out of range, it has {len(named)} modules"
            )
        named.insert(index, ("0", self._checked(module)))
        self._arrange(named)
        return self

    def forward(self, x: Any) -> Any:
        """The output of the last module."""
        members = self.__dict__
        for name, kind in self._members.items():
            if kind == MODULE and (member := members[name]) is not None:
                x = member(x)
        return x


class _List(_Ordered):
    """What ModuleList and ParameterList share."""

    def _part(self, named: list[tuple[str, Any]]) -> Any:
        return type(self)(member for _, member in named)  # type: ignore[call-arg]

    def __add__(self, other: Iterable[Any]) -> Any:
        return self[:].extend(other)

    def __iadd__(self, other: Iterable[Any]) -> Any:
        return self.extend(other)

    def insert(self, index: int, value: Any) -> None:
        """Put a member before position `index`, as `list.insert` does.

        >>> layers = mg.nn.ModuleList([mg.nn.ReLU()])
        >>> layers.insert(0, mg.nn.Tanh())
        >>> layers[0]
        Tanh()
        """
        named = self._own(self._kind)
        named.insert(index, ("0", self._checked(value)))
        self._arrange(named)


class ModuleList(_List):
    """A list of Modules that are members, as those in a plain list are not. It has no forward.

    >>> layers = mg.nn.ModuleList([mg.nn.Linear(2, 2) for _ in range(3)])
    >>> len(list(layers.parameters()))
    6
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)


class ParameterList(_List):
    """A list of Parameters that are members, as those in a plain list are not. It has no forward.

    Tensors become Parameters, on the same memory. Raises TypeError for anything else.

    >>> weights = mg.nn.ParameterList([mg.zeros(2, 3), mg.ones(3)])
    >>> weights
    ParameterList(0: (2, 3), 1: (3,))  9 parameters
    >>> weights[1].requires_grad, list(weights.state_dict())
    (True, ['0', '1'])
    """

    _kind = PARAMETER

    def __init__(self, values: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.extend(values)


# ------------------------------------------------------------------------------------ dictionaries
class _Dict(_Container):
    """Members by name, with the methods of a dict."""

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._own(self._kind)])

    def __contains__(self, name: object) -> bool:
        return self._members.get(name) == self._kind and self.__dict__[name] is not None  # type: ignore[call-overload,index]

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            known = ", ".join(map(repr, self)) or "nothing"
            raise KeyError(f"{type(self).__name__}: there is no {name!r}; it has {known}")
        return self.__dict__[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __delitem__(self, name: str) -> None:
        self[name]  # raises if it is not there
        delattr(self, name)

    def update(self, values: Any = ()) -> None:
        """Add the members of a mapping, or of pairs (name, member); those of the same name are
        replaced, in their places. After an error nothing has changed.

        >>> nets = mg.nn.ModuleDict({"a": mg.nn.ReLU()})
        >>> nets.update({"b": mg.nn.Tanh(), "a": mg.nn.Sigmoid()})
        >>> nets
        ModuleDict(
          (a): Sigmoid()
          (b): Tanh()
        )
        """
        given = {name: self._checked(value) for name, value in dict(values).items()}
        for name, value in given.items():
            self._check_new(name, value, self._kind, object)
        for name, value in given.items():
            self._register(name, value, self._kind)

    def pop(self, name: str, *default: Any) -> Any:
        """Take out the member of that name and return it, or `default` if there is none.

        >>> nets = mg.nn.ModuleDict({"a": mg.nn.ReLU()})
        >>> nets.pop("a"), len(nets)
        (ReLU(), 0)
        """
        if default and name not in self:
            return default[0]
        value = self[name]
        del self[name]
        return value

    def clear(self) -> None:
        """Take out all members.

        >>> nets = mg.nn.ModuleDict({"a": mg.nn.ReLU()})
        >>> nets.clear()
        >>> len(nets)
        0
        """
        for name in self:
            del self[name]

    get, keys, values, items = Mapping.get, Mapping.keys, Mapping.values, Mapping.items


class ModuleDict(_Dict):
    """A dictionary of Modules that are members, as those in a plain dict are not. It has no
    forward.

    modules: a mapping, or pairs (name, Module). A name must be a string without a dot that is no
    attribute of Module, such as "train"; KeyError otherwise.

    >>> heads = mg.nn.ModuleDict({"mean": mg.nn.Linear(4, 1), "spread": mg.nn.Linear(4, 1)})
    >>> heads["mean"](mg.ones(3, 4)).shape, "other" in heads, list(heads.state_dict())[0]
    ((3, 1), False, 'mean.weight')
    """

    def __init__(self, modules: Any = ()) -> None:
        super().__init__()
        self.update(modules)


class ParameterDict(_Dict):
    """A dictionary of Parameters that are members, as those in a plain dict are not. It has no
    forward.

    parameters: a mapping, or pairs (name, Parameter or Tensor); Tensors become Parameters, on the
    same memory. Names are as in ModuleDict. They keep their order, where PyTorch sorts those of a
    dict.

    >>> kernel = mg.nn.ParameterDict({"length": mg.ones(3), "noise": mg.tensor(0.1)})
    >>> kernel["noise"] = mg.tensor(0.2)
    >>> kernel
    ParameterDict(length: (3,), noise: ())  4 parameters
    """

    _kind = PARAMETER

    def __init__(self, parameters: Any = ()) -> None:
        super().__init__()
        self.update(parameters)
