"""Draws primitives and their derivatives as SVG, for the pages of the table.

The curves are the engine's own: `curves` differentiates by `autograd.grad`, twice. A picture is
part of its page and takes the colour of the text, so that it can be read in the dark too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

import minigrad as mg
from minigrad._core import ops

WINDOW, FIXED = 3.5, 2.0  # x from -WINDOW to WINDOW; the other of two inputs is FIXED
HIGHEST = 4.0  # values beyond it do not set the scale
WIDTH, HEIGHT = 320, 206  # of a picture, in its own units
LEFT, RIGHT, TOP, BOTTOM = 34.0, 312.0, 8.0, 160.0  # of the frame in it
STYLES = {"value": ("#1f77b4", "none"), "first": ("#ff7f0e", "6 3"), "second": ("#2ca02c", "2 3")}


def curves(name: str, count: int = 1, argument: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """x, and the value, first and second derivative of a primitive in one of `count` arguments.

    A derivative that has no graph is constant, so that the next one is 0.
    """
    x = mg.tensor(np.linspace(-WINDOW, WINDOW, 280), requires_grad=True)  # 0 is not among them
    found = [getattr(ops, name)(*(x if i == argument else FIXED for i in range(count)))]
    for create_graph in (True, False):
        last = found[-1]
        if last.requires_grad:
            found += mg.autograd.grad(last.sum(), [x], create_graph=create_graph)
        else:
            found.append(mg.zeros_like(x))
    return x.numpy(), [each.numpy() for each in found]


def limits(ys: Sequence[np.ndarray]) -> tuple[float, float]:
    """The least and greatest y to show: 0, and all that is not too far from it."""
    shown = np.concatenate([[0.0], *(y[np.abs(y) <= HIGHEST] for y in ys)])
    room = 0.06 * max(float(np.ptp(shown)), 0.5)
    return float(shown.min()) - room, float(shown.max()) + room


def pieces(x: np.ndarray, y: np.ndarray, low: float, high: float) -> Iterator[np.ndarray]:
    """The parts of a curve that are in the frame and have no gap and no jump, as points."""
    step = np.abs(np.diff(y))
    beside = np.maximum(np.append(step[1:], 0), np.insert(step[:-1], 0, 0))
    jumps = (step > 0.05 * (high - low)) & (step > 2.5 * beside)
    inside = (y >= low) & (y <= high)  # not a NaN
    joined = (inside[1:] | inside[:-1]) & np.isfinite(step) & ~jumps
    for run in np.split(np.arange(len(x)), np.flatnonzero(~joined) + 1):
        if len(run) > 1:
            part = np.stack([x[run], y[run]], axis=1)
            for end, inner in ((0, 1), (-1, -2)):  # an end outside moves to the edge of the frame
                edge = np.clip(part[end, 1], low, high)
                if part[end, 1] != edge:
                    share = (edge - part[inner, 1]) / (part[end, 1] - part[inner, 1])
                    part[end] = part[inner] + share * (part[end] - part[inner])
            across = LEFT + (RIGHT - LEFT) * (part[:, 0] + WINDOW) / (2 * WINDOW)
            down = BOTTOM - (BOTTOM - TOP) * (part[:, 1] - low) / (high - low)
            yield thinned(np.stack([across, down], axis=1))


def thinned(points: np.ndarray) -> np.ndarray:
    """The same line without the points that are less than a tenth of a unit beside it."""
    kept, first = [0], 0
    for last in range(2, len(points)):
        between, way = points[first + 1 : last] - points[first], points[last] - points[first]
        aside = np.abs(between[:, 0] * way[1] - between[:, 1] * way[0]) / np.hypot(*way)
        if aside.max() > 0.1:
            first = last - 1
            kept.append(first)
    return points[[*kept, len(points) - 1]]


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """A piece of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def plot(name: str, inputs: Sequence[str], argument: int = 0) -> str:
    """A picture of a primitive with these inputs, as a function of one of them."""
    x, ys = curves(name, len(inputs), argument)
    ys = [np.where(np.isnan(ys[0]), np.nan, y) for y in ys]  # no slope where there is no value
    low, high = limits(ys)
    unit_x, unit_y = (RIGHT - LEFT) / (2 * WINDOW), (BOTTOM - TOP) / (high - low)
    zero_x, zero_y = (LEFT + RIGHT) / 2, BOTTOM + low * unit_y
    gap = next(gap for gap in (0.1, 0.25, 0.5, 1.0, 2.0) if high - low < 7 * gap)
    marks = np.arange(np.ceil(low / gap), np.floor(high / gap) + 1) * gap
    words = [text(zero_x + n * unit_x, BOTTOM + 13, f"{n}", "middle") for n in range(-3, 4)]
    words += [text(LEFT - 4, zero_y - y * unit_y + 4, f"{y + 0.0:g}", "end") for y in marks]
    variable, others = inputs[argument], [n for i, n in enumerate(inputs) if i != argument]
    where = f"{variable}, for {others[0]} = {FIXED:g}" if others else variable
    words.append(text(RIGHT, BOTTOM + 27, where, "end"))
    lines = []
    labels = ["z", f"∂z/∂{variable}", f"∂²z/∂{variable}²"]
    for k, ((kind, (colour, dash)), y, label) in enumerate(
        zip(STYLES.items(), ys, labels, strict=True)
    ):
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        parts = (
            "L".join(f"{a:.1f} {b:.1f}" for a, b in piece) for piece in pieces(x, y, low, high)
        )
        path = "".join(f"M{part}" for part in parts)
        lines.append(f'<path class="{kind}" {style} d="{path}"/>')
        lines.append(f'<path {style} d="M{LEFT + 88 * k} {BOTTOM + 38}h24"/>')
        words.append(text(LEFT + 88 * k + 29, BOTTOM + 42, label))
    axes = f"M{LEFT} {zero_y:.1f}H{RIGHT}M{zero_x} {TOP}V{BOTTOM}"
    frame = f"M{LEFT} {TOP}H{RIGHT}V{BOTTOM}H{LEFT}Z"
    about = f"{name}: value, first and second derivative against {where}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(about)}" '
        f'data-primitive="{name}" data-argument="{argument}" data-y="{low!r} {high!r}" '
        'style="width: 100%; max-width: 22rem; font: 11px sans-serif">'
        f'<path fill="none" stroke="currentColor" stroke-opacity="0.35" d="{frame}{axes}"/>'
        f'<g fill="none" stroke-linejoin="round">{"".join(lines)}</g>'
        f'<g fill="currentColor">{"".join(words)}</g></svg>'
    )
