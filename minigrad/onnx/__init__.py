"""Export nets as ONNX files, which onnxruntime and other engines run.

The model runs on the example and on random data with another batch size, while the engine reports
its primitives (trace.py). A layer that ONNX supports, or the function of the same name in
nn.functional, becomes one node or a few, and the primitives inside it are skipped. Any other
primitive is translated by rules.py and added to the graph that graph.py builds. Where the runs
differ, it is either a size that depends on the batch, or something that a graph cannot represent
and that would be wrong for other data: a number read from a tensor, a mask made by NumPy, a branch.
One run uses data of many magnitudes to reveal these. Finally onnxruntime or ONNX's own evaluator
must reproduce the outputs of the model (verify.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._core.engine.graph import Tensor
from ..checks import instance, integer
from ..creation import tensor
from ..nn.module import Module
from ..serialization import PathOrFile, writing
from .graph import GraphBuilder
from .rules import supported, translate
from .trace import Run
from .verify import validate

__all__ = ["export", "supported"]
__dir__ = __all__.copy

_OLDEST = 18  # the first opset in which every reduction has its axes as an input


def export(
    model: Module,
    example: Any,
    path: PathOrFile,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    opset: int = _OLDEST,
    verify: bool = True,
    batch_axis: int = 0,
) -> None:
    """Write `model`, in evaluation mode, to `path` (a path or an open binary file) as ONNX.

    example: the input, a Tensor, or a tuple of Tensors. Its shape and dtype matter; its values
        should be typical inputs of the model, because Python control flow is recorded as it ran.
    input_names, output_names: by default "input" and "output", numbered if there are several.
    dynamic_batch: leave the size of `batch_axis` open (1 for a recurrent net with time first), in
        every input whose size there equals that of the first.
    opset: the version of ONNX's operators, at least 18.
    verify: compare with the results of onnxruntime on the example and on random data, or of ONNX's
        reference evaluator if onnxruntime is not installed or lacks an operator.

    The file passes `onnx.checker.check_model(full_check=True)`. The mode, parameters and buffers of
    the model do not change. Raises NotImplementedError for a layer or primitive without a
    translation, with its place and the supported ones (see `supported`); ValueError for a result
    that differs, or depends on the data in a way that a graph cannot represent; ImportError without
    the package onnx. After an error nothing is written.

    >>> import io, onnx
    >>> net = mg.nn.Sequential(mg.nn.Linear(4, 8), mg.nn.ReLU(), mg.nn.Linear(8, 2))
    >>> file = io.BytesIO()
    >>> mg.onnx.export(net, mg.randn(1, 4), file)
    >>> [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]
    ['Gemm', 'Relu', 'Gemm']
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "onnx.export: the package onnx is missing: pip install minigrad-cython[onnx]"
        ) from error
    instance(model, Module, "onnx.export: expected a Module")
    newest = onnx.defs.onnx_opset_version()
    for name, value in (("opset", opset), ("batch_axis", batch_axis)):
        integer(value, f"onnx.export: {name}")
    if not _OLDEST <= opset <= newest:
        raise ValueError(f"onnx.export: opset must be {_OLDEST} to {newest}, got {opset}")
    examples = example if isinstance(example, (tuple, list)) else (example,)
    if not examples or not all(isinstance(x, (Tensor, np.ndarray)) for x in examples):
        raise TypeError("onnx.export: the example must be a Tensor or a tuple of Tensors")
    axis = batch_axis if dynamic_batch else None
    first = [tensor(x) for x in examples]
    second, wild = (_other_data(first, axis, decades) for decades in (0.3, 2))
    runs = [Run(model, data) for data in (first, second, wild)]
    inputs = _names(input_names, "input", len(first))
    outputs = _names(output_names, "output", len(runs[0].outputs))
    if not outputs or len(outputs) != len(runs[1].outputs) or {*inputs} & {*outputs}:
        raise ValueError(
            "onnx.export: the model must return the same number of Tensors at each call, with "
            f"other names than its inputs; got {len(outputs)} and {len(runs[1].outputs)} of them"
        )
    for other in (runs[2], runs[1]):  # the first graph only detects what depends on the data
        graph = GraphBuilder(onnx, model, {*inputs, *outputs})
        if axis is not None:
            graph.batch = (inputs[0], axis, first[0].shape[axis], second[0].shape[axis])
        for name, *pair in zip(inputs, runs[0].inputs, other.inputs, strict=True):
            graph.bind(name, *pair)
        translate(graph, runs[0].steps, other.steps)
    results = list(zip(outputs, runs[0].outputs, runs[1].outputs, strict=True))
    graph.publish(results)
    given = [graph.info(*row) for row in zip(inputs, first, second, strict=True)]
    made = [graph.info(*row) for row in results]
    kind, opsets = type(model).__name__, [onnx.helper.make_opsetid("", opset)]
    file = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, kind, given, made, graph.initializers),
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
        producer_name="minigrad",
    )
    onnx.checker.check_model(file, full_check=True)
    if verify:
        for data, run in zip((first, second), runs, strict=False):
            validate(file, dict(zip(inputs, data, strict=True)), outputs, run.outputs)
    with writing("onnx.export", path) as stream:
        stream.write(file.SerializeToString())


def _names(given: Any, what: str, count: int) -> list[str]:
    if given is None:
        return [what] if count == 1 else [f"{what}_{i}" for i in range(count)]
    if isinstance(given, str) or not all(isinstance(name, str) and name for name in given):
        raise TypeError(f"onnx.export: {what}_names must be a list of names, got {given!r}")
    if not len(given) == len(set(given)) == count:
        raise ValueError(f"onnx.export: expected {count} different {what}_names, got {given!r}")
    return list(given)


def _other_data(inputs: list[Tensor], axis: int | None, decades: float) -> list[Tensor]:
    """Random data, one longer along the open axis. They are drawn from the example's values, so
    they stay in its domain (class indices, positive numbers); floats are scaled by powers of ten.
    """
    if axis is not None and not (0 <= axis < inputs[0].ndim and inputs[0].shape[axis]):
        raise ValueError(
            f"onnx.export: the example of shape {inputs[0].shape} has no row along axis {axis}, "
            "the batch; give one, or batch_axis, or dynamic_batch=False"
        )
    random, others = np.random.default_rng(0), []
    for x in inputs:
        shape = list(x.shape)
        if axis is not None and shape[axis : axis + 1] == [inputs[0].shape[axis]]:
            shape[axis] += 1
        values = random.choice(x.numpy().reshape(-1), shape) if x.size else np.zeros(shape)
        if x.dtype.kind == "f":
            values = values if values.any() else random.normal(size=shape)
            values = values * 10 ** random.uniform(-decades / 2, decades, shape)
        others.append(tensor(values.astype(x.dtype)))
    return others
