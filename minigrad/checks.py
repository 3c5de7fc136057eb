"""Checks of arguments: each returns what it accepts, and names owner and argument in its error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from ._core.ops import whole

LONGEST = 100_000  # a list of milestones, which each step goes through


def plain(value: Any) -> Any:
    """NumPy's numbers, and arrays and tensors of shape (), as Python numbers: an option that a
    checkpoint gives back as it was, and that nobody changes in place. Other values as they are.

    >>> plain(np.float64(0.5)), plain((mg.tensor(0.5), np.int64(2)))
    (0.5, (0.5, 2))
    """
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if hasattr(value, "__array__") and np.ndim(value) == 0:
        return value.item()
    return value


def check_range(owner: str, label: str, value: Any, upper: float = math.inf) -> Any:
    """`value` as a Python number, if it is one in [0, upper).

    >>> check_range("SGD", "learning rate", np.float32(0.5))
    0.5
    """
    value = plain(value)
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"{owner}: the {label} must be a number, got {type(value).__name__} {value!r}"
        )
    if not 0 <= value < upper:
        raise ValueError(f"{owner}: Invalid {label}: {value}; give a number in [0, {upper:g})")
    return value


def check_count(owner: str, label: str, value: Any, least: int = 1) -> int:
    """`value` as a Python int, if it acts as one, is not below `least`, and is below 2**63.

    >>> check_count("LBFGS", "max_iter", np.int64(20))
    20
    """
    try:
        count = whole(label, value)
    except TypeError:
        raise TypeError(
            f"{owner}: {label} must be an int, got {type(value).__name__} {value!r}"
        ) from None
    if count < least:
        raise ValueError(f"{owner}: {label} must be an int from {least} on, got {count}")
    if count >= 2**63:
        bits = count.bit_length()  # its digits may be too many to print
        raise ValueError(f"{owner}: {label} must be below 2**63, got a number of {bits} bits")
    return count


def check_share(owner: str, label: str, value: Any) -> Any:
    """`check_range` for [0, 1], with 1.

    >>> check_share("LinearLR", "end_factor", 1)
    1
    """
    value = check_range(owner, label, value)
    if value > 1:
        raise ValueError(f"{owner}: {label} must be between 0 and 1, got {value}")
    return value


def check_length(owner: str, label: str, values: Iterable[Any]) -> list[Any]:
    """The values as a list, unless they are so many that they are a mistake.

    >>> check_length("MultiStepLR", "milestones", (1, 3))
    [1, 3]
    """
    listed = list(islice(values, LONGEST + 1))
    if len(listed) > LONGEST:
        raise ValueError(f"{owner}: expected at most {LONGEST:,} {label}, got more")
    return listed
