"""The figures of a run: a line for each part, results.json, and the tables of RELIABILITY.md.

python tests/torture/report.py     rewrites the tables from results.json
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torture import Result

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- figures: make torture -->", "<!-- /figures -->"
BEGIN_ULPS, END_ULPS = "<!-- ulps: make torture -->", "<!-- /ulps -->"


WRITTEN = ("RELIABILITY.md", "tests/torture/results.json")  # by a run


def commit() -> str:
    """The current commit, and whether anything except the figures has changed since."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", *(f":!{name}" for name in WRITTEN))
        return git("rev-parse", "--short", "HEAD") + "-dirty" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def figures(result: dict[str, Any]) -> str:
    """The counts in words."""
    text = f"{result['count']:,} {result['what']}"
    notes = [f"{count:,} {what}" for what, count in result["notes"].items()]
    return "; ".join([text, *notes])


def say(name: str, result: Result, seconds: float) -> None:
    """One line, followed by the failures."""
    outcome = f"{len(result.failures)} failures" if result.count else "skipped"
    outcome += f" (without {result.skipped})" * bool(result.skipped)
    print(f"{name:12} {figures(asdict(result))}: {outcome}, {seconds:.0f} s", flush=True)
    for failure in result.failures[:20]:
        print(f"{'':12} {failure}", flush=True)


def write(found: dict[str, tuple[Result, float, dict[str, str]]]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, (result, seconds, about) in found.items():
        known[name] = {**asdict(result), "seconds": seconds, **about}
    RESULTS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    refresh(known)


def table(known: dict[str, Any]) -> str:
    """Markdown: what was tried, how often, the outcome, where, and the command."""
    lines = [
        "| part | tried | failures | seconds | commit, date | command |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in known.items():
        command = f'`make torture ARGS="--only {name}"`'
        outcome = str(len(result["failures"])) if result["count"] else "skipped"
        outcome += f" (without {result['skipped']})" * bool(result["skipped"])
        when = f"{result['commit']}, {result['date']}"
        cells = name, figures(result), outcome, f"{result['seconds']:.0f}", when, command
        lines.append(f"| {' | '.join(cells)} |")
    places = dict.fromkeys(result["where"] for result in known.values())
    return "\n".join([*lines, "", f"({'; '.join(places)}.)"])


def ulps(known: dict[str, Any]) -> str:
    lines = [
        "| function | float32 | worst at | float64 | worst at | allowed |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(map(str, row))} |" for row in known.get("ulps", {}).get("rows", [])]
    return "\n".join(lines)


def refresh(known: dict[str, Any]) -> None:
    path = ROOT / "RELIABILITY.md"
    text = path.read_text(encoding="utf-8")
    for begin, end, block in ((BEGIN, END, table(known)), (BEGIN_ULPS, END_ULPS, ulps(known))):
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{block}\n{end}{rest.split(end)[1]}"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    refresh(json.loads(RESULTS.read_text()))
