"""Embedding: rows, their gradients, padding, the norm limit, pretrained tables, bad input."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core import ops
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3), (2, 0, 3)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_and_gradients_that_add(shape, dtype):
    layer = nn.Embedding(5, 3, dtype=mg.float64)
    indices = RANDOM.integers(0, 5, shape).astype(dtype)
    y = layer(mg.tensor(indices))
    np.testing.assert_array_equal(y.numpy(), layer.weight.numpy()[indices])
    cotangent = RANDOM.normal(size=y.shape)
    y.backward(mg.tensor(cotangent))
    expected = np.zeros((5, 3))
    np.add.at(expected, indices, cotangent)
    np.testing.assert_allclose(layer.weight.grad.numpy(), expected, rtol=1e-12, atol=1e-15)


def test_gradients_of_both_orders():
    weight = mg.tensor(RANDOM.normal(size=(4, 2)), requires_grad=True)
    indices = mg.tensor([[0, 3], [3, 3]])
    for function in (
        lambda w: functional.embedding(indices, w),
        lambda w: functional.embedding(indices, w) ** 3,
    ):
        assert gradcheck(function, (weight,))
        assert gradgradcheck(function, (weight,))


@pytest.mark.parametrize("padding_idx", [2, -3])
def test_the_padding_row_starts_at_zero_and_stays(padding_idx):
    layer = nn.Embedding(5, 3, padding_idx=padding_idx)
    assert layer.padding_idx == 2 and layer.weight[2].tolist() == [0.0] * 3
    (layer(mg.tensor([2, 1, 2])) + 1.0).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy()[:, 0], [0, 1, 0, 0, 0])
    (layer(mg.tensor([2, 2])) * 3.0).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy()[:, 0], [0, 1, 0, 0, 0])


def test_max_norm_scales_the_rows_that_are_looked_up_in_place():
    layer = nn.Embedding(4, 2, max_norm=1.0, dtype=mg.float64)
    table = np.array([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0], [0.0, 0.0]])
    layer.load_state_dict({"weight": table})
    y = layer(mg.tensor([0, 1, 0, 3]))
    np.testing.assert_allclose(
        y.numpy(), [[0.6, 0.8], [0.3, 0.4], [0.6, 0.8], [0.0, 0.0]], rtol=1e-6
    )
    np.testing.assert_array_equal(layer.weight.numpy()[2], [6.0, 8.0])
    y.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy()[:, 0], [2.0, 1.0, 0.0, 1.0])


def test_a_graph_that_saved_the_table_notices_the_scaling():
    layer = nn.Embedding(2, 2, max_norm=0.01)
    loss = (layer.weight * layer.weight).sum() + layer(mg.tensor([0])).sum()
    with pytest.raises(RuntimeError, match="written to in place"):
        loss.backward()


def test_from_pretrained():
    table = RANDOM.normal(size=(4, 3))
    layer = nn.Embedding.from_pretrained(table, padding_idx=1)
    assert not layer.weight.requires_grad and layer.weight.dtype == mg.float64
    np.testing.assert_array_equal(layer.weight.numpy(), table)
    layer.weight.detach()[0] = 7.0
    assert table[0, 0] != 7.0
    layer = nn.Embedding.from_pretrained(mg.tensor(table), freeze=False, max_norm=1.0)
    assert layer.weight.requires_grad and layer.max_norm == 1.0
    with pytest.raises(ValueError, match=r"rows of vectors, got shape \(3,\)"):
        nn.Embedding.from_pretrained(mg.ones(3))


def test_starts_standard_normal():
    mg.manual_seed(0)
    values = nn.Embedding(400, 100).weight.numpy()
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 3), {}, ValueError, "num_embeddings must be positive, got 0"),
        ((3, "2"), {}, TypeError, "embedding_dim must be an int, got '2'"),
        ((3, 2), {"padding_idx": 3}, ValueError, "padding_idx 3 out of range for 3 rows"),
        ((3, 2), {"padding_idx": 1.0}, TypeError, r"padding_idx must be an int, got 1\.0"),
        ((3, 2), {"max_norm": 0}, ValueError, "max_norm must be positive, got 0"),
        ((3, 2), {"norm_type": "2"}, TypeError, "norm_type must be a number, got '2'"),
    ],
)
def test_constructor_refuses(arguments, options, error, message):
    with pytest.raises(error, match=message):
        nn.Embedding(*arguments, **options)


def test_forward_refuses():
    layer = nn.Embedding(3, 2, max_norm=0.01)
    before = layer.weight.numpy(copy=True)
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f"index {wrong} is out of range for 3 rows"):
            layer(mg.tensor([0, wrong]))
    with pytest.raises(TypeError, match="indices must be integers, got float32"):
        layer(mg.tensor([0.0]))
    with pytest.raises(ValueError, match="two dimensions"):
        functional.embedding(mg.tensor([0]), mg.ones(3))
    np.testing.assert_array_equal(layer.weight.numpy(), before)


# -------------------------------------------------------------- picking slices, and its adjoint
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "?"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_take_and_put_along_any_axis(dtype, axis, order):
    x = np.array(RANDOM.normal(size=(3, 4, 5)) * 9, dtype, order=order)
    for indices in (np.array(-1), np.array([[0, 2], [-3, 2]]), np.zeros((2, 0), int)):
        index = (slice(None),) * axis + (indices,)
        y = mg.take(mg.asarray(x), indices, axis)
        np.testing.assert_array_equal(y.numpy(), x[index])
        assert y.dtype == x.dtype
        if dtype != "?":
            expected = np.zeros_like(x)
            np.add.at(expected, index, x[index])
            ours = ops.put(mg.asarray(x[index]), index, x.shape)
            np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6)


def test_take_and_put_check_the_bounds():
    for wrong in (4, -5):
        with pytest.raises(
            IndexError, match=rf"index {wrong} is out of bounds for axis 1 .*size 4"
        ):
            mg.ones(2, 4)[:, np.array([0, wrong])]
        with pytest.raises(IndexError, match=f"index {wrong} is out of bounds"):
            ops.put(mg.ones(2, 1), (slice(None), np.array([wrong])), (2, 4))
    with pytest.raises(ValueError, match="put"):
        ops.put(mg.ones(3, 2), np.array([0, 1]), (4, 2))
