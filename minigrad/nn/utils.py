"""Gradient clipping, between backward and the optimiser's step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._core.ops import clip
from .._core.tensor import Tensor
from ..autograd import no_grad
from ..creation import tensor
from ..functions import norm, stack
from .module import number


def _gradients(parameters: Tensor | Iterable[Tensor], name: str) -> list[Tensor]:
    given: Any = [parameters] if isinstance(parameters, Tensor) else parameters
    listed = list(given) if isinstance(given, Iterable) else [given]
    for parameter in listed:
        if not isinstance(parameter, Tensor):
            raise TypeError(
                f"{name}: expected Tensors, got {type(parameter).__name__}; pass model.parameters()"
            )
    return [parameter.grad for parameter in listed if parameter.grad is not None]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by one factor so that their joint norm is at most max_norm (Pascanu et
    al. 2013).

    norm_type: the order of the norm; inf is the largest element. Returns the norm before clipping.
    Raises RuntimeError for a norm that is inf or NaN if error_if_nonfinite, and then scales
    nothing.

    >>> w = mg.tensor([0.0, 0.0], requires_grad=True)
    >>> (w * mg.tensor([3.0, 4.0])).sum().backward()
    >>> mg.nn.utils.clip_grad_norm_([w], max_norm=1.0)
    tensor(5.)
    >>> w.grad.numpy().round(3)
    array([0.6, 0.8], dtype=float32)
    """
    if not number(max_norm, "clip_grad_norm_: max_norm") >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must not be negative, got {max_norm}")
    gradients = _gradients(parameters, "clip_grad_norm_")
    if not gradients:
        return tensor(0.0)
    with no_grad():
        norms = [norm(gradient, ord=norm_type) for gradient in gradients]
        total = norm(stack(norms), ord=norm_type)
        if error_if_nonfinite and not float(total) < float("inf"):
            raise RuntimeError(
                f"clip_grad_norm_: the norm of the gradients is {float(total)}; nothing was scaled"
            )
        factor = max_norm / (float(total) + 1e-6)
        if not factor >= 1:  # also where the norm is NaN, as in PyTorch
            for gradient in gradients:
                gradient *= factor
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value].

    >>> w = mg.tensor([0.0, 0.0], requires_grad=True)
    >>> (w * mg.tensor([3.0, -0.5])).sum().backward()
    >>> mg.nn.utils.clip_grad_value_([w], 1.0)
    >>> w.grad
    tensor([ 1. , -0.5])
    """
    if not number(clip_value, "clip_grad_value_: clip_value") >= 0:
        raise ValueError(f"clip_grad_value_: clip_value must not be negative, got {clip_value}")
    with no_grad():
        for gradient in _gradients(parameters, "clip_grad_value_"):
            gradient.copy_(clip(gradient, -clip_value, clip_value))
