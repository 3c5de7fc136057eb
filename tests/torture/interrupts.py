"""Ctrl-C at random moments of forward, backward, a step, saving and loading.

Backward is all or nothing: afterwards either every `.grad` is old or every one is new. A step of an
optimiser leaves each parameter old or new. A file is the complete old one or the complete new one.
The engine continues as if nothing had happened: the same step gives bitwise the same result.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn
from torture import Result, Share


def network() -> tuple[Any, Any, Any]:
    mg.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 5),
    )  # fmt: skip
    return net, mg.randn(16, 1, 8, 8), mg.randint(0, 5, (16,))


def bits(tensors: Any) -> list[bytes]:
    return [b"" if x is None else x.numpy().tobytes() for x in tensors]


class Scene:
    """The interrupted operations, and what must hold afterwards."""

    def __init__(self, folder: Path) -> None:
        self.net, self.x, self.labels = network()
        self.parameters = list(self.net.parameters())
        self.path = folder / "state.npz"
        self.states = [{"x": mg.full((300, 300), n), "y": [mg.ones(10) * n]} for n in (1.0, 2.0)]
        mg.save(self.states[0], self.path)
        self.folder = folder
        self.optimizer = mg.optim.Adam(self.parameters, 1e-3)
        self.forward()  # fill the caches

    def loss(self) -> Any:
        return nn.functional.cross_entropy(self.net(self.x), self.labels)

    def set_gradients(self, value: float | None) -> None:
        for p in self.parameters:
            p.grad = None if value is None else mg.full(p.shape, value)

    def gradients(self) -> list[bytes]:
        return bits(p.grad for p in self.parameters)

    # Each returns a function to run, and one that says whether everything is as it should be.
    def forward(self) -> tuple[Callable[[], Any], Callable[[], bool]]:
        expected = self.loss().item()
        return self.loss, lambda: self.loss().item() == expected

    def backward(self) -> tuple[Callable[[], Any], Callable[[], bool]]:
        self.set_gradients(None)
        self.loss().backward()
        new = self.gradients()
        self.set_gradients(0.0)
        old, loss = self.gradients(), self.loss()

        def sound() -> bool:
            found = self.gradients()
            self.set_gradients(None)
            self.loss().backward()
            return found in (old, new) and self.gradients() == new

        return loss.backward, sound

    def second_order(self) -> tuple[Callable[[], Any], Callable[[], bool]]:
        def run() -> Any:
            g = mg.autograd.grad(self.loss(), self.parameters, create_graph=True)
            return mg.autograd.grad(sum((a * a).sum() for a in g), self.parameters)

        expected = bits(run())
        return run, lambda: bits(run()) == expected

    def step(self) -> tuple[Callable[[], Any], Callable[[], bool]]:
        self.set_gradients(0.5)
        start = self.optimizer.state_dict(), [p.numpy(copy=True) for p in self.parameters]
        old = bits(self.parameters)
        self.optimizer.step()
        new = bits(self.parameters)

        def restore() -> None:
            self.optimizer.load_state_dict(start[0])
            with mg.no_grad():
                for p, value in zip(self.parameters, start[1], strict=True):
                    p.copy_(value)

        restore()

        def sound() -> bool:
            found = bits(self.parameters)
            restore()
            self.optimizer.step()
            return (
                all(a in pair for a, *pair in zip(found, old, new, strict=True))
                and bits(self.parameters) == new
            )

        return self.optimizer.step, sound

    def save(self) -> tuple[Callable[[], Any], Callable[[], bool]]:
        states = [self.read(state) for state in self.states]
        return lambda: mg.save(
            self.states[1], self.path
        ), lambda: self.read(mg.load(self.path)) in states

    def load(self) -> tuple[Callable[[], Any], Callable[[], bool]]:
        expected = self.read(mg.load(self.path))
        return lambda: mg.load(self.path), lambda: self.read(mg.load(self.path)) == expected

    @staticmethod
    def read(state: Any) -> list[bytes]:
        return bits([state["x"], *state["y"]])


SCENES = ("forward", "backward", "second_order", "step", "save", "load")


def interrupt(run: Callable[[], Any], after: float) -> BaseException | None:
    """The exception raised by Ctrl-C (Python's own handler), if it came before `run` was done."""
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        run()
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0)  # handles a signal that came at the last moment
    except BaseException as error:
        return error
    return None


def torment(share: Share) -> Result:
    """1,000 interrupts of each of these."""
    result, randoms = Result("interrupts"), random.Random(0)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    wanted = 50 if share.quick else 1000
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name))
        for kind in share.progress(SCENES):
            run, sound = getattr(scene, kind)()
            durations = []
            for _ in range(5):
                run, sound = getattr(scene, kind)()
                start = time.perf_counter()
                run()
                durations.append(time.perf_counter() - start)
            came, typical = 0, float(np.median(durations))
            for _ in range(20 * wanted):
                if came == wanted:
                    break
                run, sound = getattr(scene, kind)()
                raised = interrupt(run, max(randoms.uniform(0, typical), 1e-6))
                if raised is None:
                    continue
                came += 1
                good = sound() and mg.is_grad_enabled()
                result.check(good, f"{kind}: something is left half done")
                if not isinstance(raised, KeyboardInterrupt):
                    result.failures.append(f"{kind}: {type(raised).__name__}: {raised}")
            # An interrupt may come before the code that removes a new file knows it; then the next
            # save removes it.
            scene.save()[0]()
            left = sum(path.name != "state.npz" for path in Path(name).iterdir())
            result.check(not left, f"{kind}: {left} temporary files are left")
            result.count -= 1
            result.note(f"in {kind}", came)
    return result
