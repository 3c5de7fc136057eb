"""What is made for the site before Sphinx runs: the reference is complete, links lead somewhere.

In each build, conf.py compares the names of the reference with what Sphinx has understood.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import minigrad as mg

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # isort: split
import docstrings  # noqa: E402
import pages  # noqa: E402

for module in ("sklearn", "mpi4py"):  # the public modules that are not always there
    pytest.importorskip(module)
import reference  # noqa: E402
import table_pages  # noqa: E402

LESSONS = [path for path in pages.scripts() if pages.is_lesson(path)]


@cache
def made():
    """The Markdown and the notebooks that are made, by path below docs/generated/."""
    return dict(pages.pages()) | {f"table/{name}": text for name, text in table_pages.pages()}


@cache
def entries():
    """The pages of the reference."""
    return dict(reference.pages())


# -------------------------------------------------------------------------------------- reference
def public_names():
    """What `__all__` of the public modules has, found without the code under test."""
    found, modules = set(), [mg, *map(importlib.import_module, reference.BY_NAME)]
    while modules:
        module = modules.pop()
        for name in module.__all__:
            member = getattr(module, name)
            if isinstance(member, ModuleType):
                modules.append(member)
            else:
                found.add(f"{module.__name__}.{name}")
    return found


def test_the_reference_has_every_public_name_once():
    auto = re.compile(r"^\.\. auto(?:function|class|exception):: (minigrad[\w.]+)", re.MULTILINE)
    other = re.compile(r"^\.\. py:(?:function|class|data):: (\w+)", re.MULTILINE)
    names = []
    for text in entries().values():
        names += auto.findall(text)
        inside = re.search(r"^\.\. py:(?:current)?module:: (.*)$", text, re.MULTILINE)
        names += [f"{inside[1]}.{name}" for name in other.findall(text)]
    assert len(names) == len({*names})
    assert {*names} == public_names()
    assert len(names) > 500


def test_the_modules_that_are_imported_by_name_are_known():
    program = "import minigrad, sys; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    folder = Path(mg.__file__).parent
    public = {
        f"minigrad.{(path.parent if path.stem == '__init__' else path).stem}"
        for path in [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
        if "\n__all__ = " in path.read_text(encoding="utf-8") and path.parent.name != "_core"
    }
    assert public - {*done.stdout.split()} == {*reference.BY_NAME}


def test_the_methods_of_tensor_are_its_own():
    found = {*reference.members(mg.Tensor)}
    assert {"backward", "exp", "shape", "numpy", "softmax"} <= found
    assert not found & {"view", "cuda", "unsqueeze"}, "names of other libraries"
    assert all(hasattr(mg.Tensor, name) for name in found)


def test_a_class_has_the_methods_of_its_private_bases():
    assert {"forward", "reset_running_stats"} <= {*reference.members(mg.nn.BatchNorm1d)}
    assert "state_dict" not in reference.members(mg.nn.BatchNorm1d), "that is Module's"
    assert {"fit", "predict"} <= {
        *reference.members(reference.public()["minigrad.estimators.NetClassifier"])
    }


def test_every_name_leads_to_the_line_that_defines_it():
    missing = []
    for full, member in reference.public().items():
        if not reference.described(member) or not member.__module__.startswith("minigrad"):
            continue  # a constant, or NumPy's LinAlgError
        module = next(m for m in reversed(reference.modules()) if full.startswith(f"{m.__name__}."))
        name = full.removeprefix(f"{module.__name__}.")
        found = reference.place(module.__name__, name)
        line = found and found[0].read_text(encoding="utf-8").splitlines()[found[1] - 1]
        if not line or (line[0] != "@" and not re.search(rf"\b_?{member.__name__}\b", line)):
            missing.append((full, found and found[1], line))
    assert missing == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("exp", "table.py"),
        ("sum", "ops.pyx"),
        ("matmul", "products.pxi"),
        ("Tensor", "tensor.pxi"),
        ("Tensor.backward", "tensor.pxi"),
        ("Tensor.exp", "table.py"),
        ("nn.Linear", "linear.py"),
    ],
)
def test_compiled_names_lead_to_their_sources(name, file):
    path, line = reference.place("minigrad", name)
    assert path.name == file
    assert name.rpartition(".")[2] in path.read_text(encoding="utf-8").splitlines()[line - 1]


def test_functions_and_classes_have_signatures_compiled_ones_too():
    vague = {
        name
        for name, member in reference.public().items()
        if reference.described(member) and reference.signature(member)[:6] in ("(...)", "(*args")
    }
    assert vague == {
        "minigrad.Tensor",  # compiled: from its stub
        "minigrad.autograd.GradcheckError",
        "minigrad.linalg.LinAlgError",
    }
    assert reference.signature(mg.sum) == "(x, axis=None, keepdims=False, dtype=None)"
    stub = reference.stub_signature("Tensor")
    assert stub.startswith("(data: ArrayLike, dtype: ") and "requires_grad: bool = False" in stub


# -------------------------------------------------------------------------------------- docstrings
def test_the_examples_of_docstrings_py():
    assert doctest.testmod(docstrings).failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kaiming_normal_ of |x|", r"kaiming\_normal\_ of \|x\|"),
        ("one `a`s and ` alone", r"one `a`\ s and \` alone"),
        ("- the net:\n  its weights\n- the rest", "- the net: its weights\n\n- the rest"),
        (
            "x: a number,\n    or more\ny: another",
            "**x**\n    a number, or more\n\n**y**\n    another",
        ),
        ("x: begins a sentence\nthat goes on", "x: begins a sentence that goes on"),
        ("z: no parameter", "z: no parameter"),
        (">>> 1\n1\n\n>>> 2\n2", ">>> 1\n1\n>>> 2\n2"),
        ("as\n\n    y = a*b\n\nwith a", "as\n\n::\n\n    y = a*b\n\nwith a"),
    ],
)
def test_a_docstring_becomes_restructuredtext(text, expected):
    assert docstrings.to_rst(text, {"x", "y"}) == expected


def test_the_first_sentence():
    assert docstrings.summary("A tensor. It is one.") == "A tensor"
    assert docstrings.summary("0 ... n-1 (Elfwing et al. 2018), ...\nof it. The") == (
        "0 ... n-1 (Elfwing et al. 2018), ... of it"
    )


# ------------------------------------------------------------------------------------------- pages
def test_links_and_pictures_lead_somewhere():
    texts = {path: pages.expand(pages.read(path), path) for path in pages.written_by_hand()}
    texts |= {pages.MADE / name: text for name, text in made().items() if name.endswith(".md")}
    known = {*texts} | {pages.MADE / name for name in (*made(), *entries())}
    broken, count = [], 0
    for page, text in texts.items():
        for _, link, _ in pages.LINK.findall(pages.FENCE.sub("", text)):
            path = ROOT / link[4:] if link.startswith("/../") else (page.parent / link).resolve()
            count += bool(link)
            there = path.exists() if path.suffix in pages.PICTURES else path in known
            broken += [(page.name, link)] * bool(link and not there)
    assert broken == []
    assert count > 300


def test_links_lead_to_the_page_that_shows_a_file():
    page = pages.DOCS / "howto" / "x.md"
    text = (
        "[a](../../README.md#install) [b](../../minigrad/func.py) [c](../../examples/09_newton.py)"
    )
    text += " [d](https://x.y/z.py) [e](../../tests/torture/) [f](../../RELIABILITY.md#figures)"
    text += " [g](h.md)\n\n[h]: ../../LICENSE"
    assert re.findall(r"(?:\(|: )(.*?)(?:\)|$)", pages.relink(text, page, page)) == [
        "../start/install.md#install",
        "../generated/source/minigrad/func.py.md",
        "../generated/lessons/09_newton.md",
        "https://x.y/z.py",
        "../generated/source/tests/torture/index.md",
        "../reliability.md#figures",
        "h.md",
        "../generated/source/LICENSE.md",
    ]
    assert (
        pages.relink("```\n[a](../../README.md)\n```", page, page)
        == "```\n[a](../../README.md)\n```"
    )


def test_a_section_that_is_not_there_is_an_error():
    page = pages.DOCS / "x.md"
    assert "pip install" in pages.expand("<!-- include README.md#install -->", page)
    with pytest.raises(KeyError, match="instal"):
        pages.expand("<!-- include README.md#instal -->", page)


def test_the_laboratory_has_every_experiment_with_its_verdict():
    folder = ROOT / "examples" / "batchnorm_lab"
    names = sorted(path.stem for path in folder.glob("e[0-9][0-9]_*.py"))
    found = sorted(Path(name).stem for name in made() if re.match(r"laboratory/e\d", name))
    assert found == names
    for name in names:
        record = json.loads((folder / "report" / f"{name}.json").read_text(encoding="utf-8"))
        text = made()[f"laboratory/{name}.md"]
        assert f"**Verdict: {record['verdict']}.** {record['reason']}" in text
        assert text.index(f"{name}.png") < text.index("**Who claims it.**"), "picture first"
        assert f"literalinclude}} /../examples/batchnorm_lab/{name}.py" in text
        assert f"{name}.html" in made()["laboratory/index.md"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_a_page_with_its_picture_first_and_a_notebook(path):
    text = made()[f"lessons/{path.stem}.md"]
    assert text.startswith(f"# Lesson {int(path.stem[:2])}: ")
    assert text.index(f"output/{path.stem}.png") < text.index("Download")
    assert f"## Exercise {int(path.stem[:2])}: " in text and "/exercises/e" in text
    first = pages.code_starts(path)
    assert path.read_text(encoding="utf-8").splitlines()[first - 1].startswith("from __future__")
    book = json.loads(made()[f"lessons/{path.stem}.ipynb"])
    code = ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"]
    *code, run, show = code
    assert run == "main([])" and path.name in show
    script = ast.parse(path.read_text(encoding="utf-8"))
    script.body = script.body[1:-1]  # without the docstring and the call of main
    expected = ast.unparse(script).replace("__file__", repr(path.name))
    assert ast.unparse(ast.parse("\n".join(code))) == expected, "the code of the notebook differs"
    prose = "".join("".join(c["source"]) for c in book["cells"] if c["cell_type"] == "markdown")
    words = re.findall(r"\w+", ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
    assert {*words} <= {*re.findall(r"\w+", prose)} | {words[2], words[2].lower()}


def test_a_notebook_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    monkeypatch.syspath_prepend(str(pages.EXAMPLES))
    lesson = importlib.import_module("lesson")
    monkeypatch.setattr(lesson, "PICTURES", tmp_path)
    names = {"__name__": "__main__"}
    try:
        for cell in json.loads(made()["lessons/01_gradient_by_hand.ipynb"])["cells"]:
            code = "".join(cell["source"])
            if cell["cell_type"] == "code" and "IPython" not in code:  # Jupyter's own
                exec(
                    compile(code.replace("main([])", 'main(["--fast"])'), cell["id"], "exec"), names
                )
        assert lesson.picture_path("01_gradient_by_hand.py").is_file()
    finally:
        del sys.modules["lesson"]
    assert "machine" in capsys.readouterr().out


def test_a_second_writing_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MADE", tmp_path)
    pages.write({"a/b.md": "text", "c.md": "more"})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.md")}
    assert len(before) == 2
    pages.write({"a/b.md": "text", "c.md": "more"})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.md")} == before
    pages.write({"c.md": "other"})
    assert [path.name for path in tmp_path.rglob("*")] == ["c.md"]
    assert (tmp_path / "c.md").read_text(encoding="utf-8") == "other"
