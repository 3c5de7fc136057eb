"""The pictures of run.py and scaling.py, on logarithmic axes."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

COLORS = {
    "minigrad": "black",
    "torch": "tab:orange",
    "torch composed": "tab:brown",
    "torch fused Adam": "tab:red",
    "jax": "tab:blue",
    "numpy": "tab:green",
    "matmuls": "tab:gray",
    "scikit-learn": "tab:cyan",
    "skorch": "tab:pink",
    "minigrad composed": "tab:purple",
    "loop": "tab:purple",
    "jax vmap": "tab:blue",
    "minigrad on one thread": "tab:olive",
    "torch on one thread": "navajowhite",
    "numpy on one thread": "lightgreen",
}
LABELS = {
    "torch": "PyTorch",
    "torch composed": "PyTorch, composed",
    "torch fused Adam": "PyTorch, fused Adam",
    "jax": "JAX, jit",
    "numpy": "NumPy",
    "matmuls": "matrix products alone",
    "scikit-learn": "scikit-learn's MLPClassifier",
    "skorch": "skorch, over PyTorch",
    "minigrad composed": "minigrad, composed",
    "loop": "one net after the other",
    "jax vmap": "JAX, jit(vmap)",
    "minigrad on one thread": "minigrad, one thread",
    "torch on one thread": "PyTorch, one thread",
    "numpy on one thread": "NumPy, one thread",
}


def amount(value: float, unit: str) -> str:
    """A short, readable figure."""
    if unit == "us":
        size, unit = next(s for s in ((1e6, "s"), (1e3, "ms"), (0, "µs")) if value >= s[0])
        value /= size or 1
    return f"{value:.3g} {unit}"


def dots(axis, rows: list[dict]) -> None:
    """A line per row, with a dot for each peer at its time divided by minigrad's."""
    for y, row in enumerate(rows):
        ours = row["contenders"]["minigrad"]["median"]
        targets = {target["against"]: target["at_most"] for target in row["targets"]}
        for peer, figures in row["contenders"].items():
            if peer != "minigrad":
                factor, color = figures["median"] / ours, COLORS[peer]
                axis.plot([1, factor], [y, y], color=color, lw=1, alpha=0.6)
                axis.plot(factor, y, "o", color=color, ms=6, zorder=3)
                if peer in targets:
                    axis.plot(1 / targets[peer], y, "|", color=color, ms=12, mew=2)
        if row["unit"] in targets:  # a limit that does not depend on the peers
            axis.plot(targets[row["unit"]] / ours, y, "|", color="black", ms=12, mew=2)
    axis.axvline(1, color="black", lw=1)
    names = [
        f"{row['name']}  ({amount(row['contenders']['minigrad']['median'], row['unit'])})"
        for row in rows
    ]
    axis.set(xscale="log", ylim=(len(rows) - 0.4, -0.6))
    axis.set_yticks(range(len(rows)), names, fontsize=9)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25)
    axis.set_xlabel("peer / minigrad (right of 1: minigrad takes less)")


TITLES = {
    "default": "idle machine",
    "busy": "one more process spinning on each processor",
    "steps": "training steps, layers, products, processes",
    "kernels": "elementwise functions and reductions",
}


def comparison(rows: list[dict]) -> Figure:
    """All rows of a run, with the many kernels, or the busy machine, below."""
    parts = [
        [row for row in rows if (row["group"] in ("kernels", "busy")) == below]
        for below in (False, True)
    ]
    parts = [part for part in parts if part]
    heights = [len(part) + 3 for part in parts]  # with the title and the axis
    figure = Figure(figsize=(9, 1 + 0.2 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, part in zip(axes, parts, strict=True):
        dots(axis, part)
        axis.set_title(TITLES.get(part[0]["group"], ""), fontsize=10)
    shown = {name for row in rows for name in row["contenders"]} - {"minigrad"}
    handles = [
        Line2D([], [], color=COLORS[name], marker="o", label=LABELS[name])
        for name in LABELS
        if name in shown
    ]
    mark = {"marker": "|", "ls": "", "ms": 12, "mew": 2}
    text = "target: the dot should lie right of the mark of its colour"
    handles.append(Line2D([], [], color="black", label=text, **mark))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=9)
    return figure


def curves(panels: list[dict]) -> Figure:
    """The four panels of scaling.py: medians as lines, quartiles as bands."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    for axis, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for name, points in panel["contenders"].items():
            sizes = [point["size"] for point in points]
            label = LABELS.get(name, name)
            axis.plot(sizes, [p["median"] for p in points], ".-", color=COLORS[name], label=label)
            low, high = zip(*(point["quartiles"] for point in points), strict=True)
            axis.fill_between(sizes, low, high, color=COLORS[name], alpha=0.2, lw=0)
        axis.set(xscale="log", yscale="log", xlabel=panel["name"], ylabel="µs per step")
        axis.set_title(panel["work"], fontsize=10)
        axis.grid(which="both", alpha=0.2)
        axis.legend()
    return figure
