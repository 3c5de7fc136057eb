"""Datasets and mini-batches, with PyTorch's names.

A dataset is anything with `__len__` and `__getitem__`. A dataset that accepts index arrays sets
`takes_index_arrays = True`; a batch then takes one indexing operation instead of one per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from ._core.engine.graph import Tensor
from .checks import integer
from .creation import asarray, tensor
from .functions import stack
from .rng import generator

__all__ = ["DataLoader", "Subset", "TensorDataset", "default_collate", "random_split"]
__dir__ = __all__.copy


class TensorDataset:
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
            if not isinstance(given, (Tensor, np.ndarray)):
                raise TypeError(
                    f"TensorDataset: argument {position} must be a Tensor or an array, got "
                    f"{type(given).__name__}; make one with mg.tensor(...)"
                )
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
        return tuple(t[index] for t in self.tensors)


class Subset:
    """The samples of a dataset at the given indices, in that order.

    Raises TypeError for indices that are not ints; for a mask, pass np.flatnonzero(mask).

    >>> part = mg.data.Subset(mg.data.TensorDataset(mg.arange(10)), [7, 2])
    >>> len(part), part[0]
    (2, (tensor(7),))
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        positions = np.asarray(indices)
        if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
            raise TypeError(
                "Subset: indices must be a sequence of ints, got "
                f"{positions.ndim} dimensions of {positions.dtype}; "
                "for a mask pass np.flatnonzero(mask)"
            )
        self.indices = positions.astype(np.int64)
        self.takes_index_arrays = getattr(dataset, "takes_index_arrays", False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        chosen = self.indices[index]
        return self.dataset[int(chosen) if chosen.ndim == 0 else chosen]


def random_split(dataset: Any, lengths: Sequence[float], seed: int | None = None) -> list[Subset]:
    """Split a dataset at random into non-overlapping parts: a list of `Subset`.

    lengths: the number of samples in each part, or, as floats, the fractions; fractions are rounded
        down, and the remaining samples go to the first parts, one each.
    seed: gives the same split each time; by default the generator of `mg.manual_seed` is used.
    Raises ValueError unless the lengths add up to len(dataset), or the fractions to 1.

    >>> data = mg.data.TensorDataset(mg.zeros(10))
    >>> [len(part) for part in mg.data.random_split(data, [0.75, 0.25])]
    [8, 2]
    """
    total, sizes = len(dataset), list(lengths)
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
    order = (generator() if seed is None else np.random.default_rng(seed)).permutation(total)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(sizes)[:-1])]


class DataLoader:
    """Mini-batches of a dataset; iterate over it once per epoch.

    dataset: anything with `__len__` and `__getitem__`.
    shuffle: use a new order in each epoch. With a `seed` the order depends only on (seed, epoch):
        loaders with the same seed agree; set `loader.epoch` to continue an interrupted run.
        Without a seed the generator of `mg.manual_seed` is used.
    drop_last: drop the last batch if it is not full.
    collate_fn: makes a batch from a list of samples; by default `default_collate`.
    Raises ValueError for batch_size < 1 or seed < 0, TypeError for a dataset without a length.

    >>> data = mg.data.TensorDataset(mg.arange(5))
    >>> [batch.tolist() for (batch,) in mg.data.DataLoader(data, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                "DataLoader: the dataset must have __len__ and __getitem__, "
                f"{type(dataset).__name__} does not; convert it to a list or a TensorDataset"
            )
        self.dataset = dataset
        self.batch_size = integer(batch_size, "DataLoader: batch_size", 1)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = None if seed is None else integer(seed, "DataLoader: seed", 0)
        self.collate_fn = collate_fn
        self.epoch = 0

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        # drawn here, not at the first batch: the order in which iterators are read has no effect
        order = self._order()
        self.epoch += 1
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return (self._batch(order[start : start + self.batch_size]) for start in starts)

    def _order(self) -> np.ndarray:
        n = len(self.dataset)
        if not self.shuffle:
            return np.arange(n)
        seeded = None if self.seed is None else np.random.default_rng((self.seed, self.epoch))
        return (seeded or generator()).permutation(n)

    def _batch(self, indices: np.ndarray) -> Any:
        if self.collate_fn is None and getattr(self.dataset, "takes_index_arrays", False):
            return self.dataset[indices]
        samples = [self.dataset[i] for i in indices.tolist()]
        return default_collate(samples) if self.collate_fn is None else self.collate_fn(samples)


def default_collate(samples: list[Any]) -> Any:
    """Make a batch from a list of samples.

    Numbers, arrays and Tensors are stacked along a new first axis; tuples, lists and dicts keep
    their structure, namedtuples and other mappings also their type; strings stay a list.
    Raises ValueError for samples of different shapes, TypeError for types that cannot be stacked.

    >>> mg.data.default_collate([(1.0, "a"), (2.0, "b")])
    (tensor([1., 2.]), ['a', 'b'])
    """
    if _all(samples, str, bytes):
        return samples
    if _all(samples, Mapping):
        if any(set(sample) != set(samples[0]) for sample in samples):
            raise ValueError(f"DataLoader: the keys of the samples of one batch differ; {_WAY_OUT}")
        batch = {key: default_collate([sample[key] for sample in samples]) for key in samples[0]}
        return _of_type(samples[0], batch)
    if _all(samples, tuple, list):
        if len({len(sample) for sample in samples}) > 1:
            raise ValueError(f"DataLoader: the samples of one batch differ in length; {_WAY_OUT}")
        fields = [default_collate(list(field)) for field in zip(*samples, strict=False)]
        first = samples[0]
        return fields if isinstance(first, list) else getattr(first, "_make", tuple)(fields)
    if _all(samples, Tensor, np.ndarray, np.generic, bool, int, float):
        return _stacked(samples)
    names = ", ".join(sorted({type(sample).__name__ for sample in samples}))
    raise TypeError(f"DataLoader: samples of the types {names} do not make one batch; {_WAY_OUT}")


def _of_type(example: Mapping[Any, Any], batch: dict[Any, Any]) -> Mapping[Any, Any]:
    """The batch as a mapping of the example's type, with its other contents, if possible."""
    if type(example) is dict:
        return batch
    try:
        if not isinstance(example, MutableMapping):
            return type(example)(batch)  # type: ignore[call-arg]
        result = copy(example)
        for key, value in batch.items():
            result[key] = value  # `update` of a Counter would add
        return result
    except TypeError:
        return batch


def _all(samples: list[Any], *kinds: type) -> bool:
    return all(isinstance(sample, kinds) for sample in samples)


def _stacked(samples: list[Any]) -> Tensor:
    shapes = sorted({str(getattr(sample, "shape", ())) for sample in samples})
    if len(shapes) > 1:
        raise ValueError(
            f"DataLoader: samples of the shapes {', '.join(shapes)} do not make one batch; "
            f"{_WAY_OUT}"
        )
    if any(isinstance(sample, Tensor) for sample in samples):
        return stack(samples)  # gradients flow through it
    plain_numbers = _all(samples, bool, int, float) and not _all(samples, np.generic)
    return tensor(samples if plain_numbers else np.stack(samples))


_WAY_OUT = "make them alike in the dataset, or pass a collate_fn"
