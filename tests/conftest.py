"""What every test may use, and what the examples in docstrings find defined."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    """The names that the examples in docstrings take for granted."""
    doctest_namespace.update(mg=mg, np=np)
