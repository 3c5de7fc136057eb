"""A core that was not compiled, or was built from another table, says so in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minigrad"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package, with links to the compiled modules."""
    for path in PACKAGE.rglob("*"):
        copy = tmp_path / "minigrad" / path.relative_to(PACKAGE)
        if path.suffix == ".py":
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        elif path.suffix in (".so", ".pyd"):
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    return tmp_path


def said(checkout):
    """The last line printed by `import minigrad` there."""
    command = [sys.executable, "-c", "import minigrad; print('imported')"]
    run = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)
    return (run.stdout + run.stderr).splitlines()[-1]


def test_a_core_of_this_table_is_imported(checkout):
    assert said(checkout) == "imported"


@pytest.mark.parametrize(
    "source, before, after",
    [("engine/table.py", "g: -g", "g: g"), ("formulas.py", "x - mean", "x + mean")],
)
def test_a_core_of_another_table_or_formula_is_not(checkout, source, before, after):
    path = checkout / "minigrad/_core" / source
    path.write_text(path.read_text("utf-8").replace(before, after, 1), "utf-8")
    line = said(checkout)
    assert line.startswith("ImportError: minigrad: the compiled core was made of another ")
    assert path.name in line and "make test" in line


def test_a_frozen_program_may_lack_the_sources(checkout):
    (checkout / "minigrad/_core/formulas.py").rename(checkout / "kept.py")
    line = said(checkout)  # the next import needs it, but the check of the build does not
    assert "made of another" not in line and "not compiled" not in line


@pytest.mark.parametrize("missing", ["ops", "graph"])
def test_a_core_that_is_not_compiled(checkout, missing):
    for path in (checkout / "minigrad/_core").rglob(f"{missing}.*"):
        path.unlink()
    line = said(checkout)
    assert line.startswith(f"ImportError: minigrad: the core is not compiled in {checkout}")
    assert "; build it: " in line


def test_a_core_that_was_compiled_from_other_sources(checkout):
    """After a pull, its parts may import names that are gone."""
    path = checkout / "minigrad/checks.py"
    path.write_text(path.read_text("utf-8").replace("def as_int(", "def as_integer("), "utf-8")
    line = said(checkout)
    assert line.startswith("ImportError: minigrad: the core does not load (cannot import name ")
    assert "as_int" in line and "; build it: " in line


def test_a_checkout_that_hides_the_installed_package_says_so(checkout, tmp_path, monkeypatch):
    """After `pip install .`, Python started in the clone finds the sources there first."""
    for path in (checkout / "minigrad/_core").rglob("ops.*"):
        path.unlink()
    installed = tmp_path / "site-packages" / "minigrad" / "__init__.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setenv("PYTHONPATH", str(installed.parents[1]))
    line = said(checkout)
    assert f"which hides {installed}: run Python in another folder; build it: " in line
    shutil.rmtree(installed.parents[1])
