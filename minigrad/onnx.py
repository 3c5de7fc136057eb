"""Nets as ONNX files, which onnxruntime and other engines run.

The model runs on the example and on random data with another batch size, while the engine reports
its primitives. A layer that ONNX knows (`_LAYERS`) becomes one node or a few, and what it computes
inside is passed over; elsewhere each primitive becomes what `_PRIMITIVES` says. Where the runs
differ it is either a size that grows with the batch, or something that a graph cannot hold and that
would be wrong for other data: a number taken out of a tensor, a mask that NumPy made, a branch. One
run is on wild data, of many magnitudes, to bring these out. At last ONNX's own evaluator must give
what the model gave.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from itertools import zip_longest
from typing import Any, NoReturn

import numpy as np

from . import nn
from ._core.tensor import Tensor, observe, primitives
from .autograd import enable_grad
from .creation import tensor
from .functions import clone
from .nn import functional
from .nn.module import Module
from .serialization import PathOrFile, writing

__all__ = ["export", "supported"]

_OLDEST = 18  # the first opset in which every reduction takes its axes as an input
_END = np.iinfo(np.int64).max
_MISSING = NotImplementedError
_POOLS = {  # functions that become nodes of their layers, when called as functional.<name>
    "adaptive_avg_pool1d": "AdaptiveAvgPool1d",
    "adaptive_avg_pool2d": "AdaptiveAvgPool2d",
    "avg_pool1d": "AvgPool1d",
    "avg_pool2d": "AvgPool2d",
    "max_pool1d": "MaxPool1d",
    "max_pool2d": "MaxPool2d",
}


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

    example: the input, a Tensor, or a tuple of them for several. Its shape and dtype count; its
        values should be such as the model meets, for Python control flow is taken as it went.
    input_names, output_names: by default "input" and "output", numbered if there are several.
    dynamic_batch: leave the size of `batch_axis` open (1 for a recurrent net with time first), in
        every input that has there the size that the first has.
    opset: the version of ONNX's operators, at least 18.
    verify: compare with what ONNX's evaluator gives on the example and on random data.

    The file passes `onnx.checker.check_model(full_check=True)`. Mode, parameters and buffers of
    the model stay as they are. Raises NotImplementedError that names the layer or primitive that
    has no translation, its place, and those that have one (see `supported`); ValueError for a
    result that differs, or depends on the data in a way that no graph holds; ImportError without
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
    if not isinstance(model, Module):
        raise TypeError(f"onnx.export: expected a Module, got {type(model).__name__}")
    newest = onnx.defs.onnx_opset_version()
    for name, value in (("opset", opset), ("batch_axis", batch_axis)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"onnx.export: {name} must be an int, got {value!r}")
    if not _OLDEST <= opset <= newest:
        raise ValueError(f"onnx.export: opset must be {_OLDEST} to {newest}, got {opset}")
    examples = example if isinstance(example, (tuple, list)) else (example,)
    if not examples or not all(isinstance(x, (Tensor, np.ndarray)) for x in examples):
        raise TypeError("onnx.export: the example must be a Tensor or a tuple of Tensors")
    axis = batch_axis if dynamic_batch else None
    first = [tensor(x) for x in examples]
    second, wild = (_other_data(first, axis, decades) for decades in (0.3, 2))
    runs = [_Run(model, data) for data in (first, second, wild)]
    inputs = _names(input_names, "input", len(first))
    outputs = _names(output_names, "output", len(runs[0].outputs))
    if not outputs or len(outputs) != len(runs[1].outputs) or {*inputs} & {*outputs}:
        raise ValueError(
            "onnx.export: the model must return Tensors, as many at each call, and under other "
            f"names than its inputs; got {len(outputs)} and {len(runs[1].outputs)} of them"
        )
    for other in (runs[2], runs[1]):  # the first graph only shows what depends on the data
        graph = _Graph(onnx.helper, model, {*inputs, *outputs})
        if axis is not None:
            graph.batch = (inputs[0], axis, first[0].shape[axis], second[0].shape[axis])
        for name, *pair in zip(inputs, runs[0].inputs, other.inputs, strict=True):
            graph.bind(name, *pair)
        graph.translate(runs[0].steps, other.steps)
    results = list(zip(outputs, runs[0].outputs, runs[1].outputs, strict=True))
    graph.publish(results)
    versions = [onnx.helper.make_opsetid("", opset)]
    file = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            type(model).__name__,
            [graph.info(*row) for row in zip(inputs, first, second, strict=True)],
            [graph.info(*row) for row in results],
            graph.initializers,
        ),
        opset_imports=versions,
        ir_version=onnx.helper.find_min_ir_version_for(versions),
        producer_name="minigrad",
    )
    onnx.checker.check_model(file, full_check=True)
    if verify:
        for data, run in zip((first, second), runs, strict=False):
            _verify(file, dict(zip(inputs, data, strict=True)), outputs, run.outputs)
    with writing("onnx.export", path) as stream:
        stream.write(file.SerializeToString())


def supported() -> tuple[list[str], list[str]]:
    """The layers that become nodes of their own, and the primitives of which all else (Linear, the
    activations, a net's own functions) may consist.

    >>> layers, functions = mg.onnx.supported()
    >>> "BatchNorm2d" in layers, "linear" in functions
    (True, True)
    """
    return (
        sorted(name for name in _LAYERS if hasattr(nn, name)),
        sorted(set(_PRIMITIVES).intersection(primitives())),
    )


def _names(given: Any, what: str, count: int) -> list[str]:
    if given is None:
        return [what] if count == 1 else [f"{what}_{i}" for i in range(count)]
    if isinstance(given, str) or not all(isinstance(name, str) and name for name in given):
        raise TypeError(f"onnx.export: {what}_names must be a list of names, got {given!r}")
    if not len(given) == len(set(given)) == count:
        raise ValueError(f"onnx.export: expected {count} different {what}_names, got {given!r}")
    return list(given)


def _other_data(inputs: list[Tensor], axis: int | None, decades: float) -> list[Tensor]:
    """Random data, in the open axis one longer. They are drawn from the example's values, so that
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


def _verify(file: Any, inputs: dict[str, Tensor], names: list[str], wanted: list[Tensor]) -> None:
    """Raise ValueError unless the graph gives what the model gave."""
    arrays = {name: np.asarray(x) for name, x in inputs.items()}
    results: Any = None
    for evaluate in (_run_reference, _run_onnxruntime):  # neither has all operators
        with np.errstate(all="ignore"):
            try:
                results = evaluate(file, names, arrays)
                break
            except Exception as error:
                reason = error
    else:
        raise ValueError(
            f"onnx.export: the graph cannot be verified ({reason}); pass verify=False"
        ) from reason
    for name, result, want in zip(names, results, map(np.asarray, wanted), strict=True):
        tolerance = 1e-4 * np.abs(want[np.isfinite(want)]).max(initial=1)
        same = result.shape == want.shape
        if not (same and np.allclose(result, want, rtol=1e-3, atol=tolerance, equal_nan=True)):
            raise ValueError(
                f"onnx.export: {name!r} of the graph is not what the model gives; code that the "
                "engine does not report (NumPy's, a write in place) may take part in it"
            )


def _run_reference(file: Any, names: list[str], arrays: dict[str, np.ndarray]) -> Any:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(file).run(names, arrays)


def _run_onnxruntime(file: Any, names: list[str], arrays: dict[str, np.ndarray]) -> Any:
    runtime = import_module("onnxruntime")  # as a string, for it has no types
    return runtime.InferenceSession(file.SerializeToString()).run(names, arrays)


# --------------------------------------------------------------------------------------- the record
@dataclass
class _Step:
    """A primitive, or a layer that ONNX knows: what went in and came out."""

    path: str  # of the module that was running
    kind: str  # its class
    name: str  # of the primitive or the layer
    inputs: list[Any]  # Tensors; of a primitive numbers too
    attributes: dict[str, Any]  # of a layer, those of the module
    outputs: list[Tensor]
    module: Any = None
    twin: Any = None  # the same step of the other run

    def fail(self, message: str, error: type[Exception] = ValueError) -> NoReturn:
        raise error(f"onnx.export: {self.path or 'the model'!r} ({self.kind}): {message}")


class _Run:
    """One run of the model in evaluation mode: its steps and outputs; the model stays as it was."""

    def __init__(self, model: Module, data: list[Tensor]) -> None:
        self.steps: list[_Step] = []
        self.place, self.known, self.thread = ("", ""), 0, threading.get_ident()
        with enable_grad(), self._watching(model):
            # Results in a graph, of which `y += x` makes new tensors instead of writing to y.
            self.inputs = [
                clone(x.detach().requires_grad_()) if x.dtype.kind == "f" else x for x in data
            ]
            previous = observe(self._note)
            try:
                self.outputs = list(_tensors(model(*self.inputs)))
            finally:
                observe(previous)

    @contextmanager
    def _watching(self, model: Module) -> Iterator[None]:
        modules = list(model.named_modules())
        before = [(module, dict(vars(module))) for _, module in modules]
        buffers = [(b, b._version, b.numpy(copy=True)) for b in model.buffers()]
        pools = {name: getattr(functional, name) for name in _POOLS}
        try:
            model.eval()
            for path, module in modules:
                vars(module)["forward"] = self._watched(path, module)
            for name in pools:
                setattr(functional, name, self._as_layer(pools[name], getattr(nn, _POOLS[name])))
            yield
        finally:
            for name in pools:
                setattr(functional, name, pools[name])
            for module, members in before:
                vars(module).clear()
                vars(module).update(members)
            for buffer, version, array in buffers:
                if buffer._version != version:
                    buffer.copy_(array)

    def _watched(self, path: str, module: Module) -> Callable[..., Any]:
        forward, layer = module.forward, _layer_name(module)

        def watched(*inputs: Any, **options: Any) -> Any:
            outside, self.place = self.place, (path, type(module).__name__)
            members = dict(vars(module))
            self.known += layer is not None
            try:
                output = forward(*inputs, **options)
            finally:
                self.place = outside
                self.known -= layer is not None
            if layer is not None and not self.known:
                step = _Step(path, type(module).__name__, layer, [], members, [], module)
                step.inputs += _tensors((inputs, options))
                step.outputs += _tensors(output)
                self.steps.append(step)
            return output

        return watched

    def _as_layer(self, function: Callable[..., Any], layer: type[Module]) -> Callable[..., Any]:
        """In the place of a pooling function, its layer, for which ONNX has a node."""

        def pooled(*inputs: Any, **options: Any) -> Any:
            if self.known or threading.get_ident() != self.thread:
                return function(*inputs, **options)
            given = signature(function).bind(*inputs, **options).arguments
            x = given.pop("x")
            return self._watched(self.place[0], layer(**given).eval())(x)

        return pooled

    def _note(
        self, name: str, inputs: tuple[Any, ...], attributes: dict[str, Any], output: Tensor
    ) -> None:
        if not self.known and threading.get_ident() == self.thread:
            self.steps.append(_Step(*self.place, name, list(inputs), attributes, [output]))


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The Tensors in nested tuples, lists and dicts."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(branch)


def _layer_name(module: Module) -> str | None:
    """The class in `_LAYERS` whose forward the module has, unless ONNX's node is not the same."""
    for kind in type(module).__mro__:
        if kind.__name__ in _LAYERS and getattr(nn, kind.__name__, None) is kind:
            same = module.forward == kind.forward.__get__(module)
            batch_statistics = vars(module).get("running_mean", kind) is None
            return kind.__name__ if same and not batch_statistics else None
    return None


# ---------------------------------------------------------------------------------------- the graph
class _Graph:
    """Nodes and initializers as they come, and which tensors of the two runs have which name."""

    def __init__(self, helper: Any, model: Module, taken: set[str]) -> None:
        self.helper, self.taken, self.path = helper, taken, ""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.batch = ("", 0, 0, 0)  # an input and its open axis, with the sizes in the two runs
        self._names: dict[Any, str] = {}
        self._constants: dict[Any, str] = {}
        owned = (*model.named_buffers(), *model.named_parameters())
        self._owned = {_key(tensor): (name, tensor) for name, tensor in owned}

    def unique(self, name: str) -> str:
        candidate, count = name, 0
        while candidate in self.taken:
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate

    def node(self, operator: str, *inputs: Any, outputs: int = 1, **options: Any) -> Any:
        """Add a node; arrays among its inputs become initializers. Its output's name, or a list."""
        name = self.unique(f"{self.path}/{operator}")
        made = [self.unique(f"{name}_output") for _ in range(outputs)]
        given = [self.constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        while given and not given[-1]:
            given.pop()
        self.nodes.append(self.helper.make_node(operator, given, made, name, **options))
        return made[0] if outputs == 1 else made

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        data = np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes()
        content = (name, array.dtype, array.shape, data)
        if content not in self._constants:
            made = self._constants[content] = self.unique(name or f"{self.path}/constant")
            dtype = self.helper.np_dtype_to_tensor_dtype(array.dtype)
            self.initializers.append(
                self.helper.make_tensor(made, dtype, array.shape, data, raw=True)
            )
        return self._constants[content]

    def info(self, name: str, first: Tensor, second: Tensor) -> Any:
        """The dtype and shape of an input or output, open where the runs differ."""
        shape = [
            n if n == m else "batch" if (n, m) == self.batch[2:] else None
            for n, m in zip(first.shape, second.shape, strict=True)
        ]
        dtype = self.helper.np_dtype_to_tensor_dtype(first.dtype)
        return self.helper.make_tensor_value_info(name, dtype, shape)

    # ------------------------------------------------------------------------------------- values
    def bind(self, name: str, first: Tensor, second: Tensor) -> None:
        self._names[0, _key(first)] = self._names[1, _key(second)] = name

    def known(self, step: _Step, first: Any, second: Any) -> str | None:
        """The name of what both runs computed, or None."""
        name = self._names.get((0, _key(first)))
        if name != self._names.get((1, _key(second))):
            step.fail(f"{step.name} got other operands on other data")
        return name

    def value(self, step: _Step, first: Any, second: Any, dtype: Any = None) -> str:
        """The name of a Tensor or number: computed, a parameter, or else a constant."""
        if not isinstance(first, Tensor):
            if not _equal(first, second):
                step.fail(f"a number that enters {step.name} depends on the data")
            return self.constant(np.asarray(first, dtype))
        name = self.known(step, first, second)
        if name is None:
            key = _key(first)
            if key in self._owned and key == _key(second):
                name = self.constant(self._owned[key][1].numpy(), self._owned[key][0])
            else:
                name = self._fixed(step, first.numpy(), second.numpy())
            self.bind(name, first, second)
        return name if dtype is None or first.dtype == dtype else self.cast(name, dtype)

    def _fixed(self, step: _Step, first: np.ndarray, second: np.ndarray) -> str:
        """An array that no recorded operation made: it must not depend on the data, and on the
        batch only with its shape."""
        if np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
            return self.constant(first)
        values = np.unique(np.concatenate([first.reshape(-1), second.reshape(-1)]))
        # Zeros of the batch's shape are a state to start from; a mask is made of the data.
        if first.ndim == second.ndim and len(values) == 1 and values.dtype.kind != "b":
            shape = self.sizes(step, first.shape, second.shape)
            return str(self.node("Expand", values, shape))
        step.fail(
            f"an operand of {step.name}, of shape {first.shape}, depends on the data but was made "
            "by no operation that the engine reports (NumPy code, argmax, logical_and, an index)"
        )

    def own(self, step: _Step, member: str) -> str:
        """The name of a layer's parameter or buffer, "" for None."""
        first, second = step.attributes.get(member), step.twin.attributes.get(member)
        return "" if first is None else self.value(step, first, second)

    def own_array(self, step: _Step, member: str) -> np.ndarray:
        """A layer's parameter, to be rearranged; it must not be the result of an operation."""
        parameter: Tensor = step.attributes[member]
        if (0, _key(parameter)) in self._names and _key(parameter) not in self._owned:
            step.fail(f"{member} is computed, not a parameter", _MISSING)
        return parameter.numpy()

    def attribute(self, step: _Step, name: str) -> Any:
        value, other = step.attributes[name], step.twin.attributes[name]
        if not _equal(value, other):
            step.fail(
                f"the {name} of {step.name} was {value!r:.80} and, on other data, {other!r:.80}; "
                "it cannot depend on them"
            )
        return value

    def cast(self, name: str, dtype: Any) -> str:
        to = self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return str(self.node("Cast", name, to=to))

    def sizes(self, step: _Step, first: Any, second: Any, infer: bool = False) -> Any:
        """A shape for Reshape (`infer`: one size may be -1) or Expand, that follows the batch."""
        if len(first) != len(second):
            step.fail(f"{step.name} gives the rank {len(first)}, on other data {len(second)}")
        varying = [d for d in range(len(first)) if first[d] != second[d]]
        if not varying or (infer and len(varying) == 1 and 0 not in first):
            return np.array([-1 if d in varying else n for d, n in enumerate(first)], np.int64)
        pieces = []
        for n, m in zip(first, second, strict=True):
            if n == m:
                pieces.append(self.constant(np.array([n], np.int64)))
                continue
            source, axis, old, new = self.batch
            if not old or n % old or n // old * new != m:
                step.fail(f"a size in {step.name} is {n}, on other data {m}")
            size = self.node("Shape", source, start=axis, end=axis + 1)
            pieces.append(self.node("Mul", size, np.array([n // old], np.int64)))
        return self.node("Concat", *pieces, axis=0)

    # ------------------------------------------------------------------------------------- steps
    def translate(self, first: list[_Step], second: list[_Step]) -> None:
        for step, twin in zip_longest(first, second):
            if step is None or twin is None or (step.path, step.name) != (twin.path, twin.name):
                (step or twin).fail(
                    f"{(step or twin).name} runs here, but on other data the model goes another way"
                )
            step.twin = twin
            self.path = f"/{step.path}" if step.path else ""
            if len(step.inputs) != len(twin.inputs) or len(step.outputs) != len(twin.outputs):
                step.fail(f"{step.name} takes or gives more tensors on other data")
            if step.module is None and step.name not in _PRIMITIVES:
                layers, functions = supported()
                step.fail(
                    f"the primitive {step.name!r} has no translation; supported are the layers "
                    f"{', '.join(layers)}, and all that consists of the primitives "
                    f"{', '.join(functions)}",
                    _MISSING,
                )
            dtype = _common_dtype(step)
            pairs = zip(step.inputs, twin.inputs, strict=True)
            names = [self.value(step, x, y, dtype) for x, y in pairs]
            rule = _PRIMITIVES[step.name] if step.module is None else _LAYERS[step.name]
            made = rule(self, step, *names)
            made = made if isinstance(made, list) else [made]
            for row in zip(made, step.outputs, twin.outputs, strict=True):
                self.bind(*row)

    def publish(self, results: list[Any]) -> None:
        """Give the values of the model's outputs the names that these have."""
        self.path = ""
        step = _Step("", "the model", "the output", [], {}, [])
        renamed: dict[str, str] = {}
        for name, *pair in results:
            value = self.value(step, *pair)
            if value in renamed or not any(value in node.output for node in self.nodes):
                value = self.node("Identity", value)
            renamed[value] = name
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]


def _key(value: Any) -> Any:
    """What two Tensors (or arrays) have in common that are the same view of the same memory."""
    array = value._array if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray):
        return None
    return array.ctypes.data, array.shape, array.strides, array.dtype


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b or a != a)


def _common_dtype(step: _Step) -> Any:
    """The dtype that ONNX, which converts nothing, wants of all inputs; None where they differ."""
    if step.module is not None or step.name in ("where", "astype"):
        return None
    if step.outputs[0].dtype != bool:
        return step.outputs[0].dtype
    return np.result_type(*[x.dtype if isinstance(x, Tensor) else x for x in step.inputs])


# ----------------------------------------------------------------------------------- the primitives
def _reduction(operator: str) -> Callable[..., Any]:
    def apply(graph: _Graph, step: _Step, x: str, keepdims: bool | None = None) -> Any:
        keep = graph.attribute(step, "keepdims") if keepdims is None else keepdims
        axes = np.array(graph.attribute(step, "axis"), np.int64)
        return graph.node(operator, x, axes, keepdims=int(keep), noop_with_empty_axes=1)

    return apply


_mean = _reduction("ReduceMean")


def _var(graph: _Graph, step: _Step, x: str) -> Any:
    distance = graph.node("Sub", x, _mean(graph, step, x, True))
    var = _mean(graph, step, graph.node("Mul", distance, distance))
    if correction := graph.attribute(step, "correction"):
        count, other = (s.inputs[0].size / max(s.outputs[0].size, 1) for s in (step, step.twin))
        if count != other:
            step.fail("var with a correction, over the batch, depends on the size of the batch")
        factor = count / (count - correction) if count > correction else np.nan
        var = graph.node("Mul", var, np.array(factor, step.outputs[0].dtype))
    return var


def _reshape(graph: _Graph, step: _Step, x: str) -> Any:
    target = (step.outputs[0].shape, step.twin.outputs[0].shape)
    return graph.node("Reshape", x, graph.sizes(step, *target, infer=True), allowzero=1)


def _broadcast_to(graph: _Graph, step: _Step, x: str) -> Any:
    target = (step.outputs[0].shape, step.twin.outputs[0].shape)
    return graph.node("Expand", x, graph.sizes(step, *target))


def _getitem(graph: _Graph, step: _Step, x: str) -> Any:
    index, other = (
        i if isinstance(i, tuple) else (i,)
        for i in (step.attributes["index"], step.twin.attributes["index"])
    )
    arrays = [d for d, part in enumerate(index) if isinstance(part, (np.ndarray, list))]
    if arrays:
        d, array = arrays[0], np.asarray(index[arrays[0]])
        others = index[:d] + index[d + 1 :]
        if array.dtype.kind != "i" or not all(_equal(part, slice(None)) for part in others):
            step.fail("of indices with arrays only integers are supported, in one axis", _MISSING)
        indices = graph.known(step, index[d], other[d])
        if indices is None:
            graph.attribute(step, "index")
        return graph.node("Gather", x, indices or array.astype(np.int64), axis=d)
    graph.attribute(step, "index")
    index = index if Ellipsis in index else (*index, Ellipsis)
    place = index.index(Ellipsis)
    missing = step.inputs[0].ndim + 1 - sum(part is not None for part in index)
    slices, dropped, new = [], [], []
    axis = position = 0  # in x, and in the result
    for part in (*index[:place], *(slice(None),) * missing, *index[place + 1 :]):
        if part is None:
            new.append(position)
        elif isinstance(part, slice):
            stride = 1 if part.step is None else part.step
            start = (0 if stride > 0 else _END) if part.start is None else part.start
            stop = (_END if stride > 0 else -_END) if part.stop is None else part.stop
            if part != slice(None):
                slices.append((start, stop, axis, stride))
        else:
            dropped.append(axis)
            slices.append((part, part + 1 or _END, axis, 1))
        axis += part is not None
        position += part is None or isinstance(part, slice)
    if slices:
        x = graph.node("Slice", x, *np.array(slices, np.int64).T)
    if dropped:
        x = graph.node("Squeeze", x, np.array(dropped))
    return graph.node("Unsqueeze", x, np.array(new)) if new else x


def _clip(graph: _Graph, step: _Step, x: str) -> Any:
    return _clipped(graph, step, x, *(graph.attribute(step, name) for name in ("low", "high")))


def _clipped(graph: _Graph, step: _Step, x: str, *bounds: float) -> Any:
    dtype = step.outputs[0].dtype
    return graph.node("Clip", x, *(np.array(bound, dtype) for bound in bounds))


def _lstm_cell(graph: _Graph, step: _Step, gates: str, cell: str) -> Any:
    blocks = graph.node("Split", gates, axis=0, num_outputs=4, outputs=4)
    i, f, o = (graph.node("Sigmoid", blocks[k]) for k in (0, 1, 3))
    new = graph.node("Mul", i, graph.node("Tanh", blocks[2]))
    new = graph.node("Add", graph.node("Mul", f, cell), new)
    return graph.node("Concat", new, graph.node("Mul", o, graph.node("Tanh", new)), axis=0)


def _chain(*operators: str) -> Callable[..., Any]:
    """The operators one after the other."""

    def apply(graph: _Graph, step: _Step, *x: Any) -> Any:
        for operator in operators:
            x = (graph.node(operator, *x),)
        return x[0]

    return apply


def _with_one(graph: _Graph, step: _Step, operator: str, x: str) -> Any:
    return graph.node(operator, x, np.ones((), step.outputs[0].dtype))


def _simple(operator: str, **options: str) -> Callable[..., Any]:
    """One node, with attributes of the primitive under ONNX's names."""

    def apply(graph: _Graph, step: _Step, *x: str) -> Any:
        values = {key: graph.attribute(step, name) for key, name in options.items()}
        return graph.node(operator, *x, **values)

    return apply


_PRIMITIVES: dict[str, Callable[..., Any]] = {
    **{
        name: _simple(name.capitalize())  # ONNX's own names
        for name in "abs acos asin atan ceil cos cosh equal erf exp floor greater less log pow "  # noqa: SIM905
        "reciprocal relu round sigmoid sign sin sinh softplus sqrt tan tanh where".split()
    },
    **{name: _reduction(f"Reduce{name.capitalize()}") for name in ("max", "min", "prod", "sum")},
    "add": _simple("Add"),
    "astype": lambda graph, step, x: graph.cast(x, step.outputs[0].dtype),
    "broadcast_to": _broadcast_to,
    "clip": _clip,
    "concat": _simple("Concat", axis="axis"),
    "divide": _simple("Div"),
    "expm1": lambda graph, step, x: _with_one(graph, step, "Sub", graph.node("Exp", x)),
    "getitem": _getitem,
    "greater_equal": _simple("GreaterOrEqual"),
    "less_equal": _simple("LessOrEqual"),
    "linear": lambda graph, step, *xs: graph.node("Gemm", *xs, transB=1),
    "log1p": lambda graph, step, x: graph.node("Log", _with_one(graph, step, "Add", x)),
    "log_softmax": _simple("LogSoftmax", axis="axis"),
    "logsigmoid": _chain("Neg", "Softplus", "Neg"),
    "logsumexp": _reduction("ReduceLogSumExp"),
    "lstm_cell": _lstm_cell,
    "matmul": _simple("MatMul"),
    "maximum": _simple("Max"),
    "mean": _mean,
    "minimum": _simple("Min"),
    "multiply": _simple("Mul"),
    "negative": _simple("Neg"),
    "not_equal": _chain("Equal", "Not"),
    "permute_dims": _simple("Transpose", perm="axes"),
    "reshape": _reshape,
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "square": lambda graph, step, x: graph.node("Mul", x, x),
    "subtract": _simple("Sub"),
    "sum_product": lambda graph, step, x, y: _reduction("ReduceSum")(
        graph, step, graph.node("Mul", x, y)
    ),
    "var": _var,
}


# --------------------------------------------------------------------------------------- the layers
def _batch_norm(graph: _Graph, step: _Step, x: str) -> Any:
    ones = np.ones(step.module.num_features, step.attributes["running_mean"].dtype)
    weight = graph.own(step, "weight") or ones
    bias = graph.own(step, "bias") or 0 * ones
    statistics = (graph.own(step, "running_mean"), graph.own(step, "running_var"))
    return graph.node("BatchNormalization", x, weight, bias, *statistics, epsilon=step.module.eps)


def _layer_norm(graph: _Graph, step: _Step, x: str) -> Any:
    shape = step.module.normalized_shape
    weight = graph.own(step, "weight") or np.ones(shape, step.outputs[0].dtype)
    bias = graph.own(step, "bias")
    options = {"axis": -len(shape), "epsilon": step.module.eps}
    return graph.node("LayerNormalization", x, weight, bias, **options)


def _window(operator: str, rank: int, **options: str) -> Callable[..., Any]:
    """A convolution or pooling over `rank` dimensions; options: ONNX's names of more attributes."""

    def apply(graph: _Graph, step: _Step, x: str) -> Any:
        layer = step.module
        if step.inputs[0].ndim != rank + 2:
            step.fail("an input without a batch axis is not supported", _MISSING)
        for name, plain in (("padding_mode", "zeros"), ("divisor_override", None)):
            if getattr(layer, name, plain) != plain:
                step.fail(f"{name}={getattr(layer, name)!r} is not supported", _MISSING)

        def sizes(name: str, default: Any) -> tuple[int, ...]:
            value = getattr(layer, name, default)
            value = default if value is None else value
            return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank

        kernel, dilation, padding = sizes("kernel_size", 1), sizes("dilation", 1), layer.padding
        if isinstance(padding, str):
            totals = np.multiply(dilation, np.subtract(kernel, 1)) * (padding == "same")
            pads = (*(totals // 2), *(totals - totals // 2))
        else:
            pads = sizes("padding", 0) * 2
        attributes = {key: getattr(layer, name) for key, name in options.items()}
        attributes |= {"kernel_shape": kernel, "strides": sizes("stride", kernel), "pads": pads}
        attributes |= {"dilations": dilation} if hasattr(layer, "dilation") else {}
        ints: Any = {k: v if isinstance(v, tuple) else int(v) for k, v in attributes.items()}
        return graph.node(operator, x, graph.own(step, "weight"), graph.own(step, "bias"), **ints)

    return apply


def _adaptive_pool(graph: _Graph, step: _Step, x: str) -> Any:
    given, made = (tensors[0].shape[2:] for tensors in (step.inputs, step.outputs))
    if any(n % m for n, m in zip(given, made, strict=True)):
        step.fail(f"pooling {given} to {made}, in windows of different sizes", _MISSING)
    kernel = [n // m for n, m in zip(given, made, strict=True)]
    return graph.node("AveragePool", x, kernel_shape=kernel, strides=kernel)


# ONNX's order of the gates in PyTorch's: LSTM i, o, f, c of i, f, g, o; GRU z, r, h of r, z, n.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def _recurrent(graph: _Graph, step: _Step, x: str, *states: str) -> Any:
    layer, kind = step.module, step.name
    if getattr(layer, "proj_size", 0):
        step.fail("proj_size is not supported", _MISSING)
    batched = step.inputs[0].ndim == 3
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    options: dict[str, Any] = {"hidden_size": layer.hidden_size}
    if layer.bidirectional:
        options["direction"] = "bidirectional"
    if kind == "GRU":
        options["linear_before_reset"] = 1
    if kind == "RNN":
        options["activations"] = [layer.nonlinearity.capitalize()] * len(suffixes)

    def gates(names: list[str], k: int) -> np.ndarray:
        """Weights, or the two biases, of all directions of layer k, in ONNX's order."""
        rows = []
        for suffix in suffixes:
            blocks = []
            for name in names:
                parts = np.split(graph.own_array(step, f"{name}_l{k}{suffix}"), len(_GATES[kind]))
                blocks += [parts[i] for i in _GATES[kind]]
            rows.append(np.concatenate(blocks))
        return np.stack(rows)

    if not batched:
        states = tuple(graph.node("Unsqueeze", name, np.array([1])) for name in states)
        x = graph.node("Unsqueeze", x, np.array([1]))
    elif layer.batch_first:
        x = graph.node("Transpose", x, perm=(1, 0, 2))
    finals: list[list[str]] = []
    for k in range(layer.num_layers):
        bias = gates(["bias_ih", "bias_hh"], k) if layer.bias else ""
        rows = np.arange(k * len(suffixes), (k + 1) * len(suffixes))
        start = [graph.node("Gather", state, rows, axis=0) for state in states]
        weights = (gates(["weight_ih"], k), gates(["weight_hh"], k), bias)
        x, *final = graph.node(
            kind, x, *weights, "", *start, outputs=3 if kind == "LSTM" else 2, **options
        )
        x = graph.node("Transpose", x, perm=(0, 2, 1, 3))  # time, batch, direction, hidden
        x = graph.node("Reshape", x, np.array([0, 0, -1]))
        finals.append(final)
    last = [
        graph.node("Concat", *names, axis=0) if len(names) > 1 else names[0]
        for names in zip(*finals, strict=True)
    ]
    if not batched:
        x, *last = (graph.node("Squeeze", name, np.array([1])) for name in (x, *last))
    elif layer.batch_first:
        x = graph.node("Transpose", x, perm=(1, 0, 2))
    return [x, *last]


_AVERAGE = {"ceil_mode": "ceil_mode", "count_include_pad": "count_include_pad"}
_LAYERS: dict[str, Callable[..., Any]] = {
    "AdaptiveAvgPool1d": _adaptive_pool,
    "AdaptiveAvgPool2d": _adaptive_pool,
    "AvgPool1d": _window("AveragePool", 1, **_AVERAGE),
    "AvgPool2d": _window("AveragePool", 2, **_AVERAGE),
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Conv1d": _window("Conv", 1, group="groups"),
    "Conv2d": _window("Conv", 2, group="groups"),
    "ConvTranspose1d": _window("ConvTranspose", 1, group="groups", output_padding="output_padding"),
    "ConvTranspose2d": _window("ConvTranspose", 2, group="groups", output_padding="output_padding"),
    "Embedding": lambda graph, step, x: graph.node("Gather", graph.own(step, "weight"), x, axis=0),
    "GRU": _recurrent,
    "Hardsigmoid": lambda graph, step, x: graph.node("HardSigmoid", x, alpha=1 / 6),
    "Hardswish": lambda graph, step, x: graph.node("HardSwish", x),
    "Hardtanh": lambda graph, step, x: _clipped(
        graph, step, x, step.module.min_val, step.module.max_val
    ),
    "LSTM": _recurrent,
    "LayerNorm": _layer_norm,
    "MaxPool1d": _window("MaxPool", 1, ceil_mode="ceil_mode"),
    "MaxPool2d": _window("MaxPool", 2, ceil_mode="ceil_mode"),
    "RNN": _recurrent,
    "ReLU6": lambda graph, step, x: _clipped(graph, step, x, 0, 6),
    "Softmax": lambda graph, step, x: graph.node("Softmax", x, axis=step.module.dim),
}
