"""Names for annotations: what functions take beside a Tensor, and kinds of functions."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ._core.engine.graph import Tensor

TensorLike: TypeAlias = Tensor | np.ndarray | np.generic | float
Shape: TypeAlias = int | Sequence[int]
Axis: TypeAlias = int | Sequence[int] | None
Names: TypeAlias = tuple[str, ...]
Rules: TypeAlias = tuple[Callable[..., Any] | None, ...]
Observer: TypeAlias = Callable[[str, tuple[Any, ...], dict[str, Any], Tensor], object]
Function = TypeVar("Function", bound=Callable[..., Any])
