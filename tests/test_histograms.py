"""mg.viz.histograms: what it counts, compared with NumPy, and that the model does not notice."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.viz import Histogram

DATA = np.random.default_rng(0).normal(size=(32, 3))
TARGET = np.random.default_rng(1).normal(size=(32, 1))


def network():
    mg.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def train(net, steps=3, rate=0.1):
    optimizer = optim.SGD(net.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        mg.square(net(mg.tensor(DATA)) - mg.tensor(TARGET)).mean().backward()
        optimizer.step()


def by_hand(net):
    """The outputs of the layers, the gradients of these and of the weights, by NumPy."""
    w, b, v, c = (parameter.numpy(copy=True) for parameter in net.parameters())
    a = DATA @ w.T + b
    h = np.tanh(a)
    y = h @ v.T + c
    dy = 2 * (y - TARGET) / y.size
    dh = dy @ v
    da = dh * (1 - h**2)
    outputs, gradients = {"0": a, "1": h, "2": y}, {"0": da, "1": dh, "2": dy}
    weights = {
        "0.weight": da.T @ DATA,
        "0.bias": da.sum(0),
        "2.weight": dy.T @ h,
        "2.bias": dy.sum(0),
    }
    return outputs, gradients, weights


def check(seen, values, log=False):
    counted = np.log10(np.abs(values)) if log else values
    bins = int(np.clip(values.size**0.5, 10, 60))
    counts, edges = np.histogram(counted, bins)
    np.testing.assert_allclose(seen.edges, edges, rtol=1e-6, atol=1e-9)
    assert seen.counts.sum() == values.size
    # rounding may move a value over an edge
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(counts)).max() <= 1
    assert seen.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-15)
    assert seen.std == pytest.approx(values.std(), rel=1e-9)


def test_counts_and_ratios_are_those_of_numpy():
    net = network()
    before = {name: p.numpy(copy=True) for name, p in net.named_parameters()}
    outputs, gradients, weights = by_hand(net)
    with mg.viz.histograms(net) as seen:
        train(net, steps=1)
    (step,) = seen.steps
    assert list(step.outputs) == ["0", "1", "2"]
    assert step.output_gradients.keys() == step.outputs.keys()
    assert step.weight_gradients.keys() == step.updates.keys() == before.keys()
    for path in step.outputs:
        check(step.outputs[path], outputs[path])
        check(step.output_gradients[path], gradients[path], log=True)
    for name, gradient in weights.items():
        check(step.weight_gradients[name], gradient, log=True)
        ratio = 0.1 * np.linalg.norm(gradient) / np.linalg.norm(before[name])
        assert step.updates[name] == pytest.approx(ratio, rel=1e-9)


def test_training_goes_on_as_without():
    one, other = network(), network()
    train(one)
    with mg.viz.histograms(other) as seen:
        train(other)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert len(seen.steps) == 3
    ratios = [step.updates["2.weight"] for step in seen.steps]
    assert len(set(ratios)) == 3 and min(ratios) > 0


@pytest.mark.parametrize("where", ["forward", "block"])
def test_the_model_is_left_as_it_was_after_an_error(where):
    net = network()
    seen = mg.viz.histograms(net)
    with pytest.raises(ValueError), seen:
        train(net, steps=2)
        if where == "forward":
            net(mg.ones(2, 7, dtype=mg.float64))
        raise ValueError
    counted = [dict(step.weight_gradients) for step in seen.steps]
    assert all(not module._forward_wrappers for module in net.modules())
    train(net, steps=1)
    assert [step.weight_gradients for step in seen.steps] == counted, "a hook was left behind"
    with seen:  # and it can be used again
        train(net, steps=1)
    assert seen.steps[-1].updates.keys() == dict(net.named_parameters()).keys()


def test_a_graph_that_outlives_the_block_is_not_counted():
    net = network()
    x = mg.tensor(DATA, requires_grad=True)
    with mg.viz.histograms(nn.Sequential(nn.Identity(), net)) as seen:  # whose output is x itself
        loss = seen.model(x).sum()
    loss.backward()
    assert seen.steps[-1].output_gradients == seen.steps[-1].weight_gradients == {}


def test_a_step_lasts_until_the_parameters_change():
    net, x = network(), mg.tensor(DATA)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    with mg.viz.histograms(net) as seen:
        for _ in range(2):
            optimizer.zero_grad()
            for part in (x[:16], x[16:]):  # accumulated
                net(part).sum().backward()
            optimizer.step()
            with mg.no_grad():
                net(x * 1000)  # an evaluation is not training
    assert len(seen.steps) == 2
    for step in seen.steps:
        assert step.outputs["0"].counts.sum() == 16 * 5 and step.outputs["0"].std < 100
        assert step.updates["0.weight"] > 0
    with mg.viz.histograms(net) as seen:
        net(x).sum().backward()
    assert seen.steps[0].updates == {} and seen.steps[0].weight_gradients, "nothing was updated"


def test_the_last_call_of_a_layer_counts():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False)
            nn.init.constant_(self.layer.weight, 10.0)

        def forward(self, x):
            return self.layer(self.layer(x))

    net = Twice()
    with mg.viz.histograms(net) as seen:
        net(mg.ones(4, 1)).sum().backward()
    (step,) = seen.steps
    assert step.outputs["layer"].mean == 100
    assert step.output_gradients["layer"].mean == 1, "d loss / d output of the second call"
    assert step.weight_gradients["layer.weight"].mean == 4 * (10 + 10)


def test_modules_with_states_and_branches():
    mg.manual_seed(0)
    net = nn.Sequential(nn.LSTM(3, 4, batch_first=True))
    with mg.viz.histograms(net) as seen:
        net(mg.randn(2, 5, 3))[0].sum().backward()
    assert seen.steps[0].outputs["0"].counts.sum() == 2 * 5 * 4

    many = nn.Ensemble(network, 3)
    with mg.viz.histograms(many) as seen:
        many(mg.tensor(DATA)).sum().backward()
    assert sum(h.counts.sum() for h in seen.steps[0].outputs.values()) >= 3 * 32

    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with mg.viz.histograms(layer) as seen:
        layer(mg.randn(2, 3, 8)).sum().backward()
    assert {"linear1", "norm2"} <= seen.steps[0].output_gradients.keys()
    assert "" not in seen.steps[0].outputs, "it calls others"

    class Words(nn.Module):
        def forward(self, x):
            return {"label": "no tensor", "count": mg.tensor([1, 2])}

    with mg.viz.histograms(Words()) as seen:
        seen.model(mg.ones(2))
    assert seen.steps[0].outputs == {}
    with pytest.raises(RuntimeError, match="no training step was recorded"):
        seen.plot()


def test_a_checkpointed_layer_is_seen_when_it_is_computed_again():
    net = network()
    first, rest = net[0], net[1:]
    with mg.viz.histograms(net) as seen:
        rest(mg.autograd.checkpoint(first, mg.tensor(DATA))).sum().backward()
    assert set(seen.steps[-1].outputs) == {"0", "1", "2"}
    assert seen.steps[-1].output_gradients["0"].rms > 0


# ------------------------------------------------------------------------------ unusual values
def test_zeros_and_what_is_no_number_are_counted_apart():
    seen = Histogram.of(mg.tensor([0.0, 0.0, 1e-3, -1.0, np.nan, np.inf, -np.inf, 1.0]), log=True)
    assert seen.counts.sum() == 3 and seen.zeros == 2 / 8 and seen.broken == 3 / 8
    assert seen.edges[[0, -1]] == pytest.approx([-3, 0])
    assert seen.mean == pytest.approx(1e-3 / 5)
    assert seen.rms == pytest.approx(np.sqrt((1e-6 + 2) / 5))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        np.zeros(5),
        np.full(5, 7e8),
        np.array([1.0, np.nextafter(1.0, 2)]),
        np.array([1e300, -1e308, 1e-310]),
        np.full(3, np.nan),
        np.array([5e-324, 1e149]),
        np.array(3.0),
        np.zeros(0),
        np.array([3e38, -3e38], np.float32),
    ],
    ids=str,
)
def test_any_values_can_be_counted(values, log):
    seen = Histogram.of(mg.tensor(values), log)
    fine = np.abs(values.astype(float)) < 1e150
    assert seen.counts.sum() == (fine & ((values != 0) | (not log))).sum()
    assert np.isfinite(seen.edges).all() and (np.diff(seen.edges) > 0).all()
    assert seen.broken == ((~fine).mean() if values.size else 0)


def test_a_run_that_diverges_is_recorded_and_drawn():
    pytest.importorskip("matplotlib")
    net = network()
    with mg.viz.histograms(net) as seen, np.errstate(all="ignore"):
        train(net, steps=30, rate=1e30)
    assert seen.steps[-1].outputs["0"].broken == 1
    assert seen._repr_png_().startswith(b"\x89PNG")
    assert "nan" in str(seen)


# --------------------------------------------------------------------------------------- reports
def test_the_table_is_of_the_last_step():
    net = network()
    seen = mg.viz.histograms(net)
    assert repr(seen) == "no training step was recorded yet"
    with seen:
        train(net)
    head, _, *rows = str(seen).splitlines()
    assert head.split()[:2] == ["layer", "class"] and len(rows) == 3
    assert rows[1].split() == ["1", "Tanh", *rows[1].split()[2:]] and len(rows[1].split()) == 6
    step = seen.steps[-1]
    assert rows[2].split() == [
        *["2", "Linear", f"{step.outputs['2'].mean:.2g}", f"{step.outputs['2'].std:.2g}", "0%"],
        *[f"{step.output_gradients['2'].rms:.1e}", f"{step.weight_gradients['2.weight'].rms:.1e}"],
        f"{step.updates['2.weight']:.1e}",
    ]


@pytest.fixture
def figure():
    return pytest.importorskip("matplotlib.figure").Figure(figsize=(14, 4), layout="constrained")


def test_the_picture_shows_what_was_counted(figure):
    net = network()
    with mg.viz.histograms(net) as seen:
        train(net)
    assert seen.plot(figure=figure) is figure
    figure.draw_without_rendering()
    assert len(figure.axes) == 3 * 3 + 1
    first, last = seen.steps[0], seen.steps[-1]
    for axis, path in zip(figure.axes[:3], "012", strict=True):
        assert axis.get_ylabel() == f"{path}\n{type(net[int(path)]).__name__}"
        for patch, step in zip(axis.patches, (first, last), strict=True):
            counts, edges, _ = patch.get_data()
            np.testing.assert_array_equal(edges, step.outputs[path].edges)
            np.testing.assert_allclose(counts, step.outputs[path].counts / counts.max() / max(
                step.outputs[path].counts) * counts.max())  # fmt: skip
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [
        "output", "gradient of the output", "gradient of the weights", "update of the weights"
    ]  # fmt: skip
    assert all(axis.get_xlabel() for axis in (figure.axes[2], figure.axes[5], figure.axes[-1]))
    limits = {axis.get_xlim() for axis in figure.axes[3:6]}
    assert len(limits) == 1, "magnitudes of gradients are compared across layers"
    updates = {line.get_label(): line.get_ydata() for line in figure.axes[-1].lines}
    assert updates["0.weight"].tolist() == [step.updates["0.weight"] for step in seen.steps]
    assert "1/1000" in updates and "0.bias" not in updates
    assert figure.get_suptitle() == "step 1 in grey, step 3 in blue"


def test_of_many_layers_sixteen_are_drawn(figure):
    net = nn.Sequential(*[nn.Linear(2, 2) for _ in range(40)])
    with mg.viz.histograms(net) as seen:
        net(mg.ones(3, 2)).sum().backward()
    seen.plot(figure=figure)
    labels = [axis.get_ylabel() for axis in figure.axes[:16]]
    assert labels[0] == "0\nLinear" and labels[-1] == "39\nLinear" and len(figure.axes) == 49
    figure.clear()
    seen.plot(["7", "3"], figure)
    assert [axis.get_ylabel() for axis in figure.axes[:2]] == ["7\nLinear", "3\nLinear"]
    assert figure.get_suptitle() == "step 1"
    with pytest.raises(ValueError, match=r"no layer '40' was called .* there are '0', '1'"):
        seen.plot(["40"], figure)


def test_what_cannot_be_drawn(monkeypatch):
    with pytest.raises(TypeError, match="expected a Module as the model, got int"):
        mg.viz.histograms(3)
    seen = mg.viz.histograms(network())
    with pytest.raises(RuntimeError, match="call the model inside the with block"):
        seen.plot()
    assert seen._repr_png_() is None
    with seen:
        train(seen.model, steps=1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"`pip install matplotlib`"):
        seen.plot()
    assert seen._repr_png_() is None
