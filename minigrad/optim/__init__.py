"""Optimisers, with the names, defaults and meanings of PyTorch's.

>>> x = mg.tensor([3.0, -2.0], requires_grad=True)
>>> optimizer = mg.optim.SGD([x], lr=0.5)
>>> (x * x).sum().backward()
>>> optimizer.step()
>>> x
tensor([0., 0.], requires_grad=True)
"""

from typing import TYPE_CHECKING

from . import lbfgs, lr_scheduler as lr_scheduler, optimizer, rules
from .lbfgs import *
from .optimizer import *
from .rules import *

if not TYPE_CHECKING:  # mypy reads only literal lists; without one, star imports export
    __all__ = [*rules.__all__, *lbfgs.__all__, *optimizer.__all__, "lr_scheduler"]
    __dir__ = __all__.copy
