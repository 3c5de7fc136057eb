"""Create tensors from data, constants and random numbers.

Names and arguments follow NumPy, `requires_grad` follows PyTorch. Random functions draw from the
generator that `manual_seed` seeds, or from `generator`; see `rng.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._core.engine.graph import (
    DTYPES,
    Tensor,
    adopt,
    drops_graph,
    get_default_dtype,
    listed_tensors,
    result_type,
    to_tensor,
)
from ._core.fast.loops import memory_checked
from .checks import check_device, integer, plain
from .namespace import led
from .rng import Generator, generator as numpy_generator
from .types import Shape

__all__ = [
    "arange", "asarray", "empty", "empty_like", "eye", "float32", "float64", "from_dlpack", "full",
    "full_like", "int32", "int64", "linspace", "ones", "ones_like", "rand", "randint", "randn",
    "randperm", "tensor", "zeros", "zeros_like",
]  # fmt: skip

float32, float64, int32, int64, bool_ = DTYPES

# What `tensor` and `asarray` make of arrays of other dtypes, by number: every value is exact.
WIDENED: dict[int, np.dtype[Any]] = {np.dtype(np.float16).num: float32}
WIDENED |= {np.dtype(name).num: int64 for name in ("int8", "int16", "uint8", "uint16", "uint32")}


def _as_array(
    data: Tensor | ArrayLike, dtype: DTypeLike | None, copy: bool, name: str
) -> np.ndarray:
    """Convert Python data to an array: floats take the default dtype, arrays keep theirs. Numbers
    out of range for the dtype raise; arrays are converted as by `astype`."""
    if isinstance(data, Tensor):
        data = data.numpy() if copy else data._array
    if isinstance(data, (str, bytes)) or data is None:
        raise TypeError(f"{name}: expected numbers, got {type(data).__name__} {data!r:.40}")
    given = isinstance(data, (np.ndarray, np.generic))
    if given and dtype is not None and isinstance(data, np.generic):
        data, given = float(data) if data.dtype.kind == "f" else data.item(), False
    inside = listed_tensors(data, name)
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ValueError(
            f"{name}: rows of different lengths do not form a tensor ({error})"
        ) from None
    kind = array.dtype.kind
    if kind == "O" and not given and all(isinstance(v, (int, float)) for v in array.flat):
        kind = "f" if any(isinstance(v, float) for v in array.flat) else "u"  # ints beyond int64
    if kind in "OUSV":
        raise TypeError(f"{name}: expected numbers, got elements of type {array.dtype}")
    if not given and kind == "u":
        dtype = dtype or int64
    if not given and kind == "f" and dtype is None:
        floats = [t.dtype for t in inside if t.dtype.kind == "f"]
        dtype = result_type(*floats) if floats else get_default_dtype()
    elif (
        not given
        and dtype is not None
        and array.dtype != dtype
        and (kind in "iu" or np.dtype(dtype).kind in "iu")  # where `array` would wrap around
    ):
        try:
            return np.array(data, dtype=dtype, order="C")
        except OverflowError as error:
            raise OverflowError(f"{name}: {error}; give a wider or a floating dtype") from None
        except ValueError as error:  # NaN
            raise ValueError(f"{name}: {error}") from None
    if dtype is None:
        dtype = WIDENED.get(array.dtype.num)
    return np.array(array, dtype=dtype, order="C") if copy else np.asarray(array, dtype=dtype)


def tensor(
    data: Tensor | ArrayLike, dtype: DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    """A new tensor with a copy of `data`: nested lists of numbers, an array, or a Tensor.

    Python floats become float32 (see `set_default_dtype`), ints int64; arrays keep their dtype, but
    float16 becomes float32, and integers of 8 and 16 bits and uint32 (pixels, labels) become int64:
    every value stays exact. (Pixels to compute with: dtype=mg.float32.)

    The result is a leaf: it takes only the values of a Tensor that requires grad (`mg.clone(x)`
    stays in the graph); a list of such Tensors raises RuntimeError, because `mg.stack` is usually
    meant. Raises TypeError for anything that is not numbers and for arrays of other dtypes (uint64,
    complex) unless a dtype is given, ValueError for ragged lists, OverflowError for a number out of
    range for an integer dtype (ValueError for NaN); arrays are converted as by `astype`.

    >>> mg.tensor([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 2.],
            [3., 4.]])
    """
    return adopt(_as_array(data, dtype, True, "tensor"), requires_grad)


def asarray(
    data: Tensor | ArrayLike,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    *,
    device: str | None = None,
    copy: bool | None = None,
) -> Tensor:
    """Like `tensor`, but share the memory of an array or Tensor if it keeps its dtype. With a
    Tensor the version is shared too: graphs detect writes through either. copy=True always copies,
    copy=False raises ValueError where a copy is needed.

    A write through the array changes the tensor, but not the gradients of earlier results: an
    operation that saves the tensor for backward saves a copy. One array can therefore be refilled
    for each batch. The copy is made only if a gradient needs the values and the array is referenced
    elsewhere; `tensor` copies once and saves that copy.

    >>> a = np.zeros(2, np.float32)
    >>> t = mg.asarray(a)
    >>> a[0] = 7
    >>> t
    tensor([7., 0.])
    """
    check_device("asarray", device)
    if copy:
        return tensor(data, dtype, requires_grad)
    if isinstance(data, Tensor) and (dtype is None or data.dtype == dtype):
        return data.detach().requires_grad_(requires_grad)
    made = Tensor(_as_array(data, dtype, False, "asarray"), requires_grad=requires_grad)
    if copy is False and made.size and not np.may_share_memory(made._array, np.asarray(data)):
        given = type(data).__name__
        raise ValueError(f"asarray: {given} cannot become a {made.dtype} tensor without a copy")
    return made


def from_dlpack(x: Any, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A tensor that shares the memory of x, an object of any library with `__dlpack__` (PyTorch,
    JAX, NumPy, CuPy on the CPU); copy=True copies.

    Writes are visible on both sides, and our graph saves copies, as for `asarray`: a write through
    the other library does not change the gradients of earlier results. The other library's graph
    does not detect writes made here. Read-only memory (JAX) stays read-only, and in-place
    operations raise. With a Tensor the version is shared too, as by `detach`.

    In the other direction, `torch.from_dlpack(t)`, `jax.dlpack.from_dlpack(t)` and
    `np.from_dlpack(t)` share the memory of a Tensor t that does not require grad (otherwise use
    `t.detach()`). From then on graphs save copies of t; a graph that saved t earlier does not
    detect writes through the other library. `np.asarray(t)` and `t.numpy()` are read-only views.

    Raises TypeError for an object without `__dlpack__` or an unsupported dtype, BufferError for
    memory on another device or a PyTorch tensor that requires grad.

    >>> a = np.zeros(2, np.float32)
    >>> t = mg.from_dlpack(a)
    >>> a[0] = 7
    >>> t
    tensor([7., 0.])
    """
    check_device("from_dlpack", device)
    if isinstance(x, Tensor):
        return x.clone().detach() if copy else x.detach()
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(
            f"from_dlpack: expected an object with __dlpack__, got {type(x).__name__}; "
            "for numbers and lists use mg.tensor"
        )
    try:
        kind, _ = x.__dlpack_device__()
        if kind != 1:  # kDLCPU
            raise BufferError(
                f"the memory is on device type {int(kind)} of dlpack.h, not on the CPU; copy it "
                "there first, for example with x.cpu()"
            )
        array = np.from_dlpack(x)
        return adopt(np.array(array, order="C")) if copy else Tensor(array)
    except (BufferError, ValueError) as error:
        raise BufferError(f"from_dlpack: {error}") from error
    except (RuntimeError, TypeError) as error:  # raised by NumPy and Tensor for dtypes
        raise TypeError(f"from_dlpack: {error}") from error


def full(
    shape: Shape,
    fill_value: float,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A tensor of `shape` filled with `fill_value`.

    >>> mg.full((2,), 3.0)
    tensor([3., 3.])
    """
    check_device("full", device)
    if isinstance(fill_value, Tensor):
        _check_values("full", (fill_value,), "mg.broadcast_to(fill_value, shape)")
    if dtype is not None and isinstance(fill_value, (Tensor, np.ndarray)):
        fill_value = fill_value.tolist()  # numbers out of range raise
    if dtype is None and isinstance(fill_value, float):
        dtype = get_default_dtype()
    value = _as_array(fill_value, dtype, False, "full")
    return adopt(np.full(shape, value, value.dtype), requires_grad)


def zeros(
    shape: Shape = (),
    *more: int,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Zeros of `shape`, given as ints or one tuple, in the default dtype.

    >>> mg.zeros(2)
    tensor([0., 0.])
    """
    check_device("zeros", device)
    return adopt(np.zeros((shape, *more) if more else shape, _float(dtype)), requires_grad)


def ones(
    shape: Shape = (),
    *more: int,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Ones of `shape`, given as ints or one tuple, in the default dtype.

    >>> mg.ones(3)
    tensor([1., 1., 1.])
    """
    check_device("ones", device)
    return adopt(np.ones((shape, *more) if more else shape, _float(dtype)), requires_grad)


def empty(
    shape: Shape = (),
    *more: int,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A tensor of `shape` with uninitialised elements; write before you read.

    >>> mg.empty(2, 3).shape
    (2, 3)
    """
    check_device("empty", device)
    return adopt(np.empty((shape, *more) if more else shape, _float(dtype)), requires_grad)


def _check_values(name: str, values: tuple[Any, ...], way_out: str) -> None:
    if drops_graph([value for value in values if isinstance(value, Tensor)]):
        raise RuntimeError(
            f"{name}: a number was given as a tensor that requires grad; its gradient would be "
            f"lost; use {way_out}, or x.item()"
        )


def _shape(shape: Any) -> Any:
    return shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape


def _float(dtype: Any) -> Any:
    return np.dtype(dtype or get_default_dtype())


def zeros_like(
    x: Tensor,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Zeros with the shape and dtype of x.

    >>> mg.zeros_like(mg.ones(2))
    tensor([0., 0.])
    """
    return full_like(to_tensor(x, "zeros_like"), 0, dtype, requires_grad, device)


def ones_like(
    x: Tensor,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Ones with the shape and dtype of x.

    >>> mg.ones_like(mg.zeros(2))
    tensor([1., 1.])
    """
    return full_like(to_tensor(x, "ones_like"), 1, dtype, requires_grad, device)


def full_like(
    x: Tensor,
    fill_value: float,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A tensor with the shape and dtype of x, filled with `fill_value`.

    >>> mg.full_like(mg.zeros(2), 5)
    tensor([5., 5.])
    """
    x = to_tensor(x, "full_like")
    return full(x.shape, fill_value, dtype or x.dtype, requires_grad, device)


def empty_like(
    x: Tensor,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A tensor with the shape and dtype of x and uninitialised elements.

    >>> mg.empty_like(mg.zeros(2)).shape
    (2,)
    """
    x = to_tensor(x, "empty_like")
    return empty(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad, device=device)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """start, start + step, ... below stop; `arange(n)` counts from 0. Ints give int64.

    >>> mg.arange(1, 7, 2)
    tensor([1, 3, 5])
    """
    check_device("arange", device)
    _check_values("arange", (start, stop, step), "start + step * mg.arange(n)")
    start, stop, step = plain((start, stop, step))  # NumPy's scalars are as weak as Python's
    if stop is None:
        start, stop = 0, start
    if dtype is None and any(isinstance(v, float) for v in (start, stop, step)):
        dtype = get_default_dtype()
    array = np.arange(start, stop, step, dtype=dtype)
    if array.dtype == np.int32:  # NumPy does not check for overflow here
        array = np.arange(start, stop, step, dtype=np.int64)
        _as_array([int(n) for n in (*array[:1], *array[-1:])], int32, False, "arange")
        array = array.astype(np.int32)
    return adopt(array, requires_grad)


def linspace(
    start: float,
    stop: float,
    num: int = 50,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    *,
    endpoint: bool = True,
    device: str | None = None,
) -> Tensor:
    """`num` evenly spaced numbers from start to stop; endpoint=False excludes stop.

    >>> mg.linspace(0, 1, 3)
    tensor([0. , 0.5, 1. ])
    """
    check_device("linspace", device)
    _check_values("linspace", (start, stop), "start + (stop - start) * mg.linspace(0, 1, num)")
    kind: np.dtype[Any] = _float(dtype)
    if kind.kind == "i":
        _as_array([start, stop], kind, False, "linspace")
    return adopt(np.linspace(start, stop, num, endpoint, dtype=kind), requires_grad)


def eye(
    n_rows: int,
    n_columns: int | None = None,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    *,
    k: int = 0,
    device: str | None = None,
) -> Tensor:
    """Ones on the k-th diagonal (above the main one if k > 0), zeros elsewhere, of shape (n_rows,
    n_columns or n_rows).

    >>> mg.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_device("eye", device)
    ones_and_zeros = np.eye(n_rows, n_columns, k, dtype=_float(dtype))
    return adopt(ones_and_zeros, requires_grad)


def random_floats(
    method: str, name: str, shape: Any, dtype: DTypeLike | None, generator: Generator | None
) -> np.ndarray:
    """What this method of a NumPy generator draws for the function `name`; dtype None is the
    default dtype.

    >>> mg.creation.random_floats("random", "rand", 2, "int64", None)
    Traceback (most recent call last):
    TypeError: rand: dtype must be float32 or float64, got int64; convert the result by astype
    """
    kind = _float(dtype)
    if kind.char not in "fd":
        expected = f"{name}: dtype must be float32 or float64, got {kind}"
        raise TypeError(f"{expected}; convert the result by astype")
    return np.asarray(getattr(numpy_generator(generator, name), method)(shape, kind))


def rand(
    *shape: Shape,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Random numbers uniform in [0, 1), of `shape`, drawn from `generator` or the library's.

    >>> mg.rand(2, 3).shape
    (2, 3)
    """
    return adopt(random_floats("random", "rand", _shape(shape), dtype, generator), requires_grad)


def randn(
    *shape: Shape,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Standard normal random numbers, of `shape`, drawn from `generator` or the library's.

    >>> mg.randn(2, 3).shape
    (2, 3)
    """
    return adopt(
        random_floats("standard_normal", "randn", _shape(shape), dtype, generator), requires_grad
    )


@memory_checked
def randint(
    low: int,
    high: int | Sequence[int] | None = None,
    size: Shape = (),
    dtype: DTypeLike = int64,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Random integers uniform in [low, high), or in [0, low) with one bound; shape `size`; drawn
    from `generator` or the library's. `randint(high, size)` is PyTorch's order of the arguments,
    where `size` is a tuple.

    >>> bool((mg.randint(5, size=(100,)) < 5).all()), mg.randint(5, (2, 3)).shape
    (True, (2, 3))
    """
    if isinstance(high, (tuple, list)):
        if size != ():
            raise TypeError(f"randint: expected high to be an int, got {high!r}, and size {size!r}")
        low, high, size = 0, low, high
    return adopt(numpy_generator(generator, "randint").integers(low, high, size, dtype=dtype))


def randperm(n: int, *, generator: Generator | None = None) -> Tensor:
    """0 ... n-1 in random order, int64, drawn from `generator` or the library's.

    >>> sorted(mg.randperm(4).tolist())
    [0, 1, 2, 3]
    """
    n = integer(n, "randperm: n", 0)
    return adopt(numpy_generator(generator, "randperm").permutation(n))


led(globals(), __all__)
