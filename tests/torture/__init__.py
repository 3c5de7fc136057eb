"""The torture run: what the default suite is too short for. `make torture`, see __main__.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Result:
    """What a part of the run did: what it tried and how often, and what failed."""

    what: str
    count: int = 0
    failures: list[str] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)  # other counts, by what is counted
    rows: list[list[Any]] = field(default_factory=list)  # of a table of its own
    skipped: str = ""  # why, if it did not run

    def check(self, passed: Any, failure: str) -> None:
        self.count += 1
        if not passed:
            self.failures.append(failure)

    def note(self, what: str, count: float = 1) -> None:
        self.notes[what] = self.notes.get(what, 0) + count

    def __add__(self, other: Result) -> Result:
        """Both shares of a part."""
        notes = {
            key: self.notes.get(key, 0) + other.notes.get(key, 0)
            for key in self.notes | other.notes
        }
        lists = self.failures + other.failures, notes, self.rows + other.rows
        return Result(self.what, self.count + other.count, *lists, self.skipped or other.skipped)


@dataclass
class Share:
    """Which part of the work a process does: share `number` of `shares`."""

    quick: bool = False
    number: int = 0
    shares: int = 1

    def of(self, count: int, quick: int) -> range:
        """The numbers below count, or below the smaller count of a quick run, that are ours."""
        return range(self.number, quick if self.quick else count, self.shares)

    def tell(self, done: int, of: int) -> None:
        """The parent process, how far this is."""
        print(json.dumps({"done": done, "of": of}), flush=True)

    def progress(self, items: Sequence[T]) -> Iterator[T]:
        for done, item in enumerate(items, 1):
            yield item
            self.tell(done, len(items))
