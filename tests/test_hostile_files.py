"""Load mutants of files: a sample of what `make torture` does (tests/torture/files.py)."""

from __future__ import annotations

import pytest

pytest.importorskip("resource")  # without it there are no limits on time and memory
from torture import Share
from torture.__main__ import start
from torture.files import sound, try_to_load


def test_hostile_files_load_or_are_refused():
    """Run in a separate process, in case of a crash or a hang."""
    result = start("files", Share(quick=True), lambda **message: None)
    assert not result.failures, "\n".join(result.failures)
    assert result.count == 400 and min(result.notes["loaded"], result.notes["refused"]) > 20


def test_the_sound_files_load():
    for kind, contents in sound().items():
        for content in contents:
            assert try_to_load(kind, content) == ("loaded", "")
