"""What functions take beside a Tensor, for annotations."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from .engine.graph import Tensor

TensorLike: TypeAlias = Tensor | np.ndarray | np.generic | float
Shape: TypeAlias = int | Sequence[int]
Axis: TypeAlias = int | Sequence[int] | None
