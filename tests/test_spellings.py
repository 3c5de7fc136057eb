"""The table of spellings: what it advises runs, gives what the other library gives, and is said by
the errors. With PyTorch installed every row is compared; without it, those of NumPy."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, spellings
from minigrad.spellings import ABSENT, Spelling

import spellings_page  # isort: skip

ROWS = list(spellings.rows())
CODE = [row for row in ROWS if row.there]
NUMPY = re.compile(r"\b(np|a)\b")
RANDOM = re.compile("rand|normal|uniform|empty")


def values(library):
    """The names that the code of a row may use, for "mg", "torch" or "np"."""
    random = np.random.default_rng(0)
    arrays = {
        "x": random.normal(size=(2, 3)),
        "y": random.normal(size=(2, 3)) + 3,
        "s": random.normal(size=(3, 3)),
        "w": random.normal(size=(3, 3)),
        "v": random.normal(size=3),
        "u": random.normal(size=3),
        "b": random.normal(size=(2, 3, 3)),
        "p": random.normal(size=(1, 1, 2, 2)),
        "q": random.uniform(0.1, 0.9, size=(2, 3)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays |= {"i": random.integers(0, 2, (2, 3)), "k": np.array([1, 0]), "m": arrays["x"] > 0}
    names = {"np": np, "a": arrays["x"].copy(), "f": lambda t: t * t, "g": lambda t: (t * t).sum()}
    if library == "torch":
        import torch

        names |= {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "optim": torch.optim}
        make = torch.tensor
    else:
        names |= {"mg": mg, "nn": nn, "F": nn.functional, "optim": mg.optim}
        make = mg.tensor
    names |= {name: make(array) for name, array in arrays.items()}
    return names | {"net": names["nn"].Linear(3, 1)}


def run(code, names):
    """The value of an expression; after a statement, the tensor that it changes or binds."""
    try:
        compiled = compile(code, code, "eval")
    except SyntaxError:
        exec(code, names)
        return names[code[0]]
    result = eval(compiled, names)
    changed = re.match(r"(\w)\.\w+_?\(", code) if result is None else None
    return names[changed[1]] if changed else result


def plain(value):
    """A result without its library: type names, numbers, and arrays with dtype and shape."""
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return [value.dtype, value.shape, np.round(value.astype(float), 4).tolist()]
    if isinstance(value, type):
        return value.__name__
    if hasattr(value, "__enter__"):
        return value(lambda: 1)()  # as a decorator
    if str(value).startswith("torch.") or isinstance(value, np.dtype):
        return str(value).rpartition(".")[2]
    if isinstance(value, (bool, int, float, np.generic, type(None))):
        return value if value is None else float(value)
    return type(value).__name__


def check(row, library):
    ours, theirs = run(row.here, values("mg")), run(row.there, values(library))
    if RANDOM.search(row.here):
        ours, theirs = tuple(ours.shape), tuple(theirs.shape)
    if isinstance(theirs, np.generic):
        ours = plain(ours)[2]
        theirs = round(float(theirs), 4)
    assert plain(ours) == plain(theirs), f"{row.here} is not {row.there}"


def rows(selected):
    return pytest.mark.parametrize("row", selected, ids=lambda row: f"{row.where}-{row.name}")


# ----------------------------------------------------------------------- the advice is right
@rows([row for row in CODE if NUMPY.search(row.there) and "torch" not in row.there])
def test_what_is_advised_gives_what_numpy_gives(row):
    check(row, "mg" if "a" not in row.there else "np")


@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore::DeprecationWarning:torch")
@rows([row for row in CODE if not NUMPY.search(row.there) or "torch" in row.there])
def test_what_is_advised_runs_and_gives_what_pytorch_gives(row):
    run(row.here, values("mg"))
    pytest.importorskip("torch")
    check(row, "torch")


@pytest.mark.parametrize("here", ["x.reshape(2, 3)", "x.T", "mg.zeros(3, 2)"])
def test_a_wrong_advice_is_noticed(here):
    pytest.importorskip("torch")
    with pytest.raises(AssertionError):
        check(Spelling("Tensor", "view", "x.view(3, 2)", here), "torch")


def test_the_table_is_as_long_as_it_should_be_and_has_no_row_twice():
    assert len(CODE) > 150
    assert len({row[:2] + row[2:3] for row in ROWS}) == len(ROWS)


# ----------------------------------------------------------------------- errors say it
def owner(place):
    if place in ("Tensor", "Module"):
        return mg.ones(2) if place == "Tensor" else nn.Linear(2, 1)
    member = mg
    for part in place.split(".") if place != "mg" else ():
        member = getattr(member, part)
    return member


NAMED = [(p, row) for row in ROWS if row.where not in ("keyword", "differs")
         for p in row.where.split()]  # fmt: skip


@pytest.mark.parametrize("place, row", NAMED, ids=lambda x: getattr(x, "name", x))
def test_a_name_of_the_table_is_missing_and_the_error_says_what_to_write(place, row):
    value = owner(place)
    assert not hasattr(value, row.name) and row.name not in dir(value)
    with pytest.raises(AttributeError) as caught:
        getattr(value, row.name)
    assert caught.value.name == row.name
    assert str(caught.value).endswith(f"; {row.advice}")


KEYWORDS = [row for row in ROWS if row.where == "keyword" and row.there]


@rows(KEYWORDS)
def test_a_keyword_of_another_library_is_answered_with_ours(row):
    wrong = re.sub(rf"\b{row.renamed}=", f"{row.name}=", row.here)
    said = f"; {row.name} is called {row.renamed} here: {row.here}"
    if row.name == "learning_rate":  # an optimiser has an error of its own
        said = "known are lr"
    with pytest.raises(TypeError, match=re.escape(said)):
        run(wrong, values("mg"))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: x.sum(dim=0), ["sum() got", "x.sum(axis=0)"]),
        (lambda x: mg.sum(x, dim=0), ["x.sum(axis=0)"]),
        (lambda x: x.max(dim=0), ["dim is called axis here: max(..., axis=...)"]),
        (lambda x: x.argmax(dim=1, keepdim=True), ["dim is called axis here"]),
        (lambda x: mg.stack([x, x], dim=0), ["stack(..., axis=...)"]),
        (lambda x: x.var(unbiased=False), ["unbiased=False: correction=0"]),
        (lambda x: mg.concat([x, x], dim=0), ["concat(..., axis=...)"]),
        (lambda x: mg.randn(3, device="cpu"), ["computes on the CPU"]),
        (lambda x: mg.tensor([1.0], device="cuda"), ["computes on the CPU"]),
        (lambda x: x.sum(axsi=0), ["did you mean axis?"]),
        (lambda x: x.mean(1, 2, 3, 4), ["mean(x, axis=None, keepdims=False)"]),
        (lambda x: x.permute_dims(1, 0), ["permute_dims(x, axes)"]),
        (lambda x: mg.concat(x, x, x), ["concat(arrays, axis=0)"]),
        (lambda x: mg.Tensor(2, 3), ["Tensor: expected data and a dtype", "is mg.empty(2, 3)"]),
        (lambda x: x.norm(2, axis=1), ["multiple values", "its arguments are norm(x, axis=None"]),
        (lambda x: mg.norm(x, 2.0), ["norm: axis is 2.0", "norm(x, ord=2.0)"]),
        (lambda x: x.norm("fro"), ["norm: axis is 'fro'", "norm(x, ord='fro')"]),
        (lambda x: mg.median(x, dim=1), ["median(..., axis=...)"]),
        (lambda x: mg.linalg.vector_norm(x, dim=1), ["vector_norm(..., axis=...)"]),
        (lambda x: mg.load("x.pt", weights_only=True), ["runs no code; leave it out"]),
        (lambda x: mg.autograd.grad(x, x, only_inputs=True), ["leave it out"]),
        (lambda x: x.backward(retain=True), ["retain_graph"]),
        (lambda x: nn.Linear(2, 3, biass=False), ["Linear.__init__()", "did you mean bias?"]),
        (lambda x: nn.Linear(2, 3, device="cuda"), ["computes on the CPU"]),
        (lambda x: nn.Dropout(prob=0.5), ["the keywords are p"]),
        (lambda x: nn.Softmax(dmi=1), ["Softmax: got", "did you mean dim?"]),
        (lambda x: mg.data.DataLoader([1], batchsize=2), ["did you mean batch_size?"]),
        (lambda x: mg.optim.lr_scheduler.StepLR(None, stepsize=2), ["did you mean step_size?"]),
    ],
)  # fmt: skip
def test_a_wrong_call_names_the_way_out(call, words):
    with pytest.raises(TypeError) as caught:
        call(mg.ones(2, 3))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_type_errors_from_inside_a_function_stay_as_they_are():
    def inner(x):
        return x.sum(nothing=1)

    with pytest.raises(TypeError, match=r"^matmul: "):
        mg.matmul(mg.ones(2), "a")
    with pytest.raises(TypeError) as caught:
        mg.func.grad(inner)(mg.ones(2))
    assert str(caught.value).count("got an unexpected") == 1
    with pytest.raises(TypeError, match=r"^stack: expected a non-empty list"):
        mg.stack(3)


@pytest.mark.parametrize(
    "place, name, end",
    [
        ("nn", "Liner", "; did you mean nn.Linear?"),
        ("nn", "BatchNorm1D", "; did you mean nn.BatchNorm1d?"),
        ("optim", "Adm", "; did you mean optim.Adam?"),
        ("optim", "lr_schedular", "; did you mean optim.lr_scheduler?"),
        ("nn.functional", "crossentropy", "; did you mean mg.nn.functional.cross_entropy?"),
        ("mg", "Linear", "; it is nn.Linear"),
        ("mg", "Adam", "; it is optim.Adam"),
        ("mg", "DataLoader", "; it is mg.data.DataLoader"),
        ("mg", "ModuleDict", "; it is nn.ModuleDict"),
        ("nn", "median", "; it is mg.median"),
        ("nn.functional", "exp", "; it is mg.exp"),
        ("nn.functional", "gather", "; here it is x.take_along_axis(i, axis=1) for x.gather(1, i)"),
        ("mg", "zzzzzz", "'zzzzzz'"),
        ("nn", "Conv3d", "minigrad.nn has no attribute 'Conv3d'"),
    ],
)
def test_a_near_miss_names_the_closest(place, name, end):
    with pytest.raises(AttributeError) as caught:
        getattr(owner(place), name)
    assert str(caught.value).endswith(end)
    assert caught.value.name == name


@pytest.mark.parametrize(
    "code, error, end",
    [
        ("from minigrad import cat", ImportError, spellings.find("mg", "cat").advice),
        ("from minigrad.nn import Liner", ImportError, "'minigrad.nn'; did you mean nn.Linear?"),
        ("from minigrad.nn.functional import exp", ImportError, "; it is mg.exp"),
        ("from minigrad.utils.data import DataLoader", ModuleNotFoundError,
         "No module named 'minigrad.utils'; here it is mg.data.DataLoader for "
         "torch.utils.data.DataLoader (checkpoint is mg.autograd.checkpoint; there is no "
         "TensorBoard writer)"),
        ("from minigrad.nn.modules import Linear", ModuleNotFoundError, "nn.Parameter"),
        ("import minigrad.cuda.amp", ModuleNotFoundError, "computes on the CPU; leave it out"),
        ("import minigrad.zzzzzz", ModuleNotFoundError, "named 'minigrad.zzzzzz'"),
        ("from minigrad import zzzzzz", ImportError, "minigrad/__init__.py)"),
    ],
)  # fmt: skip
def test_an_import_of_what_is_not_here_says_what_to_write(code, error, end):
    with pytest.raises(error) as caught:
        exec(code, {})
    assert str(caught.value).endswith(end)
    assert type(caught.value) is error and caught.value.name.startswith("minigrad")


def test_imports_look_for_modules_of_minigrad_alone():
    from importlib.util import find_spec

    assert find_spec("minigrad.zzzzzz") is None and find_spec("zzzzzz") is None
    assert find_spec("minigrad.nn").name == "minigrad.nn"
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'utils'$"):
        exec("import utils.data", {})


@pytest.mark.parametrize("place", ["mg", "nn", "nn.functional", "optim", "Tensor", "Module"])
@pytest.mark.parametrize("name", ["_repr_latex_", "__wrapped__", "__array_struct__", "_ipython_"])
def test_private_names_are_answered_without_looking(monkeypatch, place, name):
    monkeypatch.setattr(spellings, "advice", None)
    value = owner(place)
    with pytest.raises(AttributeError) as caught:
        getattr(value, name)
    assert caught.value.name == name and caught.value.obj is value


def test_tools_that_probe_see_what_there_is():
    x, net = mg.ones(2, 2, requires_grad=True), nn.Linear(2, 1)
    for value in (x, net):
        shown = dict(inspect.getmembers(value))
        assert not {"view", "cuda", "half"} & shown.keys() and "requires_grad_" in shown
        assert copy.deepcopy(value) is not value and pickle.loads(pickle.dumps(value)) is not value
    assert not hasattr(mg.Tensor, "view") and not hasattr(nn.Module, "cuda")
    assert "reshape" in dir(x) and "forward" in dir(net)


def test_a_module_may_have_members_of_these_names():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.half = nn.Linear(2, 1)

        def cuda(self):
            return "mine"

    net = Net()
    assert net.cuda() == "mine" and isinstance(net.half, nn.Linear)
    assert {"half", "cuda"} <= set(dir(net)) and "cpu" not in dir(net)


def test_a_module_may_be_abstract_or_have_another_base():
    from abc import ABC, abstractmethod

    class Abstract(nn.Module, ABC):
        @abstractmethod
        def forward(self, x):
            """Of x."""

    class Net(Abstract):
        def __init__(self, width, **options):
            super().__init__()
            self.options = options

        def forward(self, x):
            return x

    assert Net(3, anything=1).options == {"anything": 1}
    with pytest.raises(TypeError, match="abstract"):
        Abstract()


def test_nothing_is_looked_up_at_import():
    code = "import sys, minigrad; sys.exit(any(m in sys.modules for m in ('difflib', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_functions_stay_functions():
    assert isinstance(mg.argmax, types.FunctionType)
    assert str(inspect.signature(mg.argmax)).startswith("(x: 'Tensor', axis:")
    assert pickle.loads(pickle.dumps(mg.argmax)) is mg.argmax is vars(mg.Tensor)["argmax"]
    assert str(inspect.signature(nn.Linear)).startswith("(in_features: 'int', out_features")


def test_a_guess_for_a_name_of_pytorch_is_another_form_of_that_name():
    """Not the name of another thing: what has no counterpart here is listed in ABSENT."""
    torch = pytest.importorskip("torch")
    spaces = {"nn": torch.nn, "nn.functional": torch.nn.functional, "optim": torch.optim}
    wrong = {}
    for place, theirs in spaces.items():
        for name in dir(theirs):
            if name[0] != "_" and not hasattr(owner(place), name):
                guess = re.search(r"did you mean .*?(\w+)\?$", spellings.advice(place, name))
                if guess and guess[1].lower() not in name.lower():
                    wrong[name] = guess[1]
    assert {name: guess for name, guess in wrong.items() if "3d" not in name} == {}
    assert all(any(hasattr(space, name) for space in (torch, np, *spaces.values()))
               for name in ABSENT.split())  # fmt: skip


def test_no_name_that_is_here_is_listed_as_absent():
    """Such an entry would hide where the name is: `mg.ModuleDict` is nn.ModuleDict."""
    here = {name for names in spellings._namespaces().values() for name in names}
    assert here & set(ABSENT.split()) == set()


def test_the_page_is_that_of_the_table():
    assert spellings_page.written() == spellings_page.PAGE.read_text(encoding="utf-8"), (
        "python tests/spellings_page.py writes it anew"
    )
