"""Run a file in onnxruntime or ONNX's evaluator, and compare with the outputs of the model."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from .._core.engine.graph import Tensor


def validate(file: Any, inputs: dict[str, Tensor], names: list[str], wanted: list[Tensor]) -> None:
    """Raise ValueError unless onnxruntime, if installed, or ONNX's reference evaluator reproduces
    the outputs. onnxruntime lacks float64 operators; the evaluator is less accurate."""
    arrays = {name: np.asarray(x) for name, x in inputs.items()}
    differences, errors = [], []
    for engine, evaluate in ENGINES.items():
        try:
            with np.errstate(all="ignore"):
                results = evaluate(file, names, arrays)
        except Exception as error:
            errors.append(f"{engine}: {error}")
            continue
        pairs = zip(names, results, map(np.asarray, wanted), strict=True)
        found = [text for pair in pairs if (text := _difference(engine, *pair))]
        if not found:
            return
        differences += found
    if not differences:
        raise ValueError(
            f"onnx.export: the graph cannot be verified ({'; '.join(errors)}); pass verify=False"
        )
    raise ValueError(
        f"onnx.export: {differences[0]}. Either the model runs code that minigrad does not record "
        "(NumPy, an in-place write), or the evaluator is inaccurate here: then pass verify=False"
    )


def _difference(engine: str, name: str, result: np.ndarray, want: np.ndarray) -> str:
    """Describe how an output differs; "" if it agrees, infinities and NaNs included."""
    text = f"output {name!r} of the graph differs from the model: {engine} computes "
    if result.shape != want.shape:
        return f"{text}the shape {result.shape}, the model {want.shape}"
    tolerance = 1e-4 * np.abs(want[np.isfinite(want)]).max(initial=1)
    close = np.isclose(result, want, rtol=1e-3, atol=tolerance, equal_nan=True)
    if close.all():
        return ""
    index = tuple(map(int, np.argwhere(~close)[0]))
    return f"{text}{result[index]:.6g} at index {index}, the model {want[index]:.6g}"


def _by_onnxruntime(file: Any, names: list[str], arrays: dict[str, np.ndarray]) -> Any:
    runtime = import_module("onnxruntime")  # by name, because it has no type annotations
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # silent: unsupported operators are tried elsewhere
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(
        file.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(names, arrays)


def _by_reference(file: Any, names: list[str], arrays: dict[str, np.ndarray]) -> Any:
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    def log_sum_exp(x: np.ndarray, axes: Any) -> np.ndarray:
        top = x.max(axis=axes, keepdims=True)
        top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
        return np.asarray(top + np.log(np.exp(x - top).sum(axis=axes, keepdims=True)))

    def log_softmax(self: Any, x: np.ndarray, axis: int = -1) -> tuple[np.ndarray]:
        shifted = x - x.max(axis=axis, keepdims=True)
        return (shifted - log_sum_exp(shifted, axis),)

    def reduce_log_sum_exp(
        self: Any, x: np.ndarray, axes: np.ndarray, keepdims: int, noop_with_empty_axes: int
    ) -> tuple[np.ndarray]:
        result = log_sum_exp(x, tuple(axes))
        return (result if keepdims else result.squeeze(tuple(axes)),)

    # The evaluator's versions give -inf if the softmax underflows, and NaN for a row of -inf.
    mended = {"LogSoftmax": log_softmax, "ReduceLogSumExp": reduce_log_sum_exp}
    ops = [type(name, (OpRun,), {"op_domain": "", "_run": run}) for name, run in mended.items()]
    return ReferenceEvaluator(file, new_ops=ops).run(names, arrays)


ENGINES = {"onnxruntime": _by_onnxruntime, "ONNX's reference evaluator": _by_reference}
