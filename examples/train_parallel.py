"""Train one net in several processes, each on its share of every batch.

    mpiexec -n 2 python examples/train_parallel.py

All ranks have the same net. Each takes its part of a batch, DataParallel averages the gradients
while backward goes on, and the optimisers take the same step. BatchNorm normalises by the batch
of all ranks. So the losses do not depend on the number of ranks, which the digits at the end show:
run it with -n 1 and -n 4 too. Rank 0 prints, and writes the net to build/parallel.npz.

Needs `pip install 'minigrad-cython[examples,mpi]'`; see docs/distributed.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lesson import OneLineParser, say_missing

import minigrad as mg
from minigrad import nn, optim

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from minigrad import distributed
except ImportError as error:
    say_missing(error)

PATH = Path(__file__).parent.parent / "build" / "parallel.npz"
BATCH = 64  # of all ranks together


def make_net() -> nn.Module:
    layers = [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    layers += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def main(arguments: list[str] | None = None) -> None:
    parser = OneLineParser(
        prog="train_parallel.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--path", type=Path, default=PATH, help="where rank 0 saves the net")
    options = parser.parse_args(arguments)
    rank, size = distributed.rank(), distributed.size()
    if BATCH % size:
        parser.error(f"a batch of {BATCH} cannot be divided among {size} ranks")

    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, stratify=y, random_state=0)
    x, labels = mg.tensor(X, dtype=mg.float32), mg.tensor(y)
    mg.manual_seed(0)
    net = distributed.DataParallel(distributed.convert_sync_batchnorm(make_net()))
    optimizer, criterion = optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss()
    sampler = distributed.DistributedSampler(range(len(x)), seed=1, drop_last=True)

    start, share = time.perf_counter(), BATCH // size
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)
        order, total = list(sampler), 0.0
        steps = len(X) // BATCH  # the same for any number of ranks
        for step in range(steps):
            mine = mg.tensor(order[step * share : (step + 1) * share])
            optimizer.zero_grad()
            loss = criterion(net(x[mine]), labels[mine])
            loss.backward()
            optimizer.step()
            total += loss.item()
        mean = distributed.allreduce(total / steps, "mean").item()
        if rank == 0:
            print(f"epoch {epoch + 1:2}: loss {mean:.6f}")
    seconds = time.perf_counter() - start

    options.path.parent.mkdir(parents=True, exist_ok=True)
    distributed.save(net.module.state_dict(), options.path)  # rank 0 writes, all wait
    net.module.load_state_dict(mg.load(options.path))
    net.eval()
    with mg.no_grad():
        right = net(mg.tensor(X_test, dtype=mg.float32)).argmax(axis=1).numpy() == y_test
    if rank == 0:
        print(f"{size} ranks, {options.epochs * steps / seconds:,.0f} steps a second")
        print(f"test accuracy {right.mean():.4f}; saved {options.path}")


if __name__ == "__main__":
    main()
