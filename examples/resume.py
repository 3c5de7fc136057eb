"""Train a net on handwritten digits, be stopped at any step, and continue as if nothing happened.

    python examples/resume.py --stop-at 300     stops in the middle of an epoch
    python examples/resume.py                   continues, and prints the fingerprint of the net
    python examples/resume.py                   a run that is never stopped: the same fingerprint

A run is more than its weights. What the remaining steps depend on, and a checkpoint must hold:

- the net: parameters, and BatchNorm's running statistics;
- the optimiser: AdamW's moments and the number of its steps;
- the scheduler: where OneCycleLR is, and the rate and beta1 that it has set;
- the loader: which samples of this epoch are still to come, in which order;
- the random number generator, which draws the dropout masks and the next epochs' orders.

`checkpoint` and `restore` below are all of it. `mg.save` replaces the file only when the new one
is complete, so the process may be killed at any moment, even while it saves: the next run continues
from the last checkpoint. Equal means bit for bit; the fingerprint is a hash of the net's state.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
from lesson import OneLineParser, say_missing

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataLoader, TensorDataset, random_split

try:
    from sklearn.datasets import load_digits
    from tqdm import tqdm
except ImportError as error:
    say_missing(error)

CHECKPOINT = Path(__file__).parents[1] / "build" / "resume.npz"
BATCH, RATE = 32, 0.01


class Run:
    """A training run: all that changes while it runs."""

    def __init__(self, epochs: int, seed: int) -> None:
        self.settings = {"epochs": epochs, "seed": seed}
        digits = load_digits()
        x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
        self.train_data, self.test_data = random_split(TensorDataset(x, y), [0.75, 0.25], seed=0)
        mg.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)
        )
        self.loader = DataLoader(self.train_data, BATCH, shuffle=True, last="merge")
        self.optimizer = optim.AdamW(self.net.parameters(), lr=RATE)
        self.total = epochs * len(self.loader)
        self.scheduler = optim.lr_scheduler.OneCycleLR(self.optimizer, RATE, self.total)
        self.step = 0

    def checkpoint(self, path: Path) -> None:
        state = {
            "settings": self.settings,
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "loader": self.loader.state_dict(),
            "rng": mg.get_rng_state(),
        }
        mg.save(state, path)

    def restore(self, path: Path) -> None:
        state = mg.load(path)
        if "settings" not in state:
            raise ValueError(f"{path} is not a checkpoint of this script")
        if state["settings"] != self.settings:
            raise ValueError(f"{path} is of a run with {state['settings']}, not {self.settings}")
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.loader.load_state_dict(state["loader"])
        mg.set_rng_state(state["rng"])

    def train(self, path: Path, every: int, stop_at: int | None) -> bool:
        """Train to the end, or to step `stop_at`; returns whether it is the end."""
        criterion = nn.CrossEntropyLoss()
        with tqdm(total=self.total, initial=self.step, unit="step") as bar:
            # after `restore` the first of these epochs is the rest of the interrupted one
            for epoch in range(self.loader.epoch, self.settings["epochs"]):
                bar.set_description(f"epoch {epoch + 1}")
                for x, y in self.loader:
                    self.optimizer.zero_grad()
                    loss = criterion(self.net(x), y)
                    loss.backward()
                    self.optimizer.step()
                    self.scheduler.step()
                    self.step += 1
                    if self.step % every == 0 or self.step == stop_at:
                        self.checkpoint(path)
                    bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                    bar.update()
                    if self.step == stop_at:
                        return False
        return True

    def test_accuracy(self) -> float:
        x, y = self.test_data[:]
        self.net.eval()
        with mg.no_grad():
            found = self.net(x).argmax(axis=1)
        self.net.train()
        return float((found == y).numpy().mean())

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in self.net.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


def main(arguments: list[str] | None = None) -> str | None:
    """Returns the fingerprint, or None if the run was stopped."""
    parser = OneLineParser(
        prog="resume.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default, text in (
        ("--epochs", 20, "passes over the training digits (default 20)"),
        ("--seed", 0, "of the whole run (default 0)"),
        ("--every", 50, "steps between two checkpoints (default 50)"),
        ("--stop-at", None, "the step to stop after (default: not at all)"),
    ):
        parser.add_argument(name, type=int, default=default, help=text)
    parser.add_argument(
        "--checkpoint", type=Path, default=CHECKPOINT, help="the file (default build/resume.npz)"
    )
    parser.add_argument("--fresh", action="store_true", help="ignore a checkpoint that exists")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.every < 1 or options.seed < 0:
        parser.error("--epochs and --every must be at least 1, --seed at least 0")

    path = options.checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    run = Run(options.epochs, options.seed)
    if path.exists() and not options.fresh:
        try:
            run.restore(path)
        except (OSError, ValueError) as error:
            parser.error(f"{error}; pass the same options, or --fresh")
    if options.stop_at is not None and not run.step < options.stop_at:
        parser.error(f"--stop-at {options.stop_at}: the run is at step {run.step} already")
    if run.step:
        print(f"continuing after step {run.step} of {run.total}")
    if not run.train(path, options.every, options.stop_at):
        print(f"stopped after step {run.step} of {run.total}; run it again to continue")
        return None
    path.unlink(missing_ok=True)
    print(f"test accuracy {run.test_accuracy():.2%}, fingerprint {run.fingerprint()}")
    return run.fingerprint()


if __name__ == "__main__":
    main()
