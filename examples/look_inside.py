"""Look inside two nets while they train: with BatchNorm, and without.

The nets are those of experiment 1 of the laboratory: three hidden layers of 100 sigmoid units,
small Gaussian weights, plain SGD at batch 60 on digits, both at a rate of 1. `mg.viz.histograms`
records 100 steps of each. The picture has a row for each linear layer: the distributions of its
output, of the gradient with respect to that and of the gradient with respect to the weights, in the
first step and in the last; and how far each step moves the weights, relative to their size.

Without BatchNorm the gradients of the first layer are hundreds of times smaller than those of the
last, its weights hardly move, and the inputs of the last hidden units drift to -2, where a sigmoid
is nearly flat. With BatchNorm the gradients of all layers are of similar size, and all weights move
at a similar pace. This is what to look for in a net of your own that does not train.
"""

from __future__ import annotations

import numpy as np
from lesson import progress, read_options, save, say_missing
from matplotlib.figure import Figure

import minigrad as mg
from minigrad import nn, optim

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    say_missing(error)

BATCH, RATE = 60, 1.0


def make(normed: bool) -> nn.Sequential:
    """The net, with weights that are drawn from N(0, 0.1²)."""
    layers: list[nn.Module] = []
    for n_in in (64, 100, 100):
        layers += [nn.Linear(n_in, 100), *([nn.BatchNorm1d(100)] if normed else []), nn.Sigmoid()]
    net = nn.Sequential(*layers, nn.Linear(100, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.1)
            nn.init.zeros_(layer.bias)
    return net


def record(normed: bool, steps: int) -> mg.viz.histograms:
    """Train a net, and record each step."""
    digits = load_digits()
    x, y = mg.tensor(digits.data.astype(np.float32) / 16), mg.tensor(digits.target)
    mg.manual_seed(0)
    net, random = make(normed), np.random.default_rng(0)
    criterion, optimizer = nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=RATE)
    with mg.viz.histograms(net) as seen:
        for _ in progress(steps, "BatchNorm" if normed else "no norm"):
            batch = random.integers(len(x), size=BATCH)
            optimizer.zero_grad()
            criterion(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return seen


def linear_layers(seen: mg.viz.histograms) -> list[str]:
    """The paths of the linear layers."""
    return [path for path, layer in seen.model.named_children() if isinstance(layer, nn.Linear)]


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    options = read_options(__file__, __doc__, arguments)
    figure, found = Figure(figsize=(13, 9.6), layout="constrained"), {}
    for normed, part in zip((True, False), figure.subfigures(2, 1, hspace=0.03), strict=True):
        name = "with BatchNorm" if normed else "without BatchNorm"
        seen = record(normed, 20 if options.fast else 100)
        layers, last = linear_layers(seen), seen.steps[-1]
        seen.plot(layers, part)
        part.suptitle(f"{name}: {part.get_suptitle()}", weight="bold")
        print(f"{name}\n{seen}\n")
        found[name] = [last.output_gradients[path].rms for path in layers]
    for name, sizes in found.items():
        text = ", ".join(f"{size:.1e}" for size in sizes)
        print(f"size of the gradients by layer, {name}: {text}")
    save(figure, __file__)
    return found


if __name__ == "__main__":
    main()
