"""Plant random mutants in the sources, one at a time, and run the tests on each: `make mutants`.

A mutant is one small change that ought to change a result: a comparison, operator, constant, sign
or branch. A test suite that passes on it has a hole, or the change makes no difference. The latter
are listed, each with its reason, in the table of RELIABILITY.md, and are not tried again.

Python is changed by its syntax tree, Cython and C by their tokens; docstrings, comments, strings,
imports, type declarations and error messages are left alone. A mutant that does not compile, or
compiles to the same machine code, is replaced by the next one. The same seed on the same sources
plants the same mutants.

Each mutant has a temporary copy of the tree, compiled with -O1, so the tree itself never changes.
First the tests of related files run, then all others, the likeliest first; the first failure, a
crash or a test that hangs kills the mutant.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILED = "minigrad/_core/engine/table.py"  # the only Python file that compiled code is made from
SOURCES = (
    "minigrad/_core/**/*.pyx",
    "minigrad/_core/*.pxi",
    "minigrad/_core/[ef]*/*.px[di]",  # engine and fast, but nothing generated
    "minigrad/_core/fast/*.h",
    COMPILED,
    "minigrad/nn/*.py",
    "minigrad/optim/*.py",
)
TABLE = "RELIABILITY.md"
FEW_TESTS = 4  # files of related tests that run first, and ...
EXAMPLES = "tests/test_docstrings.py"  # ... the examples in docstrings
QUIET = 240  # seconds without a line of output after which a run hangs
MEMORY = 8 << 30  # bytes of address space: a mutant must not fill the machine

SWAPS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "+": ("-",),
    "-": ("+",),
    "*": ("/",),
    "/": ("*",),
    "//": ("*",),
    "%": ("+",),
    "**": ("*",),
    "&": ("|",),
    "|": ("&",),
    "<<": (">>",),
    ">>": ("<<",),
    "&&": ("||",),
    "||": ("&&",),
    "+=": ("-=",),
    "-=": ("+=",),
    "*=": ("+=",),
    "/=": ("*=",),
    "and": ("or",),
    "or": ("and",),
    "is": ("is not",),
    "is not": ("is",),
    "in": ("not in",),
    "not in": ("in",),
    "True": ("False",),
    "False": ("True",),
    "min": ("max",),
    "max": ("min",),
    "any": ("all",),
    "all": ("any",),
    "floor": ("ceil",),
    "ceil": ("floor",),
    "minimum": ("maximum",),
    "maximum": ("minimum",),
    "argmin": ("argmax",),
    "argmax": ("argmin",),
    "zeros": ("ones",),
    "ones": ("zeros",),
    "sin": ("cos",),
    "cos": ("sin",),
}
SYMMETRIC = {
    *("isinstance", "getattr", "hasattr", "cast", "zip"),
    *("min", "max", "minimum", "maximum", "hypot"),
}
NAMES = {name for name in SWAPS if name.isidentifier()} - {"and", "or", "is", "in", "True", "False"}


@dataclass(frozen=True)
class Mutant:
    """`after` in place of the bytes from `start` to `stop` of a file."""

    file: str
    start: int
    stop: int
    after: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.stop :]

    def line(self, source: bytes) -> int:
        return source.count(b"\n", 0, self.start) + 1

    def lines(self, source: bytes) -> tuple[str, str]:
        """The changed lines before and after, on one line each."""
        first = source.rfind(b"\n", 0, self.start) + 1
        last = source.find(b"\n", self.stop)
        before = source[first : last if last >= 0 else len(source)]
        moved = Mutant(self.file, self.start - first, self.stop - first, self.after)
        return one_line(before), one_line(moved.applied(before))


def one_line(text: bytes) -> str:
    return " ".join(text.decode().split())


# --------------------------------------------------------------------------------------- operators
def changed_number(text: str) -> list[str]:
    """Off by one for an integer; half and double for a fraction."""
    suffix = re.search(r"(?i)[ful]*$", text).group() if "x" not in text else ""
    if re.fullmatch(r"\d[\d_]*", number := text.removesuffix(suffix)):
        nearby = int(number) + 1, int(number) - 1
        return [f"{value}{suffix}" for value in nearby if value >= 0]
    if re.fullmatch(r"\d*\.\d*(e[-+]?\d+)?f?|\d+e[-+]?\d+f?", text):
        if float(number) == 0:
            return ["1.0" + suffix]
        return [f"({number} * {factor}{suffix})".replace(number, number + suffix, 1)
                for factor in ("2.0", "0.5")]  # fmt: skip
    return []


def python_mutants(file: str, source: bytes) -> list[list[Mutant]]:
    """The changes possible at each site of a Python file."""
    tree = ast.parse(source)
    starts = [0, *itertools.accumulate(len(line) for line in source.splitlines(keepends=True))]
    sites: list[list[Mutant]] = []

    def span(node: ast.AST) -> tuple[int, int]:
        return (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(node: ast.AST) -> str:
        return source[slice(*span(node))].decode()

    def site(start: int, stop: int, afters) -> None:
        if afters := [a for a in afters if a != source[start:stop].decode()]:
            sites.append([Mutant(file, start, stop, after) for after in afters])

    def between(left: ast.AST, right: ast.AST) -> None:
        """The operator between two operands; "not in" and "is not" are single operators."""
        begin, end = span(left)[1], span(right)[0]
        gap = source[begin:end].decode()
        found = re.search(r"(is\s+not|not\s+in|\w+|[-+*/%<>=!&|@^]+)", re.sub(r"#.*", "", gap))
        if found:
            name = " ".join(found.group().split())
            site(begin + found.start(), begin + found.end(), SWAPS.get(name, ()))

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Raise, ast.JoinedStr, ast.Assert)):
            return
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                visit(default)
            for child in node.body if isinstance(node, ast.FunctionDef) else [node.body]:
                visit(child)
            return
        if isinstance(node, ast.keyword) and node.arg == "strict":
            return  # of zip: an assertion
        if isinstance(node, ast.AnnAssign):
            if node.value is not None:
                visit(node.value)
            return
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name):
            alias = re.fullmatch(r"[A-Z][a-z]\w*|__all__", target.id)
            if alias:  # of a type
                return
        if isinstance(node, ast.Compare):
            for left, right in itertools.pairwise([node.left, *node.comparators]):
                between(left, right)
        elif isinstance(node, ast.BinOp):
            between(node.left, node.right)
            site(*span(node), [f"({text(node.left)})", f"({text(node.right)})"])
        elif isinstance(node, ast.BoolOp):
            for left, right in itertools.pairwise(node.values):
                between(left, right)
            kept = [[v for v in node.values if v is not dropped] for dropped in node.values]
            word = " and " if isinstance(node.op, ast.And) else " or "
            site(
                *span(node), ["(" + word.join(f"({text(v)})" for v in part) + ")" for part in kept]
            )
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            site(*span(node), [f"({text(node.operand)})"])
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            name = text(node)
            site(*span(node), SWAPS.get(name) or changed_number(name))
        elif isinstance(node, ast.AugAssign):
            between(node.target, node.value)
        elif isinstance(node, ast.Call):
            name = node.func
            last = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
            if last in NAMES:
                site(span(name)[1] - len(last), span(name)[1], SWAPS[last])
            if len(node.args) == 2 and not any(isinstance(a, ast.Starred) for a in node.args):
                a, b = map(text, node.args)
                if last not in SYMMETRIC:
                    site(span(node.args[0])[0], span(node.args[1])[1], [f"{b}, {a}"])
        elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
            site(*span(node.test), [f"(not ({text(node.test)}))"])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            site(*span(node), ["pass"])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return sites


TOKEN = re.compile(
    r"""(?P<comment>\#.*)|(?P<block>/\*.*?\*/)|(?P<string>[a-zA-Z]{0,2}("{3}.*?"{3}|'{3}.*?'{3}
    |"(\\.|[^"\\\n])*"|'(\\.|[^'\\\n])*'))
    |(?P<number>0[xX][0-9a-fA-F]+[uUlL]*|(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?[fFuUlL]*)
    |(?P<name>is\ not\b|not\ in\b|[^\W\d]\w*)
    |(?P<op><<=|>>=|\*\*|//|<<|>>|<=|>=|==|!=|&&|\|\||->|\+\+|--|[-+*/%&|^]=|[-+*/%&|^<>=!~.,:;()\[\]{}?@])
    |(?P<newline>\n)|(?P<space>[^\S\n]+|\\\n)""",
    re.VERBOSE | re.DOTALL,
)
COMMENT_LINE = re.compile(TOKEN.pattern.replace(r"\#.*", r"\#[^\n]*"), TOKEN.flags)
DEFINITION = re.compile(r"(\s*)(?:(?:cdef|cpdef|static|MG_\w+)\b[^=(]*?|def |class )(\w+)\s*\(")
DIRECTIVE = re.compile(r"[ \t]*#(?!define)(\\\n|.)*")
CAST = re.compile(r"<\s*[A-Za-z_][\w. ]*\**\s*>|\[\s*:\s*\]")


@dataclass
class Token:
    kind: str
    text: str
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.text)


def tokens_of(source: str, c: bool) -> Iterator[Token]:
    """The tokens, without comments and, in C, without the lines of the preprocessor."""
    place, operand = 0, False
    while place < len(source):
        line_start = place == 0 or source[place - 1] == "\n"
        if c and line_start and (directive := DIRECTIVE.match(source, place)):
            place = directive.end()
            continue
        if c and source.startswith("//", place):
            place = source.find("\n", place)
            continue
        cast = not operand and CAST.match(source, place)
        if cast:
            yield Token("cast", cast.group(), place)
            place = cast.end()
            continue
        found = COMMENT_LINE.match(source, place)
        if found is None or (c and found.lastgroup == "comment"):
            yield Token("op", source[place], place)
            place += 1
            continue
        kind, text = found.lastgroup, found.group()
        if kind not in ("comment", "block", "space"):
            yield Token(kind, text, place)
            operand = (kind in ("name", "number") and text not in SWAPS) or text in (")", "]")
        place = found.end()


def statements_of(tokens: Iterator[Token], c: bool) -> Iterator[list[Token]]:
    """Logical lines of Cython, and what ends with ; or a brace in C."""
    depth, statement = 0, []
    for token in tokens:
        if token.kind == "newline":
            if depth or c:
                continue
        else:
            depth += (token.text in "([{") - (token.text in ")]}") if token.kind == "op" else 0
            statement.append(token)
        if token.kind == "newline" or (c and token.text in (";", "{", "}")):
            if statement:
                yield statement
            statement, depth = [], 0 if c else depth
    if statement:
        yield statement


def cython_mutants(file: str, source: bytes) -> list[list[Mutant]]:
    """The changes possible at each site of a Cython or C file."""
    c, text = file.endswith(".h"), source.decode()
    sites: list[list[Mutant]] = []
    skipped_indent = None
    for statement in statements_of(tokens_of(text, c), c):
        first, words = statement[0], [t.text for t in statement]
        indent = first.start - text.rfind("\n", 0, first.start) - 1
        if skipped_indent is not None and indent > skipped_indent:
            continue
        skipped_indent = None
        if not c:
            if words[0] in ("import", "cimport", "from", "raise", "ctypedef", "include", "@"):
                continue
            if words[:2] in (["cdef", "extern"], ["cdef", "struct"]):
                skipped_indent = indent
                continue
            signature = words[0] in ("cdef", "def", "cpdef", "class") and words[-1] == ":"
            declared = words[0] == "cdef" and not signature
        else:
            declared, signature = False, words[0] in ("static", "typedef") and words[-1] in "{;"
            signature = signature or words[0] in ("MG_INLINE", "MG_TARGET")
        value = not declared  # in a declaration, only the part after the first =
        for i, token in enumerate(statement):
            before, after = statement[i - 1] if i else None, statement[i + 1 : i + 2]
            following = after[0] if after else None
            if token.text == "=" and declared:
                value = True
            if not value or (signature and not (before and before.text == "=")):
                continue
            spaced = text[token.start - 1 : token.start].isspace()
            spaced = spaced and text[token.stop : token.stop + 1].isspace()
            afters: list[str] = []
            if token.kind == "number":
                afters = changed_number(token.text)
            elif token.kind == "name" and token.text in SWAPS:
                called = following is not None and following.text == "("
                loop = token.text == "in" and "for" in words[:i]
                if not loop and (called or token.text not in NAMES):
                    afters = list(SWAPS[token.text])
            elif token.text in ("not", "!") and following is not None:
                afters = [""]
            elif token.kind == "op" and spaced and before is not None:
                if before.kind in ("name", "number", "string") or before.text in (")", "]"):
                    afters = list(SWAPS.get(token.text, ()))
            elif token.text == "-" and before and following and not spaced:
                words_before = ("return", "else", "if", "and", "or", "not", "in")
                if (before.kind == "op" and before.text not in ")]") or before.text in words_before:
                    afters = [""]
            if afters:
                sites.append(
                    [
                        Mutant(file, byte(text, token.start), byte(text, token.stop), a)
                        for a in afters
                    ]
                )
        sites += whole_statements(file, text, statement, c, declared or signature)
    return sites


def whole_statements(
    file: str, text: str, statement: list[Token], c: bool, declared: bool
) -> Iterator[list[Mutant]]:
    """Negate a condition, drop a call or an update, swap the two arguments of a call."""
    words, first, last = [t.text for t in statement], statement[0], statement[-1]
    here = len(text[: first.start].encode())

    def mutant(start: int, stop: int, after: str) -> list[Mutant]:
        shift = here - first.start
        if not text[first.start : stop].isascii():
            return [Mutant(file, byte(text, start), byte(text, stop), after)]
        return [Mutant(file, start + shift, stop + shift, after)]

    if declared:
        return
    if not c and words[0] in ("if", "elif", "while") and words[-1] == ":":
        condition = text[statement[1].start : last.start]
        yield mutant(statement[1].start, last.start, f"not ({condition})")
    if c and words[:2] == ["if", "("]:
        depth = 0
        for i, word in enumerate(words):
            depth += (word == "(") - (word == ")")
            if depth == 0 and i:
                start, stop = statement[1].stop, statement[i].start
                yield mutant(start, stop, f"!({text[start:stop]})")
                break
    simple = not set(words) & {"return", "def", "yield", "lambda", "=", "if", "for", ":", "#", "{"}
    call = len(words) > 2 and words[1] in ("(", ".") and words[-1 - c] == ")"
    if simple and (call or set(words) & {"+=", "-=", "*="}) and first.kind == "name":
        stop = statement[-1 - c].stop
        yield mutant(first.start, stop, "(void) 0" if c else "pass")
    for i in range(len(words) - 5):
        name, opened, a, comma, b, closed = statement[i : i + 6]
        called = (opened.text, comma.text, closed.text) == ("(", ",", ")")
        named = {name.kind, a.kind, b.kind} == {"name"} and not iskeyword(name.text)
        if called and named and name.text not in SYMMETRIC:
            yield mutant(a.start, b.stop, f"{b.text}, {a.text}")


def byte(text: str, place: int) -> int:
    return place if text.isascii() else len(text[:place].encode())


def mutants_of(file: str, source: bytes) -> list[list[Mutant]]:
    """The possible mutants for each place that can be changed, in file order."""
    make = python_mutants if file.endswith(".py") else cython_mutants
    return sorted(make(file, source), key=lambda site: (site[0].start, site[0].stop))


def planted(sources: dict[str, bytes], seed: int) -> Iterator[Mutant]:
    """All places in a random order, with one mutant at each."""
    generator = random.Random(seed)
    sites = [site for file in sorted(sources) for site in mutants_of(file, sources[file])]
    generator.shuffle(sites)
    return (generator.choice(site) for site in sites)


# ------------------------------------------------------------------------------------------- tests
def context_of(mutant: Mutant, source: bytes) -> list[str]:
    """The names of the functions and classes around the mutant, innermost first."""
    names, indent = [], 1 << 30
    for line in reversed(source[: mutant.start].decode(errors="ignore").split("\n")):
        found = DEFINITION.match(line)
        if found and len(found.group(1)) < indent:
            names.append(found.group(2).strip("_"))
            indent = len(found.group(1))
    return names


def related_tests(mutant: Mutant, source: bytes, tests: dict[str, str]) -> list[list[str]]:
    """A few test files, by how much they are about the code around the mutant, and all others."""
    stem = Path(mutant.file).stem.removesuffix("_kernel").removesuffix("_body")
    words = dict.fromkeys(re.findall(r"[^\W\d]\w{3,}", mutant.lines(source)[0]), 1.0)
    words |= {stem: 2.0} | dict.fromkeys(context_of(mutant, source), 5.0)

    def score(name: str) -> float:
        text, points = tests[name], 0.0
        subject = Path(name).stem.removeprefix("test_").replace("_", "").removesuffix("s")
        for word, weight in words.items():
            plain = word.replace("_", "").lower()
            start = max(4, min(7, len(plain), len(subject)))
            points += weight * 4 * (plain[:start] == subject[:start])
            count = len(re.findall(rf"(?i)\b{re.escape(word)}\b", text))
            points += weight * count * 100 / (len(text) + 10000)
        return points

    slow = (
        "examples",
        "lessons",
        "benchmarks",
        "readme",
        "viz",
        "docstrings",
        "mutants",
        "kernels",
    )
    quick = [name for name in tests if Path(name).stem.removeprefix("test_") not in slow]
    ranked = sorted(quick, key=lambda name: (-score(name), name))
    few = ranked[:FEW_TESTS]
    if "_core" in mutant.file:  # ops.pyx and what is below it
        few = [*dict.fromkeys([*ranked[:2], "tests/test_graph.py", "tests/test_op_table.py"])]
    few.append(EXAMPLES)
    late = [name for name in tests if name not in quick]
    return [few, [name for name in [*ranked, *late] if name not in few]]


running: set[int] = set()  # process groups, to be killed if this program is


def run(command: list[str], folder: Path, quiet: float = QUIET) -> tuple[int, str]:
    """Exit status and output; the status is None if nothing was printed for `quiet` seconds."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    running.add(process.pid)
    output, hung = b"", False
    while True:
        if not select.select([process.stdout], [], [], quiet)[0]:
            hung = True
            break
        if not (part := os.read(process.stdout.fileno(), 1 << 16)):
            break
        output = output + part
    try:
        os.killpg(process.pid, signal.SIGKILL) if hung else process.wait(quiet)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        hung = True
    process.stdout.close()
    status = process.wait()
    running.discard(process.pid)
    return (-signal.SIGALRM if hung else status), output.decode(errors="replace")


@dataclass
class Outcome:
    mutant: Mutant
    state: str  # killed, survived, explained, not compiled, same code
    detail: str = ""
    seconds: float = 0.0


class Trial:
    """A compiled copy of the tree; each mutant gets its own copy of it."""

    def __init__(self, folder: Path, sources: dict[str, bytes], quick: bool = False) -> None:
        self.folder, self.sources, self.quick = folder, sources, quick
        self.pristine = folder / "pristine"
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.decode()
        for name in filter(None, tracked.split("\0")):
            if (ROOT / name).is_file():
                (self.pristine / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.pristine / name)
        setup = self.pristine / "setup.py"  # at -O0 the tests take three times as long
        setup.write_text(setup.read_text().replace('"-O3 -g0', '"-O1 -g0'))
        self.tests = {
            str(path.relative_to(self.pristine)): path.read_text()
            for path in sorted(self.pristine.glob("tests/test_*.py"))
            if "peers" not in path.name
        }
        status, output = self.compiled(self.pristine)
        if status:
            raise SystemExit(f"mutants: the tree does not compile\n{output[-2000:]}")

    def baseline(self) -> str:
        """The output of the whole suite without a mutant if it fails, else nothing."""
        folder = self.folder / "baseline"
        shutil.copytree(self.pristine, folder)
        status, output = self.test(folder, [])
        return output[-2000:] if status else ""

    def compiled(self, folder: Path) -> tuple[int, str]:
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        return run(command, folder, quiet=900)

    def test(self, folder: Path, files: list[str]) -> tuple[int, str]:
        options = ["-x", "-v", "-p", "no:cacheprovider", "--tb=line", "-o", "addopts="]
        return run([sys.executable, "-m", "pytest", *options, *files], folder)

    def mutated(self, folder: Path, mutant: Mutant) -> str | None:
        """Plant it and compile what it changes; return the reason if there is nothing to test."""
        path = folder / mutant.file
        times = path.stat()
        changed = mutant.applied(self.sources[mutant.file])
        path.write_bytes(changed)
        if mutant.file.endswith(".py"):
            try:
                compile(changed, mutant.file, "exec")
            except SyntaxError:
                return "not compiled"
            if mutant.file != COMPILED:
                return None
        if mutant.file.endswith(".h"):  # recompile only what includes it
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            (folder / "build" / mutant.file).write_bytes(changed)  # Cython's copy, which C reads
            for c_file in (folder / "build/minigrad/_core").rglob("*.c"):
                source = c_file.relative_to(folder / "build").with_suffix(".pyx")
                if self.includes(self.pristine / source, path.name):
                    os.utime(c_file)
        if self.compiled(folder)[0]:
            return "not compiled"
        pairs = [
            (a, self.pristine / a.relative_to(folder))
            for a in (folder / "minigrad/_core").rglob("*.so")
        ]
        if all(a.read_bytes() == b.read_bytes() for a, b in pairs):
            return "same code"
        return None

    def includes(self, module: Path, header: str) -> bool:
        """Whether the module includes the header, directly or through its imports."""
        names, folder = {header}, self.pristine / "minigrad/_core/fast"
        for path in folder.glob("*.h"):
            if f'#include "{header}"' in path.read_text():
                names.add(path.name)
        text = module.read_text()
        imported = re.findall(r"^from \.+([\w.]+) cimport", text, re.MULTILINE)
        own = module.with_suffix(".pxd")
        for path in [own, *(folder / f"{name.split('.')[-1]}.pxd" for name in imported)]:
            text += path.read_text() if path.exists() else ""
        return any(f'{name}"' in text for name in names)

    def outcome(self, mutant: Mutant) -> Outcome:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as name:
            folder = Path(name) / "tree"
            shutil.copytree(self.pristine, folder)
            if reason := self.mutated(folder, mutant):
                return Outcome(mutant, reason)
            few, others = related_tests(mutant, self.sources[mutant.file], self.tests)
            for files in (few,) if self.quick else (few, others):
                status, output = self.test(folder, files)
                if status:
                    found = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
                    started = re.findall(r"^(tests/\S+|minigrad/\S+)", output, re.M)
                    place = found[0] if found else started[-1] if started else "no test"
                    how = {True: f"{place}"}.get(status > 0, f"signal {-status} in {place}")
                    how = f"hang in {place}" if status == -signal.SIGALRM else how
                    return Outcome(mutant, "killed", how, time.monotonic() - began)
        detail = f"ran {', '.join(Path(f).name for f in few)}" + ", all" * (not self.quick)
        return Outcome(mutant, "survived", detail, time.monotonic() - began)


# --------------------------------------------------------------------------------------- the report
def explained_in(text: str) -> list[tuple[str, str, str]]:
    """(file, before, after) of the table's rows: | `file` | `line` | `mutant` | why |."""
    rows = re.findall(r"^\| `+ ?(\S+?) ?`+ \| `+ ?(.+?) ?`+ \| `+ ?(.+?) ?`+ \| \S", text, re.M)
    return [tuple(cell.replace(r"\|", "|") for cell in row) for row in rows]


def is_explained(mutant: Mutant, source: bytes, rows: list[tuple[str, str, str]]) -> bool:
    """Whether a row names this mutant. … in a row is any text, and a mutant … any change."""
    actual = mutant.lines(source)
    return any(
        file == mutant.file
        and all(
            re.fullmatch(".*".join(map(re.escape, want.split("…"))), text)
            for want, text in zip(row, actual, strict=True)
        )
        for file, *row in rows
    )


def shown(outcome: Outcome, source: bytes) -> str:
    before, after = outcome.mutant.lines(source)
    place = f"{outcome.mutant.file}:{outcome.mutant.line(source)}"
    return f"{place}\n    - {before}\n    + {after}\n      {outcome.detail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=os.environ.get("SEED", 1))
    parser.add_argument("--count", type=int, default=os.environ.get("COUNT", 100))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="only files whose path contains this")
    parser.add_argument("--all", action="store_true", help="try the explained ones too")
    parser.add_argument("--quick", action="store_true", help="run the related tests alone")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    options = parser.parse_args()

    paths = [path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]
    sources = {str(path.relative_to(ROOT)): path.read_bytes() for path in paths}
    chosen = {file: text for file, text in sources.items() if options.only in file}
    table = ROOT / TABLE
    rows = explained_in(table.read_text()) if table.exists() and not options.all else []
    candidates = planted(chosen, options.seed)
    if options.list:
        for mutant in itertools.islice(candidates, options.count):
            print(shown(Outcome(mutant, ""), sources[mutant.file]).rstrip())
        return 0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began, lock, outcomes = time.monotonic(), threading.Lock(), []
    replaced: list[str] = []
    with tempfile.TemporaryDirectory(prefix="minigrad-mutants-") as folder:
        trial = Trial(Path(folder), sources, options.quick)

        def next_outcome() -> Outcome | None:
            while True:
                with lock:
                    mutant = next(candidates, None)
                if mutant is None:
                    return None
                if is_explained(mutant, sources[mutant.file], rows):
                    return Outcome(mutant, "explained")
                outcome = trial.outcome(mutant)
                if outcome.state in ("killed", "survived"):
                    return outcome
                replaced.append(outcome.state)

        pool = ThreadPoolExecutor(options.workers)
        baseline = pool.submit(lambda: "" if options.quick else trial.baseline())
        tasks = [pool.submit(next_outcome) for _ in range(options.count)]
        try:
            for number, task in enumerate(as_completed(tasks), 1):
                if (outcome := task.result()) is None:
                    continue
                outcomes.append(outcome)
                text = shown(outcome, sources[outcome.mutant.file])
                head = f"{number}/{options.count} {outcome.state} in {outcome.seconds:.0f} s"
                print(f"{head}: {text}", flush=True)
                if baseline.done() and baseline.result():
                    break
            if failure := baseline.result():
                raise SystemExit(f"mutants: the suite fails without a mutant\n{failure}")
        finally:  # after an interrupt, kill what runs and leave nothing behind
            candidates = iter(())
            pool.shutdown(wait=False, cancel_futures=True)
            for group in list(running):
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            pool.shutdown()

    survivors = [outcome for outcome in outcomes if outcome.state == "survived"]
    if survivors:
        print("\nSurvivors:")
        for outcome in survivors:
            print(shown(outcome, sources[outcome.mutant.file]))
    counts = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in ("killed", "explained", "survived")
    }
    print(
        f"\nmutants: seed {options.seed}, {len(outcomes)} planted: {counts['killed']} killed, "
        f"{counts['explained']} explained in {TABLE}, {counts['survived']} survived; replaced: "
        f"{replaced.count('not compiled')} that did not compile, {replaced.count('same code')} "
        f"with the same machine code; {(time.monotonic() - began) / 60:.0f} min"
    )
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
