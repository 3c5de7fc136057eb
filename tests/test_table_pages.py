"""The pages of the table: every primitive is there, with its own rule and row, and true curves."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from op_table import ROWS

import minigrad as mg
from minigrad._core import ops
from minigrad._core.engine.graph import primitives

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))  # isort: split
import curves  # noqa: E402
import primitives as source  # noqa: E402
import table_pages  # noqa: E402
from tex import tex  # noqa: E402

ENTRIES = {primitive.name: primitive for primitive in source.all_primitives()}
SVG = re.compile(r"<svg .*?</svg>")


@cache
def pages():
    """The text of each page and file, by name."""
    return dict(table_pages.pages())


@cache
def rows():
    """The test row of each primitive."""
    return source.tested_rows()


@cache
def sections():
    """The text of each primitive, by name."""
    texts = [text for page in pages().values() for text in page.split("\n(primitive-")[1:]]
    parts = [text.partition(")=\n## ") for text in texts]
    assert len({name for name, _, _ in parts}) == len(parts), "one is there twice"
    return {name: text for name, _, text in parts}


# ------------------------------------------------------------------------------ everything is there
def test_every_primitive_has_a_section_and_a_row_on_the_first_page():
    assert sorted(sections()) == primitives()
    listed = re.findall(r"^\| \[(\w+)\]\(#primitive-\1\)", pages()["index.md"], re.MULTILINE)
    assert sorted(listed) == primitives()
    assert f"one of {len(sections())} *primitives*" in pages()["index.md"]


def test_every_page_is_in_the_contents():
    contents = pages()["index.md"].split("```{toctree}")[1].split()[1:-1]
    assert sorted(f"{name}.md" for name in [*contents, "index"]) == sorted(
        name for name in pages() if name.endswith(".md")
    )


def test_a_primitive_that_is_not_found_is_noticed(monkeypatch):
    monkeypatch.setattr(source, "primitives", lambda: sorted([*sections(), "bessel"]))
    with pytest.raises(ValueError, match="bessel"):
        source.all_primitives()


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_quoted_stands_in_the_source(name):
    entry = ENTRIES[name]
    file = next(source.CORE.rglob(entry.section[0]))
    text = file.read_text(encoding="utf-8")
    assert entry.source in text
    assert all(rule in entry.source for rule in entry.rules if rule)
    assert f"\n{entry.source}\n" in sections()[name]
    row = rows()[name]
    assert f'"{name}"' in row and row in sections()[name]
    tests = (ROOT / "tests/op_table.py").read_text(encoding="utf-8")
    assert all(line.strip() in tests for line in row.splitlines())


def sample(name):
    """The primitive applied to inputs of its test row that require gradients."""
    row = ROWS[name]
    shapes, options = row.cases[0]
    random = np.random.default_rng(0)
    arrays = [np.asarray(d(random, s)) for d, s in zip(cycle(row.domains), shapes, strict=False)]
    inputs = [
        mg.tensor(a, requires_grad=i in row.differentiable and a.dtype != bool)
        for i, a in enumerate(arrays)
    ]
    return row.function(*inputs, **options)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.differentiable])
def test_what_is_said_to_be_kept_is_what_the_engine_reads(name):
    node = sample(name).grad_fn
    while node is not None and node.name != name:  # the function did something before or after
        node = next((n for n in node.next_functions if n and not isinstance(n, mg.Tensor)), None)
    assert node is not None
    names = set()
    for rule in node.op.rules:
        if rule is not None:
            names |= {*rule.__code__.co_varnames[: rule.__code__.co_argcount]}
    assert ENTRIES[name].kept == sorted(names - {"g"})
    assert len(ENTRIES[name].rules) == len(node.op.rules)


# -------------------------------------------------------------------------------------- the curves
def points(svg, kind):
    """A curve of a picture as x and y of the function, ten points for each unit of x, and the size
    of a pixel."""
    low, high = map(float, re.search(r'data-y="(.*?)"', svg)[1].split())
    (path,) = re.findall(rf'<path class="{kind}" [^>]*d="([^"]*)"', svg)
    found = []
    for piece in filter(None, path.split("M")):
        corners = np.array([corner.split() for corner in piece.split("L")], float)
        across = (corners[:, 0] - curves.LEFT) / (curves.RIGHT - curves.LEFT)
        up = (curves.BOTTOM - corners[:, 1]) / (curves.BOTTOM - curves.TOP)
        x = (2 * across - 1) * curves.WINDOW
        grid = np.arange(np.ceil(10 * x[0]), 10 * x[-1]) / 10
        found.append((grid, low + (high - low) * np.interp(grid, x, up)))
    x, y = np.concatenate(found, axis=1) if found else np.zeros((2, 0))
    return x, y, (high - low) / (curves.BOTTOM - curves.TOP)


def of_numpy(name, argument):
    """What NumPy computes, in the argument that is drawn."""
    row = ROWS[name]
    count = len(ENTRIES[name].inputs)

    def function(x):
        fixed = np.full_like(x, curves.FIXED)
        with np.errstate(all="ignore"):
            return row.reference(*(x if i == argument else fixed for i in range(count)))

    return function


def differences(function, x, h):
    """The value, and the central differences of first and second order."""
    below, at, above = (np.asarray(function(x + d), float) for d in (-h, 0, h))
    return at, (above - below) / (2 * h), (above - 2 * at + below) / h**2


def wrong_points(svg, name, argument):
    """How many points of the three curves are not where NumPy's function and its finite
    differences are, and how many were compared; not those at a kink or a pole."""
    wrong = compared = 0
    for order, kind in enumerate(curves.STYLES):
        x, y, pixel = points(svg, kind)
        with np.errstate(all="ignore"):
            coarse, fine = (differences(of_numpy(name, argument), x, h) for h in (2e-3, 1e-3))
            steep = np.abs(np.gradient(y, x)) if len(x) > 1 else 0.0
            near = 0.3 * pixel + 0.003 * steep
            smooth = np.all(
                [np.abs(c - f) < 0.05 * (1 + np.abs(f)) for c, f in zip(coarse, fine, strict=True)],
                axis=0,
            )
            off = np.abs(fine[order] - y) > near
        wrong += int((off & smooth).sum())
        compared += int(smooth.sum())
    return wrong, compared


DRAWN = [
    (name, k)
    for name, entry in ENTRIES.items()
    for k, rule in enumerate(entry.rules)
    if rule and entry.elementwise
]


def test_every_elementwise_rule_has_its_picture_and_no_other_primitive_has_one():
    found = [
        (name, int(re.search(r'data-argument="(\d)"', svg)[1]))
        for name, text in sections().items()
        for svg in SVG.findall(text)
    ]
    assert found == DRAWN and len(DRAWN) > 60


@pytest.mark.parametrize(("name", "argument"), DRAWN)
def test_the_curves_are_those_of_numpy_and_of_finite_differences(name, argument):
    (svg,) = (s for s in SVG.findall(sections()[name]) if f'data-argument="{argument}"' in s)
    wrong, compared = wrong_points(svg, name, argument)
    assert wrong == 0 and compared >= 40, (wrong, compared)


@pytest.mark.parametrize("name", ["tanh", "sin", "gelu", "square", "hypot"])
@pytest.mark.parametrize("order", [1, 2])
def test_a_curve_of_a_wrong_derivative_is_noticed(name, order, monkeypatch):
    right = curves.curves

    def spoiled(*arguments):
        x, ys = right(*arguments)
        ys[order] = 1.1 * ys[order]
        return x, ys

    monkeypatch.setattr(curves, "curves", spoiled)
    wrong, _ = wrong_points(curves.plot(name, ENTRIES[name].inputs), name, 0)
    assert wrong > 0


@pytest.mark.parametrize("name", ["exp", "atan", "mish", "rsqrt"])
def test_the_curves_are_the_engine_s_own(name):
    svg = curves.plot(name, ["x"])
    for order, kind in enumerate(curves.STYLES):
        x, y, pixel = points(svg, kind)
        tensor = mg.tensor(x, requires_grad=True)
        found = [getattr(ops, name)(tensor)]
        for _ in range(3):
            found += mg.autograd.grad(found[-1].sum(), [tensor], create_graph=True)
        exact, slope = (each.detach().numpy() for each in found[order : order + 2])
        assert len(x) >= 10
        assert np.all(np.abs(exact - y) <= 0.3 * pixel + 0.003 * np.abs(slope))


# ------------------------------------------------------------------------------ formulas and files
FORMULAS = {
    "multiply": (r"z = x \, y", [r"\bar x = g \, y", r"\bar y = g \, x"]),
    "sqrt": (r"z = \sqrt{x}", [r"\bar x = \frac{g}{2 \, z}"]),
    "divide": (r"z = \frac{x}{y}", [r"\bar x = \frac{g}{y}", r"\bar y = \frac{g \, z}{-y}"]),
    "tanh": (
        r"z = \tanh\left(x\right)",
        [r"\bar x = g \, \text{tanh_slope}\left(x\right)"],
    ),
    "relu": (
        r"z = \begin{cases} 0 & \text{if } x \le 0 \\ x & \text{else} \end{cases}",
        [r"\bar x = \text{gate}\left(g, z\right)"],
    ),
    "exp2": (
        r"z = 2^{x}",
        [r"\bar x = g \, \log\left(2\right) \, z"],
    ),
    "reciprocal": (r"z = \frac{1}{x}", [r"\bar x = -g \, z \, z"]),
    "atanh": (
        r"z = \text{atanh}\left(x\right)",
        [r"\bar x = \frac{g}{\left(1 - x\right) \, \left(1 + x\right)}"],
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_written_as_in_mathematics(name):
    assert source.formulas(ENTRIES[name]) == FORMULAS[name]


def test_brackets_keep_the_order_of_operations():
    def written(text):
        return tex(source.ast.parse(text, mode="eval").body, {})[0]

    assert written("x - (y - z)") == r"x - \left(y - z\right)"
    assert written("-(x + y)") == r"-\left(x + y\right)"
    assert written("(x + y) * z") == r"\left(x + y\right) \, z"
    assert written("x * (-y * z)") == r"x \, \left(-y \, z\right)"
    assert written("square(x + y)") == r"\left(x + y\right)^2"
    assert written("square(sin(x))") == r"\left(\sin\left(x\right)\right)^2"
    with pytest.raises(ValueError, match="no formula for"):
        written("x[0]")


def test_the_pages_are_written_by_one_command_and_only_if_they_differ(tmp_path, monkeypatch):
    command = [sys.executable, str(DOCS / "table_pages.py")]
    environment = {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(tmp_path)], check=True, env=environment)
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == set(pages())
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in pages()}
    (tmp_path / "index.md").write_text("spoiled", encoding="utf-8")
    monkeypatch.setattr(table_pages, "pages", lambda: pages().items())
    table_pages.write(tmp_path)
    changed = {n for n, when in before.items() if (tmp_path / n).stat().st_mtime_ns != when}
    assert changed == {"index.md"}
    wrong = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert wrong.returncode == 1 and wrong.stderr == "usage: python docs/table_pages.py OUTDIR\n"
