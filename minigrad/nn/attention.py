"""MultiheadAttention, and encoder and decoder of the transformer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .._core.engine.graph import Tensor, adopt, to_tensor
from .._core.fast.loops import memory_checked
from .._core.ops import broadcast_to, concat, gelu, linear, permute_dims, relu, reshape
from ..checks import flag, positive, probability
from ..creation import empty, zeros
from ..functions import expand_dims, split
from . import functional, init
from .containers import ModuleList
from .dropout import Dropout
from .layer_norm import LayerNorm
from .linear import Linear
from .module import Module, Parameter

__all__ = ["MultiheadAttention", "TransformerDecoder", "TransformerDecoderLayer"]
__all__ += ["TransformerEncoder", "TransformerEncoderLayer"]


class MultiheadAttention(Module):
    """Attention in num_heads subspaces of embed_dim / num_heads dimensions (Vaswani et al. 2017,
    section 3.2.2).

    forward(query, key, value, ...) takes (L, N, embed_dim), (S, N, kdim), (S, N, vdim), with
    batch_first (N, L, embed_dim) and so on, or all of them without N. It returns the output, in the
    layout of query, and the weights: (N, L, S), averaged over the heads, (N, num_heads, L, S) with
    average_attn_weights=False, or None with need_weights=False.

    key_padding_mask (N, S) and attn_mask (L, S) or (N * num_heads, L, S) are, as in PyTorch, bools,
    True where attention is *not* allowed, or floats to add. is_causal: query i attends to keys 0
    to i; with an attn_mask it is a hint and has no effect. A query whose keys are all masked gets
    weights of 0 (in PyTorch NaN, if the weights are requested).

    Parameters: in_proj_weight (3 embed_dim, embed_dim), for query, key and value, or
    q_proj_weight, k_proj_weight, v_proj_weight if kdim or vdim differs from embed_dim;
    in_proj_bias, out_proj.weight, out_proj.bias; with add_bias_kv also bias_k and bias_v, an extra
    key and value. add_zero_attn: an extra key and value of zeros. Raises ValueError for shapes that
    do not match.

    >>> layer = mg.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> x = mg.randn(3, 5, 8)
    >>> y, weights = layer(x, x, x)
    >>> y.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    _details = "{0.embed_dim}, num_heads={0.num_heads}"
    in_proj_weight: Any  # Parameters, or None if an option omits them
    in_proj_bias: Any
    bias_k: Any
    bias_v: Any

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = "MultiheadAttention"
        self.embed_dim = e = positive(embed_dim, f"{name}: embed_dim")
        self.num_heads = num_heads = positive(num_heads, f"{name}: num_heads")
        self.kdim = e if kdim is None else positive(kdim, f"{name}: kdim")
        self.vdim = e if vdim is None else positive(vdim, f"{name}: vdim")
        if e % num_heads:
            raise ValueError(f"{name}: embed_dim {embed_dim} is not divisible by {num_heads} heads")
        self.dropout = probability(dropout, "dropout: the probability p")
        self.add_zero_attn = flag(add_zero_attn, f"{name}: add_zero_attn")
        self.batch_first = flag(batch_first, f"{name}: batch_first")
        self._joint = self.kdim == self.vdim == e
        shapes: dict[str, tuple[int, ...]] = {
            "in_proj_weight": (3 * e, e),
            "q_proj_weight": (e, e),
            "k_proj_weight": (e, self.kdim),
            "v_proj_weight": (e, self.vdim),
            "in_proj_bias": (3 * e,),
            "bias_k": (1, 1, e),
            "bias_v": (1, 1, e),
        }
        there = {
            "in_proj_weight": self._joint,
            "in_proj_bias": flag(bias, f"{name}: bias"),
            **dict.fromkeys(("bias_k", "bias_v"), flag(add_bias_kv, f"{name}: add_bias_kv")),
        }
        for member, shape in shapes.items():
            made = there.get(member, not self._joint)
            self.register_parameter(member, Parameter(empty(shape, dtype=dtype)) if made else None)
        self.out_proj = Linear(e, e, bias=bias, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise the projections (Glorot & Bengio 2010), and the biases to 0.

        >>> layer = mg.nn.MultiheadAttention(8, 2)
        >>> layer.reset_parameters()
        >>> bool((layer.in_proj_bias == 0).all())
        True
        """
        for name, parameter in self.named_parameters(recurse=False):
            if name in ("bias_k", "bias_v"):
                init.xavier_normal_(parameter)
            elif parameter.ndim == 2:
                init.xavier_uniform_(parameter)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output and the weights; see the class."""
        inputs = [to_tensor(x, "MultiheadAttention") for x in (query, key, value)]
        self._check(inputs)
        batched, itself = inputs[0].ndim == 3, query is key is value
        if not batched:
            inputs = [expand_dims(x, 0) for x in inputs]
            if key_padding_mask is not None:
                key_padding_mask = expand_dims(key_padding_mask, 0)
        elif not self.batch_first:
            inputs = [permute_dims(x, (1, 0, 2)) for x in inputs]
        batch, length, e = inputs[0].shape

        q, k, v = self._project(inputs, itself)
        added = [(self.bias_k, self.bias_v)] if self.bias_k is not None else []
        if self.add_zero_attn:
            added.append((zeros(1, 1, e, dtype=k.dtype),) * 2)
        for more in added:
            more_k, more_v = (broadcast_to(x, (batch, 1, e)) for x in more)
            k, v = concat([k, more_k], axis=1), concat([v, more_v], axis=1)
        full = (batch, self.num_heads, length, k.shape[1] - len(added))
        mask = self._mask(attn_mask, key_padding_mask, full, len(added), is_causal)
        heads = (self.num_heads, e // self.num_heads)
        q, k, v = (reshape(x, (*x.shape[:2], *heads)) for x in (q, k, v))
        q, k, v = (permute_dims(x, (0, 2, 1, 3)) for x in (q, k, v))
        y, weights = functional.attention(q, k, v, mask, self.dropout if self.training else 0.0)
        y = self.out_proj(reshape(permute_dims(y, (0, 2, 1, 3)), (batch, length, e)))
        if not batched:
            y = y[0]
        elif not self.batch_first:
            y = permute_dims(y, (1, 0, 2))
        if not need_weights:
            return y, None
        weights = weights.mean(1) if average_attn_weights else weights
        return y, weights if batched else weights[0]

    def _check(self, inputs: list[Tensor]) -> None:
        sizes = (self.embed_dim, self.kdim, self.vdim)
        query, key, value = shapes = [x.shape for x in inputs]
        batch_axis = 0 if self.batch_first else 1
        if (
            len(query) not in (2, 3)
            or not len(query) == len(key) == len(value)
            or tuple(shape[-1] for shape in shapes) != sizes
            or key[:-1] != value[:-1]
            or (len(query) == 3 and query[batch_axis] != key[batch_axis])
        ):
            layout = "(N, L, {})" if self.batch_first else "(L, N, {})"
            expected = ", ".join(layout.format(size) for size in sizes)
            raise ValueError(
                f"MultiheadAttention: expected query, key and value of shapes {expected}, or "
                f"without N, and key and value of one length, got {query}, {key}, {value}"
            )

    def _project(self, inputs: list[Tensor], itself: bool) -> list[Tensor]:
        bias = self.in_proj_bias
        if self._joint and itself:
            return list(split(linear(inputs[0], self.in_proj_weight, bias), self.embed_dim, axis=2))
        weights = [getattr(self, f"{which}_proj_weight") for which in "qkv"]
        if self._joint:
            weights = list(split(self.in_proj_weight, self.embed_dim))
        biases = [None] * 3 if bias is None else split(bias, self.embed_dim)
        return [linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]

    @memory_checked
    def _mask(
        self, attn_mask: Any, padding: Any, full: tuple[int, ...], added: int, is_causal: bool
    ) -> Tensor | None:
        """Combine both masks for `functional.attention`: bools, True where attention is allowed, or
        floats. `full` is the shape without the last `added` keys, those of bias_k and
        add_zero_attn, which are never masked."""
        batch, heads, length, source = full
        if is_causal and attn_mask is None:
            attn_mask = adopt(~np.tri(length, source, dtype=bool))
        allowed: dict[str, dict[Any, tuple[int, ...]]] = {
            "attn_mask": {full[2:]: (1, 1, *full[2:]), (batch * heads, *full[2:]): full},
            "key_padding_mask": {(batch, source): (batch, 1, 1, source)},
        }
        masks = []
        for (name, shapes), mask in zip(allowed.items(), (attn_mask, padding), strict=True):
            if mask is None:
                continue
            mask = to_tensor(mask, f"MultiheadAttention: {name}")
            if mask.shape not in shapes or mask.dtype.kind not in "bf":
                raise ValueError(
                    f"MultiheadAttention: {name} must be of bools or floats and of shape "
                    f"{' or '.join(map(str, shapes))}, got {mask.dtype} {mask.shape}"
                )
            mask = reshape(mask, shapes[mask.shape])
            if added:
                mask = concat([mask, zeros(*mask.shape[:-1], added, dtype=mask.dtype)], axis=3)
            masks.append(mask)
        if not masks:
            return None
        bools = all(mask.dtype.kind == "b" for mask in masks)
        first, *rest = masks if bools else map(_as_floats, masks)
        if rest:
            first = first | rest[0] if bools else first + rest[0]
        return ~first if bools else first


@memory_checked
def _as_floats(mask: Tensor) -> Tensor:
    if mask.dtype.kind == "f":
        return mask
    return adopt(np.where(mask.numpy(), np.float32(-np.inf), np.float32(0)))


# ------------------------------------------------------------------------------------- transformers
class _TransformerLayer(Module):
    """What the layers share: attentions, and then a net of two Linear layers, each with a residual
    and a LayerNorm."""

    _details = "norm_first={0.norm_first}"
    _attentions: ClassVar[tuple[str, ...]]
    self_attn: Any
    multihead_attn: Any
    norm1: Any
    norm2: Any
    norm3: Any
    dropout1: Any
    dropout2: Any
    dropout3: Any

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        known: dict[Any, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu}
        if activation not in known and not callable(activation):
            raise ValueError(
                f"{name}: activation must be 'relu', 'gelu' or a function, got {activation!r}"
            )
        self.activation = activation if callable(activation) else known[activation]
        self.norm_first = flag(norm_first, f"{name}: norm_first")
        for attention in self._attentions:
            sizes, options = (d_model, nhead, dropout, bias), {"batch_first": batch_first}
            self.add_module(attention, MultiheadAttention(*sizes, **options, dtype=dtype))
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, dtype=dtype)
        parts = range(1, len(self._attentions) + 2)
        for k in parts:
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, dtype=dtype)
            self.add_module(f"norm{k}", norm)
        for k in parts:
            self.add_module(f"dropout{k}", Dropout(dropout))

    def _residual(self, x: Any, function: Callable[[Tensor], Any], norm: Any, dropout: Any) -> Any:
        """x and the function of it."""
        if self.norm_first:
            return x + dropout(function(norm(x)))
        return norm(x + dropout(function(x)))

    def _feed(self, x: Tensor) -> Any:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention and a net of two Linear layers, each with a residual and a LayerNorm, which
    comes after it (Vaswani et al. 2017, section 3.1) or with norm_first before it (Xiong et al.
    2020).

    forward(src, src_mask=None, src_key_padding_mask=None, is_causal=False) takes (T, N, d_model),
    or (N, T, d_model) with batch_first, and gives the same shape; the masks are those of
    MultiheadAttention. activation: "relu", "gelu" or a function of a Tensor. dropout acts on the
    attention weights, inside the net and before each residual is added.

    >>> layer = mg.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(mg.randn(3, 5, 8), is_causal=True).shape
    (3, 5, 8)
    """

    _attentions = ("self_attn",)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Of the shape of src."""
        options = (src_key_padding_mask, False, src_mask, True, is_causal)
        x: Tensor = to_tensor(src, "TransformerEncoderLayer")

        def attend(x: Tensor) -> Any:
            return self.self_attn(x, x, x, *options)[0]

        x = self._residual(x, attend, self.norm1, self.dropout1)
        x = self._residual(x, self._feed, self.norm2, self.dropout2)
        return x


class TransformerDecoderLayer(_TransformerLayer):
    """As TransformerEncoderLayer, of the target, with an attention to `memory`, the output of an
    encoder, between the self-attention and the net (Vaswani et al. 2017, section 3.1).

    forward(tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None,
    memory_key_padding_mask=None, tgt_is_causal=False, memory_is_causal=False) takes (T, N, d_model)
    and (S, N, d_model), or N first with batch_first, and gives the shape of tgt. The masks and
    tgt_is_causal, which hides what comes after each place, are those of MultiheadAttention.

    >>> layer = mg.nn.TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(mg.randn(3, 5, 8), mg.randn(3, 7, 8), tgt_is_causal=True).shape
    (3, 5, 8)
    """

    _attentions = ("self_attn", "multihead_attn")

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Of the shape of tgt."""
        own = (tgt_key_padding_mask, False, tgt_mask, True, tgt_is_causal)
        across = (memory_key_padding_mask, False, memory_mask, True, memory_is_causal)
        x: Tensor = to_tensor(tgt, "TransformerDecoderLayer")

        def attend(x: Tensor) -> Any:
            return self.self_attn(x, x, x, *own)[0]

        def remember(x: Tensor) -> Any:
            return self.multihead_attn(x, memory, memory, *across)[0]

        x = self._residual(x, attend, self.norm1, self.dropout1)
        x = self._residual(x, remember, self.norm2, self.dropout2)
        x = self._residual(x, self._feed, self.norm3, self.dropout3)
        return x


class _Stack(Module):
    """num_layers copies of a layer, one after the other, and then `norm`, if one is given."""

    norm: Any

    def _add(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        name = type(self).__name__
        count = positive(num_layers, f"{name}: num_layers")
        if not isinstance(layer, Module):
            raise TypeError(f"{name}: expected a layer, got {layer!r:.60}")
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(count))
        self.add_module("norm", norm)

    def _through(self, x: Tensor, *inputs: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, *inputs)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """num_layers copies of a TransformerEncoderLayer, one after the other, and then `norm`, if one
    is given. The copies, `layers.0`, ..., start equal, as in PyTorch.

    >>> layer = mg.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16)
    >>> mg.nn.TransformerEncoder(layer, num_layers=2)(mg.randn(5, 3, 8)).shape
    (5, 3, 8)
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self._add(encoder_layer, num_layers, norm)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Of the shape of src; the masks go to every layer."""
        return self._through(src, mask, src_key_padding_mask, is_causal)


class TransformerDecoder(_Stack):
    """num_layers copies of a TransformerDecoderLayer, all with the same memory, and then `norm`, if
    one is given. The copies, `layers.0`, ..., start equal, as in PyTorch.

    >>> layer = mg.nn.TransformerDecoderLayer(8, 2, dim_feedforward=16)
    >>> mg.nn.TransformerDecoder(layer, num_layers=2)(mg.randn(5, 3, 8), mg.randn(4, 3, 8)).shape
    (5, 3, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self._add(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Of the shape of tgt; memory and the masks go to every layer."""
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        return self._through(tgt, memory, *masks, tgt_is_causal, memory_is_causal)
