"""Datasets, loaders and splits."""

from __future__ import annotations

from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from itertools import chain
from types import MappingProxyType

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import DataLoader, Subset, TensorDataset, default_collate, random_split

Pair = namedtuple("Pair", "first second")


def numbers(n=10):
    return TensorDataset(mg.arange(n))


def joined(lists):
    return list(chain.from_iterable(lists))


def batches(loader):
    return [batch.tolist() for (batch,) in loader]


# ---------------------------------------------------------------------------------- TensorDataset
def test_tensor_dataset():
    images, labels = np.arange(12.0).reshape(4, 3), mg.tensor([0, 1, 2, 3])
    data = TensorDataset(images, labels)
    assert len(data) == 4
    image, label = data[2]
    assert isinstance(image, mg.Tensor) and image.tolist() == [6.0, 7.0, 8.0] and label.item() == 2
    assert image.dtype == np.float64
    assert data[-1][1].item() == 3
    assert data[1:3][0].shape == (2, 3)
    for index in ([3, 0], np.array([3, 0]), mg.tensor([3, 0])):
        assert data[index][1].tolist() == [3, 0]
    assert data[np.array([True, False, False, True])][1].tolist() == [0, 3]
    assert [label.item() for _, label in data] == [0, 1, 2, 3]


def test_tensor_dataset_shares_memory():
    array = np.zeros(3)
    data = TensorDataset(array)
    array[1] = 5
    assert data[1][0].item() == 5


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: TensorDataset(), ValueError, "at least one tensor"),
        (
            lambda: TensorDataset([1, 2]),
            TypeError,
            "argument 0 must be a Tensor or an array, got list",
        ),
        (lambda: TensorDataset(mg.ones(2), "ab"), TypeError, "argument 1 must be .* got str"),
        (lambda: TensorDataset(mg.tensor(1.0)), ValueError, "0-d tensor has no samples"),
        (
            lambda: TensorDataset(mg.ones(3, 2), mg.ones(4)),
            ValueError,
            r"first sizes of \(3, 2\), \(4,\) differ; each must be the number of samples",
        ),
        (lambda: numbers()[0, 1], TypeError, r"one axis only, got the tuple \(0, 1\)"),
        (lambda: numbers()[10], IndexError, "out of bounds"),
    ],
)
def test_tensor_dataset_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ------------------------------------------------------------------------------------- DataLoader
@pytest.mark.parametrize("n", [0, 1, 4, 9, 10])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_cover_the_data(n, batch_size, drop_last, shuffle):
    loader = DataLoader(numbers(n), batch_size, shuffle, drop_last, seed=3)
    for _ in range(2):
        seen = batches(loader)
        assert len(seen) == len(loader)
        sizes = [len(b) for b in seen]
        assert all(size == batch_size for size in sizes[:-1])
        kept = n - n % batch_size if drop_last else n
        assert sum(sizes) == kept and len(set(joined(seen))) == kept
        if not shuffle:
            assert joined(seen) == list(range(kept))


def test_a_seed_gives_each_epoch_its_own_order_and_every_loader_the_same():
    one, two = (DataLoader(numbers(50), 7, shuffle=True, seed=5) for _ in range(2))
    epochs = [batches(one) for _ in range(3)]
    mg.manual_seed(99)
    mg.rand(3)
    assert epochs == [batches(two) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != batches(DataLoader(numbers(50), 7, shuffle=True, seed=6))


def test_an_interrupted_run_continues_with_its_epoch():
    loader = DataLoader(numbers(50), 7, shuffle=True, seed=5)
    epochs = [batches(loader) for _ in range(3)]
    later = DataLoader(numbers(50), 7, shuffle=True, seed=5)
    later.epoch = 2
    assert batches(later) == epochs[2]


def test_without_a_seed_manual_seed_decides():
    loader = DataLoader(numbers(50), 7, shuffle=True)
    mg.manual_seed(0)
    first, second = batches(loader), batches(loader)
    mg.manual_seed(0)
    assert (first, second) == (batches(loader), batches(loader)) and first != second


def test_two_iterators_of_one_loader_do_not_disturb_each_other():
    pairs = list(zip(DataLoader(numbers(4)), DataLoader(numbers(4)), strict=False))
    assert [(a[0].item(), b[0].item()) for a, b in pairs] == [(i, i) for i in range(4)]
    loader = DataLoader(numbers(20), 20, shuffle=True, seed=1)
    first, second = iter(loader), iter(loader)
    late, early = next(second), next(first)
    fresh = DataLoader(numbers(20), 20, shuffle=True, seed=1)
    assert [early[0].tolist()] == batches(fresh) and [late[0].tolist()] == batches(fresh)


def test_a_batch_is_gathered_at_once_and_is_a_copy():
    calls = []

    class Counting(TensorDataset):
        def __getitem__(self, index):
            calls.append(index)
            return super().__getitem__(index)

    data = Counting(mg.arange(10), mg.ones(10, 3))
    for numbers_batch, ones in DataLoader(data, 5):
        assert (numbers_batch.shape, ones.shape) == ((5,), (5, 3))
        ones.zero_()
    assert len(calls) == 2 and data.tensors[1].sum().item() == 30.0
    list(DataLoader(Subset(data, [3, 1, 4]), 2))
    assert len(calls) == 4


class Samples:
    """A map-style dataset that does not support index arrays."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        assert type(index) is int
        return self.samples[index]


def test_any_map_style_dataset():
    rows = [{"x": np.full(2, i), "y": (float(i), i, i % 2 == 0), "name": f"n{i}"} for i in range(3)]
    first, second = DataLoader(Samples(rows), 2)
    assert first["x"].tolist() == [[0, 0], [1, 1]] and first["name"] == ["n0", "n1"]
    reals, integers, flags = first["y"]
    assert (reals.dtype, integers.dtype, flags.dtype) == (np.float32, np.int64, np.bool_)
    assert second["x"].shape == (1, 2)
    assert [b.tolist() for b in DataLoader([1, 2, 3], 2)] == [[1, 2], [3]]
    assert [b.shape for b in DataLoader(mg.ones(5, 2), 2)] == [(2, 2), (2, 2), (1, 2)]
    assert [b.shape for b in DataLoader(np.ones((5, 2)), 2)] == [(2, 2), (2, 2), (1, 2)]


def test_collate_fn_gets_the_samples():
    loader = DataLoader(numbers(3), 2, collate_fn=lambda samples: [x.item() for (x,) in samples])
    assert list(loader) == [[0, 1], [2]]


def test_default_collate():
    both = default_collate([(mg.ones(2), [1, 2.5]), (mg.zeros(2), [3, 4.5])])
    assert type(both) is tuple and both[0].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert type(both[1]) is list and both[1][1].tolist() == [2.5, 4.5]
    assert default_collate([np.float64(1), np.float64(2)]).dtype == np.float64
    assert default_collate([np.int32(1), np.int32(2)]).dtype == np.int32
    x = mg.ones(2, requires_grad=True)
    default_collate([x, x * 2]).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


class Sample(namedtuple("Sample", "image label")):
    def __new__(cls, image):
        return super().__new__(cls, image, {"a": Pair(int(image[0]), [int(image[0])])})


class Named(dict):
    name = "none"


def test_default_collate_keeps_types():
    samples = [Sample(np.full(2, i)) for i in range(2)]
    for batch in (default_collate(samples), next(iter(DataLoader(samples, 2)))):
        assert type(batch) is Sample and batch.image.tolist() == [[0, 0], [1, 1]]
        pair = batch.label["a"]
        assert type(pair) is Pair and type(pair.second) is list
        assert pair.first.tolist() == pair.second[0].tolist() == [0, 1]
    for kind in (OrderedDict, lambda x: defaultdict(int, x), UserDict, MappingProxyType, Counter):
        first, second = kind({"b": 1, "a": 2}), kind({"b": 3, "a": 4})
        batch = default_collate([first, second])
        assert type(batch) is type(first) and list(batch) == ["b", "a"]
        assert [batch["b"].tolist(), batch["a"].tolist()] == [[1, 3], [2, 4]]
        assert dict(first) == {"b": 1, "a": 2}
    assert default_collate([defaultdict(int, a=1)]).default_factory is int
    named = Named(a=1)
    named.name = "some"
    assert default_collate([named, Named(a=2)]).name == "some"


@pytest.mark.parametrize(
    "samples, error, message",
    [
        (
            [np.ones(2), np.ones(3)],
            ValueError,
            r"shapes \(2,\), \(3,\) do not make one batch; .* collate_fn",
        ),
        ([mg.ones(2), mg.ones(())], ValueError, r"shapes \(\), \(2,\) do not make one batch"),
        ([(1, 2), (1,)], ValueError, "differ in length"),
        ([{"a": 1}, {"b": 1}], ValueError, "keys of the samples of one batch differ"),
        ([1, "a"], TypeError, "types int, str do not make one batch"),
        ([None, None], TypeError, "types NoneType do not make one batch; .* collate_fn"),
    ],
)
def test_default_collate_refuses(samples, error, message):
    with pytest.raises(error, match=message):
        default_collate(samples)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: DataLoader(numbers(), 0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: DataLoader(numbers(), -3), ValueError, "at least 1, got -3"),
        (lambda: DataLoader(numbers(), 2.5), TypeError, "batch_size must be an int, got 2.5"),
        (lambda: DataLoader(numbers(), True), TypeError, "batch_size must be an int, got True"),
        (
            lambda: DataLoader(iter([1])),
            TypeError,
            "__len__ and __getitem__, list_iterator does not; convert it to a list",
        ),
        (lambda: DataLoader(3), TypeError, "int does not"),
        (
            lambda: DataLoader(numbers(), shuffle=True, seed=-1),
            ValueError,
            "seed must be at least 0, got -1",
        ),
        (
            lambda: DataLoader(numbers(), shuffle=True, seed="a"),
            TypeError,
            "seed must be an int, got 'a'",
        ),
    ],
)
def test_data_loader_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ----------------------------------------------------------------------------------------- Subset
def test_subset_takes_positions():
    for positions in ([7, 2], (7, 2), np.array([7, 2]), mg.tensor([7, 2])):
        part = Subset(numbers(), positions)
        with pytest.raises(TypeError, match=r"Subset: index .* is not an int, and"):
            Subset(Samples(list(range(10))), positions)[[0]]
        assert len(part) == 2 and part[1][0].item() == 2
    assert len(Subset(numbers(), [])) == 0


@pytest.mark.parametrize(
    "indices, message",
    [
        ([True, False, True], r"1 dimensions of bool; for a mask pass np.flatnonzero\(mask\)"),
        ([0.5, 1.0], "1 dimensions of float64"),
        ([[0, 1]], "2 dimensions of int64"),
        (3, "0 dimensions"),
        ("ab", "sequence of ints"),
        (None, "sequence of ints"),
    ],
)
def test_subset_refuses(indices, message):
    with pytest.raises(TypeError, match=f"Subset: .*{message}"):
        Subset(numbers(), indices)


# ----------------------------------------------------------------------------------- random_split
@pytest.mark.parametrize(
    "n, lengths, sizes",
    [
        (10, [7, 3], [7, 3]),
        (10, [0.7, 0.3], [7, 3]),
        (10, [0.5, 0.5], [5, 5]),
        (10, [1 / 3] * 3, [4, 3, 3]),
        (100, [0.29, 0.71], [29, 71]),
        (100, [0.5, 0.29, 0.21], [50, 29, 21]),
        (5, [0, 1.0], [0, 5]),
        (3, [0, 3], [0, 3]),
        (3, [1.0], [3]),
        (4, np.array([0.5, 0.5], np.float32), [2, 2]),
        (4, np.array([1, 3]), [1, 3]),
    ],
)
def test_random_split(n, lengths, sizes):
    parts = random_split(numbers(n), lengths, seed=0)
    assert [len(part) for part in parts] == sizes
    values = [part[i][0].item() for part in parts for i in range(len(part))]
    assert sorted(values) == list(range(n))
    again = [
        part[i][0].item()
        for part in random_split(numbers(n), lengths, seed=0)
        for i in range(len(part))
    ]
    assert values == again


def test_random_split_works_on_any_dataset_and_with_manual_seed():
    mg.manual_seed(1)
    first = [list(part) for part in random_split(Samples(list("abcdef")), [4, 2])]
    mg.manual_seed(1)
    assert first == [list(part) for part in random_split(Samples(list("abcdef")), [4, 2])]
    assert sorted(joined(first)) == list("abcdef")
    part, _ = random_split(Samples([1.0, 2.0, 3.0]), [2, 1], seed=0)
    assert [batch.shape for batch in DataLoader(part, 2)] == [(2,)]


@pytest.mark.parametrize(
    "lengths, message",
    [
        ([5, 4], "add up to 9, the dataset has 10"),
        ([0.5, 0.4], "fractions .* add up to 0.9, not 1"),
        ([11, -1], "must not be negative"),
    ],
)
def test_random_split_refuses(lengths, message):
    with pytest.raises(ValueError, match=message):
        random_split(numbers(), lengths)
    with pytest.raises(TypeError, match="random_split: a length must be a number, got 'a'"):
        random_split(numbers(), ["a", 3])
