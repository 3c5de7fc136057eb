"""Limits on the size of the package. The bounds go down as it shrinks."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minigrad"
SUFFIXES = (".py", ".pyx", ".pxi", ".pxd", ".h")  # every .pyi is built
SOURCE = {p for p in PACKAGE.rglob("*") if p.suffix in SUFFIXES}
SOURCE -= {p for p in SOURCE if p.parent.name == "generated"}  # built
CORE = {p for p in SOURCE if PACKAGE / "_core" in p.parents}
ENGINE = {p for p in CORE if p.parent.name == "engine"}


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    "files, most",  # what is aimed at: 17,000, 6,000 and 1,600; no file above 900
    [(SOURCE, 35_519), (CORE, 12_470), (ENGINE, 1_540)],
    ids=["package", "core", "engine"],
)
def test_the_house_does_not_grow(files, most):
    assert sum(map(lines, files)) <= most


def test_no_file_grows_beyond_a_reading():
    assert {p.name: lines(p) for p in SOURCE if lines(p) > 900} == {}
