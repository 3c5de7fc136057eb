"""Helpers for comparisons with PyTorch: the same layer in both libraries, and equal results.

A test declares what it compares with `@pytest.mark.peer("nn.Linear", ...)` (in a parameter table,
`pytest.param(..., marks=peer("nn.Linear"))`): the table of the README is made from these marks.
"""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
peer = pytest.mark.peer

DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-11, "atol": 1e-13}}


def random_array(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, shape).astype(dtype)


def both(array, requires_grad=True):
    ours, theirs = mg.tensor(array), torch.tensor(array)
    if array.dtype.kind == "f" and requires_grad:
        return ours.requires_grad_(), theirs.requires_grad_()
    return ours, theirs


def close(ours, theirs, dtype, scale=1.0):
    tolerance = {key: value * scale for key, value in TOLERANCE[dtype].items()}
    assert tuple(ours.shape) == tuple(theirs.shape) and str(ours.dtype) == str(theirs.dtype)[6:]
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), **tolerance)


def pair(build, dtype):
    """The same net in both libraries, with the same state."""
    torch.manual_seed(0)
    ours = build(nn).to(dtype)
    theirs = build(torch.nn).to(getattr(torch, dtype))
    random = np.random.default_rng(1)
    state = {}
    for key, value in theirs.state_dict().items():
        array = value.numpy().copy()
        state[key] = array + random.uniform(0, 0.5, array.shape).astype(array.dtype)
    theirs.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
    ours.load_state_dict(state)
    return ours, theirs


def check_layer(build, array, dtype, modes=("train", "eval")):
    ours, theirs = pair(build, dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mode in modes:
        getattr(ours, mode)()
        getattr(theirs, mode)()
        x, tx = both(array)
        y, ty = ours(x), theirs(tx)
        close(y, ty, dtype)
        cotangent = random_array(y.shape, dtype, seed=2)
        ours.zero_grad()
        theirs.zero_grad()
        y.backward(mg.tensor(cotangent))
        ty.backward(torch.tensor(cotangent))
        close(x.grad, tx.grad, dtype, 10)
        for parameter, (name, other) in zip(
            ours.parameters(), theirs.named_parameters(), strict=True
        ):
            assert parameter.grad is not None, name
            close(parameter.grad, other.grad, dtype, 10)
        for key, value in theirs.state_dict().items():
            close(ours.state_dict()[key], value, dtype)
