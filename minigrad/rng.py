"""Random number generators: the library's own, and those passed as `generator=`.

Design note
-----------
1. A Generator wraps a `numpy.random.Generator`, which it creates on first use: numpy.random takes
   10 ms to load.
2. Seeding and `set_state` change the NumPy generator in place, so what `numpy()` returned stays
   valid.
3. A state is what NumPy calls `bit_generator.state`, with lists in place of arrays: numbers and
   strings, which `mg.save`, JSON and pickle store unchanged.
4. Code that runs a function twice (`checkpoint`, `accumulate`) restores *all* generators, because
   a Dropout may draw from one of its own. That is what the weak references are for.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from .checks import integer
from .namespace import SignatureOfInit

State = dict[str, Any]

_alive: set[weakref.ref[Generator]] = set()
_turn = threading.RLock()


class Generator:
    """A source of random numbers, passed as `generator=` to functions, samplers and layers that
    draw; without one they use the generator that `mg.manual_seed` seeds.

    seed: an int >= 0, or None for an unpredictable one; or a `numpy.random.Generator`, which is
        then shared. The numbers are those of `numpy.random.default_rng(seed)`.
    Raises ValueError for a negative seed, TypeError for anything else.

    >>> generator = mg.Generator(3)
    >>> state = generator.get_state()
    >>> a = mg.randn(2, generator=generator)
    >>> generator.set_state(state)
    >>> bool((mg.randn(2, generator=generator) == a).all())
    True
    """

    __signature__: ClassVar[Any] = SignatureOfInit()

    _numpy: Any = None
    _seed: int | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Generator:
        """Also called for copies and by pickle."""
        self = super().__new__(cls)
        _alive.add(weakref.ref(self, _alive.discard))
        return self

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        if hasattr(seed, "bit_generator"):
            self._numpy = seed
        elif seed is not None:
            self._seed = integer(seed, "Generator: seed", 0)

    def numpy(self) -> np.random.Generator:
        """The NumPy generator that is drawn from, for other distributions.

        >>> mg.Generator(0).numpy().gamma(2.0) == np.random.default_rng(0).gamma(2.0)
        True
        """
        if self._numpy is None:
            self._numpy = np.random.default_rng(self._seed)
        return self._numpy  # type: ignore[no-any-return]

    def manual_seed(self, seed: int) -> Generator:
        """Start the sequence of `seed`, an int >= 0; returns self.

        >>> generator = mg.Generator()
        >>> a = mg.rand(2, generator=generator.manual_seed(5))
        >>> bool((mg.rand(2, generator=mg.Generator(5)) == a).all())
        True
        """
        self._seed = integer(seed, "manual_seed: seed", 0)
        if self._numpy is not None:
            bits = self._numpy.bit_generator
            bits.state = type(bits)(self._seed).state
        return self

    def get_state(self) -> State:
        """A copy of the state, a dict of numbers and strings that `mg.save` can store.

        >>> mg.Generator(0).get_state()["bit_generator"]
        'PCG64'
        """
        return state_of(self.numpy().bit_generator)

    def set_state(self, state: State) -> None:
        """Continue from a state that `get_state` returned.

        Raises TypeError unless `state` is a dict, ValueError for the state of another kind of
        generator or a damaged one; nothing is changed then.

        >>> generator, other = mg.Generator(1), mg.Generator(2)
        >>> other.set_state(generator.get_state())
        >>> bool((mg.rand(2, generator=other) == mg.rand(2, generator=generator)).all())
        True
        """
        self.numpy().bit_generator.state = self._checked(state, "Generator.set_state")

    def _checked(self, state: Any, name: str) -> State:
        """Return `state` if `set_state` would take it; the error names the function `name`."""
        way_out = "pass what get_state() or mg.get_rng_state() returned; nothing was changed"
        if not isinstance(state, dict):
            raise TypeError(
                f"{name}: expected the state of a generator, a dict, got "
                f"{type(state).__name__}; {way_out}"
            )
        kind = type(self.numpy().bit_generator)
        if state.get("bit_generator") != kind.__name__:
            raise ValueError(
                f"{name}: the state is of {state.get('bit_generator', 'no generator')!r:.40}, this "
                f"generator is a {kind.__name__}; {way_out}"
            )
        trial = kind(0)
        try:
            trial.state = state
            accepted = state_of(trial) == _without_arrays(state)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            accepted = False
        if not accepted:
            raise ValueError(f"{name}: {state!r:.60} is not a state of {kind.__name__}; {way_out}")
        return state

    def __repr__(self) -> str:
        if self._numpy is None and self._seed is not None:
            return f"Generator({self._seed})"
        return f"Generator({type(self.numpy().bit_generator).__name__})"


_default = Generator()


def generator(given: Generator | None = None, name: str = "") -> np.random.Generator:
    """The NumPy generator of an argument `generator=` of the function `name`; for None, the one
    that `manual_seed` seeds.

    >>> mg.rng.generator(mg.Generator(0)).random() == np.random.default_rng(0).random()
    True
    """
    found = _default if given is None else check_generator(given, name)
    return found._numpy or found.numpy()


def check_generator(given: Any, name: str) -> Any:
    """Return an argument `generator=` of `name`; raise TypeError if it is no Generator or None.

    >>> mg.rng.check_generator(np.random.default_rng(0), "rand")
    Traceback (most recent call last):
    TypeError: rand: generator must be a mg.Generator, got a NumPy Generator; pass mg.Generator(rng)
    """
    if given is None or isinstance(given, Generator):
        return given
    of_numpy = hasattr(given, "bit_generator")
    kind = "a NumPy Generator" if of_numpy else f"{type(given).__name__} {given!r:.40}"
    raise TypeError(
        f"{name}: generator must be a mg.Generator, got {kind}; "
        f"pass mg.Generator({'rng' if of_numpy else 'seed'})"
    )


def manual_seed(seed: int) -> Generator:
    """Seed the library's generator, from which rand, randn, randint, randperm, dropout,
    initialisation, shuffling and samplers draw unless they are given another; returns it.

    seed: an int >= 0. The numbers are those of `numpy.random.default_rng(seed)`.

    >>> _ = mg.manual_seed(0); a = mg.rand(2)
    >>> _ = mg.manual_seed(0); bool((a == mg.rand(2)).all())
    True
    """
    return _default.manual_seed(seed)


def get_rng_state() -> State:
    """A copy of the state of the library's generator, a dict of numbers and strings that `mg.save`
    can store: part of every checkpoint of a run that should resume exactly.

    >>> state = mg.get_rng_state()
    >>> a = mg.rand(2)
    >>> mg.set_rng_state(state)
    >>> bool((a == mg.rand(2)).all())
    True
    """
    return _default.get_state()


def set_rng_state(state: State) -> None:
    """Continue the library's generator from a state that `get_rng_state` returned; see its example.

    Raises TypeError unless `state` is a dict, ValueError for the state of another kind of generator
    or a damaged one; nothing is changed then.

    >>> mg.set_rng_state({"bit_generator": "MT19937"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: set_rng_state: the state is of 'MT19937', this generator is a PCG64; ...
    """
    _default.numpy().bit_generator.state = _default._checked(state, "set_rng_state")


@contextmanager
def drawing_from(generator: Generator) -> Iterator[None]:
    """A context in which the library's generator is this one, for all threads; those that enter
    such a context take turns.

    >>> with mg.rng.drawing_from(mg.Generator(5)):
    ...     a = mg.rand(2)
    >>> bool((a == mg.rand(2, generator=mg.Generator(5))).all())
    True
    """
    global _default
    with _turn:
        before, _default = _default, generator
        try:
            yield
        finally:
            _default = before


def states() -> list[tuple[Generator, State]]:
    """Every generator that exists, and its state.

    >>> generator = mg.Generator(0)
    >>> generator in dict(mg.rng.states())
    True
    """
    found = (reference() for reference in list(_alive))
    return [(each, each.get_state()) for each in found if each is not None]


def restore(saved: Iterable[tuple[Generator, State]]) -> None:
    """Set generators to the states that `states` returned.

    >>> generator = mg.Generator(0)
    >>> saved = mg.rng.states()
    >>> a = mg.rand(2, generator=generator)
    >>> mg.rng.restore(saved)
    >>> bool((a == mg.rand(2, generator=generator)).all())
    True
    """
    for each, state in saved:
        each.numpy().bit_generator.state = state


def state_of(bit_generator: Any) -> State:
    """The state of a NumPy bit generator, as numbers and strings.

    >>> mg.rng.state_of(np.random.MT19937(0))["state"]["pos"]
    623
    """
    state: State = _without_arrays(bit_generator.state)
    return state


def _without_arrays(value: Any) -> Any:
    """Copy nested dicts, with lists and Python numbers in place of arrays and NumPy scalars."""
    if isinstance(value, dict):
        return {key: _without_arrays(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
