"""What a DataLoader costs beyond the indexing of its batches: `python benchmarks/loader.py`.

Both run in turn over the same TensorDataset, and the shortest times count. The loader's include
drawing the order, about 8 ns per sample if it is shuffled. The target is 3 µs a batch.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

import minigrad as mg
from minigrad.data import DataLoader, TensorDataset

SAMPLES, ROUNDS = 16_384, 25


def index(data: TensorDataset, order: np.ndarray, size: int) -> None:
    x, y = data.tensors
    for start in range(0, SAMPLES, size):
        batch = order[start : start + size]
        x[batch], y[batch]


def iterate(loader: DataLoader) -> None:
    for _ in loader:
        pass


def seconds(function, *arguments) -> float:
    start = perf_counter()
    function(*arguments)
    return perf_counter() - start


def main() -> None:
    data = TensorDataset(mg.randn(SAMPLES, 8), mg.randint(10, size=(SAMPLES,)))
    print("batch order      indexing    loader    beyond it, us a batch")
    for size in (1, 8, 32, 128, 256):
        for name, order, options in (
            ("in order", np.arange(SAMPLES), {}),
            ("shuffled", mg.randperm(SAMPLES).numpy(), {"shuffle": True}),
        ):
            loader = DataLoader(data, size, **options)
            pairs = [
                (seconds(index, data, order, size), seconds(iterate, loader)) for _ in range(ROUNDS)
            ]
            bare, whole = (1e6 * min(times) / len(loader) for times in zip(*pairs, strict=True))
            print(f"{size:<5} {name:<9}{bare:>10.2f}{whole:>10.2f}{whole - bare:>10.2f}")


if __name__ == "__main__":
    main()
