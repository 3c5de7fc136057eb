"""Data-parallel training over the processes of an MPI job: `mpiexec -n 4 python train.py`.

Design note
-----------
1. mpi4py does all communication; there is nothing of our own on the wire. This module is imported
   by name only (`import minigrad.distributed`), since it starts MPI; the extra `mpi` installs
   mpi4py and an MPI library.
2. `allreduce` is an operation with a gradient. SyncBatchNorm takes its statistics from it and is
   otherwise the formula of BatchNorm, so that its backward derives, to any order.
3. DataParallel sums the gradients of all ranks in buckets, in the order in which backward completes
   them, while backward goes on. Each parameter enters its layer through a Node of its own,
   `Bucketed`, made just before the layer runs: in backward it comes right after the layer. It
   moves the gradient into the bucket, and hands on NOTHING; when backward has come to its end, the
   hook of the leaf waits for the bucket. Whatever else the leaf received (from a second call of the
   layer, a function that reads the parameter, a penalty) is summed over the ranks there. NOTHING is
   -0.0: it changes no sum, and no sum but of itself is all -0.0. That gradients came must not
   be told from their values, which differ between ranks: those that disagree would wait for ever.
4. All ranks must start the same collective operations in the same order. Buckets are started in a
   fixed order, whatever order their gradients come in; those that are missing count as zeros.
5. A rank that cannot go on must end the job, since the others wait for it. An exception is
   reported here and aborts the job. That a process was killed or crashed is noticed by the
   launcher, which ends the others; a watcher, a process beside the rank, says which rank it was.
   A rank whose program ends first, by sys.exit say, reads how many collective operations the others
   have begun: one that has begun more than it did waits for it in vain. So each rank counts them in
   memory that the others can read, at 0.5 µs each, and only a rank that ends ever looks.
"""

from __future__ import annotations

import atexit
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from . import watcher
from ._core.engine.graph import Tensor, adopt, move_statistics, to_tensor
from ._core.ops import concat, reshape, square
from .autograd import Function, is_grad_enabled
from .autograd.checkpoint import is_recomputing
from .checks import choice, flag, integer
from .nn import functional
from .nn.module import Module, Parameter
from .nn.norm import BatchNorm1d, BatchNorm2d, _BatchNorm
from .serialization import save as save_file

try:
    from mpi4py import MPI
except ImportError as _missing:
    raise ImportError(
        "minigrad.distributed needs mpi4py and an MPI library: `pip install mpi4py mpich`",
        name="mpi4py",
    ) from _missing

__all__ = [
    "DataParallel", "DistributedSampler", "SyncBatchNorm", "allreduce", "barrier",
    "convert_sync_batchnorm", "rank", "save", "size",
]  # fmt: skip
__dir__ = __all__.copy


_begun = np.zeros(2, np.int64)  # collective operations of this rank; whether it has ended


class _Counting(MPI.Intracomm):
    """A communicator whose collective operations are counted."""


def _counted(operation: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        _begun[0] += 1
        return operation(*arguments, **options)

    return counted


for _name in ("Allreduce", "Barrier", "Bcast", "Iallreduce", "allgather", "bcast", "gather"):
    setattr(_Counting, _name, _counted(getattr(MPI.Intracomm, _name)))
WORLD = _Counting(MPI.COMM_WORLD)  # its Dup() counts too


def rank() -> int:
    """The number of this process, from 0 to `size() - 1`.

    >>> from minigrad import distributed
    >>> distributed.rank() < distributed.size()
    True
    """
    return int(WORLD.Get_rank())


def size() -> int:
    """How many processes the job has; 1 without mpiexec.

    >>> from minigrad import distributed
    >>> distributed.size() >= 1
    True
    """
    return int(WORLD.Get_size())


def barrier() -> None:
    """Wait until every rank has come here.

    >>> from minigrad import distributed
    >>> distributed.barrier()
    """
    WORLD.Barrier()


def _end_job(text: str) -> None:
    """Report why, and end all ranks: the others would wait for ever."""
    print(text, file=sys.stderr, flush=True)
    _say_goodbye(watcher.REPORTED)
    WORLD.Abort(1)
    os._exit(1)  # where Abort returns, before the launcher has ended this process


def _end_by_exception(*error: Any) -> None:
    text = "".join(traceback.format_exception(*error))
    _end_job(f"rank {rank()} of {size()} failed, which ends the job\n{text}")


def _start_watcher(who: str) -> Callable[[bytes], None]:
    """Start the process that reports the death of this one, see watcher.py. Returns how to tell it
    that this process ends, and how."""
    name = f"minigrad-{os.getuid()}-{os.getppid()}"  # the ranks here have one parent, the launcher
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    try:
        path = os.path.join(tempfile.gettempdir(), name)
        command = [sys.executable, "-I", "-S", watcher.__file__, who, path]
        process = subprocess.Popen(command, start_new_session=True, **pipes)
    except OSError:  # no folder to write to, no interpreter or no memory to start: go unwatched
        return lambda word: None
    words: Any = process.stdin
    answers: Any = process.stdout
    os.register_at_fork(after_in_child=words.close)  # else a child keeps it open
    answers.read(1)  # READY

    def say_goodbye(word: bytes) -> None:
        if words.closed:
            return
        with suppress(OSError):
            words.write(word)
        words.close()
        answers.read()  # nothing: the watcher closes it when it has heard the word
        if word == watcher.ENDED:
            process.wait()

    return say_goodbye


def _leave(window: MPI.Win, who: str, process: int) -> None:
    """At the end of the program: wait for the others, and end the job if one waits for this."""
    global _begun
    if os.getpid() != process:  # a child that was forked
        return
    _begun[1] = True
    others, theirs, pause = set(range(size())), np.zeros(2, np.int64), 1e-4
    while others:
        for other in sorted(others):
            request = window.Rget(theirs, other)
            while not request.Test():  # over some networks, until the other rank is in MPI
                time.sleep(pause)
            if theirs[0] > _begun[0]:
                _end_job(
                    f"minigrad: {who} ended, by sys.exit or otherwise, while rank {other} waits "
                    "for it in a collective operation, which ends the job"
                )
            if theirs[1]:
                others.remove(other)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    _begun = _begun.copy()
    window.Unlock_all()
    window.Free()
    _say_goodbye(watcher.ENDED)


if size() > 1:
    sys.excepthook = _end_by_exception
    _who = f"rank {rank()} of {size()} (process {os.getpid()} on {platform.node()})"
    _say_goodbye = _start_watcher(_who) if os.name == "posix" else lambda word: None
    _window: Any = MPI.Win.Allocate(_begun.nbytes, _begun.itemsize, comm=WORLD)
    _begun = np.frombuffer(_window, _begun.dtype)
    _begun[:] = 0
    _window.Lock_all()
    WORLD.Barrier()
    atexit.register(_leave, _window, _who, os.getpid())


# --------------------------------------------------------------------------------------- operations
class _AllReduce(Function):
    """The sum over all ranks. If y is the sum of all x, then a loss on any rank depends on every x:
    the gradient of x is the sum of the ranks' gradients of y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The sum, of the shape of x."""
        return adopt(_sum_over_ranks(x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """The sum of the cotangents."""
        total: Tensor = _AllReduce.apply(g)
        return total


def _sum_over_ranks(x: Tensor) -> np.ndarray:
    total = x.numpy(copy=True)
    WORLD.Allreduce(MPI.IN_PLACE, total)
    return total


def allreduce(x: Tensor, op: str = "sum") -> Tensor:
    """The sum, or with op="mean" the mean, over all ranks of their tensors x, elementwise.

    Every rank calls it, and backward, which sums the cotangents over the ranks: the gradient is
    that of the sum of all losses. It is a tensor operation, so gradients of gradients work. Raises
    TypeError for bools, and RuntimeError on every rank if shapes or dtypes differ.

    >>> from minigrad import distributed
    >>> distributed.allreduce(mg.ones(2), "mean")
    tensor([1., 1.])
    """
    choice(op, "allreduce: op", "sum", "mean")
    x = to_tensor(x, "allreduce")
    if x.dtype.kind == "b":
        raise TypeError("allreduce: cannot sum bools; use x.astype(mg.int64)")
    _refuse_differences([f"{x.shape} {x.dtype.type.__name__}"], "allreduce: the tensors")
    total: Tensor = _AllReduce.apply(x)
    return total / size() if op == "mean" else total


def _refuse_differences(mine: list[str], what: str) -> None:
    """Raise on every rank unless all have the same lines."""
    code = crc32("\n".join(mine).encode())
    ends = np.array([code, -code])
    WORLD.Allreduce(MPI.IN_PLACE, ends, MPI.MAX)
    if ends[0] == -ends[1]:
        return
    every = WORLD.allgather(mine)
    for other, theirs in enumerate(every):
        if theirs != every[0]:
            pairs = zip([*every[0], "nothing"], [*theirs, "nothing"], strict=False)
            ours, found = next(pair for pair in pairs if pair[0] != pair[1])
            raise RuntimeError(
                f"{what} differ: rank 0 has {ours}, rank {other} has {found}; give the same on "
                "every rank"
            )


# ------------------------------------------------------------------------------------ SyncBatchNorm
class SyncBatchNorm(_BatchNorm):
    """BatchNorm over the batches of all ranks together: (N, C) or (N, C, ...), any N per rank.

    The formula is that of BatchNorm1d, with the mean and the variance of all samples: sums are
    taken by `allreduce`, so the gradient derives from the primitives. Arguments, buffers and errors
    are those of BatchNorm1d. Every rank must call it; in training also backward.

    >>> from minigrad import distributed
    >>> distributed.SyncBatchNorm(2)(mg.tensor([[1.0, 10.0], [3.0, 30.0]])).shape
    (2, 2)
    """

    _layouts: ClassVar[dict[int, str]] = {
        2: "(N, C)",
        **dict.fromkeys(range(3, 65), "(N, C, ...)"),
    }

    def forward(self, x: Tensor) -> Tensor:
        """The normalised tensor, of the shape of x; in training the running statistics move."""
        if not self.training and self.running_mean is not None:
            return super().forward(x)
        x = self._checked(x)
        axes, columns = (0, *range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
        local = x.size // x.shape[1]
        sums = allreduce(concat([x.sum(axes), adopt(np.full(1, local, x.dtype))]))
        count = sums[-1].item()
        if count < 2:
            raise ValueError(
                "SyncBatchNorm: the statistics of a batch need more than one value per channel, "
                f"got {count:.0f} on all {size()} ranks together"
            )
        mean = reshape(sums[:-1] / count, columns)
        squares = _AllReduce.apply(square(x - mean).sum(axes))  # on all ranks of the mean's shape
        var = reshape(squares / count, columns)
        weight, bias = (
            None if p is None else reshape(p, columns) for p in (self.weight, self.bias)
        )
        y = functional.standardise(x, mean, var, self.eps, weight, bias)
        if self.training and self.running_mean is not None:
            seen = self.num_batches_tracked.item() + 1
            share = 1 / seen if self.momentum is None else self.momentum
            averages, batch = (self.running_mean, self.running_var), (mean.detach(), var.detach())
            move_statistics("SyncBatchNorm", *averages, *batch, share, count / (count - 1))
            self.num_batches_tracked.fill_(seen)
        return y


def convert_sync_batchnorm(net: Module) -> Module:
    """Replace every BatchNorm1d and BatchNorm2d in `net`, which keeps its parameters and buffers,
    by a SyncBatchNorm. Returns the net, or the new layer if the net itself is a BatchNorm. Raises
    RuntimeError after `DataParallel(net)`, whose work on the layer would be lost.

    >>> from minigrad import distributed
    >>> net = mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.BatchNorm1d(3))
    >>> distributed.convert_sync_batchnorm(net)[1]
    SyncBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)  6 parameters
    """
    if isinstance(net, (BatchNorm1d, BatchNorm2d)):
        if net._forward_wrappers:
            raise RuntimeError("convert_sync_batchnorm: convert the net before DataParallel(net)")
        layer = SyncBatchNorm(
            net.num_features, net.eps, net.momentum, net.affine, net.track_running_stats
        )
        for name in net._members:
            setattr(layer, name, getattr(net, name))
        layer._frozen = net._frozen
        return layer.train(net.training)
    for name, child in list(net.named_children()):
        converted = convert_sync_batchnorm(child)
        if converted is not child:
            setattr(net, name, converted)
    return net


# ------------------------------------------------------------------------------------- DataParallel
class _Bucketed(Function):
    """The parameter itself; in backward its gradient goes into a bucket."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, buckets: _Buckets, index: int) -> Tensor:
        """The parameter."""
        ctx.buckets, ctx.index = buckets, index
        return parameter.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """NOTHING; the hook of the leaf adds the mean over all ranks."""
        if is_grad_enabled():
            raise RuntimeError(
                "DataParallel: create_graph=True is not supported; differentiate twice on each "
                "rank with the plain net, and average by distributed.allreduce(g, 'mean')"
            )
        return ctx.buckets.add(ctx.index, g), None, None


NOTHING = -0.0  # see the Design note, 3


def _is_nothing(g: np.ndarray) -> bool:
    """Whether all elements are NOTHING, whose bits are those of the smallest integer."""
    least = -1 << (8 * g.itemsize - 1)
    return bool(g.view(f"i{g.itemsize}").max(initial=least) == least)


class _Bucket:
    """Gradients that are reduced together, one after the other in one array; then for each a mark,
    how many ranks have used the parameter."""

    def __init__(self, parameters: dict[int, Parameter]) -> None:
        self.ends = np.cumsum([0, *(p.size for p in parameters.values())]).tolist()
        self.marks = {index: self.ends[-1] + k for k, index in enumerate(parameters)}
        self.shapes = {index: p.shape for index, p in parameters.items()}
        self.dtype = next(iter(parameters.values())).dtype

    def begin(self) -> None:
        self.array = array = np.zeros(self.ends[-1] + len(self.marks), self.dtype)  # views live on
        self.missing = set(self.marks)
        places = zip(self.shapes.items(), pairwise(self.ends), strict=True)
        self.parts = {k: array[begin:end].reshape(shape) for (k, shape), (begin, end) in places}
        self.request: Any = None


class _Buckets:
    """The buckets of all parameters, in the order in which backward is expected to complete
    them."""

    def __init__(self, parameters: list[Parameter], bytes_each: int) -> None:
        self.parameters, self.comm = parameters, WORLD.Dup()
        groups: list[dict[int, Parameter]] = []
        for index, parameter in reversed(list(enumerate(parameters))):
            last = list(groups[-1].values()) if groups else []
            full = sum(p.size * p.dtype.itemsize for p in last) >= bytes_each
            if not last or full or last[0].dtype != parameter.dtype:
                groups.append({})
            groups[-1][index] = parameter
        self.buckets = [_Bucket(group) for group in groups]
        self.nothing = [
            adopt(np.broadcast_to(np.array(NOTHING, p.dtype), p.shape)) for p in parameters
        ]
        self.of = {index: bucket for bucket in self.buckets for index in bucket.marks}
        self.running = False
        for bucket in self.buckets:
            bucket.begin()

    def add(self, index: int, g: Tensor) -> Tensor:
        """Take a gradient, and start the reduction of every bucket that is full. Returns what the
        leaf gets."""
        if not self.running:
            self.started, self.running = 0, True
            for bucket in self.buckets:
                bucket.begin()
        bucket = self.of[index]
        if index not in bucket.missing:
            return g
        np.divide(g.numpy(), self.comm.Get_size(), out=bucket.parts[index])
        bucket.array[bucket.marks[index]] = 1
        bucket.missing.remove(index)
        while self.started < len(self.buckets) and not self.buckets[self.started].missing:
            self.start_next()
        return self.nothing[index]

    def start_next(self) -> None:
        bucket = self.buckets[self.started]
        bucket.request = self.comm.Iallreduce(MPI.IN_PLACE, bucket.array)
        self.started += 1

    def reduced(self, index: int, g: Tensor) -> Tensor:
        """The gradient of a leaf: the mean over the ranks of its part, and of what else came."""
        self.finish()
        bucket, other = self.of[index], g.numpy()
        part = None if index in bucket.missing else bucket.parts[index]
        bucket.missing.add(index)  # the next pass may use it elsewhere alone, and start no bucket
        if part is not None and _is_nothing(other):
            return adopt(part)
        total = g.numpy(copy=True)
        self.comm.Allreduce(MPI.IN_PLACE, total)
        total /= self.comm.Get_size()
        return adopt(total if part is None else np.add(total, part, out=total))

    def finish(self) -> None:
        """End the pass: reduce what is left, and wait for everything. A parameter that only other
        ranks used gets their gradient."""
        if not self.running:
            return
        while self.started < len(self.buckets):
            self.start_next()
        for bucket in self.buckets:
            bucket.request.Wait()
        self.running = False
        for bucket in self.buckets:
            for index in bucket.missing:
                part, parameter = bucket.parts[index], self.parameters[index]
                if bucket.array[bucket.marks[index]]:
                    parameter.grad = adopt(
                        part if parameter.grad is None else parameter.grad.numpy() + part
                    )


class DataParallel(Module):
    """A net that is trained on every rank, each on its own part of the batch.

    net: the same on every rank. Rank 0's parameters and buffers are copied to all.
    bucket_bytes: how much is reduced in one message.

    `backward` leaves in `.grad` the mean over the ranks, which for losses that are means over
    batches of one size is the gradient of the whole batch; so optimisers, one on each rank, take
    the same step. Messages go on while backward computes, for what layers do with their own
    parameters; other uses (of another layer's weight, in a penalty) are averaged at the end, and
    must be the same on every rank. Every rank must run forward and backward equally often.
    BatchNorm normalises by its rank's samples; `convert_sync_batchnorm` has it take those of all
    ranks. `module` is the net itself; save its `state_dict()`.

    Raises RuntimeError on every rank if the nets differ, in what requires grad too; and in the
    forward after a backward that did not come to its end, since the ranks are out of step, or after
    a parameter was unfrozen that was frozen when the net was wrapped.

    >>> from minigrad import distributed
    >>> net = distributed.DataParallel(mg.nn.Linear(2, 1))
    >>> net(mg.ones(3, 2)).sum().backward()
    >>> net.module.bias.grad
    tensor([3.])
    """

    def __init__(self, net: Module, bucket_bytes: int = 1 << 20) -> None:
        super().__init__()
        if not isinstance(net, Module):
            raise TypeError(f"DataParallel: expected a Module, got {type(net).__name__}")
        integer(bucket_bytes, "DataParallel: bucket_bytes", 1)
        frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
        mine = [
            f"{name} {t.shape} {t.dtype}{' without requires_grad' * (name in frozen)}"
            for name, t in net.state_dict().items()
        ]
        _refuse_differences([*mine, f"bucket_bytes={bucket_bytes}"], "DataParallel: the nets")
        self.module = net
        self._buckets: _Buckets | None = None
        if size() == 1:
            return
        for _, tensor in sorted(net.state_dict().items()):
            array = tensor.numpy(copy=True)
            WORLD.Bcast(array)
            tensor.copy_(array)
        parameters = [p for p in net.parameters() if p.requires_grad]
        self._left_out = [(name, p) for name, p in net.named_parameters() if not p.requires_grad]
        self._buckets = buckets = _Buckets(parameters, bucket_bytes)
        places = {id(p): index for index, p in enumerate(parameters)}
        for module in net.modules():
            own = {
                name: places[id(p)]
                for name, p in module.named_parameters(recurse=False)
                if id(p) in places
            }
            if own:
                module.register_forward_wrapper(_through_buckets(buckets, own))
        for index, parameter in enumerate(parameters):
            parameter.register_hook(partial(buckets.reduced, index))

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the net computes."""
        if self._buckets is not None:
            self._check(self._buckets)
        return self.module(*inputs, **options)

    def _check(self, buckets: _Buckets) -> None:
        """Raise for what would let the ranks part without a word."""
        if buckets.running and not is_recomputing():
            raise RuntimeError(
                "DataParallel: the last backward ended with an exception, so the ranks are out of "
                "step; let the exception end the job, and start again from the last file"
            )
        for name, parameter in self._left_out:
            if parameter.requires_grad:
                raise RuntimeError(
                    f"DataParallel: {name} was frozen when the net was wrapped, so its gradient is "
                    "not averaged; wrap the net first, or freeze it again"
                )


def _through_buckets(buckets: _Buckets, own: dict[str, int]) -> Callable[..., Any]:
    """A wrapper of a module's forward, in which its parameters are outputs of `_Bucketed`."""

    def wrapper(module: Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        if not is_grad_enabled():
            return forward(*inputs, **options)
        members, parameters = module.__dict__, buckets.parameters
        kept = {name: members[name] for name, k in own.items() if members[name] is parameters[k]}
        try:  # what functional_call has put in a parameter's place stays, and leads to the leaf
            for name, parameter in kept.items():
                members[name] = _Bucketed.apply(parameter, buckets, own[name])
            return forward(*inputs, **options)
        finally:
            members.update(kept)

    return wrapper


# ------------------------------------------------------------------------------- sampler and files
class DistributedSampler:
    """The indices of a dataset that are this rank's: every `size()`-th of a common order.

    dataset: anything with `__len__`.
    shuffle: draw the order anew from `seed` and the epoch that `set_epoch` says.
    drop_last: leave out the last samples if they do not go evenly on all ranks; by default the
        first are given out once more.
    num_replicas, rank: by default those of the job.

    Batches of N / size samples on each rank are together the batches of N samples of one process.

    >>> from minigrad import distributed
    >>> sampler = distributed.DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
    >>> list(sampler), len(sampler)
    ([1, 3, 0], 3)
    """

    def __init__(
        self,
        dataset: Any,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        replicas = size() if num_replicas is None else num_replicas
        self.replicas = integer(replicas, "DistributedSampler: num_replicas", 1)
        mine = WORLD.Get_rank() if rank is None else rank
        self.rank = integer(mine, "DistributedSampler: rank", 0)
        if self.rank >= self.replicas:
            raise ValueError(
                f"DistributedSampler: rank {self.rank} is out of range for {self.replicas} replicas"
            )
        self.length = len(dataset)
        self.shuffle = flag(shuffle, "DistributedSampler: shuffle")
        self.drop_last = flag(drop_last, "DistributedSampler: drop_last")
        self.seed, self.epoch = integer(seed, "DistributedSampler: seed", 0), 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: without that, every epoch has the same order.

        >>> from minigrad import distributed
        >>> distributed.DistributedSampler(range(5)).set_epoch(3)
        """
        self.epoch = integer(epoch, "DistributedSampler: epoch", 0)

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.replicas)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        total = len(self) * self.replicas
        if self.length:
            order = np.resize(order, total)  # repeats the first ones
        return iter(order[self.rank :: self.replicas].tolist())


def save(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """`mg.save` on rank 0; the others wait until the file is there. What goes wrong on rank 0 is
    raised there, and as RuntimeError on the others.

    >>> from minigrad import distributed
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.npz")
    >>> distributed.save(mg.nn.Linear(2, 1).state_dict(), path)
    >>> sorted(mg.load(path))
    ['bias', 'weight']
    """
    said = None
    try:
        if rank() == 0:
            save_file(state, path)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise
    finally:
        said = WORLD.bcast(said)
    if said is not None:
        raise RuntimeError(f"save: rank 0 could not write {os.fspath(path)!r}: {said}")
