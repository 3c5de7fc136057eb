"""Loaders and samplers give the batches that PyTorch's give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minigrad as mg
from minigrad import data as ours

from peers import peer, torch  # isort: skip

theirs = torch.utils.data


def datasets(library, tensor):
    """Of every kind, the same for both libraries."""

    class Squares(library.Dataset):
        def __len__(self):
            return 7

        def __getitem__(self, index):
            return {"square": index**2, "pair": (float(index), f"s{index}")}

    class Stream(library.IterableDataset):
        def __iter__(self):
            return iter(range(100, 107))

    tensors = library.TensorDataset(tensor(np.arange(14.0).reshape(7, 2)), tensor(np.arange(7)))
    return {
        "tensors": tensors,
        "subset": library.Subset(tensors, [5, 1, 3]),
        "concatenated": library.ConcatDataset([tensors, library.Subset(tensors, [5, 1, 3])]),
        "sum": Squares() + Squares(),
        "samples": Squares(),
        "list": [0.5, 1.5, 2.5],
        "stream": Stream(),
    }


def plain(batch):
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [plain(value) for value in batch]
    return batch.tolist() if hasattr(batch, "tolist") else batch


SAMPLERS = {
    "none": lambda library: {},
    "list": lambda library: {"sampler": [2, 0, 1, 1]},
    "sequential": lambda library: {"sampler": library.SequentialSampler(range(3))},
    "lists": lambda library: {"batch_sampler": [[2, 0], [1], [1, 1, 2]]},
    "batch sampler": lambda library: {
        "batch_sampler": library.BatchSampler(library.SequentialSampler(range(3)), 2, False)
    },
}


@peer(
    "data.DataLoader", "data.TensorDataset", "data.Subset", "data.ConcatDataset", "data.Dataset",
    "data.IterableDataset", "data.SequentialSampler", "data.BatchSampler", "data.default_collate",
)  # fmt: skip
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", datasets(ours, mg.tensor))
def test_the_same_batches(name, sampler):
    for size, drop in itertools.product((1, 2, 3, 20), (False, True)):
        found = []
        for library, tensor in ((ours, mg.tensor), (theirs, torch.tensor)):
            options = SAMPLERS[sampler](library)
            if "batch_sampler" not in options:
                options |= {"batch_size": size, "drop_last": drop}
            dataset = datasets(library, tensor)[name]
            try:
                loader = library.DataLoader(dataset, **options)
            except ValueError as error:
                found.append(type(error))
                continue
            length = None if name == "stream" else len(loader)
            found.append((length, [plain(batch) for batch in loader]))
        assert found[0] == found[1]


@peer("data.RandomSampler", "data.SubsetRandomSampler", "data.WeightedRandomSampler")
def test_the_same_counts_of_random_samplers():
    weights = [0.0, 1.0, 3.0]
    for library in (ours, theirs):
        many = list(library.RandomSampler(range(5), num_samples=13))
        assert sorted(many[:5]) == sorted(many[5:10]) == list(range(5)) and len(set(many[10:])) == 3
        assert len(list(library.RandomSampler(range(5), replacement=True, num_samples=13))) == 13
        assert sorted(library.SubsetRandomSampler([4, 2])) == [2, 4]
        counts = np.bincount(list(library.WeightedRandomSampler(weights, 4000)), minlength=3)
        assert counts[0] == 0 and abs(counts[1] - 1000) < 5 * 27.4
        without = library.WeightedRandomSampler(weights, 2, replacement=False)
        first = sum(next(iter(without)) == 2 for _ in range(2000))
        assert abs(first - 1500) < 5 * 19.4 and sorted(without) == [1, 2]


@peer("data.RandomSampler", "data.WeightedRandomSampler", "data.DataLoader", "data.ConcatDataset")
@pytest.mark.parametrize(
    "make",
    [
        lambda d: d.RandomSampler(range(3), num_samples=0),
        lambda d: d.WeightedRandomSampler([1.0, 2.0], 0),
        lambda d: list(d.WeightedRandomSampler([1.0, -2.0], 2)),
        lambda d: list(d.WeightedRandomSampler([0.0, 0.0], 2)),
        lambda d: list(d.WeightedRandomSampler([1.0, 2.0], 3, replacement=False)),
        lambda d: d.DataLoader(range(3), sampler=[0], shuffle=True),
        lambda d: d.DataLoader(range(3), batch_sampler=[[0]], batch_size=2),
        lambda d: d.DataLoader(range(3), batch_sampler=[[0]], drop_last=True),
        lambda d: d.ConcatDataset([]),
    ],
)
def test_what_pytorch_refuses_is_refused(make):
    with pytest.raises(ValueError):
        make(ours)
    with pytest.raises((ValueError, RuntimeError, AssertionError)):
        make(theirs)
