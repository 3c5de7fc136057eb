"""The training of a net on arrays: mini-batches, the loop, snapshots. It knows no scikit-learn.

Design note
-----------
1. The loop is lean. An epoch gathers all samples in a new order into one buffer, of which the
   batches are views, made once: a batch costs no Python beyond the step. With 64-64-64-10 and
   batch 32, a step takes 45 µs including all else, and 41 µs in a bare loop over one batch.
2. Whatever draws random numbers while a net is made or trained (initialisation, dropout) draws from
   the library's generator. `rng.drawing_from` replaces it by the net's own, so that results depend
   on the seed alone, and puts it back. Fits in several threads take turns.
3. A snapshot of all parameters and buffers is taken after every epoch that is the best so far: a
   copy of a few arrays. It is what an early stop, an interrupt or a NaN goes back to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .._core.engine.graph import Tensor
from ..autograd import no_grad
from ..creation import asarray
from ..func import functional_call
from ..nn import Module
from ..optim import Optimizer
from ..optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from .losses import Loss

CELLS = 2**22  # of the inputs that an evaluation handles at a time

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
        self.step = max(1, min(4096, CELLS // max(1, X.shape[1])))

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
        self.tensors = [*net.parameters(), *net.buffers()]
        self.take(epoch)

    def take(self, epoch: int) -> None:
        """Copy the present values, which are those after `epoch`."""
        self.arrays = [tensor.numpy(copy=True) for tensor in self.tensors]
        self.epoch = epoch

    def restore(self) -> None:
        """Write the copies back."""
        with no_grad():
            for tensor, array in zip(self.tensors, self.arrays, strict=True):
                tensor.copy_(array)


@dataclass
class Validation:
    """Data for early stopping, and the score of the outputs for them."""

    rows: Iterable[Tensor]
    y: Tensor
    weight: Tensor | None
    score: Callable[[np.ndarray], float]
    patience: int | None  # None: watch, but never stop


@dataclass
class Trainer:
    """The training of one net, to be continued; `history` has a row per epoch."""

    net: Module
    optimizer: Optimizer
    random: np.random.Generator

    def __post_init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.best = Snapshot(self.net)

    def train(
        self,
        loss: Loss,
        batches: Batches,
        epochs: int,
        scheduler: LRScheduler | None = None,
        validation: Validation | None = None,
        report: Callable[[dict[str, float]], Any] = lambda row: None,
    ) -> None:
        """Train for `epochs`, or until the validation loss has not fallen for `patience` of them.

        Afterwards, and whenever an exception leaves, the net is in evaluation mode and has its best
        weights: with early stopping those of the lowest validation loss, otherwise the last finite
        ones. Raises ValueError in the first epoch whose loss is not finite.
        """
        started, lowest, done = time.perf_counter(), math.inf, len(self.history)
        patience = None if validation is None else validation.patience
        self.best = Snapshot(self.net, done)
        try:
            for epoch in range(done + 1, done + epochs + 1):
                rate = self.optimizer.param_groups[0]["lr"]
                trained = watched = self._epoch(loss, batches, epoch)
                score = held = math.nan
                if validation is not None:
                    z = evaluate(self.net, validation.rows)
                    held = loss.mean(asarray(z), validation.y, validation.weight).item()
                    score, watched = validation.score(z), held
                if patience is None or watched < lowest:
                    lowest = watched
                    self.best.take(epoch)
                seconds = time.perf_counter() - started
                self.history.append(
                    dict(zip(COLUMNS, (epoch, trained, held, score, rate, seconds), strict=True))
                )
                report(self.history[-1])
                if patience is not None and epoch - self.best.epoch >= patience:
                    break
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(watched)
                elif scheduler is not None and epoch < done + epochs:
                    scheduler.step()
        finally:
            self.best.restore()
            self.optimizer.zero_grad()
            self.net.eval()

    def _epoch(self, loss: Loss, batches: Batches, epoch: int) -> float:
        """One pass over the data; returns the mean loss."""
        net, optimizer, mean = self.net.train(), self.optimizer, loss.mean
        total = 0.0
        for x, y, weight in batches.shuffled(self.random):
            optimizer.zero_grad()
            value = mean(net(x), y, weight)
            value.backward()
            optimizer.step()
            total += value.item() * len(y)
        if not math.isfinite(total):
            raise ValueError(
                f"the loss became {'NaN' if math.isnan(total) else 'infinite'} in epoch {epoch}; "
                "use a smaller lr, or look for extreme values in the data"
            )
        return total / len(batches)


def evaluate(net: Module, rows: Any) -> np.ndarray:
    """The outputs of a net in evaluation mode for blocks of rows, as one array, computed in the
    dtype of the rows.

    >>> evaluate(mg.nn.ReLU(), [mg.tensor([[-1.0]]), mg.tensor([[2.0]])])
    array([[0.],
           [2.]], dtype=float32)
    """
    net.eval()
    with no_grad():
        return np.concatenate([functional_call(net, _state(net, x), x).numpy() for x in rows])


def _state(net: Module, x: Tensor) -> dict[str, Tensor]:
    """The parameters and statistics of a net in the dtype of x."""
    named = net.state_dict()
    return {name: t.astype(x.dtype) for name, t in named.items() if t.dtype.kind == "f"}
