"""The pages of the site that are written by hand: their programs run, and print what they say."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import snippets
import test_sweeps

import minigrad as mg
from minigrad import nn

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# Made by the build; tested by test_book.py and test_practitioner.py.
APART = {"generated", "book", "practitioner.md"}
PAGES = [p for p in sorted(DOCS.rglob("*.md")) if not APART & {*p.relative_to(DOCS).parts}]
NEEDED = ("sklearn", "einops", "onnx", "mpi4py", "dask", "ray")
dask_cluster = test_sweeps.dask_cluster


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


@pytest.mark.parametrize(
    "page", [p for p in PAGES if programs(p) and p.name != "sweeps.md"], ids=lambda p: p.stem
)
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


@pytest.mark.filterwarnings("ignore")
def test_the_programs_about_sweeps(dask_cluster):
    """Each way to run the search: on small data, few settings, and the cluster of the tests."""
    address = re.search(r'"address": "(\S+)"', test_sweeps._when_there(dask_cluster))[1]
    replaced = {
        "load_digits": "load_iris",
        "[1e-3, 3e-3, 1e-2]": "[1e-3]",
        "[0.0, 0.2]": "[0.2]",
        "NetClassifier(": "NetClassifier(max_epochs=1, ",
        "tcp://scheduler:8786": address,
    }
    names, ran = {"__name__": "__main__"}, 0
    for code, expected in programs(DOCS / "sweeps.md"):
        if re.search(r"\bray\b", code):
            continue  # tests/test_sweeps.py has a cluster, where Ray is installed
        for old, new in replaced.items():
            code = code.replace(old, new)
        names.pop("client", None)
        run(code, expected, names)
        ran += 1
    names["client"].close()
    assert ran == 3
    assert names["search"].best_params_.keys() == {"hidden", "lr", "dropout"}


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
