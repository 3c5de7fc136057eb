"""Exercise 4: a step of Adam.

Adam (Kingma & Ba 2015, algorithm 1) keeps running means of the gradient, m, and of its square, v,

    m ← β₁ m + (1 - β₁) g,    v ← β₂ v + (1 - β₂) g².

Both start at zero, and after t steps are too small by factors of 1 - β₁ᵗ and 1 - β₂ᵗ. Corrected
for that, they give the step

    w ← w - rate · m̂ / (√v̂ + ε).

Write the amount by which w falls. Five steps are compared with those of `optim.Adam`.
"""

import numpy as np

import minigrad as mg
from minigrad import optim

from .judge import compare

RATE, BETA1, BETA2, EPS = 0.01, 0.9, 0.999, 1e-8


def adam(w, g, m, v, t):
    """w, m and v after step t = 1, 2, ..., given the gradient g."""
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * v + (1 - BETA2) * g**2
    fall = ...
    return w - fall, m, v


def judge():
    random = np.random.default_rng(0)
    start, slopes = random.normal(size=4), random.normal(size=(5, 4))
    theirs = mg.tensor(start, requires_grad=True)
    optimizer = optim.Adam([theirs], lr=RATE, betas=(BETA1, BETA2), eps=EPS)
    w, m, v = start, np.zeros(4), np.zeros(4)
    for t, g in enumerate(slopes, 1):
        theirs.grad = mg.tensor(g)
        optimizer.step()
        before = w
        w, m, v = adam(w, g, m, v, t)
        wrong = {
            "the running means are not corrected for their start at zero": RATE
            * m
            / (np.sqrt(v) + EPS),
            "m̂ is divided by v̂, not by its root": RATE
            * m
            / (1 - BETA1**t)
            / (v / (1 - BETA2**t) + EPS),
            "the rate is missing": (before - theirs.numpy()) / RATE,
        }
        compare(f"The fall of w in step {t}", before - w, before - theirs.numpy(), wrong)
    return "Five steps agree with optim.Adam."
