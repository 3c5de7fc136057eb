"""Each row of layer_table.py: values by its formula, gradients of both orders by differences."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from layer_table import ROWS

import minigrad as mg
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional

each_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


@each_row
def test_values(row):
    for dtype, tolerance in (("float64", 1e-11), ("float32", 2e-5)):
        inputs = [
            mg.tensor(
                a, dtype=dtype if a.dtype.kind == "f" else None, requires_grad=a.dtype == "f8"
            )
            for a in row.inputs
        ]
        result = row.call(*inputs)
        assert result.dtype == dtype and result.requires_grad
        np.testing.assert_allclose(
            result.detach().numpy(), row.expected, rtol=tolerance, atol=tolerance
        )


@each_row
def test_gradients_to_second_order(row):
    inputs = [mg.tensor(a, requires_grad=a.dtype.kind == "f") for a in row.inputs]
    moved = [t for t in inputs if t.requires_grad]
    rest = inputs[len(moved) :]

    def call(*moved):
        return row.call(*moved, *rest)

    assert gradcheck(call, moved)
    # squared, so that the second order of what is linear in its inputs is not 0 everywhere
    assert gradgradcheck(lambda *moved: mg.square(call(*moved)), moved)


def test_every_loss_pooling_and_convolution_has_a_row():
    names = {
        name
        for name, function in inspect.getmembers(functional, inspect.isfunction)
        if ("loss" in name or "cross_entropy" in name or "pool" in name or name.startswith("conv"))
        and not name.startswith("_")
    } | {"kl_div"}
    named = {row.split()[0].rstrip(",") for row in ROWS}
    assert names - {"softmax_cross_entropy"} == named
