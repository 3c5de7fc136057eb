"""Trace a run of the model: the engine reports its primitives, which become steps.

A layer that ONNX supports, or the function of the same name in nn.functional, is a single step,
and the primitives inside it are skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

from .. import nn
from .._core.engine.graph import Tensor, observe
from ..autograd import enable_grad
from ..functions import clone, scaling
from ..nn import functional
from ..nn.module import Module
from ..tree import flatten_tree
from .graph import TracedStep
from .rules import LAYERS


class Run:
    """One run of the model in evaluation mode: steps and outputs. The model is restored."""

    def __init__(self, model: Module, data: list[Tensor]) -> None:
        self.steps: list[TracedStep] = []
        self.place, self.known, self.thread = ("", ""), 0, threading.get_ident()
        with enable_grad(), scaling(), self._watching(model):
            # Recorded, so that `y += x` makes a new tensor instead of writing to y.
            self.inputs = [
                clone(x.detach().requires_grad_()) if x.dtype.kind == "f" else x for x in data
            ]
            previous = observe(self._note)
            try:
                self.outputs = list(tensors(model(*self.inputs)))
            finally:
                observe(previous)

    @contextmanager
    def _watching(self, model: Module) -> Iterator[None]:
        buffers = [(b, b._version, b.numpy(copy=True)) for b in model.buffers()]
        members = [(vars(module), dict(vars(module))) for module in model.modules()]
        functions = {name: getattr(functional, name) for name in _layer_functions()}
        handles = []
        try:
            model.eval()
            for path, module in model.named_modules():
                watched = self._watched(path, _layer_name(module))
                handles.append(module.register_forward_wrapper(watched))
            for name, layer in _layer_functions().items():
                setattr(functional, name, self._as_layer(functions[name], layer))
            yield
        finally:
            vars(functional).update(functions)
            for handle in handles:
                handle.remove()
            for now, before in members:
                for added in now.keys() - before.keys():
                    del now[added]
                now.update(before)
            for buffer, version, array in buffers:
                if buffer._version != version:
                    buffer.copy_(array)

    def _watched(self, path: str, layer: str | None) -> Callable[..., Any]:
        def watched(module: Module, forward: Any, *inputs: Any, **options: Any) -> Any:
            if threading.get_ident() != self.thread:
                return forward(*inputs, **options)
            outside, self.place = self.place, (path, type(module).__name__)
            try:
                if layer is None:
                    return forward(*inputs, **options)
                run = partial(forward, *inputs, **options)
                return self._step(layer, (inputs, options), dict(vars(module)), run)
            finally:
                self.place = outside

        return watched

    def _as_layer(self, function: Callable[..., Any], layer: str) -> Callable[..., Any]:
        """Wrap a function of nn.functional so that it is traced as its layer."""

        def called(*inputs: Any, **options: Any) -> Any:
            if threading.get_ident() != self.thread:
                return function(*inputs, **options)
            bound = signature(function).bind(*inputs, **options)
            bound.apply_defaults()
            x, *_ = given = bound.arguments
            others = {name: value for name, value in given.items() if name != x}
            return self._step(layer, given[x], others, partial(function, *inputs, **options))

        return called

    def _step(self, layer: str, inputs: Any, members: dict[str, Any], run: Any) -> Any:
        """Trace run() as one step; its primitives are skipped."""
        self.known += 1
        try:
            output = run()
        finally:
            self.known -= 1
        self._note(layer, tensors(inputs), members, *tensors(output))
        return output

    def _note(self, name: str, inputs: Any, attributes: dict[str, Any], *outputs: Tensor) -> None:
        if not self.known:
            self.steps.append(
                TracedStep(*self.place, name, list(inputs), attributes, list(outputs))
            )


def tensors(tree: Any) -> Iterator[Tensor]:
    """The Tensors in nested tuples, lists and dicts."""
    return (leaf for leaf in flatten_tree(tree)[0] if isinstance(leaf, Tensor))


def _layer_functions() -> dict[str, str]:
    """Maps the functions of nn.functional that correspond to a layer in `LAYERS` to its name."""
    layers = {name.lower(): name for name in LAYERS}
    plain = {name: name.replace("_", "") for name in functional.__all__}
    return {name: layers[key] for name, key in plain.items() if key in layers}


def _layer_name(module: Module) -> str | None:
    """The class in `LAYERS` whose forward the module runs, if ONNX's node computes the same."""
    for kind in type(module).__mro__:
        if kind.__name__ in LAYERS and getattr(nn, kind.__name__, None) is kind:
            same = module.forward == kind.forward.__get__(module) and not module._forward_wrappers
            batch_statistics = vars(module).get("running_mean", kind) is None
            return kind.__name__ if same and not batch_statistics else None
    return None
