"""Stubs of the optimiser steps; the docstrings stand in updates.pyx."""

from collections.abc import Callable
from typing import Any, final

from numpy.typing import NDArray

from ..engine.graph import Tensor

@final
class Update:
    def __init__(self, rule: str, names: tuple[str | None, ...], group: dict[str, Any]) -> None: ...
    def __call__(
        self, parameter: NDArray[Any], gradient: NDArray[Any], state: dict[str, Any]
    ) -> None: ...

@final
class Job: ...

def apply_updates(
    groups: list[dict[str, Any]],
    rules: list[Callable[[NDArray[Any], NDArray[Any], dict[str, Any]], None]],
    states: dict[Tensor, dict[str, Any]],
    owner: str,
) -> None: ...
def drop_gradients(groups: list[dict[str, Any]]) -> None: ...
