"""Lesson 6: a convolutional network reads handwritten digits.

A network of linear layers, as in train_digits.py, sees 64 numbers; it must find out that they
are the pixels of an image, and which pixels are neighbours. A *convolution* has this built in.
It moves a small window over the image and computes the same weighted sum at each position,

    y[c, i, j] = b[c] + Σ over channels k and offsets u, v of  w[c, k, u, v] · x[k, i + u, j + v],

so the same nine weights recognise a stroke at any position (Fukushima 1980; LeCun et al. 1989),
and few weights are enough. Max-pooling keeps the largest of each 2×2 pixels: whether the stroke
is there matters more than its exact position. Three convolutions and two poolings turn the
image into 64 channels of 2×2 pixels, from which a linear layer reads the digit. BatchNorm
(lesson 5) after each convolution takes the mean and variance of a channel over the batch and
all positions: positions share scale and shift as they share the weights (Ioffe & Szegedy 2015,
section 3.2).

In minigrad a convolution is a composition: a view, `sliding_windows`, shows the window at each
position, and a matrix product applies the weights to all of them; their gradients give the
convolution's.

Two habits pay off on this small dataset. The training images are shifted by up to one pixel in
each direction, differently in every epoch, because a shifted digit is the same digit. And the
learning rate falls to zero along half a cosine (Loshchilov & Hutter 2017), which lets the last
epochs settle. The test digits were never trained on. One seed proves little: three networks are
trained, and their mean is what counts. The picture shows the learning curves, with the accuracy
of the linear layers of train_digits.py on the same test digits as a dashed line, the filters of
the first layer, and the misread digits.

Exercise: a convolution in one line. `make exercise N=6` judges your answer.
"""

from __future__ import annotations

import numpy as np
from lesson import GREY, progress, read_options, save, say_missing
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

import minigrad as mg
from minigrad import nn, optim

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError as error:
    say_missing(error)

BATCH, RATE = 64, 4e-3
LINEAR = 0.9881  # what train_digits.py with BatchNorm reaches, mean of its three seeds


def load() -> list[np.ndarray]:
    """Training images (N, 1, 8, 8) in [0, 1], test images, their classes: split 3 to 1."""
    digits = load_digits()
    images, classes = digits.images[:, None].astype(np.float32) / 16, digits.target
    return train_test_split(images, classes, test_size=0.25, stratify=classes, random_state=0)


def make_network() -> nn.Sequential:
    def stage(n_in: int, n_out: int) -> list[nn.Module]:
        return [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]

    return nn.Sequential(
        *stage(1, 16), *stage(16, 32), nn.MaxPool2d(2), *stage(32, 64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 2 * 2, 10),
    )  # fmt: skip


def moved(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shift each image by -1, 0 or 1 pixels in both directions."""
    padded = np.pad(images[:, 0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(1, 2))
    down, right = random.integers(0, 3, (2, len(images)))
    return windows[np.arange(len(images)), down, right][:, None]


def mosaic(images: np.ndarray, columns: int) -> np.ndarray:
    """Square images (N, size, size) side by side in rows, with gaps of one pixel between them."""
    size = images.shape[1]
    whole = np.full((-(-max(len(images), 1) // columns) * (size + 1), columns * (size + 1)), np.nan)
    for k, image in enumerate(images):
        row, column = k // columns * (size + 1), k % columns * (size + 1)
        whole[row : row + size, column : column + size] = image
    return whole[:-1, :-1]


@mg.no_grad()
def read(network: nn.Module, images: np.ndarray) -> np.ndarray:
    network.eval()  # BatchNorm uses its running statistics: each digit is read independently
    classes = network(mg.asarray(images)).numpy().argmax(axis=1)
    network.train()
    return classes


def train(data: list[np.ndarray], epochs: int, seed: int) -> tuple[nn.Module, list[float]]:
    """Train a network; return it and its test accuracy after each epoch."""
    images, test_images, classes, test_classes = data
    mg.manual_seed(seed)
    random, network, found = np.random.default_rng(seed), make_network(), []
    optimizer = optim.Adam(network.parameters(), lr=RATE)
    for epoch in (bar := progress(epochs, f"seed {seed}", "epoch")):
        order, epoch_images = random.permutation(len(images)), moved(images, random)
        for k, start in enumerate(range(0, len(order) - BATCH + 1, BATCH)):
            done = (epoch + k * BATCH / len(order)) / epochs
            optimizer.param_groups[0]["lr"] = RATE * (1 + np.cos(np.pi * done)) / 2
            chosen = order[start : start + BATCH]
            logits = network(mg.asarray(epoch_images[chosen]))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, mg.asarray(classes[chosen])).backward()
            optimizer.step()
        found.append(float((read(network, test_images) == test_classes).mean()))
        bar.set_postfix(test=f"{found[-1]:.2%}", refresh=False)
    return network, found


def main(arguments: list[str] | None = None) -> dict[str, object]:
    options = read_options(__file__, __doc__, arguments)
    data, seeds = load(), (0,) if options.fast else (0, 1, 2)
    runs = [train(data, 2 if options.fast else 30, seed) for seed in seeds]
    finals = [accuracies[-1] for _, accuracies in runs]
    print(f"{sum(p.size for p in runs[0][0].parameters()):,} parameters")
    each = ", ".join(f"{value:.2%}" for value in finals)
    print(f"test accuracy {np.mean(finals):.2%} (mean of the seeds: {each})")

    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    tiles = figure.subplot_mosaic(
        [["curves", "filters"], ["curves", "wrong"]], height_ratios=[3, 2]
    )
    axis = tiles["curves"]
    for seed, (_, accuracies) in zip(seeds, runs, strict=True):
        axis.plot(np.arange(1, len(accuracies) + 1), accuracies, ".-", lw=1, label=f"seed {seed}")
    axis.axhline(LINEAR, color=GREY, ls="--", lw=1, label=f"linear layers: {LINEAR:.1%}")
    axis.set(xlabel="epoch", ylabel="accuracy on 450 test digits")
    axis.set_title(f"{np.mean(finals):.2%} after the last epoch, mean of the seeds")
    axis.set_ylim(min(0.9, min(finals) - 0.02), 1.002)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(alpha=0.3)
    axis.legend()
    filters = runs[0][0][0].weight.numpy()[:, 0]
    strongest = np.abs(filters).max()
    shades = tiles["filters"].imshow(mosaic(filters, 8), "PuOr", vmin=-strongest, vmax=strongest)
    tiles["filters"].set_title("The 16 filters of the first layer")
    figure.colorbar(shades, ax=tiles["filters"], label="weight", shrink=0.7)
    answers = read(runs[0][0], data[1])
    wrong = np.flatnonzero(answers != data[3])
    shown = wrong[:6]
    tiles["wrong"].imshow(mosaic(data[1][shown, 0], 6), "gray_r", vmin=0, vmax=1)
    for k, i in enumerate(shown):
        tiles["wrong"].text(
            9 * k + 3.5, 9.6, f"{data[3][i]}, read as {answers[i]}", ha="center", fontsize=8
        )
    tiles["wrong"].set_title(f"{len(wrong)} of {len(answers)} read wrongly by seed 0")
    tiles["wrong"].set_ylim(10.5, -0.5)
    for name in ("filters", "wrong"):
        tiles[name].axis("off")
    save(figure, __file__)
    return {"accuracy": finals, "network": runs[0][0]}


if __name__ == "__main__":
    main()
