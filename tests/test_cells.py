"""The cells of recurrent nets: their derived loops give what the formula gives, and so do their
gradients."""

import numpy as np
import pytest

import minigrad as mg
from minigrad._core import formulas, ops
from minigrad._core.fast import derive
from minigrad.autograd import accelerated, grad, gradcheck, gradgradcheck

pytestmark = pytest.mark.accelerated
DTYPES = [np.float32, np.float64]
SHAPES = [(1,), (3, 5), (0,), (7, 0), (511,), (512,), (513, 1), (5, 2, 103), (300, 7)]
SPECIAL = [0.0, -0.0, 1e-40, 1e-20, 1.0, -30.0, 90.0, 1e30, np.inf, -np.inf, np.nan]


def values(shape, dtype, seed):
    random = np.random.default_rng(seed)
    return (3 * random.standard_normal(shape)).astype(dtype)


def run(fast, arrays, cotangent):
    """The next cell and h, and the gradients of gates and cell, by the loops or by the formula."""
    inputs = [mg.tensor(a, requires_grad=True) for a in arrays]
    with accelerated(fast):
        y = ops.lstm_cell(*inputs)
        assert y.grad_fn.name == "lstm_cell"
        found = [y, *grad(y, inputs, mg.tensor(cotangent))]
    return [t.detach().numpy() for t in found]


def compare(arrays, cotangent):
    epsilon = np.finfo(arrays[0].dtype).eps
    found, expected = (run(fast, arrays, cotangent) for fast in (True, False))
    for ours, want in zip(found, expected, strict=True):
        assert ours.dtype == want.dtype and ours.shape == want.shape
        scale = 1 + np.abs(arrays[1]).max(initial=0, where=np.isfinite(arrays[1]))
        np.testing.assert_allclose(ours, want, rtol=8 * epsilon, atol=16 * epsilon * scale)


def inputs(shape, dtype):
    n, *rest = shape
    shapes = [(4 * n, *rest), shape, (2 * n, *rest)]
    gates, cell, cotangent = (values(s, dtype, k) for k, s in enumerate(shapes))
    return [gates, cell], cotangent


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_formula(shape, dtype):
    compare(*inputs(shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype):
    """Each special value in each gate and in the cell; the other inputs are ordinary."""
    ordinary, cotangent = inputs((len(SPECIAL), 5), dtype)
    for k in range(5):
        gates, cell = (a.copy() for a in ordinary)
        (*np.split(gates, 4), cell)[k][:] = np.array(SPECIAL, dtype)[:, None]
        found, expected = (run(fast, [gates, cell], cotangent) for fast in (True, False))
        epsilon = np.finfo(dtype).eps
        np.testing.assert_allclose(found[0], expected[0], rtol=8 * epsilon, atol=32 * epsilon)
        usual = np.isfinite(np.array(SPECIAL)) & (np.abs(SPECIAL) < 1e20)
        for ours, want in zip(found[1:], expected[1:], strict=True):
            ours, want = (a.reshape(-1, len(SPECIAL), 5) for a in (ours, want))
            atol = 1e-4 if dtype is np.float32 else 1e-12
            np.testing.assert_allclose(ours[:, usual], want[:, usual], rtol=0, atol=atol)
            assert np.isnan(ours[:, -1]).any() and np.isnan(want[:, -1]).any()


@pytest.mark.parametrize("wrong", ["values", "gradients"])
def test_the_comparison_notices_another_formula(wrong, monkeypatch):
    formula = formulas.lstm_cell

    def other(z_i, z_f, z_g, z_o, c):
        if wrong == "values":
            return formula(z_f, z_i, z_g, z_o, c)
        cell, _ = formula(z_i, z_f, z_g, z_o, c)
        return cell, z_o.sigmoid() * cell.tanh().detach()  # right values, wrong gradient

    monkeypatch.setattr(formulas, "lstm_cell", other)
    with pytest.raises(AssertionError, match="Not equal"):
        compare(*inputs((3, 5), np.float64))


@pytest.mark.parametrize("fast", [True, False])
def test_both_orders_against_finite_differences(fast):
    arrays, _ = inputs((3, 2), np.float64)
    tensors = [mg.tensor(a, requires_grad=True) for a in arrays]
    with accelerated(fast):
        assert gradcheck(ops.lstm_cell, tensors)
        assert gradgradcheck(ops.lstm_cell, tensors)


# ------------------------------------------------------------------------- the derivation by itself
def evaluate(symbol, known):
    """The value of a symbol in NumPy."""
    if symbol not in known:
        parts = [evaluate(a, known) for a in symbol.args]
        functions = {
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "tanh": np.tanh,
            "const": lambda: symbol.value,
        }
        known[symbol] = functions.get(symbol.op, getattr(np, symbol.op, None))(*parts)
    return known[symbol]


def error_of_derived_gradient(name):
    """How far the derived backward is from central differences of the derived forward."""
    (inputs, forward), (given, backward) = derive.of_cell(name)
    at = dict(zip(inputs, np.random.default_rng(3).standard_normal(len(inputs)), strict=True))

    def after_h(at):
        known = {inputs[n]: v for n, v in at.items()}
        return [evaluate(forward[k], known) for k in ("after", "h")]

    weights, worst = {"d_after": 0.7, "d_h": -1.3}, 0.0
    kept = {s: evaluate(s, {inputs[n]: v for n, v in at.items()}) for s in forward.values()}
    known = kept | {inputs[n]: v for n, v in at.items() if inputs[n] in given.values()}
    known |= {given[n]: w for n, w in weights.items()}
    for n in inputs:
        ends = [np.dot([*weights.values()], after_h(at | {n: at[n] + e})) for e in (1e-6, -1e-6)]
        slope = (ends[0] - ends[1]) / 2e-6
        worst = max(worst, abs(slope - evaluate(backward[f"d_{n}"], dict(known))))
    return worst


@pytest.mark.parametrize("name", derive.CELLS)
def test_the_derived_gradient_is_that_of_the_forward(name, monkeypatch):
    assert error_of_derived_gradient(name) < 1e-8
    wrong = {**derive.GATE_RULES, "tanh": (lambda g, out: g * (1.0 + out * out),)}
    monkeypatch.setattr(derive, "GATE_RULES", derive.RULES | wrong)
    assert error_of_derived_gradient(name) > 1e-2
