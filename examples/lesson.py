"""Helpers shared by the lessons: command line, progress bar, and where the pictures go."""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path


def say_missing(error: ImportError) -> None:
    """Exit with one line that says what to install."""
    name = (error.name or str(error)).partition(".")[0]
    extra = {"dask": "sweeps", "distributed": "sweeps", "mpi4py": "mpi"}.get(name, "examples")
    package = "ray" if name == "ray" else f"'minigrad-cython[{extra}]'"
    sys.exit(f"{Path(sys.argv[0]).name}: {name} is missing; `pip install {package}`")


try:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from tqdm import tqdm
except ImportError as error:
    say_missing(error)

PUBLISHED = Path(__file__).parent / "output"  # the pictures that the README shows
PICTURES = PUBLISHED.parent.parent / "build" / "pictures"  # not under version control
BLUE, ORANGE, GREEN, GREY = "tab:blue", "tab:orange", "tab:green", "0.5"
BLUE_TO_ORANGE = LinearSegmentedColormap.from_list("blue to orange", [BLUE, "white", ORANGE])
folder = PICTURES  # of the pictures of this run; `parse` sets it


class OneLineParser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage text."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options of a script, and choose the folder of its pictures by --publish."""
    global folder
    parser.add_argument(
        "--publish",
        action="store_true",
        help="replace the pictures in examples/output/ (default: draw into build/pictures/)",
    )
    options = parser.parse_args(arguments)
    folder = PUBLISHED if options.publish else PICTURES
    return options


def read_options(script: str, text: str | None, arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options of a lesson: `fast` and `publish`."""
    parser = OneLineParser(
        prog=Path(script).name,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fast", action="store_true", help="less work, for a quick look")
    options = parse(parser, arguments)
    if options.fast and options.publish:
        parser.error("--publish needs a full run, without --fast")
    return options


def progress(steps: int, text: str, unit: str = "step") -> tqdm:
    """A progress bar over range(steps)."""
    return tqdm(range(steps), desc=text, unit=unit)


def picture_path(name: str) -> Path:
    """The path of a picture, named like the script; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{Path(name).stem}.png"


def report(path: Path) -> Path:
    """Print where a picture is."""
    print(f"picture: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def panels(count: int, width: float = 4.8, height: float = 4.0):
    """Return a figure with `count` axes side by side, and the axes."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def save(figure: Figure, script: str) -> Path:
    """Save the picture of a lesson and print where it is."""
    path = picture_path(script)
    figure.savefig(path, dpi=120)
    return report(path)


BOX = re.compile(r'(\w+) \[label="(.*?)"(?:.*?fillcolor="(.*?)")?')
ARROW = re.compile(r"(\w+) -> (\w+);")


def draw_dot(dot: str) -> Figure:
    """Draw a graph given as DOT text in rows from top to bottom; a stand-in for Graphviz."""
    boxes, arrows = BOX.findall(dot), ARROW.findall(dot)
    row = {key: 0 for key, *_ in boxes}
    for _ in boxes:  # the longest path to a box decides its row
        for above, below in arrows:
            row[below] = max(row[below], row[above] + 1)
    inputs = row.keys() - {below for _, below in arrows}
    for key in inputs:  # just above the first box that uses it
        row[key] = min((row[below] - 1 for above, below in arrows if above == key), default=0)
    columns = defaultdict(int)  # results from the middle to the right, inputs to the left
    place = {}
    for key in row:
        side = -1 if key in inputs else 1
        place[key] = (columns[row[key], side] + (side < 0)) * side, -row[key]
        columns[row[key], side] += 1
    across, down = zip(*place.values(), strict=True)
    width, height = max(across) - min(across) + 1, max(row.values()) + 1
    figure = Figure(figsize=(1.6 * width + 0.6, 0.85 * height), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(min(across) - 0.5, max(across) + 1.0), ylim=(min(down) - 0.5, 0.5))
    axis.axis("off")
    drawn = {}
    for key, label, color in boxes:
        frame = {"boxstyle": "round", "facecolor": color or "#f4f4f4", "edgecolor": "#777777"}
        text = label.replace("\\n", "\n")
        drawn[key] = axis.text(*place[key], text, ha="center", va="center", fontsize=8, bbox=frame)
    for above, below in arrows:  # those that pass a row bend around its box
        rows = row[below] - row[above]
        bend = 0.4 + 0.8 / rows if rows > 1 else 0
        style = {"arrowstyle": "-|>", "color": "#777777", "connectionstyle": f"arc3,rad={-bend}"}
        start, end = drawn[above].get_bbox_patch(), drawn[below].get_bbox_patch()
        style |= {"patchA": start, "patchB": end}
        axis.annotate("", place[below], place[above], arrowprops=style)
    return figure
