"""How large the house may be. The bounds go down as it shrinks; docs say what each file is for."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minigrad"
SOURCE = {p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".pyx", ".pxd", ".pyi", ".h")}
SOURCE -= {PACKAGE / "_core/elementwise.py", PACKAGE / "_core/elementwise.pyi"}  # made by a build
CORE = {p for p in SOURCE if p.parent.name == "_core"}


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    "files, most",  # what is aimed at: 17,000, 6,000 and 900
    [(SOURCE, 25_800), (CORE, 11_500)],
    ids=["package", "core"],
)
def test_the_house_does_not_grow(files, most):
    assert sum(map(lines, files)) <= most


def test_no_file_grows_beyond_a_reading():
    long = {p.name: lines(p) for p in SOURCE if lines(p) > 900}
    allowed = {
        "ops.pyx": 1_850,
        "tensor.pyx": 2_320,
        "onnx.py": 1_020,
        "functional.py": 990,
        "loops.pyx": 950,
        "lr_scheduler.py": 940,
    }
    assert {name: n for name, n in long.items() if n > allowed.get(name, 900)} == {}
