"""Recurrent layers, attention and Embedding vs. PyTorch: names, outputs, gradients."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

torch = pytest.importorskip("torch")

from peers import DTYPES, both, close, pair, peer, random_array  # noqa: E402


def flat(outputs):
    """The tensors in nested tuples, in order."""
    if isinstance(outputs, tuple):
        return [tensor for part in outputs for tensor in flat(part)]
    return [] if outputs is None else [outputs]


def check(build, arrays, dtype, arrange=lambda *inputs: inputs, scale=10, **options):
    """State dicts, outputs, and gradients of inputs and parameters for random cotangents."""
    ours, theirs = pair(build, dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in theirs.named_parameters()
    ]
    inputs, others = zip(*(both(array) for array in arrays), strict=True)
    results, expected = (
        flat(ours(*arrange(*inputs), **options)),
        flat(theirs(*arrange(*others), **options)),
    )
    total, other = 0.0, 0.0
    for k, (y, ty) in enumerate(zip(results, expected, strict=True)):
        close(y, ty, dtype, scale)
        cotangent = random_array(y.shape, dtype, seed=k + 2)
        total = total + (y * mg.tensor(cotangent)).sum()
        other = other + (ty * torch.tensor(cotangent)).sum()
    total.backward()
    other.backward()
    for x, tx in zip(inputs, others, strict=True):
        if tx.requires_grad:
            close(x.grad, tx.grad, dtype, 10 * scale)
    for p, (name, q) in zip(ours.parameters(), theirs.named_parameters(), strict=True):
        assert p.grad is not None, name
        close(p.grad, q.grad, dtype, 50 * scale)
    return ours, theirs


# --------------------------------------------------------------------------------------- recurrent
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
]
KINDS = {
    "RNN": ([*OPTIONS, {"nonlinearity": "relu", "num_layers": 2}], peer("nn.RNN")),
    "LSTM": (
        [*OPTIONS, {"proj_size": 2, "num_layers": 2, "bidirectional": True}],
        peer("nn.LSTM"),
    ),
    "GRU": (OPTIONS, peer("nn.GRU")),
}
CELLS = {
    "RNNCell": peer("nn.RNNCell"),
    "LSTMCell": peer("nn.LSTMCell"),
    "GRUCell": peer("nn.GRUCell"),
}
SEQUENCES = [
    pytest.param(name, options, id=f"{name} {options}", marks=mark)
    for name, (several, mark) in KINDS.items()
    for options in several
]


def states(name, options, batch, dtype):
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h = random_array((count, *batch, options.get("proj_size", 4)), dtype, 7)
    return [h, random_array((count, *batch, 4), dtype, 8)] if name == "LSTM" else [h]


def with_state(x, *state):
    return (x, state) if len(state) == 2 else (x, *state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "h0"])
@pytest.mark.parametrize(("name", "options"), SEQUENCES)
def test_sequence(name, options, given, dtype):
    shape = (2, 5, 3) if options.get("batch_first") else (5, 2, 3)
    arrays = [random_array(shape, dtype) * np.dtype(dtype).type(0.3)]
    if given:
        arrays += states(name, options, (2,), dtype)
    check(lambda n: getattr(n, name)(3, 4, **options), arrays, dtype, with_state)


@peer("nn.RNN", "nn.LSTM", "nn.GRU")
@pytest.mark.parametrize("batch_first", [False, True], ids=["T first", "N first"])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "h0"])
@pytest.mark.parametrize("name", KINDS)
def test_sequence_without_a_batch(name, batch_first, given):
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    arrays = [random_array((6, 3), "float64")]
    if given:
        arrays += states(name, options, (), "float64")
    check(lambda n: getattr(n, name)(3, 4, **options), arrays, "float64", with_state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(3,), ()], ids=["batch", "no batch"])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "h0"])
@pytest.mark.parametrize("options", [{}, {"bias": False}], ids=str)
@pytest.mark.parametrize("name", [pytest.param(n, marks=mark) for n, mark in CELLS.items()])
def test_cell(name, options, given, batch, dtype):
    arrays = [random_array((*batch, 3), dtype)]
    if given:
        count = 2 if name == "LSTMCell" else 1
        arrays += [random_array((*batch, 4), dtype, k) for k in range(count)]
    check(lambda n: getattr(n, name)(3, 4, **options), arrays, dtype, with_state)


@peer("nn.RNNCell")
def test_relu_cell():
    x = random_array((5, 3), "float64")
    check(lambda n: n.RNNCell(3, 4, nonlinearity="relu"), [x], "float64")


@peer("nn.LSTM")
def test_dropout_stands_between_layers_only():
    """With everything dropped the second layer sees zeros, in both libraries."""
    check(
        lambda n: n.LSTM(3, 4, num_layers=2, dropout=1.0),
        [random_array((5, 2, 3), "float64")],
        "float64",
    )


@peer("nn.LSTM")
def test_double_backward_of_the_lstm():
    ours, theirs = pair(lambda n: n.LSTM(3, 4), "float64")
    x, tx = both(random_array((5, 2, 3), "float64"))
    u, tu = both(random_array((5, 2, 4), "float64", 2))
    v = random_array((5, 2, 3), "float64", 3)
    (g,) = mg.autograd.grad(ours(x)[0], x, u, create_graph=True)
    (tg,) = torch.autograd.grad(theirs(tx)[0], tx, tu, create_graph=True)
    close(g, tg, "float64", 10)
    second = mg.autograd.grad(
        (g * mg.tensor(v)).sum(), [x, u, ours.weight_hh_l0, ours.weight_ih_l0]
    )
    expected = torch.autograd.grad(
        (tg * torch.tensor(v)).sum(), [tx, tu, theirs.weight_hh_l0, theirs.weight_ih_l0]
    )
    for one, other in zip(second, expected, strict=True):
        close(one, other, "float64", 100)


@peer("nn.RNN", "nn.LSTM", "nn.GRU")
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_checkpoints_go_both_ways(name):
    def build(n):
        return getattr(n, name)(3, 4, num_layers=2, bidirectional=True)

    ours, theirs, x = build(nn), build(torch.nn), random_array((5, 2, 3), "float32")
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    close(ours(mg.tensor(x))[0], theirs(torch.tensor(x))[0], "float32")
    fresh = build(torch.nn)
    state = {k: torch.tensor(v.numpy(copy=True)) for k, v in ours.state_dict().items()}
    fresh.load_state_dict(state)
    close(ours(mg.tensor(x))[0], fresh(torch.tensor(x))[0], "float32")


# --------------------------------------------------------------------------------------- attention
def attend(n, *arrays, **options):
    f = mg.nn.functional if n is nn else torch.nn.functional
    return f.scaled_dot_product_attention(*arrays, **options)


@peer("nn.functional.scaled_dot_product_attention")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("mask", "options"),
    [(None, {}), (None, {"is_causal": True}), ("bool", {}), ("float", {"scale": 0.3})],
    ids=str,
)
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 5, 4)], ids=str)
def test_scaled_dot_product_attention(shape, mask, options, dtype):
    keys = (*shape[:-2], 6, 4)
    inputs, others = zip(
        *(both(random_array(s, dtype, k)) for k, s in enumerate((shape, keys, (*keys[:-1], 3)))),
        strict=True,
    )
    if mask:
        hidden = np.random.default_rng(5).uniform(size=(5, 6)) < 0.5
        hidden[2] = True  # a query that sees nothing
        array = ~hidden if mask == "bool" else np.where(hidden, -np.inf, 0.7).astype(dtype)
        ours, theirs = mg.tensor(array), torch.tensor(array)
        y = attend(nn, *inputs, attn_mask=ours, **options)
        ty = attend(torch.nn, *others, attn_mask=theirs, **options)
    else:
        y, ty = attend(nn, *inputs, **options), attend(torch.nn, *others, **options)
    close(y, ty, dtype, 10)
    cotangent = random_array(y.shape, dtype, 9)
    y.backward(mg.tensor(cotangent))
    ty.backward(torch.tensor(cotangent))
    for x, tx in zip(inputs, others, strict=True):
        close(x.grad, tx.grad, dtype, 50)


ATTENTION = [
    {},
    {"bias": False},
    {"kdim": 3, "vdim": 5},
    {"add_bias_kv": True},
    {"add_zero_attn": True, "add_bias_kv": True, "kdim": 3},
]
CALLS = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False},
    {"attn_mask": "bool"},
    {"attn_mask": "float", "key_padding_mask": "float"},
    {"attn_mask": "heads", "key_padding_mask": "bool", "need_weights": False},
]


def masks(call, batch, length, keys, heads, module):
    """The masks named by a call, which never hide everything from a query."""
    random, made = np.random.default_rng(4), dict(call)
    shapes = {"attn_mask": (length, keys), "key_padding_mask": (*batch, keys)}
    for name in {"attn_mask", "key_padding_mask"} & set(call):
        shape = (batch[0] * heads, length, keys) if call[name] == "heads" else shapes[name]
        hidden = random.uniform(size=shape) < 0.4
        hidden[..., 0] = False
        array = np.where(hidden, -np.inf, 0.5) if call[name] == "float" else hidden
        made[name] = mg.tensor(array) if module is nn else torch.tensor(array)
    return made


class Masked:
    """A layer that makes its masks for the library in which it is called."""

    def __init__(self, layer, module, make):
        self.layer, self.module, self.make = layer, module, make

    def __getattr__(self, name):
        return getattr(self.layer, name)

    def __call__(self, *inputs):
        return self.layer(*inputs, **self.make(self.module))


def check_masked(build, arrays, make, arrange=lambda *inputs: inputs):
    def masked(n):
        layer = build(n)
        wrapper = Masked(layer, n, make)
        wrapper.to = lambda dtype: (layer.to(dtype), wrapper)[1]
        return wrapper

    check(masked, arrays, "float64", arrange)


@peer("nn.MultiheadAttention")
@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("batch_first", [False, True], ids=["L first", "N first"])
@pytest.mark.parametrize("options", ATTENTION, ids=str)
def test_multihead_attention(options, batch_first, call):
    kdim, vdim = options.get("kdim", 4), options.get("vdim", 4)
    shapes = [(2, n, d) if batch_first else (n, 2, d) for n, d in ((3, 4), (5, kdim), (5, vdim))]
    check_masked(
        lambda n: n.MultiheadAttention(4, 2, batch_first=batch_first, **options),
        [random_array(shape, "float64", k) for k, shape in enumerate(shapes)],
        lambda n: masks(call, (2,), 3, 5, 2, n),
    )


@peer("nn.MultiheadAttention")
@pytest.mark.parametrize("call", CALLS[:-1], ids=str)
def test_self_attention_without_a_batch(call):
    check_masked(
        lambda n: n.MultiheadAttention(4, 2),
        [random_array((5, 4), "float64")],
        lambda n: masks(call, (), 5, 5, 2, n),
        lambda x: (x, x, x),
    )


ENCODERS = [
    {},
    {"norm_first": True, "activation": "gelu"},
    {"batch_first": True, "bias": False},
    {"norm_first": True, "batch_first": True},
]
ENCODER_CALLS = [{}, {"attn_mask": "bool"}, {"attn_mask": "float", "key_padding_mask": "float"}]


@pytest.mark.parametrize("call", ENCODER_CALLS, ids=str)
@pytest.mark.parametrize("options", ENCODERS, ids=str)
@pytest.mark.parametrize(
    "stacked",
    [
        pytest.param(False, marks=peer("nn.TransformerEncoderLayer")),
        pytest.param(True, marks=peer("nn.TransformerEncoder")),
    ],
)
def test_encoder(stacked, options, call):
    def build(n):
        layer = n.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.0, **options)
        if not stacked:
            return layer
        more = {} if n is nn else {"enable_nested_tensor": False}
        return n.TransformerEncoder(layer, 2, norm=n.LayerNorm(4), **more)

    def make(n):
        made = masks(call, (2,), 5, 5, 2, n)
        names = {"attn_mask": "mask" if stacked else "src_mask"}
        return {names.get(k, "src_key_padding_mask"): v for k, v in made.items()}

    shape = (2, 5, 4) if options.get("batch_first") else (5, 2, 4)
    check_masked(build, [random_array(shape, "float64")], make)


DECODER_CALLS = [
    {},
    {"tgt_mask": "causal", "memory_key_padding_mask": "padding"},
    {"memory_mask": "float", "tgt_key_padding_mask": "padding"},
]


@pytest.mark.parametrize("call", DECODER_CALLS, ids=str)
@pytest.mark.parametrize("options", ENCODERS, ids=str)
@pytest.mark.parametrize(
    "stacked",
    [
        pytest.param(False, marks=peer("nn.TransformerDecoderLayer")),
        pytest.param(True, marks=peer("nn.TransformerDecoder")),
    ],
)
def test_decoder(stacked, options, call):
    def build(n):
        layer = n.TransformerDecoderLayer(4, 2, dim_feedforward=6, dropout=0.0, **options)
        return n.TransformerDecoder(layer, 2, norm=n.LayerNorm(4)) if stacked else layer

    def make(n):
        new = mg.tensor if n is nn else torch.tensor
        sizes = {"tgt_mask": (5, 5), "memory_mask": (5, 3)}
        made = {
            "causal": lambda shape: ~np.tri(*shape, dtype=bool),
            "padding": lambda shape: np.arange(shape[1]) >= [[shape[1]], [shape[1] - 2]],
            "float": lambda shape: random_array(shape, "float64", 7),
        }
        padded = {"tgt_key_padding_mask": (2, 5), "memory_key_padding_mask": (2, 3)}
        return {name: new(made[kind]((sizes | padded)[name])) for name, kind in call.items()}

    first = options.get("batch_first")
    shapes = ((2, 5, 4), (2, 3, 4)) if first else ((5, 2, 4), (3, 2, 4))
    check_masked(build, [random_array(s, "float64", k) for k, s in enumerate(shapes)], make)


# --------------------------------------------------------------------------------------- Embedding
@peer("nn.Embedding")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (6,), (3, 4), (0,)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 2},
        {"padding_idx": -1},
        {"max_norm": 1.0},
        {"max_norm": 2, "norm_type": 1.0},
    ],
    ids=str,
)
def test_embedding(options, shape, dtype):
    indices = np.random.default_rng(3).integers(0, 5, shape)
    check(lambda n: n.Embedding(5, 3, **options), [indices], dtype)
