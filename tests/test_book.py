"""docs/book is correct: its programs print what it says, and what it includes is there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import snippets

from minigrad._core.fast import derive

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "docs/book"
CHAPTERS = sorted(BOOK.glob("*.md"))
MADE = ROOT / "docs/generated/table"
PROGRAMS = [(path, k) for path in CHAPTERS for k in range(len(snippets.programs(path)))]
INCLUDE = re.compile(r"^```\{literalinclude\} (\S+)\n((?::.*\n)*)```$", re.MULTILINE)
OPTION = re.compile(r"""^:([\w-]+):[ ]?["']?(.*?)["']?$""", re.MULTILINE)
MARKERS = {"start-at", "end-before", "end-at"}
OTHERS = {"language", "caption", "dedent"}
LOOP = derive.written("normalise", "planes", "float")[1][0]


# ---------------------------------------------------------------------------------- its programs
@pytest.mark.accelerated  # one of them shows what a shortcut leaves in the graph
@pytest.mark.parametrize(
    ("path", "number"), PROGRAMS, ids=[f"{path.stem}-{k}" for path, k in PROGRAMS]
)
def test_program_prints_what_the_book_says(path, number, monkeypatch):
    monkeypatch.chdir(ROOT)  # which is where a reader runs it
    program, expected = snippets.programs(path)[number]
    found = snippets.printed(program, f"{path.name}, Python block {number}")
    assert expected is not None, "no output follows it"
    assert snippets.same_output(expected, found), found


def test_each_chapter_has_programs():
    counts = {path.stem: len(snippets.programs(path)) for path in CHAPTERS}
    counts.pop("index")
    assert all(2 <= count <= 4 for count in counts.values()), counts


# ------------------------------------------------------------------------------- what it includes
def included(path):
    """The file and the options of each listing of a chapter."""
    for match in INCLUDE.finditer(path.read_text(encoding="utf-8")):
        yield (path.parent / match[1]).resolve(), dict(OPTION.findall(match[2]))


def text_of(file):
    """The text of an included file; what the site's build makes is made here."""
    if MADE in file.parents:
        name, layout, direction = re.fullmatch(r"(\w+?)_(\w+)_(\w+)", file.stem).groups()
        return derive.written(name, layout, "float")[direction == "backward"][0]
    return file.read_text(encoding="utf-8")


def listing(lines, options):
    """The lines that Sphinx includes, and what is wrong with the markers."""
    faults, first, last = [], 0, len(lines)
    if start := options.get("start-at"):
        at = [k for k, line in enumerate(lines) if start in line]
        if len(at) != 1:
            return [], [f"{start!r} is on {len(at)} lines, not on one"]
        first = at[0]
    for option, more in (("end-before", 0), ("end-at", 1)):
        if end := options.get(option):
            at = [k for k, line in enumerate(lines) if end in line and k >= first + 1 - more]
            if not at:
                faults.append(f"{end!r} does not follow")
            last = at[0] + more if at else last
    return lines[first:last], faults


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_its_markers_are_in_the_source(path):
    faults = []
    for file, options in included(path):
        assert set(options) <= MARKERS | OTHERS, options
        lines, wrong = listing(text_of(file).splitlines(), options)
        faults += [f"{file.name}: {fault}" for fault in wrong]
        if not wrong and not 1 <= len(lines) <= 110:
            faults.append(f"{file.name}: {len(lines)} lines from {options.get('start-at')!r}")
    assert faults == []


def test_a_marker_that_is_gone_is_noticed():
    lines = ["one", "two", "three", "two"]
    assert listing(lines, {"start-at": "one", "end-before": "three"}) == (["one", "two"], [])
    assert listing(lines, {"start-at": "two"})[1] == ["'two' is on 2 lines, not on one"]
    assert listing(lines, {"start-at": "four"})[1] == ["'four' is on 0 lines, not on one"]
    assert listing(lines, {"start-at": "three", "end-before": "one"})[1] == [
        "'one' does not follow"
    ]
    assert listing(lines, {"start-at": "two", "end-at": "two"})[1] != []
    assert listing(lines, {"start-at": "one", "end-at": "one"}) == (["one"], [])


def test_no_code_of_the_source_is_copied_by_hand():
    """Blocks of Cython and C are included; Python is either a program or is included."""
    for path in CHAPTERS:
        for language, code, _ in snippets.blocks(path.read_text(encoding="utf-8")):
            assert language in ("python", "text"), (path.name, code)
        with_import = len(snippets.programs(path))
        assert path.read_text(encoding="utf-8").count("```python") == with_import


def test_its_chapters_are_in_the_contents():
    index = (BOOK / "index.md").read_text(encoding="utf-8")
    contents = index.split("```{toctree}")[1].partition("```")[0].split()
    assert sorted([*contents[1:], "index"]) == [path.stem for path in CHAPTERS]
    linked = [name for name in re.findall(r"\]\(([\w-]+)\.md\)", index)]
    assert linked == contents[1:]


# ------------------------------------------------------------ the derived backward of BatchNorm
def test_each_line_of_the_derived_backward_is_the_paper_s_formula():
    """Evaluate the statements of the loop by name, for one channel, in float64, and compare them
    with the equations of Ioffe & Szegedy (2015), section 3."""
    random = np.random.default_rng(0)
    x, g, weight, eps, m = random.normal(3, 2, 50), random.normal(size=50), 1.7, 1e-5, 50
    mean, var = x.mean(), x.var()
    std, centred = np.sqrt(var + eps), x - mean
    values = {"x": x, "g": g, "weight": weight, "mean": mean, "std": std, "scale": weight / std}
    values |= {"centred": centred, "sum_of_centred": centred.sum(), "N": 5, "L": 10}
    for line in LOOP.splitlines():
        plain = re.sub(r"\((?:float|double)\)", "", line).strip().rstrip(";")
        plain = re.sub(r"\b(\d+\.\d+)f\b", r"\1", plain)
        if match := re.match(r"const \w+ (\w+) = (?!.*\[)(.+)", plain):
            values[match[1]] = eval(match[2], {}, values)
        elif match := re.match(r"(\w+) \+= (.+)", plain):
            values[match[1]] = np.sum(eval(match[2], {}, values))
    d_normal = weight * g
    d_var = np.sum(d_normal * centred * -0.5 * (var + eps) ** -1.5)
    d_mean = np.sum(-d_normal / std) + d_var * np.sum(-2 * centred) / m
    expected = {
        "d_var": d_var,
        "narrow_1": d_var / m,
        "narrow_2": 0.0,
        "d_mean": d_mean,
        "d_x": d_normal / std + d_var * 2 * centred / m + d_mean / m,
        "d_weight": np.sum(g * centred / std),
        "d_bias": np.sum(g),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
    text = (BOOK / "batchnorm.md").read_text(encoding="utf-8")
    for name in {*expected} - {"narrow_2"}:
        assert f"const float {name} = " in text or name == "narrow_1"


# ----------------------------------------------------------------------------------- its pictures
def test_its_pictures_are_well_formed_and_say_what_they_show():
    from xml.etree import ElementTree

    for path in sorted(BOOK.glob("*.svg")):
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert len(root.get("aria-label", "")) > 40, path.name
        assert any(path.name in chapter.read_text(encoding="utf-8") for chapter in CHAPTERS)
        colours = set(re.findall(r'(?:fill|stroke)="(.*?)"', path.read_text(encoding="utf-8")))
        assert colours <= {"none", "currentColor", "#1f77b4", "#ff7f0e", "#2ca02c"}, path.name
