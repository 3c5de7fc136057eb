"""What an experiment is: a claim, panels of numbers over several seeds, and a verdict."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import minigrad as mg

from ..lesson import tqdm
from .data import Data

HOLDS, PARTLY, FAILS, NOT_SHOWN = "holds", "holds in part", "does not hold", "not shown"
SEEDS, QUICK_SEEDS = 5, 2
LIMIT = 180.0  # seconds for an experiment


class OutOfTimeError(Exception):
    """The experiment took longer than LIMIT."""


@dataclass(frozen=True)
class Claim:
    """What is claimed, by whom, how it is tested and judged, and what this can and cannot show."""

    number: int
    text: str
    source: str
    setup: str
    rule: str
    shows: str
    limits: str


@dataclass
class Panel:
    """One set of axes: for each arm, values over the seeds at each point of the x axis."""

    title: str
    x: str  # label, with its unit
    y: str
    at: list[Any]  # numbers, or words for a categorical axis
    arms: dict[str, list[list[float]]]  # arms[arm][point][seed]
    formulas: dict[str, list[float]] = field(default_factory=dict)  # drawn dashed
    scales: tuple[str, str] = ("linear", "linear")

    def mean(self, arm: str) -> np.ndarray:
        """The mean over the seeds at each point."""
        return np.array([np.mean(values) for values in self.arms[arm]])

    def values(self, arm: str, at: Any) -> np.ndarray:
        """The values over the seeds at one point."""
        return np.array(self.arms[arm][self.at.index(at)])

    def axes(self) -> tuple[list[Any], list[str]]:
        """The points, as they are written, and the arms."""
        at = [float(f"{place:.5g}") if isinstance(place, float) else place for place in self.at]
        return at, list(self.arms)

    def finished(self, seeds: int) -> bool:
        """Whether every arm has a number for every point and seed."""
        return bool(self.at) and all(
            len(points) == len(self.at)
            and all(len(v) >= seeds and np.isfinite(v).all() for v in points)
            for points in self.arms.values()
        )


def clearly_above(a: Iterable[float], b: Iterable[float]) -> bool:
    """Whether mean(a) - mean(b) is more than two standard errors of this difference."""
    a, b = np.asarray(a), np.asarray(b)
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return bool(a.mean() - b.mean() > 2 * error)


@dataclass
class Lab:
    """What an experiment is given: the data, the seeds, and a clock."""

    data: Data
    quick: bool = False
    limit: float = LIMIT
    started: float = field(default_factory=time.monotonic)

    @property
    def seeds(self) -> list[int]:
        """The seeds of every arm."""
        return list(range(QUICK_SEEDS if self.quick else SEEDS))

    def pick(self, full: Any, quick: Any) -> Any:
        """The first in a full run, the second in a quick one."""
        return quick if self.quick else full

    def steps(self, count: int, text: str) -> Iterator[int]:
        """Range(count) with a progress bar; raises OutOfTimeError."""
        options = {"unit": "step", "leave": False, "mininterval": 0.5}
        for step in tqdm(range(count), text, disable=None, **options):  # None: only on a terminal
            if time.monotonic() - self.started > self.limit:
                raise OutOfTimeError(f"longer than {self.limit:.0f} s, at {text!r}")
            yield step

    def over_seeds(self, measure: Callable[[int], Any]) -> list[Any]:
        """[measure(seed) for each seed], each with the generator of minigrad at that seed."""
        found = []
        for seed in self.seeds:
            mg.manual_seed(seed)
            found.append(measure(seed))
        return found


def experiments() -> dict[str, ModuleType]:
    """The modules of the experiments by name, in the order of their numbers."""
    folder = str(Path(__file__).parent)
    names = sorted(m.name for m in pkgutil.iter_modules([folder]) if m.name[1:3].isdigit())
    return {name[4:]: importlib.import_module(f".{name}", __package__) for name in names}


def find(name: str) -> str:
    """The name of the experiment called `name`, or numbered so; raises LookupError."""
    known = experiments()
    numbers = {str(module.CLAIM.number): key for key, module in known.items()}
    if name in known or name in numbers:
        return numbers.get(name, name)
    listed = ", ".join(f"{number} {key}" for number, key in numbers.items())
    raise LookupError(f"no experiment {name!r}; there are {listed}")


def perform(name: str, lab: Lab) -> dict[str, Any]:
    """Run an experiment; its record, with Panels. What does not finish is not shown."""
    module = experiments()[name]
    lab.started = time.monotonic()
    panels: list[Panel] = []
    try:
        panels = module.run(lab)
        missing = [panel.title for panel in panels if not panel.finished(len(lab.seeds))]
        if missing or not panels:
            verdict, reason = NOT_SHOWN, f"arms without numbers: {'; '.join(missing) or 'all'}"
        else:
            verdict, reason = module.judge(panels)
    except Exception as error:  # an experiment that fails must not take the others with it
        verdict, reason = NOT_SHOWN, f"{type(error).__name__}: {error}"
    return {
        "number": module.CLAIM.number,
        "name": name,
        "verdict": verdict,
        "reason": reason,
        "dataset": lab.data.name,
        "quick": lab.quick,
        "seeds": lab.seeds,
        "seconds": round(time.monotonic() - lab.started, 1),
        "panels": panels,
    }


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """A record that was read, with the verdict on its numbers by the rule as it is now."""
    if record["verdict"] == NOT_SHOWN:
        return record
    verdict, reason = experiments()[record["name"]].judge(record["panels"])
    return {**record, "verdict": verdict, "reason": reason}


def differences(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Where a record differs from an older one: in its verdict, or in a mean by more than the
    spread over the older seeds (and 0.1 %, or 1e-9). Times, which the machine decides, are not
    compared. On the same kernels nothing differs; where others round otherwise, a search can choose
    another rate, and a mean move further."""
    found = []
    if new["verdict"] != old["verdict"]:
        found.append(f"verdict: {new['verdict']} ({new['reason']}), was {old['verdict']}")
    panels = {panel.title: panel for panel in new["panels"]}
    for panel in old["panels"]:
        again = panels.get(panel.title)
        if again is None or again.axes() != panel.axes():
            found.append(f"{panel.title}: other arms or points")
            continue
        if "microseconds" in panel.y:
            continue
        for arm, points in panel.arms.items():
            means = zip(panel.at, again.mean(arm), panel.mean(arm), points, strict=True)
            for at, mean, was, values in means:
                spread = float(np.std(values, ddof=1))
                if not abs(mean - was) <= spread + max(1e-3 * abs(was), 1e-9):
                    place = f"{panel.title}, {arm}, {' '.join(str(at).split())}"
                    found.append(f"{place}: {mean:.4g}, was {was:.4g} ± {spread:.2g}")
    return found


def write_json(record: dict[str, Any], path: Path) -> None:
    """Write a record with 12 significant digits, from which the verdict follows again; numbers that
    JSON lacks become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        if isinstance(value, (float, np.floating)):
            return float(f"{value:.12g}") if math.isfinite(value) else None
        return int(value) if isinstance(value, np.integer) else value

    record = {**record, "panels": [asdict(panel) for panel in record["panels"]]}
    text = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
    text = text.replace('}, {"title"', '},\n{"title"').replace('"panels"', '\n"panels"')
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a record; its panels are Panels again."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    record["panels"] = [Panel(**panel) for panel in record["panels"]]
    for panel in record["panels"]:
        panel.arms = {
            arm: [[math.nan if v is None else v for v in values] for values in points]
            for arm, points in panel.arms.items()
        }
    return record
