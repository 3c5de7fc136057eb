"""The loops of the optimisers are their formulas: any rule, any options, bit for bit."""

import ctypes
import itertools
import subprocess
import sys
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from minigrad import optim
from minigrad._core import formulas
from minigrad._core.fast import steps
from minigrad._core.fast.updates import Update
from minigrad.autograd import accelerated

FAST = Path(steps.__file__).parent
ADABELIEF = '''
def adabelief(p, d, m, s, step, *, lr, betas, eps, weight_decay):
    """AdaBelief (Zhuang et al. 2020, algorithm 2), without the eps in the moment."""
    g = d + weight_decay * p
    m = m + (g - m) * (1 - betas[0])
    s = betas[1] * s + (1 - betas[1]) * (g - m) * (g - m)
    step_size = lr / (1 - betas[0] ** step)
    divisor = np.sqrt(s) * (1 / sqrt(1 - betas[1] ** step)) + eps
    return p - step_size * m / divisor, m, s
'''
SOURCE = (FAST.parent / "formulas.py").read_text("utf-8") + ADABELIEF
ADDED = {"__name__": "added"}
exec(SOURCE, ADDED)
OPTIONS = {  # two values of each option; the others are numbers between 0 and 1
    "lr": (0.01, 0.3),
    "betas": ((0.9, 0.999), (0.8, 0.5)),  # with the second RAdam takes its other branch
    "eps": (1e-8, 1e-2),
    **dict.fromkeys(("decoupled_weight_decay", "nesterov", "maximize", "fresh"), (0, 1)),
    "correction": (0.1, 0.6),
    "share": (1.0, 0.2),
}


# ----------------------------------------------------------------------------------- what is traced
def results(text, monkeypatch):
    """What a rule `f` of these lines returns for each loop, after its conditions."""
    head = "import numpy as np\nfrom math import sqrt\ndef f(p, d, a, *, lr, flag):\n "
    monkeypatch.setattr(steps, "RULES", steps.rules_of(head + text))
    return [
        ({getattr(c, "name", c): answer for c, answer in conditions}, [s.op for s in ends.values()])
        for conditions, ends in steps.Rule("f").results
    ]


def test_branches_that_differ_in_numbers_are_one_loop(monkeypatch):
    text = "return (2 * lr if flag > 1 else 3) * p, a + d"
    assert results(text, monkeypatch) == [({}, ["multiply", "add"])]
    number, _ = steps.Rule("f").results[0][1]["p"].args
    assert number.op == "select" and number.args[0].op == "less"


@pytest.mark.parametrize("other", ["lr * d", "lr + p", "np.sqrt(lr * p)"])
def test_other_branches_are_loops_of_their_own(other, monkeypatch):
    yes, no = results(f"return lr * p if flag else {other}, a + d", monkeypatch)
    assert yes == ({"flag": True}, ["multiply", "add"])
    assert no == (
        {"flag": False},
        [{"lr * d": "multiply", "lr + p": "add"}.get(other, "sqrt"), "add"],
    )


def test_conditions_within_conditions(monkeypatch):
    text = "x = p if flag else d\n return x * (2 if lr > 1 else 3), a * (x if lr > 2 else p)"
    found = [conditions for conditions, _ in results(text, monkeypatch)]
    assert len(found) == 3  # where x is p, both branches of the second are one
    assert found[0] == {"flag": True} and [len(each) for each in found] == [1, 2, 2]


def test_an_array_is_optional_if_the_formula_runs_without_it(monkeypatch):
    found = results("return p - lr * d, None if a is None else a + d", monkeypatch)
    assert found == [({"a": True}, ["subtract", "add"]), ({"a": False}, ["subtract"])]
    assert steps.Rule("f").optional == 1
    assert results("return p - lr * d, a + d", monkeypatch) == [({}, ["subtract", "add"])]
    assert steps.Rule("f").optional == 0
    with pytest.raises(TypeError, match="NoneType"):
        results("return p - lr * None, a + d", monkeypatch)


def test_every_class_with_a_rule_has_a_formula():
    classes = [getattr(optim, name) for name in optim.__all__]
    rules = {c.rule.lower() for c in classes if isinstance(c, type) and getattr(c, "rule", "")}
    assert rules | {"schedulefree"} == set(steps.RULES) and len(rules) == 8


def test_a_rule_is_printed():
    command = [sys.executable, FAST / "steps.py", "lion"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "lion_float(void **arrays" in run.stdout and "adam" not in run.stdout


# ------------------------------------------------------------------ what is written, compiled alone
class Entry(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("options", ctypes.c_char_p),
        *((name, ctypes.c_int) for name in ("arrays", "optional", "scalars", "numbers", "fresh")),
        ("prepare", ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2)),
        ("loops", ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_ssize_t] * 2) * 2),
    )


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """The table of a build with one more formula."""
    if not which("gcc"):
        pytest.skip("no gcc here")
    folder, before = tmp_path_factory.mktemp("steps"), steps.RULES
    steps.RULES = steps.rules_of(SOURCE)
    head = '#define MG_CLONED\n#include "vecmath.h"\n#include "derived.h"\n'
    tail = "\n\nconst MG_Rule *table(void) { return mg_rules; }\n"
    (folder / "steps.c").write_text(head + steps.steps_header() + tail, "utf-8")
    steps.RULES = before
    flags = ["-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Werror", "-fopenmp-simd"]
    subprocess.run(
        ["gcc", *flags, f"-I{FAST}", "steps.c", "-o", "steps.so", "-lm"], cwd=folder, check=True
    )
    library = ctypes.CDLL(folder / "steps.so")
    library.table.restype = ctypes.POINTER(Entry)
    found = {}
    for k in itertools.count():
        if not library.table()[k].name:
            return found
        found[library.table()[k].name.decode()] = library.table()[k]


def variants(entry):
    """Choices: one of two values for each option, and the absent arrays, as bits."""
    names = [*entry.options.decode().split(), "fresh"]
    flags = [name for name in names if set(OPTIONS.get(name, ())) == {0, 1}]
    absent = [bits for bits in range(1 << entry.arrays) if bits & ~entry.optional == 0]
    for other, bits, *chosen in itertools.product((0, 1), absent, *[(0.0, 1.0)] * len(flags)):
        values = {name: OPTIONS.get(name, (0.3, 0.0))[other] for name in names}
        yield values | dict(zip(flags, chosen, strict=True)), bits


def compare(entry, formula, values, absent, dtype):
    """One step of the loop and of the formula."""
    random = np.random.default_rng(7)
    arrays = random.standard_normal((2 + entry.arrays, 37)).astype(dtype)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 1e30]
    arrays[:, :9] = random.choice(special, (len(arrays), 9))
    state = [None if absent >> k & 1 else abs(a) for k, a in enumerate(arrays[2:])]
    scalars = [4.0, 0.6][: entry.scalars]
    options = {name: value for name, value in values.items() if name != "fresh" or entry.fresh}
    gradient = -arrays[1] if options.pop("maximize") else arrays[1]
    with np.errstate(all="ignore"):
        expected = formula(arrays[0].copy(), gradient, *state, *scalars, **options)
    given = np.hstack([*values.values(), *scalars])
    numbers = np.full(entry.numbers + entry.scalars, np.nan)
    found = [np.array(a) for a in (arrays[0], arrays[1], *state) if a is not None]
    rest = iter(found)
    pointers = [None if a is None else next(rest).ctypes.data for a in (*arrays[:2], *state)]
    entry.prepare(given.ctypes.data, numbers.ctypes.data)
    loop = entry.loops[dtype == "float64"]
    for begin, end in ((0, 20), (20, 37)):
        loop((ctypes.c_void_p * len(pointers))(*pointers), numbers.ctypes.data, begin, end)
    wanted = [a for a in expected[: 1 + entry.arrays] if a is not None]
    for a, b in zip([found[0], *found[2:]], wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    after = numbers[entry.numbers :][: entry.scalars - 1]
    np.testing.assert_array_equal(after, expected[1 + entry.arrays :])


@pytest.mark.parametrize("name", [*steps.RULES, "adabelief"])
def test_a_loop_is_its_formula_bit_for_bit(name, entries):
    for choice in variants(entries[name]):
        for dtype in ("float32", "float64"):
            compare(entries[name], ADDED[name], *choice, dtype)


def test_another_formula_is_noticed(entries):
    for name in ("adam", "nadam"):

        def other(*inputs, name=name, **options):
            return ADDED[name](*inputs, **{**options, "lr": options["lr"] * (1 + 1e-6)})

        with pytest.raises(AssertionError):
            compare(entries[name], other, *next(variants(entries[name])), "float32")


# ---------------------------------------------------------------------------- what the package runs
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", steps.RULES)
def test_bits_do_not_depend_on_the_place_of_an_element(name, dtype):
    """Vectors and the rest of a loop must contract the same products to FMAs."""
    rule, random = steps.Rule(name), np.random.default_rng(3)
    group = {option: OPTIONS.get(option, (0.3,))[0] for option in rule.options}
    for decoupled, absent, trial in itertools.product(
        (0, 1), range(1 << rule.optional.bit_length()), range(9)
    ):
        if absent & ~rule.optional:
            continue
        names = [n for n in ("step", "mus") if n in rule.given]
        names += [None if absent >> k & 1 else n for k, n in enumerate(rule.arrays[2:])]
        update = Update(name, tuple(names), {**group, "decoupled_weight_decay": decoupled})
        array, state = np.full(39, random.standard_normal(), dtype), {}
        for _ in range(7):
            update(array, np.full(39, random.standard_normal(), dtype), state)
        for each in (array, *state.values()):
            assert np.all(each == np.ravel(each)[0]), (decoupled, absent, trial)


NAMES = {"RAdam": ("step", "m", "v"), "Adam": ("step", "m", "v", "largest")}


@pytest.mark.accelerated
@pytest.mark.parametrize("rule", NAMES)
def test_infinities_are_those_of_the_formula(rule):
    group = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}
    found = []
    for on in (False, True):
        array, state = np.ones(4), {}
        for _ in range(7):  # RAdam is not rectified in the first five
            with accelerated(on):
                Update(rule, NAMES[rule], group)(
                    array, np.array([np.inf, -np.inf, np.nan, 1]), state
                )
            found.append(array.copy())
    np.testing.assert_allclose(found[7:], found[:7], rtol=1e-14)
    if rule == "RAdam":
        assert found[0].tolist()[:2] == [-np.inf, np.inf]


def test_an_array_that_a_rule_needs():
    with pytest.raises(
        ValueError, match=r"Lion: cannot do without part 0 of its state, got \(None,\)"
    ):
        Update("Lion", (None,), {"lr": 1.0, "betas": (0.9, 0.99)})
    with pytest.raises(ValueError, match="Adam: cannot do without part 0 of its state"):
        Update("Adam", (None, "m", "v", None), {"lr": 1.0, "betas": (0.9, 0.99)})
    assert formulas.lion.__doc__.startswith("Lion")
