"""Check gradients against finite differences: `gradcheck` first order, `gradgradcheck` second.

How it works. For a function f whose outputs have M elements in total, a random cotangent u turns f
into the number u·f(x). One backward pass computes its gradient uᵀJ, and each element of it is
compared with a central difference, (u·f(x + eps e) - u·f(x - eps e)) / (2 eps). A wrong entry
anywhere in the Jacobian shows in uᵀJ, since no element of u is near zero. Inputs with many elements
are perturbed along random directions that together cover every element once; a direction that
disagrees is halved until one element is left. With `full=True` the cotangents are the M unit
vectors, and the whole Jacobian is compared.

Inputs are perturbed in place and restored bitwise, as in PyTorch, so a function can also access
them in another way, for example as the parameters of a module.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._core.engine.graph import Tensor, adopt, run_graph, set_recording
from ..checks import positive_real

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]

MAX_ELEMENTWISE = 256  # an input with more elements is perturbed along directions
DIRECTIONS = 32


class GradcheckError(RuntimeError):
    """A gradient disagrees with finite differences, or the function cannot be checked.

    >>> issubclass(mg.autograd.GradcheckError, RuntimeError)
    True
    """


def gradcheck(
    function: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    full: bool = False,
    seed: int = 0,
    raise_exception: bool = True,
    name: str | None = None,
) -> bool:
    """Compare the gradients of `function(*inputs)` with central differences; True if they agree.

    function: returns a Tensor or a tuple of them; must be deterministic and not modify its inputs.
    inputs: a Tensor, or a sequence of Tensors (other values are passed through). Tensors that
        require grad are checked, and must be float64: float32 rounding drowns the differences.
    eps: the step. atol, rtol: analytic and numeric agree if |a - n| <= atol + rtol |n|.
    full: compare the whole Jacobian (outputs × inputs) instead of one random projection.
    seed: seeds the random cotangents and directions; the same call gives bitwise the same result.
    name: the function's name in the report; defaults to its `__name__` or its last primitive.

    Raises GradcheckError (or returns False with raise_exception=False) with a report that names the
    function, the input, the worst element, both values, both errors, and the likely cause: the
    gradient rule, the step size, or a kink. Raises TypeError or ValueError for inputs that cannot
    be checked.

    >>> x = mg.tensor([0.5, -1.0, 2.0], dtype=mg.float64, requires_grad=True)
    >>> w = mg.tensor([[1.0, 2.0, 3.0]], dtype=mg.float64, requires_grad=True)
    >>> mg.autograd.gradcheck(lambda x, w: mg.tanh(w @ x), (x, w))
    True
    >>> def cube(x):  # its value is x³, but the gradient sees only x²·(a constant)
    ...     return x * x * x.detach()
    >>> try:
    ...     mg.autograd.gradcheck(cube, x)
    ... except mg.autograd.GradcheckError as error:
    ...     print(str(error).splitlines()[0])
    gradcheck: cube: the gradient of input 0 (x) is wrong in 3 of 3 elements
    """
    arguments = _as_tuple(inputs)
    check = _Check("gradcheck", function, arguments, _parameters(function), name, eps, atol, rtol)
    return _verdict(check, full, seed, raise_exception)


def gradgradcheck(
    function: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    full: bool = False,
    seed: int = 0,
    raise_exception: bool = True,
    name: str | None = None,
) -> bool:
    """Check second derivatives: `gradcheck` of the function (inputs, cotangents) -> gradients.

    grad_outputs: a cotangent for each output that requires grad, random by default; those that
    require grad are checked as inputs too. Other parameters and errors as in `gradcheck`.

    >>> x = mg.tensor([0.5, -1.0, 2.0], dtype=mg.float64, requires_grad=True)
    >>> mg.autograd.gradgradcheck(mg.tanh, x)
    True
    """
    arguments, names = _as_tuple(inputs), _parameters(function)
    wanted = [x for x in arguments if _is_checked(x)]
    check = _Check("gradgradcheck", function, arguments, names, name, eps, atol, rtol)
    outputs = [y for y in check.call() if y.requires_grad]
    shapes = [y.shape for y in outputs]
    if grad_outputs is None:
        random = np.random.default_rng(seed)
        draws = [_away_from_zero(random, shape) for shape in shapes]
        cotangents = tuple(adopt(draw, True) for draw in draws)
    else:
        cotangents = _as_tuple(grad_outputs)
        if [u.shape for u in cotangents] != shapes:
            raise ValueError(
                f"gradgradcheck: outputs that require grad of shapes {shapes}, "
                f"but grad_outputs of shapes {[u.shape for u in cotangents]}"
            )

    def gradients(*everything: Any) -> tuple[Tensor, ...]:
        previous = set_recording(True)
        try:
            made = _as_tuple(function(*everything[: len(arguments)]))
            given = list(everything[len(arguments) :])
            found = run_graph([y for y in made if y.requires_grad], given, wanted, True, True)
        finally:
            set_recording(previous)
        pairs = zip(found, wanted, strict=True)
        return tuple(adopt(np.zeros(x.shape)) if g is None else g for g, x in pairs)

    names += [None] * (len(arguments) - len(names))
    names += [f"grad_output {k}" for k in range(len(cotangents))]
    inputs = arguments + cotangents
    twice = _Check(check.caller, gradients, inputs, names, name or check.name, eps, atol, rtol)
    return _verdict(twice, full, seed, raise_exception)


# ------------------------------------------------------------------------------------ inputs, names
def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _is_checked(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _parameters(function: Callable[..., Any]) -> list[str | None]:
    """The names of the positional parameters, if known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional]


def _away_from_zero(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs times magnitudes in [0.5, 1.5): no value is small enough to hide an error."""
    return np.asarray(random.choice((-1.0, 1.0), shape) * random.uniform(0.5, 1.5, shape))


def _check_inputs(caller: str, inputs: tuple[Any, ...]) -> None:
    if not any(_is_checked(x) for x in inputs):
        raise ValueError(f"{caller}: no input requires grad; make one with requires_grad=True")
    for i, x in enumerate(inputs):
        if not _is_checked(x):
            continue
        if x.dtype != np.float64:
            raise TypeError(
                f"{caller}: input {i} is {x.dtype}; finite differences need float64: "
                "x.detach().astype(mg.float64).requires_grad_()"
            )
        steps = zip(x.shape, x._array.strides, strict=True)
        repeats = any(step == 0 and n > 1 for n, step in steps)
        if x.size and (repeats or not x._array.flags.writeable):
            raise ValueError(
                f"{caller}: input {i} is read-only or broadcast memory, whose elements cannot be "
                "changed one by one; pass x.detach().clone().requires_grad_() and broadcast inside"
            )


def _index(flat: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(flat, shape))


# ---------------------------------------------------------------------------------------- the check
@dataclass
class _Check:
    """A function, the inputs it is called with, and the tolerances."""

    caller: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    parameters: list[str | None]
    given_name: str | None
    eps: float
    atol: float
    rtol: float
    shapes: list[tuple[int, ...]] = field(default_factory=list)  # of the outputs
    cotangents: np.ndarray | None = None  # None: the unit vectors

    def __post_init__(self) -> None:
        positive_real(self.eps, f"{self.caller}: eps")
        _check_inputs(self.caller, self.inputs)

    @property
    def name(self) -> str:
        kind = type(self.function).__name__
        given = self.given_name or str(getattr(self.function, "__name__", kind))
        if given != "<lambda>":
            return given
        return next((y.grad_fn.name for y in self.call() if y.grad_fn is not None), given)

    def error(self, message: str) -> GradcheckError:
        return GradcheckError(f"{self.caller}: {self.name}: {message}")

    def call(self) -> list[Tensor]:
        """The floating outputs of the function; integer ones have no gradient. Calls that need only
        values are recorded too, for functions that differentiate internally."""
        previous = set_recording(True)
        try:
            outputs = _as_tuple(self.function(*self.inputs))
        finally:
            set_recording(previous)
        for k, y in enumerate(outputs):
            if not isinstance(y, Tensor):
                raise TypeError(
                    f"{self.caller}: output {k} is a {type(y).__name__}, expected a Tensor"
                )
            if y.dtype == np.float32:
                raise TypeError(
                    f"{self.caller}: output {k} is float32; finite differences need float64 "
                    "throughout: convert constants and parameters with .astype(mg.float64)"
                )
        return [y for y in outputs if y.dtype == np.float64]

    def values(self) -> np.ndarray:
        """All outputs as one flat array."""
        outputs = self.call()
        self.shapes = [y.shape for y in outputs]
        return np.concatenate([np.zeros(0), *(y.numpy().ravel() for y in outputs)])

    def check_function(self) -> np.ndarray:
        """Raise if the function cannot be checked by differences; return its value."""
        given = [(i, x) for i, x in enumerate(self.inputs) if isinstance(x, Tensor)]
        tensors = [(i, x, x.numpy(copy=True)) for i, x in given]
        first = self.values()
        for i, x, before in tensors:
            if not np.array_equal(x.numpy(), before, equal_nan=x.dtype.kind == "f"):
                raise self.error(
                    f"the function changed input {i} in place; work on a copy: x.clone()"
                )
        if not np.array_equal(first, self.values(), equal_nan=True):
            raise self.error(
                "the function gave different values when called twice; seed it inside "
                "(mg.manual_seed), or switch off its randomness (model.eval())"
            )
        return first

    def project(self, values: np.ndarray) -> np.ndarray:
        return values if self.cotangents is None else self.cotangents @ values

    def analytic(self, wanted: list[Tensor], m: int) -> list[np.ndarray]:
        """uᵀJ by backward for each input, one row per cotangent."""
        outputs = self.call()
        bounds = np.cumsum([0, *(y.size for y in outputs)])
        count = m if self.cotangents is None else len(self.cotangents)
        result = [np.zeros((count, x.size)) for x in wanted]
        connected = [k for k, y in enumerate(outputs) if y.requires_grad]
        for r in range(count if connected else 0):
            row = np.eye(1, m, r)[0] if self.cotangents is None else self.cotangents[r]
            parts = np.split(row, bounds[1:-1])
            given: list[Any] = [Tensor(parts[k].reshape(outputs[k].shape)) for k in connected]
            found = run_graph([outputs[k] for k in connected], given, wanted, True, False)
            for i, (x, g) in enumerate(zip(wanted, found, strict=True)):
                if g is None:
                    continue
                if g.shape != x.shape or g.dtype != x.dtype:
                    raise self.error(
                        f"a gradient of shape {g.shape} and dtype {g.dtype} for an input of "
                        f"shape {x.shape} and dtype {x.dtype}"
                    )
                result[i][r] = g.numpy().ravel()
        return result

    def run(self, full: bool, seed: int) -> list[str]:
        """The reports for the inputs whose gradient is wrong."""
        random = np.random.default_rng(seed)
        m = self.check_function().size
        self.cotangents = None if full else _away_from_zero(random, (1, m))
        places = [i for i, x in enumerate(self.inputs) if _is_checked(x)]
        gradients = self.analytic([self.inputs[i] for i in places], m)
        moved = (_Moved(self, i, rows, random) for i, rows in zip(places, gradients, strict=True))
        return [report for part in moved if (report := part.report())]


class _Moved:
    """An input that is perturbed along probes: flat indices of elements, with weights."""

    def __init__(self, check: _Check, i: int, rows: np.ndarray, random: Any) -> None:
        self.check, self.x, self.rows = check, check.inputs[i], rows
        names = check.parameters[i : i + 1]
        self.name = f"input {i}" + (f" ({names[0]})" if names and names[0] else "")
        size = self.x.size
        if check.cotangents is None or size <= MAX_ELEMENTWISE:
            self.weights, self.probes = np.ones(size), list(np.arange(size)[:, None])
        else:
            self.weights = _away_from_zero(random, (size,))
            self.probes = np.array_split(random.permutation(size), DIRECTIONS)

    def at(self, probe: np.ndarray, step: float) -> np.ndarray:
        """The outputs with the input perturbed by step along the probe."""
        elements = self.x._array.flat
        kept = elements[probe]
        try:
            elements[probe] = kept + step * self.weights[probe]
            return self.check.values()
        finally:
            elements[probe] = kept

    def slope(self, probe: np.ndarray, ahead: float, back: float) -> np.ndarray:
        """The projected slope between the points `ahead` and `back` along the probe."""
        with np.errstate(invalid="ignore", over="ignore"):
            difference = self.at(probe, ahead) - self.at(probe, back)
            return self.check.project(difference) / (ahead - back)

    def slopes(self, probe: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By backward, and by a central difference."""
        eps = self.check.eps
        return self.rows[:, probe] @ self.weights[probe], self.slope(probe, eps, -eps)

    def error(self, probe: np.ndarray) -> Any:
        """|analytic - numeric| where it exceeds the tolerance, inf where it is NaN, else 0."""
        analytic, numeric = self.slopes(probe)
        with np.errstate(invalid="ignore"):
            error = np.abs(analytic - numeric)
            excused = np.isfinite(error) & (error <= self.tolerance(numeric, probe))
            return np.where(excused, 0.0, np.where(np.isnan(error), np.inf, error))

    def tolerance(self, numeric: Any, probe: np.ndarray) -> Any:
        """Along n elements rtol shrinks: a single wrong one among n right ones weighs less."""
        return self.check.atol + self.check.rtol / np.sqrt(len(probe)) * np.abs(numeric)

    # -------------------------------------------------------------------------------- the report
    def report(self) -> str:
        """Describe what is wrong with the gradient of this input; empty if it is right."""
        if not self.rows.size:
            return ""
        error = np.stack([self.error(probe) for probe in self.probes], axis=1)
        if not error.max() > 0:
            return ""
        r, p = (int(k) for k in np.unravel_index(np.argmax(error), error.shape))
        probe = self._narrow(self.probes[p], r)
        analytic, numeric = (float(slope[r]) for slope in self.slopes(probe))
        what = "entries of the Jacobian"
        if self.check.cotangents is not None:
            single = len(self.probes) == self.x.size
            what = "elements" if single else f"directions through {self.x.size} elements"
        difference = abs(analytic - numeric)
        relative = difference / abs(numeric) if numeric else np.inf
        return (
            f"the gradient of {self.name} is wrong in "
            f"{np.count_nonzero(error)} of {error.size} {what}\n"
            f"  worst at {self._place(probe, r)}: analytic {analytic:.9g}, numeric {numeric:.9g}, "
            f"absolute error {difference:.3g}, relative error {relative:.3g}\n"
            f"  likely cause: {self._diagnosis(probe, r, numeric)}"
        )

    def _narrow(self, probe: np.ndarray, r: int) -> np.ndarray:
        """Halve a direction that disagrees, while one of its halves still does."""
        while len(probe) > 1:
            halves = np.split(probe, [len(probe) // 2])
            errors = [self.error(half)[r] for half in halves]
            if max(errors) == 0:
                break
            probe = halves[int(errors[1] > errors[0])]
        return probe

    def _place(self, probe: np.ndarray, r: int) -> str:
        if len(probe) > 1:
            return f"a direction through {len(probe)} elements"
        where = f"index {_index(int(probe[0]), self.x.shape)}"
        if self.check.cotangents is not None:
            return f"{where} (of u·f with a random u; full=True gives single outputs)"
        shapes = self.check.shapes
        bounds = np.cumsum([0, *map(math.prod, shapes)])
        output = int(np.searchsorted(bounds, r, "right")) - 1
        return f"{where}, for output {output} at index {_index(r - bounds[output], shapes[output])}"

    def _diagnosis(self, probe: np.ndarray, r: int, numeric: float) -> str:
        """Rule, step size, or kink? Compare the numeric values for several steps."""
        eps, here, cotangents = self.check.eps, self.check.values(), self.check.cotangents
        if not np.isfinite(numeric) or not np.all(np.isfinite(here)):
            return f"the function is not finite within eps = {eps:g} of this point; move the input"

        def slope(ahead: float, back: float) -> float:
            return float(self.slope(probe, ahead * eps, back * eps)[r])

        wide, narrow, ahead, back = slope(10, -10), slope(0.1, -0.1), slope(1, 0), slope(0, -1)
        weights = np.eye(1, here.size, r) if cotangents is None else np.abs(cotangents)
        rounding = float(np.max(weights @ np.abs(here))) * np.finfo(np.float64).eps / eps
        tolerance = float(self.tolerance(numeric, probe))
        steps = (
            f"numeric values with steps {10 * eps:g}, {eps:g}, {eps / 10:g}: "
            f"{wide:.6g}, {numeric:.6g}, {narrow:.6g}"
        )
        if rounding > tolerance:
            return f"the step size: at eps = {eps:g} rounding errors reach {rounding:.2g}; {steps}"
        jumps = np.allclose([10 * wide, narrow / 10], numeric, rtol=0.1, atol=0)
        kink, gap = bool(jumps and abs(numeric) > tolerance), abs(ahead - back)
        if not kink and gap > tolerance:  # a gap from curvature shrinks with eps
            smaller = abs(slope(0.1, 0) - slope(0, -0.1))
            kink = not smaller or not 3 < gap / smaller < 30
        if kink:
            return (
                f"a kink or jump of the function within eps = {eps:g}: the one-sided slopes are "
                f"{ahead:.6g} and {back:.6g}; move the input away from it"
            )
        if abs(wide - numeric) > tolerance or abs(narrow - numeric) > tolerance:
            return f"the step size: {steps}"
        return f"the gradient rule: the function is smooth and the numeric value stable; {steps}"


def _verdict(check: _Check, full: bool, seed: int, raise_exception: bool) -> bool:
    try:
        reports = check.run(full, seed)
        if reports:
            raise check.error("\n".join(reports))
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True
