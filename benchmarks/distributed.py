"""The cost of data-parallel training, for the model in docs/distributed.md:
`mpiexec -n 2 python benchmarks/distributed.py`, with -n 1, 2 and 4.

Prints the time of an allreduce by size, the latency and the time per byte fitted to them, and for
two nets the time of a step, taken in turn, of the plain net, of DataParallel, and of DataParallel
whose messages are not sent, which is what its bookkeeping costs; with the step that the model
predicts from these. Each rank has the same batch, so the work grows with the ranks. A time is the
2 % quantile of many: ranks that wait for each other are slow whenever another process takes a
processor from one of them. Without messages nobody waits, so that time is good on a busy machine.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np

import minigrad as mg
from minigrad import distributed, nn, optim

SIZES = [8, 1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 22]  # bytes
NETS = {"64-64-64-10": ((64, 64, 64, 10), 32), "784-512-512-10": ((784, 512, 512, 10), 128)}
RANK, RANKS, WORLD = distributed.rank(), distributed.size(), distributed.WORLD


class Silent:
    """A communicator of several ranks, at least two, that sends nothing."""

    def Get_size(self) -> int:
        return max(2, RANKS)

    def Get_rank(self) -> int:
        return RANK

    def Dup(self) -> Silent:
        return self

    def allgather(self, value):
        return [value] * self.Get_size()

    def nothing(self, *arrays) -> Silent:
        return self

    Bcast = Allreduce = Iallreduce = Wait = nothing


def say(*words) -> None:
    if RANK == 0:
        print(*words, flush=True)


def slowest(seconds: float) -> float:
    """The largest of the ranks' values: the job waits for it."""
    return max(WORLD.allgather(seconds))


def low(values) -> float:
    return float(np.quantile(values, 0.02))


def allreduce_time(size: int, repeats: int) -> float:
    """As DataParallel does it: not blocking, which MPI libraries may implement differently."""
    array, taken = np.zeros(size // 4, np.float32), []
    for _ in range(repeats):
        distributed.barrier()
        start = time.perf_counter()
        WORLD.Iallreduce(distributed.MPI.IN_PLACE, array).Wait()
        taken.append(slowest(time.perf_counter() - start))
    return low(taken)


def fit(times: dict[int, float]) -> tuple[float, float]:
    """α, the time of the smallest message, and β, the time per byte of the largest."""
    (small, first), *_, (large, last) = times.items()
    return first, max(0.0, (last - first) / (large - small))


def stepper(sizes: tuple[int, ...], batch: int, kind: str):
    """A function that makes one training step of a kind, "plain", "parallel" or "silent"."""
    mg.manual_seed(0)
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    net = nn.Sequential(*layers[:-1])
    optimizer, criterion = optim.SGD(net.parameters(), lr=1e-6), nn.CrossEntropyLoss()
    random = np.random.default_rng(RANK)
    x = mg.tensor(random.normal(size=(batch, sizes[0])), dtype=mg.float32)
    y = mg.tensor(random.integers(0, sizes[-1], batch))
    distributed.WORLD = Silent() if kind == "silent" else WORLD
    run = net if kind == "plain" else distributed.DataParallel(net)
    distributed.WORLD = WORLD

    def step() -> float:
        """Returns the seconds of backward."""
        optimizer.zero_grad()
        loss = criterion(run(x), y)
        start = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
        optimizer.step()
        return end - start

    return step, sum(p.size for p in net.parameters()) * 4


def measure(name: str, alpha: float, beta: float, rounds: int) -> None:
    steps, times = {}, {}
    for kind in ("plain", "parallel", "silent"):
        steps[kind], size = stepper(*NETS[name], kind)
        times[kind] = []
    inner = max(1, int(0.0003 / (min(steps["plain"]() for _ in range(5)) * 3)))
    inner, backwards = min(WORLD.allgather(inner)), []
    for _ in range(rounds):
        for kind, step in steps.items():
            distributed.barrier()
            start = time.perf_counter()
            backward = [step() for _ in range(inner)]
            times[kind].append(slowest(time.perf_counter() - start) / inner)
            if kind == "plain":
                backwards.append(float(np.median(backward)))
    own, both, silent = (low(times[kind]) for kind in steps)
    cost = alpha + beta * size if RANKS > 1 else 0.0
    # All of the messages hidden by backward, or nothing.
    base = silent if RANKS > 1 else own
    least, most = base + max(0.0, cost - low(backwards)), base + cost
    ratio = np.median(np.divide(times["parallel"], times["plain"]))
    say(
        f"{name:<16} {size / 1e6:6.2f} MB  plain {own * 1e6:8.0f} µs"
        f"  without messages {silent * 1e6:8.0f} µs"
        f"  DataParallel {both * 1e6:8.0f} µs, ratio {ratio:5.3f}"
        f"  model {least * 1e6:.0f} to {most * 1e6:.0f} µs"
    )


def main() -> None:
    times = {size: allreduce_time(size, 200 if size < 1 << 18 else 30) for size in SIZES}
    say(f"{RANKS} ranks; allreduce:")
    for size, seconds in times.items():
        say(f"{size:>10} bytes {seconds * 1e6:10.1f} µs")
    alpha, beta = fit(times)
    rate = f"{1e-9 / beta:.2f} GB/s" if beta else "no limit seen"
    say(f"latency {alpha * 1e6:.1f} µs, {rate}")
    for name in NETS:
        measure(name, alpha, beta, rounds=400 if name.startswith("64") else 60)


if __name__ == "__main__":
    main()
