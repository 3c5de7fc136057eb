"""Generates compiled code and exports from table.py; setup.py runs it before each build.

Design note
-----------
1. It parses the source of the table without running it. It writes the opcodes, the loops of
   kernels.pyx, the functions of ops.pyx and the operators of Tensor into `generated/`, which is
   not under version control.
2. The loops are as one would write them by hand: one line for each opcode and kind of operand.
"""

import ast
import json
import re
from pathlib import Path
from runpy import run_path
from textwrap import fill, indent
from typing import Any, NamedTuple
from zlib import crc32

CORE = Path(__file__).parents[1]
MADE = "generated from table.py by generate.py"
MADE_OF_FORMULAS = "generated from formulas.py and table.py by"
KINDS = ("unary", "binary", "comparison")


class Entry(NamedTuple):
    """An entry of the table, as source text."""

    name: str
    kind: str
    kernel: str | None
    numpy: str
    rules: list[str]
    help: str
    example: str
    options: dict[str, Any]

    @property
    def opcode(self) -> str:
        """The name of its opcode."""
        return self.name.upper() if self.kernel else "NO_KERNEL"

    @property
    def parameters(self) -> list[str]:
        """The parameters of its function."""
        return ["x"] if self.kind == "unary" else ["x", "y"]

    @property
    def public(self) -> bool:
        """Whether it is in `mg` and a method of Tensor."""
        return bool(self.options.get("public", True))


class Table(NamedTuple):
    """The parsed table. helpers: functions and constants, as source text. operators: method
    (without underscores) to primitive, for primitives without an entry."""

    entries: list[Entry]  # by kind, in the order of the table
    helpers: list[str]
    operators: dict[str, str]


def read_table(source: str) -> Table:
    """Parse the source of the table."""
    entries, helpers, operators = [], [], {}
    for node in ast.parse(source).body:
        value = getattr(node, "value", None)
        kind = getattr(getattr(value, "func", None), "id", None)
        if isinstance(node, ast.Assign) and isinstance(value, ast.Call) and kind in KINDS:
            rules = {"unary": 1, "binary": 2, "comparison": 0}[kind]
            kernel, numpy, *rest = value.args
            texts = [ast.literal_eval(text) for text in rest[rules:]]
            entries.append(
                Entry(
                    ast.unparse(node.targets[0]),
                    kind,
                    ast.literal_eval(kernel),
                    ast.unparse(numpy),
                    [ast.unparse(rule) for rule in rest[:rules]],
                    " ".join(texts[:1]),
                    " ".join(texts[1:]),
                    {word.arg or "": ast.literal_eval(word.value) for word in value.keywords},
                )
            )
        elif isinstance(node, ast.Assign) and isinstance(value, ast.Dict):
            operators = ast.literal_eval(value)
        elif isinstance(node, ast.Assign):
            helpers.append(f"cdef object {ast.unparse(node)}")
        elif getattr(node, "name", "").startswith("_"):
            helpers.append(ast.unparse(node))
    return Table(sorted(entries, key=lambda entry: KINDS.index(entry.kind)), helpers, operators)


# ------------------------------------------------------------------------------------------- loops
TILED = """\
while n > 0:                        # tile by tile: most have no special number
    w = min(n, <Py_ssize_t> TILE)
    for i in range(w): o[i] = {usual}
    if not mg_usual(x, w, {added}):       # (the others keep their bits)
        for i in range(w): o[i] = o[i] if mg_usual(x + i, 1, {added}) else <floating> {careful}
    x, o, n = x + w, o + w, n - w"""


def loop(entry: Entry) -> str:
    """The loop of one opcode."""
    kernel = str(entry.kernel)
    if entry.kind == "unary":
        careful = re.sub(r"\bx\b", "x[i]", kernel)
        if "usual" in entry.options:
            usual = re.sub(r"^(mg_\w+)", r"\1_usual", careful)
            return TILED.format(usual=usual, careful=careful, added=entry.options["usual"])
        return f"for i in range(n): o[i] = {careful}"
    if len(re.findall(r"\b[xy]\b", kernel)) > 2:
        kernel = re.sub(r"\bx\b", "left", re.sub(r"\by\b", "right", kernel))
        return f"for i in range(n):\n    left, right = x[i * dx], y[i * dy]\n    o[i] = {kernel}"
    kernel = re.sub(r"\bx\b", "x[i * dx]", re.sub(r"\by\b", "y[i * dy]", kernel))
    return f"for i in range(n): o[i] = {kernel}"


HEADS = {
    "unary": """\
cdef cloned unary(int opcode, floating* x, floating* o, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, w""",
    "binary": """\
cdef inline inlined binary_loop(int opcode, floating* x, floating* y, floating* o, Py_ssize_t n,
                                Py_ssize_t dx, Py_ssize_t dy) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating left, right""",
    "comparison": """\
cdef inline inlined compare_loop(int opcode, floating* x, floating* y, mask_t* o, Py_ssize_t n,
                                 Py_ssize_t dx, Py_ssize_t dy) noexcept nogil:
    cdef Py_ssize_t i""",
}


def functions_of_both(text: str) -> str:
    """A single name for both precisions of each function of vecmath.h that a loop calls."""
    headers = "".join(path.read_text("utf-8") for path in (CORE / "fast").glob("vecmath*.h"))
    bodies = re.findall(r"\b(?:MG_NAME\(|mg_)(\w+?)(?:\)|_f32)\(", headers)
    defined = {f"mg_{name}" for name in bodies} - {"mg_usual"}
    used = sorted(set(re.findall(r"\bmg_\w+", text)) & defined)
    macros = "".join(f"    #define {name}(x) MG_BOTH({name}, x)\n" for name in used)
    declared = "\n".join(f"    double {name}(double)" for name in used)
    return f'cdef extern from * nogil:\n    """\n{macros}    """\n{declared}'


def loops(entries: list[Entry]) -> str:
    """A function for each kind, which branches on the opcode."""
    parts = []
    for kind, head in HEADS.items():
        own = [entry for entry in entries if entry.kernel and entry.kind == kind]
        branches = [f"if opcode == {e.opcode}:\n{indent(loop(e), '    ')}" for e in own]
        parts.append(f"{head}\n{indent(f'{chr(10)}el'.join(branches), '    ')}")
    return "\n\n\n".join([functions_of_both("".join(parts)), *parts])


def opcodes(entries: list[Entry]) -> str:
    """The enumeration of the opcodes, kind by kind."""
    own = [[e.opcode for e in entries if e.kernel and e.kind == kind] for kind in KINDS]
    first = dict(zip(("FIRST_BINARY", "FIRST_COMPARISON"), (own[1][0], own[2][0]), strict=True))
    listed = ",\n    ".join(fill(", ".join(names), 96, subsequent_indent="    ") for names in own)
    others = """\
WHERE, CLIP, SCALED_DIFFERENCE          # three inputs
    SUM, PROD, MAX, MIN                     # reductions in one pass;
    DIFFERENCE, DEVIATION, PRODUCTS, MOMENTS    # passes relative to a centre, or over two arrays;
    MEAN, VAR, LOGSUM                       # composed of these by `reductions`
    NO_KERNEL                               # NumPy computes"""
    names = "".join(f"    {name} = {opcode}\n" for name, opcode in first.items())
    return f"cdef enum Opcode:\n    {listed},\n    {others}\n\ncdef enum:\n{names}"


# --------------------------------------------------------------------------------------- functions
def docstring(entry: Entry) -> str:
    """The docstring: help and example."""
    call, result = entry.example.split(" -> ")
    call = re.sub(r"\[.*?\]", r"mg.tensor(\g<0>)", call).replace("'", '"')
    result = re.sub(r"\[.*\]", r"tensor(\g<0>)", result, flags=re.DOTALL)
    imports = "" if entry.public else ">>> from minigrad._core import ops\n"
    call = f"{'mg' if entry.public else 'ops'}.{call}"
    return f'"""{fill(entry.help, 96)}\n\n{imports}>>> {call}\n{result}\n"""'


def functions(entries: list[Entry], helpers: list[str]) -> str:
    """The primitives and their functions, for ops.pyx to include."""
    used = ", ".join(e.opcode for e in entries if e.kernel)
    parts = [f"from .fast.kernels cimport ({used})"]
    for e in entries:
        rules = ", ".join(e.rules) + "," if e.rules else "None, None"
        broadcasts = "" if e.kind == "unary" else ", core_dims=0"
        parts.append(
            f"cdef Op {e.name.upper()}_ = register({json.dumps(e.name)}, {e.opcode}, {e.numpy}, "
            f"({rules}){broadcasts})"
        )
    for e in entries:
        if not e.options.get("by_hand"):
            kind = "unary" if e.kind == "unary" else "binary"
            handed = ", ".join([f"{e.name.upper()}_", *e.parameters])
            body = f"{docstring(e)}\nreturn {kind}({handed})"
            given = ", ".join(f"{name}: TensorLike" for name in e.parameters)
            head = "@method\n" * e.public + f"def {e.name}({given}) -> Tensor:"
            parts.append(f"{head}\n{indent(body, '    ')}")
    return "\n\n\n".join([*helpers, *parts])


OPERATORS = {
    "unary": ["__{0}__(self): return unary({1}_, self)"],
    "comparison": ["__{0}__(self, other): return operate({1}_, self, other)"],
    "equality": ["__{0}__(self, value): return equality({1}_, self, value, {2})"],
    "binary": [
        "__{0}__(self, other): return operate({1}_, self, other)",
        "__r{0}__(self, other): return operate({1}_, other, self)",
        "__i{0}__(self, other): return in_place({1}_, self, other)",
    ],
    "pow": [
        "__{0}__(self, other, modulo): return power({1}_, self, other, modulo)",
        "__r{0}__(self, other, modulo): return power({1}_, other, self, modulo)",
        "__i{0}__(self, other): return in_place({1}_, self, other)",
    ],
    "getitem": ["__{0}__(self, index): return {1}_.function(self, index)"],
    "bitwise": [
        "__{0}__(self, other): return bitwise(np.{2}, self, other)",
        "__r{0}__(self, other): return bitwise(np.{2}, other, self)",
        "__i{0}__(self, other): return write_result(self, bitwise(np.{2}, self, other))",
    ],
}
BITWISE = {  # NumPy's functions
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
TYPED = {  # the parameters of an operator
    "(self)": "(self) -> Tensor",
    "(self, index)": "(self, index: Any, /) -> Tensor",
    "(self, other)": "(self, other: TensorLike, /) -> Tensor",
    "(self, other, modulo)": "(self, other: TensorLike, modulo: None = None, /) -> Tensor",
    "(self, value)": "(self, value: object, /) -> Tensor",
}


def operators_of(table: Table) -> list[tuple[str, str, str]]:
    """The method (without underscores), the primitive and the kind of each operator."""
    own = [(e.options.get("operator", ""), e.name, e.kind) for e in table.entries]
    others = [(method, name, "binary") for method, name in table.operators.items()]
    bits = [(method, "", "bitwise") for method in BITWISE]
    special = {"eq": "equality", "ne": "equality", "pow": "pow", "getitem": "getitem"}
    found = own + others + bits
    return [(method, name, special.get(method, kind)) for method, name, kind in found if method]


def methods(table: Table) -> list[str]:
    """The operators as methods of Tensor, one line each."""
    forms = [
        form.format(method, name.upper(), BITWISE.get(method, method == "ne"))
        for method, name, kind in operators_of(table)
        for form in OPERATORS[kind]
    ]
    return [re.sub(r"\(self.*?\)", lambda m: TYPED[m[0]], f"    def {f}", count=1) for f in forms]


def tensor_class(table: Table, folder: Path) -> str:
    """The source of Tensor, followed by the operators."""
    names = [name for _, name, _ in operators_of(table) if name]
    handles = [f'cdef Op {name.upper()}_ = named("{name}")' for name in names]
    parts = ["engine/tensor.pxi", "protocols.pxi"]
    sources = [(folder / part).read_text(encoding="utf-8") for part in parts]
    return "\n".join([*handles, "", "", *sources, *methods(table)])


def write(path: Path, text: str) -> None:
    """Write a file only if it differs, so that nothing else is recompiled."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def generate(folder: Path = CORE) -> None:
    """Write all files generated from the table in `folder`."""
    source = (folder / "engine/table.py").read_text(encoding="utf-8")
    formulas = (folder / "formulas.py").read_text(encoding="utf-8")
    table, stamp = read_table(source), f"BUILT_FROM = {crc32((source + formulas).encode())}"
    entries, helpers, _ = table
    made = {
        "opcodes.pxi": opcodes(entries),
        "loops.pxi": loops(entries),
        "tensor.pxi": tensor_class(table, folder),
        "functions.pxi": functions(entries, helpers) + f"\n\n\n{stamp}",
    }
    for name, text in made.items():
        write(folder / "generated" / name, f"# {MADE}\n{text}\n")
    for maker, function, name in (
        ("derive", "header", "formulas.h"),
        ("derive", "cells_header", "cells.h"),
        ("steps", "steps_header", "steps.h"),
    ):
        header = run_path(str(CORE / f"fast/{maker}.py"))[function]()
        write(folder / "generated" / name, f"/* {MADE_OF_FORMULAS} {maker}.py */\n{header}\n")


if __name__ == "__main__":
    generate()
