"""Reverse mode of any order on one page, in NumPy.

This is minigrad's engine without what makes it fast, safe and complete, and with the same names. A
Tensor is an array with a place in a graph, a Node is one recorded operation, and a primitive is an
entry of a table: a NumPy function, and for each input the rule of its gradient, an expression in
Tensors. tests/test_one_page.py runs it against the real engine.

>>> x = Tensor([0.5, 2.0], requires_grad=True)
>>> (slope,) = grad((x * log(x)).sum(), [x], create_graph=True)  # log x + 1
>>> (curvature,) = grad(slope.sum(), [x])  # 1 / x
>>> curvature.array.tolist()
[2.0, 0.5]
"""

from functools import cache, partialmethod
from inspect import signature
from itertools import count

import numpy as np

recording = True
numbers = count(1)


# ------------------------------------------------------------------------ a number that remembers
class Tensor:
    """An array of floats (or bools), and the Node that made it: None for a leaf."""

    __array_ufunc__ = None  # so that `array * tensor` is left to Tensor

    def __init__(self, data, requires_grad=False, node=None):
        array = np.asarray(data)
        self.array = array if array.dtype == bool else array.astype(np.float64, copy=False)
        self.requires_grad, self.node, self.grad = requires_grad or node is not None, node, None

    def backward(self, create_graph=False):
        """Accumulate d(self)/d(leaf), for self of one element, into the `.grad` of every leaf."""
        for end, g in walk(self, Tensor(np.ones(self.array.shape)), create_graph).items():
            if isinstance(end, Tensor):
                end.grad = g if end.grad is None else end.grad + g

    def sum(self, axis=None, keepdims=False):
        """The sum over all axes, one, or a tuple of them."""
        summed = total(self, axis=tuple(range(self.array.ndim)) if axis is None else axis)
        return summed if keepdims else reshape(summed, shape=self.array.sum(axis).shape)

    def mean(self, axis=None, keepdims=False):
        """The mean, composed."""
        summed = self.sum(axis, keepdims)
        return summed * (summed.array.size / self.array.size)

    def var(self, axis=None, keepdims=False):
        """The variance, composed; nothing in it is detached."""
        return square(self - self.mean(axis, keepdims=True)).mean(axis, keepdims)


@cache
def parameters(rule):
    """The names of what a rule needs."""
    return list(signature(rule).parameters)


def edge_of(tensor):
    """Where the gradient of a tensor goes: to its Node, or to the leaf itself."""
    return tensor.node or tensor


class Node:
    """One recorded operation. It saves what the rules name, and never its output Tensor."""

    def __init__(self, op, inputs, out, attributes):
        self.number, self.op = next(numbers), op
        self.edges = [
            (edge_of(x), rule, x.array.shape)
            for x, rule in zip(inputs, op.rules, strict=True)
            if rule and x.requires_grad
        ]
        known = {**attributes, "shape": inputs[0].array.shape, "out": out}
        known |= zip("xy", inputs, strict=False)
        named = {name for _, rule, _ in self.edges for name in parameters(rule)}
        self.saved = {name: known[name] for name in named - {"g"}}

    def cotangents(self, g):
        """Where the gradients of the inputs go, and what they are, if g is that of the output."""
        values = {**self.saved, "g": g}
        if "out" in values:  # a Tensor again, so that this gradient has a gradient too
            values["out"] = Tensor(values["out"], node=self)
        for end, rule, shape in self.edges:
            yield end, unbroadcast(rule(*(values[name] for name in parameters(rule))), shape)


class Primitive:
    """An operation on arrays, and a rule (or None) for the gradient of each input."""

    def __init__(self, function, *rules):
        self.function, self.rules = function, rules

    def __call__(self, *inputs, **attributes):
        """Apply it; if an input requires a gradient, record how the output was computed."""
        inputs = [x if isinstance(x, Tensor) else Tensor(x) for x in inputs]
        out = self.function(*(x.array for x in inputs), **attributes)
        node = Node(self, inputs, out, attributes) if recording else None
        return Tensor(out, node=node if node and node.edges else None)


# --------------------------------------------------------------------------------------- the walk
def walk(output, cotangent, create_graph):
    """The gradients of the Nodes and leaves below `output`, whose own gradient is `cotangent`."""
    global recording
    before, recording = recording, create_graph
    pending = {edge_of(output): cotangent}
    try:
        for node in newest_first(output):
            if node in pending:  # and complete, since whatever used its output is newer
                for end, g in node.cotangents(pending[node]):
                    pending[end] = pending[end] + g if end in pending else g
    finally:
        recording = before
    return pending


def newest_first(output):
    """The Nodes below `output`. A Node is newer than its inputs, so no recursion is needed."""
    found = {output.node} - {None}
    queue = list(found)
    while queue:
        below = {end for end, *_ in queue.pop().edges if isinstance(end, Node)} - found
        found |= below
        queue += below
    return sorted(found, key=lambda node: -node.number)


def unbroadcast(g, shape):
    """Sum g over the axes along which broadcasting repeated an input of this shape."""
    extra = g.array.ndim - len(shape)
    axes = [d for d, n in enumerate(g.array.shape) if d < extra or n != shape[d - extra]]
    return reshape(total(g, axis=tuple(axes)), shape=shape) if axes else g


def grad(output, inputs, cotangent=None, create_graph=False):
    """The gradients of the inputs, None where no way leads to one."""
    cotangent = Tensor(np.ones(output.array.shape) if cotangent is None else cotangent)
    gradients = walk(output, cotangent, create_graph)
    return [gradients.get(edge_of(x)) for x in inputs]


# -------------------------------------------------------------------------------------- the table
def add_at(x, index, shape):
    """Zeros of this shape, with x added at the index."""
    out = np.zeros(shape)
    np.add.at(out, index, x)
    return out


negative = Primitive(np.negative, lambda g: -g)
square = Primitive(np.square, lambda g, x: g * (2.0 * x))
sqrt = Primitive(np.sqrt, lambda g, out: g / (2.0 * out))
exp = Primitive(np.exp, lambda g, out: g * out)
log = Primitive(np.log, lambda g, x: g / x)
sin = Primitive(np.sin, lambda g, x: g * cos(x))
cos = Primitive(np.cos, lambda g, x: -g * sin(x))
tanh = Primitive(np.tanh, lambda g, out: g * (1.0 - square(out)))
relu = Primitive(lambda x: np.maximum(x, 0), lambda g, out: gate(g, out))
gate = Primitive(lambda x, y: np.where(y <= 0, 0, x), lambda g, y: gate(g, y), None)

add = Primitive(np.add, lambda g: g, lambda g: g)
subtract = Primitive(np.subtract, lambda g: g, lambda g: -g)
multiply = Primitive(np.multiply, lambda g, y: g * y, lambda g, x: g * x)
divide = Primitive(np.divide, lambda g, y: g / y, lambda g, y, out: g * out / -y)
matmul = Primitive(np.matmul, lambda g, y: g @ transpose(y), lambda g, x: transpose(x) @ g)

total = Primitive(
    lambda x, axis: x.sum(axis, keepdims=True), lambda g, shape: broadcast_to(g, shape=shape)
)
broadcast_to = Primitive(np.broadcast_to, lambda g: g)  # which the engine sums
reshape = Primitive(np.reshape, lambda g, shape: reshape(g, shape=shape))
transpose = Primitive(lambda x: np.swapaxes(x, -1, -2), lambda g: transpose(g))
getitem = Primitive(
    lambda x, index: x[index], lambda g, shape, index: put(g, index=index, shape=shape)
)
put = Primitive(add_at, lambda g, index: getitem(g, index=index))
detach = Primitive(np.positive, None)

for name, op in [(name, op) for name, op in globals().items() if isinstance(op, Primitive)]:
    setattr(Tensor, name, partialmethod(op))
OPERATORS = {"add": add, "sub": subtract, "mul": multiply, "truediv": divide, "matmul": matmul}
for name, op in OPERATORS.items():
    setattr(Tensor, f"__{name}__", partialmethod(op))
    setattr(Tensor, f"__r{name}__", lambda x, other, op=op: op(other, x))
Tensor.__neg__ = partialmethod(negative)
Tensor.__getitem__ = lambda x, index: getitem(x, index=index)
