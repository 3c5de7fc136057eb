"""Datasets, samplers and mini-batches, with PyTorch's names.

A dataset is anything with `__len__` and `__getitem__`. A dataset that accepts index arrays sets
`takes_index_arrays = True`; a batch then takes one indexing operation instead of one per sample.

A run that is to resume exactly saves `loader.state_dict()` and `mg.get_rng_state()` beside the
states of the net, the optimiser and the scheduler; `examples/resume.py` is such a run.
"""

import typing

from ..namespace import public_names as _public_names
from .collate import *
from .dataset import *
from .loader import *
from .sampler import *

if not typing.TYPE_CHECKING:  # mypy reads only literal lists; without one, it goes by the imports
    __all__ = _public_names(vars())
    __dir__ = __all__.copy
