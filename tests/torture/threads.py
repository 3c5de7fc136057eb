"""Threads: work done by several Python threads at once gives bitwise the results of one thread, and
so do large loops on any number of threads of the pool."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, optim
from minigrad._core.fast.loops import set_threads
from torture import Result, Share

THREADS = 4


def bits(tensors: Any) -> list[bytes]:
    return [x.numpy().tobytes() for x in tensors]


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """work(0), work(1), ... each in its own thread, started together. An exception is a result."""
    results: list[Any] = [None] * THREADS
    together = threading.Barrier(THREADS)

    def run(i: int) -> None:
        together.wait()
        try:
            results[i] = work(i)
        except Exception as error:
            results[i] = error

    workers = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    return results


def network(seed: int) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)  # mg's generator is shared by all threads
    net = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 5)).double()
    with mg.no_grad():
        for p in net.parameters():
            p.copy_(mg.tensor(random.standard_normal(p.shape) * 0.2))
    return net, mg.tensor(random.standard_normal((30, 20))), mg.tensor(random.integers(0, 5, 30))


def train(seed: int) -> list[bytes]:
    net, x, labels = network(seed)
    optimizer = optim.Adam(net.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return bits([*net.parameters(), *net.buffers()])


def independent_nets() -> bool:
    return at_once(train) == [train(i) for i in range(THREADS)]


def shared_weights() -> bool:
    net, x, labels = network(0)
    net.eval()

    def work(i: int) -> list[bytes]:
        loss = nn.functional.cross_entropy(net(x[i::THREADS]), labels[i::THREADS])
        g = mg.autograd.grad(loss, list(net.parameters()), create_graph=True)
        return bits([*g, *mg.autograd.grad(sum((a * a).sum() for a in g), list(net.parameters()))])

    return at_once(work) == [work(i) for i in range(THREADS)]


def shared_graph() -> bool:
    net, x, labels = network(1)
    loss = nn.functional.cross_entropy(net(x), labels)
    parameters = list(net.parameters())

    def work(i: int) -> list[bytes]:
        return bits(mg.autograd.grad(loss, parameters, retain_graph=True))

    return at_once(work) == [work(0)] * THREADS


def gradients_of_one_leaf() -> bool:
    """The whole backward of every thread is added to .grad."""
    x = mg.zeros(50, requires_grad=True)

    def work(i: int) -> None:
        for _ in range(50):
            (x * 3.0).sum().backward()

    return at_once(work) == [None] * THREADS and bool((x.grad == 150.0 * THREADS).all())


def recording_is_of_each_thread() -> bool:
    x = mg.ones(3, requires_grad=True)

    def work(i: int) -> bool:
        with mg.set_grad_enabled(i % 2 == 0):
            return all((x * 2).requires_grad == (i % 2 == 0) for _ in range(500))

    return at_once(work) == [True] * THREADS


def one_file() -> bool:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "state.npz"
        mg.save({"x": mg.zeros(100)}, path)

        def work(i: int) -> bool:
            for _ in range(10):
                mg.save({"x": mg.full((100,), float(i))}, path)
                values = mg.load(path)["x"].numpy()
                if not (values == values[0]).all():
                    return False
            return True

        return at_once(work) == [True] * THREADS and len(list(Path(name).iterdir())) == 1


def pools() -> dict[str, Callable[[], Any]]:
    """Large loops."""
    random = np.random.default_rng(0)
    x = mg.tensor(random.standard_normal((1500, 1100)).astype(np.float32))
    y = mg.tensor(random.standard_normal((1500, 1100)).astype(np.float32))
    wide = mg.tensor(random.standard_normal((130, 9000)))
    found: dict[str, Callable[[], Any]] = {}
    elementwise = (
        "exp",
        "tanh",
        "gelu",
        "erf",
        "sigmoid",
        "sin",
        "softplus",
        "relu",
        "log1p",
        "silu",
    )
    for name in elementwise:
        f = getattr(mg, name)
        found[name] = lambda f=f: [f(x), f(wide), f(x.T), f(x[::-1, ::2])]
    for name in ("sum", "mean", "var", "max", "prod", "logsumexp", "norm", "std"):
        f = getattr(mg, name)
        found[name] = lambda f=f: [f(a, axis=axis) for a in (x, wide, x.T) for axis in (0, 1, None)]
    found["x + y"] = lambda: [x + y, x + y[0], x * y[:, :1], x / 3.0, mg.where(x > y, x, y), x**2]
    found["softmax"] = lambda: [mg.softmax(x, 1), mg.log_softmax(x, 0)]
    found["matmul"] = lambda: [x @ y.T[:, :100]]

    def step() -> list[Any]:
        a = mg.tensor(x.numpy(), requires_grad=True)
        z = nn.functional.batch_norm(a, None, None, training=True)
        z = nn.functional.layer_norm(z, (1100,))
        (z.tanh() * y).sum().backward()
        parameter = nn.Parameter(x.clone())
        parameter.grad = a.grad
        for kind in (optim.SGD, optim.Adam, optim.RMSprop):
            kind([parameter], 0.01).step()
        return [z, a.grad, parameter]

    found["a training step"] = step
    return found


def torment(share: Share) -> Result:
    """Each scene 30 times, switching threads every 10 µs; each large loop on 1, 2 and 7 threads."""
    result, rounds = Result("scenes of threads"), 3 if share.quick else 30
    scenes = (
        independent_nets,
        shared_weights,
        shared_graph,
        gradients_of_one_leaf,
        recording_is_of_each_thread,
        one_file,
    )
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for scene in share.progress(scenes * rounds):
            result.check(scene(), f"{scene.__name__}: not as one thread alone")
    finally:
        sys.setswitchinterval(before)
    for name, function in pools().items():
        found = []
        for n in (1, 2, 7):
            set_threads(n)
            found.append(bits(function()))
        result.check(found[0] == found[1] == found[2], f"{name}: other bits on 2 or 7 threads")
        result.note("large loops on 1, 2 and 7 threads")
    set_threads(1)
    return result
