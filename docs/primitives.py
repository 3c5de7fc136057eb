"""Reads what the source says about each primitive: its entry, rules, kernel and test row, as text.

Nothing is listed here by hand. Entries come from table.py and from the calls of `register` in
ops.pyx and the files that this includes, kernels from vecmath.h, rows from tests/op_table.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent

from tex import tex

from minigrad._core.engine.graph import primitives

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "minigrad/_core"
TABLE = CORE / "engine/table.py"
BANNER = re.compile(r"# [-=]{20,} (.+)")
INPUTS = {"unary": ["x"], "binary": ["x", "y"], "comparison": ["x", "y"]}
RULES = {"unary": 1, "binary": 2, "comparison": 0}
REGISTERED = re.compile(r"^cdef Op \w+_ = (register|reduction_op)\(", re.MULTILINE)
HELPER = re.compile(r"^cdef \w+ (\w+)\(.*?(?=\n\S|\Z)", re.MULTILINE | re.DOTALL)
FUNCTION_IN_C = re.compile(
    r"^(?:/\*(?:(?!\*/).)*\*/\n)?MG_INLINE [^\n]*?\b(?:MG_NAME\((\w+)\)|mg_(\w+)_f64)\([^\n]*\n"
    r"\{.*?^\}",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Primitive:
    """A primitive. section: file and banner. kernel, numpy, rules: None where there is none.
    elementwise: it is an entry of table.py, whose kernel is an expression. helpers: the functions
    that its rules call, and nobody else can."""

    name: str
    section: tuple[str, str]
    source: str
    inputs: list[str]
    rules: list[str | None]
    kernel: str | None
    numpy: str | None
    operator: str | None
    elementwise: bool
    helpers: list[str]

    @property
    def kept(self) -> list[str]:
        """What the rules make a graph keep: their parameters but g."""
        lambdas = [ast.parse(f"({rule})", mode="eval").body for rule in self.rules if rule]
        names = {a.arg for rule in lambdas if isinstance(rule, ast.Lambda) for a in rule.args.args}
        return sorted(names - {"g"})


def read(path: Path) -> str:
    """The text of a file."""
    return path.read_text(encoding="utf-8")


def sections(text: str) -> list[str]:
    """The banner above each line."""
    found, banner = [""], ""
    for line in text.splitlines():
        banner = match[1] if (match := BANNER.match(line)) else banner
        found.append(banner)
    return found


def source(text: str, node: ast.expr) -> str | None:
    """The text of an expression; None for None."""
    is_none = isinstance(node, ast.Constant) and node.value is None
    return None if is_none else ast.get_source_segment(text, node)


def names_in(nodes: list[ast.expr]) -> set[str]:
    """The names that expressions use."""
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def of_table() -> Iterator[Primitive]:
    """The entries of table.py."""
    text = read(TABLE)
    tree, banners = ast.parse(text), sections(text)
    helpers = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    for node in tree.body:
        call = getattr(node, "value", None)
        kind = getattr(getattr(call, "func", None), "id", None)
        if not isinstance(node, ast.Assign) or not isinstance(call, ast.Call) or kind not in INPUTS:
            continue
        kernel, numpy, *rest = call.args
        rules = rest[: RULES[kind]]
        options = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        used = [helpers[n] for n in helpers if n in names_in(rules)]
        yield Primitive(
            name=ast.unparse(node.targets[0]),
            section=(TABLE.name, banners[node.lineno]),
            source=ast.get_source_segment(text, node) or "",
            inputs=INPUTS[kind],
            rules=[source(text, rule) for rule in rules],
            kernel=ast.literal_eval(kernel),
            numpy=source(text, numpy),
            operator=options.get("operator"),
            elementwise=True,
            helpers=[ast.get_source_segment(text, helper) or "" for helper in used],
        )


def included(path: Path) -> Iterator[Path]:
    """A Cython file and those of its folder that it includes."""
    yield path
    for name in re.findall(r'^include "(\w+\.pxi)"', read(path), re.MULTILINE):
        yield from included(path.parent / name)


def bracketed(text: str, start: int) -> int:
    """Where the bracket is closed that opens at `start`."""
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] in "([{") - (text[end] in ")]}")
        if depth == 0:
            return end + 1
    raise ValueError(f"primitives: a bracket is not closed: {text[start : start + 60]!r}")


def of_cython(path: Path, helpers: dict[str, str]) -> Iterator[Primitive]:
    """The primitives that a Cython file registers."""
    text = read(path)
    banners = sections(text)
    for match in REGISTERED.finditer(text):
        written = text[match.start(1) : bracketed(text, match.end() - 1)]
        call = ast.parse(written, mode="eval").body
        assert isinstance(call, ast.Call)
        name, opcode, numpy, given = call.args
        rules = given.elts if isinstance(given, ast.Tuple) else [given]
        words = {word.arg: word.value for word in call.keywords}
        inputs = ast.literal_eval(words["inputs"]) if "inputs" in words else ("x", "y", "z")
        used = [helpers[n] for n in helpers if n in names_in(rules)]
        yield Primitive(
            name=ast.literal_eval(name),
            section=(path.name, banners[text.count("\n", 0, match.start()) + 1]),
            source=text[match.start() : match.start(1)] + written,
            inputs=list(inputs[: len(rules)]),
            rules=[source(written, rule) for rule in rules],
            kernel=None if ast.unparse(opcode) == "NO_KERNEL" else ast.unparse(opcode),
            numpy=source(written, numpy),
            operator=None,
            elementwise=False,
            helpers=used,
        )


def all_primitives() -> list[Primitive]:
    """All primitives, in the order of the source. Raises ValueError if it finds others than there
    are."""
    paths = list(included(CORE / "ops.pyx"))
    helpers = {m[1]: m[0].rstrip() for path in paths for m in HELPER.finditer(read(path))}
    found = [*of_table(), *(p for path in paths for p in of_cython(path, helpers))]
    names = [primitive.name for primitive in found]
    if sorted(names) != primitives():
        differ = sorted({*names} ^ {*primitives()}) or "one is there twice"
        raise ValueError(f"primitives: in the source or registered, but not both: {differ}")
    return found


def tested_rows() -> dict[str, str]:
    """The row of each primitive in tests/op_table.py, with the NumPy functions that it names."""
    text = read(ROOT / "tests/op_table.py")
    functions = {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    tables = {
        ast.unparse(node.targets[0]): node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
    }
    of_one: dict[str, str] = {}
    of_many: dict[str, str] = {}
    rows = tables["TABLE"]
    assert isinstance(rows, ast.Tuple)
    for element in rows.elts:
        row = dedent(" " * element.col_offset + (ast.get_source_segment(text, element) or ""))
        refers = [functions[n] for n in functions if n in names_in([element]) and n[:3] == "np_"]
        parts = [*(ast.get_source_segment(text, node) or "" for node in refers), row]
        whole = "\n\n\n".join(parts)
        if isinstance(element, ast.Call):
            of_one[ast.literal_eval(element.args[0])] = whole
        else:  # it makes several rows, and their names are somewhere in it
            words = [n.value for n in ast.walk(element) if isinstance(n, ast.Constant)]
            of_many |= {word: whole for word in words if isinstance(word, str)}
    return of_many | of_one


def functions_in_c() -> dict[str, str]:
    """The functions of vecmath.h, `tanh` for mg_tanh, with the comment above each."""
    paths = [CORE / "fast/vecmath_body.h", CORE / "fast/vecmath.h"]
    found = [match for path in paths for match in FUNCTION_IN_C.finditer(read(path))]
    return {match[1] or match[2]: match[0] for match in reversed(found)}


@cache
def constants() -> dict[str, ast.expr]:
    """What the constants of the table stand for: `LN_2 = math.log(2)`."""
    assigned = [node for node in ast.parse(read(TABLE)).body if isinstance(node, ast.Assign)]
    found = {ast.unparse(node.targets[0]): node.value for node in assigned}
    return {n: v for n, v in found.items() if n.isupper() and not isinstance(v, ast.Constant)}


def formulas(primitive: Primitive) -> tuple[str, list[str]]:
    """The value of an elementwise primitive and the gradients of its inputs, as TeX."""
    known = constants()
    call = f"{primitive.name}({', '.join(primitive.inputs)})"
    value = ast.parse(primitive.kernel or call, mode="eval").body
    slopes = []
    for name, rule in zip(primitive.inputs, primitive.rules, strict=False):
        if rule:
            body = ast.parse(f"({rule})", mode="eval").body
            assert isinstance(body, ast.Lambda)
            slopes.append(rf"\bar {name} = {tex(body.body, known)[0]}")
    return f"z = {tex(value, known)[0]}", slopes
