"""Pictures and REPORT.md, from the JSON files of a folder."""

from __future__ import annotations

import os
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..lesson import BLUE, GREEN, GREY, ORANGE, Figure
from .lab import NOT_SHOWN, SEEDS, Panel, experiments, read_json

# One colour for an arm throughout. Of "BatchNorm · ReLU" the first part chooses the colour, the
# second the line.
COLOURS = {
    "BatchNorm": BLUE,
    "no norm": ORANGE,
    "LayerNorm": GREEN,
    "GroupNorm": "tab:purple",
    "InstanceNorm": "tab:brown",
    "RMSNorm": "tab:pink",
    "DynamicTanh": "tab:olive",
    "dropout": "black",
    "weight decay": "sienna",
    "noise after BatchNorm": "teal",
    "Gaussian weights": BLUE,  # of a net with BatchNorm, as are the next
    "orthogonal weights": "navy",
    "divided by the variance": "tab:red",
    "BatchNorm after the activation": "navy",
    "ghost batches of 16": "deepskyblue",
    "running averages": "tab:cyan",
    "recalibrated": BLUE,
    "the batch's own": "slateblue",
    "folded BatchNorm": "navy",
    "γ and β only": "navy",
    "γ starts at 1": "navy",
    "BatchNorm, separate batches": "tab:red",
    "output layer only": GREY,
}
DASHES = ("-", "--", ":", "-.")
MARKERS = "osD^v"


def colour(arm: str) -> str:
    """The colour of an arm; every arm has its entry."""
    return COLOURS[arm.split(" · ")[0]]


def draw_panel(axis: Any, panel: Panel) -> None:
    """Means with a band of one standard deviation; a formula is a thin black line."""
    axis.grid(alpha=0.3)
    words = any(isinstance(place, str) for place in panel.at)
    at = np.arange(len(panel.at)) if words else np.array(panel.at, float)
    lines: dict[str, tuple[str, str]] = {}
    styles = cycle(zip(DASHES, MARKERS, strict=False))
    for number, (arm, points) in enumerate(panel.arms.items()):
        values = np.array(points, float)
        mean, spread = values.mean(1), values.std(1, ddof=1)
        low = mean - spread
        if panel.scales[1] == "log":  # the band stays on the axes
            low = np.maximum(low, mean / 10)
        kind = arm.partition(" · ")[2]
        if kind not in lines:
            lines[kind] = next(styles)
        dash, marker = lines[kind]
        if words:
            shift = (number - (len(panel.arms) - 1) / 2) * 0.7 / len(panel.arms)
            bars = np.stack([mean - low, spread])
            axis.errorbar(
                at + shift, mean, bars, fmt=marker, color=colour(arm), label=arm, capsize=3
            )
            continue
        small = 3 if len(at) > 14 else 4
        axis.plot(at, mean, dash, marker=marker, ms=small, color=colour(arm), label=arm)
        axis.fill_between(at, low, mean + spread, color=colour(arm), alpha=0.2, lw=0)
    for dash, (name, formula) in zip(
        cycle(("--", ":", "-.")), panel.formulas.items(), strict=False
    ):
        axis.plot(at, formula, dash, color="black", lw=1.2, label=name, zorder=3)
    if words:
        axis.set_xticks(at, panel.at)
        axis.set_xlim(-0.6, len(at) - 0.4)
    else:
        axis.set_xscale(panel.scales[0])
        if len(at) < 9 and all(isinstance(place, int) for place in panel.at):
            axis.set_xticks(panel.at, [str(place) for place in panel.at])
            axis.minorticks_off()
        elif panel.scales[0] == "linear" and all(isinstance(place, int) for place in panel.at):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_yscale(panel.scales[1])
    low, high = axis.get_ylim()
    if panel.scales[1] == "log" and high < 100 * low:  # few powers of ten: the numbers themselves
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(FuncFormatter(few_digits))
    axis.set(xlabel=panel.x, ylabel=panel.y, title=panel.title)
    axis.title.set_fontsize(11)
    many = len(panel.arms) > 4 and panel.scales[1] == "linear"
    if many:  # room for the legend above the lines
        axis.set_ylim(low, high + 0.3 * (high - low))
    axis.legend(fontsize=8, ncols=2 if many else 1, loc="upper center" if many else "best")


def few_digits(value: float, _: int) -> str:
    """The label of a minor tick of a logarithmic axis: of 1, 2, 5, 10, 20, ... alone."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def draw(record: dict[str, Any], path: Path) -> None:
    """The picture of an experiment: its panels side by side."""
    count = len(record["panels"])
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.2 * columns, 4.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.remove()
    for axis, panel in zip(axes, record["panels"], strict=False):
        draw_panel(axis, panel)
    figure.savefig(path, dpi=100)


def number(value: float) -> str:
    """Three significant digits."""
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:.1e}"


def mean_and_spread(values: list[float]) -> str:
    """The mean ± the standard deviation over the seeds, with as many digits as this supports."""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if not np.isfinite(mean):
        return "did not finish"
    if 0.1 <= abs(mean) < 10_000:
        digits = 0 if spread >= 10 else 1 if spread >= 0.2 or abs(mean) >= 10 else 3
        return f"{mean:.{digits}f} ± {spread:.{digits}f}"
    return f"{number(mean)} ± {number(spread)}"


def table(panel: Panel) -> list[str]:
    """A panel as a table of Markdown; of many points, a few."""
    columns = [*panel.arms, *panel.formulas]
    shown = sorted({round(i) for i in np.linspace(0, len(panel.at) - 1, min(len(panel.at), 12))})
    lines = [f"| {panel.x} | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for i in shown:
        place = panel.at[i]
        place = " ".join(place.split()) if isinstance(place, str) else number(place)
        cells = [mean_and_spread(points[i]) for points in panel.arms.values()]
        cells += [number(formula[i]) for formula in panel.formulas.values()]
        lines.append(f"| {place} | {' | '.join(cells)} |")
    return lines


def section(record: dict[str, Any], picture: str | None) -> list[str]:
    """What the report says of one experiment."""
    claim = experiments()[record["name"]].CLAIM
    lines = [f"## {claim.number}. {claim.text}", ""]
    lines += [f"**Who claims it.** {claim.source}", "", f"**Set-up.** {claim.setup}", ""]
    if picture:
        lines += [f"![{claim.text}]({picture})", ""]
    for panel in record["panels"]:
        lines += [f"*{panel.title}* ({panel.y}; mean ± standard deviation):", "", *table(panel), ""]
    lines += [f"**Rule.** {claim.rule}", ""]
    lines += [f"**Verdict: {record['verdict']}.** {record['reason']}", ""]
    lines += [f"**What it shows.** {claim.shows}", "", f"**What it does not.** {claim.limits}", ""]
    seeds = len(record["seeds"])
    lines += [f"{seeds} seeds, {record['dataset']}, {record['seconds']:.0f} s.", ""]
    return lines


def json_name(name: str) -> str:
    """The file that keeps the record of an experiment."""
    return f"{experiments()[name].__name__.rpartition('.')[2]}.json"


def write(folder: Path) -> Path:
    """Write REPORT.md and the pictures from the JSON files in `folder`."""
    rows, sections = [], []
    for name, module in experiments().items():
        path = folder / json_name(name)
        claim = module.CLAIM
        anchor = "".join(
            c
            for c in f"{claim.number}. {claim.text}".lower().replace(" ", "-")
            if c.isalnum() or c in "-_"
        )
        if not path.is_file():
            rows.append(f"| {claim.number} | {claim.text} | {NOT_SHOWN}: not run |")
            continue
        record = read_json(path)
        picture = None
        if record["panels"]:
            picture = path.with_suffix(".png").name
            draw(record, folder / picture)
        rows.append(f"| {claim.number} | [{claim.text}](#{anchor}) | {record['verdict']} |")
        sections += section(record, picture)
    lines = [
        "# Batch normalisation: the claims and the experiments",
        "",
        "Written by `python -m examples.batchnorm_lab`, from seeds that are fixed. A mean is",
        "clearly above another if they differ by more than two standard errors of the difference",
        f"over {SEEDS} seeds. Every arm of an experiment gets the same search: its learning rate",
        "is the best of one list on validation images; the numbers here are of test images. Each",
        "verdict follows from the numbers by the rule that stands with it; an experiment whose",
        "arms did not all finish shows nothing. `--check` compares a new run with these numbers.",
        "",
        "| # | claim | verdict |",
        "|--:|---|---|",
        *rows,
        "",
        *sections,
    ]
    path = folder / "REPORT.md"
    path.write_text("\n".join(lines).rstrip() + os.linesep, encoding="utf-8")
    return path
