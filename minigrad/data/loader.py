"""DataLoader: mini-batches of a dataset, epoch by epoch, and its place in the middle of one.

Design note
-----------
1. An epoch starts with a plan: the indices of each of its batches, drawn at once. What comes later
   (dropout, other loaders) therefore has no effect on the order, and the state of an interrupted
   epoch is what is left of the plan: exact for any sampler, whatever it draws from.
2. Without a plan are streams (IterableDataset) and samplers without a length. Streams are read
   again up to the place; either continues by itself if it has `state_dict` and `load_state_dict`.
3. An iterator refers to the loader, but the loader only to the `_Epoch`, which knows neither: no
   reference cycle keeps the last batches alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from .._core.engine.graph import Tensor
from ..checks import as_int, choice, flag, integer
from ..rng import Generator, check_generator
from .collate import default_collate
from .dataset import IterableDataset, described
from .sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    as_indices,
    drawn,
    in_lists,
    length_of,
)

__all__ = ["DataLoader"]

_VERSION = 1
_ENTRIES = ("loader", "epoch", "delivered", "sizes", "order", "source")  # of a state
_WORKERS = (
    "batches are made in this process: one of a TensorDataset takes microseconds, less than "
    "sending it from another process would; leave it out. If samples are slow to make, make them "
    "once and keep them in arrays, np.load(path, mmap_mode='r') for large ones"
)
_MEMORY = "there is no other device to copy batches to; leave it out"
_OF_PYTORCH = {
    **dict.fromkeys(("num_workers", "prefetch_factor", "persistent_workers"), _WORKERS),
    **dict.fromkeys(("worker_init_fn", "multiprocessing_context", "timeout"), _WORKERS),
    **dict.fromkeys(("pin_memory", "pin_memory_device"), _MEMORY),
}


class _Epoch:
    """How far an epoch has come. `plan`: the indices of each batch after the first `resumed_at`, or
    None if they are not known. `waits`: for the next iterator, as after loading."""

    def __init__(self, number: int, plan: list[Any] | None, resumed_at: int = 0) -> None:
        self.number, self.plan, self.resumed_at = number, plan, resumed_at
        self.delivered, self.waits, self.finished = resumed_at, True, False

    def rest(self) -> list[Any]:
        """The indices of each batch that was not delivered yet."""
        return self.plan[self.delivered - self.resumed_at :] if self.plan else []


class DataLoader:
    """Mini-batches of a dataset; iterate over it once per epoch.

    dataset: anything with `__len__` and `__getitem__`, or an `IterableDataset`.
    shuffle: use a new order in each epoch, drawn from `generator`, by default the library's
        (`mg.manual_seed`). With a `seed` instead the order depends only on (seed, epoch): loaders
        with the same seed agree; set `loader.epoch` to continue with another epoch.
    sampler: an iterable of the indices of an epoch, in place of `shuffle`; see `Sampler`.
    batch_sampler: an iterable of lists of indices, one per batch, in place of `batch_size`,
        `shuffle`, `sampler` and `last`.
    last: what to do with the last batch if it is not full: "keep" it, "drop" it, or "merge" it into
        the one before, which then has fewer than 2 batch_size samples: BatchNorm cannot train on a
        batch of one. drop_last=True is last="drop".
    collate_fn: makes a batch from a list of samples; by default `default_collate`.
    Attributes: `epoch`, the number of the epoch that the next iterator starts or continues.

    Raises ValueError for batch_size < 1 or seed < 0, arguments that exclude each other, and
    `num_workers` or `pin_memory` of PyTorch; TypeError for a dataset without a length, or a sampler
    that is not iterable. When iterated, raises RuntimeError for a sampler that runs dry: gives
    nothing (a generator is used up after one epoch), or another number of indices than its length.

    >>> data = mg.data.TensorDataset(mg.arange(5))
    >>> [batch.tolist() for (batch,) in mg.data.DataLoader(data, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    >>> mg.data.DataLoader(data, batch_size=2, last="merge")
    DataLoader(TensorDataset((5,) int64), batch_size=2, last='merge'): epoch 0 of 2 batches
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool | None = False,
        drop_last: bool = False,
        seed: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        *,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        generator: Generator | None = None,
        last: str | None = None,
        **of_pytorch: Any,
    ) -> None:
        _refuse(of_pytorch)
        self._is_stream = isinstance(dataset, IterableDataset)
        if not self._is_stream and not (
            hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        ):
            raise TypeError(
                "DataLoader: the dataset must have __len__ and __getitem__, "
                f"{type(dataset).__name__} does not; convert it to a list or a TensorDataset, or "
                "make it an IterableDataset"
            )
        shuffle = flag(shuffle or False, "DataLoader: shuffle")  # PyTorch has None for False
        drop_last = flag(drop_last, "DataLoader: drop_last")
        self.dataset = dataset
        self.batch_size = integer(batch_size, "DataLoader: batch_size", 1)
        self.seed = None if seed is None else integer(seed, "DataLoader: seed", 0)
        self.last: str = choice(
            ("drop" if drop_last else "keep") if last is None else last,
            "DataLoader: last", "keep", "drop", "merge",
        )  # fmt: skip
        if collate_fn is not None and not callable(collate_fn):
            raise TypeError(
                f"DataLoader: collate_fn must be a function of a list, got {collate_fn!r:.60}"
            )
        self.shuffle, self.collate_fn = shuffle, collate_fn
        self.generator = check_generator(generator, "DataLoader")
        _refuse_clashes(
            {
                "shuffle": shuffle, "seed": seed is not None, "generator": generator is not None,
                "sampler": sampler is not None, "batch_sampler": batch_sampler is not None,
                "batch_size": batch_size != 1, "drop_last": drop_last, "last": last is not None,
                "last='merge'": last == "merge", "an IterableDataset": self._is_stream,
                "last other than 'drop'": last not in (None, "drop"),
            }
        )  # fmt: skip
        for name, indices in (("sampler", sampler), ("batch_sampler", batch_sampler)):
            if indices is not None and (
                isinstance(indices, type) or not hasattr(indices, "__iter__")
            ):
                raise TypeError(
                    f"DataLoader: {name} must be an iterable of indices, got {indices!r:.60}"
                )
        self.batch_sampler = batch_sampler
        self.sampler: Any = sampler
        if sampler is None and batch_sampler is None and not self._is_stream:
            self.sampler = SequentialSampler(dataset)
            if shuffle:
                self.sampler = RandomSampler(dataset, generator=generator)
        self.epoch = 0
        self._now: _Epoch | None = None

    @property
    def drop_last(self) -> bool:
        """Whether the last batch is dropped if it is not full."""
        return self.last == "drop"

    @property
    def _source(self) -> Any:
        """What determines an epoch."""
        if self._is_stream:
            return self.dataset
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        if (count := length_of(self._source)) is None:
            raise TypeError(
                f"DataLoader: the number of batches is unknown, because {self._source!r:.60} has no"
                " __len__"
            )
        if self.batch_sampler is not None:
            return count
        full, rest = divmod(count, self.batch_size)
        return full + (rest > 0 and (self.last == "keep" or (self.last == "merge" and not full)))

    # ------------------------------------------------------------------ an epoch
    def __iter__(self) -> Iterator[Any]:
        epoch = self._interrupted()
        if epoch is None or not epoch.waits:
            # drawn now, not at the first batch: in which order iterators are read has no effect
            epoch = _Epoch(self.epoch, self._plan())
        epoch.waits = False
        self._now = epoch
        self.epoch = epoch.number + 1
        return self._deliver(epoch)

    def _expected(self) -> int | None:
        """The number of indices, or lists of them, in an epoch, if there is a plan."""
        return None if self._is_stream else length_of(self._source)

    def _plan(self) -> list[Any] | None:
        """The indices of each batch of an epoch; None if there is no telling before it ends."""
        source, expected = self._source, self._expected()
        if expected is None:
            return None
        if self.seed is not None and self.shuffle:
            source.generator = Generator(np.random.default_rng((self.seed, self.epoch)))
        if self.batch_sampler is not None:
            plan = list(map(as_indices, source))
            if any(len(indices) == 0 for indices in plan):
                raise ValueError(f"DataLoader: {source!r:.60} gave a batch without indices")
            count = len(plan)
        else:
            order = drawn(source)
            count = len(order)
            plan = [order[start:end] for start, end in pairwise(self._bounds(count))]
        if count != expected:
            self._ran_dry(self.epoch, f"{count} of {expected}")
        return plan

    def _bounds(self, count: int) -> list[int]:
        """Where each batch starts, and the end of the last."""
        bounds = list(range(0, count + 1, self.batch_size))
        if count % self.batch_size:
            if self.last == "merge" and len(bounds) > 1:
                bounds.pop()
            if self.last != "drop":
                bounds.append(count)
        return bounds

    def _deliver(self, epoch: _Epoch) -> Iterator[Any]:
        fetch, known = self._fetch(), epoch.plan is not None
        for indices in epoch.rest() if known else self._read(epoch):
            batch = fetch(indices)
            epoch.delivered += 1
            if not known and self.batch_sampler is None and len(indices) < self.batch_size:
                epoch.plan = []  # the source has ended, and may be about to start again
            yield batch
        if not known and not epoch.delivered and (epoch.number or not self._is_stream):
            self._ran_dry(epoch.number, "no full batch of" if self.drop_last else "no")
        epoch.finished = True

    def _read(self, epoch: _Epoch) -> Iterator[Any]:
        """The indices of the batches of a sampler without a length, or the samples of a stream."""
        source: Any = self._source
        batches = (
            in_lists(source, self.batch_size, self.drop_last)
            if self.batch_sampler is None
            else iter(source)
        )
        if self._stateful() is None:  # otherwise it continues by itself
            for number in range(epoch.resumed_at):
                if next(batches, None) is None:
                    self._ran_dry(epoch.number, f"only {number * self.batch_size}")
        return batches if self._is_stream else map(as_indices, batches)

    def _fetch(self) -> Callable[[Any], Any]:
        """Makes a batch of its indices, or of the samples of a stream."""
        dataset, collate = self.dataset, self.collate_fn or default_collate
        if self._is_stream:
            return collate
        by_sample = not getattr(dataset, "takes_index_arrays", False)
        if self.collate_fn is None and not by_sample:
            return dataset.__getitem__  # type: ignore[no-any-return]

        def gather(indices: Any) -> Any:
            listed = indices.tolist() if isinstance(indices, np.ndarray) else indices
            return collate([dataset[index] for index in listed])

        return gather

    def _ran_dry(self, number: int, gave: str) -> NoReturn:
        items = "indices" if self.batch_sampler is None else "batches"
        raise RuntimeError(
            f"DataLoader: {self._source!r:.80} ran dry: it gave {gave} "
            f"{'samples' if self._is_stream else items} in epoch {number}. A "
            "generator, or an object that is its own iterator, is used up after one epoch: pass a "
            "list, or an object whose __iter__ starts again"
        )

    # ------------------------------------------------------------------ its place
    def state_dict(self) -> dict[str, Any]:
        """Where the newest iterator is, in the middle of an epoch too, for `mg.save`.

        After loading it, the next iterator continues with the very next batch, and `epoch` is the
        number of that epoch, so that `for epoch in range(loader.epoch, epochs)` runs the others. An
        iterator that was left (`break`) counts as interrupted, one that was read to its end does
        not. Includes the state of a generator of the loader's or its sampler's own, but not of the
        library's: save `mg.get_rng_state()` too. Size: 8 bytes per index left in the epoch.

        Raises TypeError for an iterator of a sampler that has neither a length nor a state.

        >>> loader = mg.data.DataLoader(mg.arange(6), batch_size=2)
        >>> for batch in loader:
        ...     if batch[0] == 2:
        ...         state = loader.state_dict()
        >>> resumed = mg.data.DataLoader(mg.arange(6), batch_size=2)
        >>> resumed.load_state_dict(state)
        >>> list(resumed), resumed.epoch
        ([tensor([4, 5])], 1)
        """
        epoch, owner = self._interrupted(), self._stateful()
        state: dict[str, Any] = {
            "version": _VERSION,
            "loader": self._kind(),
            "epoch": self.epoch if epoch is None else epoch.number,
            "delivered": None if epoch is None else epoch.delivered,
            "sizes": None,
            "order": None,
            "source": None if owner is None else owner.state_dict(),
        }
        if epoch is None:
            return state
        if epoch.plan is not None:
            rest = epoch.rest()
            state["sizes"] = Tensor(np.array([len(indices) for indices in rest], np.int64))
            if all(isinstance(indices, np.ndarray) for indices in rest):
                state["order"] = Tensor(np.concatenate([np.arange(0), *rest]))
            else:
                state["order"] = [index for indices in rest for index in indices]
        elif owner is None and not self._is_stream:
            raise TypeError(
                f"DataLoader.state_dict: {self._source!r:.60} has no length, so that the rest of "
                "its order is unknown; give it __len__, or state_dict and load_state_dict"
            )
        return state

    def _interrupted(self) -> _Epoch | None:
        """The epoch that the newest iterator is in, or that waits for an iterator."""
        epoch = self._now
        if epoch is None or epoch.finished:
            return None
        # not if somebody has set `epoch` since
        return epoch if self.epoch == epoch.number + (not epoch.waits) else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned for a loader that was built in the same way; see there.

        Raises ValueError for anything else: the state of a loader of another dataset size,
        batch_size, sampler, seed or `last`, of another version of this library, or a damaged one;
        nothing is changed then.
        """
        state: Any = state_dict
        if not isinstance(state, dict) or "version" not in state:
            raise self._misfit(f"expected what state_dict() returned, got {state!r:.60}")
        if state["version"] != _VERSION:
            raise self._misfit(
                f"the state is of version {state['version']!r:.20}, this minigrad reads {_VERSION}"
            )
        if lacking := [name for name in _ENTRIES if name not in state]:
            raise self._misfit(f"the state lacks {', '.join(lacking)}")
        here, there = self._kind(), state["loader"]
        if not isinstance(there, dict) or set(there) != set(here):
            raise self._misfit(f"'loader' is damaged: {there!r:.60}")
        differing = [f"{name} {there[name]!r:.30} there, {here[name]!r} here"
                     for name in here if here[name] != there[name]]  # fmt: skip
        if differing:
            raise self._misfit(
                f"the state is of another loader: {'; '.join(differing)}; build the loader as the "
                "one that was saved"
            )
        number, epoch = as_int(state["epoch"]), self._loaded_epoch(state)
        if number is None or number < 0:
            raise self._misfit(f"'epoch' must be an int >= 0, got {state['epoch']!r:.30}")
        owner, saved = self._stateful(), state["source"]
        if (owner is None) != (saved is None):
            raise self._misfit("the state is of another sampler or stream")
        if owner is not None:
            owner.load_state_dict(saved)
        self.epoch, self._now = number, epoch

    def _loaded_epoch(self, state: dict[str, Any]) -> _Epoch | None:
        """The epoch that was interrupted, if one was."""
        delivered, sizes, order = (state[name] for name in ("delivered", "sizes", "order"))
        if delivered is None:
            return None
        if as_int(delivered) is None or delivered < 0:
            raise self._misfit(f"'delivered' must be an int >= 0, got {delivered!r:.30}")
        plan = None
        if sizes is not None or self._expected() is not None:
            sizes, order = as_indices(sizes), as_indices(order)
            if not isinstance(sizes, np.ndarray) or not isinstance(order, (list, np.ndarray)):
                raise self._misfit("'sizes' and 'order' must be lists or tensors of ints")
            if (sizes < 1).any() or sizes.sum() != len(order):
                raise self._misfit(f"'sizes' do not add up to the {len(order)} indices left")
            bounds = np.cumsum([0, *sizes]).tolist()
            plan = [as_indices(order[start:end]).copy() for start, end in pairwise(bounds)]
        return _Epoch(state["epoch"], plan, delivered)

    def _misfit(self, message: str) -> ValueError:
        return ValueError(f"DataLoader.load_state_dict: {message}; nothing was loaded")

    def _stateful(self) -> Any:
        """The sampler or stream that keeps a state of its own, or None. The generator of a seed
        does not count: it is made anew for each epoch."""
        source = self._source
        while True:
            if hasattr(source, "state_dict") and hasattr(source, "load_state_dict"):
                return source if self.seed is None else None
            if not isinstance(source, BatchSampler):
                return None
            source = source.sampler

    def _kind(self) -> dict[str, Any]:
        """What another loader must have in common to take the state of this one."""
        return {
            "samples": length_of(self.dataset),
            "batch_size": self.batch_size,
            "last": self.last,
            "sampler": type(self._source).__name__,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        made = isinstance(self.sampler, (RandomSampler, SequentialSampler)) and (
            self.sampler.data_source is self.dataset
        )
        options = {
            "batch_size": self.batch_size if self.batch_sampler is None else None,
            "shuffle": self.shuffle or None,
            "sampler": None if made else self.sampler,
            "batch_sampler": self.batch_sampler,
            "last": None if self.last == "keep" else self.last,
            "seed": self.seed,
            "generator": self.generator,
        }
        given = [f"{name}={value!r:.200}" for name, value in options.items() if value is not None]
        count = "" if length_of(self._source) is None else f" of {len(self)} batches"
        return (
            f"DataLoader({', '.join([described(self.dataset), *given])}): epoch {self.epoch}{count}"
        )


def _refuse_clashes(given: dict[str, Any]) -> None:
    """Raise for arguments that exclude each other; `given` says which there are."""
    alone, own = "it alone makes the batches", "give it a generator: Sampler(..., generator=g)"
    for one, others, way_out in (
        ("batch_sampler", ("batch_size", "shuffle", "sampler", "drop_last", "last"), alone),
        ("batch_sampler", ("seed", "generator"), own),
        ("sampler", ("shuffle",), "it alone makes the order"),
        ("sampler", ("seed", "generator"), own),
        ("seed", ("generator",), "leave out one"),
        ("drop_last", ("last other than 'drop'",), "leave out one"),
        ("an IterableDataset", ("shuffle", "sampler", "batch_sampler", "seed"),
         "a stream comes in its own order; shuffle in it, or make a list of it"),
        ("an IterableDataset", ("last='merge'",), "the end of a stream is not known"),
    ):  # fmt: skip
        clash = [other for other in others if given[one] and given[other]]
        if clash:
            raise ValueError(f"DataLoader: {one} excludes {', '.join(clash)}; {way_out}")


def _refuse(of_pytorch: dict[str, Any]) -> None:
    """Raise for arguments that only PyTorch has, unless they say what happens anyhow."""
    for name, value in of_pytorch.items():
        if name not in _OF_PYTORCH:
            from ..spellings import keyword_advice

            known = signature(DataLoader).parameters
            advice = keyword_advice("DataLoader", name, known)
            raise TypeError(f"DataLoader: unexpected argument {name!r}{advice}")
        if value:
            raise ValueError(f"DataLoader: {name}={value!r:.40}: {_OF_PYTORCH[name]}")
