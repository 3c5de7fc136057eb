"""Samplers, and loaders that are interrupted and resumed."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import math
import re
import weakref
from itertools import chain, islice

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)


def numbers(n=10):
    return TensorDataset(mg.arange(n))


def batches(loader):
    return [batch.tolist() for (batch,) in loader]


class Squares(Dataset[int]):
    """Without index arrays."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if not -6 <= index < 6:
            raise IndexError(index)
        return index**2


class Stream(IterableDataset[int]):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))


class Counting(IterableDataset[int]):
    """A stream that continues by itself."""

    def __init__(self, n, start=0):
        self.n, self.next = n, start

    def __iter__(self):
        while self.next < self.n:
            self.next += 1
            yield self.next - 1
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class Order(Sampler[int]):
    """As in PyTorch: a sampler that only defines __iter__ and __len__."""

    def __init__(self, order, length=None):
        self.order, self.length = order, len(order) if length is None else length

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return self.length


class Endless(Sampler[int]):
    """Has no length."""

    def __init__(self, n):
        self.n, self.drawn = n, 0

    def __iter__(self):
        while True:
            self.drawn += 1
            yield self.drawn * 7 % self.n


class Resumable(Endless):
    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]


# ----------------------------------------------------------------------------------------- samplers
def test_samplers_in_order():
    assert list(SequentialSampler(range(4))) == [0, 1, 2, 3] and len(SequentialSampler("abc")) == 3
    assert list(BatchSampler("abcde", 2, False)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(BatchSampler(range(5), 2, True)) == [[0, 1], [2, 3]]
    for n, size, drop in itertools.product(range(7), (1, 2, 3), (False, True)):
        sampler = BatchSampler(SequentialSampler(range(n)), size, drop)
        assert len(sampler) == len(list(sampler))
    with pytest.raises(NotImplementedError, match="Sampler must define __iter__"):
        iter(Sampler())


def test_random_samplers():
    sampler = RandomSampler(range(30))
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(30)) and first != second
    assert type(first[0]) is int
    few = list(RandomSampler(range(30), num_samples=7))
    assert len(set(few)) == 7 and len(list(RandomSampler(range(30), num_samples=1))) == 1
    many = list(RandomSampler(range(4), num_samples=10))
    assert [sorted(many[:4]), sorted(many[4:8])] == [[0, 1, 2, 3]] * 2 and len(many) == 10
    drawn = list(RandomSampler(range(5), replacement=True, num_samples=1000))
    assert min(np.bincount(drawn, minlength=5)) > 120
    assert list(RandomSampler([])) == list(RandomSampler([], replacement=True)) == []
    assert sorted(SubsetRandomSampler(np.array([8, 3, 5]))) == [3, 5, 8]
    assert [s.num_samples for s in (sampler, RandomSampler("ab", num_samples=9))] == [30, 9]


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_weights_with_replacement(scale):
    weights = np.array([0.0, 1.0, 2.0, 0.0, 5.0, 0.0]) * scale
    sampler = WeightedRandomSampler(weights, 80_000, generator=mg.Generator(0))
    counts = np.bincount(list(sampler), minlength=6)
    assert counts[[0, 3, 5]].sum() == 0 and len(sampler) == 80_000
    expected = np.array([1, 2, 5]) * 10_000  # 5 standard deviations
    assert (abs(counts[[1, 2, 4]] - expected) < 5 * np.sqrt(expected)).all()


def test_weights_without_replacement():
    """Each is drawn in proportion to the weights that are left: the order has this probability."""
    weights, generator = [1.0, 0.0, 2.0, 4.0], mg.Generator(0)
    sampler = WeightedRandomSampler(weights, 2, replacement=False, generator=generator)
    n = 20_000
    seen = {}
    for _ in range(n):
        pair = tuple(sampler)
        seen[pair] = seen.get(pair, 0) + 1
    for first, second in itertools.permutations((0, 2, 3), 2):
        chance = weights[first] / 7 * weights[second] / (7 - weights[first])
        assert abs(seen.pop((first, second)) - n * chance) < 5 * math.sqrt(n * chance)
    assert not seen
    tiny = WeightedRandomSampler([1e-320, 0, 1e300, 1e-320], 3, replacement=False)
    assert all(sorted(tiny) == [0, 2, 3] and next(iter(tiny)) == 2 for _ in range(20))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_many_weights_of_a_small_dtype_all_count(dtype):
    """A sum of ones in float16 ends at 2048; in float32 no weight of 1e-8 changes a sum of 1."""
    weights = np.full(5000, 1 if dtype == "float16" else 1e-8, dtype)
    weights[0] = 1
    drawn = np.array([*WeightedRandomSampler(weights, 40_000, generator=mg.Generator(0))])
    assert drawn.min() == 0 and drawn.max() < 5000
    if dtype == "float16":
        assert 15_000 < (drawn > 2500).sum() < 25_000
    else:
        assert 0 < (drawn > 0).sum() < 20


def test_weights_may_change_between_epochs():
    weights = np.array([1.0, 0.0])
    sampler = WeightedRandomSampler(weights, 5)
    assert set(sampler) == {0}
    weights[:] = 0, 3
    assert set(sampler) == {1}
    weights[:] = math.nan
    with pytest.raises(ValueError, match="must be finite and not negative, got nan at 0"):
        list(sampler)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomSampler(range(3), 1), TypeError, "replacement must be True or False, got 1"),
        (
            lambda: RandomSampler(range(3), num_samples=0),
            ValueError,
            "num_samples must be at least",
        ),
        (lambda: RandomSampler(range(3), num_samples=2.0), TypeError, "must be an int, got 2.0"),
        (lambda: RandomSampler([], num_samples=2), ValueError, "2 indices of an empty data_source"),
        (lambda: SubsetRandomSampler([True, False]), TypeError, "for a mask pass np.flatnonzero"),
        (lambda: WeightedRandomSampler([1, -2], 3), ValueError, "not negative, got -2 at 1"),
        (lambda: WeightedRandomSampler([1, math.nan], 3), ValueError, "finite .* got nan at 1"),
        (lambda: WeightedRandomSampler([1, math.inf], 3), ValueError, "finite .* got inf at 1"),
        (lambda: WeightedRandomSampler([0.0, 0], 3), ValueError, "weights are all zero; there is"),
        (lambda: WeightedRandomSampler([], 3), ValueError, "weights are all zero"),
        (lambda: WeightedRandomSampler([[1.0]], 3), ValueError, "got 2 dimensions of float64"),
        (lambda: WeightedRandomSampler(["a"], 3), ValueError, "a sequence of numbers"),
        (lambda: WeightedRandomSampler([1, 2], 0), ValueError, "num_samples must be at least 1"),
        (lambda: WeightedRandomSampler([1, 2], True), TypeError, "num_samples must be an int"),
        (
            lambda: WeightedRandomSampler([1, 0, 2], 3, replacement=False),
            ValueError,
            "cannot draw 3 samples without replacement: 2 of 3 weights are positive; draw fewer",
        ),
        (lambda: BatchSampler(range(3), 0, False), ValueError, "batch_size must be at least 1"),
        (lambda: BatchSampler(range(3), 1, "no"), TypeError, "drop_last must be True or False"),
    ],
)
def test_samplers_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ------------------------------------------------------------------------------ loaders of samplers
@pytest.mark.parametrize(
    "order",
    [
        [3, 1, 4, 1, -1],
        (3, 1, 4, 1, -1),
        np.array([3, 1, 4, 1, -1], np.int32),
        mg.tensor([3, 1, 4, 1, -1]),
        Order([3, 1, 4, 1, -1]),
        Order([np.int64(3), 1, mg.tensor(4), 1, -1]),
    ],
    ids=["list", "tuple", "array", "tensor", "sampler", "sampler of mixed ints"],
)
def test_a_sampler_is_any_iterable_of_indices(order):
    loader = DataLoader(numbers(), 2, sampler=order)
    for _ in range(2):
        assert batches(loader) == [[3, 1], [4, 1], [9]]
    assert len(loader) == 3 and loader.epoch == 2
    assert [b.tolist() for b in DataLoader(Squares(), 2, sampler=order)] == [[9, 1], [16, 1], [1]]


def test_keys_of_other_kinds():
    data = {"a": 1.0, "b": 2.0, ("c", 1): 3.0, ("d", 1, 2): 4.0}
    keys = ["a", ("c", 1), "b"]
    assert [b.tolist() for b in DataLoader(data, 2, sampler=keys)] == [[1, 3], [2]]
    pairs = [["b", "a"], [("c", 1), ("d", 1, 2)]]
    loader = DataLoader(data, batch_sampler=pairs)
    assert [b.tolist() for b in loader] == [[2, 1], [3, 4]]
    batch = iter(loader)
    next(batch)
    resumed = DataLoader(data, batch_sampler=pairs)
    resumed.load_state_dict(through_file(loader.state_dict()))
    assert [b.tolist() for b in resumed] == [[3, 4]]


def test_a_batch_sampler():
    lists = [[0, 1, 2], [3], [5, 4]]
    for batch_sampler in (lists, Order(lists), [np.array(b) for b in lists]):
        loader = DataLoader(numbers(), batch_sampler=batch_sampler)
        assert batches(loader) == batches(loader) == lists and len(loader) == 3
    shuffled = DataLoader(numbers(), batch_sampler=BatchSampler(RandomSampler(range(10)), 4, True))
    assert [len(batch) for batch in batches(shuffled)] == [4, 4] and len(shuffled) == 2


def test_a_subclass_that_overrides_iter_is_iterated():
    class Backwards(RandomSampler):
        def __iter__(self):
            return iter(range(len(self) - 1, -1, -1))

    data = numbers(5)
    assert batches(DataLoader(data, 2, sampler=Backwards(data))) == [[4, 3], [2, 1], [0]]


def test_a_sampler_without_a_length_is_drawn_from_batch_by_batch():
    loader = DataLoader(numbers(), 3, sampler=Endless(10))
    seen = [batch.tolist() for (batch,) in islice(loader, 4)]
    assert seen == [[7, 4, 1], [8, 5, 2], [9, 6, 3], [0, 7, 4]] and loader.sampler.drawn == 12
    lists = DataLoader(numbers(), batch_sampler=BatchSampler(Endless(10), 2, False))
    assert [batch.tolist() for (batch,) in islice(lists, 2)] == [[7, 4], [1, 8]]
    for endless in (loader, lists):
        with pytest.raises(TypeError, match=r"number of batches is unknown, because .* has no"):
            len(endless)


@pytest.mark.parametrize("last", ["keep", "drop", "merge"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_last_batch(last, shuffle):
    for n, size in itertools.product(range(12), (1, 2, 3, 5, 20)):
        loader = DataLoader(numbers(n), size, shuffle, last=last)
        seen = batches(loader)
        full, rest = divmod(n, size)
        sizes = {"keep": [size] * full + [rest] * (rest > 0), "drop": [size] * full}
        if full:
            sizes["merge"] = [size] * (full - 1) + [size + rest]
        else:
            sizes["merge"] = [rest] * (rest > 0)
        assert list(map(len, seen)) == sizes[last] and len(loader) == len(seen)
        assert loader.drop_last is (last == "drop") and loader.last == last
        if not shuffle:
            assert [i for batch in seen for i in batch] == list(range(sum(sizes[last])))
        assert len({i for batch in seen for i in batch}) == sum(sizes[last])


def test_batchnorm_trains_on_a_merged_batch():
    net = mg.nn.BatchNorm1d(2)
    data = TensorDataset(mg.randn(9, 2))
    for (x,) in DataLoader(data, 4, last="merge"):
        net(x)
    with pytest.raises(ValueError, match="more than one value per channel"):
        for (x,) in DataLoader(data, 4):
            net(x)


def test_a_generator_decides_the_order():
    first, second = (
        DataLoader(numbers(40), 7, shuffle=True, generator=mg.Generator(3)) for _ in range(2)
    )
    state = mg.get_rng_state()
    epochs = [batches(first), batches(first)]
    assert mg.get_rng_state() == state
    assert epochs == [batches(second), batches(second)] and epochs[0] != epochs[1]


# ----------------------------------------------------------------------------------------- streams
def test_streams():
    loader = DataLoader(Stream(7), 3)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [len(b) for b in DataLoader(Stream(7), 3, drop_last=True)] == [3, 3]
    assert [b for b in DataLoader(Stream(3), 2, collate_fn=list)] == [[0, 1], [2]]
    assert list(DataLoader(Stream(0), 3)) == [] and loader.sampler is None
    with pytest.raises(TypeError, match="the number of batches is unknown"):
        len(loader)

    class Sized(Stream):
        def __len__(self):
            return self.n

    assert len(DataLoader(Sized(7), 3)) == 3 and len(DataLoader(Sized(7), 3, drop_last=True)) == 2
    with pytest.raises(NotImplementedError, match="IterableDataset must define __iter__"):
        next(iter(DataLoader(IterableDataset(), 3)))
    with pytest.raises(TypeError, match="whose samples have no indices; iterate over it"):
        Stream(3)[0]


# ------------------------------------------------------------------------------------ what runs dry
def test_an_iterator_is_used_up():
    loader = DataLoader(numbers(3), 2, sampler=iter([2, 0, 1]))
    assert batches(loader) == [[2, 0], [1]]
    with pytest.raises(RuntimeError, match=r"ran dry: it gave no indices in epoch 1\. A"):
        batches(loader)
    lists = DataLoader(numbers(3), batch_sampler=(b for b in ([2], [0, 1])))
    assert batches(lists) == [[2], [0, 1]]
    with pytest.raises(RuntimeError, match=r"it gave no batches in epoch 1.*pass a list"):
        batches(lists)
    once = iter([1, 2])
    loader = DataLoader(type("Once", (Stream,), {"__iter__": lambda self: once})(2), 3)
    assert [batch.tolist() for batch in loader] == [[1, 2]]
    with pytest.raises(RuntimeError, match="it gave no samples in epoch 1"):
        list(loader)


def test_a_sampler_keeps_to_its_length():
    for sampler, gave in ((Order([0, 1], 3), "2 of 3"), (Order([0, 1, 2, 0], 3), "4 of 3")):
        loader = DataLoader(numbers(3), 2, sampler=sampler)
        with pytest.raises(RuntimeError, match=f"ran dry: it gave {gave} indices in epoch 0"):
            iter(loader)
        assert loader.epoch == 0
        sampler.length = len(sampler.order)
        assert len(batches(loader)) == len(loader) and loader.epoch == 1
    with pytest.raises(RuntimeError, match="it gave 1 of 2 batches in epoch 0"):
        iter(DataLoader(numbers(3), batch_sampler=Order([[0]], 2)))
    with pytest.raises(ValueError, match="gave a batch without indices"):
        iter(DataLoader(numbers(3), batch_sampler=[[0], []]))


# ------------------------------------------------------------------------- what excludes each other
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sampler": [0], "shuffle": True}, ValueError, "sampler excludes shuffle"),
        ({"sampler": [0], "seed": 1}, ValueError, "sampler excludes seed; give it a generator"),
        ({"sampler": [0], "generator": mg.Generator(0)}, ValueError, "sampler excludes generator"),
        (
            {"batch_sampler": [[0]], "batch_size": 2},
            ValueError,
            "batch_sampler excludes batch_size",
        ),
        (
            {"batch_sampler": [[0]], "shuffle": True, "sampler": [0], "drop_last": True},
            ValueError,
            "batch_sampler excludes shuffle, sampler, drop_last; it alone makes the batches",
        ),
        ({"batch_sampler": [[0]], "last": "keep"}, ValueError, "batch_sampler excludes last"),
        ({"seed": 1, "generator": mg.Generator(0)}, ValueError, "seed excludes generator"),
        (
            {"drop_last": True, "last": "merge"},
            ValueError,
            "drop_last excludes last other than 'drop'",
        ),
        ({"last": "fold"}, ValueError, "last must be 'keep', 'drop' or 'merge', got 'fold'"),
        ({"last": ""}, ValueError, "last must be 'keep', 'drop' or 'merge', got ''"),
        ({"shuffle": "no"}, TypeError, "DataLoader: shuffle must be True or False, got 'no'"),
        ({"drop_last": 1}, TypeError, "DataLoader: drop_last must be True or False, got 1"),
        ({"collate_fn": 3}, TypeError, "DataLoader: collate_fn must be a function of a list"),
        ({"generator": 3}, TypeError, "DataLoader: generator must be a mg.Generator, got int 3"),
        ({"sampler": 3}, TypeError, "sampler must be an iterable of indices, got 3"),
        ({"sampler": RandomSampler}, TypeError, "sampler must be an iterable of indices, got <cl"),
        ({"batch_sampler": 3}, TypeError, "batch_sampler must be an iterable of indices, got 3"),
        ({"num_workers": 4}, ValueError, "num_workers=4: batches are made in this process.*arrays"),
        ({"pin_memory": True}, ValueError, "pin_memory=True: there is no other device"),
        ({"workers": 4}, TypeError, "DataLoader: unexpected argument 'workers'"),
    ],
)
def test_data_loader_refuses(options, error, message):
    with pytest.raises(error, match=message):
        DataLoader(numbers(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": True}, "an IterableDataset excludes shuffle; a stream comes in its own order"),
        ({"sampler": [0]}, "an IterableDataset excludes sampler"),
        ({"batch_sampler": [[0]]}, "an IterableDataset excludes batch_sampler"),
        ({"last": "merge"}, "excludes last='merge'; the end of a stream is not known"),
    ],
)
def test_streams_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(Stream(3), **options)


def test_what_says_what_happens_anyhow_is_taken():
    loader = DataLoader(
        numbers(3), 2, num_workers=0, pin_memory=False, timeout=0, worker_init_fn=None,
        persistent_workers=False, prefetch_factor=None, drop_last=True, last="drop",
    )  # fmt: skip
    assert batches(loader) == [[0, 1]]


# ----------------------------------------------------------------------------------------- resuming
def through_file(state):
    file = io.BytesIO()
    mg.save({"loader": state}, file)
    file.seek(0)
    return mg.load(file)["loader"]


MAKERS = {
    "in order": lambda: DataLoader(numbers(), 3),
    "one batch": lambda: DataLoader(numbers(), 30),
    "shuffled": lambda: DataLoader(numbers(), 3, shuffle=True),
    "seed": lambda: DataLoader(numbers(), 3, shuffle=True, seed=4),
    "generator": lambda: DataLoader(numbers(), 3, shuffle=True, generator=mg.Generator(4)),
    "drop": lambda: DataLoader(numbers(), 3, shuffle=True, drop_last=True),
    "merge": lambda: DataLoader(numbers(), 3, shuffle=True, last="merge"),
    "samples": lambda: DataLoader(Squares(), 2, shuffle=True),
    "weighted": lambda: DataLoader(
        numbers(), 3, sampler=WeightedRandomSampler(range(10), 8, generator=mg.Generator(4))
    ),
    "weighted, of the library": lambda: DataLoader(
        numbers(), 3, sampler=WeightedRandomSampler(range(10), 8)
    ),
    "batches": lambda: DataLoader(
        numbers(),
        batch_sampler=BatchSampler(RandomSampler(range(10), generator=mg.Generator(4)), 3, False),
    ),
    "one's own": lambda: DataLoader(numbers(), 3, sampler=Order([5, 3, 1, 8, 8])),
    "endless": lambda: DataLoader(numbers(), 3, sampler=Resumable(10)),
    "endless batches": lambda: DataLoader(
        numbers(), batch_sampler=BatchSampler(Resumable(10), 3, False)
    ),
    "stream": lambda: DataLoader(Stream(7), 2),
    "stream with a state": lambda: DataLoader(Counting(7), 2),
}


def endlessly(loader):
    """Batches of one epoch after the other, with some numbers drawn beside them."""
    while True:
        for batch in loader:
            mg.rand(1)
            yield repr(batch), loader.epoch


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("rng_first", [False, True])
def test_an_interrupted_loader_continues_with_the_very_next_batch(name, rng_first):
    for stop in range(12):
        mg.manual_seed(1)
        loader = MAKERS[name]()
        run = endlessly(loader)
        for _ in range(stop):
            next(run)
        state, random = through_file(loader.state_dict()), mg.get_rng_state()
        expected = list(islice(run, 12))
        mg.manual_seed(2)
        resumed = MAKERS[name]()
        if rng_first:
            mg.set_rng_state(random)
        resumed.load_state_dict(state)
        mg.set_rng_state(random)
        again = through_file(resumed.state_dict())  # before it is iterated
        assert list(islice(endlessly(resumed), 12)) == expected
        mg.manual_seed(3)
        third = MAKERS[name]()
        third.load_state_dict(again)
        mg.set_rng_state(random)
        assert list(islice(endlessly(third), 12)) == expected


def test_the_place_in_an_epoch():
    loader = DataLoader(numbers(5), 2)

    def place():
        state = loader.state_dict()
        return state["epoch"], state["delivered"], loader.epoch

    assert place() == (0, None, 0)
    batch = iter(loader)
    assert place() == (0, 0, 1)  # its order is drawn
    next(batch)
    assert place() == (0, 1, 1)
    list(islice(batch, 2))
    assert place() == (0, 3, 1)  # after the last batch, but in the loop: the epoch may do more
    assert list(batch) == [] and place() == (1, None, 1)
    for _ in loader:
        break
    assert place() == (1, 1, 2)  # a loop that was left counts as interrupted
    loader.epoch = 7
    assert place() == (7, None, 7)


def test_after_the_last_batch_the_epoch_ends_first():
    """What the loop does at the end of an epoch, a scheduler's step, is done when resumed."""
    loader = DataLoader(numbers(4), 2)
    for _ in loader:
        state = loader.state_dict()
    resumed = DataLoader(numbers(4), 2)
    resumed.load_state_dict(state)
    assert resumed.epoch == 0 and batches(resumed) == [] and resumed.epoch == 1
    assert len(batches(resumed)) == 2


def test_the_rest_of_an_epoch_is_delivered_once():
    loader = DataLoader(numbers(6), 2)
    batch = iter(loader)
    next(batch)
    resumed = DataLoader(numbers(6), 2)
    resumed.load_state_dict(loader.state_dict())
    first, second = iter(resumed), iter(resumed)
    assert len(list(first)) == 2 and len(list(second)) == 3 and resumed.epoch == 2
    resumed.load_state_dict(loader.state_dict())
    resumed.epoch = 5
    assert len(batches(resumed)) == 3 and resumed.epoch == 6


def test_the_newest_iterator_counts():
    loader = DataLoader(numbers(6), 2)
    old = iter(loader)
    next(old)
    new = iter(loader)
    next(old)
    assert loader.state_dict()["delivered"] == 0
    next(new)
    assert loader.state_dict()["delivered"] == 1


def test_a_batch_that_failed_is_the_next():
    class Failing(Squares):
        def __getitem__(self, index):
            if self.fails and index == 3:
                raise KeyError(index)
            return index

    data = Failing()
    data.fails = True
    loader = DataLoader(data, 2)
    batch = iter(loader)
    next(batch)
    with pytest.raises(KeyError):
        next(batch)
    data.fails = False
    resumed = DataLoader(data, 2)
    resumed.load_state_dict(loader.state_dict())
    assert [b.tolist() for b in resumed] == [[2, 3], [4, 5]]


def test_a_state_is_a_copy():
    loader = DataLoader(numbers(6), 2, shuffle=True)
    batch = iter(loader)
    next(batch)
    state = loader.state_dict()
    before = copy.deepcopy(state)
    rest = [b.tolist() for (b,) in batch]
    resumed = DataLoader(numbers(6), 2, shuffle=True)
    resumed.load_state_dict(state)
    state["order"].zero_()
    assert batches(resumed) == rest and before["order"].tolist() == list(chain(*rest))


def test_an_endless_sampler_needs_a_state():
    loader = DataLoader(numbers(), 2, sampler=Endless(10))
    loader.state_dict()  # before it starts
    next(iter(loader))
    with pytest.raises(
        TypeError, match=r"has no length, .* give it __len__, or state_dict and load"
    ):
        loader.state_dict()


def test_a_stream_that_has_become_shorter():
    loader = DataLoader(Stream(7), 2)
    list(islice(loader, 3))
    resumed = DataLoader(Stream(3), 2)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="ran dry: it gave only 4 samples in epoch 0"):
        list(resumed)


def state_in_the_middle():
    loader = DataLoader(numbers(), 3, shuffle=True, generator=mg.Generator(4))
    batch = iter(loader)
    next(batch)
    return loader.state_dict()


def other(state=None, **changes):
    return {**(state_in_the_middle() if state is None else state), **changes}


def of_loader(loader):
    next(iter(loader))
    return loader.state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "expected what state_dict"),
        (lambda: {}, "expected what state_dict"),
        (lambda: mg.get_rng_state(), "expected what state_dict"),
        (lambda: other(version=2), "the state is of version 2, this minigrad reads 1"),
        (lambda: other(loader=None), "'loader' is damaged"),
        (lambda: other(loader={"samples": 10}), "'loader' is damaged"),
        (
            lambda: of_loader(DataLoader(numbers(11), 4, shuffle=True, drop_last=True)),
            "another loader: samples 11 there, 10 here; batch_size 4 there, 3 here; "
            "last 'drop' there, 'keep' here; build the loader as the one that was saved",
        ),
        (
            lambda: of_loader(DataLoader(numbers(), 3)),
            "sampler 'SequentialSampler' there, 'RandomSampler' here",
        ),
        (
            lambda: of_loader(DataLoader(numbers(), 3, shuffle=True, seed=1)),
            "seed 1 there, None here",
        ),
        (
            lambda: of_loader(DataLoader(numbers(), 3, shuffle=True)),
            "the sampler of the state has none a generator of its own, this one has",
        ),
        (lambda: other(source=None), "of another sampler or stream"),
        (lambda: other(source={}), "RandomSampler.load_state_dict: expected what state_dict"),
        (lambda: other(source={"generator": 3}), "set_state: expected the state of a generator"),
        (
            lambda: other(source={"generator": {"bit_generator": "MT19937"}}),
            "the state is of 'MT19937', this generator is a PCG64",
        ),
        *(
            (lambda n=n: {k: v for k, v in other().items() if k != n}, f"the state lacks {n}")
            for n in ("loader", "epoch", "delivered", "sizes", "order", "source")
        ),
        (lambda: other(epoch=-1), "'epoch' must be an int >= 0, got -1"),
        (lambda: other(epoch=None), "'epoch' must be an int >= 0, got None"),
        (lambda: other(delivered=-1), "'delivered' must be an int >= 0, got -1"),
        (lambda: other(delivered="a"), "'delivered' must be an int >= 0, got 'a'"),
        (lambda: other(sizes=None), "'sizes' and 'order' must be lists or tensors of ints"),
        (lambda: other(order=None), "'sizes' and 'order' must be lists or tensors of ints"),
        (lambda: other(sizes=mg.tensor([3, 3])), "'sizes' do not add up to the 7 indices left"),
        (lambda: other(sizes=mg.tensor([9, -2])), "'sizes' do not add up to the 7 indices left"),
        (lambda: other(sizes=mg.tensor([3.5, 3.5])), "'sizes' and 'order' must be lists"),
    ],
)
def test_the_state_of_another_loader_changes_nothing(make, message):
    loader = DataLoader(numbers(), 3, shuffle=True, generator=mg.Generator(8))
    batch = iter(loader)
    next(batch)
    before, expected = loader.state_dict(), list(map(repr, batch))
    loader.load_state_dict(before)
    with pytest.raises((ValueError, TypeError), match=re.compile(message, re.DOTALL)) as raised:
        loader.load_state_dict(make())
    assert re.search("nothing was (loaded|changed)", str(raised.value), re.IGNORECASE)
    assert list(map(repr, loader)) == expected


# ------------------------------------------------------------------------------ memory and datasets
def test_nothing_is_kept_alive():
    gc.disable()
    try:
        data = numbers(6)
        loader = DataLoader(data, 2, shuffle=True)
        for _ in loader:
            break
        whole = [weakref.ref(data), weakref.ref(loader)]
        del data, loader
        assert [reference() for reference in whole] == [None, None]
    finally:
        gc.enable()


def test_concat_dataset():
    parts = [numbers(3), Subset(TensorDataset(mg.arange(10, 20)), [5, 2]), numbers(0), numbers(2)]
    data = ConcatDataset(parts)
    values = [0, 1, 2, 15, 12, 0, 1]
    assert len(data) == 7 and data.cumulative_sizes == [3, 5, 5, 7] and data.takes_index_arrays
    assert [x.item() for (x,) in data] == values
    assert [data[i - 7][0].item() for i in range(7)] == values
    for index in ([6, 0, 3, 3, -3], np.array([6, 0, 3, 3, -3]), mg.tensor([6, 0, 3, 3, -3])):
        assert data[index][0].tolist() == [1, 0, 15, 15, 12]
    assert data[2:5][0].tolist() == [2, 15, 12] and data[::-3][0].tolist() == [1, 15, 0]
    assert data[np.array(values) > 1][0].tolist() == [2, 15, 12]
    assert data[[0, 2]][0].tolist() == [0, 2] and data[[]][0].tolist() == []
    assert ConcatDataset([numbers(3)])[[]][0].tolist() == []
    assert batches(DataLoader(data, 4)) == [values[:4], values[4:]]
    for bad in (7, -8, [0, 7], [-8]):
        with pytest.raises(IndexError, match=r"index (7|-8) is out of bounds for 7 samples"):
            data[bad]
    with pytest.raises(IndexError, match="boolean"):
        data[[True, False]]
    mixed = numbers(3) + Squares() + ["a"]
    assert len(mixed) == 10 and not mixed.takes_index_arrays and mixed[-1] == "a"
    assert mixed[8] == 25 and isinstance(mixed, ConcatDataset)
    with pytest.raises(TypeError, match="not every dataset takes index arrays; index sample by"):
        mixed[[0, 1]]
    structured = [Fields(0), Fields(5)]
    batch = ConcatDataset(structured)[np.array([6, 1, 5])]
    assert batch["x"].tolist() == [6, 1, 5] and batch["y"][0].tolist() == [-6, -1, -5]
    for bad, error, message in (
        ([], ValueError, "expected at least one dataset, got none"),
        ([numbers(), Stream(3)], TypeError, "dataset 1 must have __len__ and __getitem__, Stream"),
        ([3], TypeError, "dataset 0 must have __len__ and __getitem__, int does not"),
        (numbers(), TypeError, "expected a list of datasets, got one, TensorDataset"),
    ):
        with pytest.raises(error, match=message):
            ConcatDataset(bad)


class Fields(Dataset):
    """Batches that are dicts of tuples."""

    takes_index_arrays = True

    def __init__(self, start):
        self.start = start

    def __len__(self):
        return 5

    def __getitem__(self, index):
        x = mg.arange(self.start, self.start + 5)[index]
        return {"x": x, "y": (-x,)}


def test_gradients_flow_through_a_concat_dataset():
    x = mg.ones(3, requires_grad=True)
    data = ConcatDataset([TensorDataset(x * 2), TensorDataset(x * 3)])
    data[np.array([5, 0, 0])][0].sum().backward()
    assert x.grad.tolist() == [4, 0, 3]


def test_dataset_is_a_base_class():
    assert len(Squares()) == 6 and list(Squares()) == [0, 1, 4, 9, 16, 25]
    with pytest.raises(NotImplementedError, match=r"Empty must define __getitem__\(index\)"):
        type("Empty", (Dataset,), {})()[0]
    assert isinstance(numbers(), Dataset) and isinstance(Subset(numbers(), [1]), Dataset)


def test_text():
    data = TensorDataset(mg.ones(9, 4), mg.arange(9))
    sampler = WeightedRandomSampler(range(9), 20, generator=mg.Generator(3))
    for made, text in (
        (data, "TensorDataset((9, 4) float32, (9,) int64)"),
        (Subset(data, [1, 2]), "Subset(2 of TensorDataset((9, 4) float32, (9,) int64))"),
        (Subset([1, 2], [1]), "Subset(1 of list of 2 samples)"),
        (numbers(2) + "a", "ConcatDataset(TensorDataset((2,) int64) + str of 1 samples)"),
        (Squares(), "Squares(6 samples)"),
        (Stream(3), "Stream()"),
        (SequentialSampler(data), "SequentialSampler(9 samples)"),
        (RandomSampler(data), "RandomSampler(9 samples)"),
        (
            RandomSampler(data, True, 4, mg.Generator(3)),
            "RandomSampler(9 samples, num_samples=4, replacement=True, generator=Generator(3))",
        ),
        (Order([1, 2]), "Order(2 indices)"),
        (Endless(3), "Endless()"),
        (SubsetRandomSampler([1, 2]), "SubsetRandomSampler(2 indices)"),
        (
            sampler,
            "WeightedRandomSampler(9 weights, num_samples=20, replacement=True, "
            "generator=Generator(3))",
        ),
        (
            BatchSampler(SequentialSampler(data), 4, False),
            "BatchSampler(SequentialSampler(9 samples), batch_size=4, drop_last=False)",
        ),
        (
            DataLoader(numbers(9), 4),
            "DataLoader(TensorDataset((9,) int64), batch_size=4): epoch 0 of 3 batches",
        ),
        (
            DataLoader([1, 2, 3], 2, shuffle=True, last="merge", seed=1),
            "DataLoader(list of 3 samples, batch_size=2, shuffle=True, last='merge', seed=1): "
            "epoch 0 of 1 batches",
        ),
        (
            DataLoader(numbers(9), 4, sampler=SubsetRandomSampler([1])),
            "DataLoader(TensorDataset((9,) int64), batch_size=4, sampler=SubsetRandomSampler(1 "
            "indices)): epoch 0 of 1 batches",
        ),
        (DataLoader(Stream(3), 2), "DataLoader(Stream(), batch_size=2): epoch 0"),
        (
            DataLoader(numbers(9), batch_sampler=[[1, 2]]),
            "DataLoader(TensorDataset((9,) int64), batch_sampler=[[1, 2]]): epoch 0 of 1 batches",
        ),
    ):
        assert repr(made) == text
