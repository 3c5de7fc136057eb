"""Optimisers, with the names, defaults and meanings of PyTorch's.

>>> x = mg.tensor([3.0, -2.0], requires_grad=True)
>>> optimizer = mg.optim.SGD([x], lr=0.5)
>>> (x * x).sum().backward()
>>> optimizer.step()
>>> x
tensor([0., 0.], requires_grad=True)
"""

from . import lr_scheduler
from .adagrad import Adagrad
from .adam import Adam, AdamW, NAdam
from .lbfgs import LBFGS
from .lion import Lion
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "LBFGS",
    "Lion",
    "NAdam",
    "Optimizer",
    "RMSprop",
    "lr_scheduler",
]
