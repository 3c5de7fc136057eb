"""The examples in docstrings run, and every public name has one.

pytest's own collection does not see compiled modules, so this file gathers the examples of Python
and compiled modules.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from importlib.util import find_spec

import numpy as np
import pytest

import minigrad as mg
from minigrad._core import ops
from minigrad._core.engine.graph import Tensor, primitives

COMPILED = [m.name for m in pkgutil.walk_packages(mg._core.__path__, "minigrad._core.")]
FLOAT = re.compile(r"[-+]?\d+\.\d*(?:e[-+]?\d+)?")
MODULES = [
    name
    for name in ("minigrad", *(m.name for m in pkgutil.walk_packages(mg.__path__, "minigrad.")))
    if not name.startswith("minigrad._core")
    and (find_spec("mpi4py") or name != "minigrad.distributed")
    and (find_spec("sklearn") or not name.startswith("minigrad.estimators"))
]


def public_members(module):
    """Public functions and classes defined by the module itself, and the classes' methods."""
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        yield f"{module.__name__}.{name}", member
        for key, method in vars(member).items() if inspect.isclass(member) else ():
            if not key.startswith("_") and not hasattr(module, key):
                yield f"{module.__name__}.{name}.{key}", method


def documented():
    """The docstring and namespace of everything that may have an example, by name."""
    found = {}
    for module in map(importlib.import_module, (*MODULES, *COMPILED)):
        for name, member in ((module.__name__, module), *public_members(module)):
            found[name] = member.__doc__ or "", vars(module)
    return found


DOCUMENTED = documented()
EXAMPLES = [name for name, (text, _) in DOCUMENTED.items() if ">>>" in text]


class AlmostEqual(doctest.OutputChecker):
    """The last digit of a float depends on the instruction set that the kernels run on."""

    def check_output(self, want, got, optionflags):
        """As usual, or else floats to five digits and the rest up to spaces."""
        if super().check_output(want, got, optionflags):
            return True
        texts = ["".join(FLOAT.sub("#", text).split()) for text in (want, got)]
        values = [[float(number) for number in FLOAT.findall(text)] for text in (want, got)]
        return texts[0] == texts[1] and np.allclose(*values, rtol=1e-5, atol=0)


EXTRAS = {"minigrad.onnx.export": "onnx"}  # packages that an example needs


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, doctest_namespace):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(AlmostEqual(), verbose=False)
    text, names = DOCUMENTED[name]
    test = parser.get_doctest(text, names | doctest_namespace, name, None, 0)
    failures = []
    runner.run(test, out=failures.append)
    assert runner.failures == 0, "".join(failures)


def test_a_wrong_example_is_noticed():
    checker = AlmostEqual()
    assert checker.check_output("tensor([1., 0.8414709])\n", "tensor([1., 0.841471])\n", 0)
    assert not checker.check_output("tensor([1., 0.8414])\n", "tensor([1., 0.841471])\n", 0)
    assert not checker.check_output("tensor(2.)\n", "tensor(2., dtype=float64)\n", 0)
    assert not checker.check_output("2\n", "3\n", 0)


@pytest.mark.parametrize("name", primitives())
def test_every_primitive_has_a_docstring_with_an_example(name):
    assert ">>>" in (getattr(ops, name).__doc__ or "")


def exported():
    """The public callables of `import minigrad as mg` and its public submodules."""
    for module in [mg, *(m for n, m in vars(mg).items() if n in ("autograd", "func", "linalg"))]:
        names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
        for name in names:
            member = getattr(module, name)
            if callable(member) and (member.__module__ or "").startswith("minigrad"):
                yield f"{module.__name__}.{name}", member


EXPORTED = dict(exported())


@pytest.mark.parametrize("name", EXPORTED)
def test_every_public_function_has_a_docstring_with_an_example(name):
    assert ">>>" in (EXPORTED[name].__doc__ or ""), f"{name} has no example"


METHODS = [
    name
    for name, member in vars(Tensor).items()
    if not name.startswith("_") and (callable(member) or inspect.isdatadescriptor(member))
]


@pytest.mark.parametrize("name", METHODS)
def test_every_tensor_method_has_a_docstring(name):
    assert vars(Tensor)[name].__doc__


@pytest.mark.parametrize("name", [*MODULES, *COMPILED])
def test_every_module_has_a_docstring(name):
    assert DOCUMENTED[name][0].strip()
