"""The dtypes of results: integers are weak against floats, numbers against Tensors and arrays."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from promotion_table import DTYPES, ONE, PAIRS, TENSORS, TWO, operand, resulting

import minigrad as mg
from minigrad import nn
from minigrad.nn import functional as F

FLOATS = ("float32", "float64")


@pytest.fixture(params=FLOATS)
def default(request):
    """Each test runs under both default dtypes."""
    mg.set_default_dtype(request.param)
    yield request.param
    mg.set_default_dtype(mg.float32)


def common(row, column, result, default):
    """The table is written for a default of float32, which a float number makes of integers."""
    weak = isinstance(row, float) and np.dtype(column).kind != "f"
    return default if weak else result


@pytest.mark.parametrize("row, column, result", PAIRS)
def test_two_operands(row, column, result, default):
    result = common(row, column, result, default)
    for name, (kind, function) in (TWO | TENSORS if isinstance(row, str) else TWO).items():
        for pair in ((row, column), (column, row)):
            made = function(mg, *(operand(mg, one) for one in pair))
            assert made.dtype == resulting(name, kind, result, default), (name, pair)
    assert mg.result_type(operand(mg, row), operand(mg, column)) == result


@pytest.mark.parametrize("row, column, result", PAIRS)
def test_arrays_count_as_tensors_do_and_numpy_scalars_as_numbers(row, column, result, default):
    """0-d arrays are arrays: a float64 one makes a float32 Tensor float64."""
    result, x = common(row, column, result, default), operand(mg, column)
    if isinstance(row, str):
        others = [np.ones(2, row), np.array(1, row), mg.tensor(1).astype(row)]
    else:  # of any precision
        others = {bool: [np.bool_], int: [np.uint8, np.int64], float: [np.float16, np.float64]}
        others = [scalar(row) for scalar in others[type(row)]]
    for other in others:
        for made in (x + other, other + x, mg.where(x > 0, x, other)):
            assert made.dtype == result
        assert mg.result_type(x, other) == result


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_operand(name, dtype, default):
    kind, function = ONE[name]
    if kind == "float" or dtype != "bool":
        assert function(mg, operand(mg, dtype)).dtype == resulting(name, kind, dtype, default)


TO_FLOATS = {
    "mean": lambda x: x.mean(),
    "mean along an axis": lambda x: x.mean(axis=0, keepdims=True),
    "var": lambda x: x.var(correction=1),
    "std": lambda x: x.std(),
    "logsumexp": lambda x: mg.logsumexp(x),
    "softmax": lambda x: mg.softmax(x),
    "log_softmax": lambda x: mg.log_softmax(x),
    "norm": lambda x: mg.norm(x),
    "norm of order 3": lambda x: mg.norm(x, ord=3),
    "power": lambda x: x**0.5,
    "half of": lambda x: x / 2,
    "one over": lambda x: 1 / x,
    "clip": lambda x: mg.clip(x, 0.5),
    "clip from above": lambda x: mg.clip(x, max=0.5),
    "mse_loss": lambda x: F.mse_loss(x, x),
    "rms_norm": lambda x: F.rms_norm(x, 2),
    "pad": lambda x: mg.concat([x, mg.tensor([0.5])]),
}


@pytest.mark.parametrize("name", TO_FLOATS)
@pytest.mark.parametrize("dtype", ["bool", "int32", "int64"])
def test_integers_become_the_default_dtype_where_a_float_is_needed(name, dtype, default):
    x = mg.tensor([1, 1]).astype(dtype)
    assert TO_FLOATS[name](x).dtype == default
    exact = TO_FLOATS[name](x.astype(mg.float64)).numpy()
    np.testing.assert_allclose(TO_FLOATS[name](x).numpy(), exact, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_statistics_of_large_integers_are_computed_in_double(dtype):
    x = np.array([1_700_000_001, 1_700_000_004, 1_700_000_007], dtype)
    assert mg.tensor(x).var().item() == 6.0
    assert mg.tensor(x).mean().item() == np.float32(1_700_000_004)
    assert mg.norm(mg.tensor(x)).item() == np.float32(np.linalg.norm(x.astype(float)))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_maxima_of_integers_stay_integers(dtype):
    x = mg.tensor([[2**30 + 1, 5, 2**30 + 2, -7]], dtype=dtype)
    assert F.max_pool1d(x, 2).tolist() == [[2**30 + 1, 2**30 + 2]]
    largest, places = F.max_pool2d(x[None], (1, 3), padding=(0, 1), return_indices=True)
    assert largest.tolist() == [[[2**30 + 1, 2**30 + 2]]] and largest.dtype == dtype
    assert places.tolist() == [[[0, 2]]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_statistics_of_an_empty_axis_keep_the_dtype(dtype, default):
    x = mg.ones(3, 0, dtype=dtype)
    for y, value in ((x.std(axis=1), np.nan), (mg.norm(x, axis=1), 0.0)):
        np.testing.assert_array_equal(y.numpy(), np.full(3, value, dtype))
        assert y.dtype == dtype


def test_comparisons_of_integers_with_floats_are_exact():
    large = 2**24 + 1  # which float32 lacks
    x = mg.tensor([large])
    assert not (x == mg.tensor([float(2**24)])).item() and not (x == float(2**24)).item()
    assert (x > mg.tensor([float(2**24)])).item() and (float(2**24) < x).item()


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64"])
def test_gradients_through_weak_integers(dtype):
    whole = mg.tensor([1, 0, 1]).astype(dtype)
    for order in ("float32", "float64"):
        x = mg.tensor([0.5, 1.5, 2.5], dtype=order, requires_grad=True)
        for y in (
            x * whole,
            whole * x,
            x + whole,
            x**whole,
            mg.where(x > 1, x, whole),
            x / (whole + 1),
        ):
            assert y.dtype == order
            assert mg.autograd.grad(y.sum(), x)[0].dtype == order
    assert mg.autograd.gradcheck(lambda x: x * whole + x**whole, [x])
    assert mg.autograd.gradgradcheck(lambda x: x * whole + x**whole, [x])


def test_products_with_integers_keep_float32():
    x, whole = mg.ones(2, 2), mg.tensor([[1, 2], [3, 4]])
    for y in (
        x @ whole,
        whole @ x,
        mg.einsum("ij,jk", x, whole),
        F.linear(x, whole),
        whole @ whole / 1,
    ):
        assert y.dtype == mg.float32
    assert F.mse_loss(x, whole).dtype == mg.float32


def test_result_type_takes_dtypes_and_refuses_the_rest():
    assert mg.result_type("int32", mg.bool) == mg.int32
    assert mg.result_type(mg.int64, mg.float32) == mg.float32
    assert mg.result_type(1, 2.5) == mg.float32 and mg.result_type(True) == mg.bool
    for wrong in ((), (None,), ("float16",), (mg.ones(1), "no dtype"), ([1.0],)):
        with pytest.raises(TypeError):
            mg.result_type(*wrong)


def test_promotion_is_decided_in_one_place():
    for path in Path(mg.__file__).parent.rglob("*.p*"):
        if path.suffix in (".py", ".pyx", ".pxi") and path.parent.name != "generated":
            found = re.findall(
                r"np\.(?:result_type|promote_types)", path.read_text(encoding="utf-8")
            )
            assert not found, path


# ----------------------------------------------------------------- float64 data meets a float32 net
IMAGES = np.random.default_rng(0).normal(size=(2, 4, 8, 8))
ROWS = np.random.default_rng(0).normal(size=(6, 2, 4))
LAYERS = {
    "Linear": (lambda: nn.Linear(4, 3), ROWS),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3), ROWS),
    "Conv2d": (lambda: nn.Conv2d(4, 3, 3), IMAGES),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 3), IMAGES),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(2), ROWS),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), IMAGES),
    "LayerNorm": (lambda: nn.LayerNorm(4), ROWS),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "RMSNorm": (lambda: nn.RMSNorm(4), ROWS),
    "PReLU": (lambda: nn.PReLU(), ROWS),
    "RNN": (lambda: nn.RNN(4, 3), ROWS),
    "LSTM": (lambda: nn.LSTM(4, 3), ROWS),
    "GRU": (lambda: nn.GRU(4, 3), ROWS),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), (ROWS, ROWS, ROWS)),
}


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_float32_layer_says_once_that_it_was_given_float64(kind, shortcuts, recwarn):
    build, data = LAYERS[kind]
    data = tuple(map(mg.tensor, data if isinstance(data, tuple) else (data,)))
    net = nn.Sequential(build()) if len(data) == 1 else build()
    name = rf"layer 0 \({kind}\)" if len(data) == 1 else kind
    with mg.autograd.accelerated(shortcuts):
        with pytest.warns(UserWarning, match=f"^{name}: .*astype.mg.float32.*net.double") as caught:
            net(*data)
        assert caught[0].filename == __file__
        net(*data)
        net.double()(*data)
        build()(*(x.astype(mg.float32) for x in data))
    assert not recwarn


def test_one_warning_for_each_net(recwarn):
    x = mg.tensor(ROWS)
    first, second = (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(2))
    with pytest.warns(UserWarning, match="^layer 0"):
        first(x)
    first(x), first[2](x)
    with pytest.warns(UserWarning, match="^layer 0"):
        second(x)
    assert len(recwarn) == 0


def test_no_warning_without_float32_parameters(recwarn):
    x = mg.tensor(ROWS)
    nn.BatchNorm1d(2, affine=False)(x)  # float32 running statistics
    nn.MSELoss()(x, mg.zeros(6, 2, 4))
    nn.Linear(4, 3).double()(mg.ones(2, 4))  # float32 data, float64 net
    nn.Linear(4, 3)(mg.ones(2, 4, dtype=mg.int64))
    assert not recwarn


def test_python_and_numpy_scalars_make_the_default_dtype():
    assert mg.arange(np.float32(3)).dtype == mg.arange(np.float64(3)).dtype == mg.float32
    assert mg.arange(0, mg.tensor(2.0, mg.float64)).dtype == mg.float32
    assert mg.arange(np.int32(3)).dtype == mg.int64
    for data in ([1.0, 2.0], 1.0, deque([[0.5]]), [np.float64(1)]):
        assert mg.Tensor(data).dtype == mg.asarray(data).dtype == mg.tensor(data).dtype
    assert mg.Tensor([mg.tensor(1.0, mg.float64)]).dtype == mg.float64
    assert mg.Tensor(np.ones(2)).dtype == mg.Tensor(np.float64(1)).dtype == mg.float64
