"""Helpers shared by the lessons: command line, progress bar, and where the pictures go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def say_missing(error: ImportError) -> None:
    """Exit with one line that says what to install."""
    sys.exit(
        f"{Path(sys.argv[0]).name}: {error.name} is missing; "
        "`pip install 'minigrad-cython[examples]'`"
    )


try:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from tqdm import tqdm
except ImportError as error:
    say_missing(error)

OUTPUT = Path(__file__).parent / "output"
BLUE, ORANGE, GREEN, GREY = "tab:blue", "tab:orange", "tab:green", "0.5"
BLUE_TO_ORANGE = LinearSegmentedColormap.from_list("blue to orange", [BLUE, "white", ORANGE])


class OneLineParser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage text."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def read_options(script: str, text: str | None, arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options of a lesson: `fast`."""
    parser = OneLineParser(
        prog=Path(script).name,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fast", action="store_true", help="less work, for a quick look")
    return parser.parse_args(arguments)


def progress(steps: int, text: str, unit: str = "step") -> tqdm:
    """A progress bar over range(steps)."""
    return tqdm(range(steps), desc=text, unit=unit)


def picture_path(script: str, suffix: str = ".png") -> Path:
    """The path of a lesson's picture: examples/output/, named like the script."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    return OUTPUT / f"{Path(script).stem}{suffix}"


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
