"""Stubs of the derived formulas; the docstrings stand in derived.pyx."""

from collections.abc import Callable
from typing import Any, TypeVar, final

from ..engine.graph import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])

@final
class Derived: ...

def differentiate(
    g: Tensor,
    owner: Derived,
    inputs: tuple[Any, ...],
    kept: Any,
    wanted: int,
    writes: int,
    all_writes: int,
) -> list[Tensor | None]: ...
def derived(function: _Function) -> _Function: ...
