"""Module: members, modes, state, copies, containers, text."""

from __future__ import annotations

import copy
import operator
import pickle
import re
import sys
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter([2.0])
        self.register_buffer("offset", mg.tensor([1.0]))
        self.register_buffer("scratch", mg.zeros(2), persistent=False)

    def forward(self, x):
        return self.norm(self.first(x)) * self.scale + self.offset


def names(pairs):
    return [name for name, _ in pairs]


def snapshot(module):
    return {name: value.numpy(copy=True) for name, value in module.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


# ---------------------------------------------------------------------------------- Parameter
def test_parameter_is_a_leaf_that_requires_grad():
    parameter = nn.Parameter(mg.ones(2))
    assert parameter.requires_grad and parameter.is_leaf and isinstance(parameter, mg.Tensor)
    assert not nn.Parameter(mg.ones(2), requires_grad=False).requires_grad


def test_operations_on_a_parameter_give_plain_tensors():
    parameter = nn.Parameter([1.0, 2.0])
    for result in (parameter * 2, parameter.detach(), parameter[0], parameter.T, mg.exp(parameter)):
        assert type(result) is mg.Tensor
    (parameter * 3).sum().backward()
    assert type(parameter.grad) is mg.Tensor and parameter.grad.tolist() == [3.0, 3.0]


def test_parameter_dtypes():
    assert nn.Parameter([1.0]).dtype == mg.float32
    assert nn.Parameter(np.ones(2)).dtype == mg.float64
    with pytest.raises(RuntimeError, match="float32 and float64"):
        nn.Parameter(mg.tensor([1, 2]))


def test_parameter_made_from_a_tensor_shares_its_version():
    data = mg.ones(2)
    parameter = nn.Parameter(data)
    y = (parameter * parameter).sum()
    data[0] = 7.0
    assert parameter[0].item() == 7.0
    with pytest.raises(RuntimeError, match="multiply"):
        y.backward()
    assert parameter.grad is None


def test_parameter_is_writable_whatever_it_is_made_from():
    read_only = np.ones(2, np.float32)
    read_only.flags.writeable = False
    for data in (read_only, mg.ones(2), mg.broadcast_to(mg.ones(1), (2,)), mg.ones(2).numpy()):
        parameter = nn.Parameter(data)
        with mg.no_grad():
            parameter += 1
        assert parameter.tolist() == [2.0, 2.0]


# ------------------------------------------------------------------------------------ members
def test_named_members_in_order():
    net = Net()
    assert names(net.named_parameters()) == [
        "scale",
        "first.weight",
        "first.bias",
        "norm.weight",
        "norm.bias",
    ]
    assert names(net.named_buffers()) == [
        "offset",
        "scratch",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    assert names(net.named_modules()) == ["", "first", "norm"]
    assert names(net.named_children()) == ["first", "norm"]
    assert list(net.children()) == [net.first, net.norm]
    assert list(net.modules()) == [net, net.first, net.norm]
    assert len(list(net.parameters())) == 5 and len(list(net.buffers())) == 5
    assert names(net.named_parameters(prefix="net", recurse=False)) == ["net.scale"]


def test_attributes_cost_no_getattr():
    net = Net()
    assert not hasattr(nn.Module, "__getattr__")
    assert {"first", "norm", "scale", "offset"} <= vars(net).keys()


def test_shared_parameters_are_listed_and_counted_once():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    net = nn.Sequential(a, b, a)
    assert names(net.named_parameters()) == ["0.weight", "0.bias", "1.bias"]
    assert names(net.named_modules()) == ["", "0", "1"]
    assert repr(net).endswith("15 parameters")
    assert len(net.state_dict()) == 6


def test_none_is_not_listed_but_keeps_the_name():
    layer = nn.Linear(2, 3, bias=False)
    assert layer.bias is None and names(layer.named_parameters()) == ["weight"]
    layer.bias = nn.Parameter(mg.zeros(3))
    assert names(layer.named_parameters()) == ["weight", "bias"]
    layer.bias = None
    assert names(layer.named_parameters()) == ["weight"]
    assert list(layer.state_dict()) == ["weight"]


def test_reassignment_changes_what_is_listed():
    net = Net()
    net.offset = mg.tensor([5.0])
    assert net.state_dict()["offset"].tolist() == [5.0]
    net.first = nn.Identity()
    assert "first.weight" not in net.state_dict()
    net.scale = nn.Linear(1, 1)
    assert names(net.named_parameters(recurse=False)) == []
    del net.scale
    assert "scale" not in names(net.named_modules()) and not hasattr(net, "scale")


def test_assignment_of_the_wrong_kind_raises_and_keeps_the_member():
    net = Net()
    before = net.scale
    with pytest.raises(TypeError, match=r"Net.scale is a parameter: expected a Parameter or None"):
        net.scale = mg.ones(1)
    with pytest.raises(TypeError, match="expected a Module or None, got int"):
        net.first = 3
    with pytest.raises(TypeError, match="expected a Tensor or None, got list"):
        net.offset = [1.0]
    assert net.scale is before


def test_members_before_init_is_called():
    class Forgot(nn.Module):
        def __init__(self, value):
            self.member = value

    for value in (nn.Parameter([1.0]), nn.ReLU()):
        with pytest.raises(AttributeError, match=r"call super\(\).__init__\(\) first"):
            Forgot(value)
    assert list(Forgot(3).parameters()) == []


@pytest.mark.parametrize("put", ["self", "list", "child", "dictionary", "add_module"])
def test_a_module_cannot_contain_itself(put):
    net = Net()
    inner = nn.ModuleList() if put == "child" else nn.Sequential(net)
    if put == "child":
        net.inner = inner
    before = list(net.named_modules())
    with pytest.raises(ValueError, match="a module cannot contain itself"):
        if put == "self":
            net.again = net
        elif put == "list":
            net.again = nn.ModuleList([nn.ReLU(), net])
        elif put == "child":
            inner.append(net)
        elif put == "dictionary":
            net.again = inner
        else:
            net.add_module("again", inner)
    assert list(net.named_modules()) == before
    repr(net), net.state_dict(), copy.deepcopy(net)


def test_registration_errors():
    net = Net()
    with pytest.raises(KeyError, match="dot"):
        net.register_buffer("a.b", mg.ones(1))
    with pytest.raises(KeyError, match="empty"):
        net.add_module("", nn.ReLU())
    with pytest.raises(KeyError, match="already"):
        net.register_parameter("forward", nn.Parameter([1.0]))
    with pytest.raises(TypeError, match="expected a Parameter"):
        net.register_parameter("p", mg.ones(1))
    with pytest.raises(TypeError, match="expected a Tensor"):
        net.register_buffer("b", np.ones(1))
    with pytest.raises(TypeError, match="string"):
        net.add_module(1, nn.ReLU())


def test_missing_attribute_is_pythons_own_error():
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'frist'"):
        Net().frist  # noqa: B018


def test_a_property_that_fails_shows_its_own_error():
    class Broken(nn.Module):
        @property
        def value(self):
            return self.nothing

    with pytest.raises(AttributeError, match="nothing"):
        Broken().value  # noqa: B018


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(mg.ones(1))


# ---------------------------------------------------------------------------------- modes, grad
def test_train_and_eval_reach_all_and_return_self():
    net = nn.Sequential(Net(), nn.Dropout())
    assert net.eval() is net and not any(module.training for module in net.modules())
    assert net.train() is net and all(module.training for module in net.modules())
    with pytest.raises(TypeError, match="True or False"):
        net.train("yes")


def test_zero_grad():
    net = Net()
    net(mg.randn(4, 3)).sum().backward()
    kept = net.scale.grad
    net.zero_grad(set_to_none=False)
    assert net.scale.grad.tolist() == [0.0] and kept.tolist() == [0.0]
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_requires_grad_freezes():
    net = Net().requires_grad_(False)
    assert not net(mg.randn(4, 3)).requires_grad


def test_apply_goes_children_first_and_returns_self():
    seen = []
    net = nn.Sequential(nn.ReLU(), nn.Tanh())
    assert net.apply(seen.append) is net
    assert seen == [net[0], net[1], net]


def test_to_converts_in_place_and_keeps_objects():
    net = Net()
    parameters = list(net.parameters())
    net(mg.randn(4, 3)).sum().backward()
    assert net.double() is net
    assert all(p is q for p, q in zip(parameters, net.parameters(), strict=True))
    for tensor in (
        *net.parameters(),
        net.offset,
        net.scratch,
        net.norm.running_var,
        net.scale.grad,
    ):
        assert tensor.dtype == mg.float64
    assert net.norm.num_batches_tracked.dtype == mg.int64
    assert net(mg.randn(4, 3, dtype=mg.float64)).dtype == mg.float64
    assert net.scale.requires_grad and isinstance(net.scale, nn.Parameter)
    assert net.float().scale.dtype == mg.float32 and net.to("float64").scale.dtype == mg.float64
    with pytest.raises(TypeError, match="float32 or float64"):
        net.to(mg.int64)


class device:  # noqa: N801 (as PyTorch's is called)
    def __init__(self, name="cpu"):
        self.name = name

    def __str__(self):
        return self.name

    def __repr__(self):
        return f"device({self.name!r})"


@pytest.mark.parametrize("device", ["cpu", "cpu:0", device()])
def test_to_takes_the_one_device_that_there_is(device):
    net = Net()
    dtype = net.scale.dtype
    assert net.to(device) is net and net.scale.dtype == dtype
    assert net.to(device=device).scale.dtype == dtype and net.to(None) is net
    assert net.to(device, mg.float64).scale.dtype == mg.float64
    assert net.to(device, dtype="float32").scale.dtype == mg.float32
    assert net.to(dtype=mg.float64).scale.dtype == mg.float64
    assert net.to(mg.ones(1)).scale.dtype == mg.float32  # as a tensor is


@pytest.mark.parametrize(
    "device",
    [
        *("cuda", "cuda:1", "mps", "meta", "xpu", "zzz", "cpu:1", "cpu:x", "cpu0", "", "Cpu", 0),
        *(device("cuda:0"), device("cpu:1")),
    ],
)
def test_to_refuses_another_device_and_changes_nothing(device):
    net = Net()
    text = re.escape(f"Net.to: minigrad computes on the CPU, not on {device!r}; leave it out")
    for call in (
        lambda: net.to(device),
        lambda: net.to(device, mg.float64),
        lambda: net.to(mg.float64, device),
        lambda: net.to("cpu", device),
        lambda: net.to(None, device),
        lambda: net.to(device=device),
        lambda: net.to(device, device="cpu"),
        lambda: net.to("cpu", device=device, dtype=mg.float64),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    assert net.scale.dtype == mg.float32


def test_to_refuses_what_is_neither():
    for arguments in ((mg.float32, mg.float64), (1, 2, 3), ("cpu", mg.int64), ([],)):
        with pytest.raises(TypeError, match=r"Net\.to: |dtype|data type"):
            Net().to(*arguments)


# ------------------------------------------------------------------------------ where it was raised
needs_notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in Python 3.11")


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x):
        return self.encoder(x)


def notes_of(call):
    with pytest.raises(Exception) as caught:
        call()
    return getattr(caught.value, "__notes__", [])


@needs_notes
def test_an_error_notes_in_which_module_it_was_raised():
    assert notes_of(lambda: Nested()(mg.ones(2, 3))) == ["in layer encoder.2 (Linear)"]
    assert notes_of(lambda: nn.Linear(3, 2)(mg.ones(2, 2))) == ["in Linear"]
    assert notes_of(lambda: Nested()(1, 2)) == ["in Nested"]
    net = nn.Sequential(nn.Sequential(Nested()))
    net.register_forward_hook(lambda *arguments: None)
    assert notes_of(lambda: net(mg.ones(2, 3))) == ["in layer 0.0.encoder.2 (Linear)"]


@needs_notes
def test_a_note_leaves_the_error_its_text_and_other_notes():
    class Failing(nn.Module):
        def forward(self, x):
            error = KeyError("mine")
            error.add_note("a note")
            raise error

    with pytest.raises(KeyError) as caught:
        nn.Sequential(nn.ReLU(), Failing())(mg.ones(1))
    assert str(caught.value) == "'mine'"
    assert caught.value.__notes__ == ["a note", "in layer 1 (Failing)"]
    assert notes_of(lambda: nn.Sequential(nn.ReLU(), Failing())(mg.ones(1)))[1:]
    assert pickle.loads(pickle.dumps(caught.value)).args == ("mine",)


@needs_notes
def test_an_error_that_a_module_handles_leaves_no_note_of_others():
    class Retrying(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrong, self.right = nn.Linear(2, 2), nn.Linear(3, 1)

        def forward(self, x):
            try:
                return self.wrong(x)
            except ValueError:
                return self.right(x)

    assert nn.Sequential(Retrying())(mg.ones(2, 3)).shape == (2, 1)
    assert notes_of(lambda: Retrying()(mg.ones(2, 4))) == ["in layer right (Linear)"]


def test_to_is_noticed_by_graphs_that_saved_a_parameter():
    layer = nn.Linear(2, 2, bias=False)
    loss = layer(mg.ones(1, 2, requires_grad=True)).sum()
    layer.double()
    with pytest.raises(RuntimeError, match="written to in place"):
        loss.backward()


def test_hooks():
    layer = nn.Linear(2, 2)
    seen = []
    before = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    doubled = layer.register_forward_pre_hook(lambda module, inputs: inputs[0] * 2)
    after = layer.register_forward_hook(lambda module, inputs, output: output + 1)
    x = mg.ones(1, 2)
    y = layer(x)
    np.testing.assert_allclose(y.numpy(), layer.forward(x * 2).numpy() + 1)
    assert seen == [(1, 2)]
    for handle in (before, doubled, after):
        handle.remove()
    assert np.array_equal(layer(x).numpy(), layer.forward(x).numpy()) and seen == [(1, 2)]
    with pytest.raises(TypeError, match="function"):
        layer.register_forward_hook(3)


def test_wrappers_run_forward_between_the_hooks_the_last_outermost():
    layer, seen = nn.Linear(2, 2), []

    def wrapper(name, module, forward, *inputs, **options):
        assert module is layer
        seen.append(name)
        try:
            return forward(*inputs, **options) * 10
        finally:
            seen.append(f"end of {name}")

    layer.register_forward_pre_hook(lambda module, inputs: inputs[0] * 2)
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    handles = [layer.register_forward_wrapper(partial(wrapper, name)) for name in ("a", "b")]
    x = mg.ones(1, 2)
    np.testing.assert_allclose(layer(x).numpy(), layer.forward(x * 2).numpy() * 100 + 1, rtol=1e-6)
    assert seen == ["b", "a", "end of a", "end of b"]
    with pytest.raises(ValueError, match="linear"):
        layer(mg.ones(1, 3))
    assert seen[4:] == seen[:4]
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(layer(x).numpy(), layer.forward(x * 2).numpy() + 1)
    assert len(seen) == 8


# ------------------------------------------------------------------------------------- state
def test_state_dict_keys_and_round_trip():
    net, other = Net(), Net()
    assert list(net.state_dict()) == [
        "scale",
        "offset",
        "first.weight",
        "first.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    net(mg.randn(8, 3))
    assert other.load_state_dict(net.state_dict()) == ([], [])
    assert same(snapshot(net), snapshot(other))
    with mg.no_grad():
        net.scale.fill_(9)
    assert other.scale.item() == 2.0
    assert not any(value.requires_grad for value in net.state_dict().values())


def test_load_takes_arrays_and_other_precisions():
    net, other = Net(), Net()
    arrays = {key: value.astype(np.float64) for key, value in snapshot(net).items()}
    arrays["norm.num_batches_tracked"] = np.int32(3)
    other.load_state_dict(arrays)
    assert other.norm.num_batches_tracked.item() == 3
    assert np.array_equal(other.first.weight.numpy(), net.first.weight.numpy())
    assert other.first.weight.dtype == mg.float32 and other.first.weight.requires_grad


def test_load_lists_everything_that_does_not_fit_and_changes_nothing():
    net = Net()
    before = snapshot(net)
    state = {key: value + 1 for key, value in before.items()}
    del state["scale"], state["first.bias"]
    state["more"] = np.ones(1)
    state["first.weight"] = np.ones((3, 4), np.float32)
    state["norm.weight"] = [1.0, 2.0, 3.0, 4.0]
    state["norm.num_batches_tracked"] = np.float32(1)
    state["norm.bias"] = np.ones(4, np.int64)
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    message = str(caught.value)
    for part in (
        "does not fit Net, nothing was changed",
        "missing: scale, first.bias",
        "unexpected: more",
        "first.weight: expected shape (4, 3), got (3, 4)",
        "norm.weight: expected a Tensor or array, got list",
        "norm.num_batches_tracked: expected dtype int64, got float32",
        "norm.bias: expected dtype float32, got int64",
    ):
        assert part in message
    assert same(before, snapshot(net))


def test_load_checks_all_values_before_the_first_write():
    class Table(nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.scale = nn.Parameter([1.0])
            self.register_buffer("rows", rows)

    frozen = np.array([1, 2], dtype="int32")
    module = Table(mg.tensor(frozen))
    for rows in ([5, 2**31], [-(2**31) - 1, 5], [5, 2**40 + 7]):
        state = {"scale": np.array([7.0]), "rows": np.array(rows)}
        with pytest.raises(RuntimeError, match="rows: values are out of the range of int32"):
            module.load_state_dict(state)
        assert module.scale.item() == 1.0 and module.rows.tolist() == [1, 2]
    module.load_state_dict({"scale": np.array([7.0]), "rows": np.array([2**31 - 1, -(2**31)])})
    assert module.rows.tolist() == [2**31 - 1, -(2**31)]
    frozen.flags.writeable = False
    module = Table(mg.asarray(frozen))
    with pytest.raises(RuntimeError, match="rows: shares read-only memory"):
        module.load_state_dict({"scale": np.array([7.0]), "rows": np.array([5, 6])})
    assert module.scale.item() == 1.0


def test_load_not_strict_returns_what_it_passed_over():
    net = Net()
    state = {"scale": mg.tensor([7.0]), "more": mg.ones(1)}
    result = net.load_state_dict(state, strict=False)
    assert "first.weight" in result.missing_keys and result.unexpected_keys == ["more"]
    assert net.scale.item() == 7.0
    with pytest.raises(RuntimeError, match="scale: expected shape"):
        net.load_state_dict({"scale": mg.ones(3), "offset": mg.tensor([8.0])}, strict=False)
    assert net.offset.item() == 1.0


def test_load_of_no_mapping():
    with pytest.raises(TypeError, match="expected a dict of Tensors, got list"):
        Net().load_state_dict([1])


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["deepcopy", "pickle"],
)
def test_copies_are_equal_and_independent(duplicate):
    net = nn.Sequential(Net(), nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = net[1].weight
    net[0](mg.randn(8, 3)).sum().backward()
    net[1].eval()
    twin = duplicate(net)
    assert same(snapshot(net), snapshot(twin))
    assert twin[2].weight is twin[1].weight and twin[1].weight is not net[1].weight
    assert isinstance(twin[1].weight, nn.Parameter) and twin[1].weight.requires_grad
    assert not twin[1].training and twin[2].training
    with mg.no_grad():
        twin[0].scale.fill_(5)
        twin[0].norm.running_mean.fill_(5)
    assert net[0].scale.item() == 2.0 and net[0].norm.running_mean.numpy().max() < 5
    assert names(twin.named_parameters()) == names(net.named_parameters())


def test_a_net_loads_its_own_tensors_under_other_names():
    net = mg.nn.Sequential(mg.nn.Linear(2, 2), mg.nn.Linear(2, 2), mg.nn.Linear(2, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = net.state_dict()
    turned = {name: state[f"{(int(name[0]) + 1) % 3}{name[1:]}"] for name in state}
    turned["0.weight"] = np.asarray(turned["0.weight"]).T
    net.load_state_dict(turned)
    for name, value in net.state_dict().items():
        expected = before[f"{(int(name[0]) + 1) % 3}{name[1:]}"].numpy()
        expected = expected.T if name == "0.weight" else expected
        np.testing.assert_array_equal(value.numpy(), expected)


# --------------------------------------------------------------------------------- containers
def test_sequential():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert (
        len(net) == 3 and isinstance(net[-1], nn.Linear) and list(net) == [net[0], net[1], net[2]]
    )
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    part = net[:2]
    assert isinstance(part, nn.Sequential) and list(part) == [net[0], net[1]]
    x = mg.randn(5, 2)
    np.testing.assert_array_equal(net(x).numpy(), net[2](part(x)).numpy())
    net[1] = nn.Tanh()
    assert isinstance(net[1], nn.Tanh) and len(net.append(nn.Identity())) == 4
    named = nn.Sequential(OrderedDict(hidden=nn.Linear(2, 3), out=nn.Linear(3, 1)))
    assert next(iter(named.state_dict())) == "hidden.weight" and named[0] is named.hidden
    assert nn.Sequential()(x) is x
    with pytest.raises(IndexError, match="index 4 is out of range, it has 4 modules"):
        net[4]
    with pytest.raises(TypeError, match="an instance is needed, not the class"):
        nn.Sequential(nn.ReLU)
    with pytest.raises(TypeError, match="expected Modules"):
        net[0] = 3


def test_module_list():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    layers.append(nn.ReLU()).extend([nn.Tanh()])
    layers.insert(1, nn.Sigmoid())
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Linear", "Sigmoid", "Linear", "ReLU", "Tanh"] and len(layers) == 5
    assert names(layers.named_parameters()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert isinstance(layers[1:3], nn.ModuleList) and len(layers[1:3]) == 2
    with pytest.raises(NotImplementedError):
        layers(mg.ones(1))
    before = len(layers)
    with pytest.raises(TypeError):
        layers.extend([nn.ReLU(), "no module"])
    assert len(layers) == before


CONTAINERS = {
    "Sequential": lambda m: nn.Sequential(*m),
    "ModuleList": nn.ModuleList,
    "ParameterList": nn.ParameterList,
}


def members_for(kind, count):
    parameters = [nn.Parameter(np.random.default_rng().normal(size=2)) for _ in range(count)]
    return parameters if kind == "ParameterList" else [scale(each) for each in parameters]


def check_container(net, expected):
    """The modules in order, once each, under unique keys that match the state."""
    assert len(net) == len(expected) and all(a is b for a, b in zip(net, expected, strict=True))
    keys = [name.removesuffix(".weight") for name in net.state_dict()]
    assert len(set(keys)) == len(keys) and keys == sorted(keys, key=lambda key: (len(key), key))
    assert [id(net[i]) for i in range(-len(net), 0)] == list(map(id, expected))
    for value, member in zip(net.state_dict().values(), expected, strict=True):
        assert value.tolist() == getattr(member, "weight", member).tolist()
    return keys


def scale(weight=None):
    module = nn.Module()
    weight = np.random.default_rng().normal(size=2) if weight is None else weight
    module.weight = nn.Parameter(weight)
    module.forward = lambda x: x * module.weight
    return module


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_is_a_list(kind):
    (new,) = members_for(kind, 1)
    changes = [
        lambda m: m.__delitem__(0),
        lambda m: m.__delitem__(-1),
        lambda m: m.__delitem__(np.int64(2)),
        lambda m: m.__delitem__(slice(1, 3)),
        lambda m: m.__delitem__(slice(None, None, -2)),
        lambda m: m.__delitem__(slice(None)),
        lambda m: m.pop(),
        lambda m: m.pop(0),
        lambda m: m.insert(0, new),
        lambda m: m.insert(2, new),
        lambda m: m.insert(-1, new),
        lambda m: m.insert(4, new),
        lambda m: m.__setitem__(1, new),
        lambda m: m.__setitem__(-4, new),
        lambda m: m.__setitem__(slice(1, 3), [new]),
        lambda m: m.__setitem__(slice(0, 4, 2), [new, m[1]]),
        lambda m: m.__setitem__(slice(4, 9), iter([new])),
        lambda m: m.append(new),
        lambda m: m.extend(m[1:]),
    ]
    for change in changes:
        members = members_for(kind, 4)
        net = CONTAINERS[kind](members)
        change(members)
        change(net)
        assert check_container(net, members) == [str(i) for i in range(len(members))]
        members += members_for(kind, 1)
        net.append(members[-1])
        assert check_container(net, members) == [str(i) for i in range(len(members))]
    total = net + CONTAINERS[kind](members[:2])
    check_container(total, members + members[:2])
    total += net
    check_container(total, members + members[:2] + members)
    assert type(total).__name__ == kind
    check_container(net, members)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_is_appended_overwrites_nothing(kind):
    members = members_for(kind, 5)
    for part in (slice(1, None), slice(0, None, 2), slice(None, None, -1), slice(4, 5), slice(0)):
        net = CONTAINERS[kind](members)[part]
        expected = [*members[part], *members_for(kind, 2)]
        net.extend(expected[-2:])
        check = net if part.step != -1 else CONTAINERS[kind](net)  # whose keys fall
        check_container(check, expected)
        del net[0]
        check_container(net, expected[1:])
    for place in range(3):
        net = CONTAINERS[kind](members[:3])
        setattr(net, str(place), None)
        expected = [m for i, m in enumerate(members[:3]) if i != place] + [members[4]]
        check_container(net.append(members[4]), expected)
        net.insert(0, members[3])
        assert check_container(net, [members[3], *expected]) == ["0", "1", "2", "3"]
    for gone in range(3):
        net = CONTAINERS[kind](members[:3])
        delattr(net, str(gone))
        expected = [m for i, m in enumerate(members[:3]) if i != gone] + [members[4]]
        check_container(net.append(members[4]), expected)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_an_index_that_does_not_work_changes_nothing(kind):
    *members, new = members_for(kind, 4)
    net = CONTAINERS[kind](members)
    for index in (3, -4, 10**20):
        for change in (net.__delitem__, net.pop, net.__getitem__):
            with pytest.raises(IndexError, match=rf"{kind}: index {index} is out of range, it has"):
                change(index)
        with pytest.raises(IndexError, match="out of range"):
            net[index] = new
    for index in (1.0, "0", None, members[0]):
        with pytest.raises(TypeError, match=f"{kind}: expected an int or a slice as index"):
            del net[index]
    for change, error in [
        (lambda: net.__setitem__(slice(0, 2), [new, "no module"]), TypeError),
        (lambda: net.__setitem__(slice(0, 3, 2), [new]), ValueError),
        (lambda: net.insert(1, nn.ReLU), TypeError),
        (lambda: net.extend([new, None]), TypeError),
        (lambda: operator.iadd(net, [new, 5]), TypeError),
        (lambda: net + 5, TypeError),
    ]:
        with pytest.raises(error):
            change()
    assert check_container(net, members) == ["0", "1", "2"]
    with pytest.raises(IndexError, match="it has 0 "):
        CONTAINERS[kind]([]).pop()
    if kind == "Sequential":
        with pytest.raises(IndexError, match="Sequential: index 4 is out of range"):
            net.insert(4, new)


def test_names_that_were_given_stay():
    a, b, c, d = (scale() for _ in range(4))
    net = nn.Sequential(OrderedDict(first=a, second=b, third=c))
    del net[1]
    net.insert(1, d)
    assert list(net) == [a, d, c] and names(net.named_children()) == ["first", "1", "third"]
    net.append(b)
    assert names(net.named_children()) == ["first", "1", "third", "3"] and net.third is c
    x = mg.tensor([1.0, -2.0], dtype="float64")
    expected = x.numpy() * np.prod([m.weight.numpy() for m in (a, d, c, b)], axis=0)
    np.testing.assert_allclose(net(x).numpy(), expected, rtol=1e-12)
    part = net[1:]
    part.append(a)
    assert list(part) == [d, c, b, a] and names(part.named_children()) == ["1", "third", "3", "4"]


def test_parameter_list():
    values = mg.randn(2, 3), nn.Parameter(mg.zeros(3))
    weights = nn.ParameterList(values)
    assert all(isinstance(w, nn.Parameter) for w in weights) and weights[1] is values[1]
    assert np.shares_memory(weights[0].numpy(), values[0].numpy()) and weights[0].requires_grad
    assert repr(weights) == "ParameterList(0: (2, 3), 1: (3,))  9 parameters"
    net = nn.Module()
    net.weights = weights
    assert names(net.named_parameters()) == ["weights.0", "weights.1"]
    twin = copy.deepcopy(net)
    assert isinstance(twin.weights[:1], nn.ParameterList) and len(twin.weights[:1]) == 1
    twin.weights[0] = mg.ones(2, 3)
    assert net.load_state_dict(twin.state_dict()) == ([], [])
    assert weights[0].tolist() == [[1.0] * 3] * 2
    for wrong in ([mg.ones(2), 3.0], [mg.arange(3)], mg.ones(2), 5):
        with pytest.raises((TypeError, RuntimeError)):
            weights.extend(wrong)
    assert len(weights) == 2
    with pytest.raises(NotImplementedError):
        weights(mg.ones(2))


DICTS = {"ModuleDict": nn.ModuleDict, "ParameterDict": nn.ParameterDict}


@pytest.mark.parametrize("kind", DICTS)
def test_a_container_is_a_dictionary(kind):
    (new,) = members_for("ParameterList" if kind == "ParameterDict" else kind, 1)
    changes = [
        lambda d: d.pop("b"),
        lambda d: d.pop("z", None),
        lambda d: d.clear(),
        lambda d: d.__delitem__("a"),
        lambda d: d.__setitem__("b", new),
        lambda d: d.__setitem__("0", new),
        lambda d: d.update({"z": new, "a": new}),
        lambda d: d.update([("z", new)]),
        lambda d: d.update(DICTS[kind]({"y": new, "c": new})),
    ]
    for change in changes:
        members = members_for("ParameterList" if kind == "ParameterDict" else kind, 3)
        expected = dict(zip("abc", members, strict=True))
        ours = DICTS[kind](expected)
        one, other = change(expected), change(ours)
        assert one is other or one == other
        assert list(ours) == list(ours.keys()) == list(expected) and len(ours) == len(expected)
        assert all(x is y for x, y in zip(ours.values(), expected.values(), strict=True))
        assert all(ours[key] is getattr(ours, key) is value for key, value in ours.items())
        suffix = ".weight" if kind == "ModuleDict" else ""
        assert list(ours.state_dict()) == [f"{key}{suffix}" for key in expected]
        assert ("a" in ours) == ("a" in expected) and 3 not in ours and "update" not in ours
        assert ours.get("b") is expected.get("b") and ours.get("z", new) is expected.get("z", new)
        again = DICTS[kind]()
        again.update(copy.deepcopy(ours).items())
        assert again.load_state_dict(ours.state_dict()) == ([], [])


@pytest.mark.parametrize("kind", DICTS)
def test_a_bad_entry_of_a_dictionary_changes_nothing(kind):
    first, new = members_for("ParameterList" if kind == "ParameterDict" else kind, 2)
    ours = DICTS[kind]({"a": first})
    expected = "Modules" if kind == "ModuleDict" else "Parameters or Tensors"
    for entries, error, message in [
        ({"a": new, "b": None}, TypeError, f"{kind}: expected {expected}, got None"),
        ({"a": new, "b": nn.ReLU}, TypeError, "an instance is needed, not the class"),
        ({"a": new, 3: new}, TypeError, "the name must be a string, got int"),
        ({"a": new, "x.y": new}, KeyError, "must not be empty or contain a dot"),
        ({"a": new, "": new}, KeyError, "must not be empty or contain a dot"),
        ({"a": new, "train": new}, KeyError, "there is already an attribute 'train'"),
        ({"a": new, "keys": new}, KeyError, "there is already an attribute 'keys'"),
    ]:
        with pytest.raises(error, match=message):
            ours.update(entries)
        with pytest.raises(error, match=message):
            DICTS[kind](entries)
    for change in (ours.__getitem__, ours.__delitem__, ours.pop):
        with pytest.raises(KeyError, match=f"{kind}: there is no 'b'; it has 'a'"):
            change("b")
    with pytest.raises(TypeError):
        ours.update(5)
    assert list(ours) == ["a"] and ours["a"] is first
    with pytest.raises(NotImplementedError):
        ours(mg.ones(2))


# --------------------------------------------------------------------------------------- text
def test_repr_is_a_tree_with_counts():
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Dropout())
    assert repr(net).splitlines() == [
        "Sequential(",
        "  (0): Linear(in_features=2, out_features=3, bias=True)    9",
        "  (1): Sequential(",
        "    (0): Linear(in_features=3, out_features=3, bias=True)  12",
        "    (1): ReLU()",
        "  )                                                        12",
        "  (2): Dropout(p=0.5)",
        ")                                                          21 parameters",
    ]
    assert repr(nn.Linear(1000, 2)).endswith("2,002 parameters")
    assert repr(nn.Softmax(dim=1)) == "Softmax(dim=1)"


def test_repr_does_not_read_the_attributes_of_a_user():
    net = nn.Linear(1, 1)
    net._details = net._text = "{missing}"
    assert repr(net) == "Linear(in_features=1, out_features=1, bias=True)  2 parameters"
    net = nn.BatchNorm1d(2)
    net._details = net._text = "{missing}"
    assert repr(net).startswith("BatchNorm1d(2, eps=1e-05,")
