"""The array API: what a library asks of a namespace; bits, sets, differences; einops and
array-api-compat on Tensors. The standard's own suite runs by `make test-array-api`."""

from __future__ import annotations

import ast
import math
import operator
import re
from pathlib import Path

import numpy as np
import pytest
from array_api_suite import EXCEPTIONS

import minigrad as mg
from minigrad.autograd import gradcheck, gradgradcheck

DTYPES = ("bool", "int32", "int64", "float32", "float64")
RANDOM = np.random.default_rng(0)


# ---------------------------------------------------------------------------------- the namespace
def test_the_namespace_of_a_tensor_is_mg():
    x = mg.ones(2)
    assert x.__array_namespace__() is x.__array_namespace__(api_version="2022.12") is mg
    assert re.fullmatch(r"\d{4}\.\d{2}", mg.__array_api_version__)
    with pytest.raises(ValueError, match="api_version must be one of"):
        x.__array_namespace__(api_version="2019.01")


def test_inspection():
    info = mg.__array_namespace_info__()
    assert info.devices() == (info.default_device(),) == ("cpu",)
    assert tuple(sorted(info.dtypes())) == tuple(sorted(DTYPES))
    assert list(info.dtypes(kind=("bool", "real floating"), device="cpu")) == [
        "float32",
        "float64",
        "bool",
    ]
    assert info.dtypes(kind="unsigned integer") == {}
    assert info.default_dtypes()["real floating"] == mg.float32
    mg.set_default_dtype(mg.float64)
    try:
        assert info.default_dtypes()["real floating"] == mg.float64
    finally:
        mg.set_default_dtype(mg.float32)
    assert info.capabilities()["max dimensions"] == 64
    assert mg.ones((1,) * 64).ndim == 64


def test_the_only_device_is_the_cpu():
    x = mg.ones(2)
    assert x.device == "cpu" and x.to_device("cpu") is x
    makers = [
        *(lambda d, f=f: f((2,), device=d) for f in (mg.zeros, mg.ones, mg.empty)),
        *(lambda d, f=f: f(x, device=d) for f in (mg.zeros_like, mg.ones_like, mg.empty_like)),
        lambda d: mg.full((2,), 1, device=d),
        lambda d: mg.full_like(x, 1, device=d),
        lambda d: mg.arange(2, device=d),
        lambda d: mg.linspace(0, 1, 2, device=d),
        lambda d: mg.eye(2, device=d),
        lambda d: mg.asarray([1.0], device=d),
        lambda d: mg.from_dlpack(x, device=d),
        lambda d: mg.astype(x, mg.float64, device=d),
        lambda d: mg.ones(2).to_device(d),
        lambda d: mg.__array_namespace_info__().dtypes(device=d),
    ]
    for make in makers:
        make("cpu")
        with pytest.raises(ValueError, match="minigrad computes on the CPU, not on 'cuda'"):
            make("cuda")


# ----------------------------------------------------------------------------------------- dtypes
def test_limits():
    for name in ("float32", "float64"):
        ours, theirs = mg.finfo(name), np.finfo(name)
        for field in ("bits", "eps", "max", "min", "smallest_normal"):
            assert getattr(ours, field) == getattr(theirs, field)
            assert type(getattr(ours, field)) in (int, float)
        assert mg.finfo(mg.ones(1, dtype=name)) == ours and ours.dtype == name
    for name in ("int32", "int64"):
        ours, theirs = mg.iinfo(name), np.iinfo(name)
        assert (ours.bits, ours.min, ours.max, ours.dtype) == (
            theirs.bits,
            theirs.min,
            theirs.max,
            name,
        )
    for call, wrong in (
        (mg.finfo, mg.int32),
        (mg.iinfo, mg.float32),
        (mg.finfo, mg.tensor([True])),
    ):
        with pytest.raises(TypeError, match=f"{call.__name__}: expected .*, got"):
            call(wrong)


KINDS = {
    "bool": ("bool",),
    "signed integer": ("int32", "int64"),
    "unsigned integer": (),
    "integral": ("int32", "int64"),
    "real floating": ("float32", "float64"),
    "complex floating": (),
    "numeric": ("int32", "int64", "float32", "float64"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_isdtype(dtype, kind):
    assert mg.isdtype(np.dtype(dtype), kind) is (dtype in KINDS[kind])
    assert mg.isdtype(np.dtype(dtype), (mg.float32, kind)) is (dtype in {*KINDS[kind], "float32"})
    with pytest.raises(ValueError, match="isdtype: kind must be one of bool"):
        mg.isdtype(mg.float32, "float")


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_can_cast_is_promotion(source, target):
    upwards = DTYPES.index(source) <= DTYPES.index(target)
    assert mg.can_cast(source, np.dtype(target)) is upwards
    assert mg.can_cast(mg.ones(1, dtype=source), target) is upwards


# ----------------------------------------------------------------------------- bits, signs, steps
BITS = {
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "bitwise_left_shift": operator.lshift,
    "bitwise_right_shift": operator.rshift,
}


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("left", DTYPES[:3])
@pytest.mark.parametrize("right", DTYPES[:3])
def test_bits(name, left, right):
    x, y = RANDOM.integers(-9, 9, (3, 4)).astype(left), RANDOM.integers(0, 5, 4).astype(right)
    a, b = mg.tensor(x), mg.tensor(y)
    if "shift" in name and left == right == "bool":
        return
    exact = BITS[name](x, y)
    for result in (getattr(mg, name)(a, b), BITS[name](a, b), BITS[name](a, y), BITS[name](x, b)):
        np.testing.assert_array_equal(result.numpy(), exact)
        assert result.dtype == exact.dtype
    if exact.dtype == x.dtype:
        assert getattr(operator, f"i{BITS[name].__name__.strip('_')}")(a, b) is a
        np.testing.assert_array_equal(a.numpy(), exact)
    for wrong in (mg.tensor([0.5]), 0.5):
        with pytest.raises(TypeError, match=name):
            getattr(mg, name)(mg.tensor(x), wrong)


def test_elementwise_without_gradient():
    x, y = mg.tensor([0.0, -0.0, -1.5, math.nan, math.inf]), mg.tensor([1.0, -1.0, 0.0, 1.0, -1.0])
    np.testing.assert_array_equal(mg.signbit(x).numpy(), np.signbit(x.numpy()))
    np.testing.assert_array_equal(mg.nextafter(x, y).numpy(), np.nextafter(x.numpy(), y.numpy()))
    np.testing.assert_array_equal(mg.bitwise_invert(mg.tensor([0, 7])).numpy(), [-1, -8])
    np.testing.assert_array_equal(mg.bitwise_invert(mg.tensor([True])).numpy(), [False])
    assert mg.positive(x) is mg.conj(x) is mg.real(x) is x and not mg.imag(y).any()
    copied = mg.copysign(x, y).numpy()
    np.testing.assert_array_equal(copied, np.copysign(x.numpy(), y.numpy()))
    np.testing.assert_array_equal(np.signbit(copied), np.signbit(np.copysign(x.numpy(), y.numpy())))
    assert mg.copysign(mg.tensor([1, 2]), -1).dtype == mg.float32
    assert mg.nextafter(mg.tensor([1, 2]), 5).tolist() == [1 + 2**-23, 2 + 2**-22]
    assert mg.nextafter(mg.tensor([True]), mg.tensor([False])).tolist() == [1 - 2**-24]
    assert mg.nextafter(mg.tensor([1]), mg.ones(1, dtype=mg.float64)).dtype == np.float64
    with pytest.raises(ValueError, match=r"nextafter: .*\(2,\) .*\(3,\)"):
        mg.nextafter(mg.ones(2), mg.ones(3))


def test_gradients_of_what_is_composed():
    x = mg.tensor(RANDOM.normal(size=(3, 5)), requires_grad=True)
    y = mg.tensor(RANDOM.normal(size=(3, 1)))
    functions = [
        lambda x: mg.copysign(x, y) ** 2,
        lambda x: mg.diff(x, axis=0, n=2) ** 3,
        lambda x: mg.diff(x, prepend=y, append=2.0 * x[:, :2]) ** 3,
        lambda x: mg.broadcast_arrays(x, y)[0] ** 3,
        lambda x: mg.sum(x, dtype=mg.float64) ** 2,
        lambda x: mg.astype(x, mg.float64, copy=True) ** 3,
        lambda x: mg.reshape(x, (5, 3), copy=True) ** 3,
    ]
    for function in functions:
        assert gradcheck(function, [x]) and gradgradcheck(function, [x])


@pytest.mark.parametrize("dtype", DTYPES)
def test_diff(dtype):
    whole = RANDOM.integers(-9, 9, (4, 5))
    for x in (whole.astype(dtype), whole.T.astype(dtype)[::-1], whole[:0].astype(dtype)):
        for options in (
            {},
            {"axis": 0},
            {"axis": -2, "n": 2},
            {"n": 3},
            {"n": 0},
            {"n": 9},
            {"axis": 0, "append": x[:2]},
            {"n": 0, "append": x},
            {"prepend": x[:, :0], "append": x},
            {"prepend": 0, "append": 7, "n": 2},
            {"axis": 0, "prepend": np.array(3)},
            {"prepend": x[:, :1].astype(float)},
        ):
            found, exact = mg.diff(mg.tensor(x), **options), np.diff(x, **options)
            np.testing.assert_array_equal(found.numpy(), exact, str(options))
            joined = [options.pop(name) for name in ("prepend", "append") if name in options]
            assert found.dtype == (mg.result_type(x, *joined) if options.get("n") != 0 else dtype)
    x = mg.tensor(whole)
    np.testing.assert_array_equal(mg.diff(x, 2, 0).numpy(), np.diff(whole, 2, 0))
    assert mg.diff(x, prepend=0.5).dtype == mg.float32
    assert mg.diff(x, 10**12).shape == (4, 0)
    with pytest.raises(ValueError, match="diff: n must be at least 0, got -1"):
        mg.diff(x, n=-1)
    with pytest.raises(ValueError, match="concat: "):
        mg.diff(x, prepend=mg.ones(3))
    with pytest.raises(np.exceptions.AxisError, match="diff: axis -1"):
        mg.diff(mg.tensor(1))


def test_isin_compares_integers_with_floats_exactly():
    x, among = mg.tensor([2**24, 2**24 + 1]), mg.tensor([2.0**24])
    assert mg.isin(x, among).tolist() == [True, False]
    assert mg.isin(mg.tensor([0.1, 0.2]), 0.1).tolist() == [True, False]


# ----------------------------------------------------------------------------- shapes, sets, copies
def test_broadcasting():
    x, y = mg.broadcast_arrays(mg.ones(2, 1), mg.zeros(3))
    assert x.shape == y.shape == mg.broadcast_shapes((2, 1), (3,)) == (2, 3)
    for call in (
        lambda: mg.broadcast_shapes((2,), (3,)),
        lambda: mg.broadcast_arrays(x, mg.ones(4)),
    ):
        with pytest.raises(ValueError, match=r"broadcast_shapes: shapes .* do not broadcast"):
            call()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sets(dtype):
    x = RANDOM.integers(-2, 3, (3, 4)).astype(dtype)
    values, indices, inverse, counts = mg.unique_all(mg.tensor(x))
    np.testing.assert_array_equal(values.numpy(), np.unique(x))
    np.testing.assert_array_equal(x.ravel()[indices.numpy()], values.numpy())
    np.testing.assert_array_equal(values.numpy()[inverse.numpy()], x)
    np.testing.assert_array_equal(counts.numpy(), [(x == v).sum() for v in values.numpy()])
    assert values.dtype == dtype and indices.dtype == inverse.dtype == counts.dtype == mg.int64
    for part, name in ((values, "values"), (counts, "counts")):
        np.testing.assert_array_equal(getattr(mg.unique_counts(x), name).numpy(), part.numpy())
    np.testing.assert_array_equal(mg.unique_inverse(x).inverse_indices.numpy(), inverse.numpy())
    np.testing.assert_array_equal(mg.unique_values(x).numpy(), values.numpy())
    some = values[:2]
    np.testing.assert_array_equal(mg.isin(x, some).numpy(), np.isin(x, some.numpy()))
    np.testing.assert_array_equal(mg.isin(x, some, invert=True).numpy(), ~np.isin(x, some.numpy()))


def test_each_nan_is_unique():
    assert mg.unique_counts(mg.tensor([math.nan, 1.0, math.nan])).counts.tolist() == [1, 1, 1]


def test_dtype_of_sums():
    x = mg.tensor([2**30, 2**30, 2**30], dtype=mg.int32)
    for function in (mg.sum, mg.prod, mg.cumulative_sum, mg.cumulative_prod):
        assert function(x).dtype == mg.int64
        for dtype in DTYPES[1:]:
            assert function(x, dtype=dtype).dtype == dtype
    assert mg.sum(x, dtype=mg.float32).item() == 3 * 2.0**30
    assert mg.sum(mg.tensor([1.0], dtype=mg.float64), dtype=mg.float32).dtype == mg.float32


def test_copies():
    x = mg.ones(2, 3)
    for copied in (
        x.reshape((3, 2), copy=True),
        x.astype(mg.float32, copy=True),
        mg.asarray(x, copy=True),
        mg.asarray(x.numpy(), copy=True),
    ):
        assert not np.shares_memory(copied._array, x._array)
    for shared in (
        x.reshape((3, 2), copy=False),
        x.reshape(shape=(3, 2)),
        x.astype(mg.float32),
        mg.asarray(x, copy=False),
    ):
        assert np.shares_memory(shared._array, x._array)
    for call in (
        lambda: x.T.reshape((6,), copy=False),
        lambda: mg.asarray([1.0], copy=False),
        lambda: mg.asarray(x, dtype=mg.float64, copy=False),
        lambda: mg.asarray(np.ones(2, np.float16), copy=False),
        lambda: mg.asarray(np.ones(2, ">f8"), copy=False),
        lambda: mg.asarray(np.ones(2, np.uint8), copy=False),
    ):
        with pytest.raises(ValueError, match=r"reshape|asarray"):
            call()
    assert mg.clip(x) is x and complex(mg.tensor(2.0)) == 2 + 0j
    assert mg.zeros(shape=(2,)).shape == mg.zeros(2).shape == mg.zeros([2]).shape == (2,)
    assert mg.zeros(2, 3).shape == mg.zeros((2, 3)).shape == (2, 3) and mg.zeros().shape == ()


def test_constants():
    assert (mg.e, mg.pi, mg.inf) == (math.e, math.pi, math.inf) and math.isnan(mg.nan)
    assert mg.ones(2)[mg.newaxis].shape == (1, 2)


# ---------------------------------------------------------------------- libraries on the namespace
def test_array_api_compat():
    compat = pytest.importorskip("array_api_compat")
    x = mg.ones(2, 3)
    assert compat.array_namespace(x, mg.zeros(1)) is mg and compat.is_array_api_obj(x)
    assert compat.device(x) == "cpu" and compat.to_device(x, "cpu") is x and compat.size(x) == 6


def test_einops():
    pytest.importorskip("einops")
    from einops import array_api as einops

    a = RANDOM.normal(size=(2, 3, 4))
    x = mg.tensor(a, requires_grad=True)
    y = einops.rearrange(x, "a b c -> (c a) b")
    np.testing.assert_array_equal(y.numpy(), a.transpose(2, 0, 1).reshape(8, 3))
    for name in ("min", "max", "sum", "mean", "prod"):
        reduced = einops.reduce(x, "a b c -> c a", name)
        np.testing.assert_allclose(reduced.numpy(), getattr(a, name)(1).T, rtol=1e-13)
    repeated = einops.repeat(x, "a b c -> a (b r) c", r=2)
    np.testing.assert_array_equal(repeated.numpy(), a.repeat(2, 1))
    packed, shapes = einops.pack([x, x[:, :, 0]], "a b *")
    assert packed.shape == (2, 3, 5)
    assert [part.shape for part in einops.unpack(packed, shapes, "a b *")] == [(2, 3, 4), (2, 3)]
    assert gradcheck(lambda x: einops.reduce(x, "a (b r) c -> a c r", "mean", r=3) ** 3, [x])


# ------------------------------------------------------------------------------------ what differs
def test_the_page_has_a_row_for_each_exception():
    page = (Path(__file__).parents[1] / "docs" / "array-api.md").read_text(encoding="utf-8")
    source = (Path(__file__).parent / "opinfo.py").read_text(encoding="utf-8")
    tables = re.findall(r"^EXCEPTIONS = (\{.*?^\})", source, re.MULTILINE | re.DOTALL)
    reasons = [*EXCEPTIONS.values(), *ast.literal_eval(tables[0]).values()]
    assert re.findall(r"^\| \d+ \| (.*) \|$", page, re.MULTILINE) == sorted(
        reasons, key=lambda reason: page.find(f" {reason} |")
    )
