"""How a training step scales with batch, width, depth and the number of nodes in the graph.

`python benchmarks/scaling.py`; `make bench` runs it after run.py. Measured in the same way (one
process, one processor, one thread, contenders in turn, warm). The batch starts at 2, because
BatchNorm cannot train on one value per channel; JAX stops at 1,000 nodes, because it compiles each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import machine
import run

HERE = Path(__file__).parent


@dataclass
class Panel:
    """One curve per contender: make(contender, size) sets up the work for each size."""

    name: str
    work: str
    sizes: list[int]
    make: Callable[[str, int], Callable]
    jax_stops_at: float = float("inf")


def panels() -> list[Panel]:
    import contenders

    def step(name: str, sizes: tuple[int, ...], batch: int) -> Callable:
        return getattr(contenders, f"step_{name}")(sizes, batch)

    def chain(name: str, nodes: int) -> Callable:
        return getattr(contenders, f"chain_{name}")(nodes)

    return [
        Panel(
            "batch",
            "MLP-BN 64-64-64-10",
            [2, 8, 32, 128, 512, 1024],
            lambda name, n: step(name, (64, 64, 64, 10), n),
        ),
        Panel(
            "width n",
            "MLP-BN 64-n-n-10, batch 32",
            [8, 16, 32, 64, 128, 256, 512, 1024],
            lambda name, n: step(name, (64, n, n, 10), 32),
        ),
        Panel(
            "hidden layers",
            "MLP-BN of width 64, batch 32",
            [1, 2, 4, 8, 16, 32],
            lambda name, n: step(name, (64,) * (n + 1) + (10,), 32),
        ),
        Panel(
            "nodes of the graph",
            "multiplications and additions of 8x8 in a chain, forward + backward",
            [10**k for k in range(1, 7)],
            chain,
            jax_stops_at=1000,
        ),
    ]


def measure(panel: Panel, rounds: int, seconds: float, bar) -> dict:
    """The curves of one panel, as stored in the JSON file."""
    import numpy as np
    from contenders import available

    curves: dict[str, list[dict]] = {
        name: [] for name in ("minigrad", "torch", "jax") if available(name)
    }
    for size in panel.sizes:
        bar.set_description(f"{panel.name} {size:,}")
        functions = {
            name: panel.make(name, size)
            for name in curves
            if name != "jax" or size <= panel.jax_stops_at
        }
        enough = min(rounds, 3) if size >= 10**6 else rounds  # a call takes up to ten seconds
        for name, values in run.measure(functions, enough, seconds).items():
            low, median, high = np.percentile(values, [25, 50, 75]).tolist()
            curves[name].append({"size": size, "median": median, "quartiles": [low, high]})
        bar.update()
    return {"name": panel.name, "work": panel.work, "unit": "us", "contenders": curves}


def show(panel: dict) -> str:
    """Format the panel for the terminal: a line per size, a column per contender."""
    names = list(panel["contenders"])
    figures: dict[int, dict[str, float]] = {}
    for name, points in panel["contenders"].items():
        for point in points:
            figures.setdefault(point["size"], {})[name] = point["median"]
    lines = [panel["work"], f"{panel['name']:>20}" + "".join(f"{name:>14}" for name in names)]
    for size, medians in figures.items():
        cells = (run.number(medians[name]) if name in medians else "" for name in names)
        lines.append(f"{size:>20,}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def draw(results: dict):
    import plots

    return plots.curves(results["panels"])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="every other size, two short rounds")
    parser.add_argument(
        "--json",
        type=Path,
        default=HERE / "results" / "scaling.json",
        help="where to write the figures, with the picture next to them (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    try:
        from tqdm import tqdm
    except ImportError:
        raise SystemExit(
            "scaling.py: tqdm is missing; `pip install tqdm`, or `make bench`"
        ) from None

    rounds, seconds = (2, 0.01) if options.quick else (5, 0.03)
    chosen = panels()
    for panel in chosen:
        panel.sizes = panel.sizes[:: 2 if options.quick else 1]
    found = machine.describe()
    print(machine.summary(found), end="\n\n")
    with tqdm(total=sum(len(panel.sizes) for panel in chosen), unit="size") as bar:
        measured = [measure(panel, rounds, seconds, bar) for panel in chosen]
    print(*map(show, measured), sep="\n\n")
    run.save({"machine": found, "panels": measured}, options.json, draw)


if __name__ == "__main__":
    machine.settle()
    main()
