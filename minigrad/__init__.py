"""minigrad: tensors, a dynamic graph and gradients of any order, on NumPy memory and a Cython core.

>>> import minigrad as mg
>>> x = mg.tensor([1.0, 2.0], requires_grad=True)
>>> (x ** 3).sum().backward()
>>> x.grad
tensor([ 3., 12.])
"""

from . import (
    autograd as autograd,
    creation as creation,
    data as data,
    func as func,
    nn as nn,
    onnx as onnx,
    optim as optim,
    threads as threads,
    viz as viz,
)
from ._core.elementwise import *  # all of table.py that is public
from ._core.engine.graph import (
    Tensor as Tensor,
    get_default_dtype as get_default_dtype,
    set_default_dtype as set_default_dtype,
)
from ._core.ops import (
    argsort as argsort,
    astype as astype,
    broadcast_to as broadcast_to,
    clip as clip,
    concat as concat,
    cumulative_prod as cumulative_prod,
    cumulative_sum as cumulative_sum,
    diagonal as diagonal,
    fold as fold,
    linear as linear,
    log_softmax as log_softmax,
    logical_and as logical_and,
    logical_not as logical_not,
    logical_or as logical_or,
    logical_xor as logical_xor,
    logsumexp as logsumexp,
    matmul as matmul,
    matrix_transpose as matrix_transpose,
    max as max,
    mean as mean,
    min as min,
    pad as pad,
    permute_dims as permute_dims,
    pow as pow,
    prod as prod,
    reciprocal as reciprocal,
    repeat as repeat,
    reshape as reshape,
    roll as roll,
    round as round,
    sort as sort,
    sum as sum,
    take as take,
    take_along_axis as take_along_axis,
    unfold as unfold,
    var as var,
    where as where,
)
from .autograd import (
    enable_grad as enable_grad,
    is_grad_enabled as is_grad_enabled,
    no_grad as no_grad,
    set_grad_enabled as set_grad_enabled,
)
from .config import show_config as show_config
from .contraction import (
    einsum as einsum,
    outer as outer,
    tensordot as tensordot,
    trace as trace,
    vecdot as vecdot,
)
from .creation import (
    arange as arange,
    asarray as asarray,
    empty as empty,
    empty_like as empty_like,
    eye as eye,
    float32 as float32,
    float64 as float64,
    from_dlpack as from_dlpack,
    full as full,
    full_like as full_like,
    int32 as int32,
    int64 as int64,
    linspace as linspace,
    manual_seed as manual_seed,
    ones as ones,
    ones_like as ones_like,
    rand as rand,
    randint as randint,
    randn as randn,
    randperm as randperm,
    tensor as tensor,
    zeros as zeros,
    zeros_like as zeros_like,
)
from .functions import (
    all as all,
    allclose as allclose,
    any as any,
    argmax as argmax,
    argmin as argmin,
    clone as clone,
    count_nonzero as count_nonzero,
    expand_dims as expand_dims,
    flatten as flatten,
    flip as flip,
    isclose as isclose,
    isfinite as isfinite,
    isinf as isinf,
    isnan as isnan,
    meshgrid as meshgrid,
    moveaxis as moveaxis,
    nonzero as nonzero,
    norm as norm,
    scatter_add as scatter_add,
    softmax as softmax,
    split as split,
    squeeze as squeeze,
    stack as stack,
    std as std,
    swapaxes as swapaxes,
    tile as tile,
    topk as topk,
    tril as tril,
    triu as triu,
    unstack as unstack,
)
from .profiler import profile as profile
from .serialization import (
    load as load,
    save as save,
)
from .threads import (
    get_num_threads as get_num_threads,
    set_num_threads as set_num_threads,
)

bool = creation.bool_  # no import: type checkers hold only `x as x` to be public
__version__ = "0.1.0"
