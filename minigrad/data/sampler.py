"""Samplers: the order in which a DataLoader takes the samples of a dataset, epoch by epoch.

Design note
-----------
A sampler is any iterable of indices. The samplers here draw the indices of an epoch at once, as an
array, which a DataLoader takes as such (`drawn`); iterated over, they give ints, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from ..checks import flag, integer
from ..rng import Generator, check_generator, generator as numpy_generator
from ..statistics import weighted_positions

__all__ = [
    "BatchSampler", "RandomSampler", "Sampler", "SequentialSampler", "SubsetRandomSampler",
    "WeightedRandomSampler",
]  # fmt: skip

Index = TypeVar("Index", covariant=True)


class Sampler(Generic[Index]):
    """The base class of samplers: define `__iter__`, which starts an epoch and yields indices.

    A DataLoader draws the whole epoch when it starts if there is a `__len__`, and otherwise batch
    by batch: an endless sampler has none. A sampler that also has `state_dict()` and
    `load_state_dict(state)` is asked for its state by `DataLoader.state_dict`.

    >>> class Twice(mg.data.Sampler):
    ...     def __iter__(self):
    ...         return iter([0, 1, 2, 0, 1, 2])
    ...     def __len__(self):
    ...         return 6
    >>> loader = mg.data.DataLoader(mg.arange(3), batch_size=4, sampler=Twice())
    >>> [batch.tolist() for batch in loader]
    [[0, 1, 2, 0], [1, 2]]
    """

    def __iter__(self) -> Iterator[Index]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__")

    def __repr__(self) -> str:
        length = length_of(self)
        return f"{type(self).__name__}({'' if length is None else f'{length} indices'})"


class _DrawsAtOnce(Sampler[int]):
    """A sampler of this module; `draw` makes the array of the indices of an epoch."""

    generator: Generator | None = None

    def draw(self) -> np.ndarray:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw().tolist())

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator, if the sampler has one of its own.

        >>> mg.data.RandomSampler(range(3)).state_dict()
        {'generator': None}
        """
        return {"generator": self.generator and self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises ValueError, without changing anything, for a state with a generator if this sampler
        has none of its own, or the other way round; see `Generator.set_state` for other errors.

        >>> sampler = mg.data.RandomSampler(range(9), generator=mg.Generator(0))
        >>> state = sampler.state_dict()
        >>> order = list(sampler)
        >>> sampler.load_state_dict(state)
        >>> list(sampler) == order
        True
        """
        name = f"{type(self).__name__}.load_state_dict"
        state: Any = state_dict
        if not isinstance(state, dict) or "generator" not in state:
            raise ValueError(
                f"{name}: expected what state_dict() returned, got {state!r:.60}; nothing was "
                "changed"
            )
        saved = state["generator"]
        if (saved is None) != (self.generator is None):
            there, here = ("has none", "has") if saved is None else ("has", "has none")
            raise ValueError(
                f"{name}: the sampler of the state {there} a generator of its own, this one "
                f"{here}; build it as the one that was saved. Nothing was changed"
            )
        if self.generator is not None:
            self.generator.set_state(saved)

    def _options(self) -> str:
        return f", generator={self.generator}" if self.generator is not None else ""


class SequentialSampler(_DrawsAtOnce):
    """0, 1, ..., len(data_source) - 1, in each epoch.

    >>> list(mg.data.SequentialSampler(["a", "b", "c"]))
    [0, 1, 2]
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def draw(self) -> np.ndarray:
        """The indices of an epoch, int64."""
        return np.arange(len(self.data_source))

    def __len__(self) -> int:
        return len(self.data_source)

    def __repr__(self) -> str:
        return f"SequentialSampler({len(self)} samples)"


class RandomSampler(_DrawsAtOnce):
    """The indices of `data_source` in a new random order in each epoch.

    replacement: draw each index independently of the others.
    num_samples: the number of indices per epoch, by default len(data_source); more than that
        without replacement go through the data several times, each time in a new order.
    generator: by default the library's (`mg.manual_seed`).
    Raises ValueError for num_samples < 1 or samples of an empty data_source.

    >>> sorted(mg.data.RandomSampler(["a", "b", "c"]))
    [0, 1, 2]
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.data_source = data_source
        self.replacement = flag(replacement, "RandomSampler: replacement")
        if num_samples is not None:
            num_samples = integer(num_samples, "RandomSampler: num_samples", 1)
            if not len(data_source):
                raise ValueError(
                    f"RandomSampler: cannot draw {num_samples} indices of an empty data_source"
                )
        self._num_samples = num_samples
        self.generator = check_generator(generator, "RandomSampler")

    @property
    def num_samples(self) -> int:
        """The number of indices per epoch.

        >>> mg.data.RandomSampler(range(3)).num_samples
        3
        """
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def draw(self) -> np.ndarray:
        """The indices of an epoch, int64."""
        n, count = len(self.data_source), self.num_samples
        random = numpy_generator(self.generator)
        if self.replacement:
            return random.integers(n, size=count) if count else np.arange(0)
        if count <= n:
            return random.permutation(n)[:count]
        return np.concatenate([random.permutation(n) for _ in range(-(-count // n))])[:count]

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        options = f", num_samples={self._num_samples}" if self._num_samples is not None else ""
        options += ", replacement=True" if self.replacement else ""
        return f"RandomSampler({len(self.data_source)} samples{options}{self._options()})"


class SubsetRandomSampler(_DrawsAtOnce):
    """The given indices in a new random order in each epoch; generator: by default the library's.

    Raises TypeError unless the indices are a sequence of ints.

    >>> sorted(mg.data.SubsetRandomSampler([7, 2]))
    [2, 7]
    """

    def __init__(
        self, indices: Sequence[int] | np.ndarray, generator: Generator | None = None
    ) -> None:
        self.indices = checked_indices(indices, "SubsetRandomSampler")
        self.generator = check_generator(generator, "SubsetRandomSampler")

    def draw(self) -> np.ndarray:
        """The indices of an epoch, int64."""
        return self.indices[numpy_generator(self.generator).permutation(len(self.indices))]

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"SubsetRandomSampler({len(self)} indices{self._options()})"


class WeightedRandomSampler(_DrawsAtOnce):
    """`num_samples` indices per epoch, index i with a probability proportional to weights[i].

    To balance classes, weight each sample with 1 / (the number of samples of its class).

    weights: numbers >= 0, not all zero.
    replacement: draw each index independently of the others; otherwise no index is drawn twice, and
        each is drawn in proportion to the weights of those that are left (Efraimidis & Spirakis
        2006: the num_samples smallest of e_i / weights[i] with exponential e_i).
    generator: by default the library's (`mg.manual_seed`).
    Raises ValueError for weights that are negative, not finite, all zero or not one-dimensional,
    and for num_samples < 1 or, without replacement, above the number of positive weights.

    >>> sampler = mg.data.WeightedRandomSampler([0.0, 1.0, 0.0, 3.0], 100)
    >>> set(sampler) == {1, 3}
    True
    """

    def __init__(
        self,
        weights: Sequence[float] | np.ndarray,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        self.weights = np.asarray(weights)
        self.num_samples = integer(num_samples, "WeightedRandomSampler: num_samples", 1)
        self.replacement = flag(replacement, "WeightedRandomSampler: replacement")
        self.generator = check_generator(generator, "WeightedRandomSampler")
        self._checked_weights()

    def _checked_weights(self) -> np.ndarray:
        """The weights; raises for invalid ones, also at each draw, since they may have changed."""
        weights, name = self.weights, "WeightedRandomSampler: weights"
        if weights.ndim != 1 or weights.dtype.kind not in "buif":
            raise ValueError(
                f"{name} must be a sequence of numbers, one per sample, got {weights.ndim} "
                f"dimensions of {weights.dtype}"
            )
        bad = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
        if bad.size:
            raise ValueError(
                f"{name} must be finite and not negative, got {weights[bad[0]]} at {bad[0]}"
            )
        positive = np.count_nonzero(weights)
        if not positive:
            raise ValueError(f"{name} are all zero; there is nothing to draw")
        if not self.replacement and self.num_samples > positive:
            raise ValueError(
                f"WeightedRandomSampler: cannot draw {self.num_samples} samples without "
                f"replacement: {positive} of {weights.size} weights are positive; "
                "draw fewer, or pass replacement=True"
            )
        return weights

    def draw(self) -> np.ndarray:
        """The indices of an epoch, int64."""
        weights, random = self._checked_weights(), numpy_generator(self.generator)
        count, again = self.num_samples, self.replacement
        positions: np.ndarray = weighted_positions(weights[None], count, again, random)[0]
        return positions

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        options = f"num_samples={self.num_samples}, replacement={self.replacement}"
        return f"WeightedRandomSampler({self.weights.size} weights, {options}{self._options()})"


class BatchSampler(Sampler[list[int]]):
    """Lists of `batch_size` indices of another sampler; for `DataLoader(batch_sampler=)`.

    drop_last: drop the last list if it is shorter.

    >>> list(mg.data.BatchSampler(range(5), batch_size=2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        self.sampler = sampler
        self.batch_size = integer(batch_size, "BatchSampler: batch_size", 1)
        self.drop_last = flag(drop_last, "BatchSampler: drop_last")

    def __iter__(self) -> Iterator[list[int]]:
        return in_lists(self.sampler, self.batch_size, self.drop_last)

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)  # type: ignore[arg-type]
        return full + (rest > 0 and not self.drop_last)

    def __repr__(self) -> str:
        options = f"batch_size={self.batch_size}, drop_last={self.drop_last}"
        return f"BatchSampler({self.sampler!r:.200}, {options})"


def length_of(source: Any) -> int | None:
    """`len(source)`, or None if it has none.

    >>> mg.data.sampler.length_of([1, 2]), mg.data.sampler.length_of(iter([1, 2]))
    (2, None)
    """
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return None


def in_lists(items: Iterable[Any], size: int, drop_last: bool) -> Iterator[list[Any]]:
    """Lists of `size` items each.

    >>> list(mg.data.sampler.in_lists("abc", 2, drop_last=True))
    [['a', 'b']]
    """
    rest = iter(items)
    while batch := list(islice(rest, size)):
        if len(batch) == size or not drop_last:
            yield batch


def drawn(sampler: Any) -> Any:
    """The indices of an epoch as an int64 array, or a list if they are not ints.

    >>> mg.data.sampler.drawn(range(3))
    array([0, 1, 2])
    """
    if isinstance(sampler, _DrawsAtOnce) and type(sampler).__iter__ is _DrawsAtOnce.__iter__:
        return sampler.draw()
    return as_indices(sampler if hasattr(sampler, "__array__") else list(sampler))


def as_indices(listed: Any) -> Any:
    """A list of indices as an int64 array, or as it is if they are not ints.

    >>> mg.data.sampler.as_indices([2, 0]), mg.data.sampler.as_indices(["a", "b"])
    (array([2, 0]), ['a', 'b'])
    """
    try:
        array = np.asarray(listed)
    except ValueError:  # tuples of different lengths
        return listed
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        return listed
    return array.astype(np.int64, copy=False)


def checked_indices(indices: Any, name: str) -> np.ndarray:
    """The indices as an int64 array; raises TypeError unless they are a sequence of ints.

    >>> mg.data.sampler.checked_indices((7, 2), "Subset")
    array([7, 2])
    """
    positions = np.asarray(indices)
    if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
        raise TypeError(
            f"{name}: indices must be a sequence of ints, got "
            f"{positions.ndim} dimensions of {positions.dtype}; "
            "for a mask pass np.flatnonzero(mask)"
        )
    return positions.astype(np.int64)
