"""Train the same net from several seeds at several rates, in one step where its layers allow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .data import Data
from .lab import Lab

BATCHNORM, NONE = "BatchNorm", "no norm"  # the names of the two arms, everywhere
MEASURE = nn.CrossEntropyLoss()


def mlp(
    sizes: list[int], norm: Callable[[int], nn.Module] | None, activation: Any = nn.ReLU
) -> nn.Sequential:
    """Linear layers of these sizes; between them the norm, if any, and the activation."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), *([norm(n_out)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def accuracy(net: nn.Module, x: mg.Tensor, y: mg.Tensor) -> np.ndarray:
    """Of the net in evaluation mode, in percent; one number for each member of an Ensemble."""
    net.eval()
    with mg.no_grad():
        found = net(x).numpy().argmax(-1)
    net.train()
    return 100 * (found == y.numpy()).mean(-1)


@dataclass
class Trained:
    """Accuracies in percent, of shape (rates, seeds); curve of shape (times, rates, seeds)."""

    net: nn.Module
    rates: list[float]
    validation: np.ndarray
    test: np.ndarray
    times: list[int]
    curve: np.ndarray

    @property
    def best(self) -> int:
        """The position of the rate with the highest mean accuracy on the validation images."""
        return int(self.validation.mean(1).argmax())


def train(
    lab: Lab,
    text: str,
    make: Callable[[], nn.Module],
    rates: list[float],
    steps: int,
    batch: int = 60,
    times: list[int] | None = None,
    prepare: Callable[[nn.Ensemble], None] | None = None,
    weight_decay: float = 0.0,
    data: Data | None = None,
) -> Trained:
    """Plain SGD for every pair of rate and seed, as the members of one Ensemble.

    Members of one seed start alike and see the same batches. `prepare` may change the net first;
    `times` are the steps after which the test accuracy is measured.
    """
    data = data or lab.data
    seeds = [seed for _ in rates for seed in lab.seeds]
    net = nn.Ensemble(make, len(seeds), seeds=seeds)
    if prepare:
        prepare(net)
    each = np.repeat(np.array(rates, np.float32), len(lab.seeds))
    optimizer = optim.SGD(net.parameters(), lr=mg.tensor(each), weight_decay=weight_decay)
    count, shape, curve = len(data.train_x), (len(rates), len(lab.seeds)), []
    per_epoch = max(count // batch, 1)
    for step in lab.steps(steps, text):
        if step % per_epoch == 0:
            order = net.randperm(count)
        index = order[:, step % per_epoch * batch :][:, :batch]
        losses = net.loss(MEASURE, net(data.train_x[index]), data.train_y[index])
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        if times and step + 1 in times:
            curve.append(accuracy(net, data.test_x, data.test_y).reshape(shape))
    validation = accuracy(net, data.validation_x, data.validation_y).reshape(shape)
    test = accuracy(net, data.test_x, data.test_y).reshape(shape)
    return Trained(net, rates, validation, test, times or [], np.array(curve))


def fit(
    lab: Lab,
    text: str,
    net: nn.Module,
    optimizer: optim.Optimizer,
    steps: int,
    batch: int,
    seed: int,
    x: mg.Tensor | None = None,
    y: mg.Tensor | None = None,
    watch: Callable[[int], None] | None = None,
) -> list[float]:
    """Train one plain net on x, y (default: the training images); the loss of each step.

    `watch` is called with the number of steps taken, from 0 on.
    """
    x, y = lab.data.train_x if x is None else x, lab.data.train_y if y is None else y
    random, losses = np.random.default_rng(seed), []
    per_epoch = max(len(x) // batch, 1)
    for step in lab.steps(steps, text):
        if step % per_epoch == 0:
            order = mg.tensor(random.permutation(len(x)))
        index = order[step % per_epoch * batch :][:batch]
        if watch:
            watch(step)
        loss = MEASURE(net(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if watch:
        watch(steps)
    return losses
