"""Writes the pages of the reference: everything public, with its docstring.

The names come from `__all__` of the public modules, so no list can forget one. The namespaces `mg`
and `mg.nn` are divided by subject, as the README's table is. The docstrings themselves are read by
Sphinx's autodoc, see conf.py. What a name of two namespaces is, is said in the first.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from docstrings import inline, summary, to_rst

import minigrad as mg

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
import peers_table  # noqa: E402  (it divides the README's table by subject)

BY_NAME = ("minigrad.estimators", "minigrad.distributed")  # not imported by `import minigrad`
TYPES = (ROOT / "minigrad" / "types.py").read_text(encoding="utf-8")
ALIASES = dict(re.findall(r"(?m)^(\w+Like|Shape|Axis): TypeAlias = (.+)$", TYPES))
STUB = ROOT / "minigrad" / "_core" / "engine" / "graph.pyi"
CONSTANTS = "constants and dtypes"
SOURCE = re.compile(r"( {4})?(?:(?:cdef )?class |def |cpdef [\w ]+ )(\w+)|(\w+) = \w+\(")


# ------------------------------------------------------------------------------------------ names
@cache
def modules() -> tuple[ModuleType, ...]:
    """The public modules, `minigrad` first, each before those that are in it."""
    found = []

    def visit(module: ModuleType) -> None:
        found.append(module)
        for name in module.__all__:
            if isinstance(member := getattr(module, name), ModuleType):
                visit(member)

    for module in (mg, *map(importlib.import_module, BY_NAME)):
        visit(module)
    return tuple(found)


@cache
def public() -> dict[str, Any]:
    """Everything public by its full name, except modules: minigrad.exp, minigrad.nn.Linear."""
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules()
        for name in module.__all__
        if not isinstance(getattr(module, name), ModuleType)
    }


@cache
def home(name: str) -> str:
    """The first public name of what `name` is."""
    member = public()[name]
    if not described(member):
        return name
    return next(other for other, same in public().items() if same is member)


def described(member: Any) -> bool:
    """Whether a member is a class or function, not a constant."""
    return inspect.isclass(member) or inspect.isroutine(member)


def members(cls: type) -> dict[str, Any]:
    """The public methods and properties that the entry of a class describes: its own, and those of
    base classes that are not public themselves."""
    elsewhere = {c for c in public().values() if inspect.isclass(c) and c is not cls}
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        for name, member in vars(base).items() if base not in elsewhere else ():
            home = getattr(member, "__module__", None) or base.__module__
            text = member.__doc__ if hasattr(member, "__get__") and hasattr(cls, name) else None
            hidden = name[0] == "_" or name == "extra_repr" or name in getattr(cls, "_fields", ())
            if text and home.startswith("minigrad") and not hidden:
                found.setdefault(name, member)
    return found


def parameters(member: Any) -> set[str]:
    """The names of the parameters of a function or class."""
    try:
        return {*inspect.signature(member).parameters}
    except (TypeError, ValueError):
        return set()


# ------------------------------------------------------------------------------------------ pages
def subject(module: ModuleType, member: Any) -> str:
    """The part of a module's reference in which a name is, or "" if the module is not divided."""
    if module not in (mg, mg.nn):
        return ""
    if not described(member):
        return CONSTANTS
    return peers_table.subject(module.__name__.partition(".")[2], member)


def short(module: ModuleType) -> str:
    """How a module is written: mg, mg.nn."""
    return module.__name__.replace("minigrad", "mg", 1)


def page_name(module: ModuleType, part: str = "") -> str:
    """The name of a page below reference/."""
    words = re.sub(r"\W+", "-", part)
    return f"{short(module)}{'-' * bool(part)}{words}"


@cache
def parts(module: ModuleType) -> dict[str, list[str]]:
    """The names of a module by subject, in the order of the README."""
    found: dict[str, list[str]] = {}
    for name in module.__all__:
        member = getattr(module, name)
        if not isinstance(member, ModuleType):
            found.setdefault(subject(module, member), []).append(name)
    order = [*peers_table.SUBJECTS.get(module.__name__.partition(".")[2], {}).values()]
    rank = {part: order.index(part) if part in order else len(order) for part in found}
    return {
        part: sorted(found[part], key=str.lower) for part in sorted(found, key=rank.__getitem__)
    }


def title(text: str, line: str = "=") -> list[str]:
    """A heading."""
    return [text, line * len(text), ""]


def directive(kind: str, argument: str, *body: str, options: tuple[str, ...] = ()) -> list[str]:
    """A directive of reStructuredText."""
    return [
        f".. {kind}:: {argument}",
        *(f"   {o}" for o in options),
        "",
        *(f"   {b}" for b in body),
        "",
    ]


def signature(member: Any, drop: int = 0) -> str:
    """The parameters of a function without annotations, or "(...)"."""
    try:
        found = inspect.signature(member)
    except ValueError:
        return "(...)"
    kept = [p.replace(annotation=p.empty) for p in found.parameters.values()][drop:]
    return str(found.replace(parameters=kept, return_annotation=found.empty))


def stub_signature(cls: str) -> str:
    """The parameters of a class of the compiled engine, which it does not tell: from its stub."""
    text = STUB.read_text(encoding="utf-8").partition(f"\nclass {cls}:\n")[2]
    found = re.search(r"def __init__\(self, (.*)\) -> None", text)
    return f"({found[1]})" if found else "(...)"


def entry(name: str) -> list[str]:
    """The entry of a public name in full."""
    member, last = public()[name], name.rpartition(".")[2]
    if not described(member):
        return directive("py:data", last, f"``{member!r}``")
    kind = "class" if inspect.isclass(member) else "function"
    if home(name) != name:
        same = f"The same as :py:obj:`{home(name)}`."
        return directive(f"py:{kind}", last + signature(member), same)
    if kind == "function":
        return directive("autofunction", name)
    kind = "exception" if issubclass(member, BaseException) else kind
    if member is mg.Tensor:
        return [*directive("autoclass", name + stub_signature("Tensor")), *tensor_methods()]
    listed = ", ".join(members(member))
    return directive(f"auto{kind}", name, options=(f":members: {listed}",) * bool(listed))


def tensor_methods() -> list[str]:
    """The entries of the methods of Tensor; of those that are functions too, which they are."""
    text = []
    for name, member in sorted(members(mg.Tensor).items()):
        full = f"minigrad.Tensor.{name}"
        if member is getattr(mg, name, None):
            said = f":py:obj:`minigrad.{name}`: {first_sentence(member)}."
            text += directive("py:method", f"Tensor.{name}{signature(member, drop=1)}", said)
        else:
            text += directive("automethod" if callable(member) else "autoproperty", full)
    return text


def table(module: ModuleType, names: list[str]) -> list[str]:
    """A table of names with the first sentence of each."""
    rows = []
    for name in names:
        member = getattr(module, name)
        said = first_sentence(member) if described(member) else f"``{member!r}``"
        rows += [f"   * - :py:obj:`{name} <{module.__name__}.{name}>`", f"     - {said}"]
    return [".. list-table::", "   :class: names", "   :widths: auto", "", *rows, ""]


def first_sentence(member: Any) -> str:
    """The first sentence of the docstring of a function or class."""
    return summary(member.__doc__ or "", parameters(member))


def contents(names: list[str]) -> list[str]:
    """The pages below a page."""
    return [".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names), ""]


def listed(found: list[ModuleType]) -> list[str]:
    """Modules with the first sentence of each."""
    lines = [f"- :doc:`{short(m)} <{page_name(m)}>`: {summary(introduction(m))}" for m in found]
    return [*lines, ""]


def introduction(module: ModuleType) -> str:
    """The docstring of a module, up to its design note."""
    return (module.__doc__ or "").partition("\nDesign note")[0].strip()


def pages_of(module: ModuleType) -> Iterator[tuple[str, list[str]]]:
    """The pages of one module: of each subject, and the one in front of them."""
    full, found = module.__name__, parts(module)
    text = [*title(f"``{short(module)}``"), f".. py:module:: {full}", ""]
    text += [to_rst(introduction(module)), ""]
    for part, names in found.items():
        entries = [line for name in names for line in entry(f"{full}.{name}")]
        if part:
            page = page_name(module, part)
            text += [*title(part[0].upper() + part[1:], "-"), f":doc:`In full <{page}>`", ""]
            head = [*title(f"``{short(module)}``: {part}"), f".. py:currentmodule:: {full}", ""]
            yield page, [*head, *entries]
            entries = []
        text += [*table(module, names), *entries]
    inside = [m for m in modules() if m.__name__.rpartition(".")[0] == full]
    if inside:
        text += [*title("Modules", "-"), *listed(inside)]
    below = [page_name(module, part) for part in found if part]
    yield page_name(module), [*text, *(contents(below) if below else [])]


def pages() -> Iterator[tuple[str, str]]:
    """Every page of the reference: its path below docs/generated/, and its text."""
    for module in modules():
        for name, lines in pages_of(module):
            yield f"reference/{name}.rst", "\n".join(lines)
    text = [*title("Reference"), "Everything public, with ``import minigrad as mg``.", ""]
    text += [*listed([*modules()]), *title("Names in signatures", "-")]
    for name, meaning in ALIASES.items():
        text += [f"``{name}``", f"    {inline(meaning)}", ""]
    text += contents([page_name(module) for module in modules()])
    yield "reference/index.rst", "\n".join(text)


# ---------------------------------------------------------------------------------------- sources
def place(module: str, name: str) -> tuple[Path, int] | None:
    """The file and line that define a public name, or None if it is not defined here: `linear` of
    minigrad, `Tensor.backward`."""
    member: Any = sys.modules[module]
    for part in name.split("."):
        member = getattr(member, part, None)
    member = inspect.unwrap(getattr(member, "fget", None) or member)
    with contextlib.suppress(OSError, TypeError):
        path = Path(inspect.getsourcefile(member) or "")
        return (path, inspect.getsourcelines(member)[1]) if ROOT in path.parents else None
    last = name.rpartition(".")[2]
    if file := getattr(sys.modules.get(getattr(member, "__module__", None) or ""), "__file__", ""):
        path = Path(file)  # of Python, but made by a function: `A, B = make()`
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".py" else []
        for number, line in enumerate(lines, 1):
            if re.match(rf"(\w+, )*{last}(, \w+)* = ", line):
                return path, number
    known = compiled()
    return known.get(("." in name, last)) or known.get((False, last))  # or a function as a method


@cache
def compiled() -> dict[tuple[bool, str], tuple[Path, int]]:
    """The file and line of each definition in the core, by whether it is in a class, and its name.
    What the table defines comes first, then the engine, then what exists for speed."""
    core = ROOT / "minigrad" / "_core"
    files = [core / "engine" / "table.py"]
    for folder in (core / "engine", core, core / "fast"):
        files += [*sorted(folder.glob("*.pyx")), *sorted(folder.glob("*.pxi"))]
    found: dict[tuple[bool, str], tuple[Path, int]] = {}
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if defined := SOURCE.match(line):
                name = defined[2] or defined[3]
                found.setdefault((bool(defined[1]), name), (path, number))
    return found
