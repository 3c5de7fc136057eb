"""Datasets: tensors, parts of datasets, and the base classes of one's own."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from .._core.engine.graph import Tensor
from .._core.ops import concat
from ..checks import as_int, instance, integer, plain, real
from ..creation import asarray
from ..rng import Generator, generator as numpy_generator
from ..tree import flatten_tree
from .sampler import checked_indices, length_of

__all__ = ["ConcatDataset", "Dataset", "IterableDataset", "Subset", "TensorDataset", "random_split"]

Sample = TypeVar("Sample", covariant=True)


class Dataset(Generic[Sample]):
    """The base class of datasets: define `__getitem__(index)`, a sample, and `__len__`.

    A DataLoader takes any object with these two; what this class adds is `a + b`, the
    `ConcatDataset` of both. Set `takes_index_arrays = True` if `__getitem__` also takes an array of
    ints and returns a batch: much faster than sample by sample.

    >>> class Squares(mg.data.Dataset):
    ...     def __len__(self):
    ...         return 5
    ...     def __getitem__(self, index):
    ...         return index**2
    >>> [batch.tolist() for batch in mg.data.DataLoader(Squares(), batch_size=3)]
    [[0, 1, 4], [9, 16]]
    """

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index)")

    def __add__(self, other: Any) -> ConcatDataset:
        return ConcatDataset([self, other])

    def __repr__(self) -> str:
        length = length_of(self)
        return f"{type(self).__name__}({'' if length is None else f'{length} samples'})"


class IterableDataset(Dataset[Sample]):
    """The base class of streams, datasets without indices: define `__iter__`, which yields samples.

    A DataLoader makes batches of them as they come, without shuffling. To resume in the middle of
    an epoch it reads the stream again and drops what it had delivered; a stream with `state_dict()`
    and `load_state_dict(state)` continues by itself instead, and must do so if it draws random
    numbers.

    >>> class Countdown(mg.data.IterableDataset):
    ...     def __iter__(self):
    ...         yield from range(5, 0, -1)
    >>> [batch.tolist() for batch in mg.data.DataLoader(Countdown(), batch_size=2)]
    [[5, 4], [3, 2], [1]]
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__")

    def __getitem__(self, index: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} is an IterableDataset, whose samples have no indices; "
            "iterate over it, or make a list of it"
        )


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Samples from tensors with the same first size: sample i is (tensors[0][i], tensors[1][i],
    ...).

    tensors: Tensors or arrays, whose memory is shared. Indexing with an int, a slice, or an array
    of ints or bools returns a tuple of Tensors. Raises ValueError if the first sizes differ.

    >>> data = mg.data.TensorDataset(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), np.array([0, 1]))
    >>> len(data), data[1]
    (2, (tensor([3., 4.]), tensor(1)))
    """

    takes_index_arrays = True

    def __init__(self, *tensors: Tensor | np.ndarray) -> None:
        if not tensors:
            raise ValueError("TensorDataset: expected at least one tensor")
        for position, given in enumerate(tensors):
            must = f"TensorDataset: argument {position} must be a Tensor or an array"
            instance(given, (Tensor, np.ndarray), must, "; make one with mg.tensor(...)")
        self.tensors = tuple(t if isinstance(t, Tensor) else asarray(t) for t in tensors)
        if any(t.ndim == 0 for t in self.tensors):
            raise ValueError("TensorDataset: a 0-d tensor has no samples")
        if len({len(t) for t in self.tensors}) > 1:
            shapes = ", ".join(str(t.shape) for t in self.tensors)
            raise ValueError(
                f"TensorDataset: the first sizes of {shapes} differ; "
                "each must be the number of samples"
            )

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        if isinstance(index, tuple):
            raise TypeError(
                f"TensorDataset: the index selects samples, one axis only, got the tuple {index}"
            )
        return tuple([t[index] for t in self.tensors])

    def __repr__(self) -> str:
        return f"TensorDataset({', '.join(f'{t.shape} {t.dtype}' for t in self.tensors)})"


class Subset(Dataset[Any]):
    """The samples of a dataset at the given indices, in that order.

    Raises TypeError for indices that are not ints; for a mask, pass np.flatnonzero(mask).

    >>> part = mg.data.Subset(mg.data.TensorDataset(mg.arange(10)), [7, 2])
    >>> len(part), part[0]
    (2, (tensor(7),))
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = checked_indices(indices, "Subset")
        self.takes_index_arrays = getattr(dataset, "takes_index_arrays", False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        chosen = self.indices[index]
        if chosen.ndim == 0:
            return self.dataset[int(chosen)]
        if not self.takes_index_arrays:
            raise TypeError(
                f"Subset: index {index!r:.60} is not an int, and the dataset does not take index "
                "arrays; index sample by sample"
            )
        return self.dataset[chosen]

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {described(self.dataset)})"


class ConcatDataset(Dataset[Any]):
    """The samples of several datasets, one after another.

    Takes index arrays if every dataset does; the batches of different datasets must then be alike:
    Tensors in the same nested tuples, lists and dicts. Attributes: `datasets`, `cumulative_sizes`.
    Raises ValueError for an empty list, TypeError for a dataset without a length, or a stream.

    >>> parts = [mg.data.TensorDataset(mg.arange(3)), mg.data.TensorDataset(mg.arange(10, 13))]
    >>> data = mg.data.ConcatDataset(parts)
    >>> len(data), data[4], data[np.array([5, 0, 3])]
    (6, (tensor(11),), (tensor([12,  0, 10]),))
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        if isinstance(datasets, Dataset):  # which would be iterated over
            raise TypeError(
                f"ConcatDataset: expected a list of datasets, got one, {datasets!r:.60}; "
                "ConcatDataset([a, b]) is both"
            )
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: expected at least one dataset, got none")
        for number, dataset in enumerate(self.datasets):
            if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
                raise TypeError(
                    f"ConcatDataset: dataset {number} must have __len__ and __getitem__, "
                    f"{type(dataset).__name__} does not; make a list of it"
                )
        self.cumulative_sizes: list[int] = np.cumsum([len(d) for d in self.datasets]).tolist()
        each = (getattr(dataset, "takes_index_arrays", False) for dataset in self.datasets)
        self.takes_index_arrays = all(each)

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: Any) -> Any:
        if (position := as_int(index)) is not None:
            (position,) = self._within(np.array([position])).tolist()
            number = bisect_right(self.cumulative_sizes, position)
            return self.datasets[number][position - self._start(number)]
        if not self.takes_index_arrays:
            raise TypeError(
                f"ConcatDataset: index {index!r:.60} is not an int, and not every dataset takes "
                "index arrays; index sample by sample"
            )
        positions = index if isinstance(index, slice) else np.asarray(index)
        if isinstance(positions, slice) or positions.dtype.kind == "b":
            positions = np.arange(len(self))[positions]
        positions = self._within(checked_indices(positions, "ConcatDataset"))
        owner = np.searchsorted(self.cumulative_sizes, positions, side="right")
        parts = [
            self.datasets[number][positions[owner == number] - self._start(number)]
            for number in (np.unique(owner) if owner.size else [0])
        ]
        if len(parts) == 1:
            return parts[0]
        # in the order of the datasets, then of the indices
        back = np.argsort(np.argsort(owner, kind="stable"))
        leaves, rebuilds = zip(*map(flatten_tree, parts), strict=True)
        return rebuilds[0]([concat(same)[back] for same in zip(*leaves, strict=True)])

    def _start(self, number: int) -> int:
        return self.cumulative_sizes[number - 1] if number else 0

    def _within(self, positions: np.ndarray) -> np.ndarray:
        n = len(self)
        outside = positions[(positions < -n) | (positions >= n)]
        if outside.size:
            raise IndexError(f"ConcatDataset: index {outside[0]} is out of bounds for {n} samples")
        return np.where(positions < 0, positions + n, positions)

    def __repr__(self) -> str:
        return f"ConcatDataset({' + '.join(map(described, self.datasets))})"


def described(dataset: Any) -> str:
    """A dataset as text of a decent length.

    >>> mg.data.dataset.described([1, 2, 3])
    'list of 3 samples'
    """
    if isinstance(dataset, Dataset):
        return repr(dataset)
    return f"{type(dataset).__name__} of {len(dataset)} samples"


def random_split(
    dataset: Any,
    lengths: Sequence[float],
    seed: int | None = None,
    *,
    generator: Generator | None = None,
) -> list[Subset]:
    """Split a dataset at random into non-overlapping parts: a list of `Subset`.

    lengths: the number of samples in each part, or, as floats, the fractions; fractions are rounded
        down, and the remaining samples go to the first parts, one each.
    seed: gives the same split each time. generator: draws the split; by default the library's
        (`mg.manual_seed`).
    Raises ValueError unless the lengths add up to len(dataset), or the fractions to 1.

    >>> data = mg.data.TensorDataset(mg.zeros(10))
    >>> [len(part) for part in mg.data.random_split(data, [0.75, 0.25])]
    [8, 2]
    """
    if seed is not None:
        if generator is not None:
            raise ValueError("random_split: give a seed or a generator, not both")
        generator = Generator(integer(seed, "random_split: seed", 0))
    total, sizes = len(dataset), [plain(real(n, "random_split: a length")) for n in lengths]
    if any(not size >= 0 for size in sizes):
        raise ValueError(f"random_split: lengths must not be negative, got {sizes}")
    if any(isinstance(size, float) for size in sizes):
        if not math.isclose(sum(sizes), 1):
            raise ValueError(f"random_split: the fractions {sizes} add up to {sum(sizes):g}, not 1")
        # 0.29 of 100, in binary 28.999999999999996, must be 29
        sizes = [math.floor(total * fraction + 1e-9) for fraction in sizes]
        left_over = total - sum(sizes)
        sizes = [size + (position < left_over) for position, size in enumerate(sizes)]
    if sum(sizes) != total:
        raise ValueError(
            f"random_split: the lengths {sizes} add up to {sum(sizes)}, the dataset has {total}"
        )
    order = numpy_generator(generator, "random_split").permutation(total)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(sizes)[:-1])]
