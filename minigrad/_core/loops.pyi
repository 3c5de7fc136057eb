"""Stubs of what Python calls directly; the rest of loops.pyx is called from Cython only."""

from typing import Any

from numpy.typing import NDArray

def threads_of_blas() -> int: ...
def count_classes(name: str, labels: NDArray[Any], classes: int, ignored: int) -> int: ...
