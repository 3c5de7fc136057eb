"""Draw computation graphs as DOT text.

The graph is the one that `backward` walks: a node for each recorded operation, a box for each leaf
that requires a gradient, arrows in the direction of the forward pass. Tensors that require no
gradient (data, frozen parameters) are not part of it. DOT text needs only Python; rendering it
needs Graphviz.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np

from .._core.engine.graph import Node, RemovableHandle, Tensor, observe, run_graph
from ..checks import instance, positive
from ..nn.module import Module, Parameter

__all__ = ["Graph", "graph", "record"]

LONGEST_PERIOD = 256  # operations: the longest pattern whose repeats are found
FEWEST_REPEATS = 4  # the first and the last are drawn, so at least two are folded
STYLE = """digraph minigrad {
  graph [fontname="Helvetica", fontsize=11, fontcolor="#555555", color="#bbbbbb", style="rounded",
         labeljust=l, nodesep=0.25, ranksep=0.35];
  node [fontname="Helvetica", fontsize=11, shape=box, style="rounded,filled", color="#777777",
        fillcolor="#f4f4f4", height=0.3, margin="0.12,0.06"];
  edge [color="#777777", arrowsize=0.6];
"""
PARAMETER, LEAF = ', style="filled", fillcolor="#cfe2f3"', ', style="filled", fillcolor="#d9ead3"'
FOLD, OUTPUT = ', style="rounded,dashed"', ', style="rounded,filled,bold", fillcolor="#fff2cc"'


# ---------------------------------------------------------------------------------------- modules
def check_model(model: Any) -> None:
    """Raise TypeError unless `model` is a Module."""
    instance(model, Module, "viz: expected a Module as the model")


def wrap_forwards(model: Module, call: Callable[..., Any]) -> list[RemovableHandle]:
    """Run each forward in `model` as call(path, module, forward, *inputs, **options)."""
    modules = list(model.named_modules())
    return [module.register_forward_wrapper(partial(call, path)) for path, module in modules]


class record:  # noqa: N801  (a context manager is written like a function)
    """Record which module of `model` makes which operation, inside a `with` block.

    Passed to `graph` instead of the model, it draws the modules as clusters. It keeps the Nodes
    (not their saved arrays) alive. Inside the block, formulas that normally run as one operation
    run primitive by primitive, so that the picture shows all of them. Operations in other threads
    are not recorded.

    >>> net = mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.Tanh())
    >>> with mg.viz.record(net) as recorded:
    ...     loss = net(mg.ones(4, 2)).sum()
    >>> [(node.name, path) for node, path in recorded.paths.items()]
    [('linear', '0'), ('tanh', '1')]
    """

    def __init__(self, model: Module) -> None:
        check_model(model)
        self.model = model
        self.paths: dict[Node, str] = {}
        self._running: dict[int, str | None] = {}  # the innermost running module, by thread

    def __enter__(self) -> record:
        self._handles = wrap_forwards(self.model, self._call)
        self._previous = observe(self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        observe(self._previous)
        for handle in self._handles:
            handle.remove()

    def _call(
        self, path: str, module: Module, forward: Callable[..., Any], *inputs: Any, **options: Any
    ) -> Any:
        thread = get_ident()
        outer = self._running.get(thread)
        self._running[thread] = path
        try:
            return forward(*inputs, **options)
        finally:
            self._running[thread] = outer

    def _note(self, name: str, inputs: Any, attributes: Any, output: Tensor) -> None:
        path = self._running.get(get_ident())
        if path is not None and output.grad_fn is not None:
            self.paths[output.grad_fn] = path
        if self._previous is not None:
            self._previous(name, inputs, attributes, output)


# ------------------------------------------------------------------------------------------ graph
class Graph(NamedTuple):
    """A graph as DOT text, in `picture.dot` and `str(picture)`; a notebook shows it as SVG.

    >>> x = mg.ones(2, requires_grad=True)
    >>> str(mg.viz.graph(x.sum())).splitlines()[0]
    'digraph minigrad {'
    """

    dot: str

    def __str__(self) -> str:
        return self.dot

    def __repr__(self) -> str:
        nodes, arrows = self.dot.count("[label="), self.dot.count(" -> ")
        return f"<Graph: {nodes} nodes, {arrows} arrows; print it, or save('graph.svg')>"

    def save(self, path: str | Path) -> Path:
        """Write DOT text (.dot, .gv), or render it by Graphviz (.svg, .png, .pdf). Returns path.

        Raises ValueError for another suffix, ImportError without the Python package `graphviz`, and
        RuntimeError without the program `dot`; then no file is written.

        >>> import tempfile
        >>> x = mg.ones(2, requires_grad=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mg.viz.graph(x.sum()).save(folder + "/graph.dot").read_text()[:7]
        'digraph'
        """
        path = Path(path)
        if path.suffix in (".dot", ".gv"):
            path.write_text(self.dot, encoding="utf-8")
        elif path.suffix in (".svg", ".png", ".pdf"):
            path.write_bytes(self._render(path.suffix[1:]))
        else:
            raise ValueError(
                f"viz: cannot save {path.name!r}; the suffix must be .dot or .gv for text, or "
                ".svg, .png or .pdf for a picture"
            )
        return path

    def _render(self, kind: str) -> bytes:
        way_out = (
            "pictures need the Python package (`pip install graphviz`) and the program dot "
            "(`apt install graphviz`, `brew install graphviz`); a .dot file needs neither"
        )
        try:
            import graphviz  # type: ignore[import-untyped]
        except ImportError:
            raise ImportError(f"viz: the package graphviz is not installed; {way_out}") from None
        try:
            return bytes(graphviz.Source(self.dot).pipe(format=kind, quiet=True))
        except graphviz.ExecutableNotFound:
            raise RuntimeError(f"viz: the program dot was not found; {way_out}") from None

    def _repr_html_(self) -> str:
        svg = self._repr_svg_()
        if svg is None:
            head, text = html.escape(repr(self)[1:-1]), html.escape(self.dot)
            return f"<details><summary>{head}</summary><pre>{text}</pre></details>"
        picture = svg[svg.index("<svg") :]  # its background is white, also in a dark notebook
        return f'<div style="overflow: auto">{picture}</div>'

    def _repr_svg_(self) -> str | None:
        try:
            return self._render("svg").decode()
        except (ImportError, RuntimeError):
            return None


def graph(
    output: Tensor,
    model: Module | record | None = None,
    params: Mapping[str, Tensor] | None = None,
    *,
    gradients: bool = False,
    max_nodes: int = 100,
) -> Graph:
    """The graph of `output`, a Tensor of any shape, to print, save or show in a notebook.

    model: its parameters are labelled by name; a `record` of it draws the modules as clusters too.
    params: more names, for leaves or intermediate results: `{"w": w, "loss": loss}`.
    gradients: add the 2-norm of the gradient of `output` (one element) with respect to each node,
    by a backward pass that changes no `.grad`, but runs hooks.
    max_nodes: a graph of more operations is folded. If a sequence of operations repeats (in name
    and shape), the first and the last repeat are drawn, with "... n more ..." between them; if that
    is not enough, the middle of the graph is folded.

    Raises TypeError unless `output` is a Tensor, RuntimeError if it has no graph, or `backward` has
    freed it.

    >>> w = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> print(mg.viz.graph((w * w).sum(), params={"w": w}))  # doctest: +ELLIPSIS
    digraph minigrad {
    ...
      n0 [label="multiply\\n(2,)"];
      n1 [label="sum\\n()", style="rounded,filled,bold", fillcolor="#fff2cc"];
      leaf0 [label="w\\n(2,)", style="filled", fillcolor="#d9ead3"];
      leaf0 -> n0;
      leaf0 -> n0;
      n0 -> n1;
    }
    <BLANKLINE>
    """
    if not isinstance(output, Tensor):
        hint = "; draw its output: graph(model(x), model)" * isinstance(output, Module)
        raise TypeError(f"viz.graph: expected a Tensor, got {type(output).__name__}{hint}")
    if not output.requires_grad:
        raise RuntimeError(
            "viz.graph: the tensor does not require grad and has no graph; was it made under "
            "no_grad, or from tensors that do not require grad?"
        )
    if positive(max_nodes, "viz.graph: max_nodes") < 3:
        raise ValueError(f"viz.graph: max_nodes must be at least 3, got {max_nodes}")
    if not isinstance(model, record):
        model = record(Module() if model is None else model)
    named = [*model.model.named_parameters(), *(params or {}).items()]
    for name, tensor in named:
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise TypeError(f"viz.graph: params: {name!r} must be a Tensor, got {kind}")
    names = {id(tensor.grad_fn or tensor): str(name) for name, tensor in named}

    below = _nodes_below(output)
    parts = _fold(list(below), max_nodes)
    drawn = {id(node): f"n{i}" for i, part in enumerate(parts) for node in part}
    leaves = {id(x): x for inputs in below.values() for x in inputs if isinstance(x, Tensor)}
    leaves |= {id(output): output} if output.is_leaf else {}
    norms = _norms(output, list(below), list(leaves.values())) if gradients else {}
    # A leaf that only one fold uses is folded too.
    folds = {f"n{i}": len(part) for i, part in enumerate(parts) if len(part) > 1}
    pairs = [(x, node) for node, inputs in below.items() for x in inputs]
    users: dict[int, set[str]] = {key: set() for key in leaves}
    for x, node in pairs:
        users.get(id(x), set()).add(drawn[id(node)])
    inside = {key: min(by) for key, by in users.items() if len(by) == 1 and by <= folds.keys()}
    shown = [leaf for key, leaf in leaves.items() if key not in inside]
    drawn |= inside | {id(leaf): f"leaf{i}" for i, leaf in enumerate(shown)}

    def box(item: Node | Tensor, kind: str, shape: tuple[int, ...] | None, style: str = "") -> str:
        norm = f"‖grad‖ {norms[id(item)]:.3g}" if id(item) in norms else ""
        lines = [names.get(id(item), ""), kind, "" if shape is None else str(shape), norm]
        identity = drawn[id(item)]
        if identity in folds:
            hidden = sum(fold == identity for fold in inside.values())
            lines = [f"... {folds[identity]:,} more ...", f"with {hidden:,} leaves" * bool(hidden)]
        label = "\\n".join(_escape(line) for line in lines if line)
        return f'{identity} [label="{label}"{FOLD if identity in folds else style}];'

    # The boxes in the cluster of each module; None is outside all clusters.
    kinds = {path: type(module).__name__ for path, module in model.model.named_modules()}
    boxes: dict[str | None, list[str]] = {path: [] for path in (None, *kinds)}
    for part in parts:
        node, where = part[0], _common([model.paths.get(node) for node in part])
        style = OUTPUT if node is output.grad_fn else ""
        boxes[where].append(box(node, node.name, node.output_shape, style))
    for leaf in shown:
        name, parameter = names.get(id(leaf), ""), isinstance(leaf, Parameter)
        kind = "" if name else "parameter" if parameter else "leaf"
        owner = name.rpartition(".")[0] if parameter and model.paths else None
        style = PARAMETER if parameter else LEAF
        boxes[owner if owner in boxes else None].append(box(leaf, kind, leaf.shape, style))

    edges = [(drawn[id(x)], drawn[id(node)]) for x, node in pairs]
    single = [edge for edge in edges if folds.keys().isdisjoint(edge)]  # x * x keeps two arrows
    folded = {edge: None for edge in edges if not folds.keys().isdisjoint(edge)}
    arrows = [f"{a} -> {b};" for a, b in (*single, *folded) if a != b]
    body = [*_cluster("", boxes, kinds), *boxes[None], *arrows]
    return Graph(STYLE + "".join(f"  {line}\n" for line in body) + "}\n")


def _escape(text: str) -> str:
    """Escape `text` for a quoted DOT label; control codes, invalid in SVG, become U+XXXX."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in text)


def _cluster(path: str, boxes: Mapping[Any, list[str]], kinds: Mapping[str, str]) -> list[str]:
    """The cluster of a module, with nested submodules; nothing if all are empty."""
    inner = [p for p in kinds if p and p.rpartition(".")[0] == path]
    body = [*boxes[path], *(line for p in inner for line in _cluster(p, boxes, kinds))]
    label = _escape(f"{path} ({kinds[path]})" if path else kinds[path])
    identity = f"cluster_{list(kinds).index(path)}"
    head = [f"subgraph {identity} {{", f'  label="{label}";']
    return [*head, *(f"  {line}" for line in body), "}"] if body else []


def _common(paths: list[str | None]) -> str | None:
    """The innermost module that contains all of these."""
    if None in paths:
        return None
    names = zip(*(path.split(".") for path in set(paths) if path is not None), strict=False)
    return ".".join(name for name, *others in takewhile(lambda row: len({*row}) == 1, names))


def _nodes_below(output: Tensor) -> dict[Node, list[Node | Tensor]]:
    """All Nodes below `output` in the order of creation, each with the sources of its inputs."""
    found: dict[Node, list[Node | Tensor]] = {}
    waiting = [output.grad_fn] if output.grad_fn is not None else []
    while waiting:
        node = waiting.pop()
        found[node] = below = [x for x in node.next_functions if x is not None]
        if not below:
            raise RuntimeError(
                f"viz.graph: the graph of {node.name} was freed by backward; draw it before, or "
                "pass retain_graph=True to backward"
            )
        waiting += {x for x in below if isinstance(x, Node) and x not in found}
    return dict(sorted(found.items(), key=lambda item: item[0].number))


def _norms(output: Tensor, nodes: list[Node], leaves: list[Tensor]) -> dict[int, float]:
    """The 2-norms of the gradients of `output`, by the id of the Node or leaf."""
    norms: dict[int, float] = {}

    def keep(key: int, gradient: Tensor) -> None:
        norms[key] = float(np.linalg.norm(gradient.numpy().astype(np.float64).ravel()))

    handles = [node.register_hook(partial(keep, id(node))) for node in nodes]
    try:
        found = run_graph([output], [None], leaves, True, False)
    finally:
        for handle in handles:
            handle.remove()
    for leaf, gradient in zip(leaves, found, strict=True):
        if gradient is not None:
            keep(id(leaf), gradient)
    return norms


def _fold(nodes: list[Node], most: int) -> list[list[Node]]:
    """Group the Nodes, in order: each on its own or, if there are too many, with those it is folded
    with. Merging neighbours in the order of creation cannot make a cycle."""
    if len(nodes) <= most:
        return [[node] for node in nodes]
    numbers: dict[Any, int] = {}
    kinds = np.array([numbers.setdefault((n.name, n.output_shape), len(numbers)) for n in nodes])
    runs = []  # (minus the number folded, period, start)
    for period in range(1, min(LONGEST_PERIOD, len(nodes) // FEWEST_REPEATS) + 1):
        repeats = np.concatenate([[0], kinds[period:] == kinds[:-period], [0]])
        starts, stops = np.flatnonzero(np.diff(repeats)).reshape(-1, 2).T
        times = (stops - starts) // period + 1
        for k in np.flatnonzero(times >= FEWEST_REPEATS).tolist():
            runs.append((-(int(times[k]) - 2) * period, period, int(starts[k]) + period))
    ends = list(range(1, len(nodes) + 1))  # where the part that starts at a Node ends
    taken = np.zeros(len(nodes), bool)
    for size, _, start in sorted(runs):
        if not taken[start : start - size].any():
            taken[start : start - size] = True
            ends[start] = start - size
    parts, start = [], 0
    while start < len(nodes):
        parts.append(nodes[start : ends[start]])
        start = ends[start]
    if len(parts) > most:
        head, tail = most // 2, len(parts) - (most - 1) // 2
        middle = [node for part in parts[head:tail] for node in part]
        parts = [*parts[:head], middle, *parts[tail:]]
    return parts
