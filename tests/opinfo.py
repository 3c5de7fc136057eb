"""Run PyTorch's own samples of its operations and modules through minigrad: `make test-opinfo`.

torch.testing._internal ships inside PyTorch's wheel: for each operation inputs and options, for
each module arguments and inputs. Each sample runs in both libraries; values, dtypes and, in
float64, the gradients of a random cotangent are compared. Names and keywords are translated by the
tables below; operations and modules that minigrad lacks are not counted. `python tests/opinfo.py
NAME ...` runs some, and prints what differs.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter, defaultdict
from itertools import islice
from operator import and_, matmul, mod, mul, or_, sub, truediv, xor

import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import minigrad as mg
from minigrad import nn
from minigrad.nn import functional as F

LIMIT = None  # of samples of each operation and dtype
DTYPES = (torch.float64, torch.float32, torch.int64, torch.bool)
KEYWORDS = {"dim": "axis", "keepdim": "keepdims", "dims": "axis", "input": "x", "other": "y"}
OF_MODULES = {"input": "x"}


# --------------------------------------------------------------------------- where names part
def reversed_(operator):
    return lambda x, y: operator(y, x)


def of_variance(function):
    """PyTorch's default is the unbiased estimate, the standard's is not."""

    def call(x, axis=None, unbiased=None, keepdims=False, correction=None):
        if isinstance(axis, bool):  # var(x, unbiased)
            axis, unbiased = None, axis
        if correction is None:
            correction = 1 if unbiased is None else int(unbiased)
        return function(
            x, axis=axis or None if axis != 0 else 0, correction=correction, keepdims=keepdims
        )

    return call


def extreme(function, elementwise, position):
    def call(x, *args, **options):
        if args and isinstance(args[0], mg.Tensor):
            return elementwise(x, *args)
        if args or "axis" in options:  # values and positions
            return function(x, *args, **options), position(x, *args, **options)
        return function(x)

    return call


def divide(x, y, rounding_mode=None):
    if rounding_mode is None:
        return mg.divide(x, y)
    rounded = {"floor": mg.floor, "trunc": mg.trunc}[rounding_mode](mg.divide(x, y))
    return rounded.astype(mg.result_type(x, y))


def expand(x, *shape):
    shape = shape[0] if isinstance(shape[0], (tuple, list)) else shape
    before = len(shape) - x.ndim
    return mg.broadcast_to(
        x, tuple(x.shape[i - before] if n == -1 else n for i, n in enumerate(shape))
    )


def narrow(x, axis, start, length):
    start = int(start) % x.shape[axis] if x.shape[axis] else 0
    return x[(slice(None),) * (axis % (x.ndim or 1)) + (slice(start, start + length),)]


def scaled(function):
    """add and subtract with PyTorch's alpha."""
    return lambda x, y, alpha=1: function(x, y if alpha == 1 else y * alpha)


def astype(dtype):
    return lambda x, **_: mg.astype(x, dtype)


NAMES = {
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "t": lambda x: x.T,
    "__getitem__": lambda x, index: x[index],
    "__radd__": lambda x, y: y + x,
    "__rand__": reversed_(and_),
    "__rdiv__": reversed_(truediv),
    "__rmatmul__": reversed_(matmul),
    "__rmod__": reversed_(mod),
    "__rmul__": reversed_(mul),
    "__ror__": reversed_(or_),
    "__rpow__": lambda x, y: y**x,
    "__rsub__": reversed_(sub),
    "__rxor__": reversed_(xor),
    "add": scaled(mg.add),
    "sub": scaled(mg.subtract),
    "rsub": lambda x, y, alpha=1: y - (x if alpha == 1 else x * alpha),
    "mul": mg.multiply,
    "div": divide,
    "true_divide": mg.divide,
    "neg": mg.negative,
    "eq": lambda x, y: mg.equal(x, y),
    "equal": lambda x, y: x.shape == y.shape and bool((x == y).all()),
    "ne": lambda x, y: mg.not_equal(x, y),
    "lt": lambda x, y: mg.less(x, y),
    "le": lambda x, y: mg.less_equal(x, y),
    "gt": lambda x, y: mg.greater(x, y),
    "ge": lambda x, y: mg.greater_equal(x, y),
    "amax": mg.max,
    "amin": mg.min,
    "max": extreme(mg.max, mg.maximum, mg.argmax),
    "min": extreme(mg.min, mg.minimum, mg.argmin),
    "var": of_variance(mg.var),
    "std": of_variance(mg.std),
    "var_mean": lambda x, *a, **o: (of_variance(mg.var)(x, *a, **o), NAMES["mean_of"](x, *a, **o)),
    "std_mean": lambda x, *a, **o: (of_variance(mg.std)(x, *a, **o), NAMES["mean_of"](x, *a, **o)),
    "mean_of": lambda x, axis=None, unbiased=None, keepdims=False, correction=None: mg.mean(
        x, None if isinstance(axis, bool) or axis == () else axis, keepdims
    ),
    "sort": lambda x, axis=-1, descending=False, stable=True: (
        mg.sort(x, axis, descending),
        mg.argsort(x, axis, descending),
    ),
    "topk": lambda x, k, axis=-1, largest=True, sorted=True: mg.topk(x, k, axis, largest, sorted),
    "norm": lambda x, p=2, axis=None, keepdims=False, dtype=None: mg.norm(
        x if dtype is None else x.astype(dtype), axis, keepdims, "fro" if p is None else p
    ),
    "bitwise_not": mg.bitwise_invert,
    "bmm": mg.matmul,
    "mm": mg.matmul,
    "mv": mg.matmul,
    "dot": mg.matmul,
    "vdot": mg.vecdot,
    "linalg.vecdot": lambda x, y, axis=-1: mg.vecdot(
        x, y, axis if axis < 0 else axis - max(x.ndim, y.ndim)
    ),
    "addmm": lambda c, x, y, beta=1, alpha=1: beta * c + alpha * (x @ y),
    "broadcast_tensors": mg.broadcast_arrays,
    "cat": mg.concat,
    "clamp": mg.clip,
    "clamp_max": lambda x, most: mg.clip(x, max=most),
    "clamp_min": lambda x, least: mg.clip(x, min=least),
    "cumsum": lambda x, axis, dtype=None: mg.cumulative_sum(
        x if x.ndim else x.reshape(1), axis, dtype=dtype
    ).reshape(x.shape),
    "cumprod": lambda x, axis, dtype=None: mg.cumulative_prod(
        x if x.ndim else x.reshape(1), axis, dtype=dtype
    ).reshape(x.shape),
    "expand": expand,
    "float": astype("float32"),
    "double": astype("float64"),
    "int": astype("int32"),
    "long": astype("int64"),
    "bool": astype("bool"),
    "gather": lambda x, axis, index, sparse_grad=False: mg.take_along_axis(
        x[
            tuple(
                slice(n) if d != axis % (x.ndim or 1) else slice(None)
                for d, n in enumerate(index.shape)
            )
        ],
        index,
        axis,
    ),
    "index_select": lambda x, axis, index: mg.take(x, index, axis),
    "masked_fill": lambda x, mask, value: mg.where(mask, mg.astype(value, x.dtype), x),
    "nn.functional.embedding": lambda weight, x, **o: F.embedding(x, weight, **o),
    "flatten": lambda x, start_dim=0, end_dim=-1: mg.flatten(x, start_dim, end_dim),
    "masked_select": lambda x, mask: (lambda a, m: a[m])(*mg.broadcast_arrays(x, mask)),
    "movedim": mg.moveaxis,
    "narrow": narrow,
    "permute": lambda x, *axes: mg.permute_dims(
        x, axes[0] if isinstance(axes[0], (tuple, list)) else axes
    ),
    "ravel": mg.flatten,
    "repeat": lambda x, *times: mg.tile(
        x, times[0] if isinstance(times[0], (tuple, list)) else times
    ),
    "repeat_interleave": lambda x, repeats, axis=None, output_size=None: mg.repeat(
        x, repeats, axis
    ),
    "select": lambda x, axis, i: x[(slice(None),) * (axis % (x.ndim or 1)) + (i,)],
    "split": lambda x, sizes, axis=0: mg.split(x, sizes, axis),
    "split_with_sizes": lambda x, sizes, axis=0: mg.split(x, sizes, axis),
    "take": lambda x, indices: mg.take(mg.flatten(x), indices),
    "transpose": mg.swapaxes,
    "unbind": mg.unstack,
    "unsqueeze": mg.expand_dims,
    "view": mg.reshape,
    "where": lambda x, condition, y: mg.where(condition, x, y),
    "flip": lambda x, axis: mg.flip(x, tuple(axis)),
    "roll": lambda x, shifts, axis=None: mg.roll(x, shifts, axis or None if axis != 0 else 0),
    "tile": lambda x, *times: mg.tile(
        x, times[0] if times and isinstance(times[0], (tuple, list)) else times
    ),
    "reshape": lambda x, shape: mg.reshape(x, shape),
    "tril": lambda x, k=0: mg.tril(x, k),
    "triu": lambda x, k=0: mg.triu(x, k),
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: mg.diagonal(x, offset, dim1, dim2),
    "linalg.diagonal": lambda x, offset=0, dim1=-2, dim2=-1: mg.diagonal(x, offset, dim1, dim2),
    "tensordot": lambda x, y, axis=2: mg.tensordot(x, y, axis),
    "einsum": lambda operands, equation: mg.einsum(equation, *operands),
    "trace": mg.trace,
    "meshgrid": lambda x, *more, indexing="ij": mg.meshgrid(
        *(x if isinstance(x, list) else (x, *more)), indexing=indexing
    ),
    "nonzero": lambda x, as_tuple=False: (
        mg.nonzero(x) if as_tuple else mg.stack(list(mg.nonzero(x)), 1)
    ),
    "arange": lambda x, *more, end=None, **o: mg.arange(
        x, *more, *([] if end is None else [end]), **o
    ),
    "round": lambda x, decimals=0: mg.round(x, decimals),
    "quantile": lambda x, q, axis=None, keepdims=False, interpolation="linear": mg.quantile(
        x, q, axis, keepdims, method=interpolation
    ),
    "unique": lambda x, sorted=True, return_inverse=False, return_counts=False, axis=None: (
        mg.unique(x, False, return_inverse, return_counts, axis)
    ),
    "searchsorted": lambda x, values, out_int32=False, right=False, side=None, sorter=None: (
        mg.searchsorted(x, values, side or ("right" if right else "left"), sorter).astype(
            "int32" if out_int32 else "int64"
        )
    ),
    "logit": lambda x, eps=None: (lambda p: mg.log(p / (1 - p)))(
        x if eps is None else mg.clip(x, eps, 1 - eps)
    ),
}
RANDOM = (
    "dropout rand normal bernoulli multinomial empty exponential geometric uniform cauchy rrelu"
)
# What has the same name and another meaning, is not of one spelling, or is not an operation.
APART = "masked. nn.functional.interpolate linalg.norm real allclose_ resize_ median"

# Where "name: what differs" matches, why it does.
EXCEPTIONS = {
    "of 0 dimensions|a 0-d tensor has no|0-dimensional|expected a negative axis": (
        "PyTorch takes 0-d tensors for 1-d ones where an axis is given; here they have none"
    ),
    "unexpected keyword": (
        "an option that is not there: `dtype=` of softmax and kin, `sparse=` and "
        "`scale_grad_by_freq=` of embeddings"
    ),
    "positions of equal elements": "the order of equal elements where it is not `stable`",
    "linspace: values": "integers from `linspace` are rounded down, as in NumPy",
    "(hardtanh|relu6|avg_pool.d|bincount): dtype": (
        "floats made of integers: float bounds, averages, weights"
    ),
    "overlap_add: expected|reciprocal: expected": (
        "no transposed convolution and no reciprocal of integers (PyTorch's is float, NumPy's int)"
    ),
    "negative integer powers": "integers to negative powers raise, as in NumPy",
    "sign: ufunc": "no sign of bools",
    "ord must be": "norms are of a positive order, and never nuclear",
    "^arange": "floats in `arange` of an integer dtype: it counts as NumPy does",
    "squeeze: axis": "`squeeze` raises for an axis of another size than 1, as in NumPy",
    "prelu: expected a weight": "a weight of shape () for `prelu`",
    "stride must be": "`stride=()` for the size of the window",
    "batch_norm: expected an input": "`batch_norm` of one dimension",
    "concat: axis": "`cat` passes over tensors of shape (0,)",
    "tensordot: .* differ": "`tensordot` broadcasts sizes of 1",
    "too large for the size 0": "reflection padding of an empty axis",
    "[Ss]oftplus: values": "softplus is exact, where PyTorch's is x above `threshold`",
}


def ours(name):
    """Our function for PyTorch's operation, or None."""
    if any(word in name for word in RANDOM.split()) or name.startswith(tuple(APART.split())):
        return None
    if name in NAMES:
        return NAMES[name]
    if name.startswith("nn.functional."):
        return getattr(F, name.removeprefix("nn.functional."), None)
    return (
        None if "." in name or name.startswith("_") else getattr(mg, name, getattr(F, name, None))
    )


# ---------------------------------------------------------------------------- samples of both
class NotHere(Exception):  # noqa: N818
    """A sample that no library of five dtypes on the CPU can run."""


def translated(value, leaves, keywords=KEYWORDS):
    """PyTorch's arguments as ours; `leaves` takes the pairs that require grad."""
    if isinstance(value, torch.Tensor):
        for theirs, own in leaves:  # one tensor given twice
            if theirs is value:
                return own
        if value.dtype not in (*DTYPES, torch.int32) or value.layout != torch.strided:
            raise NotHere
        tensor = mg.tensor(value.detach().numpy())
        if value.requires_grad:
            leaves.append((value, tensor.requires_grad_()))
        return tensor
    if isinstance(value, (list, tuple)):
        found = [translated(v, leaves) for v in value]
        return found if type(value) is list else tuple(found)
    if isinstance(value, dict):
        return {keywords.get(k, k): translated(v, leaves) for k, v in value.items()}
    if isinstance(value, torch.dtype):
        if value not in (*DTYPES, torch.int32):
            raise NotHere
        return str(value)[6:]
    if isinstance(value, (complex, torch.layout, torch.memory_format, torch.nn.Module)):
        raise NotHere
    if callable(value):
        return getattr(F, getattr(value, "__name__", ""), value)
    return "cpu" if isinstance(value, torch.device) else value


def flat(value):
    return (
        [v for part in value for v in flat(part)] if isinstance(value, (list, tuple)) else [value]
    )


def difference(found, expected, dtype):
    """What differs between results, or None."""
    found, expected = flat(found), flat(expected)
    if len(found) != len(expected):
        return f"{len(found)} results, not {len(expected)}"
    loose = {torch.float32: 2e-4, torch.float64: 1e-7}.get(dtype, 2e-4)
    for a, b in zip(found, expected, strict=True):
        a = a.numpy() if isinstance(a, mg.Tensor) else a
        b = b.detach().numpy() if isinstance(b, torch.Tensor) else b
        if np.shape(a) != np.shape(b):
            return f"shape {np.shape(a)}, not {np.shape(b)}"
        if getattr(a, "dtype", None) != getattr(b, "dtype", None):
            return f"dtype {getattr(a, 'dtype', None)}, not {getattr(b, 'dtype', None)}"
        if not np.allclose(a, b, loose, loose / 10, equal_nan=True):
            return f"values: {str(a).split()[:6]}, not {str(b).split()[:6]}"
    return None


def order_of_equals(name, found, expected, inputs, options):
    """Whether the results of a sort differ in positions alone, and only in those of equal elements:
    both are positions of different elements of x, which are the same one by one."""
    if name not in ("sort", "argsort", "topk"):
        return False
    x, positions = inputs[0], (np.asarray(flat(each)[-1]) for each in (found, expected))
    axis = dict(zip(("k", "dim") if name == "topk" else ("dim",), inputs[1:], strict=False))
    axis = (axis | options).get("dim", -1)
    one, other = (np.atleast_1d(p) for p in positions)
    x = np.atleast_1d(x.detach().numpy())
    distinct = all((np.diff(np.sort(p, axis), axis=axis) > 0).all() for p in (one, other))
    taken = [np.take_along_axis(x, p, axis) for p in (one, other)]
    values = [np.asarray(flat(each)[0].detach()) for each in (found, expected)]
    same = name == "argsort" or np.array_equal(*values, equal_nan=True)
    return bool(distinct and same and np.array_equal(*taken, equal_nan=True))


def compared(name, function, theirs, inputs, options, dtype):
    """What differs in values or gradients, or None; NotHere if PyTorch refuses too."""
    if options.get("dropout_p"):
        raise NotHere
    leaves = []
    keywords = {} if function.__module__.startswith(nn.__name__) else KEYWORDS
    keywords = OF_MODULES if isinstance(function, nn.Module) else keywords
    own_inputs, own_options = translated(inputs, leaves), translated(options, leaves, keywords)
    try:
        expected = theirs(*inputs, **options)
    except Exception as error:
        raise NotHere from error
    found = function(*own_inputs, **own_options)
    if wrong := difference(found, expected, dtype):
        if wrong.startswith("values") and order_of_equals(name, found, expected, inputs, options):
            return "positions of equal elements"
        return wrong
    pairs = [
        (a, b)
        for a, b in zip(flat(found), flat(expected), strict=True)
        if isinstance(b, torch.Tensor) and b.requires_grad and b.numel()
    ]
    if not pairs or not leaves:
        return None
    random = np.random.default_rng(0)
    cotangents = [random.normal(size=tuple(b.shape)).astype(str(b.dtype)[6:]) for _, b in pairs]
    ends = [
        (a, mg.tensor(g)) for (a, _), g in zip(pairs, cotangents, strict=True) if a.requires_grad
    ]
    expected = torch.autograd.grad(
        [b for _, b in pairs],
        [t for t, _ in leaves],
        list(map(torch.tensor, cotangents)),
        allow_unused=True,
    )
    mine = [None] * len(leaves)
    if ends:
        total = mg.stack([(a * g).sum() for a, g in ends]).sum()
        mine = mg.autograd.grad(total, [t for _, t in leaves], allow_unused=True)
    for (_, own), ours_, theirs_ in zip(leaves, mine, expected, strict=True):
        zero = mg.zeros_like(own)
        theirs_ = torch.tensor(zero.numpy()) if theirs_ is None else theirs_
        if wrong := difference(zero if ours_ is None else ours_, theirs_, dtype):
            return f"gradient: {wrong}"
    return None


def samples_of_operations(chosen):
    for op in op_db:
        function = ours(op.name)
        if function is None or (chosen and op.name not in chosen):
            continue
        for dtype in DTYPES:
            if dtype in op.supported_dtypes("cpu"):
                graded = dtype == torch.float64 and op.supports_autograd
                samples = op.sample_inputs("cpu", dtype, requires_grad=graded)
                for sample in islice(samples, LIMIT):
                    inputs = (sample.input, *sample.args)
                    yield op.name, function, op.op, inputs, sample.kwargs, dtype


def samples_of_modules(chosen):
    for info in module_db:
        kind = getattr(nn, info.name.removeprefix("nn."), None)
        if kind is None or (chosen and info.name not in chosen):
            continue
        for dtype in DTYPES[:2]:
            for training in (True, False):
                samples = info.module_inputs_func(
                    info, device="cpu", dtype=dtype, requires_grad=True, training=training
                )
                for sample in islice(samples, LIMIT):
                    made, given = sample.constructor_input, sample.forward_input
                    if given is None:
                        continue
                    yield (
                        (info.name, *in_both(kind, info.module_cls, made, training, dtype)),
                        (
                            given.args,
                            given.kwargs,
                            dtype,
                        ),
                    )


def in_both(kind, theirs, made, training, dtype):
    torch.manual_seed(0)
    module = theirs(*made.args, **made.kwargs).to(dtype).train(training)

    def build():
        leaves = []
        own = kind(*translated(made.args, leaves), **module_options(made.kwargs, leaves))
        own = own.to(str(dtype)[6:]).train(training)
        own.load_state_dict({k: v.numpy() for k, v in module.state_dict().items()})
        return own

    return build, module


def module_options(options, leaves):
    return translated({k: v for k, v in options.items() if k != "device"}, leaves, {})


def main(chosen):
    warnings.simplefilter("ignore")
    counts, reasons, surprises = defaultdict(Counter), Counter(), defaultdict(list)

    def note(name, outcome):
        kind = "modules" if re.match("nn.[A-Z]", name) else "operations"
        counts[kind]["equal" if outcome is None else "different"] += 1
        counts[f"names of {kind}"][name] += 1
        if outcome is not None:
            found = f"{name}: {outcome}"
            why = (reason for pattern, reason in EXCEPTIONS.items() if re.search(pattern, found))
            reason = next(why, None)
            if reason is not None:
                reasons[reason] += 1
            if reason is None or chosen:
                surprises[name].append(outcome)

    def run(name, *sample):
        try:
            outcome = compared(name, *sample)
        except NotHere:
            return
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        note(name, outcome)

    for name, *sample in samples_of_operations(chosen):
        run(name, *sample)
    for (name, build, module), (inputs, options, dtype) in samples_of_modules(chosen):
        try:
            own = build()
        except NotHere:
            continue
        except Exception as error:
            note(name, f"{type(error).__name__}: {error}")
            continue
        run(name, own, module, inputs, options, dtype)

    for kind in ("operations", "modules"):
        equal, total = counts[kind]["equal"], sum(counts[kind].values())
        names = len(counts[f"names of {kind}"])
        share = f"{100 * equal / max(total, 1):.1f} %"
        print(f"{equal} of {total} samples of {names} {kind} are equal, {share}")
    for reason, count in reasons.most_common():
        print(f"{count:5} {reason}")
    for name, found in sorted(surprises.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(found)} samples of {name}, not in EXCEPTIONS:")
        for text, count in Counter(found).most_common(12 if chosen else 3):
            print(f"{count:5} {text[:200]}")
    return int(bool(surprises))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
