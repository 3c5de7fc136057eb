"""Formulas that are worth one loop, each once. `MINIGRAD_FAST=0` runs them as they are.

Design note
-----------
1. What layers share is written with operators and methods alone, since it runs on Tensors and, for
   derive.py, on symbols: it takes the data, weights, the axes that are reduced, and numbers. The
   names of its variables are those of the loops.
2. The rule of an optimiser works on arrays, or on the symbols of steps.py. It takes a parameter p,
   its gradient d (negated to maximize), its arrays of state (None for one that the options do
   without), its numbers of state, the first of which is the step, counted from 1; and as keywords
   the options, lr first, and `fresh` if it asks whether the state was zeros before this step. It
   returns the new p, the new arrays of state, and the new numbers of state but the step, and
   writes to nothing.
3. A rule is one loop, in the same order of operations. An `if` is two loops, unless both results
   have the same operations on arrays: (1 if fresh else share) * g, not (g if fresh else share * g).
   This file must not know any loops.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

from math import sqrt

import numpy as np


def normalise(x, weight, bias, axes, eps):
    """x with mean 0 and variance 1 over the axes, times weight, plus bias; and mean and variance.

    The formula of all layers that normalise by the statistics of their input. Weight and bias
    broadcast against x. Mean and variance are returned as values, without a graph.

    >>> from minigrad._core.formulas import normalise
    >>> y, mean, var = normalise(mg.tensor([1.0, 3.0]), 2.0, 1.0, (0,), 0.0)
    >>> y.tolist(), mean.tolist(), var.tolist()
    ([-1.0, 3.0], [2.0], [1.0])
    """
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    var = centred.var(axes, keepdims=True)
    std = (var + eps).sqrt()
    scale = weight / std
    y = centred * scale + bias
    return y, mean.detach(), var.detach()


def rms_normalise(x, weight, axes, eps):
    """x over the root of its mean square over the axes, times weight (Zhang & Sennrich 2019,
    equation 4); weight broadcasts against x.

    >>> from minigrad._core.formulas import rms_normalise
    >>> rms_normalise(mg.tensor([3.0, 4.0, 0.0, 0.0]), 1.0, (0,), 0.0)
    tensor([1.2, 1.6, 0. , 0. ])
    """
    square = x.square().mean(axes, keepdims=True)
    root = (square + eps).sqrt()
    return x / root * weight


def lstm_cell(z_i, z_f, z_g, z_o, c):
    """The next cell and h of an LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers
    et al. 2000), from the gates before their activation and the cell.

    >>> from minigrad._core.formulas import lstm_cell
    >>> lstm_cell(*mg.zeros(4, 1), mg.ones(1))
    (tensor([0.5]), tensor([0.23105858]))
    """
    i, f, g, o = z_i.sigmoid(), z_f.sigmoid(), z_g.tanh(), z_o.sigmoid()
    cell = f * c + i * g
    tanh_cell = cell.tanh()
    h = o * tanh_cell
    return cell, h


def sgd(p, d, velocity, *, lr, momentum, dampening, weight_decay, nesterov, fresh):
    """Gradient descent with momentum as PyTorch has it (Sutskever et al. 2013, without lr in v)."""
    g = d + weight_decay * p
    if velocity is None:
        return p - lr * g, None
    velocity = momentum * velocity + (1 if fresh else 1 - dampening) * g
    return p - lr * (g + momentum * velocity if nesterov else velocity), velocity


def moments(p, d, m, v, lr, betas, decay, decoupled):
    """The gradient, the next moments of Adam (Kingma & Ba 2015), and p after decoupled decay."""
    g = d + (0.0 if decoupled else decay) * p
    m = m + (g - m) * (1 - betas[0])
    v = betas[1] * v + (1 - betas[1]) * g * g
    return g, m, v, (1 - lr * decay if decoupled else 1.0) * p


def adam(p, d, m, v, largest, step, *, lr, betas, eps, weight_decay, decoupled_weight_decay):
    """Adam (Kingma & Ba 2015, algorithm 1); with `largest` AMSGrad (Reddi et al. 2018)."""
    _, m, v, p = moments(p, d, m, v, lr, betas, weight_decay, decoupled_weight_decay)
    largest = None if largest is None else np.maximum(v, largest)
    step_size = lr / (1 - betas[0] ** step)
    root = 1 / sqrt(1 - betas[1] ** step)
    divisor = np.sqrt(v if largest is None else largest) * root + eps
    return p - step_size * m / divisor, m, v, largest


def adamw(p, d, m, v, largest, step, *, lr, betas, eps, weight_decay):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""
    options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return adam(p, d, m, v, largest, step, **options, decoupled_weight_decay=True)


def nadam(
    p, d, m, v, step, mus, *, lr, betas, eps, weight_decay, decoupled_weight_decay, momentum_decay
):
    """Adam with Nesterov momentum (Dozat 2016, algorithm 2). mus: the product of all mu."""
    g, m, v, p = moments(p, d, m, v, lr, betas, weight_decay, decoupled_weight_decay)
    mu, after = (betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in (step, step + 1))
    mus = mus * mu
    move = lr * (1 - mu) / (1 - mus) * g + lr * after / (1 - mus * after) * m
    root = 1 / sqrt(1 - betas[1] ** step)
    return p - move / (np.sqrt(v) * root + eps), m, v, mus


def radam(p, d, m, v, step, *, lr, betas, eps, weight_decay, decoupled_weight_decay):
    """Adam with a rectified rate (Liu et al. 2020, algorithm 2): its step times the square root of
    r, or without the denominator as long as the variance of 1 / sqrt(v) is intractable."""
    _, m, v, p = moments(p, d, m, v, lr, betas, weight_decay, decoupled_weight_decay)
    power = betas[1] ** step
    longest = 2 / (1 - betas[1]) - 1  # of the moving average, and now
    length = longest - 2 * step * power / (1 - power)
    step_size = lr / (1 - betas[0] ** step)
    if length <= 5:
        return p - step_size * m, m, v
    r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    step_size *= sqrt(r * (1 - power))
    return p - step_size * m / (np.sqrt(v) + eps), m, v


def rmsprop(p, d, square, velocity, mean, step, *, lr, alpha, eps, weight_decay, momentum):
    """RMSprop (Tieleman & Hinton 2012); with `mean` centred (Graves 2013, equations 38 to 45)."""
    g = d + weight_decay * p
    square = alpha * square + (1 - alpha) * g * g
    moment = square
    if mean is not None:
        mean = mean + (g - mean) * (1 - alpha)
        variance = square - mean * mean
        moment = np.maximum(variance, 0)  # rounding may make it negative
    divisor = np.sqrt(moment) + eps
    if velocity is None:
        return p - lr * g / divisor, square, None, mean
    velocity = momentum * velocity + g / divisor
    return p - lr * velocity, square, velocity, mean


def adagrad(
    p, d, total, step, *, lr, lr_decay, eps, weight_decay, initial_accumulator_value, fresh
):
    """Adagrad (Duchi, Hazan & Singer 2011, figure 1, diagonal)."""
    g = d + weight_decay * p
    total = (initial_accumulator_value if fresh else 0.0) + total + g * g
    return p - lr / (1 + (step - 1) * lr_decay) * g / (np.sqrt(total) + eps), total


def lion(p, d, m, *, lr, betas, weight_decay):
    """Lion (Chen et al. 2023, algorithm 2)."""
    c = betas[0] * m + (1 - betas[0]) * d
    m = betas[1] * m + (1 - betas[1]) * d
    direction = np.sign(c)
    return (1 - lr * weight_decay) * p - lr * direction, m


def schedulefree(y, d, z, v, *, lr, momentum, weight_decay, share, beta2, eps, correction, fresh):
    """Schedule-free SGD, or with `v` AdamW (Defazio et al. 2024, section 1 and algorithm 1).

    z is what SGD would have, x the mean of all z, of which the new one has this share, and
    y = (1 - momentum) z + momentum x. It computes y without x, as in the authors' code.
    """
    g, z = d, y if fresh else z
    if v is not None:
        v = beta2 * v + (1 - beta2) * d * d
        g = d / (np.sqrt(v) * (1 / sqrt(correction)) + eps)
    g = g + weight_decay * y
    return y + share * (z - y) + lr * (momentum * (1 - share) - 1) * g, z - lr * g, v
