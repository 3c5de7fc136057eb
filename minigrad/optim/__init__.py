"""Optimisers, with the names, defaults and meanings of PyTorch's.

>>> x = mg.tensor([3.0, -2.0], requires_grad=True)
>>> optimizer = mg.optim.SGD([x], lr=0.5)
>>> (x * x).sum().backward()
>>> optimizer.step()
>>> x
tensor([0., 0.], requires_grad=True)
"""

from .adam import Adam, AdamW
from .optimizer import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]
