"""Read real handwritten digits with a BatchNorm network, beside the same network without BatchNorm.

The data are the 1,797 scans of 8x8 pixels that scikit-learn ships (Alpaydin & Kaynak 1998); nothing
is downloaded. Each network is trained from three seeds. At the end: test accuracy, time and steps per
second of both, and three pictures in examples/output/.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataLoader, TensorDataset

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from tqdm import tqdm
except ImportError as error:
    sys.exit(
        f"train_digits: {error.name} is missing; `pip install 'minigrad-cython[examples]'` or `make demo`"
    )

OUTPUT = Path(__file__).parent / "output"
SPLIT_SEED = 0  # the split stays the same whatever --seed says, so that accuracies can be compared
SEEDS = 3
BATCH = 32
LEARNING_RATE, DECAY = 5e-3, 0.9  # the rate shrinks by this factor each epoch


@dataclass
class Data:
    """The digits as float32 tensors of shape (N, 64) in [0, 1], and their classes, int64 of shape (N,)."""

    train_x: mg.Tensor
    train_y: mg.Tensor
    test_x: mg.Tensor
    test_y: mg.Tensor


@dataclass
class Run:
    """What one training left behind."""

    model: nn.Module
    loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0


def load() -> Data:
    """A stratified split: three quarters to train on, one quarter to test on."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    parts = train_test_split(x, y, test_size=0.25, stratify=y, random_state=SPLIT_SEED)
    train_x, test_x, train_y, test_y = map(mg.tensor, parts)
    return Data(train_x, train_y, test_x, test_y)


def make_network(batchnorm: bool) -> nn.Sequential:
    """64-128-128-10 with ReLU, and BatchNorm before each ReLU or not."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((64, 128), (128, 128)):
        layers.append(nn.Linear(n_in, n_out))
        if batchnorm:
            layers.append(nn.BatchNorm1d(n_out))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(128, 10))


def predict(model: nn.Module, x: mg.Tensor) -> np.ndarray:
    """The class that the network reads in each row of x."""
    model.eval()
    with mg.no_grad():
        classes = model(x).argmax(axis=1).numpy()
    model.train()
    return classes


def accuracy(model: nn.Module, x: mg.Tensor, y: mg.Tensor) -> float:
    return float((predict(model, x) == y.numpy()).mean())


def train(data: Data, batchnorm: bool, epochs: int, seed: int) -> Run:
    """Train one network with Adam; the bar shows loss and test accuracy as they go."""
    mg.manual_seed(seed)
    run = Run(make_network(batchnorm))
    loader = DataLoader(
        TensorDataset(data.train_x, data.train_y),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        seed=seed,
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(run.model.parameters(), lr=LEARNING_RATE)
    name = "with BatchNorm" if batchnorm else "without"
    with tqdm(range(epochs), desc=f"{name:<14} seed {seed}", unit="epoch") as bar:
        for _ in bar:
            start, losses = time.perf_counter(), []
            for x, y in loader:
                optimizer.zero_grad()
                loss = criterion(run.model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            optimizer.param_groups[0]["lr"] *= DECAY
            run.seconds += time.perf_counter() - start
            run.steps += len(losses)
            run.loss.append(float(np.mean(losses)))
            run.train_accuracy.append(accuracy(run.model, data.train_x, data.train_y))
            run.test_accuracy.append(accuracy(run.model, data.test_x, data.test_y))
            bar.set_postfix(loss=f"{run.loss[-1]:.4f}", test=f"{run.test_accuracy[-1]:.2%}")
    return run


# ------------------------------------------------------------------------------------------- pictures
def plot_learning_curves(plt, results: dict[str, list[Run]], path: Path) -> None:
    """Training loss and test accuracy by epoch: the mean over the seeds, and the range around it."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, runs in results.items():
        epochs = np.arange(1, len(runs[0].loss) + 1)
        for axis, values in zip(
            axes, ([run.loss for run in runs], [run.test_accuracy for run in runs]), strict=True
        ):
            (line,) = axis.plot(epochs, np.mean(values, axis=0), label=name)
            axis.fill_between(
                epochs,
                np.min(values, axis=0),
                np.max(values, axis=0),
                alpha=0.2,
                color=line.get_color(),
                lw=0,
            )
    axes[0].set(xlabel="epoch", ylabel="training cross-entropy", yscale="log", title="Loss")
    axes[1].set(
        xlabel="epoch", ylabel="test accuracy", ylim=(0.9, 1.0), title="Accuracy on unseen digits"
    )
    axes[1].yaxis.set_major_formatter(plt.matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_confusion(plt, truth: np.ndarray, read: np.ndarray, path: Path) -> None:
    """How often each digit was read as which; the diagonal is right."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (truth, read), 1)
    figure, axis = plt.subplots(figsize=(5.2, 4.8), layout="constrained")
    shown = np.where(np.eye(10, dtype=bool), 0, counts)
    axis.imshow(shown, cmap="Reds", vmin=0, vmax=max(3, shown.max()))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "tab:green" if row == column else "black"
            axis.text(column, row, count, ha="center", va="center", color=color)
    axis.set(xlabel="read as", ylabel="written", xticks=range(10), yticks=range(10))
    axis.set_title(
        f"{int((truth == read).sum())} of {len(truth)} test digits read right (BatchNorm)"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_misread(plt, data: Data, read: np.ndarray, path: Path) -> None:
    """Every test digit that was read wrongly, with what it is and what was read."""
    truth = data.test_y.numpy()
    wrong = np.flatnonzero(read != truth)
    columns = min(8, max(1, len(wrong)))
    rows = max(1, -(-len(wrong) // columns))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.5 * columns + 0.5, 1.8 * rows + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, wrong, strict=False):
        axis.imshow(data.test_x.numpy()[index].reshape(8, 8), cmap="gray_r")
        axis.set_title(f"{truth[index]} read as {read[index]}", fontsize=10)
    figure.suptitle(f"{len(wrong)} of {len(truth)} test digits read wrongly (BatchNorm)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw(results: dict[str, list[Run]], data: Data) -> list[Path]:
    """Draw the three pictures; the last two show the first seed's BatchNorm net."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    OUTPUT.mkdir(exist_ok=True)
    paths = [
        OUTPUT / f"{name}.png" for name in ("learning_curves", "confusion_matrix", "misread_digits")
    ]
    read = predict(results["with BatchNorm"][0].model, data.test_x)
    plot_learning_curves(plt, results, paths[0])
    plot_confusion(plt, data.test_y.numpy(), read, paths[1])
    plot_misread(plt, data, read, paths[2])
    return paths


# ---------------------------------------------------------------------------------------- command line
def whole_number(minimum: int):
    """An argparse type: an int of at least `minimum`."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < minimum:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {minimum}, got {text!r}"
            )
        return int(text)

    return parse


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text before it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(arguments: list[str] | None = None) -> dict[str, list[Run]]:
    parser = OneLineParser(
        prog="train_digits.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--epochs",
        type=whole_number(1),
        default=30,
        help="passes over the training digits (default 30)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="the first of the three seeds (default 0)"
    )
    parser.add_argument("--no-plots", action="store_true", help="draw no pictures")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    data = load()
    print(
        f"{data.train_x.shape[0]} digits to train on, {data.test_x.shape[0]} to test on, 8x8 pixels each"
    )
    results = {
        name: [
            train(data, name == "with BatchNorm", options.epochs, options.seed + k)
            for k in range(SEEDS)
        ]
        for name in ("with BatchNorm", "without")
    }
    print(f"\n{'network':<16}{'test accuracy':>15}{'(each seed)':>26}{'seconds':>9}{'steps/s':>9}")
    for name, runs in results.items():
        finals = [run.test_accuracy[-1] for run in runs]
        seconds, steps = sum(run.seconds for run in runs), sum(run.steps for run in runs)
        each = " ".join(f"{value:.2%}" for value in finals)
        print(f"{name:<16}{np.mean(finals):>15.2%}{each:>26}{seconds:>9.2f}{steps / seconds:>9.0f}")
    if not options.no_plots:
        for path in draw(results, data):
            print(
                f"picture: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
            )
    print(f"all in {time.perf_counter() - start:.1f} s")
    return results


if __name__ == "__main__":
    main()
