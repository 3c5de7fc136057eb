"""Names: what dir() of the public namespaces shows, and that each name is defined in one file."""

import re
import types
from collections import defaultdict
from pathlib import Path

import pytest

import minigrad as mg
from minigrad import autograd, data, func, linalg, nn, onnx, optim, viz
from minigrad.optim import lr_scheduler

PACKAGES = {
    mg: {autograd, data, func, linalg, nn, onnx, optim, viz},
    nn: {nn.functional, nn.init, nn.utils},
    optim: {lr_scheduler, optim.swa_utils},
    **dict.fromkeys((nn.functional, nn.init, nn.utils, autograd, func, data), frozenset()),
    **dict.fromkeys((linalg, onnx, viz, lr_scheduler, optim.swa_utils), frozenset()),
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


DEFINED = re.compile(r"^(?:(?:async )?def|(?:cdef )?class) (\w+)", re.MULTILINE)
SHARED = {  # the names defined in two files, and why
    "diagonal": "mg.diagonal of any axes, linalg.diagonal of the last two, as in the standard",
    "Entry": "of the table: its values, and its source, of which the generator makes code",
    "grad": "autograd.grad and func.grad, as in PyTorch",
    "log_softmax": "mg.log_softmax(axis) and nn.functional.log_softmax(dim)",
    "lstm_cell": "the primitive, and its formula",
    "pad": "mg.pad of NumPy's arguments and nn.functional.pad of PyTorch's",
    "real": "mg.real, the real part, and the check of a real number",
    "save": "mg.save, and distributed.save, which does it on one rank of all",
    "softmax": "mg.softmax(axis) and nn.functional.softmax(dim)",
    "trace": "see diagonal",
    "zeros_like": "the public one makes tensors that may require grad; rules need less",
}


def test_a_name_is_defined_in_one_file():
    homes = defaultdict(set)
    for path in Path(mg.__file__).parent.rglob("*"):
        if path.suffix in (".py", ".pyx", ".pxi") and path.parent.name != "generated":
            for name in DEFINED.findall(path.read_text(encoding="utf-8")):
                homes[name].add(path)
    assert {
        name: files for name, files in homes.items() if len(files) > 1 and name not in SHARED
    } == {}
