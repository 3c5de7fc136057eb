"""Modules that apply a function, whose options are constructor arguments and attributes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar

from .._core.engine.graph import Tensor
from .module import BUFFER, Module, Self

Check = Callable[[Any, str], Any]  # one of checks.py: of a value and its name


class Applied(Module):
    """Base class of such Modules: checks, stores and prints the options.

    A subclass is a dataclass whose fields are the options, in the order in which the function takes
    them. Its class arguments are the function, checks of single options, and `like`, a function
    whose docstring follows that of the class. A `weight` or `..._weight` becomes a buffer, and
    `inplace` is ignored.

    >>> from dataclasses import dataclass
    >>> @dataclass(eq=False, repr=False)
    ... class Scale(Applied, function=mg.multiply, factor=mg.checks.real):
    ...     factor: float = 2.0
    ...     def forward(self, x):
    ...         return self._function(x, *self._values(self))
    >>> Scale(3.0), Scale()(mg.ones(2))
    (Scale(factor=3.0), tensor([2., 2.]))
    """

    _function: ClassVar[Callable[..., Tensor]]
    _options: ClassVar[tuple[str, ...]] = ()
    _values: ClassVar[Any]  # maps the module to the tuple of its options
    _shown: ClassVar[tuple[str, ...] | None] = None  # the options that repr shows, if not all
    _checks: ClassVar[Mapping[str, Check]] = {}

    def __init_subclass__(
        cls,
        function: Callable[..., Any] | None = None,
        like: Callable[..., Any] | None = None,
        **checks: Check,
    ) -> None:
        super().__init_subclass__()
        cls._checks = {**cls._checks, **checks}
        if like is not None:
            cls.__doc__ = f"{cls.__doc__}\n\n    {like.__doc__}"
        if function is not None:
            fields = dict.fromkeys((*cls._options, *inspect.get_annotations(cls)))
            names = tuple(name for name in fields if name[0] != "_" and name != "inplace")
            one = staticmethod(lambda module: (getattr(module, names[0]),) if names else ())
            cls._function, cls._options = staticmethod(function), names
            cls._values = attrgetter(*names) if len(names) > 1 else one  # always a tuple

    def __new__(cls: type[Self], *arguments: Any, **options: Any) -> Self:
        """A Module that is ready for members, before a dataclass assigns its fields."""
        self: Self = Module.__new__(cls, *arguments, **options)
        Module.__init__(self)
        return self

    def __post_init__(self) -> None:
        self._keep({name: getattr(self, name) for name in self._options})

    def _keep(self, given: Mapping[str, Any]) -> None:
        """Check and store the options."""
        for name in self._options:
            value = given[name]
            if name in self._checks:
                value = self._checks[name](value, f"{type(self).__name__}: {name}")
            if name.endswith("weight"):
                self._register(name, None, BUFFER)
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def extra_repr(self) -> str:
        """The options."""
        names = self._options if self._shown is None else self._shown
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


class AppliedToOne(Applied):
    """A Module that applies a function of one tensor.

    >>> mg.nn.Tanh()(mg.zeros(1))
    tensor([0.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """The function of x."""
        return self._function(x, *self._values(self)) if self._options else self._function(x)
