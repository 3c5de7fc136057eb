"""Make batches from lists of samples."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from copy import copy
from typing import Any

import numpy as np

from .._core.engine.graph import Tensor
from ..creation import tensor
from ..functions import stack

__all__ = ["default_collate"]


def default_collate(samples: list[Any]) -> Any:
    """Make a batch from a list of samples.

    Numbers, arrays and Tensors are stacked along a new first axis; tuples, lists and dicts keep
    their structure, namedtuples and other mappings also their type; strings stay a list.
    Raises ValueError for samples of different shapes, TypeError for types that cannot be stacked.

    >>> mg.data.default_collate([(1.0, "a"), (2.0, "b")])
    (tensor([1., 2.]), ['a', 'b'])
    """
    if _all(samples, str, bytes):
        return samples
    if _all(samples, Mapping):
        if any(set(sample) != set(samples[0]) for sample in samples):
            raise ValueError(f"DataLoader: the keys of the samples of one batch differ; {_WAY_OUT}")
        batch = {key: default_collate([sample[key] for sample in samples]) for key in samples[0]}
        return _of_type(samples[0], batch)
    if _all(samples, tuple, list):
        if len({len(sample) for sample in samples}) > 1:
            raise ValueError(f"DataLoader: the samples of one batch differ in length; {_WAY_OUT}")
        fields = [default_collate(list(field)) for field in zip(*samples, strict=False)]
        first = samples[0]
        return fields if isinstance(first, list) else getattr(first, "_make", tuple)(fields)
    if _all(samples, Tensor, np.ndarray, np.generic, bool, int, float):
        return _stacked(samples)
    names = ", ".join(sorted({type(sample).__name__ for sample in samples}))
    raise TypeError(f"DataLoader: samples of the types {names} do not make one batch; {_WAY_OUT}")


def _of_type(example: Mapping[Any, Any], batch: dict[Any, Any]) -> Mapping[Any, Any]:
    """The batch as a mapping of the example's type, with its other contents, if possible."""
    if type(example) is dict:
        return batch
    try:
        if not isinstance(example, MutableMapping):
            return type(example)(batch)  # type: ignore[call-arg]
        result = copy(example)
        for key, value in batch.items():
            result[key] = value  # `update` of a Counter would add
        return result
    except TypeError:
        return batch


def _all(samples: list[Any], *kinds: type) -> bool:
    return all(isinstance(sample, kinds) for sample in samples)


def _stacked(samples: list[Any]) -> Tensor:
    shapes = sorted({str(getattr(sample, "shape", ())) for sample in samples})
    if len(shapes) > 1:
        raise ValueError(
            f"DataLoader: samples of the shapes {', '.join(shapes)} do not make one batch; "
            f"{_WAY_OUT}"
        )
    if any(isinstance(sample, Tensor) for sample in samples):
        return stack(samples)  # gradients flow through it
    plain_numbers = _all(samples, bool, int, float) and not _all(samples, np.generic)
    return tensor(samples if plain_numbers else np.stack(samples))


_WAY_OUT = "make them alike in the dataset, or pass a collate_fn"
