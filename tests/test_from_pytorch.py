"""The programs of examples/from_pytorch reach their goal."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "from_pytorch"
REACHED = {
    "poisson": (10, lambda error: error < 1e-3),
    "diffusion": (600, lambda distance: distance < 0.2),
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_program_reaches_its_goal(path):
    steps, reached = REACHED[path.stem]
    main = runpy.run_path(str(path))["main"]
    assert reached(main(steps)) and not reached(main(1))
