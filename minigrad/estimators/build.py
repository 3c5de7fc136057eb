"""From the parameters of an estimator to what is trained: nets, optimisers, schedules, by name.

Names of activations and optimisers are those of `nn` and `optim`, in any case: a new one is known
here without an edit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from .. import nn, optim
from .._core.engine.graph import Tensor
from ..autograd import no_grad
from ..checks import positive, probability
from ..creation import tensor, zeros
from ..nn.activation import __all__ as activation_names
from ..optim import lr_scheduler
from ..optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

NORMALISATIONS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
SCHEDULES: dict[str, Callable[..., Any]] = {
    "cosine": lambda o, lr, epochs: lr_scheduler.CosineAnnealingLR(o, epochs),
    "linear": lambda o, lr, epochs: lr_scheduler.PolynomialLR(o, epochs),
    "one_cycle": lambda o, lr, epochs: lr_scheduler.OneCycleLR(o, lr, total_steps=epochs),
    "plateau": lambda o, lr, epochs: ReduceLROnPlateau(o),
}


class Affine(nn.Module):
    """(x - centre) * factor, column by column, with float64 buffers: how estimators standardise.
    The result has the dtype of x.

    >>> Affine(np.array([1.0]), np.array([2.0]))(mg.tensor([[3.0]]))
    tensor([[4.]])
    """

    centre: Tensor
    factor: Tensor

    def __init__(self, centre: np.ndarray, factor: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("centre", tensor(np.asarray(centre, np.float64)))
        self.register_buffer("factor", tensor(np.asarray(factor, np.float64)))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape and dtype of x."""
        y: Tensor = ((x - self.centre) * self.factor).astype(x.dtype)
        return y


def mean_and_std(X: Any, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The mean and standard deviation of each column of an array or a CSR matrix; where a column is
    constant up to rounding, 1 for the deviation.

    >>> mean_and_std(np.array([[1.0, 5.0], [3.0, 5.0]]), None)
    (array([2., 5.]), array([1., 1.]))
    """
    shares = np.full(X.shape[0], 1 / X.shape[0]) if weight is None else weight / weight.sum()
    if not isinstance(X, np.ndarray) and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    mean = np.asarray(X.T @ shares, np.float64)
    if isinstance(X, np.ndarray):
        var: Any = np.zeros_like(mean)
        for start in range(0, len(X), 512):  # the temporaries stay in the cache
            piece = slice(start, start + 512)
            var += shares[piece] @ np.square(X[piece] - mean)
    else:
        share = np.repeat(shares, np.diff(X.indptr))
        squares = share * np.square(X.data - mean[X.indices])
        var, stored = (np.bincount(X.indices, w, len(mean)) for w in (squares, share))
        full = np.bincount(X.indices, minlength=len(mean)) == X.shape[0]
        var = var + np.where(full, 0.0, 1 - stored) * mean**2
    std = np.sqrt(np.maximum(var, 0))
    return mean, np.where(std > 1e-11 * np.abs(mean), std, 1.0)


# -------------------------------------------------------------------------------------------- nets
def named(given: Any, table: dict[str, Any], name: str) -> Any:
    """The entry of a table, or what was given instead of a name.

    >>> named("Layer", NORMALISATIONS, "normalisation").__name__
    'LayerNorm'
    """
    if not isinstance(given, str):
        if given is None or callable(given):
            return given
        raise TypeError(f"{name} must be a name or a function, got {given!r}")
    if given.lower() not in table:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, table))}, got {given!r}")
    return table[given.lower()]


def mlp(
    n_features: int, n_outputs: int, hidden: Any, activation: Any, normalisation: Any, dropout: Any
) -> nn.Sequential:
    """Linear, normalisation, activation and dropout for each hidden layer, then Linear.

    >>> mlp(4, 2, (8,), "relu", "batch", 0.0)
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=False)  32
      (1): BatchNorm1d(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)  16
      (2): ReLU()
      (3): Linear(in_features=8, out_features=2, bias=True)   18
    )                                                         66 parameters
    """
    known = {name.lower(): getattr(nn, name) for name in activation_names}
    make_activation = named(activation, known, "activation") or nn.Identity
    make_norm = named(normalisation, NORMALISATIONS, "normalisation")
    sizes = hidden if isinstance(hidden, (tuple, list, np.ndarray)) else (hidden,)
    layers: list[nn.Module] = []
    width = n_features
    for size in sizes:
        size = positive(size, "hidden: the size of a layer")
        layers.append(nn.Linear(width, size, bias=make_norm is None))
        layers += [] if make_norm is None else [make_norm(size)]
        layers.append(make_activation())
        layers += [nn.Dropout(dropout)] if probability(dropout, "dropout") else []
        width = size
    return nn.Sequential(*layers, nn.Linear(width, n_outputs))


def made(make: Any, n_features: int, n_outputs: int) -> nn.Module:
    """The net that a user's function makes. Raises TypeError unless it is a Module.

    >>> made(mg.nn.Linear, 3, 2)
    Linear(in_features=3, out_features=2, bias=True)  8 parameters
    """
    if isinstance(make, nn.Module) or not callable(make):
        raise TypeError(
            "make must be a function (n_features, n_outputs) that returns a Module, got "
            f"{type(make).__name__}; for a net of fixed sizes write a function that builds it"
        )
    net = make(n_features, n_outputs)
    if not isinstance(net, nn.Module):
        raise TypeError(f"make({n_features}, {n_outputs}) must return a Module, got {net!r:.60}")
    return net


def check_outputs(net: nn.Module, n_features: int, n_outputs: int | None) -> None:
    """Raise ValueError unless the net maps (1, n_features) to (1, n_outputs); None for any number.

    >>> check_outputs(mg.nn.Linear(3, 2), 3, 2)
    """
    with no_grad():
        shape = net.eval()(zeros(1, n_features)).shape
    if len(shape) != 2 or shape[0] != 1 or n_outputs not in (None, shape[1]):
        raise ValueError(
            f"the net must map (n, {n_features}) to (n, {n_outputs or 'outputs'}), but one row "
            f"gives the shape {shape}; make, or with warm_start the former fit, is for something "
            "else"
        )


# ------------------------------------------------------------------------- optimisers and schedules
def optimizer_for(given: Any, params: Iterable[Tensor], lr: float, weight_decay: float) -> Any:
    """The optimiser that a name, a function of the parameters or an instance stands for; of an
    instance, the class and the options.

    >>> optimizer_for("sgd", [mg.ones(1, requires_grad=True)], 0.1, 0.0).defaults["lr"]
    0.1
    """
    classes: dict[str, Any] = {
        name.lower(): member
        for name, member in vars(optim).items()
        if isinstance(member, type) and issubclass(member, optim.Optimizer)
    }
    options = {"lr": lr, "weight_decay": weight_decay}
    known = {name: partial(c, **options) for name, c in classes.items() if c not in _UNSUITED}
    if isinstance(given, optim.Optimizer):
        make: Any = partial(type(given), **given.defaults)
    else:
        make = named(given, known, "optimizer")
    optimizer = make(params) if make else None
    if not isinstance(optimizer, optim.Optimizer):
        raise TypeError(
            "optimizer must be a name, an instance, or a function of the parameters that returns "
            f"an optimiser, got {given!r}"
        )
    if isinstance(optimizer, optim.LBFGS):
        raise TypeError(
            "optimizer must be one that makes a step from one gradient; LBFGS evaluates the loss "
            "several times"
        )
    return optimizer


# The base class; and the one that evaluates the loss several times a step.
_UNSUITED = (optim.Optimizer, optim.LBFGS)


def scheduler_for(given: Any, optimizer: Any, lr: float, epochs: int) -> Any:
    """The schedule that a name, a function of the optimiser or an instance stands for, stepped once
    per epoch; None for a constant rate. An instance is copied and starts again, at the initial rate
    of the optimiser that it was made for.

    >>> optimizer = mg.optim.SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    >>> scheduler_for("cosine", optimizer, 1.0, 10).multiplier(5)
    0.5
    """
    if isinstance(given, LRScheduler):
        template = given.optimizer
        for group in optimizer.param_groups:
            for name, value in template.param_groups[0].items():
                group.setdefault(name, value)
        copied = copy.deepcopy(given, {id(template): optimizer})
        if not isinstance(copied, ReduceLROnPlateau):
            copied._restart()
        return copied
    known = {name: partial(make, lr=lr, epochs=epochs) for name, make in SCHEDULES.items()}
    make = named(given, known, "schedule")
    scheduler = make(optimizer) if make else None
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise TypeError(
            "schedule must be a name, an instance, or a function of the optimiser that returns a "
            f"scheduler, got {given!r}"
        )
    return scheduler
