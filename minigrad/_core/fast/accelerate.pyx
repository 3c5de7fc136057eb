"""The switch of the performance wing, and the registry of the shortcuts in it.

Design note
-----------
1. A *shortcut* computes the same as its definition, faster, and differs by rounding errors at most. The code
   that uses it calls `taken`; the other branch is the definition. This file knows the names of the shortcuts
   and whether they are enabled; it must not know what they do.
2. Two switches turn all of them off: MINIGRAD_FAST=0 in the environment, for the whole process, and
   `autograd.accelerated(False)`, for a block in one thread. Then only the primitives, their rules and
   compositions of them run, and the suite must still pass. tests/test_accelerated.py compares each shortcut
   with its definition, and fails for an unknown one.
3. `taken` counts its uses, so that a test can check that a shortcut ran.
"""
cimport cython

import os

cdef extern from *:
    """
    #if defined(_MSC_VER)
    static __declspec(thread) int mg_mode = 0;
    #else
    static __thread int mg_mode = 0;
    #endif
    """
    int mg_mode                 # of this thread: 1 on, -1 off, 0 the default of the process

cdef bint on_from_start = started_on(os.environ.get("MINIGRAD_FAST", "1"))
cdef dict registry = {}


cdef bint started_on(str asked) except -1:
    if asked not in ("0", "1"):
        raise ValueError(f"MINIGRAD_FAST is {asked!r}: expected 1, or 0 to switch every shortcut off")
    return asked == "1"


@cython.final
cdef class Shortcut:
    """A faster implementation of a definition.

    name: its key in the registry. uses: how often it was taken in this process. enabled: False turns this
    one off in all threads, for tests and benchmarks.
    """

    def __init__(self, str name not None) -> None:
        self.name, self.enabled = name, True
        if name in registry:
            raise ValueError(f"shortcut {name!r} is registered twice")
        registry[name] = self

    cdef bint taken(self) noexcept:
        if not self.enabled or mg_mode < 0 or mg_mode == 0 and not on_from_start:
            return False
        self.uses += 1
        return True

    def take(self) -> bool:
        """Whether to take it now; if so, counts the use."""
        return self.taken()

    def __repr__(self) -> str:
        return f"<shortcut {self.name}: {self.uses} uses>"


def shortcuts() -> dict[str, Shortcut]:
    """All shortcuts, by name.

    >>> from minigrad._core.fast.accelerate import shortcuts
    >>> "derived formulas" in shortcuts()
    True
    """
    return dict(registry)


def is_accelerated() -> bool:
    """Whether shortcuts are taken in this thread.

    >>> with mg.autograd.accelerated():
    ...     mg.autograd.is_accelerated()
    True
    """
    return mg_mode > 0 or mg_mode == 0 and on_from_start


def set_accelerated(bint mode) -> bool:
    """Turn the shortcuts on or off in this thread and return the previous state, for
    `autograd.accelerated`."""
    global mg_mode
    before = is_accelerated()
    mg_mode = 1 if mode else -1
    return before
