"""Embedding."""

from __future__ import annotations

from typing import Any

from .._core.engine.graph import Tensor, to_tensor
from ..checks import integer, positive, positive_real
from ..creation import empty
from . import functional, init
from .module import Module, Parameter

__all__ = ["Embedding"]


class Embedding(Module):
    """A table of vectors: integer indices (...) -> (..., embedding_dim).

    weight has the shape (num_embeddings, embedding_dim) and is initialised from the standard normal
    distribution. padding_idx: a row that starts at 0 and gets no gradient; a negative number counts
    from the end. max_norm: before the look-up, rows are scaled in place to at most this norm of
    order norm_type. The gradient of a row is the sum over its look-ups. PyTorch's
    scale_grad_by_freq and sparse do not exist. Raises IndexError for an index out of range.

    >>> layer = mg.nn.Embedding(10, 3, padding_idx=0)
    >>> layer(mg.tensor([[1, 2, 0, 0]])).shape
    (1, 4, 3)
    >>> layer(mg.tensor(0)).tolist()
    [0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings = positive(num_embeddings, "Embedding: num_embeddings")
        self.embedding_dim = embedding_dim = positive(embedding_dim, "Embedding: embedding_dim")
        if padding_idx is not None:
            padding_idx = integer(padding_idx, "Embedding: padding_idx")
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"Embedding: padding_idx {padding_idx} out of range for {num_embeddings} rows"
                )
            padding_idx = padding_idx % num_embeddings
        for option, value in (("max_norm", max_norm), ("norm_type", norm_type)):
            if value is not None:
                positive_real(value, f"Embedding: {option}")
        self.padding_idx, self.max_norm, self.norm_type = padding_idx, max_norm, norm_type
        self.weight = Parameter(empty(num_embeddings, embedding_dim, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_pretrained(
        cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None, **options: Any
    ) -> Embedding:
        """A layer whose weight is a copy of `embeddings` (num_embeddings, embedding_dim), the
        padding row included; freeze: do not train it. options: those of the constructor.

        >>> mg.nn.Embedding.from_pretrained(mg.tensor([[1.0, 2.0]]))(mg.tensor([0]))
        tensor([[1., 2.]])
        """
        table = to_tensor(embeddings, "Embedding.from_pretrained")
        if table.ndim != 2:
            raise ValueError(
                f"Embedding.from_pretrained: expected rows of vectors, got shape {table.shape}"
            )
        count, size = table.shape
        layer = cls(count, size, padding_idx, **{"dtype": table.dtype, **options})
        layer.weight.detach().copy_(table.detach())
        layer.weight.requires_grad = not freeze
        return layer

    def reset_parameters(self) -> None:
        """Reinitialise the rows; the padding row becomes 0.

        >>> layer = mg.nn.Embedding(4, 2, padding_idx=3)
        >>> layer.reset_parameters()
        >>> layer.weight[3].tolist()
        [0.0, 0.0]
        """
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.detach()[self.padding_idx] = 0.0

    def forward(self, indices: Tensor) -> Tensor:
        """(...) -> (..., embedding_dim)."""
        options = self.padding_idx, self.max_norm, self.norm_type
        return functional.embedding(indices, self.weight, *options)

    def extra_repr(self) -> str:
        """The sizes, and the options that differ from the defaults."""
        given = self._changed(padding_idx=None, max_norm=None)
        return ", ".join([str(self.num_embeddings), str(self.embedding_dim), *given])
