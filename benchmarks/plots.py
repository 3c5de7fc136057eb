"""The pictures of run.py and scaling.py, on logarithmic axes."""

from __future__ import annotations

from matplotlib.figure import Figure

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


def bars(axis, rows: list[dict]) -> None:
    """A bar per row and peer, from 1 (minigrad) to the factor that the peer takes."""
    places, names, y = [], [], 0.0
    for row in rows:
        ours, first = row["contenders"]["minigrad"]["median"], y
        targets = {target["against"]: target["at_most"] for target in row["targets"]}
        for peer, figures in row["contenders"].items():
            if peer != "minigrad":
                axis.barh(y, figures["median"] / ours - 1, 0.9, left=1, color=COLORS[peer])
                if peer in targets:
                    axis.plot([1 / targets[peer]] * 2, [y - 0.5, y + 0.5], "k", lw=2)
                y += 1
        if row["unit"] in targets:  # a limit that does not depend on the peers
            axis.plot(
                [targets[row["unit"]] / ours] * 2, [first - 0.5, max(y, first + 1) - 0.5], "k", lw=2
            )
        y = max(y, first + 1)
        places.append((first + y - 1) / 2)
        names.append(f"{row['name']}  ({amount(ours, row['unit'])})")
        y += 0.8
    axis.axvline(1, color="black", lw=1)
    axis.set(xscale="log", yticks=places, ylim=(y, -1))
    axis.set_yticklabels(names, fontsize=8)
    axis.grid(axis="x", which="both", alpha=0.25)
    axis.set_xlabel("peer / minigrad (right of 1: minigrad takes less)")


TITLES = {"default": "idle machine", "busy": "one more process spinning on each processor"}


def comparison(rows: list[dict]) -> Figure:
    """All rows of a run, with the many kernels, or the busy machine, on the right."""
    from matplotlib.patches import Patch

    halves = [
        [row for row in rows if (row["group"] in ("kernels", "busy")) == right]
        for right in (False, True)
    ]
    halves = [half for half in halves if half]
    height = max(sum(len(row["contenders"]) for row in half) for half in halves)
    figure = Figure(figsize=(9 * len(halves), 2 + 0.17 * height), layout="constrained")
    for axis, half in zip(figure.subplots(1, len(halves), squeeze=False)[0], halves, strict=True):
        bars(axis, half)
        axis.set_title(TITLES.get(half[0]["group"], ""))
    shown = {name for row in rows for name in row["contenders"]}
    handles = [Patch(color=COLORS[name], label=LABELS[name]) for name in LABELS if name in shown]
    handles.append(Patch(color="black", label="target: the bar should reach this mark"))
    figure.legend(handles=handles, loc="outside upper center", ncols=2 * len(halves))
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
