"""Mutants of files, each loaded: a sample of what `make torture` does (tests/torture/files.py)."""

from __future__ import annotations

import pytest

pytest.importorskip("resource")  # where there is none, there are no limits to time and memory
from torture import Share
from torture.__main__ import start
from torture.files import sound, try_to_load


def test_hostile_files_load_or_are_refused():
    """In a process of its own, which a crash or a hang would end."""
    result = start("files", Share(quick=True), lambda **message: None)
    assert not result.failures, "\n".join(result.failures)
    assert result.count == 400 and min(result.notes["loaded"], result.notes["refused"]) > 20


def test_the_sound_files_load():
    for kind, contents in sound().items():
        for content in contents:
            assert try_to_load(kind, content) == ("loaded", "")
