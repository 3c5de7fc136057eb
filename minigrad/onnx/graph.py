"""The builder of an ONNX graph, and the steps of a model that become its nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Number
from typing import Any, NoReturn

import numpy as np

from .._core.engine.graph import Tensor
from ..nn.module import Module


class GraphBuilder:
    """Collects nodes and initializers, and maps the tensors of the two runs to names."""

    def __init__(self, onnx: Any, model: Module, taken: set[str]) -> None:
        self.onnx, self.taken, self.path = onnx, taken, ""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.batch = ("", 0, 0, 0)  # an input and its open axis, with the sizes in the two runs
        self.names: dict[Any, str] = {}
        self.indices: dict[str, list[np.ndarray]] = {}
        self._constants: dict[Any, str] = {}
        owned = (*model.named_buffers(), *model.named_parameters())
        self.owned = {key_of(tensor): (name, tensor) for name, tensor in owned}

    def unique(self, name: str) -> str:
        """`name`, with a number appended if it is taken."""
        candidate, count = name, 0
        while candidate in self.taken:
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate

    def node(self, operator: str, *inputs: Any, outputs: int = 1, **options: Any) -> Any:
        """Add a node; its array inputs become initializers. Returns its output name or a list."""
        name = self.unique(f"{self.path}/{operator}")
        made = [self.unique(f"{name}_output") for _ in range(outputs)]
        given = [self.constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        while given and not given[-1]:
            given.pop()
        self.nodes.append(self.onnx.helper.make_node(operator, given, made, name, **options))
        return made[0] if outputs == 1 else made

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        """The name of an initializer with this content, added if there is none yet."""
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
        """Map a Tensor of each run to the value called `name`."""
        self.names[0, key_of(first)] = self.names[1, key_of(second)] = name
        if first.dtype.kind in "bi":
            self.indices[name] = [first.numpy(), second.numpy()]

    def publish(self, results: list[Any]) -> None:
        """Rename the values that are the model's outputs, and drop unused nodes."""
        self.path = ""
        step = TracedStep("", "the model", "the output", [], {}, [], None, self)
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
class TracedStep:
    """A primitive, or a layer that ONNX supports: its inputs and outputs."""

    path: str  # of the module that was running
    kind: str  # its class
    name: str  # of the primitive or the layer
    inputs: list[Any]  # Tensors; for a primitive also numbers
    attributes: dict[str, Any]  # for a layer its members, for a function its arguments
    outputs: list[Tensor]
    twin: Any = None  # the same step in the other run
    graph: Any = None  # the builder

    def fail(self, message: str, error: type[Exception] = ValueError) -> NoReturn:
        """Raise an error that names the module."""
        raise error(f"onnx.export: {self.path or 'the model'!r} ({self.kind}): {message}")

    def unsupported(self, message: str) -> NoReturn:
        """Raise NotImplementedError that names the module."""
        self.fail(message, NotImplementedError)

    def node(self, operator: str, *inputs: Any, **options: Any) -> Any:
        """`GraphBuilder.node`, with number inputs converted to the dtype of the step's output."""
        given = (np.array(x, self.dtype) if isinstance(x, Number) else x for x in inputs)
        return self.graph.node(operator, *given, **options)

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        """`step.Add(x, y)` is `step.node("Add", x, y)`, for all of ONNX's operators."""
        if not operator[0].isupper():
            raise AttributeError(operator)
        return partial(self.node, operator)

    @property
    def dtype(self) -> Any:
        """The dtype of the first output."""
        return self.outputs[0].dtype

    def value(self, first: Any, second: Any, dtype: Any = None) -> str:
        """The name of a Tensor or number: computed, a parameter, or a constant."""
        graph, keys = self.graph, (key_of(first), key_of(second))
        if not isinstance(first, Tensor):
            if not equal(first, second):
                self.fail(f"a number that enters {self.name} depends on the data")
            return str(graph.constant(np.asarray(first, dtype)))
        name, other = (graph.names.get(pair) for pair in enumerate(keys))
        if name != other:
            self.fail(f"{self.name} has different operands on other data")
        if name is None:
            if keys[0] in graph.owned and keys[0] == keys[1]:
                owned, parameter = graph.owned[keys[0]]
                name = graph.constant(parameter.numpy(), owned)
            else:
                name = self._fixed(first.numpy(), second.numpy())
            graph.bind(name, first, second)
        return name if dtype is None or first.dtype == dtype else self.cast(name, dtype)

    def index(self, first: np.ndarray, second: np.ndarray) -> str | None:
        """The name of a computed index or mask, which may have been copied since; None if it is
        not a Tensor."""
        names = {self.graph.names.get(key) for key in enumerate((key_of(first), key_of(second)))}
        if len(names) == 1 and None not in names:
            return str(names.pop())
        pairs = self.graph.indices.items()
        name = next((name for name, pair in pairs if equal(pair, [first, second])), None)
        if name is not None and first.dtype.kind == "i" and equal(first, second):
            self.fail(
                f"the index of {self.name} was {first!r:.80} on other data too; give an example in "
                f"which {name!r}, which equals it, has several values"
            )
        return name

    def _fixed(self, first: np.ndarray, second: np.ndarray) -> str:
        """An array that no recorded operation made. It must not depend on the data, and only its
        shape may depend on the batch."""
        if np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
            return str(self.graph.constant(first))
        values = np.unique(np.concatenate([first.reshape(-1), second.reshape(-1)]))
        # Zeros of the batch's shape are an initial state; a mask is computed from the data.
        if first.ndim == second.ndim and len(values) == 1 and values.dtype.kind != "b":
            shape = self.sizes(first.shape, second.shape)
            return str(self.Expand(values, shape))
        self.fail(
            f"an operand of {self.name}, of shape {first.shape}, depends on the data but was made "
            "by no operation that the engine reports (NumPy code, argmax, logical_and, an index)"
        )

    def own(self, member: str) -> str:
        """The name of a layer's parameter or buffer, "" for None."""
        first, second = self.attributes.get(member), self.twin.attributes.get(member)
        return "" if first is None else self.value(first, second)

    def own_array(self, member: str) -> np.ndarray:
        """A layer's parameter, to be rearranged; it must not be a computed value."""
        parameter: Tensor = self.attributes[member]
        if (0, key_of(parameter)) in self.graph.names and key_of(parameter) not in self.graph.owned:
            self.unsupported(f"{member} is computed, not a parameter")
        return parameter.numpy()

    def attribute(self, name: str) -> Any:
        """An attribute, which must be the same in both runs."""
        return self.both(name, lambda step: step.attributes[name])

    def both(self, name: str, of: Callable[[TracedStep], Any]) -> Any:
        """A property of the step, which must be the same in both runs."""
        value, other = of(self), of(self.twin)
        if not equal(value, other):
            self.fail(
                f"the {name} of {self.name} was {value!r:.80} and, on other data, {other!r:.80}; "
                "it must not depend on the data"
            )
        return value

    def cast(self, name: str, dtype: Any) -> str:
        """The value called `name`, converted to another dtype."""
        to = self.graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return str(self.Cast(name, to=to))

    def sizes(self, first: Any, second: Any, infer: bool = False) -> Any:
        """A shape for Reshape (`infer`: one size may be -1) or Expand, which follows the batch."""
        if len(first) != len(second):
            self.fail(f"{self.name} gives the rank {len(first)}, but {len(second)} on other data")
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
                self.fail(f"a size in {self.name} is {n}, but {m} on other data")
            size = self.Shape(source, start=axis, end=axis + 1)
            pieces.append(self.Mul(size, np.array([n // old], np.int64)))
        return self.Concat(*pieces, axis=0)


def key_of(value: Any) -> Any:
    """A key that is equal for two Tensors or arrays if they are the same view of memory."""
    array = value._array if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray):
        return None
    return array.ctypes.data, array.shape, array.strides, array.dtype


def equal(a: Any, b: Any) -> bool:
    """Whether a and b are equal in type and value; NaN equals NaN."""
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b or a != a)
