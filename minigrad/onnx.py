"""Nets as ONNX files, which onnxruntime and other engines run.

The model runs on the example and on random data with another batch size, while the engine reports
its primitives. A layer that ONNX knows (`_LAYERS`), or the function in nn.functional that has its
name, becomes one node or a few, and what it computes inside is passed over; elsewhere each
primitive becomes what `_PRIMITIVES` says. Where the runs differ it is either a size that grows with
the batch, or something that a graph cannot hold and that would be wrong for other data: a number
taken out of a tensor, a mask that NumPy made, a branch. One run is on wild data, of many
magnitudes, to bring these out. At last onnxruntime or ONNX's own evaluator must give what the model
gave.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from . import functions, nn
from ._core.engine.graph import Tensor, observe, primitives
from ._core.ops import abs as absolute, max as maximum, where, whole
from .autograd import enable_grad
from .creation import tensor
from .functions import clone
from .nn import functional
from .nn.conv import _padding as padded, per_axis
from .nn.module import Module
from .serialization import PathOrFile, writing
from .tree import flatten

__all__ = ["export", "supported"]
__dir__ = __all__.copy

_OLDEST = 18  # the first opset in which every reduction takes its axes as an input
_END = np.iinfo(np.int64).max
_MISSING = NotImplementedError


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
    verify: compare with what onnxruntime gives on the example and on random data, or, where it is
        not installed or lacks an operator, ONNX's reference evaluator.

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
        whole(f"onnx.export: {name}", value)
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
        graph = _Graph(onnx, model, {*inputs, *outputs})
        if axis is not None:
            graph.batch = (inputs[0], axis, first[0].shape[axis], second[0].shape[axis])
        for name, *pair in zip(inputs, runs[0].inputs, other.inputs, strict=True):
            graph.bind(name, *pair)
        graph.translate(runs[0].steps, other.steps)
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
            _verify(file, dict(zip(inputs, data, strict=True)), outputs, run.outputs)
    with writing("onnx.export", path) as stream:
        stream.write(file.SerializeToString())


def supported() -> tuple[list[str], list[str]]:
    """The layers that become nodes of their own, as do the functions of their names if called as
    `nn.functional.<name>`, and the primitives of which all else (Linear, ...) may consist.

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
    """Raise ValueError unless onnxruntime, if it is installed, or ONNX's reference evaluator gives
    what the model gave. The one lacks operators for float64, the other is less accurate."""
    arrays = {name: np.asarray(x) for name, x in inputs.items()}
    differences, errors = [], []
    for engine, evaluate in _ENGINES.items():
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
        "(NumPy's, a write in place), or the evaluator is inaccurate here: then pass verify=False"
    )


def _difference(engine: str, name: str, result: np.ndarray, want: np.ndarray) -> str:
    """What is wrong with an output, or "" for one that agrees, infinities and NaNs included."""
    text = f"{name!r} of the graph is not what the model gives: {engine} computes "
    if result.shape != want.shape:
        return f"{text}the shape {result.shape}, the model {want.shape}"
    tolerance = 1e-4 * np.abs(want[np.isfinite(want)]).max(initial=1)
    close = np.isclose(result, want, rtol=1e-3, atol=tolerance, equal_nan=True)
    if close.all():
        return ""
    index = tuple(map(int, np.argwhere(~close)[0]))
    return f"{text}{result[index]:.6g} at index {index}, the model {want[index]:.6g}"


def _by_onnxruntime(file: Any, names: list[str], arrays: dict[str, np.ndarray]) -> Any:
    runtime = import_module("onnxruntime")  # as a string, for it has no types
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it cannot run is tried elsewhere
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

    # The evaluator's own give -inf where the softmax underflows, and NaN for a row of -inf.
    mended = {"LogSoftmax": log_softmax, "ReduceLogSumExp": reduce_log_sum_exp}
    ops = [type(name, (OpRun,), {"op_domain": "", "_run": run}) for name, run in mended.items()]
    return ReferenceEvaluator(file, new_ops=ops).run(names, arrays)


_ENGINES = {"onnxruntime": _by_onnxruntime, "ONNX's reference evaluator": _by_reference}


# --------------------------------------------------------------------------------------- the record
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
        buffers = [(b, b._version, b.numpy(copy=True)) for b in model.buffers()]
        watched = [(vars(module), dict(vars(module))) for module in model.modules()]
        for namespace in (vars(functional), vars(functions)):
            watched.append((namespace, dict(namespace)))
        try:
            # One graph for all data: norms and std always scale, in operations that are recorded.
            vars(functions).update(in_safe_range=lambda array: False, _magnitude=_largest)
            model.eval()
            for path, module in model.named_modules():
                vars(module)["forward"] = self._watched(path, module)
            for name, layer in _functions().items():
                setattr(functional, name, self._as_layer(getattr(functional, name), layer))
            yield
        finally:
            for members, before in watched:
                for added in members.keys() - before.keys():
                    del members[added]
                members.update(before)
            for buffer, version, array in buffers:
                if buffer._version != version:
                    buffer.copy_(array)

    def _watched(self, path: str, module: Module) -> Callable[..., Any]:
        forward, layer = module.forward, _layer_name(module)

        def watched(*inputs: Any, **options: Any) -> Any:
            outside, self.place = self.place, (path, type(module).__name__)
            try:
                if layer is None:
                    return forward(*inputs, **options)
                given, run = (inputs, options), partial(forward, *inputs, **options)
                return self._step(layer, given, dict(vars(module)), run)
            finally:
                self.place = outside

        return watched

    def _as_layer(self, function: Callable[..., Any], layer: str) -> Callable[..., Any]:
        """A function of nn.functional as what its layer is, for which ONNX has a node."""

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
        """run(), whose primitives are passed over, as one step."""
        self.known += 1
        try:
            output = run()
        finally:
            self.known -= 1
        self._note(layer, _tensors(inputs), members, *_tensors(output))
        return output

    def _note(self, name: str, inputs: Any, attributes: dict[str, Any], *outputs: Tensor) -> None:
        if not self.known and threading.get_ident() == self.thread:
            self.steps.append(_Step(*self.place, name, list(inputs), attributes, list(outputs)))


def _largest(x: Tensor, axis: Any, ord: float = 2) -> Tensor:
    """The largest |x| over the axes, by which a norm divides first; 1 for what does not scale."""
    largest = maximum(absolute(x), axis=axis, keepdims=True)
    return where(largest > 0, where(largest < np.inf, largest, 1.0), 1.0)


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The Tensors in nested tuples, lists and dicts."""
    return (leaf for leaf in flatten(tree)[0] if isinstance(leaf, Tensor))


def _functions() -> dict[str, str]:
    """The functions in nn.functional that have the name of a layer in `_LAYERS`, with that name."""
    layers = {name.lower(): name for name in _LAYERS}
    plain = {name: name.replace("_", "") for name in vars(functional)}
    return {name: layers[key] for name, key in plain.items() if key in layers}


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

    def __init__(self, onnx: Any, model: Module, taken: set[str]) -> None:
        self.onnx, self.taken, self.path = onnx, taken, ""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.batch = ("", 0, 0, 0)  # an input and its open axis, with the sizes in the two runs
        self.names: dict[Any, str] = {}
        self.indices: dict[str, list[np.ndarray]] = {}
        self._constants: dict[Any, str] = {}
        owned = (*model.named_buffers(), *model.named_parameters())
        self.owned = {_key(tensor): (name, tensor) for name, tensor in owned}

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
        self.nodes.append(self.onnx.helper.make_node(operator, given, made, name, **options))
        return made[0] if outputs == 1 else made

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        content = (name, array.dtype, array.shape, array.tobytes())
        if content not in self._constants:
            made = self._constants[content] = self.unique(name or f"{self.path}/constant")
            data = np.asarray(array, order="C")
            self.initializers.append(self.onnx.numpy_helper.from_array(data, made))
        return self._constants[content]

    def info(self, name: str, first: Tensor, second: Tensor) -> Any:
        """The dtype and shape of an input or output, open where the runs differ."""
        shape = [
            n if n == m else "batch" if (n, m) == self.batch[2:] else None
            for n, m in zip(first.shape, second.shape, strict=True)
        ]
        dtype = self.onnx.helper.np_dtype_to_tensor_dtype(first.dtype)
        return self.onnx.helper.make_tensor_value_info(name, dtype, shape)

    def bind(self, name: str, first: Tensor, second: Tensor) -> None:
        self.names[0, _key(first)] = self.names[1, _key(second)] = name
        if first.dtype.kind in "bi":
            self.indices[name] = [first.numpy(), second.numpy()]

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
            if step.name not in _RULES:
                layers, functions = map(", ".join, supported())
                step.fail(
                    f"the primitive {step.name!r} has no translation; supported are the layers "
                    f"{layers}, and all that consists of the primitives {functions}",
                    _MISSING,
                )
            step.graph, dtype = self, _common_dtype(step)
            pairs = zip(step.inputs, twin.inputs, strict=True)
            made = _RULES[step.name](step, *(step.value(x, y, dtype) for x, y in pairs))
            names = made if isinstance(made, list) else [made]
            for row in zip(names, step.outputs, twin.outputs, strict=True):
                self.bind(*row)

    def publish(self, results: list[Any]) -> None:
        """Give the values of the model's outputs the names that these have, and drop the rest."""
        self.path = ""
        step = _Step("", "the model", "the output", [], {}, [], None, self)
        renamed: dict[str, str] = {}
        for name, *pair in results:
            value = step.value(*pair)
            if value in renamed or not any(value in node.output for node in self.nodes):
                value = self.node("Identity", value)
            renamed[value] = name
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        used, kept = {name for name, *_ in results}, []
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.initializers = [array for array in self.initializers if array.name in used]


@dataclass
class _Step:
    """A primitive, or a layer that ONNX knows: what went in and came out."""

    path: str  # of the module that was running
    kind: str  # its class
    name: str  # of the primitive or the layer
    inputs: list[Any]  # Tensors; of a primitive numbers too
    attributes: dict[str, Any]  # of a layer, its members; of a function, its arguments
    outputs: list[Tensor]
    twin: Any = None  # the same step of the other run
    graph: Any = None  # that it becomes a part of

    def fail(self, message: str, error: type[Exception] = ValueError) -> NoReturn:
        raise error(f"onnx.export: {self.path or 'the model'!r} ({self.kind}): {message}")

    def node(self, operator: str, *inputs: Any, **options: Any) -> Any:
        return self.graph.node(operator, *inputs, **options)

    def value(self, first: Any, second: Any, dtype: Any = None) -> str:
        """The name of a Tensor or number: computed, a parameter, or else a constant."""
        graph, keys = self.graph, (_key(first), _key(second))
        if not isinstance(first, Tensor):
            if not _equal(first, second):
                self.fail(f"a number that enters {self.name} depends on the data")
            return str(graph.constant(np.asarray(first, dtype)))
        name, other = (graph.names.get(pair) for pair in enumerate(keys))
        if name != other:
            self.fail(f"{self.name} got other operands on other data")
        if name is None:
            if keys[0] in graph.owned and keys[0] == keys[1]:
                owned, parameter = graph.owned[keys[0]]
                name = graph.constant(parameter.numpy(), owned)
            else:
                name = self._fixed(first.numpy(), second.numpy())
            graph.bind(name, first, second)
        return name if dtype is None or first.dtype == dtype else self.cast(name, dtype)

    def index(self, first: np.ndarray, second: np.ndarray) -> str | None:
        """The name of an index or mask that was computed, which may have been copied since; None
        for what is no Tensor."""
        names = {self.graph.names.get(key) for key in enumerate((_key(first), _key(second)))}
        if len(names) == 1 and None not in names:
            return str(names.pop())
        pairs = self.graph.indices.items()
        name = next((name for name, pair in pairs if _equal(pair, [first, second])), None)
        if name is not None and first.dtype.kind == "i" and _equal(first, second):
            self.fail(
                f"the index of {self.name} was {first!r:.80} on other data too; give an example in "
                f"which {name!r}, which is equal to it, has several values"
            )
        return name

    def _fixed(self, first: np.ndarray, second: np.ndarray) -> str:
        """An array that no recorded operation made: it must not depend on the data, and on the
        batch only with its shape."""
        if np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
            return str(self.graph.constant(first))
        values = np.unique(np.concatenate([first.reshape(-1), second.reshape(-1)]))
        # Zeros of the batch's shape are a state to start from; a mask is made of the data.
        if first.ndim == second.ndim and len(values) == 1 and values.dtype.kind != "b":
            shape = self.sizes(first.shape, second.shape)
            return str(self.node("Expand", values, shape))
        self.fail(
            f"an operand of {self.name}, of shape {first.shape}, depends on the data but was made "
            "by no operation that the engine reports (NumPy code, argmax, logical_and, an index)"
        )

    def own(self, member: str) -> str:
        """The name of a layer's parameter or buffer, "" for None."""
        first, second = self.attributes.get(member), self.twin.attributes.get(member)
        return "" if first is None else self.value(first, second)

    def own_array(self, member: str) -> np.ndarray:
        """A layer's parameter, to be rearranged; it must not be the result of an operation."""
        parameter: Tensor = self.attributes[member]
        if (0, _key(parameter)) in self.graph.names and _key(parameter) not in self.graph.owned:
            self.fail(f"{member} is computed, not a parameter", _MISSING)
        return parameter.numpy()

    def attribute(self, name: str) -> Any:
        return self.both(name, lambda step: step.attributes[name])

    def both(self, name: str, of: Callable[[_Step], Any]) -> Any:
        """What holds of a step in both runs."""
        value, other = of(self), of(self.twin)
        if not _equal(value, other):
            self.fail(
                f"the {name} of {self.name} was {value!r:.80} and, on other data, {other!r:.80}; "
                "it cannot depend on them"
            )
        return value

    def cast(self, name: str, dtype: Any) -> str:
        to = self.graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return str(self.node("Cast", name, to=to))

    def sizes(self, first: Any, second: Any, infer: bool = False) -> Any:
        """A shape for Reshape (`infer`: one size may be -1) or Expand, that follows the batch."""
        if len(first) != len(second):
            self.fail(f"{self.name} gives the rank {len(first)}, on other data {len(second)}")
        varying = [d for d in range(len(first)) if first[d] != second[d]]
        if not varying or (infer and len(varying) == 1 and 0 not in first):
            return np.array([-1 if d in varying else n for d, n in enumerate(first)], np.int64)
        pieces = []
        for n, m in zip(first, second, strict=True):
            if n == m:
                pieces.append(self.graph.constant(np.array([n], np.int64)))
                continue
            source, axis, old, new = self.graph.batch
            if not old or n % old or n // old * new != m:
                self.fail(f"a size in {self.name} is {n}, on other data {m}")
            size = self.node("Shape", source, start=axis, end=axis + 1)
            pieces.append(self.node("Mul", size, np.array([n // old], np.int64)))
        return self.node("Concat", *pieces, axis=0)


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
        return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b or a != a)


def _common_dtype(step: _Step) -> Any:
    """The dtype that ONNX, which converts nothing, wants of all inputs; None where they differ."""
    if step.name in _LAYERS or step.name in ("where", "astype"):
        return None
    if step.outputs[0].dtype != bool:
        return step.outputs[0].dtype
    return np.result_type(*[x.dtype if isinstance(x, Tensor) else x for x in step.inputs])


# ----------------------------------------------------------------------------------- the primitives
def _reduction(operator: str) -> Callable[..., Any]:
    def apply(step: _Step, x: str, keepdims: bool | None = None) -> Any:
        keep = step.attribute("keepdims") if keepdims is None else keepdims
        axes = np.array(step.attribute("axis"), np.int64)
        return step.node(operator, x, axes, keepdims=int(keep), noop_with_empty_axes=1)

    return apply


_mean = _reduction("ReduceMean")


def _var(step: _Step, x: str) -> Any:
    distance = step.node("Sub", x, _mean(step, x, True))
    var = _mean(step, step.node("Mul", distance, distance))
    if correction := step.attribute("correction"):
        count, other = (s.inputs[0].size / max(s.outputs[0].size, 1) for s in (step, step.twin))
        if count != other:
            step.fail("var with a correction, over the batch, depends on the size of the batch")
        factor = count / (count - correction) if count > correction else np.nan
        var = step.node("Mul", var, np.array(factor, step.outputs[0].dtype))
    return var


def _to_shape(operator: str, infer: bool, **options: int) -> Callable[..., Any]:
    def apply(step: _Step, x: str) -> Any:
        sizes = step.sizes(step.outputs[0].shape, step.twin.outputs[0].shape, infer)
        return step.node(operator, x, sizes, **options)

    return apply


def _getitem(step: _Step, x: str) -> Any:
    given = (s.attributes["index"] for s in (step, step.twin))
    index, other = (i if isinstance(i, tuple) else (i,) for i in given)
    arrays = [d for d, part in enumerate(index) if isinstance(part, (np.ndarray, list))]
    if arrays:
        d, array = arrays[0], np.asarray(index[arrays[0]])
        others = index[:d] + index[d + 1 :]
        name = step.index(array, np.asarray(other[d]))
        usable = array.dtype.kind == "i" or (name and d == 0)
        if not usable or not all(_equal(part, slice(None)) for part in others):
            step.fail(
                "of indices with arrays only integers are supported, in one axis, and masks that "
                "an operation made, of the first axes",
                _MISSING,
            )
        if array.dtype.kind == "b":
            places = step.node("Transpose", step.node("NonZero", name), perm=(1, 0))
            return step.node("GatherND", x, places)
        if name is None:
            step.attribute("index")
        return step.node("Gather", x, name or array.astype(np.int64), axis=d)
    step.attribute("index")
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
        x = step.node("Slice", x, *np.array(slices, np.int64).T)
    if dropped:
        x = step.node("Squeeze", x, np.array(dropped))
    return step.node("Unsqueeze", x, np.array(new)) if new else x


def _take_along_axis(step: _Step, x: str) -> Any:
    first, second = (s.attributes["indices"].array for s in (step, step.twin))
    indices = step.index(first, second) or step.value(Tensor(first), Tensor(second))
    return step.node("GatherElements", x, indices, axis=step.attribute("axis"))


def _pad(step: _Step, x: str) -> Any:
    """With a constant; the other modes are indices."""

    def widths(step: _Step) -> list[int]:
        before = [part.start for part in step.attributes["index"][:-1]]
        after = np.subtract(step.outputs[0].shape, step.inputs[0].shape) - before
        return [*before, *after.tolist()]

    y, added = step.outputs[0].numpy(), np.ones(step.outputs[0].shape, bool)
    added[step.attributes["index"]] = False
    value = np.array(np.append(y[added], 0)[0], y.dtype)
    return step.node("Pad", x, np.array(step.both("padding", widths)), value)


def _remainder(step: _Step, x: str, y: str) -> Any:
    """The sign is that of y, in ONNX only for integers; fmod=1 for floats gives that of x."""
    if step.outputs[0].dtype.kind == "i":
        return step.node("Mod", x, y)
    rest = step.node("Mod", x, y, fmod=1)
    signs = step.node("Mul", step.node("Sign", rest), y)
    other = step.node("Less", signs, np.zeros((), step.outputs[0].dtype))
    return step.node("Where", other, step.node("Add", rest, y), rest)


def _clip(step: _Step, x: str, *bounds: float) -> Any:
    low, high = bounds or (step.attribute(name) for name in ("low", "high"))
    dtype = step.outputs[0].dtype
    return step.node("Clip", x, np.array(low, dtype), np.array(high, dtype))


def _gated(step: _Step, x: str, gate: Any) -> Any:
    """x times a gate that is 0 at -inf, where the limit is -0 and not -inf * 0 = NaN."""
    dtype = step.outputs[0].dtype
    return step.node("Mul", step.node("Max", x, np.array(np.finfo(dtype).min, dtype)), gate)


def _gelu(step: _Step, x: str) -> Any:
    half, one, root = (np.array(v, step.outputs[0].dtype) for v in (0.5, 1.0, 0.5**0.5))
    erf = step.node("Erf", step.node("Mul", x, root))
    return _gated(step, x, step.node("Mul", step.node("Add", erf, one), half))


def _mish(step: _Step, x: str) -> Any:
    return _gated(step, x, step.node("Tanh", step.node("Softplus", x)))


def _silu(step: _Step, x: str) -> Any:
    return _gated(step, x, step.node("Sigmoid", x))


def _weigh(step: _Step, x: str, y: str) -> Any:
    """x * y, where an infinite x counts as 0 if y is 0."""
    zero = np.zeros((), step.outputs[0].dtype)
    unseen = step.node("And", step.node("Equal", y, zero), step.node("IsInf", x))
    return step.node("Mul", step.node("Where", unseen, zero, x), y)


def _hypot(step: _Step, x: str, y: str) -> Any:
    """The larger one times sqrt(1 + q²), q the smaller by the larger, which does not overflow; the
    larger itself where it is 0 or infinite."""
    low, zero = (np.array(v, step.outputs[0].dtype) for v in (1.0, 0.0))
    x, y = (step.node("Abs", name) for name in (x, y))
    large, small = step.node("Max", x, y), step.node("Min", x, y)
    plain = step.node("Or", step.node("Equal", large, zero), step.node("IsInf", large))
    ratio = step.node("Div", small, step.node("Where", plain, low, large))
    ratio = step.node("Where", plain, zero, ratio)
    root = step.node("Sqrt", step.node("Add", step.node("Mul", ratio, ratio), low))
    return step.node("Mul", large, root)


def _lstm_cell(step: _Step, gates: str, cell: str) -> Any:
    blocks = step.node("Split", gates, axis=0, num_outputs=4, outputs=4)
    i, f, o = (step.node("Sigmoid", blocks[k]) for k in (0, 1, 3))
    new = step.node("Mul", i, step.node("Tanh", blocks[2]))
    new = step.node("Add", step.node("Mul", f, cell), new)
    return step.node("Concat", new, step.node("Mul", o, step.node("Tanh", new)), axis=0)


def _chain(*operators: str) -> Callable[..., Any]:
    """The operators one after the other."""

    def apply(step: _Step, *x: Any) -> Any:
        for operator in operators:
            x = (step.node(operator, *x),)
        return x[0]

    return apply


def _with_one(step: _Step, operator: str, x: str) -> Any:
    return step.node(operator, x, np.ones((), step.outputs[0].dtype))


def _simple(operator: str, names: str = "", /, **constants: Any) -> Callable[..., Any]:
    """One node with these attributes, and those of the step that `names` lists, as name or, where
    ONNX calls them otherwise, as onnx=name."""
    pairs = [(name.split("=")[0], name.split("=")[-1]) for name in names.split()]

    def apply(step: _Step, *x: str) -> Any:
        values = {key: step.attribute(name) for key, name in pairs}
        return step.node(operator, *x, **constants, **values)

    return apply


_PRIMITIVES: dict[str, Callable[..., Any]] = {
    **{
        name: _simple(name.capitalize())  # ONNX's own names
        for name in "abs acos acosh add asin asinh atan atanh ceil cos cosh equal erf exp floor "  # noqa: SIM905
        "greater less log pow reciprocal relu round sigmoid sign sin sinh softplus sqrt tan tanh "
        "where".split()
    },
    **{name: _reduction(f"Reduce{name.capitalize()}") for name in ("max", "min", "prod", "sum")},
    "astype": lambda step, x: step.cast(x, step.outputs[0].dtype),
    "broadcast_to": _to_shape("Expand", False),
    "clip": _clip,
    "concat": _simple("Concat", "axis"),
    "divide": _simple("Div"),
    "expm1": lambda step, x: _with_one(step, "Sub", step.node("Exp", x)),
    "gelu": _gelu,
    "getitem": _getitem,
    "greater_equal": _simple("GreaterOrEqual"),
    "hypot": _hypot,
    "less_equal": _simple("LessOrEqual"),
    "linear": _simple("Gemm", transB=1),
    "log1p": lambda step, x: step.node("Log", _with_one(step, "Add", x)),
    "log_softmax": _simple("LogSoftmax", "axis"),
    "logsigmoid": _chain("Neg", "Softplus", "Neg"),
    "logsumexp": _reduction("ReduceLogSumExp"),
    "lstm_cell": _lstm_cell,
    "matmul": _simple("MatMul"),
    "maximum": _simple("Max"),
    "mean": _mean,
    "minimum": _simple("Min"),
    "mish": _mish,
    "multiply": _simple("Mul"),
    "negative": _simple("Neg"),
    "not_equal": _chain("Equal", "Not"),
    "pad": _pad,
    "permute_dims": _simple("Transpose", "perm=axes"),
    "remainder": _remainder,
    "reshape": _to_shape("Reshape", True, allowzero=1),
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "silu": _silu,
    "square": lambda step, x: step.node("Mul", x, x),
    "subtract": _simple("Sub"),
    "take_along_axis": _take_along_axis,
    "sum_product": lambda step, x, y: _reduction("ReduceSum")(step, step.node("Mul", x, y)),
    "var": _var,
    "weigh": _weigh,
}


# --------------------------------------------------------------------------------------- the layers
def _batch_norm(step: _Step, x: str) -> Any:
    ones = np.ones_like(step.attributes["running_mean"].numpy())
    weight, bias = step.own("weight") or ones, step.own("bias") or 0 * ones
    operands = (x, weight, bias, step.own("running_mean"), step.own("running_var"))
    return step.node("BatchNormalization", *operands, epsilon=step.attributes["eps"])


def _layer_norm(step: _Step, x: str) -> Any:
    shape = np.zeros(step.attributes["normalized_shape"]).shape  # an int is a shape too
    weight = step.own("weight") or np.ones(shape, step.outputs[0].dtype)
    options = {"axis": -len(shape), "epsilon": step.attributes["eps"]}
    return step.node("LayerNormalization", x, weight, step.own("bias"), **options)


def _embedding(step: _Step, x: str) -> Any:
    return step.node("Gather", step.own("weight"), x, axis=0)


_UNSUPPORTED = {"padding_mode": "zeros", "divisor_override": None, "return_indices": False}


def _window(operator: str, rank: int, **options: str) -> Callable[..., Any]:
    """A convolution or pooling over `rank` dimensions; options: ONNX's names of more attributes."""

    def apply(step: _Step, x: str) -> Any:
        given = {name: value for name, value in step.attributes.items() if value is not None}
        if step.inputs[0].ndim != rank + 2:
            step.fail("an input without a batch axis is not supported", _MISSING)
        for name, plain in _UNSUPPORTED.items():
            if given.get(name, plain) != plain:
                step.fail(f"{name}={given[name]!r} is not supported", _MISSING)
        given |= {"kernel_size": given["weight"].shape[2:]} if "weight" in given else {}
        given = {"stride": given["kernel_size"], "dilation": 1} | given
        kernel, stride, dilation = (
            per_axis(given[name], rank, name) for name in ("kernel_size", "stride", "dilation")
        )
        pads = zip(*padded(operator, given["padding"], kernel, stride, dilation), strict=True)
        attributes: Any = {key: int(given[name]) for key, name in options.items()}
        attributes |= {"kernel_shape": kernel, "strides": stride, "pads": sum(pads, ())}
        if attributes.get("ceil_mode"):
            attributes["ceil_mode"] = _rounded_up(
                step, kernel, stride, dilation, attributes["pads"]
            )
        if operator != "AveragePool":  # which has them since opset 19
            attributes["dilations"] = dilation
        if operator == "ConvTranspose":
            attributes["output_padding"] = per_axis(given["output_padding"], rank, operator, 0)
        weights = step.own("weight"), step.own("bias")
        return step.node(operator, x, *weights, **attributes)

    return apply


def _rounded_up(step: _Step, kernel: Any, stride: Any, dilation: Any, pads: Any) -> int:
    """ONNX's ceil_mode for the windows that there are: before opset 22 its shape inference counts
    one that begins behind the input, which is dropped; what is left is as many as rounded down."""
    added = []
    for axis, (size, count) in enumerate(
        zip(step.inputs[0].shape[2:], step.outputs[0].shape[2:], strict=True)
    ):
        room = (
            size + pads[axis] + pads[axis + len(kernel)] - dilation[axis] * (kernel[axis] - 1) - 1
        )
        if room % stride[axis]:
            added.append(count > room // stride[axis] + 1)
    if len(set(added)) > 1:
        step.fail(
            "ceil_mode where a last window is dropped in one axis and kept in the other", _MISSING
        )
    return int(any(added))


def _adaptive_pool(step: _Step, x: str) -> Any:
    given, made = (tensors[0].shape[2:] for tensors in (step.inputs, step.outputs))
    if any(n % m for n, m in zip(given, made, strict=True)):
        step.fail(f"pooling {given} to {made}, in windows of different sizes", _MISSING)
    kernel = [n // m for n, m in zip(given, made, strict=True)]
    return step.node("AveragePool", x, kernel_shape=kernel, strides=kernel)


# ONNX's order of the gates in PyTorch's: LSTM i, o, f, c of i, f, g, o; GRU z, r, h of r, z, n.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def _recurrent(step: _Step, x: str, *initial: str) -> Any:
    layer, kind, states = SimpleNamespace(**step.attributes), step.name, list(initial)
    if getattr(layer, "proj_size", 0):
        step.fail("proj_size is not supported", _MISSING)
    batched = step.inputs[0].ndim == 3
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    options: dict[str, Any] = {"hidden_size": layer.hidden_size, "outputs": len(step.outputs)}
    options["direction"] = "bidirectional" if layer.bidirectional else "forward"
    if kind == "GRU":
        options["linear_before_reset"] = 1
    if kind == "RNN":
        options["activations"] = [layer.nonlinearity.capitalize()] * len(suffixes)

    def gates(k: int, *names: str) -> np.ndarray:
        """Weights, or the two biases, of all directions of layer k, in ONNX's order."""
        rows = []
        for suffix in suffixes:
            owned = [step.own_array(f"{name}_l{k}{suffix}") for name in names]
            blocks = [np.split(array, len(_GATES[kind])) for array in owned]
            rows.append(np.concatenate([parts[i] for parts in blocks for i in _GATES[kind]]))
        return np.stack(rows)

    if not batched:
        x, *states = (step.node("Unsqueeze", name, np.array([1])) for name in (x, *states))
    elif layer.batch_first:
        x = step.node("Transpose", x, perm=(1, 0, 2))
    finals: list[list[str]] = []
    for k in range(layer.num_layers):
        bias = gates(k, "bias_ih", "bias_hh") if layer.bias else ""
        rows = np.arange(k * len(suffixes), (k + 1) * len(suffixes))
        start = [step.node("Gather", state, rows, axis=0) for state in states]
        weights = (gates(k, "weight_ih"), gates(k, "weight_hh"), bias)
        x, *final = step.node(kind, x, *weights, "", *start, **options)
        x = step.node("Transpose", x, perm=(0, 2, 1, 3))  # time, batch, direction, hidden
        x = step.node("Reshape", x, np.array([0, 0, -1]))
        finals.append(final)
    last = [step.node("Concat", *names, axis=0) for names in zip(*finals, strict=True)]
    if not batched:
        x, *last = (step.node("Squeeze", name, np.array([1])) for name in (x, *last))
    elif layer.batch_first:
        x = step.node("Transpose", x, perm=(1, 0, 2))
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
    "ConvTranspose1d": _window("ConvTranspose", 1, group="groups"),
    "ConvTranspose2d": _window("ConvTranspose", 2, group="groups"),
    "Embedding": _embedding,
    "GRU": _recurrent,
    "Hardsigmoid": _simple("HardSigmoid", alpha=1 / 6),
    "Hardswish": _simple("HardSwish"),
    "Hardtanh": lambda step, x: _clip(
        step, x, step.attributes["min_val"], step.attributes["max_val"]
    ),
    "LSTM": _recurrent,
    "LayerNorm": _layer_norm,
    "MaxPool1d": _window("MaxPool", 1, ceil_mode="ceil_mode"),
    "MaxPool2d": _window("MaxPool", 2, ceil_mode="ceil_mode"),
    "RNN": _recurrent,
    "ReLU6": lambda step, x: _clip(step, x, 0, 6),
    "Softmax": _simple("Softmax", "axis=dim"),
}
_RULES = _PRIMITIVES | _LAYERS
