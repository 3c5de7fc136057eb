"""Stubs of the fusion; the docstrings stand in fusion.pyx."""

from collections.abc import Callable
from typing import Any, TypeVar, final

from .tensor import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])

class FusionError(Exception): ...

@final
class Value: ...

@final
class Step: ...

@final
class Trace:
    def note(
        self, name: str, inputs: tuple[Any, ...], attributes: dict[str, Any], output: Tensor
    ) -> None: ...

@final
class Program: ...

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
def set_fusion(on: bool) -> bool: ...
