"""Exercise 13: an ensemble with weights.

Lesson 13 computed, for equal members, that the squared error of the mean is the mean squared error
of the members minus their spread (Krogh & Vedelsby 1995). It also holds for a weighted mean of the
members, Σ wₖ fₖ with Σ wₖ = 1, if the spread is weighted as well. Write that spread, for f of shape
(members, points) and w of shape (members,). The identity must hold to rounding.
"""

import numpy as np

from .judge import compare


def spread(f, w):
    """The weighted spread of the members at each point, of shape (points,)."""
    mean = w @ f
    return ...


def judge():
    random = np.random.default_rng(0)
    f, truth = random.normal(size=(4, 6)), random.normal(size=6)
    w = random.dirichlet(np.ones(4))
    mean = w @ f
    right = w @ (f - truth) ** 2 - (mean - truth) ** 2
    wrong = {
        "the members have weights, and this spread has none": ((f - mean) ** 2).mean(axis=0),
        "the spread is about the weighted mean": w @ (f - f.mean(axis=0)) ** 2,
        "that is a standard deviation; the identity is of squares": np.sqrt(np.abs(right)),
        "that is the spread of each member; their weighted mean is missing": (f - mean) ** 2,
    }
    compare("The spread", spread(f, w), right, wrong)
    return "The identity of Krogh & Vedelsby holds with weights."
