"""The BatchNorm laboratory: quick experiments find their orderings, exact ones their formulas."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import math
import os
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg

for requirement in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(requirement)

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "examples" / "batchnorm_lab" / "report"
sys.path.insert(0, str(ROOT))

from examples.batchnorm_lab import (  # noqa: E402
    e02_rates,
    e04_gradients,
    e05_regulariser,
    e09_population,
    e10_variance,
    e14_scale,
    e15_reinforcement,
    e16_taylor,
    report,
)
from examples.batchnorm_lab.__main__ import main  # noqa: E402
from examples.batchnorm_lab.data import DataError, load, read_idx  # noqa: E402
from examples.batchnorm_lab.lab import (  # noqa: E402
    FAILS,
    HOLDS,
    NOT_SHOWN,
    PARTLY,
    SEEDS,
    Lab,
    Panel,
    clearly_above,
    differences,
    experiments,
    find,
    judged,
    perform,
    read_json,
    write_json,
)
from examples.batchnorm_lab.train import BATCHNORM, NONE, train  # noqa: E402

NAMES = list(experiments())


@pytest.fixture(scope="module")
def data():
    return load("digits")


@cache
def quick(name):
    """The record and the panels of a quick run."""
    record = perform(name, Lab(load("digits"), quick=True))
    return record, record["panels"]


def detached(h):
    """BatchNorm whose gradient forgets that mean and variance depend on the input."""
    mean, var = h.mean(axis=0, keepdims=True).detach(), h.var(axis=0, keepdims=True).detach()
    return (h - mean) / mg.sqrt(var)


# -------------------------------------------------------------------------------- all experiments
@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_finishes_and_draws(name, tmp_path):
    record, panels = quick(name)
    assert record["verdict"] in (HOLDS, PARTLY, FAILS), record["reason"]
    assert all(panel.finished(len(record["seeds"])) for panel in panels)
    for panel in panels:
        assert panel.y and panel.title
        assert {report.colour(arm) for arm in panel.arms}  # KeyError for an arm without one
        assert len({(report.colour(arm), arm.partition(" · ")[2]) for arm in panel.arms}) == len(
            panel.arms
        )
    report.draw({"panels": panels}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_convergence_is_faster():
    curve, _ = quick("convergence")[1]
    assert curve.mean(BATCHNORM)[-1] > curve.mean(NONE)[-1] + 30


def test_higher_rates_train():
    images, _ = quick("rates")[1]
    assert images.mean(BATCHNORM)[0] > images.mean(NONE)[0] + 20


def test_small_weights_train():
    (panel,) = quick("initialisation")[1]
    assert panel.mean(BATCHNORM).min() > 80 > 40 > panel.mean(NONE)[0]


def test_deep_sigmoid_nets_keep_their_gradients():
    layers = quick("gradients")[1][0]
    assert layers.mean(f"{BATCHNORM} · sigmoid")[0] > 0.1
    assert layers.mean(f"{NONE} · sigmoid")[0] < 1e-6


def test_the_noisy_net_is_unsteady_and_fast():
    _, moved, speed, *_ = quick("covariate_shift")[1]
    noisy = "noise after BatchNorm"
    assert moved.mean(noisy).mean() > moved.mean(NONE).mean() > 2 * moved.mean(BATCHNORM).mean()
    assert speed.mean(noisy)[-1] > speed.mean(NONE)[-1] + 10


def test_statistics_of_a_small_batch_are_noisy():
    noise = quick("regulariser")[1][3]
    np.testing.assert_allclose(noise.mean(BATCHNORM), noise.formulas["1/√B"], rtol=0.1)


def test_two_samples_are_too_few_in_a_linear_layer():
    flat = quick("batch_size")[1][0]
    assert flat.mean(BATCHNORM)[0] > flat.mean("LayerNorm")[0] + 5
    assert flat.mean(BATCHNORM)[0] > flat.mean(BATCHNORM)[1] + 5


def test_recalibration_repairs_slow_averages_and_contrast():
    momentum, shift = quick("population")[1]
    slow = momentum.at[0]
    exact = momentum.values("recalibrated", slow)
    assert exact.mean() > momentum.values("running averages", slow).mean() + 10
    assert exact.mean() > momentum.values("the batch's own", slow).mean()
    contrast = e09_population.CHANGES[1]
    assert shift.values("recalibrated", contrast).mean() > 10 + (
        shift.values("running averages", contrast).mean()
    )


def test_what_the_norm_costs_vanishes_when_folded():
    training, _, memory, evaluation = quick("cost")[1]
    assert (memory.mean(BATCHNORM) > memory.mean(NONE)).all()
    assert training.mean(BATCHNORM).sum() > training.mean(NONE).sum()
    assert evaluation.mean("folded BatchNorm").sum() < evaluation.mean(BATCHNORM).sum()


def test_cnns_train_sooner_with_it():
    curve, _ = quick("cnn")[1]
    assert curve.mean(BATCHNORM)[-1] > curve.mean(NONE)[-1] + 20


# ---------------------------------------------------------------------------- 2: least squares
def step_of_theory(seed, rate, w, a):
    """One step as Cai, Li & Shen (2019) write it: H = E[x xᵀ], g = E[x y], σ² = wᵀHw."""
    x, y, *_ = e02_rates.least_squares(seed)
    H, g = x.T @ x / len(x), x.T @ y / len(x)
    sigma = np.sqrt(w @ H @ w)
    slope = a / sigma * (g - (w @ g) / sigma**2 * (H @ w))
    return w + rate * slope, a + w @ g / sigma - a


def step_of_ours(seed, rate, w, a):
    x, y, *_ = (mg.tensor(array) for array in e02_rates.least_squares(seed))
    w, a = (mg.tensor(array, requires_grad=True) for array in (w[:, None], np.array([a])))
    loss = e02_rates.loss_with(x, y.reshape(-1, 1), w, a).sum()
    slopes = mg.autograd.grad(loss, [w, a])
    return (w - rate * slopes[0]).numpy()[:, 0], (a - slopes[1]).numpy()[0]


def theory_error(seed):
    w, a = np.random.default_rng(seed + 100).normal(size=20), 0.7
    theirs, ours = (step(seed, 1e3, w, a) for step in (step_of_theory, step_of_ours))
    return max(np.abs(t - o).max() / np.abs(t).max() for t, o in zip(theirs, ours, strict=True))


def test_a_step_with_batchnorm_is_that_of_the_theory(monkeypatch):
    assert max(theory_error(seed) for seed in range(5)) < 1e-11

    def planted(x, y, w, a):
        return 0.5 * mg.square(y - a * detached(x @ w)).mean(axis=0)

    monkeypatch.setattr(e02_rates, "loss_with", planted)
    assert min(theory_error(seed) for seed in range(5)) > 1e-3


def test_plain_descent_follows_the_formula_and_diverges_beyond_two_over_lambda(monkeypatch):
    rates = np.array([0.01, 0.5, 1.98, 2.02])

    def error():
        found = e02_rates.descend(3, rates, 500, normed=False)
        return found, np.abs(found / e02_rates.exact_descent(3, rates, 500) - 1).max()

    found, wrong = error()
    assert wrong < 1e-9 and (found[:3] < 1).all() and found[3] > 1
    plain = e02_rates.loss_without
    monkeypatch.setattr(e02_rates, "loss_without", lambda *operands: 1.001 * plain(*operands))
    assert error()[1] > 1e-3


def test_with_batchnorm_the_loss_falls_at_any_rate():
    rates = np.geomspace(1e-2, 1e6, 9)
    for seed in range(5):
        loss = e02_rates.descend(seed, rates, 1000, normed=True)
        assert (loss < 1).all() and loss[2:4].max() < 1e-8


# -------------------------------------------------------------------------------- 4: gradients
def linear_growth(batch):
    measured = [
        e04_gradients.growth(
            e04_gradients.squared_gradients(np.random.default_rng(seed), batch, 600, 6)
        )
        for seed in range(4)
    ]
    return np.mean(measured) / e04_gradients.linear_rate(batch) - 1


@pytest.mark.parametrize("batch", [8, 16])
def test_linear_layers_multiply_gradients_as_the_formula_says(batch, monkeypatch):
    assert abs(linear_growth(batch)) < 0.02
    monkeypatch.setattr(e04_gradients, "normalise", detached)  # (B-1)/(B-3)
    assert linear_growth(batch) > 0.04


def relu_growth(activation):
    squared = [
        e04_gradients.squared_gradients(np.random.default_rng(s), 96, 400, 10, activation)
        for s in range(3)
    ]
    return np.mean([e04_gradients.growth(each[2:]) for each in squared])


def test_relu_layers_approach_the_limit():
    assert relu_growth(mg.relu) == pytest.approx(e04_gradients.RELU_RATE, rel=0.03)
    assert abs(relu_growth(mg.tanh) / e04_gradients.RELU_RATE - 1) > 0.1


def test_orthogonal_weights_stop_the_growth():
    def largest(seed, orthogonal):
        random = np.random.default_rng(seed)
        squared = e04_gradients.squared_gradients(random, 40, 32, 200, orthogonal=orthogonal)
        return squared.max() / squared[-1]

    seeds = range(3)
    assert max(largest(seed, True) for seed in seeds) < 4
    assert min(largest(seed, False) for seed in seeds) > 40


# --------------------------------------------------------------- 10: standard deviation, variance
@pytest.mark.parametrize("sd", [0.01, 1.0, 100.0])
def test_the_variance_of_the_output(sd):
    deviation, variance = (
        e10_variance.output_variance(norm, sd, 0) for norm in e10_variance.NORMS.values()
    )
    assert deviation == pytest.approx(1, rel=1e-9)
    assert variance == pytest.approx(sd**-2, rel=1e-9)
    if sd != 1:
        assert variance != pytest.approx(1, rel=0.5)


def test_eps_would_be_seen():
    class Biased(mg.nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x) * (1 + 1e-6)

    assert e10_variance.output_variance(Biased, 1.0, 0) != pytest.approx(1, rel=1e-9)


# -------------------------------------------------------------------------- 14: scale invariance
def invariance_errors(problem):
    w = problem.first.weight.detach()
    gradient = problem.gradient(w)
    cosine = abs((w.numpy() * gradient).sum()) / np.linalg.norm(w.numpy())
    scaled = 7.0 * problem.gradient(w * 7.0)
    norms, predicted = problem.walk(1.0, 10)
    return [
        cosine / np.linalg.norm(gradient),
        np.abs(scaled - gradient).max() / np.abs(gradient).max(),
        np.abs(norms / predicted - 1).max(),
    ], norms


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_orthogonal_and_scale_to_machine_precision(seed, data):
    problem = e14_scale.Problem(Lab(data, quick=True), seed, normed=True)
    errors, norms = invariance_errors(problem)
    assert max(errors) < 1e-12 and (np.diff(norms) > 0).all()
    problem.rest[0].eps = 1e-5
    assert invariance_errors(problem)[0][1] > 1e-9
    plain, _ = invariance_errors(e14_scale.Problem(Lab(data, quick=True), seed, normed=False))
    assert min(plain) > 1e-6


def test_detached_statistics_break_the_invariance(data):
    problem = e14_scale.Problem(Lab(data, quick=True), 0, normed=True)

    class Planted(mg.nn.Module):
        def forward(self, x):
            return detached(x)

    problem.rest[0] = Planted()
    errors, _ = invariance_errors(problem)
    assert errors[0] > 1e-4 and errors[2] > 1e-6


# ------------------------------------------------------------------------ 15: pendulum, acrobot
def energy(state):
    """Of the acrobot, for angles and speeds as four Tensors: kinetic and potential."""
    first, second, speed, other = state
    both, turn = first + second, speed + other
    x = mg.cos(first) * speed + 0.5 * mg.cos(both) * turn  # the speed of the second link's middle
    y = mg.sin(first) * speed + 0.5 * mg.sin(both) * turn
    kinetic = 0.5 * (0.25 + 1) * speed**2 + 0.5 * (x * x + y * y) + 0.5 * turn**2
    return kinetic - 9.8 * (1.5 * mg.cos(first) + 0.5 * mg.cos(both))


def missing_power():
    """|dE/dt - torque · speed of the joint|, the largest of random states of the acrobot."""
    random, worst = np.random.default_rng(0), 0.0
    for _ in range(20):
        state, torque = 3 * random.normal(size=4), random.normal()
        found = e15_reinforcement.Acrobots.accelerations(state[:, None], np.array([torque]))
        parts = [mg.tensor(value, requires_grad=True) for value in state]
        slopes = [g.item() for g in mg.autograd.grad(energy(parts), parts)]
        rates = [state[2], state[3], found[0].item(), found[1].item()]
        worst = max(worst, abs(np.dot(slopes, rates) - torque * state[3]))
    return worst


def test_the_acrobot_obeys_mechanics(monkeypatch):
    assert missing_power() < 1e-11
    kind = e15_reinforcement.Acrobots
    right = kind.accelerations

    def without_a_term(state, torque):  # as Sutton (1996) is printed
        return right(state, torque + 0.5 * state[2] ** 2 * np.sin(state[1]))

    monkeypatch.setattr(kind, "accelerations", staticmethod(without_a_term))
    assert missing_power() > 0.1


def test_the_acrobot_hangs_swings_and_is_limited():
    world = e15_reinforcement.Acrobots([0, 1])
    assert world.reset().shape == (2, 6)
    world.state[:] = 0.0
    seen, height = world.step(np.zeros((2, 1)))
    np.testing.assert_allclose(height, -2)
    np.testing.assert_allclose(seen[0], [1, 0, 1, 0, 0, 0], atol=1e-12)
    first, second = world.step(np.array([[1.0], [-5.0]]))[0]
    np.testing.assert_allclose(first[[0, 2]], second[[0, 2]], rtol=1e-6)  # a torque of -1 at most
    np.testing.assert_allclose(first[[1, 3, 4, 5]], -second[[1, 3, 4, 5]], rtol=1e-5)
    highest = -2.0
    for _ in range(200):
        seen, height = world.step(np.sign(world.state[3])[:, None])  # pumps energy in
        assert np.abs(seen).max() <= 1 and np.abs(height).max() <= 2
        highest = max(highest, height.max())
    assert highest > 1


def test_worlds_explore_each_in_their_way():
    seeds = list(range(500))
    calm, wild = (kind(seeds) for kind in (e15_reinforcement.Pendulums, e15_reinforcement.Acrobots))
    action = np.full((500, 1), 0.25, np.float32)
    assert (calm.explore(action, False) == action).all()
    assert np.abs(calm.explore(action, True)).std() > 0.2
    later, start = wild.explore(action, False), wild.explore(action, True)
    assert set(np.unique(start)) == {-1, 1} and 0.25 in later
    assert (later != action).mean() == pytest.approx(0.3, abs=0.06)


def returns_panel(title, ours, plain, naive):
    at = list(range(8))
    arms = {BATCHNORM: ours, NONE: plain, e15_reinforcement.NAIVE: naive}
    return Panel(title, "x", "y", at, {arm: [[v, v + 0.1, v - 0.1]] * 8 for arm, v in arms.items()})


@pytest.mark.parametrize(
    "pendulum, acrobot, expected",
    [
        ((3, 1, 1), (3, 1, 1), HOLDS),
        ((3, 3, 1), (3, 1, 1), PARTLY),
        ((3, 3, 3), (3, 3, 3), FAILS),
        ((3, 1, 1), (1, 3, 1), FAILS),
        ((1, 3, 3), (1, 3, 3), FAILS),
    ],
)
def test_the_rule_of_reinforcement_learning(pendulum, acrobot, expected):
    panels = [returns_panel("Pendulum", *pendulum), returns_panel("Acrobot", *acrobot)]
    assert e15_reinforcement.judge(panels)[0] == expected


@pytest.mark.parametrize(
    "fitted, noisy, small, expected",
    [
        ([-5, -5], [5, 5], [0, 5], HOLDS),
        ([-5, 5], [5, 5], [0, 5], PARTLY),
        ([-5, 0], [0, -5], [0, 5], PARTLY),
        ([5, 5], [5, -5], [5, -5], FAILS),
        ([0, 0], [0, 0], [0, 0], FAILS),
    ],
)
def test_the_rule_of_regularisation(fitted, noisy, small, expected):
    """The differences between the nets with and without BatchNorm at two points."""

    def compared(steps):
        arms = {BATCHNORM: steps, NONE: [0, 0]}
        return Panel(
            "t", "x", "y", [0, 60], {a: [[v, v + 1, v - 1] for v in vs] for a, vs in arms.items()}
        )

    ghosts = Panel("t", "x", "y", [0], {BATCHNORM: [[1.0]], e05_regulariser.GHOST: [[1.0]]})
    panels = [compared(steps) for steps in (fitted, noisy, small)]
    assert e05_regulariser.judge([*panels, panels[0], ghosts])[0] == expected


# ------------------------------------------------------------------------------ 16: Taylor terms
def sizes(seed, normed=True, shared=True):
    terms, whole = e16_taylor.gradients(seed, normed, shared)
    np.testing.assert_allclose(sum(terms), whole, atol=1e-12)
    return [np.linalg.norm(term) / np.linalg.norm(whole) for term in terms]


@pytest.mark.parametrize("seed", range(3))
def test_batchnorm_blocks_the_first_order_and_the_diagonal(seed, monkeypatch):
    first, diagonal, off, rest = sizes(seed)
    assert max(first, diagonal) < 1e-12 and min(off, rest) > 1e-2
    assert min(sizes(seed, normed=False)) > 1e-2
    assert sizes(seed, shared=False)[0] > 0.1
    monkeypatch.setattr(
        e16_taylor, "features", lambda x, gamma, beta, normed: detached(x) * gamma + beta
    )
    assert min(sizes(seed)[:2]) > 1e-2


# ------------------------------------------------------------------------------- the harness
class Stand:
    """A stand-in for the module of an experiment."""

    CLAIM = e02_rates.CLAIM

    def __init__(self, run):
        self.run = run

    @staticmethod
    def judge(panels):
        return HOLDS, "always"


def verdict(monkeypatch, run, lab):
    monkeypatch.setattr("examples.batchnorm_lab.lab.experiments", lambda: {"stand": Stand(run)})
    record = perform("stand", lab)
    return record["verdict"], record["reason"]


def panel(values):
    return Panel("title", "x", "y", [1, 2], {BATCHNORM: values})


def test_what_does_not_finish_is_not_shown(monkeypatch, data):
    lab = Lab(data, quick=True)
    whole = [[1.0, 2.0], [3.0, 4.0]]
    assert verdict(monkeypatch, lambda lab: [panel(whole)], lab)[0] == HOLDS
    for broken in ([[1.0, math.nan], [3.0, 4.0]], [[1.0], [3.0, 4.0]], [[1.0, 2.0]]):
        said, reason = verdict(monkeypatch, lambda lab, b=broken: [panel(b)], lab)
        assert said == NOT_SHOWN and "title" in reason
    assert verdict(monkeypatch, lambda lab: [], lab)[0] == NOT_SHOWN
    full = dataclasses.replace(lab, quick=False)  # two seeds are not five
    assert verdict(monkeypatch, lambda lab: [panel(whole)], full)[0] == NOT_SHOWN
    said, reason = verdict(monkeypatch, lambda lab: 1 / 0, lab)
    assert said == NOT_SHOWN and "ZeroDivisionError" in reason


def test_an_experiment_that_takes_too_long_is_not_shown(monkeypatch, data):
    lab = Lab(data, quick=True, limit=-1.0)
    said, reason = verdict(monkeypatch, lambda lab: [*lab.steps(3, "slow")], lab)
    assert said == NOT_SHOWN and "slow" in reason


def test_a_clear_difference():
    assert clearly_above([2.0, 2.1, 1.9], [1.0, 1.1, 0.9])
    assert not clearly_above([1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
    assert not clearly_above([1.0, 2.0, 3.0], [0.9, 1.9, 2.9])


def test_a_record_survives_json(tmp_path, data):
    record, panels = quick("taylor")
    record = copy.deepcopy(record)
    write_json(record, tmp_path / "e16_taylor.json")
    again = read_json(tmp_path / "e16_taylor.json")
    for old, new in zip(panels, again["panels"], strict=True):
        np.testing.assert_allclose(new.arms[BATCHNORM], old.arms[BATCHNORM], rtol=1e-5)
    record["panels"][0].arms[BATCHNORM][0][0] = math.nan
    write_json(record, tmp_path / "e16_taylor.json")
    assert not read_json(tmp_path / "e16_taylor.json")["panels"][0].finished(2)


def test_members_of_a_sweep_start_alike_and_rates_are_chosen_by_validation(data):
    lab = Lab(data, quick=True)
    found = train(lab, "", lambda: mg.nn.Sequential(mg.nn.Linear(64, 10)), [0.0, 1e-3, 0.5], 30)
    assert found.test.shape == found.validation.shape == (3, 2) and found.best == 2
    start = found.net[0][0].weight.numpy()
    mg.manual_seed(0)
    plain = mg.nn.Sequential(mg.nn.Linear(64, 10))
    np.testing.assert_array_equal(start, plain[0].weight.numpy())  # a rate of 0 leaves it so


def test_the_report_names_every_claim(tmp_path):
    main(["taylor", "14", "--quick", "--output", str(tmp_path)])
    text = (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    for module in experiments().values():
        assert module.CLAIM.text in text
    assert text.count("not shown: not run") == len(NAMES) - 2
    assert text.count("**Verdict: holds.**") == 2 and "](e16_taylor.png)" in text


def test_the_published_report_is_whole():
    text = (PUBLISHED / "REPORT.md").read_text(encoding="utf-8")
    for name, module in experiments().items():
        record = published(name)
        assert not record["quick"] and len(record["seeds"]) >= SEEDS, name
        assert record["verdict"] != NOT_SHOWN and record["seconds"] < 180, name
        assert (PUBLISHED / report.json_name(name)).with_suffix(".png").is_file()
        claim = module.CLAIM
        for part in (record["reason"], claim.setup, claim.rule, claim.shows, claim.limits):
            assert part in text, f"{name} is out of date; --publish --redraw writes it anew"


# --------------------------------------------------------------- a run against the published report
def files():
    return {path: path.stat().st_mtime_ns for path in PUBLISHED.iterdir()}


def test_published_numbers_are_found_again(capsys, monkeypatch):
    """The quickest experiments; `make lab ARGS=--check` compares all, in some ten minutes."""
    before = files()
    assert main(["--check", "scale", "16"]) == 0
    assert capsys.readouterr().out.count("as published") == 2
    monkeypatch.setattr(
        e16_taylor, "features", lambda x, gamma, beta, normed: detached(x) * gamma + beta
    )
    assert main(["--check", "taylor", "scale"]) == 1
    said = capsys.readouterr().out
    assert (
        "verdict: does not hold" in said and "one class for all samples, BatchNorm, first" in said
    )
    assert "14 scale: as published" in said and files() == before, "a check writes nothing"


def published(name):
    return read_json(PUBLISHED / report.json_name(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_difference_is_found(name):
    old = published(name)
    assert differences(published(name), old) == []
    for number, panel in enumerate(old["panels"]):
        for arm, points in panel.arms.items():
            spread = np.std(points[0], ddof=1)
            far = 1.1 * spread + 2e-3 * abs(np.mean(points[0])) + 1e-8
            for moved, found in ((far, 1), (0.9 * spread, 0)):
                new = published(name)
                values = new["panels"][number].arms[arm]
                values[0] = [value + moved for value in values[0]]
                timed = "microseconds" in panel.y
                lines = differences(new, old)
                assert len(lines) == (0 if timed else found), (panel.title, arm)
                assert all(line.startswith(f"{panel.title}, {arm}, ") for line in lines)


def test_points_are_compared_as_they_are_written():
    exact = Panel("t", "x", "y", [10 / 3], {BATCHNORM: [[1.0, 2.0]]})
    assert (
        exact.axes() == dataclasses.replace(exact, at=[3.33333]).axes() == ([3.3333], [BATCHNORM])
    )
    assert exact.axes() != dataclasses.replace(exact, at=[3.334]).axes()


def test_other_differences_are_found():
    old = published("taylor")
    for change, words in (
        (lambda record: record.update(verdict=FAILS), "verdict: does not hold"),
        (lambda record: record["panels"].pop(), "other arms or points"),
        (lambda record: record["panels"][0].at.pop(), "other arms or points"),
        (lambda record: record["panels"][0].arms.pop(NONE), "other arms or points"),
        (lambda record: record["panels"][0].arms[NONE][2].append(math.nan), "nan, was"),
    ):
        new = published("taylor")
        change(new)
        (line,) = differences(new, old)
        assert words in line


def test_a_report_is_judged_and_drawn_anew(tmp_path, capsys):
    record = published("regulariser")
    write_json(
        {**record, "verdict": HOLDS, "reason": "as it was"}, tmp_path / "e05_regulariser.json"
    )
    assert main(["--redraw", "--output", str(tmp_path)]) == 0
    again = read_json(tmp_path / "e05_regulariser.json")
    assert again["verdict"] == record["verdict"] and again["reason"] in capsys.readouterr().out
    assert again["seconds"] == record["seconds"] and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", NAMES)
def test_published_verdicts_follow_from_the_published_numbers(name):
    record = published(name)
    assert judged(record)["verdict"] == record["verdict"]


# ---------------------------------------------------------------------------------- bad input
def test_names_and_numbers_of_experiments():
    assert find("2") == find("rates") == "rates"
    with pytest.raises(LookupError, match="no experiment 'gamma'; there are 1 convergence"):
        find("gamma")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nonsense"], "no experiment 'nonsense'"),
        (["--dataset", "cifar"], "no data set 'cifar'; there are digits, mnist5k, fashion-mnist"),
        (["--dataset", "fashion-mnist", "--folder", "/nowhere"], "apt install"),
        (["--publish", "--quick"], "--publish goes with a full run"),
    ],
)
def test_bad_arguments_take_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "examples.batchnorm_lab", "nonsense"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("batchnorm_lab: no experiment")


def idx(values):
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return head + values.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path, packed):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = idx(values)
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    np.testing.assert_array_equal(read_idx(tmp_path, "images"), values)


@pytest.mark.parametrize(
    "name, content",
    [
        ("images", b""),
        ("images", b"<html>not found</html>"),
        ("images", idx(np.zeros((2, 3), np.uint8))[:-1]),
        ("images.gz", gzip.compress(idx(np.zeros((40, 3), np.uint8)))[:-12]),
        ("images.gz", b"no archive"),
    ],
)
def test_a_broken_download_is_reported(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"images.* is damaged .*get it again"):
        read_idx(tmp_path, "images")


def test_fashion_mnist_from_a_folder(tmp_path):
    random = np.random.default_rng(0)
    for part, count in (("train", 6000), ("t10k", 2000)):
        images = random.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        labels = random.integers(0, 10, count).astype(np.uint8)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    found = load("fashion-mnist", str(tmp_path))
    assert found.side == 28 and found.test_x.shape == (2000, 784)
    np.testing.assert_allclose(found.test_x.numpy()[-1], images[-1].ravel() / 255, rtol=1e-6)


def test_parts_of_the_data_do_not_overlap(data):
    rows = np.concatenate([t.numpy() for t in (data.train_x, data.validation_x, data.test_x)])
    assert len(rows) == 1797 and data.first(10).train_x.shape == (10, 64)
    assert len(np.unique(rows, axis=0)) > 1790  # some scans are alike
