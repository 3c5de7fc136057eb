"""The training of a net on arrays: mini-batches, the loop, snapshots. It knows no scikit-learn.

Design note
-----------
1. The loop is lean. An epoch gathers all samples in a new order into one buffer, of which the
   batches are views, made once: a batch costs no Python beyond the step. With 64-64-64-10 and
   batch 32, a step takes 45 µs including all else, and 41 µs in a bare loop over one batch.
2. Whatever draws random numbers while a net is made or trained (initialisation, dropout) draws from
   the library's generator. `rng.drawing_from` replaces it by the net's own, so that results depend
   on the seed alone, and puts it back. Fits in several threads take turns.
3. Members of an ensemble that can be stacked train in one step: the same numbers as one by one, to
   rounding, but that a member which stops early waits for the others.
4. A snapshot of all parameters and buffers is taken after every epoch that is the best so far: a
   copy of a few arrays. It is what an early stop, an interrupt or a NaN goes back to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .. import optim
from .._core.engine.graph import Tensor
from ..autograd import no_grad
from ..creation import asarray, full
from ..func import functional_call
from ..nn import Ensemble, Module
from ..optim import Optimizer
from ..optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from ..rng import Generator, drawing_from
from .losses import Loss

CELLS = 2**22  # of the inputs that an evaluation handles at a time
ROWS = 4096  # that it handles at a time

COLUMNS = ("epoch", "loss", "val_loss", "val_score", "lr", "seconds")  # of the history

Batch = tuple[Tensor, Tensor, "Tensor | None"]


class Rows:
    """Inputs X of an estimator, dense or sparse (CSR), as float arrays of some rows at a time:
    `(x - centre) * factor`.

    >>> Rows(np.array([[1.0], [3.0]]), np.array([2.0]), np.array([0.5]))[:]
    array([[-0.5],
           [ 0.5]], dtype=float32)
    """

    def __init__(self, X: Any, centre: Any = 0.0, factor: Any = 1.0, dtype: Any = np.float32):
        self.X, self.centre, self.factor, self.dtype = X, centre, factor, dtype
        self.sparse = not isinstance(X, np.ndarray)
        self.step = max(1, min(ROWS, CELLS // max(1, X.shape[1])))

    def __len__(self) -> int:
        return int(self.X.shape[0])

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = self.X[index]
        rows = (rows.toarray() if self.sparse else rows) - self.centre
        rows *= self.factor
        return rows.astype(self.dtype, copy=False)

    def __iter__(self) -> Iterator[Tensor]:
        """All rows in order, in blocks of limited size; as often as you like."""
        for start in range(0, len(self), self.step):
            yield asarray(self[start : start + self.step])

    def dense(self) -> np.ndarray:
        """All rows as one array."""
        whole = np.empty(self.X.shape, self.dtype)
        for start in range(0, len(self), 512):  # the temporaries stay in the cache
            whole[start : start + 512] = self[start : start + 512]
        return whole


class Batches:
    """Mini-batches (x, y, weight) of all samples, in a new order in each epoch. A last batch of one
    sample joins the one before, as BatchNorm cannot train on it.

    >>> rows = Rows(np.zeros((5, 1), np.float32))
    >>> batches = Batches(rows, np.arange(5), None, 2)
    >>> [len(y) for x, y, weight in batches.shuffled(np.random.default_rng(0))]
    [2, 3]
    """

    def __init__(self, rows: Rows, y: np.ndarray, weight: np.ndarray | None, size: int) -> None:
        starts = list(range(0, len(y), size))
        if len(starts) > 1 and len(y) - starts[-1] == 1:
            starts.pop()
        self.slices = [slice(*bounds) for bounds in pairwise((*starts, len(y)))]
        self.rows = rows
        arrays = [rows.X if rows.sparse else rows.dense(), y, weight]
        self.sources = [array for array in arrays if array is not None]
        self.buffers = [
            np.empty(array.shape, array.dtype) if isinstance(array, np.ndarray) else None
            for array in self.sources
        ]
        self.views = [list(self._views(piece)) for piece in self.slices]

    def __len__(self) -> int:
        return sum(piece.stop - piece.start for piece in self.slices)

    def _views(self, piece: slice) -> Iterator[Tensor | None]:
        for buffer in self.buffers:
            yield None if buffer is None else asarray(buffer[piece])
        if len(self.buffers) == 2:
            yield None

    def shuffled(self, random: np.random.Generator) -> Iterator[Batch]:
        """The batches of an epoch. The next one writes to the same memory."""
        order = random.permutation(len(self))
        for source, buffer in zip(self.sources, self.buffers, strict=True):
            if buffer is not None:
                np.take(source, order, axis=0, out=buffer, mode="clip")
        if not self.rows.sparse:
            return iter(self.views)  # type: ignore[arg-type]
        return self._sparse(order)

    def gathered(self, orders: np.ndarray) -> Iterator[Batch]:
        """The batches of an epoch with one order for each member: (members, batch, ...). The next
        batch writes to the same memory."""
        buffers: dict[tuple[int, int], Any] = {}
        for piece in self.slices:
            chosen = orders[:, piece]
            batch: list[Any] = []
            for k, source in enumerate(self.sources):
                if not isinstance(source, np.ndarray):
                    dense = self.rows[chosen.ravel()]
                    batch.append(asarray(dense.reshape(*chosen.shape, -1)))
                    continue
                shape = (*chosen.shape, *source.shape[1:])
                if (k, len(chosen[0])) not in buffers:
                    buffers[k, len(chosen[0])] = asarray(np.empty(shape, source.dtype))
                buffer = buffers[k, len(chosen[0])]
                np.take(source, chosen, axis=0, out=buffer._array, mode="clip")
                batch.append(buffer)
            yield (*batch, None)[:3]

    def _sparse(self, order: np.ndarray) -> Iterator[Any]:
        for piece, (_, y, weight) in zip(self.slices, self.views, strict=True):
            yield asarray(self.rows[order[piece]]), y, weight


class Snapshot:
    """A copy of the parameters and buffers of a net.

    >>> layer = mg.nn.Linear(1, 1)
    >>> before = Snapshot(layer)
    >>> _ = layer.weight.detach().fill_(7)
    >>> before.restore()
    >>> layer.weight.item() == 7
    False
    """

    def __init__(self, net: Module, epoch: int = 0) -> None:
        self.tensors = tensors_of(net)
        self.take(epoch, [tensor.numpy() for tensor in self.tensors])

    def take(self, epoch: int, values: Iterable[np.ndarray]) -> None:
        """Copy the values after `epoch`."""
        self.arrays = [value.copy() for value in values]
        self.epoch = epoch

    def restore(self) -> None:
        """Write the copies to the net."""
        with no_grad():
            for tensor, array in zip(self.tensors, self.arrays, strict=True):
                tensor.copy_(array)


def tensors_of(net: Module) -> list[Tensor]:
    """The parameters and buffers of a net.

    >>> len(tensors_of(mg.nn.BatchNorm1d(2)))
    5
    """
    return [*net.parameters(), *net.buffers()]


@dataclass
class Validation:
    """Data for early stopping, and the score of the outputs for them."""

    rows: Iterable[Tensor]
    y: Tensor
    weight: Tensor | None
    score: Callable[[np.ndarray], float]
    patience: int | None  # None: watch, but never stop


@dataclass
class Member:
    """One net, what trains it, and how that went: `history` has a row per epoch."""

    net: Module
    optimizer: Optimizer
    random: np.random.Generator
    scheduler: LRScheduler | None = None

    def __post_init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.best = Snapshot(self.net)
        self.lowest = math.inf


class Trainer:
    """The training of one net, to be continued."""

    def __init__(self, member: Member) -> None:
        self.members, self.net, self.optimizer = [member], member.net, member.optimizer
        self.tensors = tensors_of(self.net)

    def train(
        self,
        loss: Loss,
        batches: Batches,
        epochs: int,
        validation: Validation | None = None,
        report: Callable[[dict[str, float]], Any] = lambda row: None,
    ) -> None:
        """Train for `epochs`, or until the validation loss has not fallen for `patience` of them.

        Afterwards, and whenever an exception leaves, the net is in evaluation mode and has its best
        weights: with early stopping those of the lowest validation loss, otherwise the last finite
        ones. Raises ValueError in the first epoch whose loss is not finite.
        """
        started, done = time.perf_counter(), len(self.members[0].history)
        patience = None if validation is None else validation.patience
        for member in self.members:
            member.best, member.lowest = Snapshot(member.net, done), math.inf
        going = list(range(len(self.members)))
        self._begin()
        try:
            for epoch in range(done + 1, done + epochs + 1):
                self._set_options(going)
                trained = self._epoch(loss, batches)
                outputs = None if validation is None else self._outputs(validation.rows)
                _raise_unless_finite(trained[going], epoch)
                for k in list(going):
                    member, scheduler = self.members[k], self.members[k].scheduler
                    watched, score, held = trained[k], math.nan, math.nan
                    if validation is not None and outputs is not None:
                        z = asarray(outputs[k])
                        watched = held = loss.mean(z, validation.y, validation.weight).item()
                        if math.isfinite(held):
                            score = validation.score(outputs[k])
                    if patience is None or watched < member.lowest:
                        member.lowest = watched
                        member.best.take(epoch, self._values(k))
                    rate = member.optimizer.param_groups[0]["lr"]
                    seconds = time.perf_counter() - started
                    row = epoch, float(trained[k]), held, score, rate, seconds
                    member.history.append(dict(zip(COLUMNS, row, strict=True)))
                    report(member.history[-1])
                    if patience is not None and epoch - member.best.epoch >= patience:
                        going.remove(k)
                        self._stop(k)
                    elif isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.step(watched)
                    elif scheduler is not None and epoch < done + epochs:
                        scheduler.step()
                if not going:
                    break
            if patience is not None and any(member.lowest == math.inf for member in self.members):
                raise ValueError(
                    "the validation loss was not finite in any epoch; look for extreme values in "
                    "the validation data"
                )
        finally:
            _switch(self.optimizer, "eval")
            for member in self.members:
                member.best.restore()
                member.net.eval()
            self.optimizer.zero_grad()

    # ----------------------------------------------------- of one net; of several: see the subclass
    def _begin(self) -> None:
        """Continue from the weights of the members."""

    def _set_options(self, going: list[int]) -> None:
        """Take the options that the schedules have set."""

    def _stop(self, k: int) -> None:
        """Leave member k as it is from now on."""

    def _values(self, k: int) -> list[np.ndarray]:
        """The present parameters and buffers of member k."""
        return [tensor.numpy() for tensor in self.tensors]

    def _outputs(self, rows: Iterable[Tensor]) -> np.ndarray:
        """(members, n, outputs)"""
        return evaluate(self.net, rows)[None]

    def _epoch(self, loss: Loss, batches: Batches) -> np.ndarray:
        """One pass over the data; returns the mean loss of each member."""
        (member,) = self.members
        net, optimizer, mean = self.net.train(), self.optimizer, loss.mean
        total = 0.0
        _switch(optimizer, "train")
        with drawing_from(Generator(member.random)):
            for x, y, weight in batches.shuffled(member.random):
                optimizer.zero_grad()
                value = mean(net(x), y, weight)
                value.backward()
                optimizer.step()
                total += value.item() * len(y)
        _switch(optimizer, "eval")
        return np.array([total / len(batches)])


def _switch(optimizer: Optimizer, mode: str) -> None:
    """Make the parameters those of a mode, where an optimiser has two (schedule-free ones)."""
    getattr(optimizer, mode, lambda: None)()


class StackedTrainer(Trainer):
    """The training of several nets as one `nn.Ensemble`. The schedule of each member sets the
    options of its own optimiser, from which the one of the stack takes them in every epoch.

    Raises TypeError or ValueError if the nets cannot be stacked, or the optimiser does more than
    apply a compiled rule to each parameter.
    """

    def __init__(self, members: list[Member]) -> None:
        nets = iter([member.net for member in members])
        self.generators = [Generator(member.random) for member in members]
        self.members = members
        self.net: Any = Ensemble(lambda: next(nets), len(members), self.generators)
        self.tensors = tensors_of(self.net.net)
        self.optimizer = self._stacked_optimizer()

    def _stacked_optimizer(self) -> Optimizer:
        kind = type(self.members[0].optimizer)
        if getattr(optim, kind.__name__, None) is not kind or not kind.rule:
            raise TypeError(f"{kind.__name__} has no compiled rule that works on members")
        first, *others = [_options_of(member) for member in self.members]
        if any(other != first for other in others):
            raise ValueError("the optimisers of the members differ in more than their rates")
        stacked = list(self.net.parameters())
        groups = [{**options, "params": [stacked[k] for k in places]} for options, places in first]
        return kind(groups, **self.members[0].optimizer.defaults)

    def _begin(self) -> None:
        self.net.resume()
        sources = zip(*(tensors_of(member.net) for member in self.members), strict=True)
        with no_grad():
            for tensor, parts in zip(self.tensors, sources, strict=True):
                tensor.copy_(np.stack([part.numpy() for part in parts]))

    def _set_options(self, going: list[int]) -> None:
        every = [member.optimizer.param_groups for member in self.members]
        for own, *groups in zip(self.optimizer.param_groups, *every, strict=True):
            options = dict(groups[going[0]])
            del options["params"]
            own.update(options, lr=np.array([group["lr"] for group in groups], np.float64))

    def _stop(self, k: int) -> None:
        self.net.stop(k)

    def _values(self, k: int) -> list[np.ndarray]:
        return [tensor.numpy()[k] for tensor in self.tensors]

    def _outputs(self, rows: Iterable[Tensor]) -> np.ndarray:
        most = max(1, ROWS // len(self.members))
        return evaluate(self.net, (x[k : k + most] for x in rows for k in range(0, len(x), most)))

    def _epoch(self, loss: Loss, batches: Batches) -> np.ndarray:
        net, optimizer, mean = self.net.train(), self.optimizer, loss.members
        total, ones = np.zeros(len(self.members)), full((len(self.members),), 1.0)
        orders = self.net.randperm(len(batches)).numpy()
        for x, y, weight in batches.gathered(orders):
            optimizer.zero_grad()
            value = mean(net(x), y, weight, self.generators)
            value.backward(ones)
            optimizer.step()
            total += value.numpy() * y.shape[1]
        return total / len(batches)


def _options_of(member: Member) -> list[tuple[dict[str, Any], list[int]]]:
    """The options of each parameter group but the rate, and the places of its parameters."""
    places = {id(p): k for k, p in enumerate(member.net.parameters())}
    found = []
    for group in member.optimizer.param_groups:
        if any(id(p) not in places for p in group["params"]):
            raise ValueError("the optimiser has parameters that are not of the net")
        options = {name: value for name, value in group.items() if name not in ("params", "lr")}
        found.append((options, [places[id(p)] for p in group["params"]]))
    return found


def trainers_of(members: list[Member]) -> list[Trainer]:
    """One for all members if they can be stacked, otherwise one for each. What cannot be stacked is
    said by `nn.Ensemble` and `StackedTrainer` alone, and is not an error here."""
    if len(members) > 1:
        with suppress(TypeError, ValueError):
            return [StackedTrainer(members)]
    return [Trainer(member) for member in members]


def _raise_unless_finite(losses: np.ndarray, epoch: int) -> None:
    for value in losses[~np.isfinite(losses)][:1]:
        raise ValueError(
            f"the loss became {'NaN' if math.isnan(value) else 'infinite'} in epoch {epoch}; "
            "use a smaller lr, or look for extreme values in the data"
        )


def evaluate(net: Module, rows: Iterable[Tensor]) -> np.ndarray:
    """The outputs of a net in evaluation mode for blocks of rows, as one array, with one more axis
    for an Ensemble; computed in the dtype of the rows.

    >>> evaluate(mg.nn.ReLU(), [mg.tensor([[-1.0]]), mg.tensor([[2.0]])])
    array([[0.],
           [2.]], dtype=float32)
    """
    net.eval()
    with no_grad():
        outputs = [functional_call(net, _state(net, x), x).numpy() for x in rows]
    return np.concatenate(outputs, -2)


def _state(net: Module, x: Tensor) -> dict[str, Tensor]:
    """The parameters and statistics of a net in the dtype of x."""
    named = net.state_dict()
    return {name: t.astype(x.dtype) for name, t in named.items() if t.dtype.kind == "f"}
