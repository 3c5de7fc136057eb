"""minigrad: tensors, a dynamic graph and gradients of any order, on NumPy memory and a Cython core.

>>> import minigrad as mg
>>> x = mg.tensor([1.0, 2.0], requires_grad=True)
>>> (x ** 3).sum().backward()
>>> x.grad
tensor([ 3., 12.])
"""

import sys
import typing

from . import (
    autograd as autograd,
    creation,
    data as data,
    func as func,
    linalg as linalg,
    namespace,
    nn as nn,
    onnx as onnx,
    optim as optim,
    spellings,
    viz as viz,
)
from ._core.engine.graph import (
    Tensor as Tensor,
    get_default_dtype as get_default_dtype,
    result_type as result_type,
    set_default_dtype as set_default_dtype,
)
from ._core.ops import *  # what is decorated there, and what is public in table.py
from .array_api import *
from .array_api import __array_namespace_info__ as __array_namespace_info__
from .autograd import (
    enable_grad as enable_grad,
    is_grad_enabled as is_grad_enabled,
    no_grad as no_grad,
    set_grad_enabled as set_grad_enabled,
)
from .config import show_config as show_config
from .contraction import *
from .creation import *
from .functions import *
from .profiler import profile as profile
from .rng import (
    Generator as Generator,
    get_rng_state as get_rng_state,
    manual_seed as manual_seed,
    set_rng_state as set_rng_state,
)
from .serialization import load as load, save as save
from .statistics import *
from .threads import get_num_threads as get_num_threads, set_num_threads as set_num_threads

bool = creation.bool_
__version__ = "0.1.0"
__array_api_version__ = "2025.12"

if not typing.TYPE_CHECKING:  # mypy reads only literal lists; without one, it goes by the imports
    __all__ = ["__version__"]
    __all__ += namespace.public_names(vars(), autograd, data, func, linalg, nn, onnx, optim, viz)
    __dir__ = __all__.copy
    namespace.lead_on_from(sys.modules[__name__])
    sys.meta_path.append(namespace.Signpost)
    spellings.refuse_names_of_others(Tensor, nn.Module)
