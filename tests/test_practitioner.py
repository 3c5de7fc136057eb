"""docs/practitioner.md: every figure is the measured one, links lead somewhere, the code runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

for requirement in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(requirement)

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from examples.batchnorm_lab import report  # noqa: E402
from examples.batchnorm_lab.lab import experiments, find, read_json  # noqa: E402

LAB = ROOT / "examples" / "batchnorm_lab" / "report"
PAGE = (ROOT / "docs" / "practitioner.md").read_text(encoding="utf-8")
# A figure and where it is from: 98.6 %<!--5: panel | arm | point-->, or 50 steps<!--1: reason-->,
# which is found in the reason of the verdict.
FIGURE = r"[−-]?\d[\d,]*(?:\.\d+)?"
REFERENCE = re.compile(rf"({FIGURE})( to {FIGURE})?( %| steps| times)?<!--(\d+): (.*?)-->")


def measured(number, source, digits):
    """The figure that an experiment published, as text."""
    record = read_json(LAB / report.json_name(find(number)))
    title, arm, place = re.split(r" \\?\| ", source)
    panel = next(panel for panel in record["panels"] if panel.title == title)
    points = [" ".join(str(at).split()) for at in panel.at]
    if place not in points:
        points = [at if isinstance(at, str) else float(at) for at in panel.at]
        place = float(place)
    return f"{panel.mean(arm)[points.index(place)]:.{digits}f}".replace("-", "−")


def wrong(page):
    """The figures of a page that are not the measured ones."""
    found = []
    for figure, more, unit, number, source in REFERENCE.findall(page):
        if source == "reason":
            text = (figure + more + unit).replace("−", "-")
            reason = read_json(LAB / report.json_name(find(number)))["reason"]
            if not re.search(rf"(?<![\d.]){re.escape(text)}(?![\d])", reason):
                found.append(f"{text}: not in the reason of {number}")
        else:
            right = measured(number, source, len(figure.partition(".")[2]))
            if figure.replace("-", "−") != right:
                found.append(f"{figure}: {number}: {source} is {right}")
    return found


def test_every_figure_is_the_measured_one():
    assert len(REFERENCE.findall(PAGE)) > 40
    assert wrong(PAGE) == []


def test_a_wrong_figure_is_found():
    for match in REFERENCE.finditer(PAGE):
        at = match.end(1) - 1  # its last digit
        digit = str((int(PAGE[at]) + 1) % 10)
        (line,) = wrong(PAGE[:at] + digit + PAGE[at + 1 :])
        assert match[4] in line


def test_no_figure_is_without_its_source():
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", PAGE, flags=re.DOTALL)
    text = REFERENCE.sub("", text)
    assert re.findall(r".*(?:\d %|\d\.\d).*", text) == []


def test_links_lead_to_the_experiments():
    headings = re.findall(r"^## (.*)$", (LAB / "REPORT.md").read_text(encoding="utf-8"), re.M)
    names = {
        "".join(c for c in h.lower().replace(" ", "-") if c.isalnum() or c in "-_")
        for h in headings
    }
    targets = dict(re.findall(r"^\[(\d+)\]: \S+REPORT\.md#(\S+)$", PAGE, re.M))
    assert len(targets) == len(experiments())
    for number, target in targets.items():
        assert target in names and target.startswith(f"{number}-")
    named = set(re.findall(r"\[(\d+)\](?!:)", PAGE))
    assert (
        named <= targets.keys() and {number for *_, number, _ in REFERENCE.findall(PAGE)} <= named
    )
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = link.partition("#")
        assert (ROOT / "docs" / path).exists(), link
        assert path or f"\n## {anchor.replace('-', ' ').capitalize()}\n" in PAGE, link


def test_its_code_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.DOTALL)
    assert len(blocks) == 2
    for number, text in enumerate(blocks):
        exec(compile(text, f"practitioner.md, block {number}", "exec"), {})
    assert capsys.readouterr().out.startswith("layer ")
