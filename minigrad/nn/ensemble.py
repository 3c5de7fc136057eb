"""Ensemble: many nets of one architecture, trained in one step.

Design note
-----------
1. Every parameter and buffer of the plain net becomes a stack of those of all members, along a new
   first axis; a stacked layer does to (K, N, ...) what the plain layer does to (N, ...) for each of
   the K members. One batched product takes the place of K small ones, and one call that of K.
2. A layer that can be stacked is one class below and its line in `LAYERS`. The optimisers know
   only that a `StackedParameter` has members, of which some are not active.
3. A step of 32 nets 2-16-16-2 with BatchNorm at batch 32 takes 5 us for each net; a step of one
   net by itself takes 33 us.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import rng
from .._core.engine.graph import Tensor, adopt, move_statistics, to_tensor
from .._core.ops import broadcast_to, linear, permute_dims, reshape, sqrt
from ..checks import instance, integer, positive
from ..functions import stack
from . import functional
from .activation import _Activation
from .containers import Sequential
from .dropout import Dropout
from .layer_norm import LayerNorm
from .linear import Identity, Linear
from .loss import CrossEntropyLoss, NLLLoss, QuantileLoss, _TargetLoss
from .module import MODULE, PARAMETER, TRANSIENT, Module, Parameter
from .norm import BatchNorm1d

__all__ = ["Ensemble"]


class StackedParameter(Parameter):
    """A Parameter with one part, along the first axis, for each member of an Ensemble.

    >>> net = mg.nn.Ensemble(lambda: mg.nn.Linear(2, 1), 3)
    >>> net.net.weight.shape, net.net.weight.active.tolist()
    ((3, 1, 2), [True, True, True])
    """

    __slots__ = ("active",)
    active: np.ndarray  # which members an optimiser changes


# ----------------------------------------------------------------------------------- stacked layers
class _Stacked(Module):
    """The same layer of every member: its parameters and buffers in stacks, and its options."""

    def __init__(self, layers: Sequence[Module], path: str, generators: list[Any]) -> None:
        super().__init__()
        self._plain, self._path, self._generators = (layers[0],), path, generators
        for name, kind in layers[0]._members.items():
            values = [getattr(layer, name) for layer in layers]
            stacked: Any = None
            if values[0] is not None:
                stacked = adopt(np.stack([value.numpy() for value in values]))
            if kind != PARAMETER:
                self.register_buffer(name, stacked, persistent=kind != TRANSIENT)
            elif stacked is None:
                self.register_parameter(name, None)
            else:
                trained = values[0].requires_grad
                self.register_parameter(name, StackedParameter(stacked, trained))

    def extra_repr(self) -> str:
        """That of the plain layer."""
        return self._plain[0].extra_repr()

    def _per_sample(self, stacked: Any, ndim: int = 3) -> Any:
        """(K, ...) as (K, 1, ..., 1, ...), which broadcasts against ndim axes; None as None."""
        if stacked is None:
            return None
        size, *rest = stacked.shape
        return reshape(stacked, (size, *(1,) * (ndim - len(rest) - 1), *rest))


class StackedLinear(_Stacked):
    """(K, N, ..., in_features) -> (K, N, ..., out_features)."""

    weight: Parameter
    bias: Parameter | None

    def forward(self, x: Tensor) -> Tensor:
        """Each member's rows times its weight, plus its bias."""
        shape = x.shape
        if len(shape) > 3:
            x = reshape(x, (shape[0], -1, shape[-1]))
        y = linear(x, self.weight, self.bias)
        return y if len(shape) == 3 else reshape(y, (*shape[:-1], y.shape[-1]))


class StackedBatchNorm1d(_Stacked):
    """BatchNorm of (K, N, C) per member and channel."""

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    _active: np.ndarray  # set by the Ensemble

    def _checked(self, x: Tensor) -> Tensor:
        channels = self._plain[0].num_features  # type: ignore[attr-defined]
        if x.ndim != 3 or x.shape[2] != channels:
            raise ValueError(
                f"Ensemble: BatchNorm1d {self._path!r} expects (N, {channels}) for each member, "
                f"got {x.shape[1:]}"
            )
        return x

    def _pooled(self, x: Tensor) -> Tensor:
        """The input as (N, K C), for `recalibrate`."""
        return reshape(permute_dims(self._checked(x), (1, 0, 2)), (x.shape[1], -1))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised tensor; in training the running statistics of active members move."""
        plain: Any = self._plain[0]
        shape, tracked = self._checked(x).shape, self.running_mean is not None
        own = self._per_sample(self.weight), self._per_sample(self.bias)
        weight, bias = functional._or_neutral(*own)
        if not self.training and tracked:
            mean, var = self._per_sample(self.running_mean), self._per_sample(self.running_var)
            y: Tensor = (x - mean) * (weight / sqrt(var + plain.eps)) + bias
            return y
        count = shape[1]
        if count < 2:
            raise ValueError(
                f"Ensemble: BatchNorm1d {self._path!r} needs more than one sample for each member "
                f"in training, got {count}; use a larger batch, or eval()"
            )
        y, mean, var = functional._normalise(x, weight, bias, (1,), plain.eps)
        if self.training and tracked:
            self._move(mean, var, plain.momentum, count / (count - 1))
        return y

    def _move(self, mean: Tensor, var: Tensor, momentum: float | None, correction: float) -> None:
        averages, active = (self.running_mean, self.running_var), self._active
        if momentum is not None and active.all():
            move_statistics("Ensemble", *averages, mean, var, momentum, correction)
        else:
            seen = self.num_batches_tracked.numpy() + 1
            share = np.where(active, 1 / seen if momentum is None else momentum, 0)[:, None]
            for average, new in ((averages[0], mean), (averages[1], var * correction)):
                old, value = average.numpy(), new.numpy()[:, 0]
                average.copy_(np.where(share, old * (1 - share) + value * share, old))
        self.num_batches_tracked.copy_(self.num_batches_tracked.numpy() + active)


class StackedLayerNorm(_Stacked):
    """LayerNorm of (K, N, ..., *normalized_shape)."""

    weight: Any
    bias: Any

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        plain: Any = self._plain[0]
        sizes, ndim = plain.normalized_shape, x.ndim
        if ndim < len(sizes) + 2 or x.shape[-len(sizes) :] != sizes:
            raise ValueError(
                f"Ensemble: LayerNorm {self._path!r} expects (N, ..., {', '.join(map(str, sizes))})"
                f" for each member, got {x.shape[1:]}"
            )
        own = self._per_sample(self.weight, ndim), self._per_sample(self.bias, ndim)
        axes = tuple(range(ndim - len(sizes), ndim))
        return functional._normalise(x, *functional._or_neutral(*own), axes, plain.eps)[0]


class StackedDropout(_Stacked):
    """Dropout whose masks each member draws from its own generator."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        p: float = self._plain[0].p  # type: ignore[attr-defined]
        if not self.training or p == 0:
            return x
        own = (generator.numpy() for generator in self._generators)
        drawn = [generator.random(x.shape[1:], np.float32) for generator in own]
        factor = 0.0 if p == 1 else 1 / (1 - p)
        return x * adopt(np.multiply(np.stack(drawn) >= p, factor, dtype=x.dtype))


class StackedElementwise(_Stacked):
    """An activation, or Identity: the same for all members."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        y: Tensor = self._plain[0].forward(x)
        return y


LAYERS: dict[type[Module], type[_Stacked]] = {
    Linear: StackedLinear,
    BatchNorm1d: StackedBatchNorm1d,
    LayerNorm: StackedLayerNorm,
    Dropout: StackedDropout,
    Identity: StackedElementwise,
}


OF_CLASSES = CrossEntropyLoss, NLLLoss  # losses whose targets may be class indices


def _stack_nets(nets: Sequence[Module], path: str, generators: list[Any]) -> Module:
    """The stack of a module of every net."""
    first = nets[0]
    for number, net in enumerate(nets):
        same = type(net) is type(first) and net.extra_repr() == first.extra_repr()
        if not same or _layout(net) != _layout(first):
            texts = [f"{type(each).__name__}({each.extra_repr()})" for each in (first, net)]
            if texts[0] == texts[1]:
                texts = [f"{t} with {_layout(n)}" for t, n in zip(texts, (first, net), strict=True)]
            raise ValueError(
                f"Ensemble: make() gave nets that differ at {path or 'the top'!r}: {texts[0]} for "
                f"member 0, {texts[1]} for member {number}"
            )
        hooks = [*net._forward_pre_hooks, *net._forward_wrappers, *net._forward_hooks]
        if hooks or getattr(net, "generator", None) is not None:
            what = "hooks" if hooks else "a generator of its own"
            raise TypeError(
                f"Ensemble: {type(net).__name__} {path!r} has {what}, which the stack would "
                "ignore; remove them"
            )
    if type(first) is Sequential:
        prefix = f"{path}." if path else ""
        modules = OrderedDict()
        for name, _ in first._own(MODULE):
            parts = [getattr(net, name) for net in nets]
            modules[name] = _stack_nets(parts, prefix + name, generators)
        return _in_the_mode_of(first, Sequential(modules))
    layer = LAYERS.get(type(first))
    if isinstance(first, _Activation):
        layer = StackedElementwise
        axis = getattr(first, "dim", -1)
        if axis is None or axis >= 0:
            raise ValueError(
                f"Ensemble: {type(first).__name__} {path!r} has dim={axis}, which counts axes from "
                "the left, where the members are; count from the right, as in dim=-1"
            )
    if layer is None:
        known = ", ".join(kind.__name__ for kind in LAYERS)
        raise TypeError(
            f"Ensemble: {type(first).__name__} {f'{path!r} ' if path else ''}cannot be stacked; a "
            f"net for an Ensemble consists of {known}, activations, and Sequential"
        )
    return _in_the_mode_of(first, layer(nets, path, generators))


def _in_the_mode_of(other: Module, module: Module) -> Module:
    """`module`, which is frozen and trains if the other does."""
    module.training, module._frozen = other.training, other._frozen
    return module


def _layout(net: Module) -> list[tuple[Any, ...]]:
    members = ((name, getattr(net, name, None)) for name in net._members)
    what = "shape", "dtype", "requires_grad"
    return [(name, *(getattr(m, each, None) for each in what)) for name, m in members]


class Ensemble(Module):
    """Nets of one architecture as one net of stacked parameters, with one training step for all.

    make: a function of no arguments that gives a plain net: a Sequential (nested ones too) of
        Linear, BatchNorm1d, LayerNorm, Dropout, Identity and activations, or one of these.
    size: K, how many members.
    seeds: K ints. Member k starts as `mg.manual_seed(seeds[k]); make()` does, and draws its dropout
        masks and `randperm` from that generator on; so it trains to the same numbers, to rounding,
        as the plain net with that seed. By default they are drawn from the generator of
        `mg.manual_seed`. A `mg.Generator` in place of a seed is drawn from as it is.

    An input (N, ...) of two axes goes to every member, one of three or more, (K, N, ...), has each
    member's own samples; the output is (K, N, ...). `loss` gives one loss per member. Add these and
    call backward: no member's loss depends on another's parameters. An optimiser takes K learning
    rates, `lr=mg.tensor([...])`, as well as one. `stop(k)` ends the training of a member.
    `net[k]` is a plain net with the parameters and buffers of member k, and `net[k] = plain` copies
    them back.

    Raises TypeError for a layer that cannot be stacked, or that has hooks or its own generator,
    ValueError for nets that differ, or that use a parameter twice.

    >>> def make():
    ...     return mg.nn.Sequential(mg.nn.Linear(2, 4), mg.nn.BatchNorm1d(4), mg.nn.ReLU())
    >>> net = mg.nn.Ensemble(make, 3)
    >>> y = net(mg.randn(8, 2))
    >>> y.shape
    (3, 8, 4)
    >>> optimizer = mg.optim.Adam(net.parameters(), lr=mg.tensor([0.1, 0.01, 0.001]))
    >>> losses = net.loss(mg.nn.MSELoss(), y, mg.zeros(8, 4))
    >>> losses.shape
    (3,)
    >>> losses.sum().backward()
    >>> optimizer.step()
    >>> net[0]
    Sequential(
      (0): Linear(in_features=2, out_features=4, bias=True)                                       12
      (1): BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)          8
      (2): ReLU()
    )                                                                              20 parameters
    """

    _details = "{0.size} members"
    active: Tensor

    def __init__(
        self,
        make: Callable[[], Module],
        size: int,
        seeds: Sequence[int | rng.Generator] | None = None,
    ) -> None:
        super().__init__()
        self.size = positive(size, "Ensemble: size")
        if isinstance(make, Module) or not callable(make):
            raise TypeError(
                "Ensemble: make must be a function that returns a new net at each call, such as "
                f"lambda: nn.Linear(2, 1), got {type(make).__name__}"
            )
        if seeds is None:
            seeds = rng.generator().integers(2**63, size=self.size).tolist()
        if np.shape(np.asarray(seeds, object)) != (self.size,):
            raise ValueError(f"Ensemble: expected a list of {self.size} seeds, got {seeds!r:.60}")
        self.generators = [
            seed
            if isinstance(seed, rng.Generator)
            else rng.Generator(integer(seed, "Ensemble: a seed", 0))
            for seed in seeds
        ]
        nets = [_make_member(make, generator) for generator in self.generators]
        self._plain = (nets[0],)  # in a tuple, so that it is not a member
        self.net = _stack_nets(nets, "", self.generators)
        self.training = nets[0].training
        if len(list(self.net.parameters())) != len(list(nets[0].parameters())):
            raise ValueError("Ensemble: the plain net uses a parameter twice, which a stack cannot")
        self.register_buffer("active", adopt(np.ones(self.size, bool)))
        self._link()

    def _link(self) -> None:
        """Show the parameters and the BatchNorms which members are active."""
        active = self.active._array
        for parameter in self.parameters():
            if isinstance(parameter, StackedParameter):
                parameter.active = active
        for module in self.modules():
            if isinstance(module, StackedBatchNorm1d):
                module._active = active

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "active":
            super().__setattr__(name, value)
            return
        if getattr(value, "shape", None) != (self.size,) or value.dtype.kind != "b":
            raise ValueError(f"Ensemble: active must be {self.size} bools, got {value!r:.60}")
        super().__setattr__(name, value)
        self._link()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._link()

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) or (K, N, ...) -> (K, N, ...)."""
        x = to_tensor(x, "Ensemble")
        if x.ndim == 2:
            x = broadcast_to(x, (self.size, *x.shape))
        elif x.ndim < 2 or x.shape[0] != self.size:
            raise ValueError(
                f"Ensemble: expected an input of shape (N, features), or ({self.size}, N, ...) "
                f"with samples for each member, got {x.shape}"
            )
        y: Tensor = self.net(x)
        return y

    def loss(self, criterion: Callable[..., Tensor], output: Tensor, target: Tensor) -> Tensor:
        """The loss of each member, (K,), as `criterion(output[k], target)` gives it.

        criterion: a loss such as `nn.CrossEntropyLoss()`, or a function of output and target that
            returns a 0-d tensor.
        output: (K, N, ...). target: (K, N, ...), or (N, ...) for all members; if a function could
            take either, the first.
        Raises ValueError for a target of another shape than the loss takes.

        >>> net = mg.nn.Ensemble(lambda: mg.nn.Linear(2, 3), 4)
        >>> output, target = net(mg.zeros(5, 2)), mg.tensor([0, 1, 2, 0, 1])
        >>> net.loss(mg.nn.CrossEntropyLoss(), output, target).shape
        (4,)
        """
        output, target = to_tensor(output, "Ensemble.loss"), to_tensor(target, "Ensemble.loss")
        if output.ndim < 2 or output.shape[0] != self.size:
            raise ValueError(
                f"Ensemble.loss: expected an output of shape ({self.size}, N, ...), "
                f"got {output.shape}"
            )
        if not self._is_of_all_members(criterion, output, target):
            target = broadcast_to(target, (self.size, *target.shape))
        if not self._separable(criterion, output, target):
            every = range(self.size)
            return stack([criterion(output[member], target[member]) for member in every])
        each = copy.copy(criterion)
        each.reduction = "none"  # type: ignore[attr-defined]
        rows = (reshape(t, (-1, *t.shape[2:])) for t in (output, target))
        losses = reshape(each(*rows), (self.size, -1))
        mean = criterion.reduction == "mean"  # type: ignore[attr-defined]
        return losses.mean(axis=1) if mean else losses.sum(axis=1)

    def _is_of_all_members(self, criterion: Any, output: Tensor, target: Tensor) -> bool:
        """Whether the target is (K, N, ...) rather than (N, ...)."""
        shape, given, known = output.shape[1:], target.shape, isinstance(criterion, _TargetLoss)
        shapes = [shape]
        if isinstance(criterion, QuantileLoss) and isinstance(criterion.q, tuple):
            shapes = [shape[:-1], (*shape[:-1], 1)]
        elif isinstance(criterion, OF_CLASSES) and target.dtype.kind != "f":
            shapes = [(shape[0], *shape[2:]) if len(shape) > 1 else ()]
        elif not known:  # but for the number of samples
            shapes = [shape[:1]]
        own, shared = (given, given) if known else (given[:2], given[:1])
        if own[:1] == (self.size,) and own[1:] in shapes:
            return True
        if shared in shapes:
            return False
        expected = " or ".join(str(each) for each in (*shapes, *((self.size, *s) for s in shapes)))
        raise ValueError(
            f"Ensemble.loss: expected a target of shape {expected}"
            f"{'' if known else ', and any others behind'}, got {given} of {target.dtype}"
        )

    @staticmethod
    def _separable(criterion: Any, output: Tensor, target: Tensor) -> bool:
        """Whether the loss is a sum or a mean over samples that count the same."""
        return (
            isinstance(criterion, _TargetLoss)
            and not (isinstance(criterion, OF_CLASSES) and output.ndim == 2)  # one sample
            and getattr(criterion, "reduction", None) in ("mean", "sum")
            and getattr(criterion, "weight", None) is None
            and getattr(criterion, "pos_weight", None) is None
            and not (target._array == getattr(criterion, "ignore_index", np.nan)).any()
        )

    def randperm(self, n: int) -> Tensor:
        """A permutation of 0 ... n-1 for each member, (K, n) int64, from the members' generators.

        >>> net = mg.nn.Ensemble(lambda: mg.nn.Linear(2, 1), 3)
        >>> x, order = mg.randn(100, 2), net.randperm(100)
        >>> x[order[:, :32]].shape  # the first batch of each member
        (3, 32, 2)
        """
        count = integer(n, "Ensemble.randperm: n", 0)
        own = (generator.numpy() for generator in self.generators)
        return adopt(np.stack([generator.permutation(count) for generator in own]))

    # ------------------------------------------------------------------------------ members
    def stop(self, *members: int) -> None:
        """Leave these members as they are: optimisers skip them, and their running statistics stay.

        >>> net = mg.nn.Ensemble(lambda: mg.nn.Linear(2, 1), 3)
        >>> net.stop(1)
        >>> net.active.tolist()
        [True, False, True]
        """
        self._set_active(members, False)

    def resume(self, *members: int) -> None:
        """Train these members again after `stop`; without arguments, all.

        >>> net = mg.nn.Ensemble(lambda: mg.nn.Linear(2, 1), 2)
        >>> net.stop(0, 1); net.resume()
        >>> net.active.tolist()
        [True, True]
        """
        self._set_active(members or range(self.size), True)

    def _set_active(self, members: Sequence[int], active: bool) -> None:
        for position in [self._position(member) for member in members]:
            self.active[position] = active

    def _position(self, member: int) -> int:
        position = integer(member, "Ensemble: a member")
        if not -self.size <= position < self.size:
            raise IndexError(
                f"Ensemble: member {position} is out of range, there are {self.size} members"
            )
        return position % self.size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, member: int) -> Module:
        position = self._position(member)
        plain = copy.deepcopy(self._plain[0])
        for tensor in itertools.islice(self.net.parameters(), 1):
            plain.to(tensor.dtype)
        state = self.net.state_dict()
        plain.load_state_dict({name: tensor[position] for name, tensor in state.items()})
        for stacked, own in zip(self.net.parameters(), plain.parameters(), strict=True):
            own.requires_grad = stacked.requires_grad
        stacks = dict(self.net.named_modules())
        for path, module in plain.named_modules(remove_duplicate=False):
            _in_the_mode_of(stacks[path], module)
        return plain

    def __setitem__(self, member: int, plain: Module) -> None:
        position = self._position(member)
        state = instance(plain, Module, "Ensemble: expected a plain net").state_dict()
        self[position].load_state_dict(state)  # raises for what does not fit
        for name, tensor in self.net.state_dict().items():
            tensor[position] = state[name]

    def __iter__(self) -> Iterator[Module]:
        return (self[member] for member in range(self.size))


def _make_member(make: Callable[[], Module], generator: rng.Generator) -> Module:
    """A net whose parameters are drawn from this generator."""
    with rng.drawing_from(generator):
        net = make()
    return instance(net, Module, "Ensemble: make() must return a Module")
