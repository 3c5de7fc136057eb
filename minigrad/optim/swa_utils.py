"""The average of a net's weights along its training, under PyTorch's name of the module."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from ..autograd import no_grad
from ..checks import check_share, flag, instance
from ..creation import tensor
from ..nn.module import BUFFER, PARAMETER, TRANSIENT, Module, Parameter
from .lr_scheduler import SWALR as SWALR
from .optimizer import refuse_unknown

__all__ = ["AveragedModel"]
__dir__ = __all__.copy


class AveragedModel(Module):
    """A copy of `model` whose weights become the average of the model's over its training.

    decay: None for the mean of all weights that `update_parameters` has seen (stochastic weight
        averaging, Izmailov et al. 2018, algorithm 1), usually with an `lr_scheduler.SWALR` and one
        update an epoch; or a number in [0, 1] for the exponential moving average
        decay average + (1 - decay) weights (Polyak & Juditsky 1992), with one update a step.
    use_buffers: average floating buffers too; by default they are copied from the model.

    The copied statistics of BatchNorm are those of the model's weights, not of the average:
    `nn.recalibrate(averaged, batches)` sets them exactly (in PyTorch `update_bn` estimates them).
    PyTorch's `avg_fn=get_ema_avg_fn(0.999)` is `decay=0.999` here. The state dict has PyTorch's
    keys: those of the model behind "module.", and "n_averaged". Raises TypeError unless `model` is
    a Module, for unknown options and a decay that is no number, ValueError for one out of range.

    >>> net = mg.nn.Linear(1, 1)
    >>> averaged = mg.optim.AveragedModel(net)
    >>> for weight in (1.0, 2.0, 6.0):
    ...     with mg.no_grad():
    ...         _ = net.weight.fill_(weight)
    ...     averaged.update_parameters(net)
    >>> averaged.module.weight.item(), averaged.n_averaged.item()
    (3.0, 3)
    """

    n_averaged: Any

    def __init__(
        self, model: Module, decay: float | None = None, use_buffers: bool = False, **unknown: Any
    ) -> None:
        super().__init__()
        refuse_unknown("AveragedModel", unknown, ("decay", "use_buffers"))
        instance(model, Module, "AveragedModel: expected a Module")
        self.decay = None if decay is None else check_share("AveragedModel", "decay", decay)
        self.use_buffers = flag(use_buffers, "AveragedModel: use_buffers")
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", tensor(0))

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The output of the averaged net."""
        return self.module(*inputs, **options)

    def update_parameters(self, model: Module) -> None:
        """Include the weights of `model`, as they are now; the first are copied.

        Raises TypeError unless `model` is a Module, and ValueError, without changing anything,
        unless it has the parameters and buffers of the copy, with the same shapes.
        """
        must = "AveragedModel.update_parameters: expected the Module that was copied"
        instance(model, Module, must)
        count = self.n_averaged.item()
        share = 1 / (count + 1) if self.decay is None else 1 - self.decay
        pairs = list(zip_longest(*map(_tensors, (self.module, model)), fillvalue=("nothing", None)))
        for (name, mine), (other, theirs) in pairs:
            if name != other or mine.shape != theirs.shape:
                found = [
                    f"{n} {getattr(t, 'shape', '')}" for n, t in ((name, mine), (other, theirs))
                ]
                raise ValueError(
                    f"AveragedModel.update_parameters: the copy has {found[0]} where the model has "
                    f"{found[1]}; pass the model that was copied"
                )
        with no_grad():
            for (_, mine), (_, theirs) in pairs:
                averaged = isinstance(mine, Parameter) or self.use_buffers
                if count and averaged and mine.dtype.kind == "f":
                    mine += share * (theirs - mine)
                else:
                    mine.copy_(theirs)
            self.n_averaged.fill_(count + 1)

    def extra_repr(self) -> str:
        """The options that differ from their defaults."""
        return ", ".join(self._changed(decay=None, use_buffers=False))


def _tensors(model: Module) -> Iterator[tuple[str, Any]]:
    """Names and tensors: all that `Module.to` would convert."""
    return model._named((PARAMETER, BUFFER, TRANSIENT), "", True, True)
