"""Claim 13: BatchNorm works in recurrent nets, with care."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .e07_batch_size import best_of
from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, MEASURE, NONE

CLAIM = Claim(
    number=13,
    text="It works in recurrent nets, with care",
    source="Cooijmans et al. (2016): statistics of their own for each time step, and scales that "
    "start at γ = 0.1, because with unit variance tanh saturates and gradients vanish.",
    setup="Images read in pieces (8×8 pixels: 2 at a time, so 32 steps; larger images: row by "
    "row) by an LSTM of 24 units, whose last output is classified. 300 steps of Adam at batch 60, "
    "each arm at the better of two rates on validation images. Right: the norm of the gradient "
    "with respect to the hidden state at each time, before training, over that at the last.",
    rule="Holds if BatchNorm with γ = 0.1 at the start is clearly above the plain LSTM, and "
    "clearly above γ = 1; in part if above one of them.",
    shows="Whether BatchNorm at every time step helps an LSTM, and what γ at the start does to "
    "the gradients that flow back through time.",
    limits="Sequences of 32 steps and a short training: after 200 steps instead of 300 the arms "
    "did not differ clearly (74.8, 71.8 and 72.3 %). With γ = 1 gradients do not vanish here, "
    "they grow towards the start. A step in time with BatchNorm is many operations here, the "
    "plain LSTM one: equal steps are not equal time.",
)
ONE = "γ starts at 1"
HIDDEN = 24


class Reader(nn.Module):
    """An LSTM over the pieces of an image, and a linear layer on its last output."""

    def __init__(self, features: int, piece: int, gamma: float | None) -> None:
        super().__init__()
        self.shape = (-1, features // piece, piece)
        if gamma is None:
            self.lstm: nn.Module = nn.LSTM(piece, HIDDEN, batch_first=True)
        else:
            self.lstm = nn.BatchNormLSTM(piece, HIDDEN, features // piece, batch_first=True)
            for name, parameter in self.lstm.named_parameters():
                if "norm" in name and name.endswith("weight"):
                    nn.init.constant_(parameter, gamma)
        self.output = nn.Linear(HIDDEN, 10)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return self.output(self.lstm(x.reshape(self.shape))[0][:, -1])


def state_gradients(lab: Lab, seed: int, piece: int, gamma: float) -> np.ndarray:
    """‖∂L/∂h_t‖ for each t, over that at the last."""
    mg.manual_seed(seed)
    net = Reader(lab.data.features, piece, gamma)
    cell, state, states = net.lstm.cells[0], None, []
    x = lab.data.train_x[60 * seed :][:60].reshape(net.shape)
    for time in range(x.shape[1]):
        state = cell(x[:, time], state, time)
        states.append(state[0])
    loss = MEASURE(net.output(state[0]), lab.data.train_y[60 * seed :][:60])
    sizes = np.array([np.linalg.norm(g.numpy()) for g in mg.autograd.grad(loss, states)])
    return sizes / sizes[-1]


def run(lab: Lab) -> list[Panel]:
    features = lab.data.features
    piece = 2 if lab.data.side <= 8 else lab.data.side
    steps, rates = lab.pick(300, 10), lab.pick([3e-3, 1e-2], [1e-2])
    gammas = {BATCHNORM: 0.1, ONE: 1.0, NONE: None}
    trained = {
        arm: [
            best_of(lab, arm, lambda g=g: Reader(features, piece, g), optim.Adam, rates, steps, 60)
        ]
        for arm, g in gammas.items()
    }
    flow = {
        arm: np.array([state_gradients(lab, s, piece, gammas[arm]) for s in lab.seeds]).T
        for arm in (BATCHNORM, ONE)
    }
    times = list(range(1, features // piece + 1))
    return [
        Panel(f"after {steps} steps", "", "test accuracy, %", ["LSTM"], trained),
        Panel(
            "gradients through time, before training",
            "time step",
            "‖∂L/∂h‖ / that at the last step",
            times,
            {arm: np.maximum(sizes, 1e-30).tolist() for arm, sizes in flow.items()},
            scales=("linear", "log"),
        ),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    trained, flow = panels
    values = {arm: np.array(trained.arms[arm][0]) for arm in trained.arms}
    better, careful = (clearly_above(values[BATCHNORM], values[arm]) for arm in (NONE, ONE))
    text = (
        ", ".join(f"{arm}: {v.mean():.1f} %" for arm, v in values.items())
        + f". BatchNorm (γ = 0.1) is clearly above the plain LSTM: {'yes' if better else 'no'}; "
        f"clearly above γ = 1: {'yes' if careful else 'no'}. The gradient at the first step is "
        f"{flow.mean(BATCHNORM)[0]:.1e} of that at the last with γ = 0.1 and "
        f"{flow.mean(ONE)[0]:.1e} with γ = 1."
    )
    return (HOLDS if better and careful else PARTLY if better or careful else FAILS), text
