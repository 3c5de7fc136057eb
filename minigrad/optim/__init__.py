"""Optimisers, with the names, defaults and meanings of PyTorch's.

>>> x = mg.tensor([3.0, -2.0], requires_grad=True)
>>> optimizer = mg.optim.SGD([x], lr=0.5)
>>> (x * x).sum().backward()
>>> optimizer.step()
>>> x
tensor([0., 0.], requires_grad=True)
"""

from . import lr_scheduler as lr_scheduler
from .lbfgs import *
from .optimizer import *
from .rules import *
