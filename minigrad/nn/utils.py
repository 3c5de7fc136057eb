"""Gradient clipping, parameters as one vector, weight normalisation, folding of BatchNorm."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from .._core.engine.graph import Tensor
from .._core.ops import clip, concat, reshape
from ..autograd import no_grad
from ..checks import instance, integer, nonnegative_real, real
from ..creation import tensor
from ..functions import norm, stack
from .containers import Sequential
from .conv import Conv1d, Conv2d
from .linear import Identity, Linear
from .module import Module, Parameter
from .norm import _BatchNorm


# --------------------------------------------------------------------------------------- clipping
def _listed(parameters: Tensor | Iterable[Tensor], name: str) -> list[Tensor]:
    given: Any = [parameters] if isinstance(parameters, Tensor) else parameters
    listed = list(given) if isinstance(given, Iterable) else [given]
    for parameter in listed:
        instance(parameter, Tensor, f"{name}: expected Tensors", "; pass model.parameters()")
    return listed


def _gradients_of(parameters: Tensor | Iterable[Tensor], name: str) -> list[Tensor]:
    """The gradients of all parameters; one that is listed several times counts once."""
    unique = dict.fromkeys(_listed(parameters, name))
    return [parameter.grad for parameter in unique if parameter.grad is not None]


def _check_writable(tensors: Iterable[Tensor], name: str, kind: str) -> None:
    """Raise before the first write, so that an error cannot leave some of them changed."""
    for each in tensors:
        if not each._array.flags.writeable:
            raise ValueError(
                f"{name}: a {kind} of shape {each.shape} shares read-only memory; nothing was "
                "changed; create it from a copy: mg.tensor(array)"
            )


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by one factor so that their joint norm is at most max_norm (Pascanu et
    al. 2013).

    norm_type: the order of the norm; inf means the largest element. Returns the norm before
    clipping, in which a parameter that is listed several times counts once.
    Raises RuntimeError if error_if_nonfinite and the norm is inf or NaN, ValueError for a read-only
    gradient or a norm_type that is not positive, and then scales nothing.

    >>> w = mg.tensor([0.0, 0.0], requires_grad=True)
    >>> (w * mg.tensor([3.0, 4.0])).sum().backward()
    >>> mg.nn.utils.clip_grad_norm_([w], max_norm=1.0)
    tensor(5.)
    >>> w.grad.numpy().round(3)
    array([0.6, 0.8], dtype=float32)
    """
    nonnegative_real(max_norm, "clip_grad_norm_: max_norm")
    if not real(norm_type, "clip_grad_norm_: norm_type") > 0:
        raise ValueError(f"clip_grad_norm_: norm_type must be positive or inf, got {norm_type}")
    gradients = _gradients_of(parameters, "clip_grad_norm_")
    gradients = [gradient for gradient in gradients if gradient.size]  # empty ones have no maximum
    if not gradients:
        return tensor(0.0)
    with no_grad():
        norms = [norm(gradient, ord=norm_type) for gradient in gradients]
        total = norm(stack(norms), ord=norm_type)
        if error_if_nonfinite and not float(total) < float("inf"):
            raise RuntimeError(
                f"clip_grad_norm_: the norm of the gradients is {float(total)}; nothing was scaled"
            )
        factor = float(max_norm) / (float(total) + 1e-6)
        if not factor >= 1:  # also where the norm is NaN, as in PyTorch
            _check_writable(gradients, "clip_grad_norm_", "gradient")
            for gradient in dict.fromkeys(gradients):  # several parameters may share one
                gradient *= factor
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value]. Raises ValueError for a
    read-only gradient, and then changes nothing.

    >>> w = mg.tensor([0.0, 0.0], requires_grad=True)
    >>> (w * mg.tensor([3.0, -0.5])).sum().backward()
    >>> mg.nn.utils.clip_grad_value_([w], 1.0)
    >>> w.grad
    tensor([ 1. , -0.5])
    """
    nonnegative_real(clip_value, "clip_grad_value_: clip_value")
    gradients = _gradients_of(parameters, "clip_grad_value_")
    _check_writable(gradients, "clip_grad_value_", "gradient")
    with no_grad():
        for gradient in gradients:
            gradient.copy_(clip(gradient, -clip_value, clip_value))


# ----------------------------------------------------------------------- parameters as one vector
def parameters_to_vector(parameters: Tensor | Iterable[Tensor]) -> Tensor:
    """Concatenate all parameters to one vector, through which gradients flow.

    >>> mg.nn.utils.parameters_to_vector(mg.nn.Linear(2, 3).parameters()).shape
    (9,)
    """
    listed = _listed(parameters, "parameters_to_vector")
    if not listed:
        raise ValueError("parameters_to_vector: there are no parameters")
    return concat([reshape(parameter, (-1,)) for parameter in listed])


def vector_to_parameters(vec: Tensor, parameters: Tensor | Iterable[Tensor]) -> None:
    """Copy the pieces of a vector to the parameters, the inverse of `parameters_to_vector`.

    Raises ValueError if the size of the vector is not that of all parameters, or a parameter is
    read-only, and then writes nothing.

    >>> layer = mg.nn.Linear(1, 2)
    >>> mg.nn.utils.vector_to_parameters(mg.arange(4.0), layer.parameters())
    >>> layer.bias.tolist()
    [2.0, 3.0]
    """
    listed = _listed(parameters, "vector_to_parameters")
    instance(vec, Tensor, "vector_to_parameters: expected a Tensor")
    bounds = np.cumsum([0, *(parameter.size for parameter in listed)]).tolist()
    if vec.shape != (bounds[-1],):
        raise ValueError(
            f"vector_to_parameters: expected a vector of {bounds[-1]} elements, got shape "
            f"{vec.shape}"
        )
    _check_writable(listed, "vector_to_parameters", "parameter")
    if any(np.may_share_memory(vec._array, parameter._array) for parameter in listed):
        vec = vec.clone()  # so that no piece is overwritten before it is read
    with no_grad():
        for parameter, (start, stop) in zip(listed, pairwise(bounds), strict=True):
            parameter.copy_(reshape(vec.detach()[start:stop], parameter.shape))


# --------------------------------------------------------------------------- weight normalisation
class _WeightNorm:
    """The hooks that compute the weight before each forward, and free its graph after it. Objects
    rather than functions, so that the module can be copied and pickled."""

    def __init__(self, name: str, dim: int | None, before: bool) -> None:
        self.name, self.dim, self.before = name, dim, before

    def __call__(self, module: Module, *_: Any) -> None:
        weight = self.weight(module) if self.before else getattr(module, self.name).detach()
        setattr(module, self.name, weight)

    def weight(self, module: Module) -> Tensor:
        g, v = (getattr(module, f"{self.name}_{part}") for part in "gv")
        weight: Tensor = v * (g / self.norm(v))
        return weight

    def norm(self, v: Tensor) -> Tensor:
        if self.dim is None:
            return norm(v)
        return norm(v, axis=tuple(d for d in range(v.ndim) if d != self.dim), keepdims=True)


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Replace the parameter `name` by its length g and its direction v: weight = g v / |v|
    (Salimans & Kingma 2016, equation 2). Changes the module in place and returns it.

    g, the parameter `name`_g, has one length for each index of the axis `dim` (by default for each
    output), or with dim=None a single one; v is `name`_v. Outside forward, `module.name` is the
    weight of the last forward, detached. Raises ValueError for a module without that parameter, or
    a dim out of range.

    >>> layer = mg.nn.utils.weight_norm(mg.nn.Linear(3, 2))
    >>> {key: value.shape for key, value in layer.state_dict().items()}
    {'bias': (2,), 'weight_g': (2, 1), 'weight_v': (2, 3)}
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Parameter):
        raise ValueError(f"weight_norm: {type(module).__name__} has no parameter {name!r}")
    try:
        axis = None if dim is None else integer(dim, "dim")
    except TypeError:
        axis = -1
    if axis is not None and not 0 <= axis < weight.ndim:
        raise ValueError(
            f"weight_norm: dim must be None or an axis of {name!r} of shape {weight.shape}, "
            f"got {dim!r}"
        )
    before, after = _WeightNorm(name, axis, True), _WeightNorm(name, axis, False)
    g = before.norm(weight.detach())
    delattr(module, name)
    setattr(module, f"{name}_g", Parameter(g))
    setattr(module, f"{name}_v", Parameter(weight.detach()))
    setattr(module, name, before.weight(module).detach())
    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Undo `weight_norm`: restore the parameter `name`, with the current value. Changes the module
    in place and returns it. Raises ValueError if it has no weight norm.

    >>> layer = mg.nn.utils.remove_weight_norm(mg.nn.utils.weight_norm(mg.nn.Linear(3, 2)))
    >>> sorted(layer.state_dict())
    ['bias', 'weight']
    """
    lists = [module.__dict__.get(f"_forward{kind}_hooks", []) for kind in ("_pre", "")]
    ours = [h for hooks in lists for h in hooks if isinstance(h, _WeightNorm) and h.name == name]
    if not ours:
        raise ValueError(f"remove_weight_norm: no weight norm on {name!r} of {module!r}")
    weight = ours[0].weight(module).detach()
    for hooks in lists:
        hooks[:] = [hook for hook in hooks if hook not in ours]
    for member in (name, f"{name}_g", f"{name}_v"):
        delattr(module, member)
    setattr(module, name, Parameter(weight))
    return module


# --------------------------------------------------------------------------- folding of BatchNorm
_FUSIBLE = (Linear, Conv1d, Conv2d)  # linear in the weight, whose axis 0 are the outputs


def fuse_batchnorm(module: Module, norm: Module | None = None) -> Module:
    """Fold BatchNorms into the Linear or convolution before them, for faster evaluation.

    With one argument: a copy of the model in which every BatchNorm that follows a Linear, Conv1d or
    Conv2d in a Sequential, nested or not, is replaced by an Identity, so that all other names stay.
    With two: one layer that computes norm(module(x)), for models with a forward of their own.
    In evaluation mode the outputs are equal up to rounding: γ (w x + b - μ) / sqrt(σ² + eps) + β is
    linear in x (Jacob et al. 2018, section 3.2). Transposed convolutions, whose outputs are on
    another axis of the weight, are not folded.

    Raises ValueError for a BatchNorm in training mode or without running statistics, a pair that
    cannot be folded, or a model with nothing to fold.

    >>> net = mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.BatchNorm1d(3), mg.nn.ReLU()).eval()
    >>> mg.nn.utils.fuse_batchnorm(net)
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)  9
      (1): Identity()
      (2): ReLU()
    )                                                        9 parameters
    """
    if norm is not None:
        return _fused(module, norm)
    model = copy.deepcopy(module)
    count = 0
    for parent in list(model.modules()):
        if not isinstance(parent, Sequential):
            continue
        for i in range(len(parent) - 1):
            if type(parent[i]) in _FUSIBLE and isinstance(parent[i + 1], _BatchNorm):
                parent[i], parent[i + 1] = _fused(parent[i], parent[i + 1]), Identity()
                count += 1
    if count == 0:
        raise ValueError(
            "fuse_batchnorm: no Sequential in the model has a BatchNorm after a Linear or "
            "convolution; give such a pair: fuse_batchnorm(layer, norm)"
        )
    return model


def _fused(layer: Any, norm: Any) -> Module:
    if not (type(layer) in _FUSIBLE and isinstance(norm, _BatchNorm)):
        raise ValueError(
            "fuse_batchnorm: expected a Linear, Conv1d or Conv2d and a BatchNorm, got "
            f"{type(layer).__name__} and {type(norm).__name__}"
        )
    if not isinstance(layer.weight, Parameter):
        raise ValueError("fuse_batchnorm: the weight is normalised; use remove_weight_norm first")
    if norm.training or norm.running_mean is None:
        raise ValueError(
            f"fuse_batchnorm: {norm!r} normalises by the statistics of the batch; it needs running "
            "statistics and evaluation mode: model.eval()"
        )
    weight, dtype = layer.weight.numpy(), layer.weight.dtype
    if norm.num_features != len(weight):
        raise ValueError(
            f"fuse_batchnorm: {type(layer).__name__} has {len(weight)} outputs, the BatchNorm "
            f"{norm.num_features} channels"
        )
    mean, var = (s.numpy().astype(np.float64) for s in (norm.running_mean, norm.running_var))
    scale = (1.0 if norm.weight is None else norm.weight.numpy()) / np.sqrt(var + norm.eps)
    bias = (0.0 if layer.bias is None else layer.bias.numpy()) - mean
    bias = bias * scale + (0.0 if norm.bias is None else norm.bias.numpy())
    fused: Module = copy.deepcopy(layer)
    columns = scale.reshape(-1, *(1,) * (weight.ndim - 1))
    fused.weight = Parameter((weight * columns).astype(dtype), layer.weight.requires_grad)
    fused.bias = Parameter(bias.astype(dtype), layer.weight.requires_grad)
    return fused
