"""Attention against NumPy, its gradients and masks, the transformer encoder, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional

RANDOM = np.random.default_rng(0)
INF = np.inf


def tensor(*shape):
    return mg.tensor(RANDOM.normal(size=shape), requires_grad=True)


def reference(q, k, v, bias=0.0, scale=None):
    scores = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


# ------------------------------------------------------------------- scaled dot-product attention
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_values(leading, scale):
    q, k, v = tensor(*leading, 4, 3), tensor(*leading, 5, 3), tensor(*leading, 5, 2)
    arrays = [x.numpy() for x in (q, k, v)]
    attend = functional.scaled_dot_product_attention
    y = attend(q, k, v, scale=scale)
    np.testing.assert_allclose(y.numpy(), reference(*arrays, scale=scale), rtol=1e-12)
    seen = RANDOM.uniform(size=(4, 5)) < 0.5
    seen[:, 0] = True
    bias = np.where(seen, 0.0, -INF)
    expected = reference(*arrays, bias, scale)
    for mask in (seen, bias, bias.astype(np.float32)):
        y = attend(q, k, v, mg.tensor(mask), scale=scale)
        assert y.dtype == mg.float64
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    y = attend(q, k, v, is_causal=True, scale=scale)
    causal = np.where(np.tri(4, 5, dtype=bool), 0.0, -INF)
    np.testing.assert_allclose(y.numpy(), reference(*arrays, causal, scale), rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": "bool"}], ids=str)
def test_gradients_of_both_orders(options):
    if options.get("attn_mask"):  # the last query sees nothing
        options = {"attn_mask": mg.tensor([[True, False, True], [False, True, True], [False] * 3])}
    inputs = tensor(2, 3, 2), tensor(2, 3, 2), tensor(2, 3, 2)

    def function(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, **options)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_a_bias_that_is_added_gets_a_gradient():
    inputs = tensor(3, 2), tensor(4, 2), tensor(4, 2), tensor(3, 4)
    assert gradcheck(functional.scaled_dot_product_attention, inputs)


def test_a_query_that_sees_nothing_gives_zero():
    q, seen = tensor(3, 2), np.array([[True] * 3, [False] * 3, [True] * 3])
    for mask in (seen, np.where(seen, 0.0, -INF)):
        y, weights = functional.attention(q, q, q, mg.tensor(mask))
        assert y[1].tolist() == [0.0, 0.0] and weights[1].tolist() == [0.0] * 3
        np.testing.assert_allclose(weights.numpy().sum(-1), [1, 0, 1], rtol=1e-12)
        (grad,) = mg.autograd.grad(y.sum(), q)
        assert np.isfinite(grad.numpy()).all()
    assert functional.attention(q, mg.ones(0, 2), mg.ones(0, 5))[0].tolist() == [[0.0] * 5] * 3


def test_large_scores_do_not_overflow():
    x = mg.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    y = functional.scaled_dot_product_attention(x, x, x)
    np.testing.assert_array_equal(y.numpy(), x.numpy())


def test_dropout_drops_weights():
    mg.manual_seed(0)
    x = mg.ones(100, 2)
    _, weights = functional.attention(x, x, x, dropout_p=0.5)
    values = np.unique(weights.numpy())
    np.testing.assert_allclose(values, [0.0, 0.02], rtol=1e-5)
    layer = nn.MultiheadAttention(2, 1, dropout=0.5)
    assert not np.array_equal(layer(x, x, x)[0].numpy(), layer(x, x, x)[0].numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x, x, x)[0].numpy(), layer(x, x, x)[0].numpy())


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((4, 3), (5, 2), (5, 2)), {}, r"query \(4, 3\), key \(5, 2\)"),
        (((4, 3), (5, 3), (4, 2)), {}, r"expected \(\.\.\., L, E\)"),
        (((3,), (5, 3), (5, 2)), {}, "expected"),
        (((4, 3),) * 3, {"attn_mask": mg.ones(4, 5)}, r"broadcast to \(4, 4\), got float32 \(4, 5"),
        (((4, 3),) * 3, {"attn_mask": mg.ones(2, 4, 4)}, r"broadcast to \(4, 4\)"),
        (((4, 3),) * 3, {"attn_mask": mg.tensor([1, 0, 1, 1])}, "bools or floats .* got int64"),
        (((4, 3),) * 3, {"attn_mask": mg.ones(4, 4), "is_causal": True}, "not both"),
        (((4, 3),) * 3, {"dropout_p": 1.5}, "between 0 and 1"),
    ],
)
def test_attention_refuses(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        functional.scaled_dot_product_attention(*map(mg.ones, shapes), **options)


def test_attention_names_the_option_that_is_wrong():
    with pytest.raises(TypeError, match="attention: scale must be a number, got 'a'"):
        functional.scaled_dot_product_attention(*[mg.ones(2, 2)] * 3, scale="a")


# ---------------------------------------------------------------------------- multi-head attention
def test_multihead_attention_is_attention_in_each_subspace():
    layer = nn.MultiheadAttention(4, 2, batch_first=True, dtype=mg.float64)
    with mg.no_grad():
        for bias in (layer.in_proj_bias, layer.out_proj.bias):
            bias.copy_(RANDOM.normal(size=bias.shape))
    x, y = RANDOM.normal(size=(2, 3, 4)), RANDOM.normal(size=(2, 5, 4))
    w, b = layer.in_proj_weight.numpy(), layer.in_proj_bias.numpy()
    q, k, v = (a @ w[s].T + b[s] for a, s in ((x, slice(4)), (y, slice(4, 8)), (y, slice(8, 12))))
    heads = [reference(*(a[..., s] for a in (q, k, v))) for s in (slice(2), slice(2, 4))]
    out = layer.out_proj
    expected = np.concatenate(heads, -1) @ out.weight.numpy().T + out.bias.numpy()
    output, weights = layer(mg.tensor(x), mg.tensor(y), mg.tensor(y))
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert weights.shape == (2, 3, 5)
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False, "add_zero_attn": True}, {"kdim": 3, "add_bias_kv": True}],
    ids=str,
)
def test_gradients_of_multihead_attention(options):
    layer = nn.MultiheadAttention(4, 2, **options).double()
    padding = mg.tensor([[False, True, False], [False, False, False]])

    def function(q, k, v, *rest):
        return layer(q, k, v, key_padding_mask=padding)

    inputs = tensor(2, 2, 4), tensor(3, 2, options.get("kdim", 4)), tensor(3, 2, 4)
    assert gradcheck(function, (*inputs, *layer.parameters()))
    assert gradgradcheck(function, (*inputs, *layer.parameters()))


def by_heads(layer, q, k, v, added):
    """Attention (L, N, E) by sample and head; the mask added to the scores is (N, heads, L, S)."""
    size, heads = layer.embed_dim, layer.num_heads
    state = {name: value.numpy() for name, value in layer.state_dict().items()}
    weights = [state.get(f"{name}_proj_weight") for name in "qkv"]
    if weights[0] is None:
        weights = np.split(state["in_proj_weight"], 3)
    biases = np.split(state.get("in_proj_bias", np.zeros(3 * size)), 3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True))
    width, outputs = size // heads, np.zeros(q.shape)
    probabilities = []
    for sample, head in itertools.product(range(q.shape[1]), range(heads)):
        part = slice(head * width, (head + 1) * width)
        keys, values = k[:, sample, part], v[:, sample, part]
        if "bias_k" in state:
            keys = np.concatenate([keys, state["bias_k"][0, :, part]])
            values = np.concatenate([values, state["bias_v"][0, :, part]])
        if layer.add_zero_attn:
            keys, values = (np.concatenate([x, np.zeros((1, width))]) for x in (keys, values))
        scores = q[:, sample, part] @ keys.T / np.sqrt(width)
        scores[:, : len(k)] += added[sample, head]
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        outputs[:, sample, part] = p @ values
        probabilities.append(p)
    shape = (q.shape[1], heads, *probabilities[0].shape)
    out = outputs @ state["out_proj.weight"].T + state.get("out_proj.bias", 0.0)
    return out, np.reshape(probabilities, shape)


@pytest.mark.parametrize("floats", [False, True], ids=["bools", "floats"])
@pytest.mark.parametrize(
    "masks", [(), ("padding",), ("square",), ("each",), ("padding", "square"), ("padding", "each")]
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"kdim": 3, "vdim": 5},
        {"kdim": 3, "bias": False},
        {"vdim": 7, "add_bias_kv": True},
        {"add_zero_attn": True},
        {"add_bias_kv": True, "add_zero_attn": True},
    ],
    ids=str,
)
def test_multihead_attention_with_every_option(options, masks, floats):
    random, length, batch, steps = np.random.default_rng(2), 3, 2, 4
    layer = nn.MultiheadAttention(4, 2, **options).double()
    with mg.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(random.normal(size=parameter.shape))
    q = random.normal(size=(length, batch, 4))
    k = random.normal(size=(steps, batch, options.get("kdim", 4)))
    v = random.normal(size=(steps, batch, options.get("vdim", 4)))
    added, given = np.zeros((batch, 2, length, steps)), {}
    hidden = {
        "padding": np.array([[False, False, True, True], [False, True, False, False]]),
        "square": ~np.tri(length, steps, dtype=bool),
        "each": random.random((batch * 2, length, steps)) < 0.4,
    }
    hidden["each"][..., 0] = False
    for mask in masks:
        values = np.where(hidden[mask], -INF, 0.0)
        if floats:
            values += random.normal(size=values.shape)
        name = "key_padding_mask" if mask == "padding" else "attn_mask"
        given[name] = mg.tensor(values if floats else hidden[mask])
        shapes = {"padding": (batch, 1, 1, steps), "square": (length, steps)}
        added += values.reshape(shapes.get(mask, added.shape))
    expected, weights = by_heads(layer, q, k, v, added)
    inputs = [mg.tensor(x) for x in (q, k, v)]
    for average, axis_mean in ((True, weights.mean(1)), (False, weights)):
        y, seen = layer(*inputs, **given, average_attn_weights=average)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(seen.numpy(), axis_mean, rtol=1e-11, atol=1e-15)
    y, seen = layer(*inputs, **given, need_weights=False)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-11, atol=1e-13)
    assert seen is None


def test_is_causal_hides_what_comes_later():
    layer, x = nn.MultiheadAttention(4, 2), mg.randn(5, 3, 4)
    y, weights = layer(x, x, x, is_causal=True)
    np.testing.assert_array_equal(np.triu(weights.numpy(), 1), 0)
    part, _ = layer(x[:2], x[:2], x[:2], is_causal=True)
    np.testing.assert_allclose(y[:2].numpy(), part.numpy(), rtol=1e-5, atol=1e-6)
    mask = mg.tensor(~np.tri(5, dtype=bool))
    np.testing.assert_array_equal(layer(x, x, x, attn_mask=mask)[0].numpy(), y.numpy())


def test_starting_values():
    mg.manual_seed(0)
    layer = nn.MultiheadAttention(60, 4, add_bias_kv=True)
    bound = (6 / (60 + 180)) ** 0.5
    values = layer.in_proj_weight.numpy()
    assert 0.99 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
    assert not layer.in_proj_bias.numpy().any() and not layer.out_proj.bias.numpy().any()
    assert np.abs(layer.out_proj.weight.numpy()).max() <= 60**-0.5


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((5, 2), {}, ValueError, "embed_dim 5 is not divisible by 2 heads"),
        ((4, 0), {}, ValueError, "num_heads must be positive, got 0"),
        ((4, 2), {"kdim": 0}, ValueError, "kdim must be positive, got 0"),
        ((4, 2), {"dropout": -1}, ValueError, "between 0 and 1"),
        ((4, 2), {"bias": 1}, TypeError, "bias must be True or False, got 1"),
        ((4.0, 2), {}, TypeError, r"embed_dim must be an int, got 4\.0"),
    ],
)
def test_multihead_attention_refuses(arguments, options, error, message):
    with pytest.raises(error, match=message):
        nn.MultiheadAttention(*arguments, **options)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((5, 2, 3),) * 3, {}, r"expected query, key and value of shapes \(L, N, 4\)"),
        (((5, 2, 4), (5, 4), (5, 4)), {}, "expected query, key and value"),
        (((5, 2, 4), (6, 2, 4), (5, 2, 4)), {}, "of one length"),
        (((5, 2, 4), (6, 3, 4), (6, 3, 4)), {}, "expected query"),
        (((5, 2, 4),) * 3, {"attn_mask": mg.ones(5, 4)}, r"attn_mask .* \(5, 5\) or \(4, 5, 5\)"),
        (((5, 2, 4),) * 3, {"key_padding_mask": mg.ones(5, 2)}, r"key_padding_mask .* \(2, 5\)"),
        (((5, 2, 4),) * 3, {"attn_mask": mg.zeros(5, 5, dtype=mg.int64)}, "got int64"),
    ],
)
def test_multihead_attention_refuses_inputs(shapes, options, message):
    layer = nn.MultiheadAttention(4, 2)
    with pytest.raises(ValueError, match=message):
        layer(*(mg.ones(shape) for shape in shapes), **options)


# ----------------------------------------------------------------------------------- the encoder
@pytest.mark.parametrize("norm_first", [False, True])
def test_gradients_of_an_encoder_layer(norm_first):
    layer = nn.TransformerEncoderLayer(
        4, 2, dim_feedforward=5, dropout=0.0, activation="gelu", norm_first=norm_first
    ).double()
    assert gradcheck(lambda x, *rest: layer(x), (tensor(3, 2, 4), *layer.parameters()))
    assert gradgradcheck(lambda x, *rest: layer(x), (tensor(3, 2, 4), *layer.parameters()))


def test_encoder_copies_its_layer():
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, activation=mg.tanh)
    net = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(4))
    assert len(list(net.parameters())) == 2 * 12 + 2
    assert net.layers[0].linear1.weight is not layer.linear1.weight
    np.testing.assert_array_equal(
        net.layers[0].linear1.weight.numpy(), net.layers[1].linear1.weight.numpy()
    )
    x = mg.randn(3, 2, 4)
    assert not np.array_equal(net(x).numpy(), net(x).numpy())  # dropout
    net.eval()
    alone = net.norm(net.layers[1](net.layers[0](x, is_causal=True), is_causal=True))
    np.testing.assert_array_equal(net(x, is_causal=True).numpy(), alone.numpy())


def test_encoder_refuses():
    with pytest.raises(ValueError, match="activation must be 'relu', 'gelu' or a function"):
        nn.TransformerEncoderLayer(4, 2, activation="sine")
    with pytest.raises(TypeError, match="norm_first must be True or False"):
        nn.TransformerEncoderLayer(4, 2, norm_first=1)
    with pytest.raises(TypeError, match="expected a layer"):
        nn.TransformerEncoder("layer", 2)
    with pytest.raises(ValueError, match="num_layers must be positive"):
        nn.TransformerEncoder(nn.Linear(2, 2), 0)


def test_decoder_sees_its_past_and_all_of_the_memory():
    layer = nn.TransformerDecoderLayer(4, 2, dim_feedforward=5, activation=mg.tanh)
    net = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(4))
    assert len(list(net.parameters())) == 2 * 18 + 2
    x, memory = mg.randn(3, 2, 4), mg.randn(5, 2, 4)
    options = {"tgt_is_causal": True}
    assert not np.array_equal(net(x, memory).numpy(), net(x, memory).numpy())  # dropout
    net.eval()
    y = net(x, memory, **options)
    alone = net.norm(net.layers[1](net.layers[0](x, memory, **options), memory, **options))
    np.testing.assert_array_equal(y.numpy(), alone.numpy())
    later, other = x.numpy(copy=True), memory.numpy(copy=True)
    later[2], other[4, 1] = 7.0, 7.0
    changed = net(mg.tensor(later), memory, **options).numpy() != y.numpy()
    assert changed[2].all() and not changed[:2].any()
    changed = net(x, mg.tensor(other), **options).numpy() != y.numpy()
    assert changed[:, 1].all() and not changed[:, 0].any()
    unbatched = net(x[:, 0], memory[:, 0], **options)
    np.testing.assert_allclose(unbatched.numpy(), y[:, 0].numpy(), rtol=1e-5, atol=1e-6)


def test_decoder_refuses():
    with pytest.raises(ValueError, match="TransformerDecoderLayer: activation must be 'relu'"):
        nn.TransformerDecoderLayer(4, 2, activation="sine")
    with pytest.raises(TypeError, match="TransformerDecoder: expected a layer, got 'layer'"):
        nn.TransformerDecoder("layer", 2)
    layer = nn.TransformerDecoderLayer(4, 2, dim_feedforward=5)
    for shape in ((5, 3, 4), (5, 2, 3), (5, 4)):
        with pytest.raises(ValueError, match="MultiheadAttention: expected query, key and value"):
            layer(mg.ones(3, 2, 4), mg.ones(*shape))


def test_a_transformer_learns_to_copy_the_token_before():
    mg.manual_seed(0)
    table, positions = nn.Embedding(5, 16), nn.Embedding(6, 16)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    head, criterion = nn.Linear(16, 5), nn.CrossEntropyLoss()
    modules = nn.ModuleList([table, positions, layer, head])
    optimizer = mg.optim.Adam(modules.parameters(), lr=0.01)
    tokens = np.random.default_rng(0).integers(0, 5, (64, 6))
    target = mg.tensor(tokens[:, :-1].reshape(-1))
    for _ in range(100):
        optimizer.zero_grad()
        x = table(mg.tensor(tokens)) + positions(mg.arange(6))
        logits = head(layer(x, is_causal=True)[:, 1:])
        loss = criterion(mg.reshape(logits, (-1, 5)), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
