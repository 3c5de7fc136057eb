"""A warning where float64 data meets a float32 net: all that follows is float64, at half the speed.

It costs a step nothing: the engine calls the hook only where it has to convert operands anyway.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from weakref import WeakSet

import numpy as np

from .._core.engine.graph import on_mixed_floats
from .module import PARAMETER, Module

__all__: list[str] = []

_warned: WeakSet[Module] = WeakSet()  # all modules of each net that was warned of


def _warn() -> None:
    """Warn once for each net if the innermost module that runs has float32 parameters."""
    level, outermost = 1, 0
    layer = net = None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames[:1] else None
        if isinstance(owner, Module):
            if layer is None:
                layer = owner
                if layer in _warned or not _has_float32_parameters(layer):
                    return
            net, outermost = owner, level
        frame, level = frame.f_back, level + 1
    if layer is None or net is None:
        return
    _warned.update(net.modules())
    _warned.add(layer)
    kind = type(layer).__name__
    paths = [path for path, module in net.named_modules() if module is layer and path]
    warnings.warn(
        f"{f'layer {paths[0]} ({kind})' if paths else kind}: float64 data meets float32 "
        "parameters, so the results are float64, at half the speed; convert the data, "
        "x.astype(mg.float32), or the net, net.double()",
        stacklevel=outermost + 1,
    )


def _has_float32_parameters(module: Module) -> bool:
    return any(parameter.dtype == np.float32 for _, parameter in module._own(PARAMETER))


on_mixed_floats(_warn)
