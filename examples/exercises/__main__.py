"""Print the task of an exercise, and judge the answer."""

from __future__ import annotations

import sys
from pathlib import Path

from .judge import WrongAnswerError, blank, exercises, judge, read


def main(arguments: list[str] | None = None) -> int:
    """0 if the answer is right, 1 if it is blank or wrong, 2 for bad arguments."""
    words = sys.argv[1:] if arguments is None else arguments
    found = exercises()
    if not words:
        for number, path in found.items():
            print(f"{number:>2}  {read(path).title}")
        print("\nmake exercise N=3 shows one of them, and judges your answer.")
        return 0
    if len(words) > 1 or not words[0].isdecimal() or int(words[0]) not in found:
        last = max(found)
        print(
            f"exercises: expected a number from 1 to {last}, got {' '.join(words)}", file=sys.stderr
        )
        return 2
    path = found[int(words[0])]
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    try:
        exercise = read(path)
        print(f"{exercise.text}\n")
        line = blank(path)
        if line:
            print(f"Your answer goes into {shown}, line {line}, in place of the `...`.")
            return 1
        print(f"Right. {judge(path)}")
        return 0
    except WrongAnswerError as error:
        print(f"Not yet. {error}\n(in {shown})")
        return 1


if __name__ == "__main__":
    sys.exit(main())
