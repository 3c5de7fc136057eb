"""The programs in a page of documentation, and what they should print."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

FLOAT = re.compile(r"-?\d+\.\d+")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[tuple[str, str, str | None]]:
    """Every fenced block: language, text, and the printed output that follows it, or None."""
    fences = [*FENCE.finditer(text)]
    for k, fence in enumerate(fences):
        after = fences[k + 1] if k + 1 < len(fences) else None
        adjacent = after and not text[fence.end() : after.start()].strip()
        yield fence[1], fence[2], after[2] if after and adjacent and after[1] == "text" else None


def programs(path: Path) -> list[tuple[str, str | None]]:
    """The Python of a page that runs alone, and the output that follows it. Lines quoted from the
    source do not run alone: they import nothing."""
    found = blocks(path.read_text(encoding="utf-8"))
    return [
        (code, output)
        for language, code, output in found
        if language == "python" and "import" in code
    ]


def printed(program: str, name: str) -> str:
    """What a program prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(program, name, "exec"), {"__name__": "__main__"})
    return output.getvalue()


def same_output(expected: str, found: str) -> bool:
    """Equal text; floats may differ by one in the last digit shown, because the rounding of a sum
    depends on the instruction set of the kernels."""
    if FLOAT.sub("#", expected) != FLOAT.sub("#", found):
        return False
    return all(
        abs(float(want) - float(got)) < 1.5 * 10.0 ** -len(want.partition(".")[2])
        for want, got in zip(FLOAT.findall(expected), FLOAT.findall(found), strict=True)
    )
