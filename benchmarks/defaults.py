"""What users get: every library with its default number of threads, on an idle machine
(`python benchmarks/run.py default`) and next to one spinning process per processor (`busy`).

Each contender runs in a separate process, because threads of one library that spin while they wait
take processors from the next. The processes run in turn; a figure is the median of the rounds. "on
one thread" is the same library limited to one thread: it shows what its threads gain or cost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import contenders as table
import numpy as np
from machine import CLEARED, ONE_THREAD

ONE = " on one thread"
QUIET = 0.03  # seconds between two contenders, in which spinning threads go to sleep
FASHION = Path("/usr/share/datasets/fashion-mnist")
NORMS = "BatchNorm (4096, 1024), forward + backward"


# ---------------------------------------------------------------------------------- more contenders
def transformer_layers(nn) -> list:
    """An encoder layer with 4 heads and 256 hidden units on (16, 32, 64), and a classifier."""
    encoder = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
    return [encoder, nn.Flatten(), nn.Linear(32 * 64, 10)]


def transformer_data() -> tuple[np.ndarray, np.ndarray]:
    return table.random(16, 32, 64), np.random.default_rng(1).integers(0, 10, 16)


def square_product(library: str, n: int, dtype: str) -> Callable:
    x, y = (table.random(n, n, seed=k).astype(dtype) for k in range(2))
    if library == "minigrad":
        import minigrad as mg

        x, y = mg.asarray(x), mg.asarray(y)
    return lambda: x @ y


# ---------------------------------------------------------------------------------------- real data
def fashion(images: int, side: bool) -> tuple[np.ndarray, ...]:
    """`images` training images and labels, and the 10,000 of the test set: float32 in [0, 1]."""
    import gzip

    def read(name: str, skipped: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, -1, skipped)

    arrays = []
    for part, count in (("train", images), ("t10k", 10_000)):
        pixels = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 784)[:count] / np.float32(255)
        arrays.append(pixels.reshape(-1, 1, 28, 28) if side else pixels)
        arrays.append(read(f"{part}-labels-idx1-ubyte.gz", 8)[:count].astype(np.int64))
    return tuple(arrays)


def mlp_of_fashion(nn) -> list:
    return table.mlp_layers(nn, (784, 256, 128, 10))


def cnn_of_fashion(nn) -> list:
    return table.cnn_layers(nn, (1, 16, 32), 28)


def whole_run(library: str, layers: Callable, images: int, epochs: int, side: bool) -> Callable:
    """Train a new net for some epochs in shuffled batches of 128; return its test accuracy."""
    module = import_module(library)
    data = import_module({"minigrad": "minigrad.data", "torch": "torch.utils.data"}[library])
    x, target, test_x, test_target = map(module.tensor, fashion(images, side))

    def run() -> float:
        model = module.nn.Sequential(*layers(module.nn))
        loss, optimizer = module.nn.CrossEntropyLoss(), module.optim.Adam(model.parameters())
        loader = data.DataLoader(data.TensorDataset(x, target), 128, shuffle=True)
        for _ in range(epochs):
            for inputs, labels in loader:
                optimizer.zero_grad()
                loss(model(inputs), labels).backward()
                optimizer.step()
        model.eval()
        with module.no_grad():
            right = [
                (model(inputs).argmax(1) == labels).sum().item()
                for inputs, labels in data.DataLoader(data.TensorDataset(test_x, test_target), 500)
            ]
        return sum(right) / len(test_target)

    return run


# ---------------------------------------------------------------------------------------- the table
@dataclass
class Row(table.Work):
    """`idle` and `busy` are the largest acceptable ratios in each case, `lost` is the ratio of
    minigrad with default threads to minigrad on one; a whole run is timed once per round."""

    idle: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    lost: float = 1.03
    whole_run: bool = False

    def everyone(self) -> dict[str, Callable[[], Callable]]:
        """The contenders with installed libraries, and minigrad and the peer on one thread."""
        found = table.present(self)
        for name in list(found):
            if name in ("minigrad", "torch", "numpy"):
                found[name + ONE] = found[name]
        return found


def row_of(work: table.Work, idle: dict[str, float], busy: dict[str, float], lost=1.03) -> Row:
    kept = {
        k: v for k, v in work.contenders.items() if k not in ("jax", "matmuls", "torch composed")
    }
    return Row(work.name, kept, idle=idle, busy=busy, lost=lost)


def mlp(sizes: tuple[int, ...], batch: int, idle: float, busy: float, lost=1.03, peer="torch"):
    return row_of(table.mlp_work(sizes, batch, {}), {peer: idle}, {peer: busy}, lost)


def cnn(channels: tuple[int, ...], batch: int, idle: float, lost=1.03) -> Row:
    return row_of(table.cnn_work(channels, 28, batch, {}), {"torch": idle}, {"torch": 0.5}, lost)


def pair(name: str, make: Callable, at_most: float, peer="torch", **options) -> Row:
    """`make` sets up the work for the library of that name."""
    makers = {library: partial(make, library) for library in ("minigrad", peer)}
    return Row(name, makers, idle={peer: at_most}, busy={peer: 0.5}, **options)


def train_transformer(library: str) -> Callable:
    train = {"minigrad": table.train_minigrad, "torch": table.train_torch}[library]
    return train(transformer_layers, transformer_data())


def rows() -> list[Row]:
    steps = [
        mlp((2, 16, 16, 2), 100, 0.12, 0.12),
        mlp((64, 64, 64, 10), 32, 0.12, 0.12),
        mlp((784, 256, 256, 10), 128, 0.8, 0.5, peer="torch fused Adam"),
        mlp((784, 512, 512, 10), 256, 0.9, 0.5),
        mlp((1024, 2048, 2048, 10), 512, 1.0, 0.5, 0.65),
        cnn((1, 16, 32), 64, 0.85),
        cnn((1, 32, 64), 128, 0.95, 0.65),
        pair("transformer layer (16, 32, 64), 4 heads", train_transformer, 0.85),
        *(
            pair(
                "{}({}, {}) over {} steps of batch {}, forward + backward".format(
                    kind, *table.LSTM
                ),
                partial(table.recurrent, kind=kind),
                at_most,
            )
            for kind, at_most in (("LSTM", 1.0), ("GRU", 0.85))
        ),
        row_of(table.batchnorm_work((4096, 1024)), {}, {}, 0.65),
        Row(
            "x + y of (520, 512), one after the other",
            {
                "minigrad": partial(
                    table.function_minigrad, "add", "float32", (520, 512), ("x", "y"), {}
                )
            },
        ),
    ]
    products = [
        pair(
            f"{n}x{n} @ {n}x{n}, {dtype}",
            partial(square_product, n=n, dtype=dtype),
            1.0,
            peer="numpy",
        )
        for dtype in ("float32", "float64")
        for n in (64, 128, 256, 512, 1024, 2048)
    ]
    runs = [
        pair(
            f"Fashion-MNIST, {name}",
            partial(whole_run, layers=layers, images=images, epochs=epochs, side=side),
            at_most,
            whole_run=True,
        )
        for name, layers, images, epochs, side, at_most in (
            ("MLP-BN 784-256-128-10, 2 epochs", mlp_of_fashion, 60_000, 2, False, 0.45),
            ("CNN-BN 1-16-32, 20,000 images", cnn_of_fashion, 20_000, 1, True, 0.9),
        )
    ]
    return [*steps, *products, *(runs if FASHION.is_dir() else [])]


# ---------------------------------------------------------------------------------------- processes
def serve(name: str, contender: str) -> None:
    """Run in a separate process: set up the work, then time the number of calls in each line."""
    (row,) = (row for row in rows() if row.name == name)
    call = row.everyone()[contender]()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            call()
        print(time.perf_counter() - start, flush=True)


@contextmanager
def worker(row: Row, contender: str) -> Iterator[Callable[[int], float]]:
    """A function that times a number of calls in the contender's process, in seconds."""
    cleared = (*CLEARED, *ONE_THREAD, "MINIGRAD_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in cleared}
    if contender.endswith(ONE):
        environment |= ONE_THREAD | {"MINIGRAD_NUM_THREADS": "1"}
    command = [sys.executable, __file__, row.name, contender]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:

        def ask(calls: int) -> float:
            time.sleep(QUIET)
            process.stdin.write(f"{calls}\n")
            process.stdin.flush()
            if not (answer := process.stdout.readline()):
                raise SystemExit(f"run.py: {contender} stopped in {row.name}")
            return float(answer)

        try:
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"run.py: {contender} could not start {row.name}")
            yield ask
        finally:
            process.kill()


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Keep a number of processes busy in a `with` block."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(row: Row, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds per call: a list of `rounds` for each contender, measured in turn."""
    with ExitStack() as stack:
        ask = {name: stack.enter_context(worker(row, name)) for name in row.everyone()}
        counts = dict.fromkeys(ask, 1)
        if not row.whole_run:
            for name, call in ask.items():
                call(3)
                while (elapsed := call(counts[name])) < seconds / 2:
                    counts[name] = max(
                        2 * counts[name], round(counts[name] * seconds / 2 / elapsed)
                    )
                counts[name] = max(1, round(counts[name] * seconds / elapsed))
        times: dict[str, list[float]] = {name: [] for name in ask}
        for _ in range(rounds):
            for name, call in ask.items():
                times[name].append(call(counts[name]) / counts[name] * 1e6)
    return times


def judged(row: Row, busy: bool) -> Row:
    """The row, with the targets for this run in `targets`."""
    row.targets = {**(row.busy if busy else row.idle), "minigrad" + ONE: 1.25 if busy else row.lost}
    return row


if __name__ == "__main__":
    serve(*sys.argv[1:])
