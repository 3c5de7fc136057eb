"""Stubs of what Python calls directly; the rest of loops.pyx is called from Cython only."""

from collections.abc import Callable
from typing import Any, TypeVar

from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., Any])

def memory_checked(function: _F) -> _F: ...

MOST_THREADS: int

def number_of_threads() -> int: ...
def set_threads(n: int) -> int: ...
def count_classes(name: str, labels: NDArray[Any], classes: int, ignored: int) -> int: ...
