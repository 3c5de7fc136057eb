"""Argument checks: each returns the accepted value, and names owner and argument in its error.

A wrong type raises TypeError, a value out of range ValueError. NaN is out of every range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from numbers import Real
from operator import index
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
LONGEST = 100_000  # the longest list of milestones, which each step walks through


def as_int(value: Any) -> int | None:
    """Return `value` as an int if it has `__index__`, as NumPy's integers do, and is no bool; else
    None.

    >>> as_int(np.int64(3)), as_int(3.0), as_int(True)
    (3, None, None)
    """
    try:
        return None if isinstance(value, bool) else index(value)
    except TypeError:
        return None


def instance(value: Any, kind: type[T] | tuple[type[T], ...], must: str, way_out: str = "") -> T:
    """Return `value`, which must be of a class, or of one of several: `must` says it in the error.

    >>> instance([1], dict, "SGD: a parameter group is a dict")
    Traceback (most recent call last):
    TypeError: SGD: a parameter group is a dict, got list
    """
    if not isinstance(value, kind):
        raise TypeError(f"{must}, got {type(value).__name__}{way_out}")
    return value


def sizes_of(shape: Any, name: str) -> tuple[int, ...]:
    """Return a shape, given as an int or a sequence of ints, as a tuple.

    >>> sizes_of(3, "zeros"), sizes_of([2, 3], "zeros")
    ((3,), (2, 3))
    """
    sizes = tuple(map(as_int, shape if isinstance(shape, (tuple, list)) else (shape,)))
    if None in sizes:
        raise TypeError(f"{name}: a shape is an int or a tuple of ints, got {shape!r}")
    whole_sizes = tuple(n for n in sizes if n is not None)
    if any(n < 0 for n in whole_sizes):
        raise ValueError(f"{name}: a size cannot be negative, got {shape!r}")
    return whole_sizes


def check_device(name: str, device: Any) -> None:
    """Raise ValueError unless `device` is None or the CPU, by name or as an object of PyTorch.

    >>> check_device("zeros", "cpu")
    """
    if device is not None and str(device) not in ("cpu", "cpu:0"):
        raise ValueError(f"{name}: minigrad computes on the CPU, not on {device!r}; leave it out")


def plain(value: Any) -> Any:
    """Convert NumPy scalars, and arrays and tensors of shape (), to Python numbers, and larger ones
    to new arrays: options must survive a checkpoint unchanged, and not be changed in place. Other
    values are returned as is.

    >>> plain(np.float64(0.5)), plain((mg.tensor(0.5), np.int64(2))), plain(mg.ones(2))
    (0.5, (0.5, 2), array([1., 1.], dtype=float32))
    """
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if hasattr(value, "__array__"):
        return np.array(value) if np.ndim(value) else value.item()
    return value


def check_range(owner: str, label: str, value: Any, upper: float = math.inf) -> Any:
    """Return `value` as a Python number, which must be in [0, upper).

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
    """Return `value` as a Python int; it must be an integer from `least` to 2**63 - 1.

    >>> check_count("LBFGS", "max_iter", np.int64(20))
    20
    """
    if as_int(value) is None:
        kind = type(value).__name__
        raise TypeError(f"{owner}: {label} must be an int, got {kind} {value!r:.60}")
    count = integer(value, f"{owner}: {label}", least)
    if count >= 2**63:
        bits = count.bit_length()  # its digits may be too many to print
        raise ValueError(f"{owner}: {label} must be below 2**63, got a number of {bits} bits")
    return count


def check_share(owner: str, label: str, value: Any) -> Any:
    """`check_range` for [0, 1], including 1.

    >>> check_share("LinearLR", "end_factor", 1)
    1
    """
    value = check_range(owner, label, value)
    if value > 1:
        raise ValueError(f"{owner}: {label} must be between 0 and 1, got {value}")
    return value


def check_length(owner: str, label: str, values: Iterable[Any]) -> list[Any]:
    """Return the values as a list; raise if there are so many that it must be a mistake.

    >>> check_length("MultiStepLR", "milestones", (1, 3))
    [1, 3]
    """
    listed = list(islice(values, LONGEST + 1))
    if len(listed) > LONGEST:
        raise ValueError(f"{owner}: expected at most {LONGEST:,} {label}, got more")
    return listed


def integer(value: Any, name: str, least: int | None = None) -> int:
    """Return `value` as an int of at least `least`. Floats and bools are not ints.

    >>> integer(np.int64(3), "DataLoader: batch_size", 1)
    3
    """
    number = as_int(value)
    if number is None:
        raise TypeError(f"{name} must be an int, got {value!r:.60}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def real(value: Any, name: str) -> Any:
    """Return `value`, which must be a real number.

    >>> real(0.5, "PReLU: init")
    0.5
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return value


def _limited(
    check: Callable[[Any, str], T], within: Callable[[T], bool], must: str
) -> Callable[[Any, str], T]:
    """A check of the type and the range; the error names the range."""

    def limited(value: Any, name: str) -> T:
        number = check(value, name)
        if not within(number):
            raise ValueError(f"{name} must {must}, got {number}")
        return number

    return limited


positive = _limited(integer, lambda size: size >= 1, "be positive")  # an int
positive_real = _limited(real, lambda number: number > 0, "be positive")
nonnegative_real = _limited(real, lambda number: number >= 0, "not be negative")
probability = _limited(real, lambda number: 0 <= number <= 1, "be between 0 and 1")


def flag(value: Any, name: str) -> bool:
    """Return `value` as a bool; it must be True or False.

    >>> flag(True, "LSTM: batch_first")
    True
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(value: Any, name: str, *choices: str) -> Any:
    """Return `value`, which must be one of the strings `choices`; otherwise raise ValueError.

    >>> choice("mean", "mse_loss: reduction", "none", "mean", "sum")
    'mean'
    """
    if value not in choices:
        known = ", ".join(map(repr, choices[:-1])) + " or " * (len(choices) > 1)
        raise ValueError(f"{name} must be {known}{choices[-1]!r}, got {value!r}")
    return value


def per_axis(value: Any, axes: int, name: str, least: int = 1) -> tuple[int, ...]:
    """Return `value` as a tuple of one int per axis, each at least `least`. `value` is an int, or a
    tuple of one int for all axes or of one per axis.

    >>> per_axis(3, 2, "conv2d: stride")
    (3, 3)
    """
    given = value if isinstance(value, (tuple, list)) else (value,)
    try:
        values = tuple(integer(n, name) for n in given)
    except TypeError:
        raise TypeError(f"{name} must be an int or a tuple of {axes} ints, got {value!r}") from None
    if len(values) == 1:
        values *= axes
    if len(values) != axes or not values or min(values) < least:
        raise ValueError(f"{name} must be an int or {axes} ints of at least {least}, got {value!r}")
    return values


def wrong_shape(name: str, shape: tuple[int, ...], *layouts: str, where: str = "") -> ValueError:
    """The error of an input whose shape has none of the layouts; `where` says what else it lacks.

    >>> wrong_shape("conv1d", (5,), "(N, C, L)", "(C, L)")
    ValueError('conv1d: expected an input of shape (N, C, L) or (C, L), got (5,)')
    """
    expected = " or ".join(layouts) + where
    return ValueError(f"{name}: expected an input of shape {expected}, got {shape}")
