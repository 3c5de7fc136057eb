"""Translation rules: from a primitive, or a layer that ONNX supports, to ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import numpy as np

from .._core.engine.graph import Tensor, result_type
from ..checks import per_axis
from ..nn.conv import _padding as padded
from .graph import GraphBuilder, TracedStep, equal

Rule = Callable[..., Any]  # maps a step and the names of its inputs to the names of its outputs

_END = np.iinfo(np.int64).max


def _chain(operators: str, attributes: str = "", /, **constants: Any) -> Rule:
    """Apply the operators in sequence. The first gets `constants` and the step's attributes that
    are listed as name, or as onnx=name where ONNX has another name."""
    pairs = [(name.split("=")[0], name.split("=")[-1]) for name in attributes.split()]

    def apply(step: TracedStep, *x: str) -> Any:
        options = constants | {key: step.attribute(name) for key, name in pairs}
        for operator in operators.split():
            x, options = (step.node(operator, *x, **options),), {}
        return x[0]

    return apply


# ----------------------------------------------------------------------------------- the primitives
def _reduce_op(operator: str) -> Rule:
    def apply(step: TracedStep, x: str, keepdims: bool | None = None) -> Any:
        keep = step.attribute("keepdims") if keepdims is None else keepdims
        axes = np.array(step.attribute("axis"), np.int64)
        return step.node(operator, x, axes, keepdims=int(keep), noop_with_empty_axes=1)

    return apply


_mean, _sum = _reduce_op("ReduceMean"), _reduce_op("ReduceSum")


def _var(step: TracedStep, x: str) -> Any:
    distance = step.Sub(x, _mean(step, x, True))
    var = _mean(step, step.Mul(distance, distance))
    if correction := step.attribute("correction"):
        count, other = (s.inputs[0].size / max(s.outputs[0].size, 1) for s in (step, step.twin))
        if count != other:
            step.fail("var over the batch, with a correction, depends on the size of the batch")
        var = step.Mul(var, count / (count - correction) if count > correction else np.nan)
    return var


def _to_shape(operator: str, infer: bool, **options: int) -> Rule:
    def apply(step: TracedStep, x: str) -> Any:
        sizes = step.sizes(step.outputs[0].shape, step.twin.outputs[0].shape, infer)
        return step.node(operator, x, sizes, **options)

    return apply


def _getitem(step: TracedStep, x: str) -> Any:
    given = (s.attributes["index"] for s in (step, step.twin))
    index, other = (i if isinstance(i, tuple) else (i,) for i in given)
    arrays = [d for d, part in enumerate(index) if isinstance(part, (np.ndarray, list))]
    if arrays:
        d, array = arrays[0], np.asarray(index[arrays[0]])
        others = index[:d] + index[d + 1 :]
        name = step.index(array, np.asarray(other[d]))
        usable = array.dtype.kind == "i" or (name and d == 0)
        if not usable or not all(equal(part, slice(None)) for part in others):
            step.unsupported(
                "indexing with arrays supports only integers along one axis, and masks of the "
                "first axes that an operation computed"
            )
        if array.dtype.kind == "b":
            places = step.Transpose(step.NonZero(name), perm=(1, 0))
            return step.GatherND(x, places)
        if name is None:
            step.attribute("index")
        return step.Gather(x, name or array.astype(np.int64), axis=d)
    step.attribute("index")
    index = index if Ellipsis in index else (*index, Ellipsis)
    place = index.index(Ellipsis)
    missing = step.inputs[0].ndim + 1 - sum(part is not None for part in index)
    slices, dropped, new = [], [], []
    axis = position = 0  # the axis of x, and that of the result
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
        x = step.Slice(x, *np.array(slices, np.int64).T)
    if dropped:
        x = step.Squeeze(x, np.array(dropped))
    return step.Unsqueeze(x, np.array(new)) if new else x


def _linear(step: TracedStep, x: str, weight: str, *bias: str) -> Any:
    ndim = step.inputs[1].ndim
    if ndim == 2:
        return step.Gemm(x, weight, *bias, transB=1)
    y = step.MatMul(x, step.Transpose(weight, perm=(*range(ndim - 2), ndim - 1, ndim - 2)))
    return step.Add(y, step.Unsqueeze(bias[0], np.array([ndim - 2]))) if bias else y


def _take_along_axis(step: TracedStep, x: str) -> Any:
    first, second = (s.attributes["indices"].array for s in (step, step.twin))
    indices = step.index(first, second) or step.value(Tensor(first), Tensor(second))
    return step.GatherElements(x, indices, axis=step.attribute("axis"))


def _constant_pad(step: TracedStep, x: str) -> Any:
    """Padding with a constant; the other modes are recorded as indexing."""

    def widths(step: TracedStep) -> list[int]:
        before = [part.start for part in step.attributes["index"][:-1]]
        after = np.subtract(step.outputs[0].shape, step.inputs[0].shape) - before
        return [*before, *after.tolist()]

    y, added = step.outputs[0].numpy(), np.ones(step.outputs[0].shape, bool)
    added[step.attributes["index"]] = False
    value = np.array(np.append(y[added], 0)[0], y.dtype)
    return step.Pad(x, np.array(step.both("padding", widths)), value)


def _remainder(step: TracedStep, x: str, y: str) -> Any:
    """The result has the sign of y; ONNX's Mod has it for integers only, fmod=1 that of x."""
    if step.dtype.kind == "i":
        return step.Mod(x, y)
    rest = step.Mod(x, y, fmod=1)
    other = step.Less(step.Mul(step.Sign(rest), y), 0)
    return step.Where(other, step.Add(rest, y), rest)


def _gated(step: TracedStep, x: str, gate: str) -> Any:
    """x times a gate that is 0 at -inf, where the limit is -0, not -inf * 0 = NaN."""
    return step.Mul(step.Max(x, np.finfo(step.dtype).min), gate)


def _gelu(step: TracedStep, x: str) -> Any:
    erf = step.Erf(step.Mul(x, 0.5**0.5))
    return _gated(step, x, step.Mul(step.Add(erf, 1), 0.5))


def _weigh(step: TracedStep, x: str, y: str) -> Any:
    """x * y, but 0 where y is 0 and x is infinite."""
    unseen = step.And(step.Equal(y, 0), step.IsInf(x))
    return step.Mul(step.Where(unseen, 0, x), y)


def _hypot(step: TracedStep, x: str, y: str) -> Any:
    """The larger times sqrt(1 + q²), where q is the smaller divided by the larger, which does not
    overflow; the larger itself if it is 0 or infinite."""
    x, y = step.Abs(x), step.Abs(y)
    large, small = step.Max(x, y), step.Min(x, y)
    plain = step.Or(step.Equal(large, 0), step.IsInf(large))
    ratio = step.Where(plain, 0, step.Div(small, step.Where(plain, 1, large)))
    return step.Mul(large, step.Sqrt(step.Add(step.Mul(ratio, ratio), 1)))


def _lstm_cell(step: TracedStep, gates: str, cell: str) -> Any:
    blocks = step.Split(gates, axis=0, num_outputs=4, outputs=4)
    i, f, o = (step.Sigmoid(blocks[k]) for k in (0, 1, 3))
    new = step.Mul(i, step.Tanh(blocks[2]))
    new = step.Add(step.Mul(f, cell), new)
    return step.Concat(new, step.Mul(o, step.Tanh(new)), axis=0)


_ONE_OPERATOR = """
    abs acos acosh add asin asinh atan atanh ceil cos cosh divide=Div equal erf exp floor greater
    greater_equal=GreaterOrEqual less less_equal=LessOrEqual log matmul=MatMul maximum=Max
    minimum=Min multiply=Mul negative=Neg pow reciprocal relu round sigmoid sign sin sinh softplus
    sqrt subtract=Sub tan tanh where
"""
PRIMITIVES: dict[str, Rule] = {
    **{
        name: _chain(operator or name.capitalize())
        for name, _, operator in (word.partition("=") for word in _ONE_OPERATOR.split())
    },
    **{name: _reduce_op(f"Reduce{name.capitalize()}") for name in ("max", "min", "prod", "sum")},
    "astype": lambda step, x: step.cast(x, step.dtype),
    "broadcast_to": _to_shape("Expand", False),
    "clip": lambda step, x: step.Clip(x, step.attribute("low"), step.attribute("high")),
    "concat": _chain("Concat", "axis"),
    "expm1": lambda step, x: step.Sub(step.Exp(x), 1),
    "gelu": _gelu,
    "getitem": _getitem,
    "hypot": _hypot,
    "linear": _linear,
    "log1p": lambda step, x: step.Log(step.Add(x, 1)),
    "log_softmax": _chain("LogSoftmax", "axis"),
    "logsigmoid": _chain("Neg Softplus Neg"),
    "logsumexp": _reduce_op("ReduceLogSumExp"),
    "lstm_cell": _lstm_cell,
    "mean": _mean,
    "mish": lambda step, x: _gated(step, x, step.Tanh(step.Softplus(x))),
    "not_equal": _chain("Equal Not"),
    "pad": _constant_pad,
    "permute_dims": _chain("Transpose", "perm=axes"),
    "remainder": _remainder,
    "reshape": _to_shape("Reshape", True, allowzero=1),
    "rsqrt": _chain("Sqrt Reciprocal"),
    "silu": lambda step, x: _gated(step, x, step.Sigmoid(x)),
    "square": lambda step, x: step.Mul(x, x),
    "sum_product": lambda step, x, y: _sum(step, step.Mul(x, y)),
    "take_along_axis": _take_along_axis,
    "var": _var,
    "weigh": _weigh,
}


# --------------------------------------------------------------------------------------- the layers
def _batch_norm(step: TracedStep, x: str) -> Any:
    ones = np.ones_like(step.attributes["running_mean"].numpy())
    weight, bias = step.own("weight") or ones, step.own("bias") or 0 * ones
    operands = (x, weight, bias, step.own("running_mean"), step.own("running_var"))
    return step.BatchNormalization(*operands, epsilon=step.attributes["eps"])


def _layer_norm(step: TracedStep, x: str) -> Any:
    shape = np.zeros(step.attributes["normalized_shape"]).shape  # an int is a shape too
    weight = step.own("weight") or np.ones(shape, step.dtype)
    options = {"axis": -len(shape), "epsilon": step.attributes["eps"]}
    return step.LayerNormalization(x, weight, step.own("bias"), **options)


_UNSUPPORTED = {"padding_mode": "zeros", "divisor_override": None, "return_indices": False}


def _window(operator: str, rank: int, **options: str) -> Rule:
    """A convolution or pooling over `rank` dimensions; options: ONNX name=attribute."""

    def apply(step: TracedStep, x: str) -> Any:
        given = {name: value for name, value in step.attributes.items() if value is not None}
        if step.inputs[0].ndim != rank + 2:
            step.unsupported("an input without a batch axis is not supported")
        for name, plain in _UNSUPPORTED.items():
            if given.get(name, plain) != plain:
                step.unsupported(f"{name}={given[name]!r} is not supported")
        given |= {"kernel_size": given["weight"].shape[2:]} if "weight" in given else {}
        given = {"stride": given["kernel_size"], "dilation": 1} | given
        kernel, stride, dilation = (
            per_axis(given[name], rank, name) for name in ("kernel_size", "stride", "dilation")
        )
        sides = zip(*padded(operator, given["padding"], kernel, stride, dilation), strict=True)
        pads: Any = sum(sides, ())  # all starts, then all ends
        attributes: Any = {key: int(given[name]) for key, name in options.items()}
        attributes |= {"kernel_shape": kernel, "strides": stride, "pads": pads}
        if attributes.get("ceil_mode"):
            attributes["ceil_mode"] = _rounded_up(step, kernel, stride, dilation, pads)
        if operator != "AveragePool":  # which has dilations since opset 19
            attributes["dilations"] = dilation
        if operator == "ConvTranspose":
            attributes["output_padding"] = per_axis(given["output_padding"], rank, operator, 0)
        weights = step.own("weight"), step.own("bias")
        return step.node(operator, x, *weights, **attributes)

    return apply


def _rounded_up(step: TracedStep, kernel: Any, stride: Any, dilation: Any, pads: Any) -> int:
    """ONNX's ceil_mode for our windows. Before opset 22 its shape inference counts a window that
    starts beyond the input. That window is dropped here, so the count is that of rounding down."""
    sizes, counts = (np.array(x.shape[2:]) for x in (step.inputs[0], step.outputs[0]))
    room = sizes + np.reshape(pads, (2, -1)).sum(0) - np.multiply(dilation, kernel) + dilation - 1
    added = set((counts > room // stride + 1)[room % stride > 0].tolist())
    if len(added) > 1:
        step.unsupported(
            "ceil_mode where a last window is dropped along one axis and kept along the other"
        )
    return int(any(added))


def _adaptive_pool(step: TracedStep, x: str) -> Any:
    given, made = (tensors[0].shape[2:] for tensors in (step.inputs, step.outputs))
    if any(n % m for n, m in zip(given, made, strict=True)):
        step.unsupported(f"pooling {given} to {made} needs windows of different sizes")
    kernel = [n // m for n, m in zip(given, made, strict=True)]
    return step.AveragePool(x, kernel_shape=kernel, strides=kernel)


# ONNX's order of the gates in PyTorch's: LSTM i, o, f, c in i, f, g, o; GRU z, r, h in r, z, n.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def _recurrent(step: TracedStep, x: str, *initial: str) -> Any:
    layer, kind, states = SimpleNamespace(**step.attributes), step.name, list(initial)
    if getattr(layer, "proj_size", 0):
        step.unsupported("proj_size is not supported")
    batched = step.inputs[0].ndim == 3
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    options: dict[str, Any] = {"hidden_size": layer.hidden_size, "outputs": len(step.outputs)}
    options["direction"] = "bidirectional" if layer.bidirectional else "forward"
    if kind == "GRU":
        options["linear_before_reset"] = 1
    if kind == "RNN":
        options["activations"] = [layer.nonlinearity.capitalize()] * len(suffixes)

    def gates(k: int, *names: str) -> np.ndarray:
        """The weights, or the two biases, of all directions of layer k, in ONNX's gate order."""
        rows = []
        for suffix in suffixes:
            owned = [step.own_array(f"{name}_l{k}{suffix}") for name in names]
            blocks = [np.split(array, len(_GATES[kind])) for array in owned]
            rows.append(np.concatenate([parts[i] for parts in blocks for i in _GATES[kind]]))
        return np.stack(rows)

    if not batched:
        x, *states = (step.Unsqueeze(name, np.array([1])) for name in (x, *states))
    elif layer.batch_first:
        x = step.Transpose(x, perm=(1, 0, 2))
    finals: list[list[str]] = []
    for k in range(layer.num_layers):
        bias = gates(k, "bias_ih", "bias_hh") if layer.bias else ""
        rows = np.arange(k * len(suffixes), (k + 1) * len(suffixes))
        start = [step.Gather(state, rows, axis=0) for state in states]
        weights = (gates(k, "weight_ih"), gates(k, "weight_hh"), bias)
        x, *final = step.node(kind, x, *weights, "", *start, **options)
        x = step.Transpose(x, perm=(0, 2, 1, 3))  # time, batch, direction, hidden
        x = step.Reshape(x, np.array([0, 0, -1]))
        finals.append(final)
    last = [step.Concat(*names, axis=0) for names in zip(*finals, strict=True)]
    if not batched:
        x, *last = (step.Squeeze(name, np.array([1])) for name in (x, *last))
    elif layer.batch_first:
        x = step.Transpose(x, perm=(1, 0, 2))
    return [x, *last]


_AVERAGE = {"ceil_mode": "ceil_mode", "count_include_pad": "count_include_pad"}
_OF_RANK: dict[str, Callable[[int], Rule]] = {
    "AdaptiveAvgPool": lambda rank: _adaptive_pool,
    "AvgPool": lambda rank: _window("AveragePool", rank, **_AVERAGE),
    "BatchNorm": lambda rank: _batch_norm,
    "BatchRenorm": lambda rank: _batch_norm,
    "Conv": lambda rank: _window("Conv", rank, group="groups"),
    "ConvTranspose": lambda rank: _window("ConvTranspose", rank, group="groups"),
    "MaxPool": lambda rank: _window("MaxPool", rank, ceil_mode="ceil_mode"),
}
LAYERS: dict[str, Rule] = {
    **{f"{name}{rank}d": rule(rank) for name, rule in _OF_RANK.items() for rank in (1, 2)},
    **dict.fromkeys(_GATES, _recurrent),
    "GhostBatchNorm": _batch_norm,
    "Embedding": lambda step, x: step.Gather(step.own("weight"), x, axis=0),
    "Hardsigmoid": _chain("HardSigmoid", alpha=1 / 6),
    "Hardswish": _chain("HardSwish"),
    "Hardtanh": lambda step, x: step.Clip(x, *map(step.attributes.get, ("min_val", "max_val"))),
    "LayerNorm": _layer_norm,
    "ReLU6": lambda step, x: step.Clip(x, 0, 6),
    "Softmax": _chain("Softmax", "axis=dim"),
}
RULES = PRIMITIVES | LAYERS


def supported() -> tuple[list[str], list[str]]:
    """The layers that become single nodes (also as functions, called as `nn.functional.<name>`),
    and the primitives that all other layers and functions may be composed of.

    >>> layers, functions = mg.onnx.supported()
    >>> "BatchNorm2d" in layers, "linear" in functions
    (True, True)
    """
    return sorted(LAYERS), sorted(PRIMITIVES)


def translate(graph: GraphBuilder, first: list[TracedStep], second: list[TracedStep]) -> None:
    """Add the translations of the first run's steps to `graph`; the second must have the same."""
    for step, twin in zip_longest(first, second):
        if step is None or twin is None or (step.path, step.name) != (twin.path, twin.name):
            (step or twin).fail(
                f"{(step or twin).name} runs here, but on other data the model takes another branch"
            )
        step.twin = twin
        graph.path = f"/{step.path}" if step.path else ""
        if len(step.inputs) != len(twin.inputs) or len(step.outputs) != len(twin.outputs):
            step.fail(f"{step.name} has another number of tensors on other data")
        if step.name not in RULES:
            layers, functions = map(", ".join, supported())
            step.unsupported(
                f"the primitive {step.name!r} has no translation; supported are the layers "
                f"{layers}, and whatever is composed of the primitives {functions}"
            )
        step.graph, dtype = graph, _common_dtype(step)
        pairs = zip(step.inputs, twin.inputs, strict=True)
        made = RULES[step.name](step, *(step.value(x, y, dtype) for x, y in pairs))
        names = made if isinstance(made, list) else [made]
        for row in zip(names, step.outputs, twin.outputs, strict=True):
            graph.bind(*row)


def _common_dtype(step: TracedStep) -> Any:
    """The dtype that all inputs must have, because ONNX never converts; None if they may differ."""
    if step.name in LAYERS or step.name in ("where", "astype"):
        return None
    if step.dtype != bool:
        return step.dtype
    return result_type(*step.inputs)
