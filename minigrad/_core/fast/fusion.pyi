"""Stubs of the fusion; the docstrings stand in fusion.pyx."""

from collections.abc import Callable
from typing import Any, TypeVar, final

from ..engine.graph import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])

class FusionError(Exception): ...

@final
class Variant: ...

@final
class Fused: ...

def differentiate(
    g: Tensor,
    owner: Fused,
    variant: Variant,
    inputs: tuple[Any, ...],
    kept: Any,
    writes: int,
    all_writes: int,
) -> list[Tensor | None]: ...
def fused(function: _Function) -> _Function: ...
