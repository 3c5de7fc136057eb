"""Each row of layer_table.py: values by its formula, gradients of both orders by differences."""

from __future__ import annotations

import re

import numpy as np
import pytest
from layer_table import ROWS

import minigrad as mg
from minigrad import nn
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


def test_everything_of_these_kinds_has_a_row():
    kinds = re.compile("loss|cross_entropy|kl_div|pool|^conv|_norm$|interpolate")
    functions = {name for name in functional.__all__ if kinds.search(name)}
    names = {name.replace("_", "") for name in functional.__all__}
    layers = {
        f"nn.{name}"
        for name in nn.__all__
        if re.search(r"(Norm|Renorm|Tanh|Pad|flatten|coderLayer)(\dd)?$", name)
        and not names.intersection({name.lower(), name.lower()[:-2]})
    }
    named = {row.split()[0].rstrip(",") for row in ROWS}
    assert functions | layers <= named
