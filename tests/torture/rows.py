"""The table of the possible lines of a random program, with the expression for each library.

A row has a name and up to three expressions, separated by bars: for minigrad, NumPy and PyTorch. An
omitted one is the same with the other library's prefix. In them x and y are operands, `{axis}` and
the like are options, R and T are the functions below that NumPy and PyTorch lack, and P, Q, I and A
map x (Q maps y) into the domain of a function:
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import hypothesis.strategies as st
import numpy as np
from op_table import np_erf, np_sigmoid, np_softplus

if find_spec("torch"):
    import torch

DOMAINS = {
    "P": "(x * x + 0.5)",  # positive
    "Q": "(y * y + 0.5)",
    "I": "(x / (1.5 + x * x))",  # inside (-1, 1)
    "A": "(x * x + 1.25)",  # above 1
}


@dataclass(frozen=True)
class Row:
    name: str
    texts: tuple[str, str, str]  # of minigrad, NumPy and PyTorch
    needs: Callable[[np.ndarray], bool]  # which x is suitable
    fits: Callable[[np.ndarray, np.ndarray], bool]  # which y is suitable for x
    options: Callable[..., dict[str, Any]]  # drawn for x and, if present, y
    binary: bool


ROWS: dict[str, Row] = {}


def rows(
    table: str,
    needs: Callable[[np.ndarray], bool] = lambda x: True,
    fits: Callable[[np.ndarray, np.ndarray], bool] = lambda x, y: True,
    options: Callable[..., dict[str, Any]] = lambda draw, *operands: {},
) -> None:
    for line in table.strip().splitlines():
        name, ours, *others = (cell.strip() for cell in line.split("|"))
        numpy = others[0] if others else ours.replace("mg.", "np.")
        theirs = (
            others[1] if len(others) > 1 else ours.replace("mg.", "torch.").replace("F.", "TF.")
        )
        if theirs == "moved":  # NumPy applied to the element numbers gives PyTorch's
            moves = re.sub(r"\bx\b", "p", numpy)
            theirs = f"T.moved(x, lambda p: {moves})"
        texts = []
        for text in (ours, numpy, theirs):
            for letter, domain in DOMAINS.items():
                text = re.sub(rf"\b{letter}\b(?!\.)", domain, text)
            texts.append(text)
        assert name not in ROWS, name
        binary = bool(re.search(r"\by\b", texts[0]))
        ROWS[name] = Row(name, (texts[0], texts[1], texts[2]), needs, fits, options, binary)


# ---------------------------------------------------------------------------------------- drawing
class Draw:
    """The draws of rows: numbers, options, axes, and previously computed values."""

    def __init__(self, draw: Callable[..., Any], values: dict[str, np.ndarray]) -> None:
        self._draw, self.values = draw, values

    def integer(self, low: int, high: int) -> int:
        """Draws for a single number too: shrinking then keeps the number of draws."""
        return self._draw(integers(low, max(low, high)))

    def one(self, options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def boolean(self) -> bool:
        return bool(self.integer(0, 1))

    def value(self, fits: Callable[[np.ndarray], bool]) -> str | None:
        """The name of a suitable value, if there is one."""
        found = [name for name, x in self.values.items() if fits(x)]
        return self.one(found) if found else None

    def axis(self, x: np.ndarray) -> int:
        return self.integer(0, x.ndim - 1) - x.ndim * self.boolean()

    def permutation(self, n: int) -> list[int]:
        left = list(range(n))
        return [left.pop(self.integer(0, len(left) - 1)) for _ in range(n)]


@functools.cache
def integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


def of_rank(least: int, most: int = 9) -> Callable[[np.ndarray], bool]:
    return lambda x: least <= x.ndim <= most and x.size > 0


def same_shape(x: np.ndarray, y: np.ndarray) -> bool:
    return x.shape == y.shape


def broadcastable(x: np.ndarray, y: np.ndarray) -> bool:
    try:
        return np.broadcast(x, y).size <= 200
    except ValueError:
        return False


def multiplicable(x: np.ndarray, y: np.ndarray) -> bool:
    try:
        return np.matmul(x, y).size <= 200
    except ValueError:
        return False


def one_axis(d: Draw, x: np.ndarray, *ignored: Any) -> dict[str, Any]:
    return {"axis": d.axis(x), "n": d.integer(0, 2)}


def some_axes(d: Draw, x: np.ndarray) -> dict[str, Any]:
    """An axis, several, or None; and the list of axes for PyTorch."""
    axis: Any
    kind = d.integer(0, 2) if x.ndim else 1
    if kind == 0:
        axis = d.axis(x)
        axes = (axis % x.ndim,)
    elif kind == 1:
        axis, axes = None, tuple(range(x.ndim))
    else:
        axis = axes = tuple(d.permutation(x.ndim)[: d.integer(1, x.ndim)])
    return {"axis": axis, "axes": axes, "keep": d.boolean(), "c": d.one([0, 1])}


def sorting(d: Draw, x: np.ndarray) -> dict[str, Any]:
    """Whether to descend, and an index that reverses ascending elements and keeps k."""
    axis, down = d.axis(x), d.boolean()
    k = d.integer(1, x.shape[axis])
    before = ":, " * (axis % x.ndim)
    most = f"[{before}::-1][{before}:{k}]"
    return {"axis": axis, "k": k, "down": down, "most": most, "s": f"[{before}::-1]" * down}


def new_shape(d: Draw, x: np.ndarray) -> dict[str, Any]:
    factors = [p for n in x.shape for p in ((2, 2) if n == 4 else (n,))] + [1] * d.boolean()
    shape = [factors[i] for i in d.permutation(len(factors))]
    while len(shape) > 1 and d.boolean():
        shape[:2] = [shape[0] * shape[1]]
    if shape and x.size and d.boolean():
        shape[d.integer(0, len(shape) - 1)] = -1
    return {"shape": tuple(shape)}


def wider_shape(d: Draw, x: np.ndarray) -> dict[str, Any]:
    return {"shape": (d.integer(1, 2), *(d.integer(1, 3) if n == 1 else n for n in x.shape))}


def index(d: Draw, x: np.ndarray) -> dict[str, Any]:
    """Slices, integers, None, an ellipsis; a mask or an array with repetitions."""
    parts, special = [], d.integer(0, 3)
    for n in x.shape[: d.integer(1, x.ndim)]:
        kind = d.integer(0, 7)
        if kind == 5 and special == 1:
            parts.append(f"np.array({[d.integer(-n, n - 1) for _ in range(d.integer(1, 3))]})")
            special = 0
        elif kind == 6 and special == 2:
            parts.append(f"np.array({[d.boolean() for _ in range(n - 1)] + [True]})")
            special = 0
        elif kind == 1:
            parts.append(str(d.integer(-n, n - 1)))
        else:
            slices = [":", "1:", ":-1", "::-1", "::2", "-2:", "::-2"] if n > 1 else [":"]
            parts.append(d.one(slices))
    if special == 3:
        parts.insert(d.integer(0, len(parts)), "None")
    return {"index": ", ".join(parts) + ", ..." * d.boolean()}


def some_of(d: Draw, x: np.ndarray) -> dict[str, Any]:
    axis = d.axis(x)
    return {"axis": axis, "i": [d.integer(0, x.shape[axis] - 1) for _ in range(3)]}


def along(d: Draw, x: np.ndarray, *ignored: Any) -> dict[str, Any]:
    axis, random = d.axis(x), np.random.default_rng(d.integer(0, 9))
    return {"axis": axis, "i": random.integers(0, x.shape[axis], x.shape).tolist()}


def subscripts(d: Draw, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Letters of equal size may be shared, also within an operand; any order of some of them."""
    sizes: dict[str, int] = {}
    terms = ["", ""]
    for k, n in [(0, n) for n in x.shape] + [(1, n) for n in y.shape]:
        known = [letter for letter, size in sizes.items() if size == n]
        letter = d.one([*known, "abcdefgh"[len(sizes)]])
        sizes[letter] = n
        terms[k] += letter
    letters = [list(sizes)[i] for i in d.permutation(len(sizes))]
    while math.prod(sizes[a] for a in letters) > 100 or (letters and d.boolean()):
        letters.pop()
    return {"s": f"{terms[0]},{terms[1]}->{''.join(letters)}"}


def weight_and_bias(d: Draw, x: np.ndarray) -> dict[str, Any]:
    """Values with one element per channel, if there are any."""

    def fits(y: np.ndarray) -> bool:
        return y.shape == x.shape[1:2]

    chosen = {key: d.value(fits) if d.boolean() else None for key in "wb"}
    return {key: f"«{name}»" if name else None for key, name in chosen.items()}


def widths(d: Draw, x: np.ndarray) -> dict[str, Any]:
    return {"n": d.one(NUMBERS), "w": tuple((d.integer(0, 1), d.integer(0, 2)) for _ in x.shape)}


def convolution(d: Draw, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    p = d.integer(0, 1)
    a = d.integer(1, 1 + (p or min(x.shape[2:]) > 2))
    return {"d": x.ndim - 2, "s": d.integer(1, 2), "p": p, "a": a}


def window(d: Draw, x: np.ndarray) -> dict[str, Any]:
    return {"d": x.ndim - 2, "k": d.integer(1, min(x.shape[2:])), "s": d.integer(1, 2)}


def groups(d: Draw, x: np.ndarray) -> dict[str, Any]:
    return {"g": d.one([n for n in (1, 2, 3) if x.shape[1] % n == 0])}


def labels(d: Draw, x: np.ndarray) -> dict[str, Any]:
    return {"t": [d.integer(0, x.shape[1] - 1) for _ in range(x.shape[0])]}


# -------------------------------------------------------------------------------------- the table
NUMBERS = (2, -1.5, 0.5, 3, 1, 0, -1, 2.25)

rows("""
exp         | mg.exp(x)
expm1       | mg.expm1(x)
exp2        | mg.exp2(x)
sin         | mg.sin(x)
cos         | mg.cos(x)
tan         | mg.tan(I)
sinh        | mg.sinh(x)
cosh        | mg.cosh(x)
tanh        | mg.tanh(x)
square      | mg.square(x)
negative    | mg.negative(x)
log         | mg.log(P)
log2        | mg.log2(P)
log10       | mg.log10(P)
log1p       | mg.log1p(P)
sqrt        | mg.sqrt(P)
reciprocal  | mg.reciprocal(P)
rsqrt       | mg.rsqrt(P)        | P ** -0.5
asin        | mg.asin(I)         | np.arcsin(I)
acos        | mg.acos(I)         | np.arccos(I)
atan        | mg.atan(x)         | np.arctan(x)
asinh       | mg.asinh(x)        | np.arcsinh(x)
acosh       | mg.acosh(A)        | np.arccosh(A)
atanh       | mg.atanh(I)        | np.arctanh(I)
erf         | mg.erf(x)          | R.erf(x)
sigmoid     | mg.sigmoid(x)      | R.sigmoid(x)
round       | mg.round(x)        | R.round(x)
floor       | mg.floor(x)        | R.floor(x)
abs         | mg.abs(x)          | R.abs(x)
checkpoint  | mg.autograd.checkpoint(mg.tanh, x) | np.tanh(x)                       | torch.tanh(x)
relu        | F.relu(x)          | R.select(x, 0, x, 0)
softplus    | F.softplus(x)      | R.softplus(x)
logsigmoid  | F.logsigmoid(x)    | -R.softplus(-x)
gelu        | F.gelu(x)          | x * (0.5 + 0.5 * R.erf(x / 2 ** 0.5))
gelu_tanh   | F.gelu(x, approximate='tanh') | x * R.sigmoid((8 / np.pi) ** 0.5 * (x + 0.044715 * x ** 3))
silu        | F.silu(x)          | x * R.sigmoid(x)
mish        | F.mish(x)          | x * np.tanh(R.softplus(x))
elu         | F.elu(x)           | R.pieces(x, [0], np.expm1, lambda t: t)
selu        | F.selu(x)          | R.selu(x)
leaky_relu  | F.leaky_relu(x)    | R.pieces(x, [0], lambda t: 0.01 * t, lambda t: t)
hardtanh    | F.hardtanh(x)      | R.clip(x, -1, 1)
relu6       | F.relu6(x)         | R.clip(x, 0, 6)
hardsigmoid | F.hardsigmoid(x)   | R.clip(x / 6 + 0.5, 0, 1)                        | torch.clip(x / 6 + 0.5, 0, 1)
hardswish   | F.hardswish(x)     | x * R.clip(x / 6 + 0.5, 0, 1)
softshrink  | F.softshrink(x)    | R.pieces(x, [-0.5, 0.5], lambda t: t + 0.5, lambda t: 0 * t, lambda t: t - 0.5)
hardshrink  | F.hardshrink(x)    | R.pieces(x, [-0.5, 0.5], lambda t: t, lambda t: 0 * t, lambda t: t)
softsign    | F.softsign(x)      | x / (1 + R.abs(x))
tanhshrink  | F.tanhshrink(x)    | x - np.tanh(x)
""")

rows("""
x + n       | x + {n}
n - x       | {n} - x
x * n       | x * {n}
n * x       | {n} * x
x - n       | x - {n}
n / x       | {n} / P
x ** n      | P ** {n}
x ** 2      | x ** {k}
n ** x      | 1.75 ** x
x / n       | x / 1.25
-x          | -x
x ** -n     | P ** -1.5
clip        | mg.clip(x, {low}, {high})     | R.clip(x, {low}, {high})
""", options=lambda d, x: {"n": d.one(NUMBERS), "k": d.one([2, 3, 1]),
                           "low": d.one([-0.5, -1, 0]), "high": d.one([0.75, 1])})  # fmt: skip

rows("""
x + y       | x + y
x - y       | x - y
x * y       | x * y
x / y       | x / Q
x ** y      | P ** y
x % y       | x % Q                         | R.remainder(x, Q)
maximum     | mg.maximum(x, y)              | R.select(x, y, x, y)
minimum     | mg.minimum(x, y)              | R.select(y, x, x, y)
hypot       | mg.hypot(x, y)                | np.sqrt(R.above(x ** 2 + y ** 2, 0.01))
atan2       | mg.atan2(x, Q)                | np.arctan2(x, Q)
where       | mg.where(x > y, x * y, y)     | R.select(x, y, x * y, y)
""", fits=broadcastable)  # fmt: skip
rows("""
x += y      | inplace(x[...], '+', y)       | x + y        | x + y
x -= y      | inplace(x[...], '-', y)       | x - y        | x - y
x *= y      | inplace(x[...], '*', y)       | x * y        | x * y
""", fits=lambda x, y: broadcastable(x, y) and np.broadcast(x, y).shape == x.shape)  # fmt: skip
rows("gate | mg._core.ops.gate(x, y) | R.select(y, 0, x, 0) | x * (y > 0)", fits=same_shape)

# reductions
rows("""
sum         | mg.sum(x, {axis}, {keep})     | np.sum(x, {axis}, keepdims={keep})  | torch.sum(x, {axes}, {keep})
mean        | mg.mean(x, {axis}, {keep})    | np.mean(x, {axis}, keepdims={keep}) | torch.mean(x, {axes}, {keep})
prod        | mg.prod(x, {axis}, {keep})    | np.prod(x, {axis}, keepdims={keep}) | T.prod(x, {axes}, {keep})
max         | mg.max(x, {axis}, {keep})     | R.max(x, {axis}, {keep})            | torch.amax(x, {axes}, {keep})
min         | mg.min(x, {axis}, {keep})     | R.min(x, {axis}, {keep})            | torch.amin(x, {axes}, {keep})
logsumexp   | mg.logsumexp(x, {axis}, {keep}) | R.logsumexp(x, {axis}, {keep})    | torch.logsumexp(x, {axes}, {keep})
""", needs=of_rank(0), options=some_axes)  # fmt: skip
rows("""
var  | mg.var(x, {axis}, {c}, {keep}) | np.var(x, {axis}, ddof={c}, keepdims={keep}) | T.var(x, {axes}, {c}, {keep})
std  | mg.std(x, {axis}, {c}, {keep}) | R.std(x, {axis}, {c}, {keep})                | T.std(x, {axes}, {c}, {keep})
""", needs=of_rank(1), options=some_axes)  # fmt: skip
rows("""
norm 1      | mg.norm(x, {axis}, {keep}, 1) | R.norm(x, {axis}, {keep}, 1)   | T.norm(x, {axes}, {keep}, 1)
norm 2      | mg.norm(x, {axis}, {keep})    | R.norm(x, {axis}, {keep}, 2)   | T.norm(x, {axes}, {keep}, 2)
norm 3      | mg.norm(x, {axis}, {keep}, 3) | R.norm(x, {axis}, {keep}, 3)   | T.norm(x, {axes}, {keep}, 3)
norm inf    | mg.norm(x, {axis}, {keep}, np.inf) | R.norm(x, {axis}, {keep}, np.inf) | T.norm(x, {axes}, {keep}, np.inf)
""", needs=of_rank(1), options=some_axes)  # fmt: skip
rows("""
cumulative_sum  | mg.cumulative_sum(x, {axis})  | np.cumsum(x, {axis})              | torch.cumsum(x, {axis})
cumulative_prod | mg.cumulative_prod(x, {axis}) | np.cumprod(x, {axis})             | torch.cumprod(x, {axis})
softmax         | mg.softmax(x, {axis})         | R.softmax(x, {axis})
log_softmax     | mg.log_softmax(x, {axis})     | np.log(R.softmax(x, {axis}))
""", needs=of_rank(1), options=one_axis)  # fmt: skip
rows("""
sort        | mg.sort(x, {axis}, {down})    | R.sort(x, {axis}){s}                | torch.sort(x, {axis}, {down}).values
topk        | mg.topk(x, {k}, {axis})[0]    | R.sort(x, {axis}){most}             | torch.topk(x, {k}, {axis}).values
""", needs=of_rank(1), options=sorting)  # fmt: skip

# moves of elements
rows("""
flatten     | mg.flatten(x)                 | np.reshape(x, -1)                   | moved
clone       | mg.clone(x)                   | +x                                  | moved
tile        | mg.tile(x, (2, {n}))          | np.tile(x, (2, {n}))                | moved
""", needs=of_rank(0), options=lambda d, x: {"n": d.integer(0, 2)})  # fmt: skip
rows("reshape | mg.reshape(x, {shape}) | np.reshape(x, {shape}) | moved", options=new_shape)
rows(
    "broadcast_to | mg.broadcast_to(x, {shape}) | np.broadcast_to(x, {shape}) | moved",
    options=wider_shape,
)
rows("permute_dims | mg.permute_dims(x, {axes}) | np.transpose(x, {axes}) | moved",
     needs=of_rank(1), options=lambda d, x: {"axes": tuple(d.permutation(x.ndim))})  # fmt: skip
rows("""
swapaxes    | mg.swapaxes(x, {axis}, 0)     | np.swapaxes(x, {axis}, 0)           | moved
moveaxis    | mg.moveaxis(x, {axis}, -1)    | np.moveaxis(x, {axis}, -1)          | moved
expand_dims | mg.expand_dims(x, {axis})     | np.expand_dims(x, {axis})           | moved
squeeze     | mg.squeeze(x)                 | np.squeeze(x)                       | moved
flip        | mg.flip(x, {axis})            | np.flip(x, {axis})                  | moved
roll        | mg.roll(x, {n}, {axis})       | np.roll(x, {n}, {axis})             | moved
repeat      | mg.repeat(x, {n}, {axis})     | np.repeat(x, {n}, {axis})           | moved
split       | mg.split(x, 1, {axis})[-1]    | np.split(x, x.shape[{axis}], {axis})[-1] | moved
unstack     | mg.unstack(x, {axis})[0]      | np.moveaxis(x, {axis}, 0)[0]        | moved
""", needs=of_rank(1), options=one_axis)  # fmt: skip
rows("""
mT          | x.mT                          | np.swapaxes(x, -1, -2)              | moved
diagonal    | mg.diagonal(x, {n}, 1, 0)     | np.diagonal(x, {n}, 1, 0)           | moved
tril        | mg.tril(x, {n})
triu        | mg.triu(x, {n})
""", needs=of_rank(2), options=one_axis)  # fmt: skip
rows("trace | mg.trace(x)", needs=of_rank(2, 2))
rows("getitem | x[{index}] | x[{index}] | moved", needs=of_rank(1), options=index)
rows("take | mg.take(x, np.array({i}), {axis}) | np.take(x, np.array({i}), {axis}) | moved",
     needs=of_rank(1), options=some_of)  # fmt: skip
rows("""
pad reflect | mg.pad(x, 1, mode='reflect')  | np.pad(x, 1, mode='reflect')        | moved
pad edge    | mg.pad(x, 1, mode='edge')     | np.pad(x, 1, mode='edge')           | moved
pad wrap    | mg.pad(x, 1, mode='wrap')     | np.pad(x, 1, mode='wrap')           | moved
pad symmetric | mg.pad(x, 1, mode='symmetric') | np.pad(x, 1, mode='symmetric')   | moved
""", needs=lambda x: 1 <= x.ndim <= 3 and min(x.shape) > 1)  # fmt: skip
rows("pad | mg.pad(x, {w}, value={n}) | np.pad(x, {w}, constant_values={n}) | T.pad(x, {w}, {n})",
     needs=of_rank(1, 3), options=widths)  # fmt: skip
rows("""
take_along_axis | mg.take_along_axis(x, np.array({i}), {axis}) | np.take_along_axis(x, np.array({i}), {axis}) | torch.take_along_dim(x, torch.tensor({i}), {axis})
scatter_add | mg.scatter_add(x, {axis}, np.array({i}), y) | R.scatter_add(x, {axis}, np.array({i}), y) | torch.scatter_add(x, {axis}, torch.tensor({i}), y)
""", needs=of_rank(1), fits=same_shape, options=along)  # fmt: skip
rows("stack | mg.stack([x, y, x], {axis})", needs=of_rank(1, 3), fits=same_shape, options=one_axis)
rows("concat | mg.concat([x, y, x], axis=-1) | np.concatenate([x, y, x], -1)", needs=of_rank(1),
     fits=lambda x, y: x.ndim == y.ndim and x.shape[:-1] == y.shape[:-1])  # fmt: skip

# products
rows("matmul | x @ y", fits=multiplicable)
rows(
    "x @ y.mT | x @ y.mT", needs=of_rank(2), fits=lambda x, y: y.ndim > 1 and multiplicable(x, y.mT)
)
rows("outer | mg.outer(x, y)", needs=of_rank(1, 1), fits=lambda x, y: y.ndim == 1)
rows("vecdot | mg.vecdot(x, y) | np.sum(x * y, -1) | torch.linalg.vecdot(x, y)",
     needs=of_rank(1), fits=same_shape)  # fmt: skip
rows("tensordot | mg.tensordot(x, y, 1)", needs=of_rank(2, 3),
     fits=lambda x, y: y.ndim > 1 and x.shape[-1] == y.shape[0] and x.size * y.size < 2000)  # fmt: skip
rows("einsum | mg.einsum('{s}', x, y)", needs=of_rank(1, 4), options=subscripts,
     fits=lambda x, y: 0 < y.ndim < 5 and x.size * y.size < 2000)  # fmt: skip
rows("linear | F.linear(x, y) | x @ y.mT", needs=of_rank(1),
     fits=lambda x, y: y.ndim == 2 and y.shape[1] == x.shape[-1])  # fmt: skip

# linear algebra, of matrices whose condition is bounded
rows("""
solve       | mg.linalg.solve(mg.tanh(x) @ mg.tanh(x).mT + mg.eye({n}), x)
inv         | mg.linalg.inv(mg.tanh(x) @ mg.tanh(x).mT + mg.eye({n}))
det         | mg.linalg.det(mg.tanh(x) @ mg.tanh(x).mT + mg.eye({n}))
slogdet     | mg.linalg.slogdet(mg.tanh(x) @ mg.tanh(x).mT + mg.eye({n}))[1]
cholesky    | mg.linalg.cholesky(mg.tanh(x) @ mg.tanh(x).mT + mg.eye({n}))
""", needs=lambda x: x.ndim >= 2 and 0 < x.shape[-2] <= 8,
     options=lambda d, x: {"n": x.shape[-2]})  # fmt: skip
rows("lerp | mg.lerp(x, y, {w}) | x + {w} * (y - x)", fits=broadcastable,
     options=lambda d, x, y: {"w": d.one([-0.5, 0.25, 0.75, 2.0])})  # fmt: skip

# layers and losses
rows("batch_norm | F.batch_norm(x, None, None, {w}, {b}, training=True)"
     " | R.batch_norm(x, {w}, {b}) | T.batch_norm(x, {w}, {b})", options=weight_and_bias,
     needs=lambda x: 2 <= x.ndim <= 4 and x.size > max(x.shape[1], 1))  # fmt: skip
rows("""
layer_norm  | F.layer_norm(x, x.shape[-1:]) | R.normalised(x, (-1,))
rms_norm    | F.rms_norm(x, x.shape[-1:], eps=0.01) | x / np.sqrt(np.mean(x ** 2, -1, keepdims=True) + 0.01)
""", needs=of_rank(1))  # fmt: skip
rows(
    "group_norm | F.group_norm(x, {g}) | R.group_norm(x, {g})", needs=of_rank(2, 4), options=groups
)
rows("instance_norm | F.instance_norm(x) | R.normalised(x, tuple(range(2, x.ndim)))",
     needs=lambda x: 3 <= x.ndim <= 4 and math.prod(x.shape[2:]) > 1)  # fmt: skip
rows("conv | F.conv{d}d(x, y, None, {s}, {p}, {a}) | R.conv(x, y, {s}, {p}, {a}) | T.conv(x, y, {s}, {p}, {a})",
     needs=of_rank(3, 4), options=convolution, fits=lambda x, y: x.ndim == y.ndim and 0 not in y.shape[2:]
     and x.shape[1] == y.shape[1] and max(y.shape[2:]) <= 2 <= min(x.shape[2:]))  # fmt: skip
rows("conv_transpose | F.conv_transpose{d}d(x, y, stride={s}) | R.conv_transpose(x, y, {s})"
     " | T.conv(x, y, {s}, 0, 1, 'conv_transpose')", needs=of_rank(3, 4), options=lambda d, x, y: window(d, x),
     fits=lambda x, y: y.size > 0 and x.ndim == y.ndim and x.shape[1] == y.shape[0])  # fmt: skip
rows("""
avg_pool    | F.avg_pool{d}d(x, {k}, {s})   | R.pool(x, {k}, {s}, 'mean')         | T.pool(x, {k}, {s}, 'avg')
max_pool    | F.max_pool{d}d(x, {k}, {s})   | R.pool(x, {k}, {s}, 'max')          | T.pool(x, {k}, {s}, 'max')
""", needs=of_rank(3, 4), options=window)  # fmt: skip
rows("attention | F.scaled_dot_product_attention(x, y, y) | R.attention(x, y, y)",
     needs=of_rank(2, 3), fits=same_shape)  # fmt: skip
rows("cross_entropy | F.cross_entropy(x, mg.tensor({t})) | R.cross_entropy(x, np.array({t}))"
     " | TF.cross_entropy(x, torch.tensor({t}))", needs=of_rank(2, 2), options=labels)  # fmt: skip
rows("""
mse_loss       | F.mse_loss(x, y)           | np.mean((x - y) ** 2)
l1_loss        | F.l1_loss(x, y)            | np.mean(R.abs(x - y))
smooth_l1_loss | F.smooth_l1_loss(x, y)     | np.mean(R.huber(x - y))
huber_loss     | F.huber_loss(x, y)         | np.mean(R.huber(x - y))
bce_logits     | F.binary_cross_entropy_with_logits(x, y) | np.mean(R.softplus(x) - x * y)
""", needs=of_rank(0), fits=same_shape)  # fmt: skip
rows(
    "cosine_similarity | F.cosine_similarity(x, y) | R.cosine(x, y, 1)",
    needs=of_rank(2),
    fits=same_shape,
)


# -------------------------------------------------------------------- the functions that NumPy lacks
class Reference:
    """Functions of NumPy arrays, called R in programs."""

    erf, sigmoid = staticmethod(np_erf), staticmethod(np_sigmoid)
    softplus = staticmethod(np_softplus)

    def __init__(self) -> None:
        self.margin, self.choices = math.inf, []

    def kink(self, distance, choice=None):
        """Record the distance from a kink, and the side of it."""
        distance = np.asarray(distance)
        self.margin = min(self.margin, float(np.min(np.abs(distance), initial=np.inf)))
        self.choices.append((np.sign(distance) if choice is None else choice).tobytes())

    def above(self, x, bound):
        """Record the distance from the end of the domain."""
        self.margin = min(self.margin, float(np.min(x, initial=np.inf)) - bound)
        return x

    def pieces(self, x, bounds, *functions):
        """Each function between two of the bounds."""
        for bound in bounds:
            self.kink(x - bound)
        return np.choose(np.searchsorted(bounds, x), [f(x) for f in functions])

    def abs(self, x):
        self.kink(x)
        return np.abs(x)

    def select(self, x, y, a, b):
        """a where x > y, else b."""
        self.kink(x - y)
        return np.where(x > y, a, b)

    def selu(self, x):
        alpha, scale = 1.6732632423543772, 1.0507009873554805
        return scale * self.pieces(x, [0], lambda t: alpha * np.expm1(t), lambda t: t)

    def clip(self, x, low, high):
        return self.pieces(
            x, [low, high], lambda x: x * 0 + low, lambda x: x, lambda x: x * 0 + high
        )

    def round(self, x):
        self.kink(x - np.floor(x) - 0.5)
        return np.round(x)

    def floor(self, x):
        self.kink(x - np.round(x))
        return np.floor(x)

    def remainder(self, x, y):
        self.kink(x / y - np.round(x / y))
        return np.remainder(x, y)

    def sort(self, x, axis):
        self.kink(np.diff(np.sort(x, axis), axis=axis), np.argsort(x, axis))
        return np.sort(x, axis)

    def max(self, x, axis, keepdims=False):
        axes = tuple(range(x.ndim)) if axis is None else axis
        rows = np.moveaxis(x, axes, range(np.size(axes))).reshape(
            -1, math.prod(np.max(x, axes).shape)
        )
        self.kink(np.diff(np.sort(rows, 0)[-2:], axis=0), rows.argmax(0))
        return np.max(x, axis, keepdims=keepdims)

    def min(self, x, axis, keepdims=False):
        return -self.max(-x, axis, keepdims)

    def norm(self, x, axis, keepdims, ord):
        if ord == math.inf:
            return self.max(self.abs(x), axis, keepdims)
        powers = (self.abs(x) if ord != 2 else x) ** ord
        return self.above(np.sum(powers, axis, keepdims=keepdims), 0.01) ** (1 / ord)

    def std(self, x, axis, correction, keepdims):
        return np.sqrt(self.above(np.var(x, axis, ddof=correction, keepdims=keepdims), 0.01))

    def logsumexp(self, x, axis, keepdims):
        return np.log(np.sum(np.exp(x), axis, keepdims=keepdims))

    def softmax(self, x, axis):
        return np.exp(x) / np.sum(np.exp(x), axis, keepdims=True)

    def normalised(self, x, axes, eps=1e-5):
        """Over axes; a constant slice would have a third derivative of 1 / eps^(3/2)."""
        var = self.above(np.var(x, axes, keepdims=True), 0.01)
        return (x - np.mean(x, axes, keepdims=True)) / np.sqrt(var + eps)

    def batch_norm(self, x, weight, bias):
        column = (-1, *(1,) * (x.ndim - 2))
        y = self.normalised(x, (0, *range(2, x.ndim)))
        y = y if weight is None else y * weight.reshape(column)
        return y if bias is None else y + bias.reshape(column)

    def group_norm(self, x, groups):
        rows = x.reshape(x.shape[0], groups, -1)
        return self.normalised(rows, (2,)).reshape(x.shape)

    def windows(self, x, sizes, stride=1, dilation=1):
        """(N, C, places..., window...)."""
        places = tuple(range(2, x.ndim))
        spans = [(n - 1) * dilation + 1 for n in sizes]
        view = np.lib.stride_tricks.sliding_window_view(x, spans, places)
        along, inside = (slice(None, None, stride),), (slice(None, None, dilation),)
        return view[(slice(None),) * 2 + along * len(sizes) + inside * len(sizes)]

    def conv(self, x, weight, stride, padding, dilation):
        d = x.ndim - 2
        x = np.pad(x, [(0, 0)] * 2 + [(padding, padding)] * d)
        windows = self.windows(x, weight.shape[2:], stride, dilation)
        axes = [1, *range(2 + d, 2 + 2 * d)], [1, *range(2, 2 + d)]
        return np.moveaxis(np.tensordot(windows, weight, axes), -1, 1)

    def conv_transpose(self, x, weight, stride):
        """The adjoint of `conv`: each element spreads the kernel."""
        sizes = [(n - 1) * stride + k for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)]
        out = np.zeros((x.shape[0], weight.shape[1], *sizes))
        for place in itertools.product(*map(range, x.shape[2:])):
            corner = tuple(
                slice(p * stride, p * stride + k)
                for p, k in zip(place, weight.shape[2:], strict=True)
            )
            out[(..., *corner)] += np.tensordot(x[(..., *place)], weight, (1, 0))
        return out

    def pool(self, x, size, stride, kind):
        windows = self.windows(x, (size,) * (x.ndim - 2), stride)
        return getattr(self, kind)(windows, tuple(range(x.ndim, windows.ndim)))

    def mean(self, x, axis):
        return np.mean(x, axis)

    def scatter_add(self, x, axis, indices, source):
        out, places = x.copy(), list(np.indices(indices.shape))
        places[axis] = indices
        np.add.at(out, tuple(places), source)
        return out

    def cross_entropy(self, x, labels):
        return np.mean(np.log(np.sum(np.exp(x), 1)) - x[np.arange(len(x)), labels])

    def huber(self, x):
        a = self.abs(x)
        return self.pieces(a, [1.0], lambda a: a * a / 2, lambda a: a - 0.5)

    def cosine(self, x, y, axis):
        products = [self.above(np.sum(a * a, axis), 0.01) for a in (x, y)]
        return np.sum(x * y, axis) / np.sqrt(products[0] * products[1])

    def attention(self, q, k, v):
        return self.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


class Torch:
    """Functions that differ in PyTorch, called T in programs."""

    @staticmethod
    def moved(x, move):
        """A function that only moves elements: NumPy moves the element numbers."""
        places = np.array(move(np.arange(x.numel()).reshape(x.shape)))
        return x.reshape(-1)[torch.as_tensor(places)]

    @staticmethod
    def var(x, axes, correction, keepdims):
        return torch.var(x, axes, correction=correction, keepdim=keepdims)

    @staticmethod
    def std(x, axes, correction, keepdims):
        return torch.std(x, axes, correction=correction, keepdim=keepdims)

    @staticmethod
    def prod(x, axes, keepdims):
        for axis in sorted(axes, reverse=True):
            x = torch.prod(x, axis, keepdims)
        return x

    @staticmethod
    def pad(x, widths, value):
        return torch.nn.functional.pad(x, [n for pair in widths[::-1] for n in pair], value=value)

    @staticmethod
    def norm(x, axes, keepdims, ord):
        return torch.linalg.vector_norm(x, ord, axes, keepdims)

    @staticmethod
    def batch_norm(x, weight, bias):
        """PyTorch has no second order for a bias without a weight."""
        weight = torch.ones(x.shape[1], dtype=x.dtype) if weight is None else weight
        return torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True)

    @staticmethod
    def pool(x, size, stride, kind):
        return getattr(torch.nn.functional, f"{kind}_pool{x.ndim - 2}d")(x, size, stride)

    @staticmethod
    def conv(x, weight, stride, padding, dilation, kind="conv"):
        function = getattr(torch.nn.functional, f"{kind}{x.ndim - 2}d")
        return function(x, weight, None, stride, padding, dilation=dilation)
