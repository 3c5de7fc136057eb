"""Exercise 5: the backward of LayerNorm.

Lesson 5 quotes the gradient of BatchNorm, which normalises each channel over the batch. LayerNorm
(Ba et al. 2016) normalises each row x[n], over its C features,

    x̂ = (x - mean) / √(var + ε),    y = γ x̂ + β,

with γ and β of shape (C,). Write d loss / d x, in Tensor operations. Where does the N of lesson 5
become C, over which axis are the sums, and why can γ not stand in front of the brackets any more?
gradcheck judges it.
"""

import minigrad as mg
from minigrad import nn

from .judge import Saved, compare, leaves

EPS = 1e-5


class LayerNorm(mg.autograd.Function):
    """γ x̂ + β for x of shape (N, C), with a gradient of your own."""

    @staticmethod
    def forward(ctx, x, gamma, beta):
        ctx.save_for_backward(x, gamma)
        std = mg.sqrt(x.var(axis=1, keepdims=True) + EPS)
        return (x - x.mean(axis=1, keepdims=True)) / std * gamma + beta

    @staticmethod
    def backward(ctx, dy):
        x, gamma = ctx.saved_tensors
        C = x.shape[1]
        std = mg.sqrt(x.var(axis=1, keepdims=True) + EPS)
        normal = (x - x.mean(axis=1, keepdims=True)) / std
        dx = ...
        return dx, (dy * normal).sum(axis=0), dy.sum(axis=0)


def judge():
    x, gamma, beta, dy = leaves((6, 4), (4,), (4,), (6, 4))
    inputs = [x, gamma, beta]
    y = nn.functional.layer_norm(x, (4,), gamma, beta, EPS)
    right = mg.autograd.grad(y, inputs, dy)
    std = mg.sqrt(x.var(axis=1, keepdims=True) + EPS)
    normal, g = (x - x.mean(axis=1, keepdims=True)) / std, dy * gamma
    columns = (6 * g - g.sum(axis=0) - normal * (g * normal).sum(axis=0)) / (6 * std)
    rows = 4 * dy - dy.sum(1, keepdims=True) - normal * (dy * normal).sum(1, keepdims=True)
    wrong = {
        "mean and variance depend on x too, and both their terms are missing": g / std,
        "the term of the variance is missing": (g - g.mean(axis=1, keepdims=True)) / std,
        "those are sums over the batch; LayerNorm averages over the features": columns,
        "γ differs from feature to feature, so it belongs into the sums": gamma / (4 * std) * rows,
        "γ is missing": rows / (4 * std),
    }
    yours = LayerNorm.backward(Saved(x, gamma), dy)
    for name, ours, theirs in zip(("x", "γ", "β"), yours, right, strict=True):
        compare(f"The gradient of {name}", ours, theirs, wrong)
    mg.autograd.gradcheck(LayerNorm.apply, inputs)
    return "gradcheck agrees, and so does nn.functional.layer_norm."
