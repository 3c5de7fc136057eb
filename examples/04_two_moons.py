"""Lesson 4: two moons, or what a hidden layer is for.

The points of the two classes lie on two interlocking half circles. The straight line of lesson
3 cannot separate them; a network can. Its *hidden layers* compute new coordinates,

    h₁ = tanh(W₁ x + b₁),    h₂ = tanh(W₂ h₁ + b₂),    p(x) = σ(w·h₂ + b),

and in the coordinates h₂ a straight line is enough: the last layer is just lesson 3. Nobody
specifies the new coordinates; they are learnt from the gradient that flows through the last
layer into them (Rumelhart, Hinton & Williams 1986). With enough hidden units every continuous
function can be approximated (Cybenko 1989; Hornik 1991). This says nothing about finding it,
but having many units does not make learning worse here.

Three things are new in the code. `nn.Module` holds parameters by name, so we need not keep a
list of them. `optim.Adam` keeps, for each parameter, running means of its gradient and of the
squared gradient, and divides the first by the root of the second (Kingma & Ba 2015): every
parameter moves by about the learning rate, however large or small its gradients are. And the
data come in *minibatches*: a step on 32 points costs a tenth of a step on all of them and goes
in nearly the same direction.

The left picture shows p(x) over the plane for the network, with the line p = 1/2 and, dashed,
the best that lesson 3's straight line can do. The right picture shows the points in the
coordinates that the network learnt: of the sixteen dimensions of h₂ the one along w, from which
p is computed, and the widest of the others. Now a straight line, w·h₂ + b = 0, separates them.
What counts is the accuracy on the points that were not trained on, drawn with dark edges; it is
printed.

Exercise: a step of Adam. `make exercise N=4` judges your answer.
"""

from __future__ import annotations

import numpy as np
from lesson import BLUE, BLUE_TO_ORANGE, GREY, ORANGE, panels, progress, read_options, save

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataLoader, TensorDataset


def make_moons(count: int, seed: int, noise: float = 0.15) -> tuple[mg.Tensor, mg.Tensor]:
    """x of shape (count, 2) on two half circles, and which one, float32 of shape (count,)."""
    random = np.random.default_rng(seed)
    kind, angle = np.arange(count) % 2, random.uniform(0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(kind[:, None], [1, 0.5] - upper, upper) + random.normal(0, noise, (count, 2))
    return mg.tensor(points.astype(np.float32)), mg.tensor(kind.astype(np.float32))


def train(model: nn.Module, x: mg.Tensor, y: mg.Tensor, epochs: int, name: str) -> nn.Module:
    """Fit σ(model(x)) to y with Adam, 32 points a step."""
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, seed=0)
    criterion, optimizer = nn.BCEWithLogitsLoss(), optim.Adam(model.parameters(), lr=0.01)
    for _ in progress(epochs, name, "epoch"):
        for batch_x, batch_y in loader:
            optimizer.zero_grad()
            criterion(model(batch_x)[:, 0], batch_y).backward()
            optimizer.step()
    return model


@mg.no_grad()
def accuracy(model: nn.Module, x: mg.Tensor, y: mg.Tensor) -> float:
    return float(((model(x)[:, 0] > 0) == (y > 0.5)).astype(mg.float32).mean())


def main(arguments: list[str] | None = None) -> dict[str, float]:
    options = read_options(__file__, __doc__, arguments)
    mg.manual_seed(0)
    x, y = make_moons(320, seed=0)
    test_x, test_y = make_moons(320, seed=1)
    network = nn.Sequential(
        nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)
    )
    epochs = 60 if options.fast else 300
    train(network, x, y, epochs, "network")
    line = train(nn.Linear(2, 1), x, y, epochs, "straight line")
    found = {"network": accuracy(network, test_x, test_y), "line": accuracy(line, test_x, test_y)}
    for name, value in found.items():
        print(f"{name:<8} {value:.1%} of 320 new points on the right side")

    figure, (left, right) = panels(2)
    across, up = np.meshgrid(np.linspace(-1.6, 2.6, 210), np.linspace(-1.85, 2.35, 210))
    plane = mg.tensor(np.stack([across, up], axis=-1).reshape(-1, 2).astype(np.float32))
    with mg.no_grad():
        logits = network(plane)[:, 0].numpy().reshape(across.shape)
        straight = line(plane)[:, 0].numpy().reshape(across.shape)
        hidden = network[:-1](mg.concat([x, test_x])).numpy()
    shades = left.imshow(
        1 / (1 + np.exp(-logits)), BLUE_TO_ORANGE, origin="lower", aspect="equal", vmin=0, vmax=1,
        extent=[-1.6, 2.6, -1.85, 2.35], alpha=0.6,
    )  # fmt: skip
    left.contour(across, up, logits, [0], colors="black")
    left.contour(across, up, straight, [0], colors=GREY, linestyles="--")
    figure.colorbar(shades, ax=left, label="p(x)", shrink=0.8)
    # h2 along w, the direction that the last layer reads, and along the widest of the others.
    w = network[-1].weight.numpy()[0]
    score = hidden @ w + network[-1].bias.item()
    rest = hidden - np.outer(hidden @ w, w) / (w @ w)
    widest = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)[2][0]
    places = np.concatenate([x.numpy(), test_x.numpy()]), np.column_stack([score, rest @ widest])
    kinds, new = np.concatenate([y.numpy(), test_y.numpy()]), np.arange(640) >= 320
    for axis, place in zip((left, right), places, strict=True):
        for kind, color in ((0, BLUE), (1, ORANGE)):
            axis.plot(*place[(kinds == kind) & ~new].T, ".", color=color, ms=5)
            axis.plot(*place[(kinds == kind) & new].T, ".", color=color, mec="black", mew=0.4, ms=7)
    left.grid(False)
    for color, name in ((BLUE, "upper moon"), (ORANGE, "lower moon")):
        left.plot([], [], ".", color=color, ms=9, label=name)
    left.plot([], [], ".", color="white", mec="black", ms=9, label="dark edge: not trained on")
    left.plot([], [], color="black", label="p = 1/2, network")
    left.plot([], [], "--", color=GREY, label="p = 1/2, straight line")
    legend = left.get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=5, fontsize=9)
    right.axvline(0, color="black")
    right.set_box_aspect(1)
    left.set(xlabel="$x_0$", ylabel="$x_1$", title=f"{found['network']:.1%} of new points right")
    right.set(xlabel="$w·h_2 + b$", ylabel="$h_2$, widest direction besides")
    right.set_title("The same points as the last layer sees them")
    save(figure, __file__)
    return found


if __name__ == "__main__":
    main()
