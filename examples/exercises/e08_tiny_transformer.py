"""Exercise 8: attention that cannot look ahead.

Write the attention weights of lesson 8 (Vaswani et al. 2017, equation 1): position l of the queries
gives position s of the keys the weight

    softmax over s of  q[l]·k[s] / √d,

where s ≤ l; later positions get 0. `hidden` is True where s > l. Minus infinity is what a softmax
turns into 0, and `mg.where(condition, a, b)` puts it in. The result is compared with
`nn.functional.scaled_dot_product_attention`.
"""

import math

import numpy as np

import minigrad as mg
from minigrad import nn

from .judge import compare, leaves


def attention(q, k, v):
    """What each position finds, for q, k and v of shape (..., L, d)."""
    L, d = q.shape[-2:]
    hidden = mg.tensor(np.triu(np.ones((L, L), bool), k=1))
    weights = ...
    return weights @ v


def judge():
    q, k, v = leaves((2, 5, 4), (2, 5, 4), (2, 5, 4))
    right = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    hidden = mg.tensor(np.triu(np.ones((5, 5), bool), k=1))
    raw, scores = q @ k.mT, q @ k.mT / math.sqrt(4)
    wrong = {
        "every position sees all others; the mask is missing": mg.softmax(scores, axis=-1) @ v,
        "the logits are not divided by √d":
            mg.softmax(mg.where(hidden, -math.inf, raw), axis=-1) @ v,
        "the logits are divided by d, not by its root":
            mg.softmax(mg.where(hidden, -math.inf, raw / 4), axis=-1) @ v,
        "the weights of a position must add up to 1: the softmax is over the keys, the last axis":
            mg.softmax(mg.where(hidden, -math.inf, scores), axis=-2) @ v,
        "a logit of 0 is not a weight of 0": mg.softmax(mg.where(hidden, 0.0, scores), axis=-1) @ v,
    }  # fmt: skip
    compare("What is found", attention(q, k, v), right, wrong)
    return "It is scaled_dot_product_attention with a causal mask."
