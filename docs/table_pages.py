"""Writes the pages of the table: every primitive with its formula, rule, kernel, test and plot.

    python docs/table_pages.py OUTDIR

What they say is read from the source by primitives.py and drawn by curves.py, so a new primitive is
on the pages as soon as it is in the table. The site takes them from `pages`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from curves import plot
from primitives import (
    CORE,
    Primitive,
    all_primitives,
    formulas,
    functions_in_c,
    read,
    tested_rows,
)

import minigrad as mg
from minigrad._core import ops
from minigrad._core.fast import derive, steps

INDEX = """\
# The table

Every function with a gradient is one of {count} *primitives*, or composed of them. A primitive is
an entry of a table: what it computes, and for each input the rule of its gradient. [The chapter on
the table](../../book/table.md) explains an entry. These pages are made from the source when the
site is built.

In a rule, `g` is the gradient $g = \\partial \\ell / \\partial z$ of the final result $\\ell$ with
respect to the output $z$, `out` is $z$ itself, `x` and `y` are the inputs, `shape` is the shape of
the first one, and any other name is an attribute such as `axis`. What a rule names is kept until
`backward`, and nothing else is. In formulas, $\\bar x$ is what the rule of $x$ returns: the
gradient with respect to $x$, before broadcasting is undone.

The plots show the value, and the first and second derivative as the engine computes them. A *test
row* is what the suite crosses with dtypes, layouts, sizes and orders of differentiation.
"""
DERIVED = """\
# Derived loops

A formula that is worth one loop is written once, with operators and methods. When minigrad is
built, `derive.py` runs it on symbols, walks back from the result with the rules of the table, and
writes forward and backward as loops in C, for each layout of data in memory. (A letter is an axis,
the outermost first.) [BatchNorm derived](../../book/batchnorm.md) reads one of them line by line.
Here are all of them in float; the build writes them in double as well.
"""
STEPS = """\
# Loops of the optimisers

The rule of an optimiser is a formula too, on arrays. When minigrad is built, `steps.py` runs it on
symbols, in which an option is a number. `prepare` computes once what depends on numbers alone; the
loop is one pass over the parameter, its gradient and its state. Where the formula asks for an
option, or whether an array is `None`, there is a loop for each answer, unless they differ in
numbers alone.
"""


def prose(text: str) -> str:
    """Text as Markdown: what is not between backticks stands for itself."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_\[\]<>$#|{}])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def fenced(text: str, language: str = "python") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def folded(title: str, *blocks: str) -> str:
    """Blocks that a click on the title shows."""
    inside = "\n\n".join(blocks)
    return f"<details><summary>{title}</summary>\n\n{inside}\n\n</details>"


def rows(cells: list[list[str]], head: list[str]) -> str:
    """A table."""
    escaped = [[re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row] for row in cells]
    lines = [head, ["---"] * len(head), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """Code within a line."""
    return f"`{' '.join(text.split())}`"


def help_of(name: str) -> str:
    """What the docstring says before its example."""
    return " ".join((getattr(ops, name).__doc__ or "").partition(">>>")[0].split())


def called(primitive: Primitive) -> str:
    """How users call a primitive."""
    name = primitive.name
    found = [f"mg.{name}"] if hasattr(mg, name) else []
    found += [f"Tensor.{name}"] if hasattr(mg.Tensor, name) else []
    found += [f"Tensor.__{primitive.operator}__"] if primitive.operator else []
    return ", ".join(map(code, found)) or "by the library alone"


def facts(primitive: Primitive) -> str:
    """What there is to know about a primitive in a few words."""
    found = []
    if primitive.elementwise:
        value, slopes = formulas(primitive)
        found = [("value", f"${value}$"), *(("gradient", f"${slope}$") for slope in slopes)]
    if any(primitive.rules):
        found.append(("kept for it", ", ".join(map(code, primitive.kept)) or "nothing"))
    else:
        found.append(("gradient", "none"))
    if primitive.kernel:
        found.append(("kernel", code(primitive.kernel)))
    if primitive.numpy:
        what = ", for integers and bools" if primitive.kernel else ""
        found.append(("in NumPy", code(primitive.numpy) + what))
    found.append(("called", called(primitive)))
    lines = [f"* - {key}\n  - {value}" for key, value in found]
    return "\n".join(["```{list-table}", ":align: left", "", *lines, "```"])


def entry(primitive: Primitive, row: str, in_c: dict[str, str]) -> str:
    """The section of a primitive."""
    name, kernel = primitive.name, primitive.kernel or ""
    drawn = [k for k, rule in enumerate(primitive.rules) if rule and primitive.elementwise]
    pictures = "\n".join(plot(name, primitive.inputs, k) for k in drawn)
    language = "python" if primitive.elementwise else "cython"
    used = [in_c[n] for n in re.findall(r"\bmg_(\w+)", kernel) if n in in_c]
    blocks = [
        f"(primitive-{name})=\n## {name}",
        prose(help_of(name)),
        facts(primitive),
        f"<div>\n{pictures}\n</div>" if drawn else "",
        fenced("\n\n\n".join([primitive.source, *primitive.helpers]), language),
        folded("Kernel", *(fenced(text, "c") for text in used)) if used else "",
        folded("Test row", fenced(row)),
    ]
    return "\n\n".join(filter(None, blocks))


def short(primitive: Primitive) -> list[str]:
    """The row of a primitive on the first page."""
    first = re.split(r"(?<=[^.])[.;:] ", help_of(primitive.name))[0].rstrip(".")
    rules = [code(rule) if rule else "none" for rule in primitive.rules]
    gradient = "<br>".join(rules) if any(primitive.rules) else "none"
    return [f"[{primitive.name}](#primitive-{primitive.name})", prose(first), gradient]


def title_of(section: tuple[str, str]) -> tuple[str, str]:
    """The title of a page, and what it is about: from the banner, or the first line of the file."""
    file, banner = section
    if banner:
        return banner[0].upper() + banner[1:], ""
    return Path(file).stem.capitalize(), read(CORE / file).partition("\n")[0].removeprefix("# ")


def slug(title: str) -> str:
    """A title as the name of a file."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower())[:4])


def formula_source(name: str) -> str:
    """A formula without its docstring."""
    text = read(CORE / "formulas.py")
    functions = {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    source = ast.get_source_segment(text, functions[name]) or ""
    return fenced(re.sub(r'\n *""".*?"""', "", source, flags=re.DOTALL))


def included(file: str) -> str:
    """A block of code from a file."""
    return f"```{{literalinclude}} {file}\n:language: c\n```"


def derived_loops() -> Iterator[tuple[str, str]]:
    """A file for each loop that is derived from a formula, and their page."""
    parts = [DERIVED]
    for name in derive.FORMULAS:
        parts += [f"## {name}", formula_source(name)]
        for layout, axes in derive.LAYOUTS.items():
            both = derive.written(name, layout, "float")
            blocks = []
            for (loop, _), direction in zip(both, ("forward", "backward"), strict=True):
                file = f"derived/{name}_{layout}_{direction}.c"
                yield file, f"{loop}\n"
                blocks.append(included(file))
            title = f"{layout}: data along {axes.axes}, statistics over {axes.reduced}"
            parts.append(folded(title, *blocks))
    yield "derived.md", "\n\n".join(parts) + "\n"


def optimiser_loops() -> Iterator[tuple[str, str]]:
    """A file for the loop of each optimiser, and their page."""
    parts = [STEPS, "What those of Adam's kind share:", formula_source("moments")]
    for name in steps.RULES:
        prepare, loop, _ = steps.Rule(name).written()
        yield f"steps/{name}.c", f"{prepare}\n\n{loop}\n"
        parts += [f"## {name}", formula_source(name), folded("Loop", included(f"steps/{name}.c"))]
    yield "steps.md", "\n\n".join(parts) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """Every page, and every file that one includes: its path below a folder, and its text."""
    in_c, tested, found = functions_in_c(), tested_rows(), all_primitives()
    groups: dict[tuple[str, str], list[Primitive]] = {}
    for primitive in found:
        groups.setdefault(primitive.section, []).append(primitive)
    index, names = [INDEX.format(count=len(found))], []
    for section, group in groups.items():
        title, about = title_of(section)
        names.append(slug(title))
        head = [f"# {title}", f"From `{section[0]}`. {prose(about)}".rstrip()]
        entries = [entry(each, tested[each.name], in_c) for each in group]
        yield f"{names[-1]}.md", "\n\n".join([*head, *entries]) + "\n"
        index.append(f"## [{title}]({names[-1]}.md)")
        index.append(rows([short(each) for each in group], ["", "", "gradient"]))
    yield from derived_loops()
    yield from optimiser_loops()
    index.append("\n".join(["```{toctree}", ":hidden:", "", *names, "derived", "steps", "```"]))
    yield "index.md", "\n\n".join(index) + "\n"


def write(folder: Path) -> None:
    """Write all pages into a folder; those that have not changed stay as they are."""
    for name, text in pages():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or read(path) != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/table_pages.py OUTDIR")
    write(Path(sys.argv[1]))
