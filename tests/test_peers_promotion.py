"""The dtypes of results vs. PyTorch: pairs of dtypes, numbers, functions of integers."""

from __future__ import annotations

import pytest
from promotion_table import DTYPES, OF_BOOLS, ONE, PAIRS, TENSORS, TWO, operand

import minigrad as mg

torch = pytest.importorskip("torch")


def dtype_of(function, library, *operands):
    return str(function(library, *(operand(library, one) for one in operands)).dtype)


@pytest.mark.peer("result_type")
@pytest.mark.parametrize("row, column, result", PAIRS)
def test_two_operands(row, column, result):
    for name, (_, function) in (TWO | TENSORS if isinstance(row, str) else TWO).items():
        for pair in ((row, column), (column, row)):
            if result != "bool" or name not in OF_BOOLS:
                theirs = dtype_of(function, torch, *pair)
                assert f"torch.{dtype_of(function, mg, *pair)}" == theirs, (name, pair)
    theirs = torch.result_type(operand(torch, column), operand(torch, row))
    assert f"torch.{mg.result_type(operand(mg, column), operand(mg, row))}" == str(theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ONE)
def test_one_operand(name, dtype):
    kind, function = ONE[name]
    if kind == "float" or dtype != "bool":
        assert f"torch.{dtype_of(function, mg, dtype)}" == dtype_of(function, torch, dtype)
