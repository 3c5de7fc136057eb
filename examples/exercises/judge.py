"""Judge an exercise: find the blank, run the file, and say what is wrong with an answer.

An exercise is a file e01_....py: a docstring that starts with its title, a function or class with a
blank `...`, and `judge()`, which compares the answer with what is right, found in another way, and
returns a sentence on what was checked.
"""

from __future__ import annotations

import ast
import importlib.util
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg

FOLDER = Path(__file__).parent


class WrongAnswerError(Exception):
    """The message says what is wrong with the answer."""


class Exercise(NamedTuple):
    """The title and the whole text of the task."""

    title: str
    text: str


def exercises() -> dict[int, Path]:
    """The files of the exercises by number."""
    return {int(path.stem[1:3]): path for path in sorted(FOLDER.glob("e[0-9][0-9]_*.py"))}


def parse(path: Path) -> ast.Module:
    """The syntax tree of an exercise; raises WrongAnswerError."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise WrongAnswerError(f"Python cannot read line {error.lineno}: {error.msg}.") from None


def read(path: Path) -> Exercise:
    """The task."""
    text = ast.get_docstring(parse(path)) or ""
    return Exercise(text.partition("\n")[0].rstrip("."), text)


def blank(path: Path) -> int:
    """The line of the blank, 0 if it was filled in: `name = ...` or `return ...`."""
    statements = (n for n in ast.walk(parse(path)) if isinstance(n, (ast.Assign, ast.Return)))
    values = (statement.value for statement in statements)
    blanks = (v.lineno for v in values if isinstance(v, ast.Constant) and v.value is ...)
    return next(blanks, 0)


def judge(path: Path) -> str:
    """Run an exercise; returns what was checked, raises WrongAnswerError for a wrong answer."""
    specification = importlib.util.spec_from_file_location(f"{__package__}.{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
        with np.errstate(all="ignore"):  # the message says what is wrong
            return module.judge()
    except WrongAnswerError:
        raise
    except mg.autograd.GradcheckError as error:
        said = str(error).replace("\n ", ":", 1)
        raise WrongAnswerError(f"gradcheck, which measures gradients, disagrees. {said}") from None
    except Exception as error:
        where = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = f" at line {where[-1]}" if where else ""
        raise WrongAnswerError(f"{type(error).__name__}{line}: {error}") from None


def as_array(values: Any) -> np.ndarray:
    """A Tensor, array or number, as an array of float64; raises TypeError or ValueError."""
    if values is None:
        raise TypeError
    return np.asarray(values.numpy() if isinstance(values, mg.Tensor) else values, np.float64)


def compare(
    what: str, yours: Any, right: Any, mistakes: Mapping[str, Any] | None = None, rtol: float = 1e-6
) -> None:
    """Raise WrongAnswerError unless `yours` is `right`; `mistakes` maps hints to wrong answers.

    Wrong signs, constant factors and shapes that were broadcast are recognised.
    """
    right = as_array(right)
    try:
        array = as_array(yours)
    except (TypeError, ValueError):
        raise WrongAnswerError(f"{what} should be numbers, not {type(yours).__name__}.") from None

    def same(other: Any) -> bool:
        other = as_array(other)
        scale = max(np.abs(right).max(initial=0), 1e-300)
        return array.shape == np.shape(other) and np.allclose(array, other, rtol, rtol * scale)

    if same(right):
        return
    for hint, value in (mistakes or {}).items():
        if same(value):
            raise WrongAnswerError(f"{what}: {hint}.")
    if array.shape != right.shape:
        hint = ""
        if array.size > right.size:
            hint = (
                "; if an operand was broadcast, its gradient is a sum over what it was broadcast to"
            )
        raise WrongAnswerError(
            f"{what} has shape {array.shape}, and should have {right.shape}{hint}."
        )
    if np.isnan(array).any():
        raise WrongAnswerError(f"{what} has a NaN where {right[np.isnan(array)][0]:.4g} is right.")
    if same(-right):
        raise WrongAnswerError(f"{what} has the wrong sign.")
    factor = float((array * right).sum() / np.square(right).sum())
    simple = factor and any(np.isclose(f, round(f), rtol, 0) for f in (factor, 1 / factor))
    if simple and same(factor * right):
        raise WrongAnswerError(f"{what} is {factor:.4g} times what it should be.")
    worst = np.unravel_index(np.abs(array - right).argmax(), right.shape)
    place = f" at index {tuple(map(int, worst))}" if right.ndim else ""
    raise WrongAnswerError(f"{what}{place} is {array[worst]:.6g}, and {right[worst]:.6g} is right.")


class Saved:
    """Stands for the ctx of a Function whose backward is called directly."""

    def __init__(self, *tensors: mg.Tensor) -> None:
        self.saved_tensors = tensors


def leaves(*shapes: tuple[int, ...]) -> list[mg.Tensor]:
    """Random float64 Tensors that require grad."""
    random = np.random.default_rng(0)
    return [mg.tensor(random.normal(size=shape), requires_grad=True) for shape in shapes]


def measured(function: Callable[..., Any], *arrays: Any, step: float = 1e-5) -> list[np.ndarray]:
    """The gradients of a function of NumPy arrays, by central differences."""
    arrays = [np.array(array, np.float64) for array in arrays]
    slopes = [np.zeros_like(array) for array in arrays]
    for array, slope in zip(arrays, slopes, strict=True):
        for index in np.ndindex(array.shape):
            values = []
            for move in (step, -step):
                array[index] += move
                values.append(float(function(*arrays)))
                array[index] -= move
            slope[index] = (values[0] - values[1]) / (2 * step)
    return slopes
