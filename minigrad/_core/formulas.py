"""Formulas that are worth one loop, each once. `MINIGRAD_FAST=0` runs them as they are.

Design note
-----------
1. What layers share is written with operators and methods alone, since it runs on Tensors and, for
   derive.py, on symbols: it takes the data, weights, the axes that are reduced, and numbers. The
   names of its variables are those of the loops.
2. The rule of an optimiser works on arrays. It takes a parameter p, its gradient d, its arrays of
   state (None for one that the options do without), its numbers of state, the first of which is
   the step, counted from 1; and as keywords `fresh`, whether the state was zeros before this step,
   and the options. It returns the new p and the new arrays of state, and writes to nothing.
3. The loops of updates.pyx are its formulas, in the same order of operations, in one pass over
   memory. This file must not know any loops.
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


def gradient(p, d, weight_decay, maximize):
    """The gradient of the objective, plus that of the penalty weight_decay p² / 2."""
    return (-d if maximize else d) + weight_decay * p


def sgd(p, d, velocity, *, fresh, lr, momentum, dampening, weight_decay, nesterov, maximize):
    """Gradient descent with momentum as PyTorch has it (Sutskever et al. 2013, without lr in v)."""
    g = gradient(p, d, weight_decay, maximize)
    if velocity is None:
        return p - lr * g, None
    velocity = momentum * velocity + (g if fresh else (1 - dampening) * g)
    return p - lr * (g + momentum * velocity if nesterov else velocity), velocity


def moments(p, d, first, second, options):
    """The gradient, the next moments of Adam (Kingma & Ba 2015), and p after decoupled decay."""
    decay, decoupled = options["weight_decay"], options["decoupled_weight_decay"]
    g = gradient(p, d, 0.0 if decoupled else decay, options["maximize"])
    first = first + (g - first) * (1 - options["beta1"])
    second = options["beta2"] * second + (1 - options["beta2"]) * g * g
    return g, first, second, (1 - options["lr"] * decay) * p if decoupled else p


def adam(p, d, first, second, largest, step, *, fresh, **options):
    """Adam (Kingma & Ba 2015, algorithm 1); with `largest` AMSGrad (Reddi et al. 2018)."""
    _, first, second, p = moments(p, d, first, second, options)
    largest = None if largest is None else np.maximum(second, largest)
    step_size = options["lr"] / (1 - options["beta1"] ** step)
    root = 1 / sqrt(1 - options["beta2"] ** step)
    divisor = np.sqrt(second if largest is None else largest) * root + options["eps"]
    return p - step_size * first / divisor, first, second, largest


def adamw(p, d, first, second, largest, step, **options):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""
    options["decoupled_weight_decay"] = True
    return adam(p, d, first, second, largest, step, **options)


def nadam(p, d, first, second, step, mu_product, *, fresh, **options):
    """Adam with Nesterov momentum (Dozat 2016, algorithm 2). mu_product: of all mu so far."""
    g, first, second, p = moments(p, d, first, second, options)
    lr, beta1, decay = options["lr"], options["beta1"], options["momentum_decay"]
    mu, after = (beta1 * (1 - 0.5 * 0.96 ** (t * decay)) for t in (step, step + 1))
    move = lr * (1 - mu) / (1 - mu_product) * g + lr * after / (1 - mu_product * after) * first
    root = 1 / sqrt(1 - options["beta2"] ** step)
    return p - move / (np.sqrt(second) * root + options["eps"]), first, second


def radam(p, d, first, second, step, *, fresh, **options):
    """Adam with a rectified rate (Liu et al. 2020, algorithm 2): its step times the square root of
    r, or without the denominator as long as the variance of 1 / sqrt(second) is intractable."""
    _, first, second, p = moments(p, d, first, second, options)
    power = options["beta2"] ** step
    longest = 2 / (1 - options["beta2"]) - 1  # of the moving average, and now
    length = longest - 2 * step * power / (1 - power)
    step_size = options["lr"] / (1 - options["beta1"] ** step)
    if length <= 5:
        return p - step_size * first, first, second
    r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    step_size *= sqrt(r * (1 - power))
    return p - step_size * first / (np.sqrt(second) + options["eps"]), first, second


def rmsprop(
    p, d, square, velocity, mean, step, *, fresh, lr, alpha, eps, weight_decay, momentum, maximize
):
    """RMSprop (Tieleman & Hinton 2012); with `mean` centred (Graves 2013, equations 38 to 45)."""
    g = gradient(p, d, weight_decay, maximize)
    square = alpha * square + (1 - alpha) * g * g
    moment = square
    if mean is not None:
        mean = mean + (g - mean) * (1 - alpha)
        moment = np.maximum(square - mean * mean, 0)  # rounding may make it negative
    move = g / (np.sqrt(moment) + eps)
    if velocity is None:
        return p - lr * move, square, None, mean
    velocity = momentum * velocity + move
    return p - lr * velocity, square, velocity, mean


def adagrad(
    p,
    d,
    total,
    step,
    *,
    fresh,
    lr,
    lr_decay,
    eps,
    weight_decay,
    initial_accumulator_value,
    maximize,
):
    """Adagrad (Duchi, Hazan & Singer 2011, figure 1, diagonal)."""
    g = gradient(p, d, weight_decay, maximize)
    total = (initial_accumulator_value if fresh else 0.0) + total + g * g
    return p - lr / (1 + (step - 1) * lr_decay) * g / (np.sqrt(total) + eps), total


def lion(p, d, first, *, fresh, lr, beta1, beta2, weight_decay, maximize):
    """Lion (Chen et al. 2023, algorithm 2)."""
    g = gradient(p, d, 0.0, maximize)
    direction = np.sign(beta1 * first + (1 - beta1) * g)
    return (1 - lr * weight_decay) * p - lr * direction, beta2 * first + (1 - beta2) * g


def schedulefree(
    y, d, z, second, *, fresh, lr, momentum, weight_decay, maximize, share, beta2, eps, correction
):
    """Schedule-free SGD, or with `second` AdamW (Defazio et al. 2024, section 1 and algorithm 1).

    z is what SGD would have, x the mean of all z, of which the new one has this share, and
    y = (1 - momentum) z + momentum x. It computes y without x, as in the authors' code.
    """
    g = gradient(y, d, 0.0, maximize)
    z = y if fresh else z
    if second is not None:
        second = beta2 * second + (1 - beta2) * g * g
        g = g / (np.sqrt(second) * (1 / sqrt(correction)) + eps)
    g = g + weight_decay * y
    return y + share * (z - y) + lr * (momentum * (1 - share) - 1) * g, z - lr * g, second
