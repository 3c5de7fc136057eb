"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import numpy as np

from ..checks import check_count, choice, real
from .optimizer import Optimizer, Rule, options

__all__ = ["Muon"]


class Muon(Optimizer):
    """Momentum with orthogonalised steps, for the matrices of hidden layers (Jordan et al. 2024).

    m = momentum m + (1 - momentum) g, with g the gradient (its negative to maximize), and
    p = (1 - lr weight_decay) p - lr s O, where O is near U Vᵀ of the singular value decomposition
    U S Vᵀ of momentum m + (1 - momentum) g (nesterov), or of m: all directions of the step have
    about the same length. ns_steps Newton-Schulz iterations compute it by products alone, see
    `orthogonalised`; PyTorch rounds them to bfloat16, here they have the precision of p.

    adjust_lr_fn: s = sqrt(max(1, rows / columns)) for "original" or None, and
        0.2 sqrt(max(rows, columns)) for "match_rms_adamw" (Liu et al. 2025, equation 4), with which
        lr and weight_decay are those of AdamW.
    Raises ValueError for parameters that are no matrices: give biases, normalisation and embeddings
    to AdamW. Other errors: see `Optimizer`. State: `momentum_buffer` (m).

    >>> weight = mg.tensor([[3.0, 0.0], [0.0, 0.01]], requires_grad=True)
    >>> optimizer = mg.optim.Muon([weight], lr=0.1, weight_decay=0)
    >>> (weight**2).sum().backward()
    >>> optimizer.step()
    >>> weight.detach().numpy().round(2)  # both singular values moved
    array([[ 2.93,  0.  ],
           [ 0.  , -0.11]], dtype=float32)
    """

    ranges = ("lr", "weight_decay", "momentum", "eps")
    keeps = ("momentum_buffer",)
    may_be_missing = ("maximize",)  # PyTorch has none
    mixes = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(params, options(locals()), unknown)

    def check_options(self, group: dict[str, Any]) -> None:
        """Raise if an option in `group` is out of its range."""
        super().check_options(group)
        given = group["ns_coefficients"]
        if not isinstance(given, (tuple, list)) or len(given) != 3:
            raise TypeError(f"Muon: ns_coefficients must be three numbers, got {given!r}")
        for number in given:
            real(number, "Muon: a coefficient")
        group["ns_steps"] = check_count("Muon", "ns_steps", group["ns_steps"], least=0)
        if group["ns_steps"] >= 100:
            raise ValueError(f"Muon: ns_steps must be below 100, got {group['ns_steps']}")
        if group["adjust_lr_fn"] is not None:
            choice(group["adjust_lr_fn"], "Muon: adjust_lr_fn", "original", "match_rms_adamw")

    def _check_parameter(self, parameter: Any, position: int, known: set[int]) -> None:
        super()._check_parameter(parameter, position, known)
        if parameter.ndim != 2:
            raise ValueError(
                f"Muon: parameter {position} of group {len(self.param_groups)} has shape "
                f"{parameter.shape}, but Muon optimises matrices (2-D) only; give it the matrices, "
                "[p for p in net.parameters() if p.ndim == 2], and the others to AdamW"
            )

    def update_rule(self, group: dict[str, Any]) -> Rule:
        """The step of one matrix."""
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        newton_schulz = group["ns_coefficients"], group["ns_steps"], group["eps"]

        def update(p: np.ndarray, d: np.ndarray, state: dict[str, Any]) -> None:
            g = -d if group["maximize"] else d
            m = state.get("momentum_buffer", np.zeros_like(p)).astype(p.dtype, copy=False)
            m = m + (1 - momentum) * (g - m)
            state["momentum_buffer"] = m
            if p.size == 0:
                return
            rows, columns = p.shape
            scale = sqrt(max(1.0, rows / columns))
            if group["adjust_lr_fn"] == "match_rms_adamw":
                scale = 0.2 * sqrt(max(rows, columns))
            step = g + momentum * (m - g) if group["nesterov"] else m
            p *= 1 - lr * decay
            p -= lr * scale * orthogonalised(step, *newton_schulz)

        return update


def orthogonalised(
    matrix: np.ndarray, coefficients: tuple[float, float, float], steps: int, eps: float
) -> np.ndarray:
    """A matrix with the singular vectors of this one, and singular values near 1.

    Newton-Schulz iterations of Jordan et al. 2024: X = a X + (b A + c A²) X with A = X Xᵀ, from
    matrix / max(norm, eps). The coefficients (a, b, c) of Muon make the slope at 0 steep, and so
    small singular values grow fast, to between 0.7 and 1.2.

    >>> from minigrad.optim.muon import orthogonalised
    >>> matrix = np.array([[3.0, 0.0], [0.0, 0.3]])
    >>> orthogonalised(matrix, (1.5, -0.5, 0.0), 20, 1e-7).round(6)  # coefficients that converge
    array([[1., 0.],
           [0., 1.]])
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x: np.ndarray = matrix.T if tall else matrix
    x = x / max(np.linalg.norm(x), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
