"""Random number generators: states, seeds, and who draws from which."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

KINDS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)


def weight():
    return mg.empty(6, 5)


INITIALISERS = {
    name: function
    for name, function in vars(nn.init).items()
    if name[0] != "_" == name[-1] and "generator" in inspect.signature(function).parameters
}
DRAWS = {
    "rand": lambda g: mg.rand(4, generator=g),
    "randn": lambda g: mg.randn((2, 3), dtype=mg.float64, generator=g),
    "randint": lambda g: mg.randint(1000, size=(5,), generator=g),
    "randperm": lambda g: mg.randperm(20, generator=g),
    **{
        name: lambda g, function=function: function(weight(), generator=g)
        for name, function in INITIALISERS.items()
    },
    "dropout": lambda g: nn.functional.dropout(mg.ones(50), generator=g),
    "dropout2d": lambda g: nn.functional.dropout2d(mg.ones(5, 10, 1, 1), generator=g),
    "Dropout": lambda g: nn.Dropout(0.5, generator=g)(mg.ones(50)),
    "Dropout2d": lambda g: nn.Dropout2d(0.5, generator=g)(mg.ones(5, 10, 1, 1)),
    "random_split": lambda g: mg.data.random_split(range(30), [15, 15], generator=g)[0].indices,
    "RandomSampler": lambda g: list(RandomSampler(range(30), generator=g)),
    "RandomSampler with replacement": lambda g: list(
        RandomSampler(range(30), replacement=True, generator=g)
    ),
    "SubsetRandomSampler": lambda g: list(SubsetRandomSampler(range(30), generator=g)),
    "WeightedRandomSampler": lambda g: list(WeightedRandomSampler([1, 2, 3], 30, generator=g)),
    "WeightedRandomSampler without replacement": lambda g: list(
        WeightedRandomSampler(np.arange(30), 29, replacement=False, generator=g)
    ),
    "DataLoader": lambda g: list(mg.data.DataLoader(range(30), shuffle=True, generator=g)),
}


def test_every_random_initialiser_is_among_them():
    assert len(INITIALISERS) == 8


@pytest.mark.parametrize("name", DRAWS)
def test_who_takes_a_generator_draws_from_it_alone(name):
    draw = DRAWS[name]
    mg.manual_seed(5)
    expected, state = np.asarray(draw(None)), mg.get_rng_state()
    generator = mg.Generator(5)
    np.testing.assert_array_equal(np.asarray(draw(generator)), expected)
    assert generator.get_state() == state == mg.get_rng_state()
    assert not np.array_equal(np.asarray(draw(generator)), expected)
    assert mg.get_rng_state() == state != generator.get_state()
    with pytest.raises(TypeError, match=r"generator must be a mg\.Generator, got int 3; pass mg"):
        draw(3)
    with pytest.raises(TypeError, match=r"got a NumPy Generator; pass mg\.Generator\(rng\)"):
        draw(np.random.default_rng(0))


def test_the_numbers_are_numpys():
    for generator in (mg.Generator(7), mg.manual_seed(7), mg.Generator().manual_seed(7)):
        reference = np.random.default_rng(7)
        assert mg.rand(3, dtype=mg.float64, generator=generator).tolist() == list(
            reference.random(3)
        )
        assert mg.randperm(9, generator=generator).tolist() == reference.permutation(9).tolist()
        assert generator.numpy().gamma(2.0) == reference.gamma(2.0)
    rng = np.random.default_rng(7)
    shared = mg.Generator(rng)
    assert shared.numpy() is rng
    rng.random()
    assert shared.get_state() == rng.bit_generator.state


def test_manual_seed_returns_the_librarys_generator():
    library = mg.manual_seed(1)
    assert isinstance(library, mg.Generator) and mg.manual_seed(2) is library
    assert library.get_state() == mg.get_rng_state() == mg.Generator(2).get_state()
    assert mg.rand(2, generator=library).tolist() == mg.rand(2, generator=mg.Generator(2)).tolist()


def test_seeds():
    assert mg.Generator().get_state() != mg.Generator().get_state()
    assert mg.Generator(np.int64(3)).get_state() == mg.Generator(3).get_state()
    generator = mg.Generator(1)
    stream = generator.numpy()
    mg.rand(3, generator=generator)
    assert generator.manual_seed(4) is generator
    assert generator.numpy() is stream and generator.get_state() == mg.Generator(4).get_state()
    for seed, error, message in (
        (-1, ValueError, "must be at least 0, got -1"),
        (1.5, TypeError, "must be an int, got 1.5"),
        (True, TypeError, "must be an int, got True"),
        ("cpu", TypeError, "must be an int, got 'cpu'"),
    ):
        with pytest.raises(error, match=f"Generator: seed {message}"):
            mg.Generator(seed)
        for seeded in (mg.manual_seed, generator.manual_seed):
            with pytest.raises(error, match=f"manual_seed: seed {message}"):
                seeded(seed)
    assert generator.get_state() == mg.Generator(4).get_state()


def through_file(state):
    file = io.BytesIO()
    mg.save({"rng": state}, file)
    file.seek(0)
    return mg.load(file)["rng"]


@pytest.mark.parametrize("through", [through_file, lambda s: json.loads(json.dumps(s)), copy.copy])
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_plain_data_and_continues_the_sequence(kind, through):
    generator, other = (mg.Generator(np.random.Generator(kind(seed))) for seed in (1, 2))
    mg.randint(9, size=(3,), dtype=mg.int32, generator=generator)  # half a word is left over
    state = through(generator.get_state())
    expected = [generator.numpy().integers(99, dtype=np.int32) for _ in range(700)]
    other.set_state(state)
    assert [other.numpy().integers(99, dtype=np.int32) for _ in range(700)] == expected
    assert other.get_state() == generator.get_state() != state


def test_the_state_of_the_library():
    mg.manual_seed(3)
    mg.rand(5)
    state = through_file(mg.get_rng_state())
    expected = mg.rand(5).tolist()
    mg.set_rng_state(state)
    assert mg.rand(5).tolist() == expected
    mg.Generator().set_state(state)


GOOD = mg.Generator(0).get_state()


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (None, TypeError, "expected the state of a generator, a dict, got NoneType"),
        (mg.zeros(5056), TypeError, "got Tensor"),  # PyTorch's
        ({}, ValueError, "the state is of 'no generator', this generator is a PCG64"),
        ({**GOOD, "bit_generator": "MT19937"}, ValueError, "the state is of 'MT19937'"),
        ({"bit_generator": "PCG64"}, ValueError, "is not a state of PCG64"),
        ({**GOOD, "state": 3}, ValueError, "is not a state of PCG64"),
        ({**GOOD, "state": {"state": 3}}, ValueError, "is not a state of PCG64"),
        ({**GOOD, "state": {"state": -3, "inc": 1}}, ValueError, "is not a state of PCG64"),
        ({**GOOD, "state": {"state": 2**128, "inc": 1}}, ValueError, "is not a state of PCG64"),
        ({**GOOD, "state": {"state": "a", "inc": 1}}, ValueError, "is not a state of PCG64"),
        ({**GOOD, "uinteger": 2**40}, ValueError, "is not a state of PCG64"),
        ({**GOOD, "further": 1}, ValueError, "is not a state of PCG64"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(state, error, message):
    generator = mg.Generator(1)
    mg.manual_seed(1)
    before = generator.get_state()
    for name, setter in (
        ("Generator.set_state", generator.set_state),
        ("set_rng_state", mg.set_rng_state),
    ):
        with pytest.raises(error, match=rf"^{name}: .*{message}.* nothing was changed"):
            setter(state)
    assert generator.get_state() == mg.get_rng_state() == before


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))]
)
def test_copies(copied):
    for generator in (mg.Generator(3), mg.Generator(3)):
        other = copied(generator)
        assert (
            mg.rand(3, generator=other).tolist() == mg.rand(3, generator=mg.Generator(3)).tolist()
        )
        assert other in dict(mg.rng.states())  # so that checkpoint restores it
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5, generator=mg.Generator(3)))
    assert copied(net)[1].generator.get_state() == mg.Generator(3).get_state()


def test_generators_are_not_kept_alive():
    count = len(mg.rng.states())
    gc.disable()
    try:
        for seed in range(5):
            mg.rand(2, generator=mg.Generator(seed))
        assert len(mg.rng.states()) == count
    finally:
        gc.enable()


def test_text():
    assert repr(mg.Generator(3)) == "Generator(3)"
    generator = mg.Generator(3)
    mg.rand(1, generator=generator)
    assert repr(generator) == "Generator(PCG64)"
    assert (
        repr(nn.Dropout(0.5, generator=mg.Generator(3))) == "Dropout(p=0.5, generator=Generator(3))"
    )
    assert repr(nn.Dropout(0.5)) == "Dropout(p=0.5)"


def test_numpy_random_is_loaded_on_first_use():
    """It takes 10 ms."""
    program = (
        "import sys, numpy, minigrad as mg\n"
        "if 'numpy.random' in sys.modules: sys.exit('numpy itself loads it')\n"
        "g = mg.Generator(3); mg.manual_seed(1); mg.Generator(); repr(g)\n"
        "loader = mg.data.DataLoader(mg.arange(3), shuffle=True, generator=g)\n"
        "print('numpy.random' in sys.modules)\n"
        "list(loader)\n"
        "print('numpy.random' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if "numpy itself" in done.stderr:
        pytest.skip("numpy itself loads it")
    assert done.stdout.split() == ["False", "True"], done.stderr


# ------------------------------------------------------------------------- functions that run twice
def test_checkpoint_draws_the_masks_of_every_generator_again():
    layers = [nn.Dropout(0.5, generator=mg.Generator(1)), nn.Dropout(0.5)]
    x = mg.ones(500, requires_grad=True)
    y = mg.autograd.checkpoint(lambda x: layers[1](layers[0](x)), x)
    states = layers[0].generator.get_state(), mg.get_rng_state()
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert 50 < np.count_nonzero(y.numpy()) < 200
    assert (layers[0].generator.get_state(), mg.get_rng_state()) == states
    layers[0](x)
    assert layers[0].generator.get_state() != states[0]


def test_accumulate_draws_the_masks_of_every_generator_again():
    drop = nn.Dropout(0.5, generator=mg.Generator(1))
    unused = mg.Generator(2)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), drop, nn.Linear(8, 1)).double()
    masks = []
    drop.register_forward_hook(lambda module, inputs, y: masks.append(y.numpy() != 0))
    x, y = mg.randn(12, 4, dtype=mg.float64), mg.randn(12, 1, dtype=mg.float64)
    library, before = mg.get_rng_state(), drop.generator.get_state()
    nn.accumulate(net, nn.MSELoss(), [(x[:6], y[:6]), (x[6:], y[6:])])
    assert len(masks) > 2
    for mask in masks[2:]:
        assert any(np.array_equal(mask, first) for first in masks[:2])
    assert not np.array_equal(masks[0], masks[1])
    assert mg.get_rng_state() == library  # nothing was drawn from these
    assert unused.get_state() == mg.Generator(2).get_state()
    after = drop.generator.get_state()
    assert after != before
    seen = masks[0]
    masks.clear()
    nn.accumulate(net, nn.MSELoss(), [(x[:6], y[:6]), (x[6:], y[6:])])
    assert not np.array_equal(masks[0], seen)


def test_randint_takes_a_bound_and_a_shape_in_the_order_of_pytorch():
    mg.manual_seed(0)
    drawn = mg.randint(3, (40, 5))
    mg.manual_seed(0)
    assert (drawn == mg.randint(0, 3, (40, 5))).all() and drawn.shape == (40, 5)
    assert mg.randint(3, [2]).shape == (2,) and mg.randint(3, ()).shape == ()
    with pytest.raises(TypeError, match=r"randint: expected high to be an int, got \(2,\)"):
        mg.randint(0, (2,), (2,))
