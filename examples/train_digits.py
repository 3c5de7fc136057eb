"""Classify real handwritten digits with a network with BatchNorm, and with the same one without.

The data are the 1,797 scans of 8x8 pixels that ship with scikit-learn (Alpaydin & Kaynak 1998);
nothing is downloaded. Each network is trained from three seeds, because one seed proves little. The
results are test accuracy, training time, steps per second, and three pictures in build/pictures/.

To read this as a lesson: `make_network` is the model, `train` is how it learns.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
from lesson import OneLineParser, parse, picture_path, report, say_missing

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataLoader, TensorDataset

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from tqdm import tqdm
except ImportError as error:
    say_missing(error)

SPLIT_SEED = 0  # the same split for every --seed, so that accuracies can be compared
SEEDS = 3
BATCH = 32
LEARNING_RATE, DECAY = 5e-3, 0.9  # the rate shrinks by this factor each epoch
NAMES = {True: "with BatchNorm", False: "without BatchNorm"}


@dataclass
class Data:
    """The digits, float32 of shape (N, 64) in [0, 1], and their classes, int64 of shape (N,)."""

    train_x: mg.Tensor
    train_y: mg.Tensor
    test_x: mg.Tensor
    test_y: mg.Tensor


@dataclass
class Run:
    """The results of one training run."""

    model: nn.Module
    loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0


def load() -> Data:
    """A stratified split: three quarters for training, one quarter for testing."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    parts = train_test_split(x, y, test_size=0.25, stratify=y, random_state=SPLIT_SEED)
    train_x, test_x, train_y, test_y = map(mg.tensor, parts)
    return Data(train_x, train_y, test_x, test_y)


def make_network(batchnorm: bool) -> nn.Sequential:
    """64-128-128-10 with ReLU, with or without BatchNorm before each ReLU."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((64, 128), (128, 128)):
        layers.append(nn.Linear(n_in, n_out))
        if batchnorm:
            layers.append(nn.BatchNorm1d(n_out))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(128, 10))


def probabilities(model: nn.Module, x: mg.Tensor) -> np.ndarray:
    """The predicted probability of each digit for each row of x, an array of shape (N, 10)."""
    model.eval()  # BatchNorm now uses its running statistics: each digit is read independently
    with mg.no_grad():
        found = mg.softmax(model(x), axis=1).numpy()
    model.train()
    return found


def accuracy(model: nn.Module, x: mg.Tensor, y: mg.Tensor) -> float:
    return float((probabilities(model, x).argmax(axis=1) == y.numpy()).mean())


def train(data: Data, batchnorm: bool, epochs: int, seed: int) -> Run:
    """Train one network with Adam; the progress bar shows the loss and test accuracy."""
    mg.manual_seed(seed)
    run = Run(make_network(batchnorm))
    loader = DataLoader(
        TensorDataset(data.train_x, data.train_y),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,  # a last batch of three digits would make poor batch statistics
        seed=seed,
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(run.model.parameters(), lr=LEARNING_RATE)
    with tqdm(range(epochs), desc=f"{NAMES[batchnorm]:<17} seed {seed}", unit="epoch") as bar:
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
            figures = {"loss": f"{run.loss[-1]:.4f}", "test": f"{run.test_accuracy[-1]:.2%}"}
            bar.set_postfix(figures, refresh=False)  # drawn when the bar counts the epoch
    return run


# ----------------------------------------------------------------------------------------- pictures
def learning_curves(results: dict[str, list[Run]]) -> Figure:
    """Training loss and test accuracy by epoch: mean and range over the seeds."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, runs in results.items():
        epochs = np.arange(1, len(runs[0].loss) + 1)
        curves = [run.loss for run in runs], [run.test_accuracy for run in runs]
        for axis, values in zip(axes, curves, strict=True):
            (line,) = axis.plot(epochs, np.mean(values, axis=0), marker=".", label=name)
            low, high = np.min(values, axis=0), np.max(values, axis=0)
            axis.fill_between(epochs, low, high, alpha=0.2, color=line.get_color(), lw=0)
    worst = min(run.test_accuracy[-1] for runs in results.values() for run in runs)
    axes[0].set(title="Loss", ylabel="training cross-entropy", yscale="log")
    axes[1].set(title="Accuracy on unseen digits", ylabel="test accuracy")
    axes[1].set_ylim(min(0.9, worst - 0.05), 1)  # may cut off the first epochs: the end matters
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axis in axes:
        axis.set_xlabel(f"epoch (line: mean of {SEEDS} seeds, band: their range)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def confusion_matrix(truth: np.ndarray, read: np.ndarray, name: str) -> Figure:
    """How often each digit was read as each other; the diagonal is right, errors are coloured."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (truth, read), 1)
    errors = np.where(np.eye(10, dtype=bool), 0, counts)
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axis = figure.subplots()
    axis.imshow(errors, cmap="Reds", vmin=0, vmax=max(3, errors.max()))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "tab:green" if row == column else "black"
            axis.text(column, row, count, ha="center", va="center", color=color)
    axis.set(xlabel="read as", ylabel="written", xticks=range(10), yticks=range(10))
    axis.set_title(f"{(truth == read).sum()} of {len(truth)} test digits read right\n({name})")
    return figure


def misread_digits(
    x: np.ndarray, truth: np.ndarray, likely: np.ndarray, name: str, most: int = 40
) -> Figure:
    """The misread test digits (the first `most`), and what they were read as."""
    read = likely.argmax(axis=1)
    wrong = np.flatnonzero(read != truth)
    rows, columns = max(1, -(-min(len(wrong), most) // 8)), min(8, max(4, len(wrong)))
    figure = Figure(figsize=(1.6 * columns, 2.1 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, k in zip(axes.flat, wrong, strict=False):
        axis.imshow(x[k].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        title = f"{truth[k]}, read as {read[k]}\n{likely[k, read[k]]:.0%} sure"
        axis.set_title(title, fontsize=10)
    figure.suptitle(f"{len(wrong)} of {len(truth)} test digits read wrongly ({name})")
    return figure


def draw(results: dict[str, list[Run]], data: Data, seed: int) -> None:
    """Draw the three pictures; the last two show the BatchNorm net of the first seed."""
    name = f"{NAMES[True]}, seed {seed}"
    likely = probabilities(results[NAMES[True]][0].model, data.test_x)
    truth = data.test_y.numpy()
    figures = {
        "learning_curves": learning_curves(results),
        "confusion_matrix": confusion_matrix(truth, likely.argmax(axis=1), name),
        "misread_digits": misread_digits(data.test_x.numpy(), truth, likely, name),
    }
    for title, figure in figures.items():
        path = picture_path(title)
        figure.savefig(path, dpi=120)
        report(path)


# ------------------------------------------------------------------------------------- command line
def whole_number(minimum: int):
    """An argparse type: an int of at least `minimum`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {minimum}, got {text!r}"
            )
        return number

    return parse


def print_table(results: dict[str, list[Run]]) -> None:
    """Print the table of both networks."""
    print(f"\n{'network':<19}{'test accuracy':>13}{'(each seed)':>24}{'seconds':>9}{'steps/s':>9}")
    for name, runs in results.items():
        finals = [run.test_accuracy[-1] for run in runs]
        seconds, steps = sum(run.seconds for run in runs), sum(run.steps for run in runs)
        each = " ".join(f"{value:.2%}" for value in finals)
        print(f"{name:<19}{np.mean(finals):>13.2%}{each:>24}{seconds:>9.2f}{steps / seconds:>9.0f}")
    print(f"(seconds and steps: training alone, {SEEDS} seeds together, {BATCH} digits a step)")


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
    options = parse(parser, arguments)

    start = time.perf_counter()
    data = load()
    print(f"{len(data.train_y)} digits to train on, {len(data.test_y)} to test on, 8x8 pixels each")
    seeds = range(options.seed, options.seed + SEEDS)
    results = {
        name: [train(data, batchnorm, options.epochs, seed) for seed in seeds]
        for batchnorm, name in NAMES.items()
    }
    print_table(results)
    if not options.no_plots:
        draw(results, data, options.seed)
    print(f"all in {time.perf_counter() - start:.1f} s")
    return results


if __name__ == "__main__":
    main()
