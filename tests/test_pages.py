"""The pages of the site that are written by hand: their programs run, and print what they say."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import snippets

import minigrad as mg
from minigrad import nn

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# Made by the build; tested by test_book.py, test_practitioner.py and test_sweeps.py.
APART = {"generated", "book", "practitioner.md", "sweeps.md"}
PAGES = [p for p in sorted(DOCS.rglob("*.md")) if not APART & {*p.relative_to(DOCS).parts}]
NEEDED = ("sklearn", "einops", "onnx", "safetensors")


def programs(path):
    """The blocks of Python in a page, and the output that follows each."""
    found = snippets.blocks(path.read_text(encoding="utf-8"))
    return [(code, output) for language, code, output in found if language == "python"]


def run(code, expected, names):
    """Run a block, and compare what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<block>", "exec"), names)
    assert snippets.same_output(expected or "", printed.getvalue()), printed.getvalue()


def names_for(page):
    """What a program that shows only a part takes for granted."""
    if page.name != "distributed.md":
        return {}
    return {
        "make_net": lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
        "criterion": nn.CrossEntropyLoss(),
        "dataset": mg.data.TensorDataset(mg.randn(128, 4), mg.randint(2, size=(128,))),
        "epochs": 1,
    }


@pytest.mark.accelerated  # profile.md counts the operations, which the shortcuts decide
@pytest.mark.parametrize("page", [p for p in PAGES if programs(p)], ids=lambda p: p.stem)
def test_the_programs_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # they write files
    names = {"__name__": "__main__"} | names_for(page)  # later blocks use the names of earlier ones
    for code, expected in programs(page):
        for package in NEEDED:
            if re.search(rf"\b{package}\b", code):
                pytest.importorskip(package)
        if "distributed" in code:
            pytest.importorskip("mpi4py", reason="the extra mpi is not installed")
        run(code, expected, names)


def test_a_wrong_output_is_noticed():
    run("print(1 + 1)", "2\n", {})
    for expected in ("3\n", None):
        with pytest.raises(AssertionError):
            run("print(1 + 1)", expected, {})


def test_the_targets_that_pages_name_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = {
        target
        for page in PAGES
        for target in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))
    }
    assert named and named <= {*targets}
