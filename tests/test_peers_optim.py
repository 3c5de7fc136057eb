"""Trajectories of 100 steps beside PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad.optim import SGD, Adam, AdamW

torch = pytest.importorskip("torch")

CASES = [
    *[
        (
            "SGD",
            {
                "lr": 0.05,
                "momentum": m,
                "dampening": d,
                "nesterov": n,
                "weight_decay": w,
                "maximize": x,
            },
        )
        for m, d, n in [(0, 0, False), (0.9, 0, False), (0.9, 0.5, False), (0.9, 0, True)]
        for w in (0, 0.1)
        for x in (False, True)
    ],
    *[
        (
            kind,
            {
                "lr": 0.01,
                "betas": (0.8, 0.95),
                "eps": 1e-6,
                "weight_decay": w,
                "amsgrad": a,
                "maximize": x,
            },
        )
        for kind in ("Adam", "AdamW")
        for w in (0, 0.1)
        for a in (False, True)
        for x in (False, True)
    ],
]
OURS = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}


def sign(options):
    """Maximising, the loss is turned round, so that the trajectory stays bounded."""
    return -1.0 if options["maximize"] else 1.0


def both(values, dtype):
    ours = [mg.tensor(v, dtype=dtype, requires_grad=True) for v in values]
    theirs = [torch.tensor(v, dtype=getattr(torch, dtype), requires_grad=True) for v in values]
    return ours, theirs


def run(optimizer, loss, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def compare(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=False):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind, options", CASES)
def test_quadratic(kind, options, dtype):
    rng = np.random.default_rng(0)
    scale = np.linspace(0.1, 2.0, 12).reshape(3, 4)
    (x,), (y,) = both([rng.normal(size=(3, 4))], dtype)
    a, b = mg.tensor(scale, dtype=dtype), torch.tensor(scale, dtype=y.dtype)
    run(OURS[kind]([x], **options), lambda: sign(options) * (a * (x - 1.0) ** 2).sum(), 100)
    run(
        getattr(torch.optim, kind)([y], **options),
        lambda: sign(options) * (b * (y - 1.0) ** 2).sum(),
        100,
    )
    compare([x], [y], 1e-5 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("kind, options", CASES)
def test_small_net_with_two_groups(kind, options):
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(16, 5)), rng.normal(size=(16, 2))
    ours, theirs = both([rng.normal(size=s) / 2 for s in [(5, 8), (8,), (8, 2), (2,)]], "float64")

    def loss(ops, p, x, y):
        hidden = ops.tanh(x @ p[0] + p[1])
        return sign(options) * ((hidden @ p[2] + p[3] - y) ** 2).mean()

    for module, kind_of, p in [(mg, OURS[kind], ours), (torch, getattr(torch.optim, kind), theirs)]:
        x, y = module.asarray(inputs), module.asarray(targets)
        groups = [{"params": p[:2]}, {"params": p[2:], "lr": options["lr"] / 3}]
        run(
            kind_of(groups, **options),
            lambda module=module, p=p, x=x, y=y: loss(module, p, x, y),
            100,
        )
    compare(ours, theirs)


@pytest.mark.parametrize("kind, options", [CASES[4], CASES[-2], CASES[17]])
def test_continues_from_pytorchs_state_dict(kind, options):
    rng = np.random.default_rng(2)
    y = torch.tensor(rng.normal(size=4), requires_grad=True)
    theirs = getattr(torch.optim, kind)([y], **options)
    run(theirs, lambda: sign(options) * (y**2).sum(), 10)
    x = mg.tensor(y.detach().numpy(), requires_grad=True)
    ours = OURS[kind]([x], lr=1.0)
    ours.load_state_dict(theirs.state_dict())
    run(theirs, lambda: sign(options) * (y**2).sum(), 10)
    run(ours, lambda: sign(options) * (x**2).sum(), 10)
    compare([x], [y], 1e-10)
