"""Leaks: for every kind of line of the random programs, every layer and every optimiser, 1,000
steps with the collector off leave the number of Tensors and Nodes and the memory unchanged."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minigrad as mg
from minigrad import nn, optim
from minigrad._core.engine.graph import Node
from torture import Result, Share
from torture.programs import Program, derivatives, explore
from torture.rows import ROWS

STATUS = Path("/proc/self/status")
KILOBYTES = 2048  # allowed growth in 1,000 steps: the heap layout varies


def living() -> int:
    """The Tensors and Nodes tracked by the garbage collector, without collecting."""
    return sum(issubclass(type(o), (mg.Tensor, Node)) for o in gc.get_objects())


def resident() -> int:
    """In KB."""
    text = STATUS.read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def layers() -> dict[str, Callable[[], Any]]:
    """A training step of each kind of layer."""
    image, rows, steps = mg.randn(4, 3, 8, 8), mg.randn(6, 5), mg.randn(7, 3, 5)
    line = mg.randn(2, 4, 9)
    words, classes = mg.randint(0, 10, (4, 3)), mg.randint(0, 5, (6,))
    nets: dict[str, tuple[Any, Any]] = {
        "Linear": (nn.Linear(5, 3), rows), "Embedding": (nn.Embedding(10, 4), words),
        "Conv2d": (nn.Conv2d(3, 4, 3, padding=1), image), "Conv1d": (nn.Conv1d(4, 4, 3), line),
        "ConvTranspose2d": (nn.ConvTranspose2d(3, 4, 3), image),
        "ConvTranspose1d": (nn.ConvTranspose1d(4, 2, 3), line),
        "BatchNorm1d": (nn.BatchNorm1d(5), rows), "BatchNorm2d": (nn.BatchNorm2d(3), image),
        "LayerNorm": (nn.LayerNorm(5), rows), "GroupNorm": (nn.GroupNorm(3, 3), image),
        "InstanceNorm2d": (nn.InstanceNorm2d(3, affine=True), image),
        "RMSNorm": (nn.RMSNorm(5), rows), "PReLU": (nn.PReLU(), rows),
        "RNN": (nn.RNN(5, 4), steps), "GRU": (nn.GRU(5, 4), steps),
        "LSTM": (nn.LSTM(5, 4, num_layers=2), steps),
        "BatchNormLSTM": (nn.BatchNormLSTM(5, 4, max_length=7), steps),
        "MultiheadAttention": (nn.MultiheadAttention(5, 1), steps),
        "TransformerEncoderLayer": (nn.TransformerEncoderLayer(5, 1, 8), steps),
        "Dropout": (nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5)), rows),
        "MaxPool2d": (nn.Sequential(nn.Conv2d(3, 3, 1), nn.MaxPool2d(2)), image),
        "AvgPool2d": (nn.Sequential(nn.Conv2d(3, 3, 1), nn.AvgPool2d(2)), image),
        "Upsample": (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Upsample(scale_factor=2)), image),
        "weight_norm": (nn.utils.weight_norm(nn.Linear(5, 3)), rows),
    }  # fmt: skip
    steps_of: dict[str, Callable[[], Any]] = {}
    for name, (net, x) in nets.items():

        def step(net: Any = net, x: Any = x, name: str = name) -> None:
            out = net(x, x, x) if name == "MultiheadAttention" else net(x)
            (out[0] if isinstance(out, tuple) else out).square().mean().backward()
            net.zero_grad()

        steps_of[name] = step
    optimizers = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Lion", "LBFGS")
    for optimizer in (*optimizers, "Muon", "ScheduleFreeSGD", "ScheduleFreeAdamW"):
        net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5))
        made = getattr(optim, optimizer)(
            [p for p in net.parameters() if optimizer != "Muon" or p.ndim == 2], lr=1e-3
        )

        def closure(net: Any = net, made: Any = made) -> Any:
            made.zero_grad()
            loss = nn.functional.cross_entropy(net(rows), classes)
            loss.backward()
            return loss

        def train(made: Any = made, closure: Any = closure, name: str = optimizer) -> None:
            made.step(closure) if name == "LBFGS" else (closure(), made.step())

        steps_of[optimizer] = train
    x = mg.randn(4, requires_grad=True)
    steps_of["func.hessian"] = lambda: mg.func.hessian(lambda x: mg.sin(x).sum())(x)
    steps_of["func.jvp"] = lambda: mg.func.jvp(mg.tanh, (x,), (x,))
    steps_of["checkpoint"] = lambda: mg.autograd.checkpoint(mg.tanh, x).sum().backward()

    def hooked() -> None:
        y = x * 2
        y.register_hook(lambda g: g * 2)
        y.retain_grad()
        y.sum().backward()

    steps_of["hooks"] = hooked

    def failing() -> None:
        y = x * mg.exp(x)
        y.register_hook(lambda g: 1 / 0)
        with contextlib.suppress(ZeroDivisionError):
            y.sum().backward()

    steps_of["an error in backward"] = failing
    return steps_of


def program_of(name: str) -> Program:
    """The shortest of a few programs with a line of this row."""
    kept: list[Program] = []

    def keep(program: Program) -> str:
        kept.append(program)
        return "kept"

    explore(keep, 5, 0, rows=(name,))
    return min(kept, key=lambda program: len(program.lines))


def growth(step: Callable[[], Any], count: int) -> tuple[int, int]:
    """The growth in Tensors and Nodes, and in KB, over `count` steps with the collector off."""
    for _ in range(50):
        step()
    gc.collect()
    gc.disable()
    try:
        before, memory = living(), resident()
        for _ in range(count):
            step()
        return living() - before, resident() - memory
    finally:
        gc.enable()


def torment(share: Share) -> Result:
    """1,000 steps of each."""
    result, count = Result("kinds of steps"), 50 if share.quick else 1000
    jobs: dict[str, Callable[[], Any]] = dict(layers())
    for name in ROWS:
        program = program_of(name)
        jobs[name] = lambda p=program: derivatives(mg, p.source(), p.leaves, p.writes, p.results)
    for name in share.progress(list(jobs)):
        more, grown = growth(jobs[name], count)
        result.check(
            more == 0 and grown < KILOBYTES,
            f"{name}: {more} Tensors and Nodes, {grown} KB more after {count} steps",
        )
    result.note("steps", count * len(jobs))
    return result
