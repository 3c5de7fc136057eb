"""The table of the README: what there is, with a tick where a test compares it with PyTorch.

The names come from the public modules, the ticks from the marks `peer("nn.Linear", ...)` in
tests/test_peers_*.py, so the table can neither forget a name nor claim a comparison that no test
makes. The rows follow from the file and section in which a name is defined: a new name joins its
row, and a new file without an entry in SUBJECTS makes a row of its own. tests/test_readme.py checks
the README against it, and `make test-peers` checks the marks: it is an error if the tests marked
with a name did not pass in that run (see conftest.py).

    python tests/peers_table.py     writes the table into README.md
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import minigrad as mg

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- peers: python tests/peers_table.py -->", "<!-- /peers -->"
NAMESPACES = {  # and their row, if SUBJECTS does not divide them
    "": "",
    "linalg": "linear algebra",
    "nn": "",
    "nn.init": "initialisation",
    "nn.utils": "clipping, weight norm, folding",
    "optim": "optimisers",
    "optim.lr_scheduler": "schedulers",
    "autograd": "",
    "func": "transforms",
}
SUBJECTS = {  # a parameter, section of a file, file or module -> the row of what has it or is in it
    "": {
        "creation.py": "creation, random numbers",
        "table.py": "elementwise",
        "ops.pyx": "elementwise",
        "table.py: comparisons": "comparison, logic",
        "ops.pyx: logical, no gradient": "comparison, logic",
        "functions.py: no gradient: NumPy computes": "comparison, logic",
        "keepdims": "reductions",
        "ops.pyx: along an axis, in order": "along an axis",
        "functions.py: activations, statistics": "along an axis",
        "shapes.pxi": "shape, windows",
        "windows.pxi": "shape, windows",
        "functions.py: shape": "shape, windows",
        "indices": "indexing, sorting",
        "descending": "indexing, sorting",
        "functions.py: indexing": "indexing, sorting",
        "products.pxi": "linear algebra",
        "contraction.py": "linear algebra",
        **dict.fromkeys(["rng", "statistics"], "creation, random numbers"),
        "functions": "elementwise",
        "minigrad": "tensors, settings, files",
        **dict.fromkeys(["graph", "autograd", "threads"], "tensors, settings, files"),
        **dict.fromkeys(["serialization", "profiler", "config"], "tensors, settings, files"),
    },
    "nn": {
        **dict.fromkeys(["module.py", "containers", "ensemble"], "modules, containers"),
        "linear.py": "linear, embedding, dropout",
        "embedding.py": "linear, embedding, dropout",
        "dropout.py": "linear, embedding, dropout",
        **dict.fromkeys(["conv.py", "conv"], "convolution, padding"),
        "norm.py": "normalisation",
        "layer_norm.py": "normalisation",
        "accumulation.py": "normalisation",
        "activation.py": "activations",
        "loss.py": "losses",
    },
}
BANNER = re.compile(r"# [-=]{20,} (.+)")
DEFINED = re.compile(r"(?:(?:def|class) )?(\w+)(?: = |\(|:)")


def marked_names() -> set[str]:
    """Every name in a mark `peer(...)` of a comparison."""
    names = set()
    for path in sorted((ROOT / "tests").glob("test_peers_*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "peer":
                names |= {a.value for a in call.args if isinstance(a, ast.Constant)}
    return names


def public_names() -> dict[str, list[str]]:
    """The functions and classes of each namespace, sorted; shared names are listed once."""
    found: dict[str, list[str]] = {}
    for namespace in NAMESPACES:
        module = mg
        for part in filter(None, namespace.split(".")):
            module = getattr(module, part)
        local = {
            name
            for name, member in vars(module).items()
            if not name.startswith("_")
            and (inspect.isclass(member) or inspect.isroutine(member))
            and getattr(member, "__module__", "").startswith("minigrad")
            and (not hasattr(module, "__all__") or name in module.__all__)
            and not (namespace and getattr(mg, name, None) is member)
        }
        if not hasattr(module, "__all__") and module is not mg:  # no helpers from elsewhere
            home = module.__name__
            local = {name for name in local if getattr(module, name).__module__ == home}
        found[namespace] = sorted(local, key=lambda name: (name.lower(), name))
    return found


def sources(module: str) -> list[Path]:
    """The file of a module, or for a compiled one also those that it includes and its table."""
    path = ROOT / module.replace(".", "/")
    if path.with_suffix(".pyx").is_file():
        text = path.with_suffix(".pyx").read_text(encoding="utf-8")
        included = [path.parent / name for name in re.findall(r'^include "(\w+\.pxi)"', text, re.M)]
        return [path.parent / "engine" / "table.py", path.with_suffix(".pyx"), *included]
    return [path.with_suffix(".py")]


def places(module: str) -> dict[str, tuple[str, str]]:
    """The file in which a module defines each name, and its section with the file."""
    found: dict[str, tuple[str, str]] = {}
    for path in filter(Path.is_file, sources(module)):
        section = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if banner := BANNER.match(line):
                section = banner[1]
            elif defined := DEFINED.match(line):
                found.setdefault(defined[1], (path.name, f"{path.name}: {section}"))
    return found


def subject(namespace: str, member: object) -> str:
    """The row of a public function or class: that of a parameter, its section or its file."""
    rows = SUBJECTS.get(namespace)
    if rows is None:
        return NAMESPACES[namespace]
    stem = member.__module__.rpartition(".")[2]
    file, section = places(member.__module__).get(member.__name__, ("", ""))
    try:
        parameters = list(inspect.signature(member).parameters) if callable(member) else []
    except ValueError:  # a compiled function without one
        parameters = []
    for key in (*parameters, section, file, stem):
        if key in rows:
            return rows[key]
    return stem.replace("_", " ")


def table() -> str:
    """Markdown: a row for each subject of a namespace, a tick after each compared name."""
    marked = marked_names()
    lines = ["| | | ✓ compared with PyTorch |", "|---|---|---|"]
    for namespace, names in public_names().items():
        module = mg
        for part in filter(None, namespace.split(".")):
            module = getattr(module, part)
        prefix = f"{namespace}." if namespace else ""
        rows: dict[str, list[str]] = {}
        for name in names:
            tick = " ✓" if prefix + name in marked else ""
            rows.setdefault(subject(namespace, getattr(module, name)), []).append(f"`{name}`{tick}")
        order = [*SUBJECTS.get(namespace, {}).values()]
        known = sorted(rows, key=lambda row: order.index(row) if row in order else len(order))
        for row in known:
            head = f"`mg.{prefix}`" if row is known[0] else ""
            lines.append(f"| {head} | {row} | {', '.join(rows[row])} |")
    return "\n".join(lines)


def unknown_marks() -> set[str]:
    """Marks whose name is not public: it was renamed, or is a typo."""

    def exists(dotted: str) -> bool:
        member: object = mg
        for part in dotted.split("."):
            member = getattr(member, part, None)
        return member is not None

    return {name for name in marked_names() if not exists(name)}


def write() -> None:
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write()
