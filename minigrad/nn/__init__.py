"""Layers, losses and initialisation, with PyTorch's names, defaults and `state_dict` keys.

>>> net = mg.nn.Sequential(mg.nn.Linear(64, 32), mg.nn.BatchNorm1d(32), mg.nn.ReLU())
>>> net(mg.randn(8, 64)).shape
(8, 32)
"""

import typing

from ..namespace import public_names as _public_names
from . import functional as functional, init as init, utils as utils
from .accumulation import *
from .activation import *
from .attention import *
from .containers import *
from .conv import *
from .dropout import *
from .embedding import *
from .ensemble import *
from .layer_norm import *
from .linear import *
from .loss import *
from .mixed import *  # registers its warning
from .module import *
from .norm import *
from .pooling import *
from .recurrent import *

if not typing.TYPE_CHECKING:  # mypy reads only literal lists; without one, it goes by the imports
    __all__ = _public_names(vars(), functional, init, utils)
    __dir__ = __all__.copy
