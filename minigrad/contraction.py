"""Sums of products: einsum, and the products of vectors and tensors that are cases of it.

Each dimension has a label. Dimensions with the same label share an index, and a label missing from
the result is summed over. Every pair of tensors becomes one (batched) matrix product, an
elementwise product if nothing is summed, or a `sum_product` of two tensors of the same shape;
gradients follow from those primitives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np

from ._core import ops
from ._core.engine.graph import Tensor, attach_methods, result_type, to_tensor, to_tensors
from .checks import integer
from .namespace import led
from .types import TensorLike

__all__ = ["einsum", "outer", "tensordot", "trace", "vecdot"]

Labels = tuple[int, ...]  # codes of letters; negative for ellipsis dimensions, from the end
Term = tuple[Tensor, Labels]


def trace(x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The sum of a diagonal; takes the arguments of `diagonal`.

    >>> mg.trace(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(5.)
    """
    x = to_tensor(x, "trace")
    if x.ndim < 2:
        raise ValueError(f"trace: expected two or more dimensions, got shape {x.shape}")
    return ops.sum(ops.diagonal(x, offset, axis1, axis2), -1)


def outer(x: Tensor, y: TensorLike) -> Tensor:
    """x[i] * y[j] for two vectors, (n,) and (m,) -> (n, m).

    >>> mg.outer(mg.tensor([1.0, 2.0]), mg.tensor([3.0, 4.0]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    x, y = to_tensors((x, y), "outer")
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"outer: expected two vectors, got shapes {x.shape} and {y.shape}")
    return ops.reshape(x, (-1, 1)) * y


def vecdot(x: Tensor, y: TensorLike, axis: int = -1) -> Tensor:
    """The dot products of vectors along an axis, counted from the end; other dimensions broadcast.
    Integers and bools give int64, as in `sum`.

    >>> mg.vecdot(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([1.0, 1.0]))
    tensor([3., 7.])
    """
    x, y = to_tensors((x, y), "vecdot")
    fewest = x.ndim if x.ndim < y.ndim else y.ndim
    axis = integer(axis, "vecdot: axis")
    along = ops.one_axis("vecdot", axis, fewest) - fewest
    if axis >= 0 or x.shape[along] != y.shape[along]:
        raise ValueError(
            f"vecdot: {x.shape} and {y.shape} along axis {axis}: expected a negative axis with the "
            "same size in both"
        )
    if x.shape == y.shape:
        return ops.sum_product(x, y, along)
    labels = [tuple(range(-t.ndim, 0)) for t in (x, y)]
    kept = tuple(label for label in (labels[0] if x.ndim > y.ndim else labels[1]) if label != along)
    return _sum_of_products("vecdot", [x, y], labels, kept)


def tensordot(
    x: Tensor, y: TensorLike, axes: int | tuple[int | Sequence[int], int | Sequence[int]] = 2
) -> Tensor:
    """Products of x and y summed over the last `axes` dimensions of x and the first of y, or over
    a pair of lists of dimensions of x and of y. The remaining dimensions of x come first in the
    result. Sums of integers and bools are int64, as in `sum`.

    >>> mg.tensordot(mg.ones(2, 3, 4), mg.ones(4, 3, 5), axes=((1, 2), (1, 0))).shape
    (2, 5)
    """
    x, y = to_tensors((x, y), "tensordot")
    if isinstance(axes, (tuple, list)) and len(axes) == 2:
        pairs = [np.atleast_1d(a).tolist() for a in axes]
    else:
        count = integer(axes, "tensordot: axes")
        if count < 0:
            raise ValueError(f"tensordot: axes must be an int of 0 or more, or a pair, got {axes}")
        pairs = [list(range(-count, 0)), list(range(count))]
    for tensor, named in zip((x, y), pairs, strict=True):
        ops.reduced_axes("tensordot", tuple(named), tensor.ndim)
    sizes = [[t.shape[a] for a in named] for t, named in zip((x, y), pairs, strict=True)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"tensordot: {x.shape} and {y.shape} over axes {pairs[0]} and {pairs[1]}: sizes "
            f"{sizes[0]} and {sizes[1]} differ"
        )
    of_x, of_y = list(range(x.ndim)), list(range(x.ndim, x.ndim + y.ndim))
    for a, b in zip(*pairs, strict=True):
        of_y[b] = of_x[a]
    kept = tuple(label for label in of_x + of_y if (label in of_x) != (label in of_y))
    return _sum_of_products("tensordot", [x, y], [tuple(of_x), tuple(of_y)], kept)


def einsum(subscripts: str, *operands: TensorLike) -> Tensor:
    """Einstein summation. Letters name the dimensions of each operand, "..." those that broadcast
    (sizes of 1 also do). A letter that does not appear after "->" is summed over; one that occurs
    twice in an operand takes its diagonal. Without "->" the result has the letters that occur once,
    in alphabetical order. Of several operands, those with the smallest product are multiplied
    first. Sums of integers and bools are int64, as in `sum`.

    >>> mg.einsum("bij,bj->bi", mg.ones(2, 3, 4), mg.ones(2, 4)).shape
    (2, 3)
    >>> mg.einsum("ii", mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(5.)
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: expected subscripts such as 'ij,jk->ik', got {subscripts!r:.60}")
    tensors = list(to_tensors(operands, "einsum"))
    labels, output = _parse_once(subscripts, tuple(t.ndim for t in tensors))
    return _sum_of_products("einsum", tensors, labels, output)


def _parse(subscripts: str, ndims: tuple[int, ...]) -> tuple[list[Labels], Labels]:
    """The labels of each operand and of the result."""
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {subscripts!r} is for {len(terms)} operands, got {len(ndims)}")
    labels = [_labels(term, ndim, subscripts) for term, ndim in zip(terms, ndims, strict=True)]
    every = [label for operand in labels for label in operand]
    dots = sorted({label for label in every if label < 0})
    if not arrow:
        once = sorted(label for label in every if label > 0 and every.count(label) == 1)
        return labels, (*dots, *once)
    count = len(result.replace("...", "")) + (len(dots) if "..." in result else 0)
    output = _labels(result, count, subscripts)
    for label in output:
        if label not in every or output.count(label) > 1:
            raise ValueError(
                f"einsum: {subscripts!r}: {chr(label)!r} must occur once after '->', and before it"
            )
    return labels, output


_parse_once = lru_cache(maxsize=1024)(_parse)


def _labels(term: str, ndim: int, subscripts: str) -> Labels:
    head, dots, tail = term.partition("...")
    letters = head + tail
    if letters and not (letters.isascii() and letters.isalpha()):
        raise ValueError(f"einsum: {subscripts!r}: {term!r} may contain only letters and one '...'")
    if ndim < len(letters) or (ndim > len(letters) and not dots):
        raise ValueError(
            f"einsum: {subscripts!r}: {term!r} names {len(letters)} dimensions, there are {ndim}"
        )
    return (*map(ord, head), *range(len(letters) - ndim, 0), *map(ord, tail))


def _sum_of_products(
    name: str, tensors: list[Tensor], labels: list[Labels], output: Labels
) -> Tensor:
    """The product of all tensors, summed over the labels missing from `output`."""
    if any(t.dtype.kind != "f" for t in tensors):  # products could overflow before the sum
        common = result_type(*tensors)
        if common.kind != "f" and not set(output).issuperset(
            label for own in labels for label in own
        ):
            common = np.dtype(np.int64)
        tensors = [ops.astype(t, common) for t in tensors]
    terms = [_diagonals(name, t, own) for t, own in zip(tensors, labels, strict=True)]
    sizes: dict[int, int] = {}
    for tensor, own in terms:
        for label, size in zip(own, tensor.shape, strict=True):
            if sizes.setdefault(label, size) == 1:
                sizes[label] = size
            elif size not in (1, sizes[label]):
                raise _mismatch(name, label, sizes[label], size, tensors)
    terms = [_without_ones(tensor, own, sizes) for tensor, own in terms]

    def size_of(labels: Iterable[int]) -> int:
        return math.prod(sizes[label] for label in labels)

    def needed(*pair: int) -> set[int]:
        others = (own for k, (_, own) in enumerate(terms) if k not in pair)
        return set(output).union(*others)

    def growth(pair: tuple[int, int]) -> int:
        a, b = (terms[k][1] for k in pair)
        return size_of({*a, *b} & needed(*pair)) - size_of(a) - size_of(b)

    while len(terms) > 1:
        i, j = min(combinations(range(len(terms)), 2), key=growth) if len(terms) > 2 else (0, 1)
        product = _product(terms[i], terms[j], needed(i, j), sizes)
        terms = [product, *(term for k, term in enumerate(terms) if k not in (i, j))]
    tensor, own = _summed(terms[0], set(output))
    return ops.permute_dims(tensor, tuple(own.index(label) for label in output))


def _mismatch(name: str, label: int, n: int, m: int, tensors: list[Tensor]) -> ValueError:
    what = f"index {chr(label)!r}" if label > 0 else f"axis {label}"
    shapes = ", ".join(str(t.shape) for t in tensors)
    return ValueError(f"{name}: {what} has sizes {n} and {m}; the shapes are {shapes}")


def _diagonals(name: str, tensor: Tensor, labels: Labels) -> Term:
    """Replace the two dimensions of a repeated label by their diagonal."""
    for label in set(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            if tensor.shape[i] != tensor.shape[j]:
                raise _mismatch(name, label, tensor.shape[i], tensor.shape[j], [tensor])
            tensor = ops.diagonal(tensor, 0, i, j)
            labels = (*labels[:i], *labels[i + 1 : j], *labels[j + 1 :], label)
    return tensor, labels


def _without_ones(tensor: Tensor, labels: Labels, sizes: dict[int, int]) -> Term:
    """Drop dimensions of size 1 that are larger in other tensors: they broadcast when absent."""
    kept = tuple(label for label, n in zip(labels, tensor.shape, strict=True) if n == sizes[label])
    if kept == labels:
        return tensor, labels
    return ops.reshape(tensor, tuple(sizes[label] for label in kept)), kept


def _summed(term: Term, kept: set[int]) -> Term:
    tensor, labels = term
    axes = tuple(d for d, label in enumerate(labels) if label not in kept)
    return (ops.sum(tensor, axes), tuple(n for n in labels if n in kept)) if axes else term


def _product(first: Term, second: Term, needed: set[int], sizes: dict[int, int]) -> Term:
    """The product of two terms, summed over the labels that are no longer needed."""
    first = _summed(first, needed.union(second[1]))
    second = _summed(second, needed.union(first[1]))
    shared = [label for label in first[1] if label in second[1]]
    batch = tuple(label for label in shared if label in needed)
    inner = tuple(label for label in shared if label not in needed)
    rows = tuple(label for label in first[1] if label not in shared)
    columns = tuple(label for label in second[1] if label not in shared)

    labels = batch + rows + columns
    if labels == batch or not inner:  # aligned with the larger one, to keep its memory order
        large, small = (first, second) if len(first[1]) >= len(second[1]) else (second, first)
        labels = large[1] + tuple(label for label in small[1] if label not in large[1])
        x, y = (_aligned(term, labels) for term in (large, small))
        if not inner:
            return x * y, labels
        summed = tuple(d for d, label in enumerate(labels) if label in inner)
        return ops.sum_product(x, y, summed), tuple(label for label in labels if label in batch)

    def grouped(term: Term, *groups: Labels) -> Tensor:
        tensor, labels = term
        groups = (*((label,) for label in batch), *groups)
        order = tuple(labels.index(n) for group in groups for n in group)
        ordered = ops.permute_dims(tensor, order)
        return ops.reshape(ordered, tuple(math.prod(sizes[n] for n in group) for group in groups))

    product = ops.matmul(grouped(first, rows, inner), grouped(second, inner, columns))
    return ops.reshape(product, tuple(sizes[label] for label in labels)), labels


def _aligned(term: Term, labels: Labels) -> Tensor:
    """The tensor with its dimensions in this order, and size 1 for labels it does not have."""
    tensor, own = term
    ordered = ops.permute_dims(tensor, tuple(own.index(label) for label in labels if label in own))
    sizes = iter(ordered.shape)
    return ops.reshape(ordered, tuple(next(sizes) if label in own else 1 for label in labels))


led(globals(), __all__)
attach_methods(globals(), ["trace", "outer"])
