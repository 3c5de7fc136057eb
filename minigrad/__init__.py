"""minigrad: tensors, a dynamic graph and gradients of any order, on NumPy memory and a Cython core.

>>> import minigrad as mg
>>> x = mg.tensor([1.0, 2.0], requires_grad=True)
>>> (x ** 3).sum().backward()
>>> x.grad
tensor([ 3., 12.])
"""

from . import autograd
from ._core.ops import (
    abs,
    add,
    astype,
    broadcast_to,
    clip,
    concat,
    cos,
    divide,
    equal,
    erf,
    exp,
    expm1,
    floor_divide,
    gate,
    getitem,
    greater,
    greater_equal,
    less,
    less_equal,
    linear,
    log,
    log1p,
    log_softmax,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    logsigmoid,
    logsumexp,
    matmul,
    matrix_transpose,
    max,
    maximum,
    mean,
    min,
    minimum,
    multiply,
    negative,
    not_equal,
    permute_dims,
    pow,
    prod,
    put,
    reciprocal,
    relu,
    remainder,
    reshape,
    rsqrt,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    square,
    subtract,
    sum,
    tanh,
    var,
    where,
)
from ._core.tensor import Tensor, get_default_dtype, set_default_dtype
from .autograd import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    float32,
    float64,
    full,
    full_like,
    int32,
    int64,
    linspace,
    manual_seed,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from .creation import bool_ as bool
from .functions import *

__version__ = "0.1.0"
