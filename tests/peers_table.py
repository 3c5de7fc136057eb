"""The table of the README: what there is, with a tick where a test compares it with PyTorch.

The names come from the public modules, the ticks from the marks `peer("nn.Linear", ...)` in
tests/test_peers_*.py, so the table can neither forget a name nor claim a comparison that no test
makes. tests/test_readme.py checks the README against it, and `make test-peers` checks the marks: it
is an error if the tests marked with a name did not pass in that run (see conftest.py).

    python tests/peers_table.py     writes the table into README.md
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import minigrad as mg

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- peers: python tests/peers_table.py -->", "<!-- /peers -->"
NAMESPACES = {
    "": "Tensors and functions, `mg.`",
    "linalg": "Linear algebra, `mg.linalg.`",
    "nn": "Layers and losses, `mg.nn.`",
    "nn.init": "`mg.nn.init.`",
    "nn.utils": "`mg.nn.utils.`",
    "optim": "Optimisers, `mg.optim.`",
    "optim.lr_scheduler": "Schedulers, `mg.optim.lr_scheduler.`",
    "autograd": "`mg.autograd.`",
    "func": "Transforms, `mg.func.`",
}


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


def table() -> str:
    """Markdown: a row for each namespace, a tick after each compared name."""
    marked = marked_names()
    rows = ["| | ✓ compared with PyTorch |", "|---|---|"]
    for namespace, names in public_names().items():
        full = {name: f"{namespace}.{name}" if namespace else name for name in names}
        cells = [f"`{name}`{' ✓' if full[name] in marked else ''}" for name in names]
        rows.append(f"| {NAMESPACES[namespace]} | {', '.join(cells)} |")
    return "\n".join(rows)


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
