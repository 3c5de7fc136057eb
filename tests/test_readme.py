"""README.md is correct: its code runs, its outputs, counts, quotations and links are right."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from textwrap import indent

import pytest
import snippets

import minigrad as mg
from minigrad import nn
from minigrad._core.fast import derive

import peers_table  # isort: skip

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = list(snippets.blocks(README))
PYTHON = [(text, output) for language, text, output in BLOCKS if language == "python"]
# The lines quoted from the source do not run alone: their variables are defined around them.
QUOTED = [text for text, _ in PYTHON if "import" not in text]
PROGRAMS = [(text, output) for text, output in PYTHON if text not in QUOTED]


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_python_block_runs_and_prints_what_it_says(number):
    program, expected = PROGRAMS[number]
    if "sklearn" in program:
        pytest.importorskip("sklearn")
    found = snippets.printed(program, f"README.md, Python block {number}")
    assert expected is not None, f"block {number} is not followed by what it prints"
    assert snippets.same_output(expected, found), found


def test_the_page_has_the_programs_that_it_should():
    assert len(PROGRAMS) >= 4
    assert len(QUOTED) == 1


def test_a_wrong_output_is_noticed():
    assert snippets.same_output("loss 0.729\n", "loss 0.730\n")
    assert not snippets.same_output("loss 0.729\n", "loss 0.731\n")
    assert not snippets.same_output("loss 0.729\n", "loss 0.7290\nloss 0.7\n")
    assert not snippets.same_output("True\n", "False\n")


def stripped_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_batchnorm_forward_stands_in_the_source_and_computes_batchnorm():
    source = iter(stripped_lines((ROOT / "minigrad/_core/formulas.py").read_text(encoding="utf-8")))
    missing = [line for line in stripped_lines(QUOTED[0]) if line not in source]
    assert not missing, f"not in minigrad/_core/formulas.py, in this order: {missing}"

    mg.manual_seed(0)
    x, weight, bias = mg.randn(8, 3), mg.randn(3), mg.randn(3)
    names = {"x": x, "weight": weight, "bias": bias, "axes": 0, "eps": 1e-5}
    exec(QUOTED[0], names)
    expected = nn.functional.batch_norm(x, None, None, weight, bias)
    assert names["y"].tolist() == expected.tolist()


def test_the_derived_backward_of_batchnorm_is_what_is_printed():
    (quoted,) = (text for language, text, _ in BLOCKS if language == "c")
    _, (backward, _) = derive.written("normalise", "planes", "float")
    assert indent(quoted, "    ", lambda line: line[0] != "#") in backward


def test_the_quoted_table_entry_stands_in_the_source():
    (entry,) = (text for language, text, _ in BLOCKS if language == "cython")
    assert entry in (ROOT / "minigrad/_core/engine/table.py").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------- commands and links
def test_make_targets_and_test_files_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    commands = [text for language, text, _ in BLOCKS if language == "sh"]
    commands += re.findall(r"`(make [^`]*)`", README)
    named = {match for text in commands for match in re.findall(r"\bmake ([a-z-]+)", text)}
    assert {"demo", "test", "bench"} <= named <= targets
    for path in re.findall(r"tests/\w+\.py", " ".join(commands)):
        assert (ROOT / path).is_file(), path


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert "examples/output/learning_curves.png" in links
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


# ----------------------------------------------------------------------------- the map and the gaps
def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_line_counts_are_right_within_a_tenth():
    files = {p for p in (ROOT / "minigrad").rglob("*") if p.suffix in (".py", ".pyx", ".pxi", ".h")}
    source = {p for p in files if p.parent.name != "generated"}  # built
    rows = re.findall(r"^\| \[?`(minigrad/[^`]*)`.*?\| ~([\d,]+) \|", README, re.MULTILINE)
    stated = {name: int(count.replace(",", "")) for name, count in rows}
    total = stated.pop("minigrad/")
    listed = {ROOT / name for name in stated}
    wrong = []
    for name, count in [*stated.items(), ("minigrad/", total)]:
        path = ROOT / name
        if path.is_file():
            files = {path}
        elif name == "minigrad/":
            files = source
        else:  # a folder: its contents except files with their own row
            files = {p for p in source - listed if p.is_relative_to(path)}
        actual = sum(map(line_count, files))
        if abs(count - actual) > 0.1 * actual:
            wrong.append(f"{name}: README says ~{count}, it has {actual}")
    assert not wrong, "\n".join(wrong)
    assert sum(stated.values()) == pytest.approx(total, rel=0.1), "a file is missing from the map"


def test_what_is_said_to_be_missing_is_missing():
    sentence = README.partition("Not there today:")[2].partition("\n")[0]
    names = re.findall(r"`(nn|autograd|func)\.(\w+)`", sentence)
    assert names
    present = [
        f"{module}.{name}"
        for module, name in names
        if hasattr(import_module(f"minigrad.{module}"), name)
    ]
    assert present == [], "these exist by now; take them out of 'Not there today'"


def test_the_table_of_names_is_what_there_is_and_what_is_compared():
    assert f"{peers_table.BEGIN}\n{peers_table.table()}\n{peers_table.END}" in README, (
        "python tests/peers_table.py writes it anew"
    )
    assert peers_table.unknown_marks() == set(), "marks that name nothing public"


def test_the_table_of_names_is_divided_by_where_a_name_is_defined():
    rows = [row.split(" | ") for row in peers_table.table().splitlines()[2:]]
    assert all(1 <= names.count("`") / 2 <= 60 for *_, names in rows), "too long to be read"
    found = {name: row for _, row, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert found["exp"] == found["clip"] == "elementwise"  # in table.py, in ops.pyx
    assert found["sum"] == found["argmax"] == "reductions"  # a parameter decides
    assert found["isnan"] == found["less"] == "comparison, logic"  # a section decides
    new = type("Reflect", (), {"__module__": "minigrad.nn.edge_padding"})
    assert peers_table.subject("nn", new) == "edge padding"
