"""Checkpoints and memory exchanged between minigrad, PyTorch and JAX."""

from __future__ import annotations

import io

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

torch = pytest.importorskip("torch")

from peers import close, pair, peer, random_array  # noqa: E402


def exists(*names):
    return pytest.mark.skipif(
        not all(hasattr(nn, name) for name in names), reason=f"{names} are not there yet"
    )


@pytest.fixture(autouse=True)
def seeds():
    torch.manual_seed(0)
    mg.manual_seed(0)


def mlp(n):
    return n.Sequential(
        n.Linear(6, 16), n.BatchNorm1d(16), n.ReLU(), n.Linear(16, 4, bias=False), n.Softmax(dim=1)
    )


def cnn(n):
    return n.Sequential(
        n.Conv2d(2, 4, 3, padding=1),
        n.BatchNorm2d(4),
        n.ReLU(),
        n.MaxPool2d(2),
        n.Flatten(),
        n.Linear(36, 3),
    )


def lstm(n):
    return n.LSTM(5, 4, num_layers=2, batch_first=True, bidirectional=True)


NETS = [
    pytest.param(mlp, (7, 6), id="MLP"),
    pytest.param(cnn, (2, 2, 6, 6), id="CNN", marks=exists("Conv2d", "MaxPool2d")),
    pytest.param(lstm, (2, 3, 5), id="LSTM", marks=exists("LSTM")),
]


def save_npz(state, path):
    np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})


def save_safetensors(state, path):
    pytest.importorskip("safetensors.torch").save_file(state, path, metadata={"format": "pt"})


WRITERS = {"npz": save_npz, "safetensors": save_safetensors, "pt": torch.save}


def same_outputs(ours, theirs, shape):
    x = random_array(shape, "float32", seed=5)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(x))
    given = ours.eval()(mg.tensor(x))
    if isinstance(given, tuple):
        given, expected = given[0], expected[0]
    # 1e-5 of the largest output: the CNN's are about 50, where float32 resolves 4e-6
    scale = max(1.0, float(expected.abs().max()))
    assert np.abs(given.numpy() - expected.numpy()).max() < 1e-5 * scale


@peer("load")
@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("build, shape", NETS)
def test_a_checkpoint_of_pytorch(tmp_path, build, shape, suffix):
    _, theirs = pair(build, "float32")
    WRITERS[suffix](theirs.state_dict(), tmp_path / f"net.{suffix}")
    ours = build(nn)
    loaded = mg.load(tmp_path / f"net.{suffix}")
    assert set(loaded) == set(theirs.state_dict())
    ours.load_state_dict(loaded)
    same_outputs(ours, theirs, shape)


@peer("save")
@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
@pytest.mark.parametrize("build, shape", NETS)
def test_a_checkpoint_for_pytorch(tmp_path, build, shape, suffix):
    ours, _ = pair(build, "float32")
    path = tmp_path / f"net.{suffix}"
    if suffix == "safetensors":
        library = pytest.importorskip("safetensors.torch")
        mg.save(ours.state_dict(), path)
        state = library.load_file(path)
    elif suffix == "pt":
        mg.save(ours.state_dict(), path)
        state = torch.load(path, weights_only=True)
    else:
        mg.save(ours.state_dict(), path)
        state = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    theirs = build(torch.nn)
    theirs.load_state_dict(state)
    same_outputs(ours, theirs, shape)


@pytest.mark.parametrize("mmap", [False, True])
def test_whatever_mg_save_writes_into_a_checkpoint(tmp_path, mmap):
    random = np.random.default_rng(0)
    arrays = [
        random.integers(0, 2, shape).astype(dtype)
        for shape in [(), (3,), (2, 0, 3), (4, 5)]
        for dtype in ("float32", "float64", "int32", "int64", "bool")
    ]
    state = {
        "arrays": arrays,
        "strided": mg.tensor(random.normal(size=(3, 4))).T[::-1],
        "optimizer": {"state": {0: {"step": 3, "exp_avg": mg.ones(2)}}, "betas": (0.9, 0.999)},
        "numbers": [1, -1, 2**80, 0.1, float("inf"), True, None, "ü", ()],
    }
    mg.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True, mmap=mmap)
    for array, tensor in zip(arrays, loaded["arrays"], strict=True):
        assert str(tensor.dtype) == f"torch.{array.dtype}" and not tensor.requires_grad
        np.testing.assert_array_equal(tensor.numpy(), array)
    np.testing.assert_array_equal(loaded["strided"].numpy(), state["strided"].numpy())
    assert loaded["numbers"] == state["numbers"] and loaded["optimizer"]["betas"] == (0.9, 0.999)
    assert loaded["optimizer"]["state"][0]["exp_avg"].tolist() == [1, 1]
    tensor = loaded["arrays"][0].clone()
    assert tensor.add_(1) is tensor


@peer("nn.Module.load_state_dict")
@pytest.mark.parametrize("build, shape", NETS)
def test_state_dicts_are_taken_by_each_other(build, shape):
    _, theirs = pair(build, "float32")
    ours = build(nn)
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    ours.load_state_dict(torch.load(file))
    same_outputs(ours, theirs, shape)
    another = build(torch.nn)
    another.load_state_dict({k: torch.from_dlpack(v) for k, v in ours.state_dict().items()})
    same_outputs(ours, another, shape)


def test_precisions_of_pytorch_in_a_state_dict():
    theirs = torch.nn.Linear(3, 2)
    for convert in ("double", "half"):
        ours = nn.Linear(3, 2)
        state = getattr(theirs, convert)().state_dict()
        ours.load_state_dict(state)
        close(ours.weight, state["weight"].float(), "float32")
    ours = nn.Linear(3, 2)
    before = ours.weight.numpy(copy=True)
    state = {"weight": theirs.float().weight.bfloat16().detach(), "bias": theirs.bias}
    with pytest.raises(
        RuntimeError, match=r"(?s)weight: cannot be converted to an array: .*BFloat16.*bias: "
    ):
        ours.load_state_dict(state)
    np.testing.assert_array_equal(ours.weight.numpy(), before)


def test_whatever_torch_save_writes(tmp_path):
    path = tmp_path / "all.pt"
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    model = mlp(torch.nn)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(torch.ones(3, 6)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 7,
        "loss": 0.25,
        "name": "ü",
        "views": [base, base.T, base[1:, ::2], base[0].expand(5, 4), base[0, 0]],
        "parameter": model[0].weight,
        "dtypes": tuple(
            torch.tensor([0, 1, 3]).to(dtype)
            for dtype in (torch.float64, torch.int32, torch.int64, torch.bool)
        ),
        "halves": [torch.tensor([0.1, -70000.0]).half(), torch.tensor([0.1, 1e38]).bfloat16()],
        "empty": torch.zeros(0, 3),
        "shape": base.shape,
    }
    torch.save(state, path)
    check_same(mg.load(path), torch.load(path, weights_only=True))


def check_same(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach()
        if theirs.dtype in (torch.float16, torch.bfloat16):
            theirs = theirs.float()
        assert str(ours.dtype) == str(theirs.dtype)[6:]
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            check_same(ours[key], value)
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs) and isinstance(ours, (list, tuple))
        for a, b in zip(ours, theirs, strict=True):
            check_same(a, b)
    else:
        assert ours == theirs and type(ours) is type(theirs)


def test_a_whole_model_is_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(2, 1), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear, which is refused"):
        mg.load(tmp_path / "net.pt")
    torch.save({"x": torch.zeros(2, dtype=torch.uint8)}, tmp_path / "bytes.pt")
    with pytest.raises(ValueError, match=r"torch\.ByteStorage, which is refused"):
        mg.load(tmp_path / "bytes.pt")
    torch.save({"x": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"torch\.save wrote before version 1\.6"):
        mg.load(tmp_path / "old.pt")


def test_half_precision_of_safetensors(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    state = {
        "half": torch.randn(50).half(),
        "brain": torch.randn(50).bfloat16(),
        "flags": torch.tensor([True, False]),
    }
    library.save_file(state, tmp_path / "f.safetensors")
    loaded = mg.load(tmp_path / "f.safetensors")
    for name, tensor in state.items():
        expected = tensor.float() if tensor.is_floating_point() else tensor
        np.testing.assert_array_equal(loaded[name].numpy(), expected.numpy())


# ------------------------------------------------------------------------------------------ memory
@peer("from_dlpack")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_dlpack_both_ways_without_a_copy(dtype):
    theirs = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    ours = mg.from_dlpack(theirs.T)
    assert np.asarray(ours).ctypes.data == theirs.data_ptr() and ours.shape == (3, 2)
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr() and back.stride() == theirs.T.stride()
    theirs[0, 0] = 1
    ours[1, 1] = mg.tensor(0, dtype=dtype)
    assert back[0, 0] == 1 and theirs[1, 1] == 0


def test_dlpack_with_jax():
    jax = pytest.importorskip("jax")
    theirs = jax.numpy.arange(6.0, dtype=jax.numpy.float32)
    ours = mg.from_dlpack(theirs)
    assert np.asarray(ours).ctypes.data == theirs.unsafe_buffer_pointer()
    with pytest.raises(ValueError, match="read-only"):
        ours.fill_(1.0)
    back = jax.dlpack.from_dlpack(mg.ones(256))  # 64-byte alignment lets JAX share
    np.testing.assert_array_equal(np.asarray(back), np.ones(256))


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda: torch.zeros(2).bfloat16(), TypeError, "Unsupported dtype"),
        (lambda: torch.zeros(2).half(), TypeError, "float16 is not supported"),
        (lambda: torch.zeros(2, requires_grad=True), BufferError, "requires? grad"),
        (lambda: torch.zeros(2, device="meta"), BufferError, "device|meta"),
    ],
)
def test_dlpack_of_what_we_do_not_have(make, kind, message):
    with pytest.raises(kind, match=f"from_dlpack: .*({message})"):
        mg.from_dlpack(make())


def test_pytorch_takes_no_tensor_that_requires_grad():
    with pytest.raises(BufferError, match="requires grad"):
        torch.from_dlpack(mg.ones(2, requires_grad=True))


def test_gradients_through_both_libraries():
    """Forward in PyTorch with one of our layers in the middle: cotangents share memory."""
    x = torch.randn(4, 3, requires_grad=True)
    layer = nn.Linear(3, 2)
    hidden = torch.tanh(x)
    ours = mg.from_dlpack(hidden.detach()).requires_grad_()
    y = layer(ours)
    y.backward(mg.ones(4, 2))
    hidden.backward(torch.from_dlpack(ours.grad))
    weight = torch.from_dlpack(layer.weight.detach())
    expected = torch.autograd.grad(
        (torch.tanh(x) @ weight.T + torch.from_dlpack(layer.bias.detach())).sum(), x
    )[0]
    torch.testing.assert_close(x.grad, expected)
