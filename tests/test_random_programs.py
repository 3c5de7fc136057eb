"""Programs drawn by hypothesis, against NumPy: values, first and second order. `make torture`
compares many more with PyTorch; the table of their lines is tests/torture/programs.py."""

from __future__ import annotations

import pytest

import minigrad as mg
from minigrad.nn import functional

pytest.importorskip("hypothesis")
from torture.programs import compare_with_numpy, explore, smallest_failure
from torture.rows import ROWS


@pytest.mark.parametrize("number", range(10))
def test_random_programs_agree_with_numpy(number):
    outcomes = explore(compare_with_numpy, 30, number)
    assert outcomes["near a kink"] <= 3, "too few were compared"


@pytest.mark.parametrize("name", ROWS)
def test_programs_of_one_kind_of_line(name):
    assert explore(compare_with_numpy, 3, 0, rows=(name,))[name] > 0


def operation(forward, rule):
    """An operation with the gradient `rule(g, x, out)`."""

    class Operation(mg.autograd.Function):
        @staticmethod
        def forward(ctx, x, *options):
            out = forward(x, *options)
            ctx.save_for_backward(x, out)
            ctx.options = options
            return out

        @staticmethod
        def backward(ctx, g):
            return rule(g, *ctx.saved_tensors), *(None for _ in ctx.options)

    return Operation.apply


WRONG_RULES = {
    "tanh": lambda g, x, out: g * (1.0 - out),
    "exp": lambda g, x, out: g * x,
    "square": lambda g, x, out: g * x,  # a factor of 2
    "sin": lambda g, x, out: -g * mg.cos(x),  # the sign
    "erf": lambda g, x, out: g * 1.12838 * mg.exp(-x * x),  # six digits are right
}
WRONG_AT_SECOND_ORDER = {
    "cosh": lambda g, x, out: g * mg.sinh(x).detach(),
    "cos": lambda g, x, out: -g * mg.sin(x.detach()),
    "asinh": lambda g, x, out: g / mg.sqrt(x * x + 1.0).detach(),
}
DECOYS = ("x + y", "sum", "reshape", "getitem", "sigmoid", "x * n")


@pytest.mark.parametrize("name", WRONG_RULES | WRONG_AT_SECOND_ORDER)
def test_a_planted_wrong_rule_is_caught_and_shrunk_to_its_line(name, monkeypatch):
    rule = (WRONG_RULES | WRONG_AT_SECOND_ORDER)[name]
    monkeypatch.setattr(mg, name, operation(getattr(mg, name), rule))
    program = smallest_failure(compare_with_numpy, (*DECOYS, name))
    assert [line.row for line in program.lines] == [name]
    assert len(program.leaves) == 1 and program.leaves["a"].size == 1


WRONG_VALUES = {
    "softplus": lambda x: mg.log(1.0 + mg.exp(x)) + 1e-10,
    "std": lambda x, axis, correction, keepdims: mg.sqrt(mg.var(x, axis, 0, keepdims)),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_wrong_value_is_caught_too(name, monkeypatch):
    monkeypatch.setattr(functional if name == "softplus" else mg, name, WRONG_VALUES[name])
    program = smallest_failure(compare_with_numpy, (*DECOYS, name))
    assert program.lines[-1].row == name and len(program.lines) <= 2
