"""Derived formulas: their loops give what the formula gives, and so do their gradients."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad._core import formulas
from minigrad._core.engine.graph import observe_writes
from minigrad._core.fast import derive
from minigrad._core.fast.derived import derived
from minigrad._core.fast.loops import set_threads
from minigrad.autograd import accelerated, detect_anomaly, grad, gradcheck, gradgradcheck
from minigrad.nn.functional import _normalise as normalise, _rms_normalise as rms_normalise

pytestmark = pytest.mark.accelerated
random = np.random.default_rng(0)
CHOICES = list(itertools.product([False, True], repeat=3))
DTYPES = [np.float32, np.float64]


def leaf(*shape, dtype=np.float32):
    values = 3 * random.standard_normal(shape) + 2
    return mg.tensor(values.astype(dtype), requires_grad=True)


def leaves(dtype, *shapes):
    return tuple(leaf(*shape, dtype=dtype) for shape in shapes)


def batch(dtype=np.float32):
    return (*leaves(dtype, (7, 3), (3,), (3,)), (0,), 1e-5)


LAYOUTS = {  # the shape of x, of the weights (None: numbers), and the axes
    "BatchNorm": ((7, 3), (3,), (0,)),
    "BatchNorm, rows by fours": ((8, 40), (40,), (0,)),
    "BatchNorm, more rows": ((11, 9), (9,), (0,)),
    "BatchNorm, rows in parts": ((1031, 260), (260,), (0,)),
    "BatchNorm without weights": ((7, 3), None, (0,)),
    "BatchNorm, 4-d": ((2, 3, 4, 5), (3, 1, 1), (0, 2, 3)),
    "BatchNorm, 4-d, without weights": ((2, 3, 4, 5), None, (0, 2, 3)),
    "BatchNorm, larger planes": ((2, 3, 5, 7), (3, 1, 1), (0, 2, 3)),
    "BatchNorm of one image": ((1, 3, 20), (3, 1), (0, 2)),
    "BatchNorm of one channel": ((9, 1), (1,), (0,)),
    "LayerNorm of a short row": ((5, 6), (6,), (1,)),
    "LayerNorm": ((3, 5, 50), (50,), (2,)),
    "LayerNorm of negative axes": ((3, 4, 9), (4, 9), (-1, -2)),
    "LayerNorm of long rows": ((2, 1500), (1500,), (1,)),
    "LayerNorm without weights": ((5, 6), None, (1,)),
    "LayerNorm of a vector": ((6,), (6,), (0,)),
    "GroupNorm": ((4, 2, 3, 5), (2, 3, 1), (2, 3)),
    "GroupNorm, larger planes": ((2, 2, 3, 40), (2, 3, 1), (2, 3)),
    "GroupNorm of points": ((4, 2, 3), (2, 3), (2,)),
    "InstanceNorm": ((4, 3, 2, 5), (3, 1, 1), (2, 3)),
    "InstanceNorm without weights": ((4, 3, 7), None, (2,)),
    "a weight of all axes but one": ((4, 3, 1100), (3, 1), (2,)),
    "BatchNorm, stacked": ((5, 7, 40), (5, 1, 40), (1,)),
    "BatchNorm, stacked, few columns": ((1, 5, 7, 3), (1, 5, 1, 3), (2,)),
    "BatchNorm, stacked, 4-d": ((4, 2, 3, 6), (4, 1, 3, 1), (1, 3)),
    "LayerNorm, stacked": ((5, 3, 50), (5, 1, 50), (2,)),
    "LayerNorm, stacked, short rows": ((5, 3, 6), (5, 1, 6), (2,)),
    "GroupNorm, stacked": ((3, 4, 2, 5, 6), (3, 1, 2, 5, 1), (3, 4)),
}
NO_LAYOUTS = {
    "an axis in the middle": ((4, 3, 5), (1,), (1,)),
    "a weight of other axes": ((4, 3, 5), (5,), (0,)),
    "a weight of one value": ((4, 3), (4, 1), (0,)),
    "one value of each": ((4, 1), (1,), (1,)),
    "many rows of few elements": ((300, 3), (3,), (1,)),
}


def inputs_of(shapes, dtype):
    shape, weight, axes = shapes
    weights = (1.5, 0.5) if weight is None else leaves(dtype, weight, weight)
    return (leaf(*shape, dtype=dtype), *weights, axes, 1e-5)


def run(function, inputs, cotangent):
    """The name of the Node, the outputs, and the gradient of each Tensor among the inputs."""
    tensors = [x for x in inputs if isinstance(x, mg.Tensor)]
    outputs = function(*inputs)
    gradients = grad(outputs[0], tensors, cotangent)
    name = outputs[0].grad_fn.name
    return name, *([a.numpy(copy=True) for a in part] for part in (outputs, gradients))


def compare(shapes, dtype, name):
    inputs = inputs_of(shapes, dtype)
    cotangent = mg.tensor(random.standard_normal(shapes[0]).astype(dtype))
    _, expected, slopes = run(formulas.normalise, inputs, cotangent)
    op, values, gradients = run(normalise, inputs, cotangent)
    assert op == name
    for value, want in zip(values, expected, strict=True):
        assert value.dtype == want.dtype and value.shape == want.shape
        if dtype is np.float32:  # sums are double, and all else is rounded as in the formula
            np.testing.assert_array_equal(value, want)
        np.testing.assert_allclose(value, want, rtol=1e-13, atol=1e-13)
    tolerance = 5e-6 if dtype is np.float32 else 1e-14
    for value, want in zip(gradients, slopes, strict=True):
        assert value.dtype == want.dtype and value.shape == want.shape
        atol = tolerance * (1 + np.abs(want).max())
        np.testing.assert_allclose(value, want, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_values_and_gradients_are_those_of_the_formula(name, dtype):
    compare(LAYOUTS[name], dtype, "normalise")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", ["values", "gradients"])
def test_the_comparison_notices_another_formula(wrong, dtype, monkeypatch):
    formula = formulas.normalise

    def other(x, weight, bias, axes, eps):
        if wrong == "values":
            return formula(x, weight, bias, axes, eps + 1e-6)
        centred = x - x.mean(axes, keepdims=True).detach()  # right values, wrong gradient
        std = (centred.var(axes, keepdims=True) + eps).sqrt()
        return centred * (weight / std) + bias, *formula(x, weight, bias, axes, eps)[1:]

    monkeypatch.setattr(formulas, "normalise", other)
    with pytest.raises(AssertionError, match=r"Not equal|not equal"):
        compare(LAYOUTS["BatchNorm"], dtype, "normalise")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in LAYOUTS if "BatchNorm" not in name])
def test_the_mean_square(name, dtype):
    x, weight, _, axes, eps = inputs_of(LAYOUTS[name], dtype)
    tensors = [z for z in (x, weight) if isinstance(z, mg.Tensor)]
    cotangent = mg.tensor(random.standard_normal(x.shape).astype(dtype))
    found, expected = [], []
    for function, into in ((rms_normalise, found), (formulas.rms_normalise, expected)):
        y = function(x, weight, axes, eps)
        assert y.grad_fn.name == ("multiply" if into is expected else "rms_normalise")
        into += [y, *grad(y, tensors, cotangent)]
    tolerance = 5e-6 if dtype is np.float32 else 1e-14
    for value, want in zip(found, expected, strict=True):
        value, want = value.detach().numpy(), want.detach().numpy()
        atol = tolerance * (1 + np.abs(want).max())
        np.testing.assert_allclose(value, want, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NO_LAYOUTS)
def test_what_no_layout_takes_runs_composed(name, dtype):
    compare(NO_LAYOUTS[name], dtype, "add")


@pytest.mark.parametrize("reduced", CHOICES)
@pytest.mark.parametrize("varying", CHOICES)
def test_every_choice_of_axes(reduced, varying):
    """Whichever layout takes it, or none."""
    shape = 2, 3, 4
    weight = tuple(size if varies else 1 for size, varies in zip(shape, varying, strict=True))
    axes = tuple(axis for axis in range(3) if reduced[axis])
    inputs = inputs_of((shape, weight, axes or (0,)), np.float64)
    cotangent = mg.tensor(random.standard_normal(shape))
    _, *expected = run(formulas.normalise, inputs, cotangent)
    _, *found = run(normalise, inputs, cotangent)
    for values, wants in zip(found, expected, strict=True):
        for value, want in zip(values, wants, strict=True):
            np.testing.assert_allclose(value, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if np.prod(LAYOUTS[name][0]) < 1000])
def test_gradients_of_both_orders(name):
    inputs = inputs_of(LAYOUTS[name], np.float64)
    tensors = [x for x in inputs if isinstance(x, mg.Tensor)]

    def of_tensors(*given):
        rest = iter(given)
        return normalise(*[next(rest) if isinstance(x, mg.Tensor) else x for x in inputs])[0]

    assert of_tensors(*tensors).grad_fn.name == "normalise"
    assert gradcheck(of_tensors, tensors) and gradgradcheck(of_tensors, tensors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_equal_values_give_exactly_the_bias(name, dtype):
    x, weight, bias, axes, _ = inputs_of(LAYOUTS[name], dtype)
    for value in (0.1, 1e4 / 3, -7e-5):
        y, mean, var = normalise(mg.full(x.shape, value, dtype=dtype), weight, bias, axes, 1e-5)
        assert np.all(mean.numpy() == np.asarray(value, dtype)) and not var.numpy().any()
        np.testing.assert_array_equal(y.numpy(), (bias + mg.zeros(x.shape, dtype=dtype)).numpy())


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LAYOUTS)
def test_special_values(name, special):
    """They spoil what they spoil in the formula; wherever they stand, first in a sum as well."""
    x, *rest = inputs_of(LAYOUTS[name], np.float32)
    for place in (0, x.size // 2):
        values = x.numpy(copy=True)
        values.flat[place] = special
        found, expected = (f(mg.tensor(values), *rest) for f in (normalise, formulas.normalise))
        for value, want in zip(found, expected, strict=True):
            np.testing.assert_array_equal(value.numpy(), want.numpy())


@pytest.mark.parametrize(
    ("shape", "axes"), [((5000, 2), (0,)), ((2, 5000), (1,)), ((50, 2, 99), (0, 2))]
)
def test_a_large_mean_does_not_cancel_the_variance(shape, axes):
    values = random.standard_normal(shape) + 1e4
    _, mean, var = normalise(mg.tensor(values), 1.0, 0.0, axes, 1e-5)
    want = values.astype(np.longdouble)
    about = want.mean(axes, keepdims=True)
    np.testing.assert_allclose(mean.numpy(), about.astype(float), rtol=4e-16)
    spread = np.square(want - about).mean(axes, keepdims=True).astype(float)
    np.testing.assert_allclose(var.numpy(), spread, rtol=1e-14)


@pytest.mark.parametrize(
    "shapes",
    [((700, 2000), (2000,), (1,)), ((1201, 1000), (1000,), (0,)), ((700, 4, 500), (4, 1), (2,))],
)
def test_the_number_of_threads_does_not_change_a_bit(shapes):
    inputs, found = inputs_of(shapes, np.float32), []
    before = set_threads(1)
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            found.append(run(normalise, inputs, mg.ones(shapes[0])))
    finally:
        set_threads(before)
    for other in found[1:]:
        for one, two in zip(found[0][1] + found[0][2], other[1] + other[2], strict=True):
            np.testing.assert_array_equal(one, two)


def test_inputs_that_want_no_gradient_get_none():
    x, weight, bias, axes, eps = batch()
    expected = grad(formulas.normalise(x, weight, bias, axes, eps)[0].sum(), [x, weight, bias])
    for wanted in CHOICES:
        given = [
            z if want else z.detach() for z, want in zip((x, weight, bias), wanted, strict=True)
        ]
        y = normalise(*given, axes, eps)[0]
        assert y.requires_grad == any(wanted)
        for z in given:
            z.grad = None
        if any(wanted):
            y.sum().backward()
        for z, want, gradient in zip(given, wanted, expected, strict=True):
            assert (z.grad is not None) == want
            if want:
                np.testing.assert_allclose(z.grad.numpy(), gradient.numpy(), rtol=1e-4, atol=1e-5)
    with mg.no_grad():
        assert normalise(x, weight, bias, axes, eps)[0].grad_fn is None


def test_inputs_that_no_loop_takes_run_composed():
    x, weight, bias, axes, eps = batch()
    square, column = leaf(3, 3), leaf(3)
    for inputs in (
        (square, square, 0.0, (0,), eps),  # one input twice
        (leaf(3, 7).T, weight, bias, axes, eps),  # not in C order
        (x, leaf(3, dtype=np.float64), bias, axes, eps),
        (x, weight, leaf(1, 3), axes, eps),
        (mg.ones(0, 3, requires_grad=True), weight, bias, (1,), eps),
        (x, weight, column, axes, mg.tensor(1e-5)),
    ):
        found, expected = normalise(*inputs)[0], formulas.normalise(*inputs)[0]
        assert found.grad_fn.name == "add"
        np.testing.assert_array_equal(found.detach().numpy(), expected.detach().numpy())
    with pytest.raises(ValueError, match="do not broadcast"):
        normalise(x, leaf(4), 0.0, axes, eps)
    with pytest.raises(TypeError):
        normalise(x, weight)


def test_a_formula_without_loops_is_refused():
    with pytest.raises(ValueError, match="there are no loops for lion"):
        derived(formulas.lion)


def test_what_is_returned_beside_the_result_may_be_written_to():
    inputs = batch()
    expected = grad(normalise(*inputs)[0].square().sum(), inputs[:3])
    y, mean, var = normalise(*inputs)
    mean.fill_(9), var.fill_(9)
    for got, want in zip(grad(y.square().sum(), inputs[:3]), expected, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_an_input_that_was_written_to_raises():
    for place in (0, 1):
        inputs = batch()
        y = normalise(*inputs)[0]
        with mg.no_grad():
            inputs[place].add_(1.0) if hasattr(inputs[place], "add_") else inputs[place].fill_(1.0)
        with pytest.raises(RuntimeError, match="normalise: an input was written to in place"):
            y.sum().backward()
        assert inputs[0].grad is None


def test_a_write_to_what_the_gradient_does_not_need_does_no_harm():
    inputs = batch()
    expected = grad(normalise(*inputs)[0].square().sum(), inputs[:3])
    y = normalise(*inputs)[0]
    loss = y.square().sum()
    inputs[2].detach().fill_(7.0)
    for got, want in zip(grad(loss, inputs[:3], retain_graph=True), expected, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    with pytest.raises(RuntimeError, match="written to in place"):
        grad(loss, inputs[0], create_graph=True)  # which runs the formula again


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_an_input_that_is_frozen_after_the_forward_still_gets_its_gradient(frozen, create_graph):
    inputs = batch(np.float64)
    expected = grad(formulas.normalise(*inputs)[0].sum(), inputs[:3])
    out = normalise(*inputs)[0].sum()
    inputs[frozen].requires_grad_(False)
    out.backward(create_graph=create_graph)
    for x, want in zip(inputs, expected, strict=False):
        np.testing.assert_allclose(x.grad.numpy(), want.numpy(), rtol=1e-12, atol=1e-12)


def test_a_graph_that_is_kept_runs_twice_and_one_that_is_freed_does_not():
    x, *rest = batch()
    out = normalise(x, *rest)[0].square().sum()
    out.backward(retain_graph=True)
    once = x.grad.numpy(copy=True)
    out.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * once)
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        out.backward()


def test_it_runs_composed_while_somebody_observes_and_when_switched_off():
    inputs = batch()
    assert normalise(*inputs)[0].grad_fn.name == "normalise"
    with detect_anomaly():
        assert normalise(*inputs)[0].grad_fn.name == "add"
    with accelerated(False):
        assert normalise(*inputs)[0].grad_fn.name == "add"
    assert normalise(*inputs)[0].grad_fn.name == "normalise"


def test_who_is_told_of_writes_alone_misses_nothing():
    """So a checkpoint's two runs are the same loops."""
    before = observe_writes(lambda tensor: None)
    try:
        assert normalise(*batch())[0].grad_fn.name == "normalise"
    finally:
        observe_writes(before)


def test_the_profiler_names_it():
    inputs = batch()
    with mg.profile() as profile:
        normalise(*inputs)[0].sum().backward()
    assert "normalise" in str(profile)


def test_no_tensor_is_left_and_no_cycle():
    import gc
    import weakref

    x, *rest = batch()
    gc.disable()
    try:
        alive = weakref.ref(x)
        normalise(x, *rest)[0].sum().backward()
        del x
        assert alive() is None
    finally:
        gc.enable()


# ------------------------------------------------------------------------------ what derives them
def test_the_gradient_needs_one_pass_of_sums_and_one_of_results():
    for name, layout in itertools.product(derive.FORMULAS, derive.LAYOUTS.values()):
        loops = derive.of_formula(name, layout)
        levels = derive.Writer(layout, "float", *loops.backward).level
        assert max(levels.values()) == 1, (name, layout)


def test_a_formula_and_its_gradient_are_printed():
    command = [sys.executable, "-m", "minigrad._core.fast.derive", "normalise", "rows"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for direction in ("forward", "backward"):
        assert f"static void normalise_rows_{direction}_f32(" in text
    assert "d_x_out[(a * J + j) * M + m] = d_x;" in text


@pytest.mark.parametrize(
    "words, said",
    [
        (["nonsense"], "derive: no formula 'nonsense'; there are normalise, rms_normalise"),
        (["normalise", "nonsense"], "derive: no layout 'nonsense'; there are columns, "),
        (["normalise", "rows", "more"], "derive: expected a formula and a layout, got 'more'"),
    ],
)
def test_what_cannot_be_printed_takes_one_line(words, said):
    with pytest.raises(SystemExit) as stopped:
        derive.main(*words)
    assert stopped.value.code.startswith(said) and "\n" not in stopped.value.code


def test_a_variance_of_what_is_not_centred_is_refused():
    """Its two sums would cancel."""
    trace = derive.Trace(derive.LAYOUTS["rows"])
    x = trace.make("input", axes="ajm", value="x")
    with pytest.raises(ValueError, match=r"write \(x - x.mean\(axes\)\).var\(axes\)"):
        x.var((0,), keepdims=True)


def test_the_loops_are_those_of_the_formulas_as_they_stand():
    """A change of a formula, or of a rule, reaches them by the next build."""
    made = Path(derive.__file__).parents[1] / "generated/formulas.h"
    if not importlib.util.find_spec("Cython") or not made.exists():
        pytest.skip("there are no generated files to compare with")
    assert derive.header() in made.read_text(encoding="utf-8")
