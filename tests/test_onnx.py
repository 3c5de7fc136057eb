"""onnx.export: the file passes ONNX's checker, and onnxruntime agrees with the model."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core import ops
from minigrad._core.engine.graph import primitives
from minigrad.nn import functional

onnx = pytest.importorskip("onnx")


class Function(nn.Module):
    """A net that is one Python function."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function = function
        self.members = nn.ModuleList(modules)

    def forward(self, *inputs):
        return self.function(*self.members, *inputs)


def trained(model):
    """The model with statistics and parameters other than the initial ones."""
    random = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():
        if tensor.dtype.kind == "f":
            array = random.uniform(0.2, 1.0, tensor.shape)
            tensor.copy_(array if "var" in name else array - 0.5)
    return model


def exported(model, example, **options):
    file = io.BytesIO()
    mg.onnx.export(model, example, file, **options)
    proto = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(proto, full_check=True)
    return proto


def flat(tree):
    if isinstance(tree, mg.Tensor):
        return [tree.numpy()]
    return [array for branch in tree for array in flat(branch)]


def check(model, *inputs, proto=None, tolerance=1e-5, **options):
    """Export with the first row of `inputs`; onnxruntime gives the model's outputs for all."""
    runtime = pytest.importorskip("onnxruntime")
    runtime.set_default_logger_severity(3)
    given = [x if isinstance(x, tuple) else (x,) for x in inputs]
    proto = proto or exported(model, given[0], **options)
    session = runtime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [row.name for row in session.get_inputs()]
    for row in given:
        model.eval()
        expected = flat(model(*row))
        results = session.run(None, {n: np.asarray(x) for n, x in zip(names, row, strict=True)})
        for result, want in zip(results, expected, strict=True):
            assert (result.shape, result.dtype) == (want.shape, want.dtype)
            np.testing.assert_allclose(result, want, rtol=tolerance, atol=tolerance)
    return proto


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def mlp():
    return trained(
        nn.Sequential(
            nn.Linear(5, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(16, 3, bias=False),
            nn.Softmax(dim=1),
        )
    )


# ------------------------------------------------------------------------------------- whole nets
@pytest.mark.parametrize("opset", [18, 20, 21, 23])
def test_mlp(opset):
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} does not know opset {opset}")
    proto = check(mlp(), mg.randn(4, 5), mg.randn(1, 5), mg.randn(9, 5), opset=opset)
    assert operators(proto) == ["Gemm", "BatchNormalization", "Relu", "Gemm", "Softmax"]
    assert proto.opset_import[0].version == opset
    names = [initializer.name for initializer in proto.graph.initializer]
    assert names[:3] == ["0.weight", "0.bias", "1.weight"] and "4.weight" in names


def test_batch_norm_cnn():
    model = trained(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(6, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 10),
        )
    )
    proto = check(model, mg.randn(2, 1, 8, 8), mg.randn(1, 1, 8, 8), mg.randn(5, 1, 8, 8))
    assert operators(proto)[:4] == ["Conv", "BatchNormalization", "Relu", "MaxPool"]


def test_character_lstm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 8, num_layers=2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            y, _ = self.lstm(x)
            return self.head(y[:, -1])

    proto = check(trained(Net()), mg.randn(3, 7, 4), mg.randn(1, 7, 4), mg.randn(6, 7, 4))
    assert operators(proto).count("LSTM") == 2


def test_residual_net_with_functions_between_the_layers():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = nn.Linear(6, 6), nn.Parameter([0.5])

        def forward(self, x):
            y = mg.tanh(self.inner(x)) * self.scale
            y += x
            return mg.concat([y, mg.relu(-y)], axis=1)[:, ::2]

    check(trained(nn.Sequential(Block(), Block())), mg.randn(2, 6), mg.randn(7, 6))


def test_attention_from_functions():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x):
            n, t, _ = x.shape
            q, k, v = mg.split(self.project(x), 8, axis=-1)
            q, k, v = (mg.permute_dims(z.reshape(n, t, 2, 4), (0, 2, 1, 3)) for z in (q, k, v))
            causal = mg.asarray(np.tril(np.ones((t, t), bool)))
            scores = mg.where(causal, q @ k.mT / 2.0, -np.inf)
            y = mg.permute_dims(mg.softmax(scores) @ v, (0, 2, 1, 3))
            return self.out(y.reshape(n * t, 8)).reshape(n, t, 8).mean(axis=1)

    check(trained(Attention()), mg.randn(2, 5, 8), mg.randn(1, 5, 8), mg.randn(4, 5, 8))


# ------------------------------------------------------------------------------------- single steps
POOLED = {
    "max_pool2d": lambda x: nn.functional.max_pool2d(mg.relu(x), 2),
    "max_pool2d options": lambda x: nn.functional.max_pool2d(x, (3, 2), stride=2, padding=(1, 0)),
    "avg_pool2d": lambda x: nn.functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1),
    "adaptive_avg_pool2d": lambda x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
}


@pytest.mark.parametrize("name", POOLED)
def test_pooling_functions_become_nodes_of_their_layers(name):
    before = nn.functional.max_pool2d
    check(Function(POOLED[name]), mg.randn(2, 3, 6, 7), mg.randn(5, 3, 6, 7))
    assert nn.functional.max_pool2d is before


FUNCTIONS = {
    "conv1d": (lambda x: functional.conv1d(x[:, :, 0], mg.ones(4, 3, 3), padding="same"), "Conv"),
    "conv2d": (
        lambda x: functional.conv2d(x, mg.ones(4, 3, 3, 2), mg.ones(4), stride=(2, 1), padding=1),
        "Conv",
    ),
    "conv_transpose2d": (
        lambda x: functional.conv_transpose2d(x, mg.ones(3, 2, 3, 3), stride=2, output_padding=1),
        "ConvTranspose",
    ),
    "computed weight": (lambda x: functional.conv2d(x, mg.tanh(x[:1, :, :3, :3])), "Conv"),
    "layer_norm": (lambda x: functional.layer_norm(x, 7), "LayerNormalization"),
    "relu6": (lambda x: functional.relu6(3.0 * x), "Clip"),
    "pad": (lambda x: functional.pad(x, (1, 2, 0, 1), value=3.0), "Pad"),
    "pad by nothing": (lambda x: mg.pad(x, 0), "Pad"),
    "reflect": (lambda x: functional.pad(x, (1, 2, 0, 1), mode="reflect"), "Gather"),
    "mask": (lambda x: x[x > 0.3], "GatherND"),
    "mask of a sum": (lambda x: (2.0 * x)[x > 0.3].sum(), "GatherND"),
    "mask of rows": (lambda x: x[x[:, 0, 0, 0] > -9.0].mean(), "GatherND"),
    "remainder": (lambda x: mg.remainder(x, 0.7) + mg.remainder(x, -0.7) + 0.7 % x, "Mod"),
    "take_along_axis": (
        lambda x: mg.take_along_axis(x[0], mg.tensor([[[6, -1]] * 6] * 3), -1) + x.sum(),
        "GatherElements",
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_called_by_themselves(name):
    function, operator = FUNCTIONS[name]
    x = mg.randn(2, 3, 6, 7)
    assert operator in operators(check(Function(function), x, mg.randn(5, 3, 6, 7)))


def test_indices_that_are_an_input():
    x, index = mg.randn(2, 3, 4), mg.randint(-3, 3, size=(2, 5, 4))
    model = Function(lambda x, index: mg.take_along_axis(x * 2.0, index, 1))
    check(model, (x, index), (x[:1], index[:1]))
    model = Function(lambda x, index: (x * 2.0)[:, index])
    check(model, (x, mg.tensor([0, 2])), (-x, mg.tensor([1, 1])), dynamic_batch=False)
    with pytest.raises(ValueError, match=r"the index of getitem .*in which 'input_1'.* several"):
        exported(model, (x, mg.tensor([1, 1])), dynamic_batch=False)
    frozen = Function(lambda index: x[:, index])
    check(frozen, mg.tensor([1, 1]), mg.tensor([0, 2]), dynamic_batch=False)


UNARY = "abs ceil cos erf exp expm1 floor negative relu sigmoid sign sin softplus square tanh "
UNARY += "logsigmoid gelu silu tan sinh cosh atan round"
POSITIVE = "log log1p sqrt rsqrt reciprocal asin acos"


@pytest.mark.parametrize("name", [*UNARY.split(), *POSITIVE.split()])
def test_function_of_every_element(name):
    x = mg.rand(4, 3) * 0.8 + 0.1 if name in POSITIVE.split() else mg.randn(4, 3) * 3.0
    check(Function(getattr(mg, name)), x, x[:2])
    exported(Function(getattr(mg, name)), x.astype(mg.float64))  # onnxruntime has not all of them


BINARY = "add subtract multiply divide pow remainder maximum minimum less less_equal "
BINARY += "greater greater_equal equal not_equal"


@pytest.mark.parametrize("name", BINARY.split())
def test_function_of_two(name):
    function = getattr(mg, name)
    x, y = mg.rand(4, 3) + 0.5, mg.rand(3) + 0.5
    check(Function(function), (x, y), (x[:2], y))
    check(Function(lambda x: function(x, 2)), x, x[:1])
    check(Function(lambda x: function(0.75, x)), x, x[:1])
    check(Function(function), (x, y.astype(mg.float64)), (x[:1], y.astype(mg.float64)))
    if name != "pow":
        i, j = mg.tensor([[7, -7, 3]]), mg.tensor([[2, 2, -5]])
        check(Function(function), (i, j), dynamic_batch=False)
        check(Function(function), (i, x[:1]), dynamic_batch=False, tolerance=1e-4)


@pytest.mark.parametrize(
    "name", ["sum", "mean", "max", "min", "prod", "logsumexp", "var", "std", "norm"]
)
@pytest.mark.parametrize("axis", [-1, (1, 2), 1])
def test_reduction(name, axis):
    function = getattr(mg, name)
    x = mg.rand(4, 3, 2) + 0.5
    check(Function(lambda x: function(x, axis=axis)), x, x[:1])
    check(Function(lambda x: function(x, axis=axis, keepdims=True)), x, x[:1])


def test_reductions_over_the_batch():
    x = mg.randn(4, 3)
    for function in (mg.sum, mg.mean, mg.max, lambda x: mg.var(x, axis=0), mg.norm):
        check(Function(function), x, mg.randn(9, 3))
    unbiased = Function(lambda x: mg.var(x, axis=0, correction=1))
    check(unbiased, x, dynamic_batch=False)
    with pytest.raises(ValueError, match="depends on the size of the batch"):
        exported(unbiased, x)
    check(Function(lambda x: mg.var(x, axis=1, correction=1)), x, x[:1])


INDICES = {
    "int": np.s_[:, 1],
    "last": np.s_[:, -1],
    "slices": np.s_[:, 1:3, ::2],
    "from the end": np.s_[:, -3:-1],
    "reversed": np.s_[:, ::-1],
    "reversed from": np.s_[:, 2:0:-1, ::-2],
    "rows": np.s_[::-1],
    "ellipsis": np.s_[..., -1],
    "ellipsis between": np.s_[:, ..., 2:],
    "new axes": np.s_[:, None, 0, :, None],
    "all": np.s_[:],
    "numbers of NumPy": np.s_[:, np.int64(1), np.int32(-1)],
    "array": np.s_[:, np.array([2, 0, 0, -1])],
    "list": np.s_[:, [1, 1]],
    "array of rank 2": np.s_[:, :, np.array([[1, 0], [2, 3]])],
}


@pytest.mark.parametrize("name", INDICES)
def test_index(name):
    x = mg.randn(3, 4, 5)
    check(Function(lambda x: x[INDICES[name]]), x, x[:1], mg.randn(6, 4, 5))


SHAPES = {
    "flatten": lambda x: mg.flatten(x, 1),
    "flatten all": lambda x: mg.flatten(x),
    "rows": lambda x: mg.reshape(x, (-1, 4)),
    "rows doubled": lambda x: mg.reshape(x, (2 * x.shape[0], 2, 3)),
    "outer product of batches": lambda x: mg.broadcast_to(x[:, None, 0, 0], (x.shape[0],) * 2),
    "transpose": lambda x: x.T,
    "moveaxis": lambda x: mg.moveaxis(x, 0, 2),
    "expand_dims": lambda x: mg.expand_dims(x, (0, 2)),
    "broadcast": lambda x: mg.broadcast_to(x[:, :, :1], (2, *x.shape[:2], 5)),
    "tokens for each row": lambda x: mg.concat([mg.zeros(x.shape[0], 1, 4), x], axis=1),
    "state for each row": lambda x: mg.zeros(x.shape[0], 3, 4) + x,
    "stack": lambda x: mg.stack([x, x + 1.0, mg.ones_like(x)], axis=1),
    "flip": lambda x: mg.flip(x, 1),
    "clip": lambda x: mg.clip(x, -0.5, 0.5) + mg.clip(x, min=0.1) - mg.clip(x, max=0.2),
    "where": lambda x: mg.where(x > 0, x, 0.1 * x) + mg.where(x > 0, 1.0, 0.0),
    "log_softmax": lambda x: mg.log_softmax(x, axis=1),
    "softmax": lambda x: mg.softmax(x, axis=1),
    "dtypes": lambda x: (x.astype(mg.float64) * 2 + (x > 0)).astype(mg.float32),
    "matmul": lambda x: mg.ones(2, 3) @ x @ mg.ones(4, 5),
    "matmul with vectors": lambda x: mg.ones(3) @ x + (x @ mg.ones(4)).sum(),
    "detach": lambda x: x.detach() * 2.0 + x.clone(),
    "linear": lambda x: functional.linear(x, mg.ones(2, 4)),
    "batch statistics": lambda x: functional.batch_norm(x, None, None),
    "nothing": lambda x: x,
    "several": lambda x: (x, [x, {"a": x + 1.0, "b": mg.ones(2)}]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_follow_the_batch(name):
    x = mg.randn(2, 3, 4)
    model = Function(lambda x: list(tensors(SHAPES[name](x))))
    check(model, x, x[:1], mg.randn(5, 3, 4))
    check(model, x, dynamic_batch=False)


def tensors(tree):
    if isinstance(tree, mg.Tensor):
        yield tree
    else:
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors(branch)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 4)], ids=str)
def test_batch_norm(shape, options):
    layer = trained((nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3, **options))
    proto = check(layer, mg.randn(*shape), mg.randn(1, *shape[1:]))
    assert operators(proto) == ["BatchNormalization"]
    renorm = (nn.BatchRenorm2d if len(shape) == 4 else nn.BatchRenorm1d)(3, **options)
    for layer in (renorm, nn.GhostBatchNorm(3, 2, bias=False, **options)):
        proto = check(trained(layer), mg.randn(*shape), mg.randn(1, *shape[1:]))
        assert operators(proto) == ["BatchNormalization"]
    untracked = nn.BatchNorm1d(3, track_running_stats=False)
    if len(shape) < 4:
        check(untracked, mg.randn(*shape), mg.randn(7, *shape[1:]))


LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2), (2, 3, 9)),
    "Conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), groups=2),
        (2, 4, 6, 7),
    ),
    "Conv2d same": (lambda: nn.Conv2d(2, 3, (4, 3), padding="same", bias=False), (2, 2, 5, 6)),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 4, 5, 5),
    ),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, stride=2), (2, 3, 9)),
    "MaxPool2d": (lambda: nn.MaxPool2d((3, 2), stride=(2, 1), padding=1), (2, 3, 8, 8)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), (2, 3, 8)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, stride=2, padding=1), (2, 3, 8, 8)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 1)), (2, 3, 6, 5)),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), (5, 2, 3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 5, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), (2, 3, 5, 5)),
    "InstanceNorm1d tracked": (
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True, bias=False),
        (2, 3, 5),
    ),
    "LayerNorm without bias": (lambda: nn.LayerNorm(4, bias=False), (2, 3, 4)),
    "GroupNorm without bias": (lambda: nn.GroupNorm(2, 4, bias=False), (2, 4, 5)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (2, 3, 4)),
    "DynamicTanh": (lambda: nn.DynamicTanh((3, 1)), (2, 3, 4)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), (2, 3, 4, 4)),
    "Upsample bilinear": (lambda: nn.Upsample(scale_factor=1.5, mode="bilinear"), (2, 3, 4, 4)),
    "Upsample linear": (lambda: nn.Upsample(7, mode="linear", align_corners=True), (2, 3, 4)),
    **{
        f"{name}Pad2d": (
            lambda name=name: getattr(nn, f"{name}Pad2d")(
                (1, 2, 0, -1), *[0.5] * (name == "Constant")
            ),
            (2, 3, 4, 5),
        )
        for name in ("Constant", "Zero", "Reflection", "Replication", "Circular")
    },
    "Unflatten": (lambda: nn.Unflatten(1, (2, -1)), (2, 6, 3)),
    "Ensemble": (
        lambda: nn.Ensemble(
            lambda: nn.Sequential(
                nn.Linear(3, 4),
                nn.BatchNorm1d(4),
                nn.Tanh(),
                nn.LayerNorm(4),
                nn.Dropout(0.2),
                nn.Linear(4, 2, bias=False),
                nn.Softmax(dim=-1),
            ),
            2,
        ),
        (5, 3),
    ),
    "LSTM": (lambda: nn.LSTM(4, 3), (5, 2, 4)),
    "LSTM bidirectional": (
        lambda: nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True),
        (2, 5, 4),
    ),
    "LSTM without bias": (lambda: nn.LSTM(4, 3, bias=False), (5, 4)),
    "GRU": (lambda: nn.GRU(4, 3, 2, batch_first=True), (2, 5, 4)),
    "GRU bidirectional": (lambda: nn.GRU(4, 3, bidirectional=True), (5, 2, 4)),
    "RNN": (lambda: nn.RNN(4, 3, 2, nonlinearity="relu"), (5, 2, 4)),
    "RNN tanh": (lambda: nn.RNN(4, 3, bidirectional=True), (5, 2, 4)),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), (2, 4)),
    "GRUCell": (lambda: nn.GRUCell(4, 3), (2, 4)),
    "Hardtanh": (lambda: nn.Hardtanh(-0.5, 0.7), (3, 4)),
    "ReLU6": (lambda: nn.ReLU6(), (3, 4)),
    "Hardsigmoid": (lambda: nn.Hardsigmoid(), (3, 4)),
    "Hardswish": (lambda: nn.Hardswish(), (3, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1), (2, 4, 5)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), (2, 5, 8)),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True),
        (2, 5, 8),
    ),
}


def test_decoder():
    layer = nn.TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    model = Function(lambda layer, x, y: layer(x, y, tgt_is_causal=True), trained(layer))
    check(model, (mg.randn(2, 5, 8), mg.randn(2, 4, 8)), (mg.randn(3, 5, 8), mg.randn(3, 4, 8)))


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    build, shape = LAYERS[name]
    layer = trained(build())
    inputs = mg.randn(*shape)
    if name == "MultiheadAttention":
        layer = Function(lambda attention, x: attention(x, x, x, need_weights=False)[0], layer)
    axis = 0 if getattr(layer, "batch_first", True) else len(shape) - 2
    if name == "LSTM without bias":  # no batch, time is left open
        axis = 0
    larger = mg.randn(*(n + 3 * (d == axis) for d, n in enumerate(shape)))
    check(layer, inputs, larger, batch_axis=axis)
    check(layer, inputs, dynamic_batch=False)


def test_recurrent_layers_take_states():
    x, h, c = mg.randn(5, 2, 4), mg.randn(2, 2, 3), mg.randn(2, 2, 3)
    lstm = Function(lambda layer, x, h, c: layer(x, (h, c)), trained(nn.LSTM(4, 3, 2)))
    check(lstm, (x, h, c), (x[:, :1], h[:, :1], c[:, :1]), batch_axis=1)
    gru = Function(lambda layer, x, h: layer(x, h), trained(nn.GRU(4, 3, bidirectional=True)))
    check(gru, (x, h), (x[:, :1], h[:, :1]), batch_axis=1)


def test_embedding():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    check(model, mg.randint(7, size=(2, 3)), mg.randint(7, size=(5, 3)))


def test_rows_of_a_frozen_table():
    table = mg.randn(7, 4)
    check(
        Function(lambda i: table[i] * table.T[:, i][0, 0, 0]),
        mg.tensor([[1, 2], [6, 0]]),
        mg.tensor([[3, 3]]),
    )


# ------------------------------------------------------------------------------------------- names
def test_names_and_open_sizes():
    model = Function(lambda x, y: (x @ y, x.sum(axis=1)))
    proto = exported(
        model, (mg.ones(4, 3), mg.ones(3, 2)), input_names=["a", "b"], output_names=["c", "d"]
    )
    shapes = {
        row.name: [d.dim_param or d.dim_value for d in row.type.tensor_type.shape.dim]
        for row in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {"a": ["batch", 3], "b": [3, 2], "c": ["batch", 2], "d": ["batch"]}
    proto = exported(model, (mg.ones(4, 3), mg.ones(3, 2)), dynamic_batch=False)
    assert [row.name for row in proto.graph.input] == ["input_0", "input_1"]
    assert [row.name for row in proto.graph.output] == ["output_0", "output_1"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


def test_names_that_parameters_have_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Parameter([1.0, 2.0])
            self.input = nn.Parameter([3.0, 4.0])

        def forward(self, x):
            return x * self.output + self.input

    check(Net(), mg.randn(3, 2), mg.randn(1, 2))


def test_layers_used_twice_and_tied_weights():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    proto = check(model, mg.randn(2, 3), mg.randn(1, 3))
    assert [initializer.name for initializer in proto.graph.initializer] == ["0.weight", "0.bias"]


def test_outputs_of_every_kind():
    bias = nn.Parameter([1.0, 2.0])
    model = Function(lambda x: (x, x, bias, x + 0.0, mg.tensor([3])))
    check(model, mg.randn(2, 2), mg.randn(1, 2))


def test_a_layer_with_hooks():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].register_forward_pre_hook(lambda module, inputs: inputs[0] * 2.0)
    model[0].register_forward_hook(lambda module, inputs, output: output + inputs[0])
    check(trained(model), mg.randn(2, 3), mg.randn(1, 3))


def test_a_layer_with_a_wrapper_is_what_both_compute():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].register_forward_wrapper(lambda module, forward, x: forward(x) * 2.0)
    proto = check(trained(model), mg.randn(2, 3), mg.randn(1, 3))
    assert "BatchNormalization" not in operators(proto)


def test_subclasses_are_what_they_compute():
    class Plain(nn.BatchNorm1d):
        pass

    class Doubled(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x) * 2.0

    assert operators(check(trained(Plain(3)), mg.randn(2, 3))) == ["BatchNormalization"]
    assert "BatchNormalization" not in operators(check(trained(Doubled(3)), mg.randn(2, 3)))


# -------------------------------------------------------------------------------- the model is kept
def test_the_model_stays_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", mg.tensor(0.0))
            self.register_buffer("last", mg.zeros(1))
            self.inner = mlp()

        def forward(self, x):
            self.calls.fill_(self.calls.item() + 1.0)
            self.last = x.detach()
            self.seen = True
            return self.inner(x)

    model = Counting()
    model.inner[3].eval()
    modes = [module.training for module in model.modules()]
    members = [dict(vars(module)) for module in model.modules()]
    state = {name: tensor.numpy(copy=True) for name, tensor in model.state_dict().items()}
    exported(model, mg.randn(4, 5))
    assert [module.training for module in model.modules()] == modes
    for module, before in zip(model.modules(), members, strict=True):
        assert vars(module).keys() == before.keys()
        assert all(vars(module)[name] is value for name, value in before.items())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_stays_as_it_was_after_an_error():
    model = nn.Sequential(nn.Linear(3, 2), Function(lambda x: x / 0))
    model[1].function = None
    with pytest.raises(TypeError):
        exported(model, mg.ones(1, 3))
    assert all(module.training and "forward" not in vars(module) for module in model.modules())
    seen = []
    previous = mg._core.engine.graph.observe(lambda *step: seen.append(step[0]))
    try:
        exported(nn.Linear(3, 2), mg.ones(1, 3))
        assert "linear" not in seen
        mg.ones(1) + 1.0
        assert seen[-1] == "add"
    finally:
        mg._core.engine.graph.observe(previous)


def test_dropout_is_off_and_the_generator_untouched():
    mg.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    mg.manual_seed(1)
    expected = mg.rand(3).tolist()
    example = mg.ones(1, 3)
    mg.manual_seed(1)
    assert operators(exported(model, example)) == ["Gemm"]
    assert mg.rand(3).tolist() == expected


# ---------------------------------------------------------------------------------------- refusals
class Table(nn.Module):
    def forward(self, x):
        return ops.put(x[:2], np.array([0, 1]), (3, x.shape[1]))


REFUSED = {
    "primitive": (
        nn.Sequential(nn.ReLU(), nn.Sequential(Table())),
        NotImplementedError,
        r"'1\.0' \(Table\): the primitive 'put' has no translation; supported are the layers .*"
        r"BatchNorm1d, .*primitives .*matmul",
    ),
    "argmax": (Function(lambda x: mg.argmax(x, axis=1) * 2), ValueError, "operand of multiply"),
    "mask of NumPy": (
        Function(lambda x: mg.where(mg.isfinite(mg.log(x - 1.0)), x, 0.0)),
        ValueError,
        "operand of where, of shape .* depends on the data but was made by no operation",
    ),
    "number": (Function(lambda x: x * x.sum().item()), ValueError, "a number that enters multiply"),
    "index": (
        Function(lambda x: x[:, : x.shape[0] - 1].sum(axis=1)),
        ValueError,
        "index of getitem was",
    ),
    "branch": (
        Function(lambda x: x + 1.0 if x.shape[0] == 2 else x * 1.0),
        ValueError,
        "add runs here, but on other data the model takes another branch",
    ),
    "length": (
        Function(lambda x: sum([x] * x.shape[0])),
        ValueError,
        "takes another branch",
    ),
    "random": (Function(lambda x: x + mg.rand(2)), ValueError, "operand of add"),
    "mask": (
        Function(lambda x: x[np.array([[True, False]] * len(x))]),
        NotImplementedError,
        "indexing with arrays supports only integers",
    ),
    "rank": (
        Function(lambda x: x.reshape((1,) * x.shape[0] + (-1,))),
        ValueError,
        "gives the rank",
    ),
    "size": (
        Function(lambda x: mg.broadcast_to(x[:1, :1], (x.shape[0] + 1, 2))),
        ValueError,
        "a size in broadcast_to is 3, but 4 on other data",
    ),
    "mask that is mostly empty": (
        Function(lambda x: mg.where(mg.isinf(x * x > 4.0) | (x > 3.0), x, 2.0 * x)),
        ValueError,
        "operand of where",
    ),
    "hidden write": (
        Function(lambda x: written(x.detach() * 1.0)),
        ValueError,
        "output 'output' of the graph differs from the model",
    ),
    "NumPy": (
        Function(lambda x: mg.asarray(x.numpy() * 2.0)),
        ValueError,
        "operand of the output, of shape",
    ),
    "windows of two": (
        Function(lambda x: functional.max_pool1d(x[:, None], 2, return_indices=True)[0]),
        NotImplementedError,
        "return_indices=True is not supported",
    ),
    "no output": (Function(lambda x: None), ValueError, "must return the same number of Tensors"),
}


def written(y):
    y.zero_()
    return y + 1.0


EXTREME = mg.tensor([[0.0, -120.0, 3.0], [1e4, -1e4, 90.0], [-90.0, 88.0, -104.0]])
INFINITE = mg.tensor([[0.0, -np.inf, 1.0], [np.inf, 2, 3], [-np.inf] * 3, [np.nan, 1, 2]])
STEEP = {
    name: Function(function)
    for name, function in {
        "log_softmax": lambda x: mg.log_softmax(x, 1),
        "softmax": lambda x: mg.softmax(x, 0),
        "logsumexp": lambda x: mg.logsumexp(x, 1),
        "logsigmoid": mg.logsigmoid,
        "softplus": mg.softplus,
        "sigmoid": mg.sigmoid,
        "erf": mg.erf,
        "gelu": mg.gelu,
        "silu": mg.silu,
        "mish": nn.functional.mish,
        "tanh": mg.tanh,
        "norm": lambda x: mg.norm(x, axis=1),
        "var": lambda x: x.var(1),
    }.items()
}


@pytest.mark.parametrize("engine", ["both", "reference"])
@pytest.mark.parametrize("example", [EXTREME, EXTREME.astype(mg.float64), INFINITE])
@pytest.mark.parametrize("name", STEEP)
def test_no_evaluator_is_taken_at_its_word_where_it_underflows(monkeypatch, name, example, engine):
    if engine == "reference":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    exported(STEEP[name], example)


def test_a_difference_is_shown_and_nobody_blamed(monkeypatch):
    pytest.importorskip("onnxruntime")
    model, *_ = REFUSED["hidden write"]
    message = (
        r"computes 3 at index \(0, 0\), the model 1\. Either the model runs code that minigrad "
        r"does not record .*, or the evaluator is inaccurate here: then pass verify=False"
    )
    for engine in ("onnxruntime", "ONNX's reference evaluator"):
        with pytest.raises(ValueError, match=f"{engine} {message}"):
            exported(model, mg.ones(2, 2) * 2.0)
        monkeypatch.setitem(sys.modules, "onnxruntime", None)


def test_what_nothing_evaluates_cannot_be_verified(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("out of order")

    monkeypatch.setattr("minigrad.onnx.verify.ENGINES", {"the one": broken, "the other": broken})
    message = r"cannot be verified \(the one: out of order; the other: out of order\)"
    with pytest.raises(ValueError, match=message):
        exported(nn.ReLU(), mg.ones(2, 2))


def test_without_verification_the_file_is_written_all_the_same():
    model, *_ = REFUSED["hidden write"]
    assert operators(exported(model, mg.ones(2, 2), verify=False)) == ["Mul", "Add"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_says_so_and_writes_nothing(tmp_path, name):
    model, kind, message = REFUSED[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    with pytest.raises(kind, match=f"(?s)onnx.export: .*{message}"):
        mg.onnx.export(model, mg.rand(2, 2) + 0.6, path)
    assert os.listdir(tmp_path) == ["net.onnx"] and path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "arguments, options, kind, message",
    [
        ((abs, mg.ones(1)), {}, TypeError, "expected a Module, got builtin_function"),
        ((nn.ReLU(), [[1.0]]), {}, TypeError, "must be a Tensor or a tuple of Tensors"),
        ((nn.ReLU(), ()), {}, TypeError, "must be a Tensor or a tuple of Tensors"),
        ((nn.ReLU(), mg.ones(1)), {"opset": 17}, ValueError, "opset must be 18 to .*, got 17"),
        ((nn.ReLU(), mg.ones(1)), {"opset": 999}, ValueError, "opset must be 18 to .*, got 999"),
        ((nn.ReLU(), mg.ones(1)), {"opset": "18"}, TypeError, "opset must be an int, got '18'"),
        ((nn.ReLU(), mg.ones(1)), {"opset": True}, TypeError, "opset must be an int, got True"),
        ((nn.ReLU(), mg.ones(())), {}, ValueError, r"shape \(\) has no row along axis 0"),
        ((nn.ReLU(), mg.ones(0, 2)), {}, ValueError, "has no row along axis 0"),
        ((nn.ReLU(), mg.ones(1)), {"batch_axis": 1}, ValueError, "has no row along axis 1"),
        ((nn.ReLU(), mg.ones(1)), {"batch_axis": -1}, ValueError, "has no row along axis -1"),
        ((nn.ReLU(), mg.ones(1)), {"input_names": "x"}, TypeError, "must be a list of names"),
        ((nn.ReLU(), mg.ones(1)), {"input_names": [""]}, TypeError, "must be a list of names"),
        ((nn.ReLU(), mg.ones(1)), {"input_names": ["a", "b"]}, ValueError, "expected 1 different"),
        ((nn.ReLU(), mg.ones(1)), {"output_names": []}, ValueError, "expected 1 different"),
        ((nn.ReLU(), mg.ones(1)), {"output_names": ["input"]}, ValueError, "with other names"),
    ],
)
def test_bad_arguments(arguments, options, kind, message):
    file = io.BytesIO()
    with pytest.raises(kind, match=f"onnx.export: .*{message}"):
        mg.onnx.export(*arguments, file, **options)
    assert not file.getvalue()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"onnx.export: the folder .*nowhere"):
        mg.onnx.export(nn.ReLU(), mg.ones(1), tmp_path / "nowhere" / "net.onnx")


def test_without_the_package_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install minigrad-cython\[onnx\]"):
        mg.onnx.export(nn.ReLU(), mg.ones(1), tmp_path / "net.onnx")
    assert os.listdir(tmp_path) == []


def test_import_minigrad_loads_neither_onnx_nor_safetensors():
    program = "import sys, minigrad; print({'onnx', 'safetensors', 'onnxruntime'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


def test_the_table_names_only_what_there_is():
    layers, functions = mg.onnx.supported()
    assert set(layers) >= {"BatchNorm1d", "BatchNorm2d", "Softmax"}
    assert {"linear", "matmul", "reshape"} <= set(functions) <= set(primitives())
    assert all(hasattr(nn, name) for name in layers)


LOGITS = mg.tensor([[0.5, -2.0, 3.0], [1.0, 0.0, -30.0], [2.0, 2.0, 40.0]])
SHARES = mg.tensor([[0.0, 1.0, 0.0], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
LOSSES = {
    "bce_with_logits": functional.binary_cross_entropy_with_logits,
    "cross_entropy": functional.cross_entropy,
    "smoothed": partial(functional.cross_entropy, label_smoothing=0.1),
    "kl_div": lambda x, q, **options: functional.kl_div(mg.log_softmax(x, 1), q, **options),
    "cosine_embedding": lambda x, y, **options: functional.cosine_embedding_loss(
        x, y, mg.sign(mg.sum(y * 0.0 + 1.0, axis=1)), **options
    ),
}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_targets_that_are_inputs(name, reduction):
    loss = Function(partial(LOSSES[name], reduction=reduction))
    check(loss, (LOGITS, SHARES), (LOGITS[:2], SHARES[1:]))


def test_weights_of_zero_hide_infinite_losses():
    loss = Function(lambda x, q: functional.cross_entropy(x, q, reduction="none"))
    x = mg.tensor([[0.0, -np.inf, 1.0], [2.0, 1.0, -np.inf], [0.0, 1.0, 2.0]])
    q = mg.tensor([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    check(loss, (x, q), (x[:2], q[:2]))


SCALES = [mg.zeros(2, 3), mg.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]])]
SCALES += [mg.tensor([[1e25, 2e25, -3e25], [1e-25, 0.0, 0.0]]), mg.ones(1, 3)]
NORMS = {
    "norm": lambda x: mg.norm(x, axis=1),
    "norm of order 3": lambda x: mg.norm(x, axis=1, ord=3),
    "std": lambda x: mg.std(x, axis=1),
    "normalize": lambda x: functional.normalize(mg.relu(x)),
    "cosine_similarity": lambda x: functional.cosine_similarity(x, x + 1.0),
}


@pytest.mark.parametrize("example", SCALES)
@pytest.mark.parametrize("name", NORMS)
def test_norms_whatever_the_size_of_the_example(name, example):
    large = mg.tensor([[1e25, 2e25, -3e25]])
    check(Function(NORMS[name]), example, mg.randn(5, 3), mg.zeros(1, 3), large)


def test_nothing_is_written_that_no_output_needs():
    def function(x):
        mg.exp(x * 7.0)
        return x + 1.0

    proto = exported(Function(function), mg.randn(2, 3))
    assert operators(proto) == ["Add"] and len(proto.graph.initializer) == 1


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("widths", [(-1, 2), (2, -1), (-1, -1)])
def test_padding_that_crops(mode, widths):
    x = mg.randn(3, 2, 6)
    check(Function(lambda x: functional.pad(x, widths, mode)), x, x[:1])


CEILED = {  # windows that start after the input are dropped, for each way to have a last one
    "dropped": (lambda: nn.MaxPool1d(3, 4, 1, ceil_mode=True), (2, 3, 10)),
    "kept": (lambda: nn.MaxPool1d(3, 4, 1, ceil_mode=True), (2, 3, 12)),
    "average": (lambda: nn.AvgPool1d(3, 4, 1, ceil_mode=True), (2, 3, 10)),
    "dilated": (lambda: nn.MaxPool1d(2, 5, 1, dilation=2, ceil_mode=True), (2, 3, 10)),
    "both axes": (lambda: nn.MaxPool2d(3, (4, 2), 1, ceil_mode=True), (2, 3, 10, 7)),
}


@pytest.mark.parametrize("name", CEILED)
def test_pooling_rounded_up(name):
    make, shape = CEILED[name]
    x = mg.randn(*shape)
    check(make(), x, x[:1])


def test_pooling_rounded_up_in_one_axis_and_not_in_the_other():
    net = nn.MaxPool2d(3, (4, 2), 1, ceil_mode=True)
    with pytest.raises(NotImplementedError, match="a last window is dropped along one axis"):
        exported(net, mg.randn(1, 2, 10, 8))
