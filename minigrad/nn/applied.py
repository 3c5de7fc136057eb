"""Modules that apply a function: its options are those of the constructor, and attributes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar

from .module import Module

Check = Callable[[Any, str], Any]  # one of checks.py: of a value and its name


class Applied(Module):
    """The base of such Modules, which checks, keeps and shows the options.

    A class gives the function, with its options in the order of the constructor, and checks of
    single options. An option `weight` or `..._weight` becomes a buffer; `inplace` is ignored.

    >>> class Scale(mg.nn.applied.Applied, function=mg.multiply, factor=mg.checks.real):
    ...     def __init__(self, factor: float = 2.0) -> None:
    ...         self._keep(locals())
    ...     def forward(self, x):
    ...         return self._function(x, *self._values(self))
    >>> Scale(3.0), Scale()(mg.ones(2))
    (Scale(factor=3.0), tensor([2., 2.]))
    """

    _function: ClassVar[Callable[..., Any]]
    _options: ClassVar[tuple[str, ...]]
    _values: ClassVar[Any]  # a function of the module to those of its options
    _checks: ClassVar[Mapping[str, Check]] = {}

    def __init_subclass__(cls, function: Callable[..., Any] | None = None, **checks: Check) -> None:
        super().__init_subclass__()
        cls._checks = {**cls._checks, **checks}
        if function is not None:
            names = tuple(name for name in inspect.signature(cls).parameters if name != "inplace")
            cls._function, cls._options = staticmethod(function), names
            cls._values = _getter(names)

    def _keep(self, given: Mapping[str, Any]) -> None:
        """Check and keep the options among the arguments of the constructor, its `locals()`."""
        super().__init__()
        for name in self._options:
            value = given[name]
            if name in self._checks:
                value = self._checks[name](value, f"{type(self).__name__}: {name}")
            keep = self.register_buffer if name.endswith("weight") else self.__setattr__
            keep(name, value)

    def extra_repr(self) -> str:
        """The options."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._options)


def _getter(names: tuple[str, ...]) -> Any:
    """A function of a module to the tuple of these attributes."""
    if len(names) > 1:
        return attrgetter(*names)
    name = names[0] if names else ""
    return staticmethod(lambda module: (getattr(module, name),) if name else ())
