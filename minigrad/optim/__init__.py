"""Optimisers, with PyTorch's names, defaults and semantics.

>>> x = mg.tensor([3.0, -2.0], requires_grad=True)
>>> optimizer = mg.optim.SGD([x], lr=0.5)
>>> (x * x).sum().backward()
>>> optimizer.step()
>>> x
tensor([0., 0.], requires_grad=True)
"""

import typing

from ..namespace import public_names as _public_names
from . import lr_scheduler as lr_scheduler, swa_utils as swa_utils
from .lbfgs import *
from .muon import *
from .optimizer import *
from .rules import *
from .schedule_free import *
from .swa_utils import *

if not typing.TYPE_CHECKING:  # mypy reads only literal lists; without one, it goes by the imports
    __all__ = _public_names(vars(), lr_scheduler, swa_utils)
    __dir__ = __all__.copy
