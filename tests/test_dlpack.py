"""Memory shared with other libraries: DLPack both ways, np.asarray, and what each may write."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg

DTYPES = ["float32", "float64", "int32", "int64", "bool"]


def address(x):
    return np.asarray(x).ctypes.data


class Foreign:
    """An array of another library with only DLPack. `device` is the type in dlpack.h."""

    def __init__(self, array, device=1):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device, 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)], ids=str)
def test_from_dlpack_shares_memory(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    tensor = mg.from_dlpack(Foreign(array))
    assert type(tensor) is mg.Tensor and not tensor.requires_grad
    assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
    assert address(tensor) == array.ctypes.data
    np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)], ids=str)
def test_numpy_takes_our_memory(dtype, shape):
    tensor = mg.zeros(*shape, dtype=dtype) if shape else mg.tensor(0, dtype=dtype)
    array = np.from_dlpack(tensor)
    assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
    assert array.ctypes.data == address(tensor)
    assert tensor.__dlpack_device__() == (1, 0)


@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[::-1, 1:], lambda x: x[:, 1]])
def test_strides_are_kept(view):
    array = np.arange(12.0).reshape(3, 4)
    tensor = mg.from_dlpack(Foreign(view(array)))
    assert np.shares_memory(np.asarray(tensor), array)
    np.testing.assert_array_equal(tensor.numpy(), view(array))
    theirs = np.from_dlpack(view(mg.asarray(array)))
    assert np.shares_memory(theirs, array)
    np.testing.assert_array_equal(theirs, view(array))


def test_each_sees_what_the_other_writes():
    array = np.zeros(3)
    tensor = mg.from_dlpack(Foreign(array))
    array[0] = 1.0
    tensor[1] = 2.0
    assert tensor.tolist() == array.tolist() == [1.0, 2.0, 0.0]
    copied = mg.from_dlpack(Foreign(array), copy=True)
    array[0] = 5.0
    assert copied.tolist() == [1.0, 2.0, 0.0]


def test_read_only_memory_stays_read_only():
    array = np.zeros(3)
    array.flags.writeable = False
    tensor = mg.from_dlpack(Foreign(array))
    with pytest.raises(ValueError, match="memory is read-only"):
        tensor.fill_(1.0)
    parameter = mg.nn.Parameter(tensor)  # optimisers write to it: a copy
    parameter.detach().fill_(1.0)
    assert array.tolist() == [0.0, 0.0, 0.0]


def test_the_memory_outlives_its_owner():
    tensor = mg.from_dlpack(Foreign(np.arange(1000.0)))
    array = np.from_dlpack(mg.arange(1000) * 2)
    for _ in range(100):
        np.ones(1000)
        mg.ones(1000)
    assert tensor.sum().item() == 499500.0 and array.sum() == 999000


def test_gradients_flow_from_shared_memory():
    array = np.array([1.0, 2.0])
    x = mg.from_dlpack(Foreign(array)).requires_grad_()
    (x * x).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_a_tensor_shares_its_version():
    x = mg.ones(2, requires_grad=True)
    y = x * 1.0
    z = (y * y).sum()
    shared = mg.from_dlpack(y)
    assert not shared.requires_grad and address(shared) == address(y)
    shared.fill_(3.0)
    with pytest.raises(RuntimeError, match="multiply"):
        z.backward()
    copied = mg.from_dlpack(y, copy=True)
    assert address(copied) != address(y) and not copied.requires_grad


def test_a_write_elsewhere_does_not_change_gradients():
    """As documented: the write is not counted, but the graph saved a copy."""
    array = np.array([1.0, 2.0])
    y = mg.from_dlpack(Foreign(array))
    x = mg.ones(2, dtype=mg.float64, requires_grad=True)
    z = (x * y).sum()
    array[:] = 7.0
    assert y._version == 0
    z.backward()
    assert x.grad.tolist() == [1.0, 2.0] and y.tolist() == [7.0, 7.0]


def test_a_tensor_that_requires_grad_is_not_given_away():
    x = mg.ones(2, requires_grad=True)
    for tensor in (x, x * 2.0):
        with pytest.raises(BufferError, match=r"requires grad, .* use x\.detach\(\)"):
            np.from_dlpack(tensor)
        assert np.from_dlpack(tensor.detach()).shape == (2,)


@pytest.mark.parametrize(
    "value, kind, message",
    [
        ([1.0], TypeError, r"expected an object with __dlpack__, got list; .* use mg\.tensor"),
        (3, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
        (Foreign(np.zeros(2, np.float16)), TypeError, "dtype float16 is not supported"),
        (Foreign(np.zeros(2, np.complex64)), TypeError, "dtype complex64 is not supported"),
        (Foreign(np.zeros(2, np.uint8)), TypeError, "dtype uint8 is not supported"),
        (Foreign(np.zeros(2), device=2), BufferError, r"device type 2 .* x\.cpu\(\)"),
        (Foreign(np.array(["a"])), BufferError, "DLPack only supports"),
    ],
)
def test_what_cannot_be_shared(value, kind, message):
    with pytest.raises(kind, match=f"from_dlpack: .*{message}"):
        mg.from_dlpack(value)


def test_asarray_of_numpy():
    x = mg.ones(2, 3, requires_grad=True)
    view = np.asarray(x)
    assert view.ctypes.data == x._array.ctypes.data and not view.flags.writeable
    assert np.array(x).flags.writeable and np.asarray(x, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(x, np.float64, copy=False)


class ForeignArray(Foreign):
    """With `__array__`, as in PyTorch and JAX; it raises for dtypes that NumPy lacks."""

    def __array__(self, dtype=None, copy=None):
        if self.device != 1:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.array


def test_load_state_dict_takes_the_tensors_of_other_libraries():
    layer = mg.nn.Linear(2, 1)
    weight, bias = np.array([[0.5, 2.0]], np.float16), np.array([3.0])
    layer.load_state_dict({"weight": ForeignArray(weight), "bias": ForeignArray(bias)})
    assert layer.weight.tolist() == [[0.5, 2.0]] and layer.bias.tolist() == [3.0]
    layer.load_state_dict({"weight": 2 * weight, "bias": bias})
    assert layer.weight.dtype == mg.float32 and layer.weight.tolist() == [[1.0, 4.0]]
    message = r"(?s)weight: cannot be converted .*: can't convert cuda.*bias: expected shape \(1,\)"
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict({"weight": ForeignArray(weight, 2), "bias": np.zeros(2)})
    assert layer.weight.tolist() == [[1.0, 4.0]]
