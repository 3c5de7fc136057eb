"""The torture run: tests that take too long for the suite. `make torture`, see __main__.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Result:
    """The outcome of a part of the run: what it tried, how often, and what failed."""

    what: str
    count: int = 0
    failures: list[str] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)  # other counts, by name
    rows: list[list[Any]] = field(default_factory=list)  # of a separate table
    skipped: str = ""  # why, if it did not run

    def check(self, passed: Any, failure: str) -> None:
        self.count += 1
        if not passed:
            self.failures.append(failure)

    def note(self, what: str, count: float = 1) -> None:
        self.notes[what] = self.notes.get(what, 0) + count

    def __add__(self, other: Result) -> Result:
        """Combine two shares of a part."""
        notes = {
            key: self.notes.get(key, 0) + other.notes.get(key, 0)
            for key in self.notes | other.notes
        }
        lists = self.failures + other.failures, notes, self.rows + other.rows
        return Result(self.what, self.count + other.count, *lists, self.skipped or other.skipped)


@dataclass
class Share:
    """The part of the work that a process does: share `number` of `shares`."""

    quick: bool = False
    number: int = 0
    shares: int = 1

    def of(self, count: int, quick: int) -> range:
        """Our share of the numbers below count, or below the smaller count of a quick run."""
        return range(self.number, quick if self.quick else count, self.shares)

    def tell(self, done: int, of: int) -> None:
        """Tell the parent process how far this is."""
        print(json.dumps({"done": done, "of": of}), flush=True)

    def progress(self, items: Sequence[T]) -> Iterator[T]:
        for done, item in enumerate(items, 1):
            yield item
            self.tell(done, len(items))
