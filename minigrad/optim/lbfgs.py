"""L-BFGS: quasi-Newton steps from recent gradient differences, and a line search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._core.engine.graph import Tensor, result_type
from ..autograd import enable_grad
from ..checks import check_count
from .optimizer import Optimizer, options

__all__ = ["LBFGS"]

Vector = NDArray[Any]
Pair = tuple[Vector, Vector, float]  # a step s, the change y of the gradient along it, and 1 / y·s

VECTORS = ("d", "prev_flat_grad", "old_dirs", "old_stps")


class LBFGS(Optimizer):
    """L-BFGS (Liu & Nocedal 1989; Nocedal & Wright 2006, algorithm 7.5) over all parameters.

    One `step(closure)` runs up to max_iter iterations; each moves the parameters by t d. d = -H g
    is the quasi-Newton direction (algorithm 7.4) from the history_size most recent pairs of steps
    and gradient changes; the very first d is -g.

    lr: the step length t; in the very first iteration multiplied by min(1, 1 / |g|₁).
    line_search_fn: None, or 'strong_wolfe', which starts at that t and searches for one that
        satisfies the strong Wolfe conditions (section 3.5, c1 = 1e-4 and c2 = 0.9).
    max_eval: the maximum number of closure evaluations per step; defaults to 1.25 max_iter.
    tolerance_grad, tolerance_change: a step ends once no element of g exceeds the first, or the
        loss, or every parameter, changes by no more than the second.
    maximize: minimise the negative of the loss instead; the state is that of the negative.

    A parameter without a gradient is treated as having gradient 0. A loss or slope that is not
    finite is treated as infinite: the line search turns back from it.
    Raises ValueError for more than one parameter group; for other errors see `Optimizer`. If the
    closure raises, parameters and state are restored.
    State, kept for the first parameter: `func_evals`, `n_iter`, `d`, `t`, `old_dirs` (gradient
    changes), `old_stps` (steps), `ro`, `H_diag`, `prev_flat_grad`, `prev_loss`.

    >>> x = mg.tensor([-1.5, 2.0], dtype=mg.float64, requires_grad=True)
    >>> optimizer = mg.optim.LBFGS([x], max_iter=60, line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    ...     loss.backward()
    ...     return loss
    >>> first_loss = optimizer.step(closure)
    >>> x.detach().numpy().round(6)
    array([1., 1.])
    """

    ranges = ("lr", "tolerance_grad", "tolerance_change")
    may_be_missing = ("maximize",)  # PyTorch has none
    mixes = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        maximize: bool = False,
        **unknown: Any,
    ) -> None:
        if max_eval is None:
            max_eval = check_count("LBFGS", "max_iter", max_iter) * 5 // 4
        super().__init__(params, options(locals()), unknown)

    def check_options(self, group: dict[str, Any]) -> None:
        """Raise if an option in `group` is out of its range."""
        super().check_options(group)
        for name in ("max_iter", "max_eval", "history_size"):
            group[name] = check_count("LBFGS", name, group[name])
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise ValueError(
                "LBFGS: line_search_fn must be None or 'strong_wolfe', "
                f"got {group['line_search_fn']!r}"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the single group of parameters; ValueError for a second.

        >>> optimizer = mg.optim.LBFGS([mg.ones(2, requires_grad=True)])
        >>> len(optimizer.param_groups)
        1
        """
        if self.param_groups:
            raise ValueError(
                "LBFGS: there can be only one parameter group, because all parameters share one "
                "direction; pass them in one list"
            )
        super().add_param_group(param_group)

    # ------------------------------------------------------------------ parameters as one vector
    def _parameters(self) -> list[Tensor]:
        parameters: list[Tensor] = self.param_groups[0]["params"]
        return parameters

    def _flat_gradient(self) -> Vector:
        return np.concatenate(
            [
                np.zeros(p.size, p.dtype) if p.grad is None else p.grad._array.ravel()
                for p in self._parameters()
            ]
        )

    def _move_to(self, values: Vector) -> None:
        begin = 0
        for parameter in self._parameters():
            part = values[begin : begin + parameter.size]
            parameter._array[...] = part.reshape(parameter.shape)
            parameter._bump_version()
            begin += parameter.size

    # ------------------------------------------------------------------ the step
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run up to max_iter iterations; return the loss from the first call of the closure.

        closure: a function that clears the gradients, computes the loss, calls backward and returns
            the loss. Raises TypeError without one, or if it does not return a number; ValueError
            for a read-only parameter.

        >>> x = mg.tensor([3.0], requires_grad=True)
        >>> optimizer = mg.optim.LBFGS([x], lr=0.5)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (x * x).sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item()
        9.0
        """
        if not callable(closure):
            raise TypeError(
                "LBFGS: step needs a closure, a function that clears the gradients, computes the "
                f"loss, calls backward and returns the loss; got {type(closure).__name__}"
            )
        self._refuse_read_only(self._parameters())
        before = np.concatenate([p._array.ravel() for p in self._parameters()])
        try:
            return self._iterate(closure, before)
        except BaseException:
            self._move_to(before)
            raise

    def _iterate(self, closure: Callable[[], Any], position: Vector) -> Any:
        group, first = self.param_groups[0], self._parameters()[0]
        lr, tolerance = float(group["lr"]), float(group["tolerance_change"])
        sign = -1.0 if group["maximize"] else 1.0
        state: dict[str, Any] = {"func_evals": 0, "n_iter": 0, **self.state.get(first, {})}

        def evaluate() -> tuple[float, Vector, Any]:
            with enable_grad():
                result = closure()
            return sign * _number(result), sign * self._flat_gradient(), result

        loss, gradient, first_loss = evaluate()
        for name in VECTORS:  # `Module.to` may have converted the parameters
            if state.get(name) is not None:
                state[name] = _converted(state[name], gradient.dtype)
        evaluations, history = 1, _pairs(state)
        scale, length = float(state.get("H_diag", 1)), float(state.get("t", 0))
        direction: Vector = state.get("d", gradient)
        previous_gradient: Vector | None = state.get("prev_flat_grad")
        converged = _largest(gradient) <= group["tolerance_grad"]
        for iteration in range(0 if converged else group["max_iter"]):
            state["n_iter"] += 1
            if previous_gradient is not None:
                s, y = direction * length, gradient - previous_gradient
                curvature = float(y.dot(s))
                if curvature > 1e-10:  # otherwise H would not stay positive definite
                    history = [*history, (s, y, 1 / curvature)][-group["history_size"] :]
                    scale = curvature / float(y.dot(y))
            direction = _quasi_newton(gradient, history, scale)
            length = lr
            if state["n_iter"] == 1:
                length *= min(1.0, 1 / float(np.abs(gradient).sum()))
            previous_gradient, previous_loss = gradient, loss
            slope = float(gradient.dot(direction))
            if not -math.inf < slope <= -tolerance:  # stops for NaN too
                break

            if group["line_search_fn"] is not None:

                def along(
                    t: float, start: Vector = position, d: Vector = direction
                ) -> tuple[float, Vector, float]:
                    self._move_to(start + t * d)
                    loss, gradient, _ = evaluate()
                    return loss, gradient, float(gradient.dot(d))

                point, count = strong_wolfe(
                    along,
                    Point(0.0, loss, gradient, slope),
                    length,
                    group["max_eval"] - evaluations,
                    tolerance / _largest(direction),
                )
                length, loss, gradient = point.step, point.loss, point.gradient
                evaluations += count
            position = position + length * direction
            self._move_to(position)
            last = iteration + 1 == group["max_iter"]
            if group["line_search_fn"] is None and not last:
                loss, gradient, _ = evaluate()
                evaluations += 1
            if (
                last
                or evaluations >= group["max_eval"]
                or _largest(gradient) <= group["tolerance_grad"]
                or _largest(direction) * length <= tolerance
                or abs(loss - previous_loss) < tolerance
            ):
                break

        state["func_evals"] += evaluations
        if not converged:
            state |= {
                "d": direction,
                "t": length,
                "old_dirs": [y for _, y, _ in history],
                "old_stps": [s for s, _, _ in history],
                "ro": [rho for _, _, rho in history],
                "H_diag": scale,
                "prev_flat_grad": previous_gradient,
                "prev_loss": previous_loss,
            }
        self.state[first] = state
        return first_loss

    def _loaded_state(
        self, index: int, saved: Any, parameter: Tensor, group: dict[str, Any]
    ) -> dict[str, Any]:
        """Like the other optimisers, but the vectors span the elements of all parameters."""
        loaded = super()._loaded_state(index, saved, parameter, group)
        size = sum(p.size for p in group["params"])
        dtype = result_type(*group["params"])

        def fitted(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return [fitted(name, vector) for vector in value]
            if np.shape(value) != (size,) or np.asarray(value).dtype.kind != "f":
                raise self._misfit(
                    f"{name} has a vector of shape {np.shape(value)}, "
                    f"the parameters have {size} elements"
                )
            return value.astype(dtype)

        loaded |= {n: fitted(n, loaded[n]) for n in VECTORS if loaded.get(n) is not None}
        lengths = {name: len(loaded.get(name, ())) for name in ("old_dirs", "old_stps", "ro")}
        if len(set(lengths.values())) > 1:
            raise self._misfit(f"the histories differ in length: {lengths}")
        return loaded


def _converted(value: Any, dtype: Any) -> Any:
    """A vector, or a list of them, in this dtype."""
    if isinstance(value, list):
        return [_converted(vector, dtype) for vector in value]
    return value.astype(dtype, copy=False)


def _largest(vector: Vector) -> float:
    return float(np.abs(vector).max(initial=0))


def _number(loss: Any) -> float:
    try:
        return float(loss)
    except TypeError:
        raise TypeError(
            f"LBFGS: the closure must return the loss, a number, got {type(loss).__name__}"
        ) from None


def _pairs(state: dict[str, Any]) -> list[Pair]:
    names = ("old_stps", "old_dirs", "ro")
    columns = [state.get(name) or [] for name in names]
    return [(s, y, float(rho)) for s, y, rho in zip(*columns, strict=True)]


def _quasi_newton(gradient: Vector, history: list[Pair], scale: float) -> Vector:
    """-H g by the two-loop recursion (Nocedal & Wright 2006, algorithm 7.4), H_0 = scale."""
    d = -gradient
    weights = []
    for s, y, rho in reversed(history):
        weights.append(rho * float(s.dot(d)))
        d -= weights[-1] * y
    d *= scale
    for (s, y, rho), weight in zip(history, reversed(weights), strict=True):
        d += (weight - rho * float(y.dot(d))) * s
    return d


# ------------------------------------------------------------------------------- the line search
class Point(NamedTuple):
    """A step length with its loss, gradient, and slope along the direction."""

    step: float
    loss: float
    gradient: Vector
    slope: float


def strong_wolfe(
    along: Callable[[float], tuple[float, Vector, float]],
    start: Point,
    step: float,
    max_iter: int,
    min_width: float,
    c1: float = 1e-4,
    c2: float = 0.9,
) -> tuple[Point, int]:
    """Find a step length that satisfies the strong Wolfe conditions (Nocedal & Wright 2006,
    algorithms 3.5 and 3.6): f(t) <= f(0) + c1 t f'(0) and |f'(t)| <= c2 |f'(0)|.

    along: returns loss, gradient and slope at a step length. start: the point at length 0, with a
        negative slope. step: the first length to try. max_iter: the most further lengths to try.
    min_width: stop once the bracket is narrower.
    Returns the point and the number of evaluations. If max_iter or min_width ended the search, the
    point is the best one that decreased, and its slope may violate the second condition.

    New lengths are minima of cubics, kept a tenth of the bracket away from its ends if the previous
    one was already close to them, as in minFunc (Schmidt 2005) and in PyTorch. (PyTorch may also
    return the lower end of a bracket that has not decreased enough.)

    >>> from minigrad.optim.lbfgs import Point, strong_wolfe
    >>> parabola = lambda t: ((t - 3.0) ** 2, np.zeros(1), 2 * (t - 3.0))
    >>> point, evaluations = strong_wolfe(parabola, Point(0.0, *parabola(0.0)), 0.1, 25, 1e-9)
    >>> point.step, evaluations
    (1.0, 2)
    """
    count = 0

    def evaluate(step: float) -> Point:
        nonlocal count
        count += 1
        loss, gradient, slope = along(step)
        finite = math.isfinite(loss) and math.isfinite(slope)
        return Point(step, loss if finite else math.inf, gradient, slope)

    def decreased(point: Point) -> bool:
        return point.loss <= start.loss + c1 * point.step * start.slope

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -c2 * start.slope

    previous, point = start, evaluate(step)
    while count <= max_iter:  # continue until a minimum lies between two points
        if not decreased(point) or (count > 2 and point.loss >= previous.loss):
            low, high = previous, point
            break
        if flat(point):
            return point, count
        if point.slope >= 0:
            low, high = point, previous
            break
        least = point.step + 0.01 * (point.step - previous.step)
        step = _cubic_minimum(previous, point, least, 10 * point.step)
        previous, point = point, evaluate(step)
    else:
        low, high = (point, start) if point.loss < start.loss else (start, point)

    near_end = False
    while count <= max_iter:  # narrow the bracket; `low` is the best point that decreased
        left, right = sorted((low.step, high.step))
        if right - left < min_width:
            break
        step = _cubic_minimum(low, high, left, right)
        margin = 0.1 * (right - left)
        if min(right - step, step - left) >= margin:
            near_end = False
        elif near_end or not left < step < right:
            step = right - margin if right - step < step - left else left + margin
            near_end = False
        else:
            near_end = True
        point = evaluate(step)
        if not decreased(point) or point.loss >= low.loss:
            high = point
            continue
        if flat(point):
            return point, count
        if point.slope * (high.step - low.step) >= 0:
            high = low
        low = point
    return low, count


def _cubic_minimum(a: Point, b: Point, least: float, most: float) -> float:
    """The minimum, within bounds, of the cubic through two points (Nocedal & Wright 2006, equation
    3.59), or the middle of the bounds if there is none."""
    if a.step > b.step:
        a, b = b, a
    width = b.step - a.step
    if width > 0:
        d1 = a.slope + b.slope - 3 * (b.loss - a.loss) / width
        square = d1 * d1 - a.slope * b.slope
        d2 = math.sqrt(square) if square >= 0 else math.nan
        whole = b.slope - a.slope + 2 * d2
        step = b.step - width * ((b.slope + d2 - d1) / whole) if whole else math.nan
        if math.isfinite(step):
            return min(max(step, least), most)
    return (least + most) / 2
