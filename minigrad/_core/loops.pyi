"""Stubs of what Python calls directly; the rest of loops.pyx is called from Cython only."""

from typing import Any

from numpy.typing import NDArray

def count_classes(name: str, labels: NDArray[Any], classes: int, ignored: int) -> int: ...
def sgd_update(
    parameter: NDArray[Any],
    gradient: NDArray[Any],
    velocity: NDArray[Any] | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
    maximize: bool,
) -> None: ...
def adam_update(
    parameter: NDArray[Any],
    gradient: NDArray[Any],
    first_moment: NDArray[Any],
    second_moment: NDArray[Any],
    largest: NDArray[Any] | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    step: int,
) -> None: ...
