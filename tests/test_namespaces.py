"""What dir() of the public namespaces shows: what each lists in `__all__`, and no other module."""

import types

import pytest

import minigrad as mg
from minigrad import autograd, data, func, nn, onnx, optim, viz
from minigrad.optim import lr_scheduler

PACKAGES = {
    mg: {autograd, data, func, nn, onnx, optim, viz},
    nn: {nn.functional, nn.init, nn.utils},
    optim: {lr_scheduler},
    **dict.fromkeys((nn.functional, autograd, func, data, onnx, viz, lr_scheduler), frozenset()),
}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_dir_shows_public_names_alone(package):
    assert sorted(package.__all__) == dir(package) == sorted(set(package.__all__))
    members = [getattr(package, name) for name in dir(package)]
    assert {m for m in members if isinstance(m, types.ModuleType)} == PACKAGES[package]
    for member in members:
        home = getattr(member, "__module__", None) or "minigrad"  # numbers, strings: the package's
        assert home.split(".")[0] in ("minigrad", "numpy"), member  # a dtype is NumPy's
        assert not callable(member) or member.__doc__, member


def test_what_a_function_and_its_module_are_both_called_is_the_function():
    for member in (autograd.checkpoint, autograd.gradcheck, nn.utils.weight_norm, mg.trace):
        assert isinstance(member, types.FunctionType)
    assert not hasattr(mg, "checkpoint")
