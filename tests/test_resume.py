"""A run that is killed at any step and resumed from its checkpoint equals the run that was never
stopped, bit for bit: parameters, buffers, options of the optimiser, shuffles, dropout masks.

The optimisers and schedulers are those of the package; a new one is tested without a line here,
unless its constructor requires an argument that no other has.
"""

from __future__ import annotations

import importlib.util
import inspect
import io
import os
import re
import subprocess
import sys
import time
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataLoader, TensorDataset
from minigrad.optim import lr_scheduler
from minigrad.tree import flatten_tree

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
STEPS = 13  # two epochs of 6 batches, and one batch


def classes(module, base):
    found = (getattr(module, name) for name in module.__all__)
    return [k for k in found if isinstance(k, type) and issubclass(k, base) and k is not base]


OPTIMISERS = classes(optim, optim.Optimizer)
SCHEDULERS = classes(lr_scheduler, lr_scheduler.LRScheduler)

# what constructors of schedulers require, and what makes them move within a few steps
ARGUMENTS = {
    "step_size": lambda o: 2,
    "milestones": lambda o: [3, 8],
    "gamma": lambda o: 0.7,
    "T_max": lambda o: 5,
    "T_0": lambda o: 2,
    "T_mult": lambda o: 2,
    "lr_lambda": lambda o: lambda epoch: 1 / (1 + epoch),
    "patience": lambda o: 1,
    "max_lr": lambda o: 0.02,
    "swa_lr": lambda o: 0.005,
    "total_steps": lambda o: 2 * STEPS,
    "cycle_momentum": lambda o: (
        not {"momentum", "betas"}.isdisjoint(o.defaults) and not hasattr(o, "train")
    ),
    "schedulers": lambda o: [
        scheduler(lr_scheduler.LinearLR, o),
        scheduler(lr_scheduler.CosineAnnealingWarmRestarts, o),
        scheduler(lr_scheduler.OneCycleLR, o),
    ],
}


def scheduler(kind, optimizer):
    names = [name for name in inspect.signature(kind).parameters if name in ARGUMENTS]
    return kind(optimizer, **{name: ARGUMENTS[name](optimizer) for name in names})


def optimiser(kind, net):
    try:
        made = kind(net.parameters(), lr=0.01)
    except ValueError:  # for matrices alone
        made = kind([p for p in net.parameters() if p.ndim == 2], lr=0.01)
    if hasattr(made, "train"):  # evaluates other weights than it trains
        made.train()
    return made


def exact(value):
    return value.numpy().tobytes() if isinstance(value, mg.Tensor) else value


PARTS = ("net", "optimizer", "scheduler", "loader")


class Run:
    """A training run; each step yields all that it should have in common with the other."""

    def __init__(self, optimizer, scheduler, seed):
        mg.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 4),
            nn.Dropout(0.3, generator=mg.Generator(seed)), nn.Linear(4, 1),
        )  # fmt: skip
        random = np.random.default_rng(0)
        data = TensorDataset(random.random((19, 3), np.float32), np.arange(19))
        self.loader = DataLoader(data, 3, shuffle=True, last="merge")
        self.kinds = optimizer, scheduler
        self.masks = []
        for layer in self.net:
            if isinstance(layer, nn.Dropout):
                layer.register_forward_hook(lambda m, i, y: self.masks.append(y.numpy().tobytes()))

    def states(self):
        return {name: getattr(self, name).state_dict() for name in PARTS}

    def build_optimizer(self):
        self.optimizer = optimiser(self.kinds[0], self.net)

    def build_scheduler(self):
        self.scheduler = scheduler(self.kinds[1], self.optimizer)

    def build(self):
        self.build_optimizer()
        self.build_scheduler()
        return self

    def saved(self):
        """A checkpoint, through a file."""
        state = self.states()
        state["rng"], state["mask"] = mg.get_rng_state(), self.net[5].generator.get_state()
        file = io.BytesIO()
        mg.save(state, file)
        file.seek(0)
        return mg.load(file)

    def load(self, checkpoint, name):
        getattr(self, name).load_state_dict(checkpoint[name])

    def load_random(self, checkpoint):
        mg.set_rng_state(checkpoint["rng"])
        self.net[5].generator.set_state(checkpoint["mask"])

    def steps(self):
        criterion = nn.MSELoss()
        while True:
            for x, index in self.loader:

                def closure(x=x, index=index):
                    self.optimizer.zero_grad()
                    loss = criterion(self.net(x)[:, 0], index / 19.0)
                    loss.backward()
                    return loss

                loss = self.optimizer.step(closure)
                takes_metric = "metrics" in inspect.signature(self.scheduler.step).parameters
                self.scheduler.step(*[loss] * takes_metric)
                yield self.facts(index)

    def facts(self, index):
        masks, self.masks = self.masks, []
        options = [{**group, "params": None} for group in self.optimizer.param_groups]
        return {
            "batch": index.tolist(),
            "masks": masks,
            "options": options,
            "states": list(map(exact, flatten_tree(self.states())[0])),
            "generators": (mg.get_rng_state(), self.net[5].generator.get_state()),
        }


def resumed(checkpoint, kinds, order):
    """A run that is built and loaded in this order."""
    run = Run(*kinds, seed=9)
    events = {
        "build optimiser": run.build_optimizer,
        "build scheduler": run.build_scheduler,
        "load net": lambda: run.load(checkpoint, "net"),
        "load optimiser": lambda: run.load(checkpoint, "optimizer"),
        "load scheduler": lambda: run.load(checkpoint, "scheduler"),
        "load loader": lambda: run.load(checkpoint, "loader"),
        "load random": lambda: run.load_random(checkpoint),
    }
    for event in order:
        events[event]()
    return run


ORDERS = [
    ("build optimiser", "build scheduler", "load net", "load optimiser", "load scheduler",
     "load loader", "load random"),
    ("load random", "load net", "build optimiser", "load optimiser", "build scheduler",
     "load scheduler", "load loader"),
    ("load loader", "build optimiser", "build scheduler", "load scheduler", "load random",
     "load optimiser", "load net"),
]  # fmt: skip


PAIRS = list(product(OPTIMISERS, SCHEDULERS))


@pytest.mark.parametrize("kinds", PAIRS, ids=lambda kinds: "-".join(k.__name__ for k in kinds))
def test_a_killed_run_equals_the_one_never_stopped(kinds):
    """Killed after each of the first steps in turn."""
    run = Run(*kinds, seed=0).build()
    steps = run.steps()
    checkpoints, facts = [run.saved()], []
    for fact in islice(steps, STEPS):
        facts.append(fact)
        checkpoints.append(run.saved())
    assert len({str(fact["states"]) for fact in facts}) == STEPS
    for number, checkpoint in enumerate(checkpoints[:-1]):
        again = resumed(checkpoint, kinds, ORDERS[number % len(ORDERS)])
        differing = difference(again, facts[number : number + 8])  # into the next epoch
        assert differing is None, f"killed after {number} steps: {differing}"


def difference(run, facts):
    """The first difference between a run and what is known of the other."""
    for step, (expected, fact) in enumerate(zip(facts, run.steps(), strict=False)):
        for name, value in fact.items():
            if value != expected[name]:
                return f"the {name} of step {step} differ"
    return None


@pytest.mark.parametrize("forgotten", [event for event in ORDERS[0] if event.startswith("load")])
@pytest.mark.parametrize("order", ORDERS)
def test_what_is_not_loaded_is_noticed(order, forgotten):
    kinds = optim.Adam, lr_scheduler.OneCycleLR
    run = Run(*kinds, seed=0).build()
    steps = run.steps()
    list(islice(steps, 4))
    checkpoint, facts = run.saved(), list(islice(steps, 3))
    assert difference(resumed(checkpoint, kinds, order), facts) is None
    partly = resumed(checkpoint, kinds, [event for event in order if event != forgotten])
    assert difference(partly, facts) is not None


def test_epochs_are_counted_on():
    """`range(loader.epoch, epochs)` runs the rest of the interrupted epoch, and the others."""

    def train(loader, seen, stop=None):
        for epoch in range(loader.epoch, 3):
            for (batch,) in loader:
                seen.append((epoch, batch.tolist()))
                if len(seen) == stop:
                    return loader.state_dict()
            seen.append(f"end of epoch {epoch}")
        return loader.state_dict()

    def make():
        return DataLoader(TensorDataset(mg.arange(7)), 2, shuffle=True, seed=3)

    whole = []
    train(make(), whole)
    assert len(whole) == 3 * 5
    for stop in range(1, 16):
        seen, loader = [], make()
        state = train(loader, seen, stop)
        resumed = make()
        resumed.load_state_dict(state)
        train(resumed, seen)
        assert seen == whole


# -------------------------------------------------------------------- the example, as users run it
@pytest.fixture
def example(monkeypatch, tmp_path):
    """`examples/resume.py` with a checkpoint of the test's own: its module and the options."""
    for requirement in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(requirement)
    monkeypatch.syspath_prepend(str(EXAMPLES))  # where a script finds lesson.py
    specification = importlib.util.spec_from_file_location("resume", EXAMPLES / "resume.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module, ["--epochs", "3", "--checkpoint", str(tmp_path / "checkpoint")]
    sys.modules.pop("lesson", None)


def test_the_example_stops_and_continues(example, capsys, tmp_path):
    module, options = example
    whole = module.main(options)
    assert len(whole) == 16 and not list(tmp_path.iterdir())
    assert module.main([*options, "--seed", "1"]) != whole
    for stops in ([1], [42, 43], [13, 60, 125], [126]):
        for stop in stops:
            assert module.main([*options, "--stop-at", str(stop)]) is None
            assert f"stopped after step {stop} of 126; run it again" in capsys.readouterr().out
        assert module.main(options) == whole
        assert f"continuing after step {stops[-1]} of 126" in capsys.readouterr().out
    module.main([*options, "--stop-at", "5"])
    for wrong, message in (
        (["--stop-at", "5"], "--stop-at 5: the run is at step 5 already"),
        (["--seed", "1"], "is of a run with .*; pass the same options, or --fresh"),
        (["--every", "0"], "--epochs and --every must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            module.main([*options, *wrong])
        assert re.search(rf"^resume.py: .*{message}", capsys.readouterr().err, re.M)
    assert module.main([*options, "--fresh"]) == whole
    mg.save({"weight": mg.ones(1)}, tmp_path / "other.npz")
    for path, message in (("other.npz", "not a checkpoint of this script"), (".", "directory")):
        with pytest.raises(SystemExit):
            module.main(["--checkpoint", str(tmp_path / path)])
        assert re.search(rf"^resume.py: .*{message}.*--fresh", capsys.readouterr().err, re.M)


def test_the_example_may_be_killed_at_any_moment(example, tmp_path):
    """By SIGKILL, while it trains or saves."""
    module, options = example
    path = tmp_path / "checkpoint"
    environment = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(EXAMPLES / "resume.py"), *options, "--every", "1"]
    kills = 0
    for delay in (0.0, 0.1):
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": environment},
        )
        try:
            before, deadline = written(path), time.monotonic() + 60
            while written(path) == before and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(delay)
        finally:
            process.kill()
        kills += process.wait() != 0
        if not path.exists():  # the run has ended
            break
    assert kills
    assert module.main(options) == module.main([*options, "--fresh"])


def written(path):
    return path.stat().st_mtime_ns if path.exists() else None
