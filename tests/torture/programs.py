"""Random programs: the same text run by minigrad, NumPy and, if it is installed, PyTorch.

hypothesis draws them from the table in rows.py and shrinks failing ones; a program prints as the
text that was run. Compared in float64:
- with PyTorch (`compare_with_torch`): every intermediate value, the gradients for random
  cotangents, by `backward` and by `grad(create_graph=True)`, and the gradients of a random
  projection of those gradients. The tolerance is the change caused by relative errors of 2^-40 in
  each intermediate value: PyTorch runs the program again with such errors.
- without it (`compare_with_numpy`): the values, with NumPy; the first order, with differences of
  NumPy's results along a random direction; the second order, with differences of the first.

A line is rejected when drawn if an input is within 0.001 of a kink (a tie of a maximum, the 0 of
relu), or if its result is huge. The functions of `Reference` record their distance from a kink and
the branch they chose, so differences across a kink are detected too.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, Phase, find, given, reject, seed, settings

import minigrad as mg
from minigrad.nn import functional
from torture import Result, Share
from torture.rows import ROWS, Draw, Reference, Torch

if find_spec("torch"):
    import torch

    torch.set_num_threads(1)

Arrays = dict[str, np.ndarray]
MARGIN = 1e-3  # the smallest allowed distance from a kink
LARGEST = 1e3  # the largest allowed magnitude of a value
ROUNDING = 2.0**-40  # the relative errors that determine tolerances
ROUNDING_OF_FLOAT32 = 2.0**-20


class MismatchError(AssertionError):
    """The two libraries disagree about a program."""


# ------------------------------------------------------------------------------------- the programs
@dataclass(frozen=True)
class Line:
    target: str
    row: str
    texts: list[str]  # the names of operands in «»


@dataclass
class Program:
    leaves: Arrays
    writes: tuple[str, ...]  # to the leaves, in place and unrecorded, before the program runs
    lines: tuple[Line, ...] = ()
    results: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Everything that no line consumes is a result: every line matters."""
        consumed = " ".join(line.texts[0] for line in self.lines)
        names = [*self.leaves, *(line.target for line in self.lines)]
        self.results = tuple(name for name in names if f"«{name}»" not in consumed) or tuple(
            names[-1:]
        )

    def source(self, library: int = 0) -> str:
        return "\n".join(
            f"{line.target} = {line.texts[library]}".replace("«", "").replace("»", "")
            for line in self.lines
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # called by hypothesis
        printer.text(repr(self))

    def __repr__(self) -> str:
        leaves = [
            f"{name} = {np.array2string(x, separator=', ')}" for name, x in self.leaves.items()
        ]
        return "\n".join(
            ["", *leaves, *self.writes, self.source(), f"results: {', '.join(self.results)}"]
        )


def inplace(x: Any, symbol: str, y: Any) -> Any:
    """`x += y` of a view; while gradients are recorded, the base is not changed."""
    if symbol == "+":
        x += y
    elif symbol == "-":
        x -= y
    else:
        x *= y
    return x


@lru_cache(maxsize=64)
def compiled(source: str) -> Any:
    return compile(source or "pass", "<program>", "exec")


def run(source: str, values: dict[str, Any], **names: Any) -> dict[str, Any]:
    scope = {"np": np, "mg": mg, "F": functional, "inplace": inplace, **names, **values}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # for values that are rejected anyway
        exec(compiled(source), scope)
    return scope


FIXED = np.random.default_rng(0).uniform(0.2, 1.5, 997) * np.random.default_rng(1).choice(
    (-1, 1), 997
)


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Values of both signs, all different, with few digits to print."""
    size = math.prod(shape)
    return np.round(np.roll(FIXED, -seed * 101)[:size], 3).reshape(shape).copy()


@st.composite
def programs(draw: Any, longest: int = 12, rows: tuple[str, ...] | None = None) -> Program:
    """Up to three leaves, up to `longest` lines."""
    names = list(ROWS if rows is None else rows)
    d = Draw(draw, {})
    n, m, k = (d.one((1, 2, 3, 4)) for _ in range(3))
    others, flavour, ndim, empty = (
        d.integer(0, 2),
        d.integer(0, 5),
        d.integer(0, 3),
        d.integer(0, 19),
    )
    if flavour < 3:  # shapes that broadcast
        base = (0 if empty == 19 else n, m, k)[:ndim]
        shapes = [base]
        for mask, dropped in [(d.integer(0, 7), d.integer(0, 3)) for _ in range(2)]:
            shapes.append(tuple(1 if mask >> i & 1 else n for i, n in enumerate(base))[dropped:])
    elif flavour == 3:
        shapes = [(n, m), (m, k), (m,)]
    elif flavour == 4:
        shapes = [(n, m, 2 + k), (k, m, 1 + empty % 2), (m,)]
    else:
        shapes = [(min(n, 2), m, 2 + min(k, 2), 3), (2, m, 1 + empty % 2, 2), (m,)]
    shapes = shapes[: 1 + others]
    values = {
        name: numbers(shape, 3 * flavour + i)
        for i, (name, shape) in enumerate(zip("abc", shapes, strict=False))
    }
    leaves, writes = {name: x.copy() for name, x in values.items()}, list[str]()
    if d.integer(0, 3) == 3:
        texts = (
            "{0} *= 0.5",
            "{0}[...] = {0} * 0.75",
            "{0}[-1:] += 0.125",
            "w = {0}[..., :1]; w -= 0.25",
        )
        writes = [d.one(texts[: 4 if x.ndim else 2]).format(name) for name, x in values.items()]
        values = prepared(leaves, writes)
    d.values, lines = values, []
    for i in range(longest):
        if i and not d.integer(0, 9):
            break
        chosen = ROWS[d.one(names)]
        x = d.value(chosen.needs)
        if x is None:
            continue
        operands = {"x": x}
        if chosen.binary:
            y = d.value(partial(chosen.fits, values[x]))
            if y is None:
                continue
            operands["y"] = y
        options = chosen.options(d, *(values[name] for name in operands.values()))
        texts = [
            re.sub(r"\b[xy]\b", lambda match, names=operands: f"«{names[match[0]]}»", text)
            for text in chosen.texts
        ]
        line = Line(f"v{i}", chosen.name, [text.format(**options) for text in texts])
        result, reference = attempt(line, values)
        if result is not None and reference.margin > MARGIN:
            values[line.target] = result
            lines.append(line)
    if not lines:
        reject()
    return Program(leaves, tuple(writes), tuple(lines))


def attempt(line: Line, values: Arrays) -> tuple[np.ndarray | None, Reference]:
    """NumPy's result for a line, if it is usable."""
    reference = Reference()
    text = line.texts[1].replace("«", "").replace("»", "")
    result = run(f"result = {text}", values, R=reference)["result"]
    result = np.asarray(result, np.float64)
    usable = result.size <= 300 and result.ndim <= 5 and np.all(np.abs(result) < LARGEST)
    return (result if usable else None), reference


def prepared(leaves: Arrays, writes: Any) -> Arrays:
    scope = run("\n".join(writes), {name: x.copy() for name, x in leaves.items()})
    return {name: scope[name] for name in leaves}


# ----------------------------------------------------------------------------------- the comparison
def draws(seed: int, shapes: Any) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) for shape in shapes]


def derivatives(
    library: Any,
    source: str,
    leaves: Arrays,
    writes: Any,
    results: Any,
    order: int = 2,
    **names: Any,
):
    """Values, gradients by `backward`, by `grad`, and the gradients of a projection of those."""
    run_it = lambda x: run(source, x, **names)  # noqa: E731
    x = {name: library.tensor(a, requires_grad=True) for name, a in leaves.items()}
    if writes:  # to leaves that have already been used
        loss_of(library, run_it(x), results).backward()
        with library.no_grad():
            run("\n".join(writes), x)
        for leaf in x.values():
            leaf.grad = None
    values = run_it(x)
    loss = loss_of(library, values, results)
    if loss.requires_grad:
        loss.backward()
    found = [values, [leaf.grad for leaf in x.values()]]
    if order > 1:
        gradients = gradient(library, loss_of(library, run_it(x), results), x, create_graph=True)
        terms = zip(gradients, draws(1, [leaf.shape for leaf in x.values()]), strict=True)
        projection = sum(
            ((g * library.tensor(u)).sum() for g, u in terms if g is not None),
            start=x["a"].sum() * 0,
        )
        found += [gradients, gradient(library, projection, x)]
    force = {} if library is mg else {"force": True}  # PyTorch has zero tensors without memory
    for i, gradients in enumerate(found[1:], 1):
        found[i] = [
            np.zeros_like(leaves[name]) if g is None else g.detach().numpy(**force)
            for g, name in zip(gradients, x, strict=True)
        ]
    return found


def gradient(library, loss, x, **options):
    if not loss.requires_grad:
        return [None] * len(x)
    return library.autograd.grad(loss, list(x.values()), allow_unused=True, **options)


def loss_of(library: Any, values: dict[str, Any], results: Any) -> Any:
    terms = zip(results, draws(0, [values[name].shape for name in results]), strict=True)
    return sum((values[name] * library.tensor(c)).sum() for name, c in terms)


def disturbed(program: Program, library: int) -> str:
    """The program with a rounding error in each operand and each result."""
    lines = []
    for line in program.lines:
        text = re.sub("«(.*?)»", r"disturb(\1)", line.texts[library])
        lines.append(f"{line.target} = disturb({text})")
    return "\n".join(lines)


def disturbance(library: Any, number: int) -> Callable[[Any], Any]:
    random = np.random.default_rng(number)
    return lambda x: x * library.asarray(1 + ROUNDING * random.choice((-1, 1), tuple(x.shape)))


def agree(
    what: str, ours: Any, theirs: Any, disturbed: Any, program: Program, rounding: float = ROUNDING
) -> None:
    """Equal up to rounding errors."""
    ours, theirs, disturbed = (np.asarray(x) for x in (ours, theirs, disturbed))
    dtype = theirs.dtype if rounding == ROUNDING else np.float32
    if ours.shape != theirs.shape or ours.dtype != dtype:
        raise MismatchError(f"{what} is {ours.dtype}{ours.shape} instead of {dtype}{theirs.shape}")
    sensitivity = np.max(np.abs(disturbed - theirs), initial=0) / ROUNDING
    size = np.max(np.abs(theirs), initial=0)
    # Terms that cancel within a line, or within its gradients, reach the inverse squares of leaves
    # of 0.2: magnitude 4 in first order, 25 in second, where float64 rounds to 2**-52.
    tolerance = rounding * (4 * sensitivity + size + (0.05 if rounding == ROUNDING else 4.0))
    error = np.max(np.abs(ours - theirs), initial=0)
    if not error <= tolerance:
        raise MismatchError(
            f"{what} is\n{ours}\ninstead of\n{theirs}\n(error {error:.3g}, allowed "
            f"{tolerance:.3g}), of{program!r}"
        )


def compare_values(program: Program, ours: Any, theirs: Any, roughly: Any) -> None:
    for name in [*program.leaves, *(line.target for line in program.lines)]:
        found = [x[name] for x in (ours, theirs, roughly)]
        agree(name, *(x.detach() if hasattr(x, "detach") else x for x in found), program)


def compare_in_float32(program: Program) -> None:
    """Compare values and gradients in float32 with those of the same numbers in float64."""
    point = prepared(program.leaves, program.writes)
    single = {name: x.astype(np.float32) for name, x in point.items()}
    double = {name: x.astype(np.float64) for name, x in single.items()}
    source, results = program.source(0), program.results
    ours = derivatives(mg, source, single, (), results, order=1)
    theirs = derivatives(mg, source, double, (), results, order=1)
    names = {"disturb": disturbance(mg, 1)}
    roughly = derivatives(mg, disturbed(program, 0), double, (), results, order=1, **names)
    for name in (line.target for line in program.lines):
        found = [x[0][name].detach() for x in (ours, theirs, roughly)]
        agree(f"{name} in float32", *found, program, ROUNDING_OF_FLOAT32)
    for name, *found in zip(single, ours[1], theirs[1], roughly[1], strict=True):
        agree(f"the gradient in float32 for {name}", *found, program, ROUNDING_OF_FLOAT32)


def compare_with_torch(program: Program) -> str:
    rest = program.leaves, program.writes, program.results
    ours = derivatives(mg, program.source(0), *rest)
    names = {"T": Torch, "TF": torch.nn.functional, "torch": torch}
    theirs = derivatives(torch, program.source(2), *rest, **names)
    roughly = derivatives(
        torch, disturbed(program, 2), *rest, disturb=disturbance(torch, 0), **names
    )
    compare_values(program, ours[0], theirs[0], roughly[0])
    for k, what in enumerate(("gradient by backward", "gradient", "gradient of the gradient"), 1):
        for name, *gradients in zip(program.leaves, ours[k], theirs[k], roughly[k], strict=True):
            agree(f"the {what} for {name}", *gradients, program)
    compare_in_float32(program)
    return "compared"


def compare_with_numpy(program: Program) -> str:
    point = prepared(program.leaves, program.writes)
    results = program.results
    ours = derivatives(mg, program.source(0), program.leaves, program.writes, results)
    theirs = run(program.source(1), point, R=Reference())
    roughly = run(disturbed(program, 1), point, R=Reference(), disturb=disturbance(np, 0))
    compare_values(program, ours[0], theirs, roughly)

    direction = draws(2, [x.shape for x in point.values()])
    cotangents = draws(0, [theirs[name].shape for name in results])
    weights = draws(1, [x.shape for x in point.values()])

    def moved(t):
        return {name: x + t * v for (name, x), v in zip(point.items(), direction, strict=True)}

    def value(t):
        reference = Reference()
        values = run(program.source(1), moved(t), R=reference)
        return sum(
            np.sum(values[name] * c) for name, c in zip(results, cotangents, strict=True)
        ), reference.choices

    def slope(t):
        found = derivatives(mg, program.source(0), moved(t), (), results, order=1)[1]
        return sum(np.sum(g * u) for g, u in zip(found, weights, strict=True)), value(t)[1]

    def projected(gradients):
        terms = [g * v for g, v in zip(gradients, direction, strict=True)]
        return sum(map(np.sum, terms)), sum(np.sum(np.abs(term)) for term in terms)

    for first, second in zip(ours[1], ours[2], strict=True):
        np.testing.assert_allclose(first, second, 1e-9, 1e-9 * np.max(np.abs(second), initial=0))
    for function, gradients, what in (
        (value, ours[1], "gradient"),
        (slope, ours[3], "gradient of the gradient"),
    ):
        analytic, scale = projected(gradients)
        numeric, uncertainty = derivative(function, 1e-8 * scale)
        if math.isinf(uncertainty):
            return "near a kink"
        tolerance = 10 * uncertainty + 1e-7 * scale + 1e-10
        if not abs(analytic - numeric) <= tolerance:
            raise MismatchError(
                f"the {what} along a random direction is {analytic:.12g}, by differences "
                f"{numeric:.12g} (allowed {tolerance:.2g}), of{program!r}"
            )
    return "compared"


def derivative(
    function: Callable[[float], tuple[float, Any]], enough: float
) -> tuple[float, float]:
    """The derivative at 0 by fourth-order differences, and how much two steps differ."""
    best, uncertainty, choices = math.nan, math.inf, function(0.0)[1]
    for h in (2e-2, 2e-3, 2e-4, 2e-5):
        points = {k: function(k * h) for k in (-2, -1, -0.5, 0.5, 1, 2)}
        if any(chosen != choices for _, chosen in points.values()):
            continue
        f = {k: y for k, (y, _) in points.items()}
        wide = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
        narrow = (8 * (f[0.5] - f[-0.5]) - (f[1] - f[-1])) / (6 * h)
        if abs(wide - narrow) < uncertainty:
            best, uncertainty = narrow, abs(wide - narrow)
        if uncertainty <= enough:
            break
    return best, uncertainty


# ---------------------------------------------------------------------------------- many programs
OPTIONS: dict[str, Any] = dict(
    database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def explore(
    check: Callable[[Program], str],
    count: int,
    number: int,
    seen: set[int] | None = None,
    rows: Any = ROWS,
) -> Counter[str]:
    """Check `count` programs, the same for a given number; a failing one is shrunk and raised.
    Return the outcomes and the lines per row, for programs that were not in `seen`."""
    seen, order, outcomes = set() if seen is None else seen, list(rows), Counter[str]()
    random.Random(number).shuffle(order)  # hypothesis prefers earlier choices

    @seed(number)
    @settings(max_examples=count, phases=[Phase.generate, Phase.shrink], **OPTIONS)
    @given(programs(rows=tuple(order)))
    def each(program: Program) -> None:
        known = hash(repr(program)) in seen
        seen.add(hash(repr(program)))
        outcome = check(program)
        if not known:
            outcomes.update([outcome, *(line.row for line in program.lines)])

    each()
    return outcomes


def smallest_failure(check: Callable[[Program], str], rows: tuple[str, ...]) -> Program:
    """The smallest failing program of these rows that hypothesis finds."""

    def fails(program: Program) -> bool:
        try:
            check(program)
        except MismatchError:
            return True
        return False

    return find(
        programs(rows=rows),
        fails,
        settings=settings(max_examples=500, derandomize=True, **OPTIONS),
    )


def torment(share: Share) -> Result:
    """20,000 different programs, with PyTorch if it is installed."""
    peer = "torch" in globals()
    check = compare_with_torch if peer else compare_with_numpy
    result = Result(
        "random programs " + ("against PyTorch" if peer else "against NumPy and differences")
    )
    wanted, lines, seen = len(share.of(20_000, 600)), Counter[str](), set[int]()
    for number in itertools.count(1000 + share.number, share.shares):
        try:
            outcomes = explore(check, 50, number, seen)
        except Exception as error:  # a MismatchError, or an error that no program may raise
            outcomes = Counter()
            notes = getattr(error, "__notes__", [])
            result.failures.append("\n".join([f"{type(error).__name__}: {error}", *notes]))
        result.count += outcomes.pop("compared", 0)
        result.note("near a kink, not counted", outcomes.pop("near a kink", 0))
        lines += outcomes
        share.tell(min(result.count, wanted), wanted)
        if result.count >= wanted or len(result.failures) > 20:
            break
    result.note("lines", lines.total())
    rare = [name for name in ROWS if lines[name] < result.count / 500]
    if rare:
        result.failures.append(f"hardly drawn: {rare}")
    return result
