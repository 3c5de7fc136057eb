"""Learning rate schedulers against their formulas, alone, together and resumed."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad.optim import SGD, Adagrad, Adam, ScheduleFreeAdamW, ScheduleFreeSGD
from minigrad.optim.lr_scheduler import (
    SWALR,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from minigrad.serialization import load, save

LRS = (0.1, 0.02)


def make(kind=SGD, **options):
    a, b = mg.ones(1, requires_grad=True), mg.ones(2, requires_grad=True)
    return kind([{"params": [a]}, {"params": [b], "lr": LRS[1]}], lr=LRS[0], **options)


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def follow(optimizer, scheduler, steps):
    seen = [rates(optimizer)]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        assert scheduler.get_last_lr() == rates(optimizer)
        seen.append(rates(optimizer))
    return np.array(seen)


def restarts(epoch, length, factor):
    while epoch >= length:
        epoch, length = epoch - length, length * factor
    return (1 + math.cos(math.pi * epoch / length)) / 2


def linear(epoch, start, end, total):
    return start + (end - start) * min(epoch, total) / total


# a scheduler, and its factors of the initial rate
MULTIPLIERS = {
    "StepLR": (lambda o: StepLR(o, 3), lambda e: 0.1 ** (e // 3)),
    "MultiStepLR": (
        lambda o: MultiStepLR(o, [2, 5, 5, 9], 0.5),
        lambda e: 0.5 ** sum(m <= e for m in (2, 5, 5, 9)),
    ),
    "ConstantLR": (lambda o: ConstantLR(o, 0.25, 4), lambda e: 0.25 if e < 4 else 1),
    "ConstantLR from 0": (lambda o: ConstantLR(o, 0.0, 4), lambda e: float(e >= 4)),
    "LinearLR": (lambda o: LinearLR(o), lambda e: linear(e, 1 / 3, 1, 5)),
    "LinearLR to 0": (lambda o: LinearLR(o, 1.0, 0.0, 7), lambda e: linear(e, 1, 0, 7)),
    "ExponentialLR": (lambda o: ExponentialLR(o, 0.9), lambda e: 0.9**e),
    "ExponentialLR to 0": (lambda o: ExponentialLR(o, 0.0), lambda e: float(e == 0)),
    "PolynomialLR": (lambda o: PolynomialLR(o, 8, 2), lambda e: (1 - min(e, 8) / 8) ** 2),
    "CosineAnnealingLR": (
        lambda o: CosineAnnealingLR(o, 6),
        lambda e: (1 + math.cos(math.pi * e / 6)) / 2,
    ),
    "CosineAnnealingLR of 1": (lambda o: CosineAnnealingLR(o, 1), lambda e: float(e % 2 == 0)),
    "SWALR": (lambda o: SWALR(o, 0.0, 6), lambda e: (1 + math.cos(math.pi * min(e, 6) / 6)) / 2),
    "SWALR at once": (lambda o: SWALR(o, 0.0, 0), lambda e: 0.0),
    "SWALR on a line": (
        lambda o: SWALR(o, 0.0, 5, "linear"),
        lambda e: linear(e, 1, 0, 5),
    ),
    "CosineAnnealingWarmRestarts": (
        lambda o: CosineAnnealingWarmRestarts(o, 2, 3),
        lambda e: restarts(e, 2, 3),
    ),
    "LambdaLR": (lambda o: LambdaLR(o, lambda e: 1 / (1 + e)), lambda e: 1 / (1 + e)),
}


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_the_rate_is_the_formula(name):
    build, multiplier = MULTIPLIERS[name]
    optimizer = make()
    seen = follow(optimizer, build(optimizer), 40)
    expected = np.outer([multiplier(epoch) for epoch in range(41)], LRS)
    np.testing.assert_allclose(seen, expected, rtol=1e-12, atol=1e-17)


def test_cosine_annealing_ends_at_eta_min():
    optimizer = make()
    seen = follow(optimizer, CosineAnnealingLR(optimizer, 10, eta_min=0.01), 30)
    weight = (1 + np.cos(np.pi * np.arange(31) / 10)) / 2
    np.testing.assert_allclose(seen, 0.01 + np.outer(weight, np.array(LRS) - 0.01), rtol=1e-12)
    assert seen[10].tolist() == [0.01, 0.01]


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_swa_anneals_from_whatever_the_rate_is(strategy):
    optimizer = make()
    scheduler = SWALR(optimizer, [0.05, 0.2], 4, strategy)
    for group, lr in zip(optimizer.param_groups, (0.8, 0.01), strict=True):  # by another schedule
        group["lr"] = lr
    seen = follow(optimizer, scheduler, 7)
    done = np.minimum(np.arange(8), 4) / 4
    done = done if strategy == "linear" else (1 - np.cos(np.pi * done)) / 2
    for column, lr, end in zip(np.transpose(seen), (0.8, 0.01), (0.05, 0.2), strict=True):
        np.testing.assert_allclose(column, end + (lr - end) * (1 - done), rtol=1e-12)
    optimizer.add_param_group({"params": mg.ones(3, requires_grad=True), "lr": 0.8})
    optimizer.param_groups[0]["lr"] = 7.0
    scheduler.step()
    assert rates(optimizer) == [0.05, 0.2, 0.05]


def test_a_checkpoint_keeps_the_rate_that_swa_anneals_to():
    optimizer, other = make(), make()
    scheduler = SWALR(optimizer, [0.05, 0.2], 4)
    follow(optimizer, scheduler, 2)
    resumed = SWALR(other, 0.7, 9)
    resumed.load_state_dict(scheduler.state_dict())
    np.testing.assert_array_equal(follow(other, resumed, 5), follow(optimizer, scheduler, 5))


def test_a_sequence_goes_on_to_swa_from_its_rate():
    optimizer = make()
    first = ExponentialLR(optimizer, 0.5)
    sequence = SequentialLR(optimizer, [first, SWALR(optimizer, 0.0, 2, "linear")], [2])
    seen = np.array(follow(optimizer, sequence, 4))
    np.testing.assert_allclose(seen[:, 0] / seen[0, 0], [1, 0.5, 0.5, 0.25, 0])


def test_restarts_take_fractions_of_an_epoch():
    optimizer = make()
    scheduler = CosineAnnealingWarmRestarts(optimizer, 2, 2, eta_min=0.001)
    for epoch in (0.5, 1.999, 2.0, 5.25, 6.0, 40.5):
        scheduler.step(epoch)
        expected = [0.001 + (lr - 0.001) * restarts(epoch, 2, 2) for lr in LRS]
        np.testing.assert_allclose(rates(optimizer), expected, rtol=1e-12)
        assert scheduler.last_epoch == int(epoch)
    with pytest.raises(ValueError, match="Invalid epoch: -1"):
        scheduler.step(-1)
    steady = CosineAnnealingWarmRestarts(optimizer, 3)
    steady.step(3e15 + 1.5)  # immediately, not restart by restart
    assert (steady.T_cur, steady.T_i) == (1.5, 3)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_one_cycle(kind, three_phase, strategy):
    optimizer = make(kind)
    total, share = 40, 0.25
    scheduler = OneCycleLR(
        optimizer,
        [1.0, 0.5],
        epochs=4,
        steps_per_epoch=10,
        pct_start=share,
        anneal_strategy=strategy,
        three_phase=three_phase,
        div_factor=10,
        final_div_factor=100,
        base_momentum=[0.8, 0.6],
        max_momentum=[0.9, 0.7],
    )
    rise = share * total - 1
    knots = [0, rise, 2 * rise, total - 1] if three_phase else [0, rise, total - 1]
    heights = [0.1, 1, 0.1, 1e-3] if three_phase else [0.1, 1, 1e-3]
    momenta = [0.9, 0.8, 0.9, 0.9][: len(knots)]

    def curve(epoch, values):
        i = max(i for i in range(len(knots) - 1) if knots[i] <= epoch)
        done = (epoch - knots[i]) / (knots[i + 1] - knots[i])
        if strategy == "cos":
            done = (1 - math.cos(math.pi * done)) / 2
        return values[i] + (values[i + 1] - values[i]) * done

    for epoch in range(total):
        expected = curve(epoch, heights)
        np.testing.assert_allclose(rates(optimizer), [expected, expected / 2], rtol=1e-9)
        for group, lower in zip(optimizer.param_groups, (0.0, 0.2), strict=True):
            momentum = group["momentum"] if kind is SGD else group["betas"][0]
            assert momentum == pytest.approx(curve(epoch, momenta) - lower, rel=1e-9)
        optimizer.step()
        scheduler.step()
    before = rates(optimizer), scheduler.state_dict()
    with pytest.raises(ValueError, match="step 41 exceeds the 40 of the cycle"):
        scheduler.step()
    assert (rates(optimizer), scheduler.state_dict()) == before


def test_one_cycle_of_momenta_by_default():
    """From 0.95 to 0.85 at the highest rate, and back."""
    optimizer = make()
    scheduler = OneCycleLR(optimizer, 1.0, 11, pct_start=6 / 11, anneal_strategy="linear")
    seen = []
    for _ in range(11):
        seen.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    down = np.linspace(0.95, 0.85, 6)
    np.testing.assert_allclose(seen, [*down, *down[-2::-1]], rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])  # empty phases at 10 steps
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_with_empty_phases(share, three_phase):
    optimizer = make()
    scheduler = OneCycleLR(
        optimizer, 1.0, 10, pct_start=share, three_phase=three_phase, cycle_momentum=False
    )
    seen = follow(optimizer, scheduler, 10)
    assert np.isfinite(seen).all() and seen.max() <= 1 + 1e-12 and "momentum" in optimizer.defaults
    assert optimizer.param_groups[0]["momentum"] == 0


# ------------------------------------------------------------------------------- several together
def test_schedulers_multiply_and_let_others_write():
    optimizer = make()
    exponential, steps = ExponentialLR(optimizer, 0.9), StepLR(optimizer, 2, 0.5)
    for epoch in range(1, 8):
        exponential.step()
        steps.step()
        expected = np.array(LRS) * 0.9**epoch * 0.5 ** (epoch // 2)
        np.testing.assert_allclose(rates(optimizer), expected, rtol=1e-12)
    optimizer.param_groups[0]["lr"] = 5.0
    exponential.step()
    assert rates(optimizer)[0] == pytest.approx(4.5)


def test_a_group_that_is_added_joins_in():
    optimizer = make()
    exponential, function = ExponentialLR(optimizer, 0.5), LambdaLR(optimizer, lambda e: 0.5**e)
    exponential.step()
    optimizer.add_param_group({"params": mg.ones(3, requires_grad=True), "lr": 0.8})
    exponential.step()
    assert rates(optimizer)[2] == 0.4 and exponential.base_lrs[2] == 0.8
    function.step()
    assert rates(optimizer) == pytest.approx([0.05, 0.01, 0.4])
    other = make()
    listed = LambdaLR(other, [lambda e: 1.0, lambda e: 2.0])
    other.add_param_group({"params": mg.ones(3, requires_grad=True)})
    with pytest.raises(ValueError, match="LambdaLR: get_lr gave 2 rates for 3 parameter groups"):
        listed.step()
    assert listed.last_epoch == 0


@pytest.mark.parametrize("stop", [0, 1, 4])
@pytest.mark.parametrize("name", [*MULTIPLIERS, "OneCycleLR", "SequentialLR", "nested", "plateau"])
def test_every_schedule_takes_in_a_group_that_is_added(name, stop):
    """It follows one that was there from the start, times its own rate at that time."""
    builds = {**RESUMED, "nested": nested, "plateau": RESUMED["ReduceLROnPlateau"]}
    optimizer, other = make(momentum=0.9), make(momentum=0.9)
    late = {"params": mg.ones(3, requires_grad=True), "lr": LRS[0]}
    other.add_param_group(late)
    scheduler, reference = builds[name](optimizer), builds[name](other)
    follow(optimizer, scheduler, stop) if stop else None
    follow(other, reference, stop) if stop else None
    optimizer.add_param_group({**late, "lr": rates(other)[2]})
    optimizer.param_groups[2]["initial_lr"] = other.param_groups[2].get("initial_lr", LRS[0])
    seen, expected = follow(optimizer, scheduler, 20), follow(other, reference, 20)
    np.testing.assert_allclose(seen, expected, rtol=1e-12, atol=1e-18)
    assert optimizer.param_groups[2]["momentum"] == other.param_groups[2]["momentum"]
    # and its state is kept
    states = optimizer.state_dict(), scheduler.state_dict()
    expected = follow(optimizer, scheduler, 9)
    for first in (0, 1):
        third = make(momentum=0.9)
        resumed = builds[name](third)
        third.add_param_group(late)
        for which in (first, 1 - first):
            (third, resumed)[which].load_state_dict(states[which])
        np.testing.assert_array_equal(follow(third, resumed, 9), expected)


def test_a_late_group_of_a_cycle():
    def late(max_lr):
        optimizer = make(momentum=0.9)
        scheduler = OneCycleLR(optimizer, max_lr, 20)
        scheduler.step()
        optimizer.add_param_group({"params": mg.ones(3, requires_grad=True), "lr": 0.8})
        return optimizer, scheduler

    optimizer, scheduler = late(1.0)
    follow(optimizer, scheduler, 5)
    first, third = optimizer.param_groups[0], optimizer.param_groups[2]
    assert {**first, "params": 0} == {**third, "params": 0}
    optimizer, scheduler = late([1.0, 0.5])
    before = scheduler.state_dict(), groups_of(optimizer)
    with pytest.raises(ValueError, match=r"OneCycleLR: parameter group 2 was added later and the"):
        scheduler.step()
    assert (scheduler.state_dict(), groups_of(optimizer)) == before
    own = {"max_lr": 4.0, "initial_lr": 1.0, "min_lr": 0.5}
    optimizer.param_groups[2].update(own)
    seen = follow(optimizer, scheduler, 4)[:, 2]
    assert seen[-1] == 4.0 and optimizer.param_groups[2]["momentum"] == 0.85
    other, resumed = late([1.0, 0.5])
    resumed.load_state_dict(scheduler.state_dict())  # before other.load_state_dict
    assert groups_of(other) == groups_of(optimizer)
    np.testing.assert_array_equal(follow(other, resumed, 9), follow(optimizer, scheduler, 9))


def test_a_sequence():
    optimizer = make()
    parts = [LinearLR(optimizer, 0.5, 1.0, 4), ConstantLR(optimizer, 0.1, 3)]
    parts.append(CosineAnnealingLR(optimizer, 10, 0.001))
    seen = follow(optimizer, SequentialLR(optimizer, parts, [4, 7]), 17)
    expected = [linear(e, 0.5, 1, 4) for e in range(4)] + [0.1] * 3
    np.testing.assert_allclose(seen[:7], np.outer(expected, LRS), rtol=1e-12)
    weight = (1 + np.cos(np.pi * np.arange(11) / 10)) / 2
    np.testing.assert_allclose(
        seen[7:], 0.001 + np.outer(weight, np.array(LRS) - 0.001), rtol=1e-12
    )


def test_a_sequence_within_a_sequence():
    optimizer = make()
    inner = SequentialLR(
        optimizer, [ConstantLR(optimizer, 0.5, 99), ExponentialLR(optimizer, 0.1)], [2]
    )
    first = CosineAnnealingWarmRestarts(optimizer, 5)
    seen = follow(optimizer, SequentialLR(optimizer, [first, inner], [3]), 8)[:, 0] / LRS[0]
    expected = [restarts(e, 5, 1) for e in range(3)] + [0.5, 0.5, 1, 0.1, 0.01, 0.001]
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


# ------------------------------------------------------------------------------- plateaus
def plateau(metrics, **options):
    optimizer = make()
    scheduler = ReduceLROnPlateau(optimizer, **options)
    seen = []
    for metric in metrics:
        scheduler.step(metric)
        seen.append(round(rates(optimizer)[0], 10))
    return seen, scheduler


def test_a_plateau_reduces_the_rate():
    seen, scheduler = plateau([5, 4, 4, 4, 4, 3, 3], patience=1, factor=0.5)
    assert seen == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]
    assert scheduler.best == 3 and scheduler.num_bad_epochs == 1 and scheduler.last_epoch == 7


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold", [1e-4, 0.1])
def test_a_relative_threshold_is_a_share_of_the_size(mode, threshold):
    """Metrics below 0, such as log-likelihoods."""
    sign = 1 if mode == "min" else -1
    for best in (-5.0, -1e-3, 5.0, 1e-3, -1e30, 1e30):
        better, worse, close = (best - sign * abs(best) * threshold * k for k in (1.5, -1.5, 0.5))
        for metric, expected in [(better, better), (worse, best), (close, best), (best, best)]:
            seen, scheduler = plateau(
                [best, metric], mode=mode, threshold=threshold, patience=0, factor=0.5
            )
            assert scheduler.best == expected
            assert seen[1] == (0.1 if metric == better else 0.05)
    seen, scheduler = plateau([0.0, -sign * 1e-9, sign], mode=mode, threshold=threshold, patience=0)
    assert scheduler.best == -sign * 1e-9 and seen == [0.1, 0.1, 0.01]
    falling = [-sign * e for e in (1.0, 2.0, 3.0, 4.0)]
    assert plateau(falling, mode=mode, patience=0)[0] == [0.1] * 4
    stuck = [-sign * 3.0] * 4
    assert plateau(stuck, mode=mode, patience=1)[0] == [0.1, 0.1, 0.01, 0.01]


def test_what_counts_as_better():
    for options, metrics, best in [
        ({"threshold": 0.1}, [10, 9.5, 9.01], 10),
        ({"threshold": 0.1}, [10, 8.99], 8.99),
        ({"threshold": 0.1, "threshold_mode": "abs"}, [10, 9.95], 10),
        ({"threshold": 0.1, "threshold_mode": "abs"}, [10, 9.85], 9.85),
        ({"mode": "max", "threshold": 0.1}, [10, 10.9], 10),
        ({"mode": "max", "threshold": 0.1}, [10, 11.1], 11.1),
        ({"mode": "max", "threshold": 0.1, "threshold_mode": "abs"}, [10, 10.2], 10.2),
        ({}, [10, float("nan")], 10),
    ]:
        assert plateau(metrics, **options)[1].best == best


def test_cooldown_bounds_and_small_reductions():
    seen, _ = plateau([1.0] * 8, patience=0, factor=0.5, cooldown=2)
    assert seen == [0.1, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025, 0.0125]
    seen, _ = plateau([1.0] * 4, patience=0, factor=0.5, min_lr=[0.04, 0])
    assert seen == [0.1, 0.05, 0.04, 0.04]
    seen, _ = plateau([1.0] * 3, patience=0, factor=0.5, eps=0.06)
    assert seen == [0.1] * 3
    seen, _ = plateau([1.0] * 3, patience=0, factor=0.5, eps=0.1 - 0.1 * 0.5)
    assert seen == [0.1] * 3  # a reduction smaller than eps is skipped
    assert plateau([mg.tensor(2.0), np.float32(1.5)])[1].best == 1.5


# ------------------------------------------------------------------------------- checkpoints
class Falling:
    """A callable with its own state, which a checkpoint keeps."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, epoch):
        return self.rate**epoch


ALL = {
    **{name: build for name, (build, _) in MULTIPLIERS.items()},
    "OneCycleLR": lambda o: OneCycleLR(o, 1.0, 60),
    "SequentialLR": lambda o: SequentialLR(
        o, [LinearLR(o), CosineAnnealingWarmRestarts(o, 3), StepLR(o, 4)], [6, 13]
    ),
}


@pytest.mark.parametrize("stop", [1, 7, 20])
@pytest.mark.parametrize("name", ALL)
def test_a_checkpoint_continues_the_schedule(name, stop):
    optimizer, other = make(momentum=0.9), make(momentum=0.9)
    scheduler = ALL[name](optimizer)
    follow(optimizer, scheduler, stop)
    file = io.BytesIO()
    save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    expected = follow(optimizer, scheduler, 20)
    file.seek(0)
    checkpoint = load(file)
    resumed = ALL[name](other)
    other.load_state_dict(checkpoint["optimizer"])
    resumed.load_state_dict(checkpoint["scheduler"])
    assert resumed.last_epoch == stop
    np.testing.assert_array_equal(follow(other, resumed, 20), expected)


def nested(o):
    """A OneCycleLR between others, built first, though its turn comes last."""
    cycle = OneCycleLR(o, 1.0, 60)
    inner = SequentialLR(o, [ConstantLR(o, 0.5, 99), ExponentialLR(o, 0.9)], [3])
    return SequentialLR(o, [LinearLR(o), inner, cycle], [4, 15])


class Together:
    """Several schedulers that are stepped, saved and loaded one after another."""

    def __init__(self, *schedulers, reverse=False):
        self.schedulers, self.loading = schedulers, schedulers[:: -1 if reverse else 1]

    def step(self):
        for scheduler in self.schedulers:
            scheduler.step()

    def state_dict(self):
        return [scheduler.state_dict() for scheduler in self.loading]

    def load_state_dict(self, state):
        for scheduler, part in zip(self.loading, state, strict=True):
            scheduler.load_state_dict(part)


class Plateau(ReduceLROnPlateau):
    def step(self):
        super().step(-1.0)


class Decaying(LRScheduler):
    """Drives an option that no scheduler of the package does."""

    driven = (*LRScheduler.driven, "weight_decay")

    def get_lr(self):
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.5**self.last_epoch
        return self.base_lrs


RESUMED = {
    **ALL,
    "one's own": Decaying,
    "ReduceLROnPlateau": lambda o: Plateau(o, factor=0.5, patience=2, cooldown=1),
    "LambdaLR of several": lambda o: LambdaLR(o, [Falling(0.9), Falling(0.5)]),
    "OneCycleLR in three phases": lambda o: OneCycleLR(
        o, [1.0, 0.5], 60, three_phase=True, anneal_strategy="linear", base_momentum=[0.5, 0.6]
    ),
    "OneCycleLR without momenta": lambda o: OneCycleLR(o, 1.0, 60, cycle_momentum=False),
    "a nested SequentialLR": nested,
    "two": lambda o: Together(LinearLR(o), StepLR(o, 3)),
    "two, loaded in reverse": lambda o: Together(ExponentialLR(o, 0.9), LinearLR(o), reverse=True),
    "with a plateau": lambda o: Together(Plateau(o, factor=0.5, patience=1), LinearLR(o)),
}
ORDERS = [
    ("build", "optimizer", "scheduler"),
    ("build", "scheduler", "optimizer"),
    ("optimizer", "build", "scheduler"),
    ("build", "scheduler"),
    ("optimizer", "build", "scheduler", "scheduler"),
]


def groups_of(optimizer):
    return [{**group, "params": None} for group in optimizer.param_groups]


def resumed_from(scheduler, optimizer, other, name, order, through):
    """A scheduler of `other`, after both were saved and loaded, in an order of events."""
    state = scheduler.state_dict()
    if through == "JSON":
        state = json.loads(json.dumps(state))
    file = io.BytesIO()
    save({"optimizer": optimizer.state_dict(), "scheduler": state}, file)
    file.seek(0)
    checkpoint = load(file)
    for event in order:
        if event == "build":
            resumed = RESUMED[name](other)
        elif event == "optimizer":
            other.load_state_dict(checkpoint["optimizer"])
        else:
            resumed.load_state_dict(checkpoint["scheduler"])
    return resumed


@pytest.mark.parametrize("kind, options", [(SGD, {"momentum": 0.9}), (Adam, {})])
@pytest.mark.parametrize("through", ["a file", "JSON"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_is_resumed_in_any_order(name, order, through, kind, options):
    def run(optimizer, scheduler, steps):
        seen = []
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
            seen.append(copy.deepcopy(groups_of(optimizer)))
        return seen

    for stop in (0, 1, 5, 17):
        optimizer, other = make(kind, **options), make(kind, **options)
        scheduler = RESUMED[name](optimizer)
        run(optimizer, scheduler, stop)
        resumed = resumed_from(scheduler, optimizer, other, name, order, through)
        assert groups_of(other) == groups_of(optimizer)
        assert run(other, resumed, 20) == run(optimizer, scheduler, 20)


def test_the_state_tells_the_bounds_of_a_cycle():
    optimizer, other = make(momentum=0.5), make(momentum=0.5)
    scheduler = OneCycleLR(optimizer, 2.0, 60, base_momentum=0.25, max_momentum=0.75)
    follow(optimizer, scheduler, 9)
    resumed = OneCycleLR(other, 1.0, 60)
    resumed.load_state_dict(scheduler.state_dict())
    assert groups_of(other) == groups_of(optimizer)
    other.param_groups[0]["momentum"] = 0.125
    free = OneCycleLR(make(momentum=0.5), 1.0, 60, cycle_momentum=False)
    assert "momentum" not in free.state_dict()["groups"][0]


@pytest.mark.parametrize("name", ALL)
def test_a_state_without_groups_sets_what_was_set_last(name):
    """As in PyTorch, and in versions that did not keep them."""
    optimizer, other = make(momentum=0.9), make(momentum=0.9)
    scheduler = ALL[name](optimizer)
    follow(optimizer, scheduler, 9)
    state = scheduler.state_dict()
    for part in [state, *state.get("_schedulers", [])]:
        del part["groups"]
    other.load_state_dict(optimizer.state_dict())
    resumed = ALL[name](other)
    resumed.load_state_dict(state)
    assert groups_of(other) == groups_of(optimizer)
    np.testing.assert_array_equal(follow(other, resumed, 9), follow(optimizer, scheduler, 9))


def test_a_cycle_of_pytorch_is_loaded():
    """A state as PyTorch 2.13 saves it, after 3 steps with three_phase."""
    names = ("initial_lr", "max_lr", "max_momentum", "base_momentum")
    up = dict(zip(("start_lr", "end_lr", "start_momentum", "end_momentum"), names, strict=True))
    state = {
        "total_steps": 20,
        "_schedule_phases": [{"end_step": 4.0, **up}, {"end_step": 8.0}, {"end_step": 19}],
        "_anneal_func_type": "linear",
        "cycle_momentum": True,
        "use_beta1": False,
        "base_lrs": list(LRS),
        "last_epoch": 3,
        "_step_count": 4,
        "_last_lr": list(LRS),
    }
    scheduler = OneCycleLR(make(momentum=0.5), 1.0, 60)
    scheduler.load_state_dict(state)
    assert (scheduler.pct_start, scheduler.three_phase, scheduler.total_steps) == (0.25, True, 20)
    assert (scheduler.anneal_strategy, scheduler.last_epoch) == ("linear", 3)
    damaged = {**state, "_schedule_phases": []}
    with pytest.raises(ValueError, match="the state lacks pct_start"):
        scheduler.load_state_dict(damaged)


def test_the_annealing_of_pytorch_is_loaded():
    state = {"_anneal_strategy": "linear", "anneal_epochs": 4, "base_lrs": list(LRS)}
    state |= {"last_epoch": 3, "_step_count": 4, "_last_lr": [0.5] * len(LRS)}
    optimizer = make()
    scheduler = SWALR(optimizer, 0.25)
    scheduler.load_state_dict(state)
    assert (scheduler.anneal_strategy, scheduler.anneal_epochs) == ("linear", 4)
    assert rates(optimizer) == [0.5] * len(LRS)


def test_the_state_of_callables_is_kept():
    optimizer = make()
    scheduler = LambdaLR(optimizer, [Falling(0.5), lambda epoch: 1.0])
    state = scheduler.state_dict()
    assert state["lr_lambdas"] == [{"rate": 0.5}, None]
    other = LambdaLR(make(), [Falling(0.9), lambda epoch: 2.0])
    other.load_state_dict(state)
    assert other.lr_lambdas[0].rate == 0.5 and other.lr_lambdas[1](0) == 2.0


def test_a_plateau_is_kept():
    _, scheduler = plateau([5, 4, 4], patience=1)
    other = ReduceLROnPlateau(make())
    other.load_state_dict(scheduler.state_dict())
    assert (other.best, other.num_bad_epochs, other.patience) == (4, 1, 1)


def test_a_snapshot_is_a_copy():
    optimizer = make()
    scheduler = MultiStepLR(optimizer, [1])
    state = scheduler.state_dict()
    scheduler.step()
    assert state["last_epoch"] == 0 and state["_last_lr"] == list(LRS)
    other = MultiStepLR(make(), [3])
    other.load_state_dict(state)
    state["base_lrs"][0] = 99
    assert other.base_lrs == list(LRS) and other.milestones == {1: 1}


def test_a_state_that_does_not_fit_changes_nothing():
    optimizer = make()
    scheduler = SequentialLR(optimizer, [LinearLR(optimizer), StepLR(optimizer, 2)], [3])
    before = scheduler.state_dict()
    damaged = {**scheduler.state_dict(), "last_epoch": 9}
    damaged["_schedulers"][1].pop("gamma")
    with pytest.raises(ValueError, match=r"StepLR\.load_state_dict: the state lacks gamma"):
        scheduler.load_state_dict(damaged)
    with pytest.raises(ValueError, match="_schedulers has 1 entries, not 2"):
        scheduler.load_state_dict({**before, "_schedulers": before["_schedulers"][:1]})
    with pytest.raises(ValueError, match="the state lacks _milestones, _schedulers, last_epoch"):
        scheduler.load_state_dict({})
    with pytest.raises(TypeError, match="expected a dict, got list"):
        scheduler.load_state_dict([])
    assert scheduler.state_dict() == before


def test_resuming_by_the_epoch():
    optimizer = make()
    first = ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        first.step()
    state = optimizer.state_dict()
    other = make()
    other.load_state_dict(state)
    resumed = ExponentialLR(other, 0.5, last_epoch=2)
    assert rates(other) == rates(optimizer) and resumed.last_epoch == 3
    first.step()
    resumed.step()
    assert rates(other) == rates(optimizer)
    with pytest.raises(KeyError, match="group 0 has no 'initial_lr', which resuming"):
        ExponentialLR(make(), 0.5, last_epoch=2)


# ------------------------------------------------------------------------------- rates of members
RATES = (0.1, 0.02, 0.3)


def of_members(rates=RATES, **options):
    net = mg.nn.Ensemble(lambda: mg.nn.Linear(2, 1), len(rates))
    groups = [
        {"params": [parameter], "lr": mg.tensor(rates, dtype="float64") * factor}
        for parameter, factor in zip(net.parameters(), (1.0, 0.5), strict=True)
    ]
    return SGD(groups, momentum=0.9, **options)


def plain_groups(optimizer):
    """Arrays as lists, of which == compares all."""
    return json.loads(json.dumps(groups_of(optimizer), default=np.ndarray.tolist))


@pytest.mark.parametrize("name", RESUMED)
def test_each_member_has_the_rates_of_a_schedule_of_its_own(name):
    optimizer, own = of_members(), [of_members([rate]) for rate in RATES]
    scheduler, *schedulers = (RESUMED[name](each) for each in (optimizer, *own))
    for _ in range(20):
        scheduler.step()
        for each in schedulers:
            each.step()
        for number, group in enumerate(optimizer.param_groups):
            expected = [np.ravel(each.param_groups[number]["lr"])[0] for each in own]
            np.testing.assert_allclose(np.broadcast_to(group["lr"], 3), expected, rtol=1e-12)


@pytest.mark.parametrize("through", ["a file", "JSON"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("name", RESUMED)
def test_rates_of_members_are_resumed_in_any_order(name, order, through):
    for stop in (0, 5):
        optimizer, other = of_members(), of_members((0.7, 0.7, 0.7))
        scheduler = RESUMED[name](optimizer)
        for _ in range(stop):
            scheduler.step()
        resumed = resumed_from(scheduler, optimizer, other, name, order, through)
        for _ in range(8):
            assert plain_groups(other) == plain_groups(optimizer)
            resumed.step()
            scheduler.step()
            for each in (other, optimizer):
                each.step()  # takes them


def test_bounds_of_members():
    bounds = np.array([0.5, 0.25, 0.125])
    for build, last in (
        (lambda o, b: OneCycleLR(o, b, 8, div_factor=2, final_div_factor=4), bounds / 8),
        (lambda o, b: SWALR(o, b, 3), bounds),
        (
            lambda o, b: Plateau(o, factor=0.5, patience=0, min_lr=b / 16),
            [0.03125, 0.01, 0.0078125],
        ),
    ):
        optimizer = of_members()
        scheduler = build(optimizer, mg.tensor(bounds))
        for _ in range(7):
            scheduler.step()
        np.testing.assert_allclose(optimizer.param_groups[1]["lr"], last, rtol=1e-12)
    with pytest.raises(ValueError, match=r"SWALR: Invalid swa_lr: -0\.5"):
        SWALR(optimizer, mg.tensor([0.5, -0.5, 0.5]))


def test_a_rate_that_is_changed_in_place_leaves_the_others():
    optimizer = of_members()
    scheduler = SequentialLR(optimizer, [StepLR(optimizer, 2), StepLR(optimizer, 2)], [3])
    for _ in range(2):
        before = scheduler.state_dict()
        optimizer.param_groups[0]["lr"][1] = 0.7
        after = scheduler.state_dict()
        assert after.pop("groups")[0].pop("lr")[1] == 0.7 and before.pop("groups")
        for part in (*after["_schedulers"], *before["_schedulers"]):
            assert part.pop("groups")[0]["initial_lr"] == list(RATES)
        assert after == before
        scheduler.step()


# ------------------------------------------------------------------------------- of one's own
def test_schedules_of_ones_own():
    class Root(LRScheduler):
        def multiplier(self, epoch):
            return (1 + epoch) ** -0.5

    class Outright(LRScheduler):
        def get_lr(self):
            return [0.5 + self.last_epoch] * len(self.base_lrs)

    optimizer = make()
    assert follow(optimizer, Root(optimizer), 3)[3].tolist() == pytest.approx([0.05, 0.01])
    assert follow(optimizer, Outright(optimizer), 2)[2].tolist() == [2.5, 2.5]
    with pytest.raises(NotImplementedError, match=r"LRScheduler must define multiplier\(epoch\)"):
        LRScheduler(make())


def test_an_error_in_a_schedule_changes_nothing():
    def rising(epoch):
        if epoch == 2:
            raise ZeroDivisionError
        return 1 + epoch

    optimizer = make()
    scheduler = LambdaLR(optimizer, rising)
    scheduler.step()
    with pytest.raises(ZeroDivisionError):
        scheduler.step()
    assert scheduler.last_epoch == 1 and rates(optimizer) == [0.2, 0.04]


class Raising(LRScheduler):
    def get_lr(self):
        self.optimizer.param_groups[0]["momentum"] = 0.75
        raise ZeroDivisionError


class OwnCycle(OneCycleLR):
    def get_lr(self):
        return super().get_lr()[:1]


@pytest.mark.parametrize(
    "build, error",
    [
        (lambda o: SWALR(o, 0.5, last_epoch=2), KeyError),
        (lambda o: LambdaLR(o, lambda epoch: 1 / epoch), ZeroDivisionError),
        (Raising, ZeroDivisionError),
        (lambda o: OwnCycle(o, 1.0, 10), ValueError),
        (lambda o: OneCycleLR(o, 1.0, 10, last_epoch=3), KeyError),
        (lambda o: ReduceLROnPlateau(o, min_lr=[0.1, -0.1]), ValueError),
    ],
)
def test_a_constructor_that_raises_leaves_the_options(build, error):
    optimizer = make(momentum=0.9)
    before = groups_of(optimizer)
    with pytest.raises(error):
        build(optimizer)
    assert groups_of(optimizer) == before


@pytest.mark.parametrize(
    "build, key, value",
    [
        (lambda o: StepLR(o, 2), "base_lrs", 0.5),
        (lambda o: StepLR(o, 2), "gamma", "a"),
        (lambda o: StepLR(o, 2), "last_epoch", [1]),
        (lambda o: StepLR(o, 2), "groups", [{"lr": [0.5, "a"]}]),
        (lambda o: StepLR(o, 2), "groups", [{"lr": [[0.5], [0.5, 0.5]]}]),
        (lambda o: MultiStepLR(o, [2]), "milestones", [2]),
        (lambda o: MultiStepLR(o, [2]), "milestones", {"two": 1}),
        (lambda o: LambdaLR(o, [Falling(0.9), Falling(0.5)]), "lr_lambdas", [{}, 3]),
        (lambda o: LambdaLR(o, [Falling(0.9), Falling(0.5)]), "lr_lambdas", None),
        (lambda o: SequentialLR(o, [StepLR(o, 2), StepLR(o, 3)], [2]), "_schedulers", {}),
    ],
)
def test_a_state_of_another_kind_changes_nothing(build, key, value):
    optimizer = make()
    scheduler = build(optimizer)
    scheduler.step()
    before = copy.deepcopy((scheduler.state_dict(), groups_of(optimizer)))
    state = {name: damage(name, part) for name, part in scheduler.state_dict().items()}
    fault = "lr must be a number" if key == "groups" else f"{key} "
    with pytest.raises(ValueError, match=f"load_state_dict: {fault}.*; nothing was loaded|entries"):
        scheduler.load_state_dict({**state, key: value})
    assert (scheduler.state_dict(), groups_of(optimizer)) == before


def damage(name, part):
    """Another value of the same kind."""
    return part + 1 if isinstance(part, (int, float)) else part


# ------------------------------------------------------------------------------- what is refused
def sequence(milestones, *builds):
    optimizer = make()
    return SequentialLR(optimizer, [build(optimizer) for build in builds], milestones)


def step(o):
    return StepLR(o, 2)


@pytest.mark.parametrize(
    "build, error, message",
    [
        (
            lambda: StepLR(mg.nn.Linear(1, 1), 2),
            TypeError,
            "StepLR: expected an optimiser.* Linear",
        ),
        (lambda: ReduceLROnPlateau([]), TypeError, "ReduceLROnPlateau: expected an optimiser"),
        (lambda: OneCycleLR(None, 1.0, 3), TypeError, "OneCycleLR: expected an optimiser"),
        (lambda: LambdaLR(1, abs), TypeError, "LambdaLR: expected an optimiser.* got int"),
        (lambda: SequentialLR(1, [], []), TypeError, "SequentialLR: expected an optimiser"),
        (lambda: StepLR(make(), 0), ValueError, "step_size must be at least 1, got 0"),
        (lambda: StepLR(make(), -3), ValueError, "StepLR: step_size must be at least 1"),
        (lambda: StepLR(make(), 2.0), TypeError, "step_size must be an int, got float 2.0"),
        (lambda: StepLR(make(), True), TypeError, "step_size must be an int, got bool True"),
        (lambda: StepLR(make(), 2, -0.1), ValueError, "StepLR: Invalid gamma: -0.1"),
        (lambda: StepLR(make(), 2, "a"), TypeError, "StepLR: the gamma must be a number"),
        (lambda: StepLR(make(), 2, last_epoch=-2), ValueError, "last_epoch must be at least -1"),
        (lambda: StepLR(make(), 2, last_epoch=1.5), TypeError, "last_epoch must be an int"),
        (lambda: MultiStepLR(make(), [5, 3]), ValueError, r"in increasing order, got \[5, 3\]"),
        (lambda: MultiStepLR(make(), [-1]), ValueError, "a milestone must be at least 0"),
        (lambda: MultiStepLR(make(), [1.5]), TypeError, "a milestone must be an int, got float"),
        (lambda: ConstantLR(make(), 1.5), ValueError, "ConstantLR: factor must be between 0 and 1"),
        (lambda: ConstantLR(make(), total_iters=-1), ValueError, "total_iters must be at least"),
        (lambda: LinearLR(make(), 0.0), ValueError, "start_factor must be greater than 0"),
        (lambda: LinearLR(make(), 2.0), ValueError, "start_factor must be between 0 and 1, got 2"),
        (lambda: LinearLR(make(), 0.5, -1), ValueError, "Invalid end_factor: -1"),
        (lambda: LinearLR(make(), total_iters=0), ValueError, "total_iters must be at least 1"),
        (lambda: ExponentialLR(make(), -1), ValueError, "ExponentialLR: Invalid gamma: -1"),
        (lambda: PolynomialLR(make(), 0), ValueError, "total_iters must be at least 1"),
        (lambda: PolynomialLR(make(), 3, -1), ValueError, "PolynomialLR: Invalid power: -1"),
        (lambda: CosineAnnealingLR(make(), 0), ValueError, "T_max must be at least 1"),
        (lambda: CosineAnnealingLR(make(), 5, -1), ValueError, "Invalid eta_min: -1"),
        (lambda: CosineAnnealingWarmRestarts(make(), 0), ValueError, "T_0 must be at least 1"),
        (lambda: CosineAnnealingWarmRestarts(make(), 2, 1.5), TypeError, "T_mult must be an int"),
        (lambda: LambdaLR(make(), 0.5), TypeError, "lr_lambda must be a function.* got float"),
        (lambda: LambdaLR(make(), [abs]), ValueError, "lr_lambda has 1 values, the optimiser 2"),
        (lambda: OneCycleLR(make(), 1.0), ValueError, "give total_steps, or both epochs and"),
        (lambda: OneCycleLR(make(), 1.0, 0), ValueError, "total_steps must be at least 1"),
        (lambda: OneCycleLR(make(), 1.0, epochs=2), ValueError, "give total_steps, or both"),
        (
            lambda: OneCycleLR(make(), 1.0, epochs=2, steps_per_epoch=0),
            ValueError,
            "steps_per_epoch must be at least 1",
        ),
        (lambda: OneCycleLR(make(), 1.0, 9, pct_start=2), ValueError, "pct_start must be between"),
        (
            lambda: OneCycleLR(make(), 1.0, 9, anneal_strategy="log"),
            ValueError,
            "anneal_strategy must be 'cos' or 'linear', got 'log'",
        ),
        (lambda: OneCycleLR(make(), 1.0, 9, div_factor=0), ValueError, "must not be 0"),
        (lambda: OneCycleLR(make(), 1.0, 9, three_phase=2), TypeError, "three_phase must be True"),
        (lambda: OneCycleLR(make(), [1.0], 9), ValueError, "max_lr has 1 values, the optimiser 2"),
        (lambda: OneCycleLR(make(), -1.0, 9), ValueError, "OneCycleLR: Invalid max_lr: -1.0"),
        (
            lambda: OneCycleLR(make(Adagrad), 1.0, 9),
            ValueError,
            "Adagrad has neither momentum nor betas to cycle; pass cycle_momentum=False",
        ),
        *(
            (
                lambda kind=kind: OneCycleLR(make(kind), 1.0, 9),
                ValueError,
                f"OneCycleLR: the momentum of {kind.__name__} must not .* cycle_momentum=False",
            )
            for kind in (ScheduleFreeSGD, ScheduleFreeAdamW)
        ),
        (lambda: SWALR(1, 0.1), TypeError, "SWALR: expected an optimiser"),
        (lambda: SWALR(make(), -0.1), ValueError, "SWALR: Invalid swa_lr: -0.1"),
        (lambda: SWALR(make(), [0.1]), ValueError, "swa_lr has 1 values, the optimiser 2"),
        (lambda: SWALR(make(), 0.1, -1), ValueError, "SWALR: anneal_epochs must be at least 0"),
        (lambda: SWALR(make(), 0.1, 3, "log"), ValueError, "SWALR: anneal_strategy must be 'cos'"),
        (lambda: sequence([]), ValueError, "SequentialLR: expected at least one scheduler"),
        (lambda: sequence([], step, step), ValueError, "2 schedulers need 1 milestones, got 0"),
        (lambda: sequence([5, 3], step, step, step), ValueError, "must be in increasing order"),
        (lambda: sequence([3], step, ReduceLROnPlateau), ValueError, "1 is a ReduceLROnPlateau"),
        (lambda: sequence([3], step, lambda o: o), TypeError, "scheduler 1 must be a scheduler"),
        (lambda: sequence([3], step, lambda o: step(make())), ValueError, "another optimiser"),
        (lambda: ReduceLROnPlateau(make(), "least"), ValueError, "mode must be 'min' or 'max'"),
        (lambda: ReduceLROnPlateau(make(), factor=1.0), ValueError, "Invalid factor: 1.0"),
        (lambda: ReduceLROnPlateau(make(), patience=-1), ValueError, "patience must be at least 0"),
        (
            lambda: ReduceLROnPlateau(make(), threshold_mode="x"),
            ValueError,
            "must be 'rel' or 'abs'",
        ),
        (lambda: ReduceLROnPlateau(make(), min_lr=[0]), ValueError, "min_lr has 1 values"),
        (
            lambda: ReduceLROnPlateau(make()).step("a"),
            TypeError,
            "metric must be a number, got str",
        ),
        (lambda: ReduceLROnPlateau(make()).step(None), TypeError, "must be a number, got NoneType"),
    ],
)
def test_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda o: MultiStepLR(o, range(10**12)),
        lambda o: MultiStepLR(o, itertools.count()),
        lambda o: SequentialLR(o, [StepLR(o, 2)] * 2, range(10**12)),
        lambda o: SequentialLR(o, itertools.repeat(StepLR(o, 2)), [1]),
        lambda o: StepLR(o, 2**63),
        lambda o: LinearLR(o, total_iters=10**400),
        lambda o: ConstantLR(o, total_iters=10**5000),
        lambda o: PolynomialLR(o, 10**400),
        lambda o: CosineAnnealingLR(o, 10**400),
        lambda o: CosineAnnealingWarmRestarts(o, 10**400),
        lambda o: CosineAnnealingWarmRestarts(o, 2, 2).step(10**400),
        lambda o: CosineAnnealingWarmRestarts(o, 2, 2).step(1e300),
        lambda o: OneCycleLR(o, 1.0, 10**400),
        lambda o: MultiStepLR(o, [10**5000]),
        lambda o: mg.optim.LBFGS([mg.ones(1, requires_grad=True)], history_size=10**400),
    ],
)
def test_absurd_sizes_are_refused(build):
    with pytest.raises(ValueError, match=r"at most 100,000 |must be below 2\*\*63|Invalid epoch"):
        build(make())


@pytest.mark.parametrize(
    "build",
    [
        lambda o: StepLR(o, 10**12),
        lambda o: StepLR(o, 10**12, gamma=3),
        lambda o: MultiStepLR(o, [10**12, 10**18]),
        lambda o: LinearLR(o, total_iters=10**12),
        lambda o: ConstantLR(o, total_iters=10**12),
        lambda o: PolynomialLR(o, 10**12, 10**12),
        lambda o: CosineAnnealingLR(o, 10**12),
        lambda o: CosineAnnealingWarmRestarts(o, 10**12, 10**12),
        lambda o: OneCycleLR(o, 1.0, 10**12),
        lambda o: OneCycleLR(o, 1.0, epochs=10**12, steps_per_epoch=10**12),
        lambda o: SequentialLR(o, [StepLR(o, 2), StepLR(o, 3)], [10**12]),
        lambda o: Plateau(o, patience=10**12, cooldown=10**12),
    ],
)
def test_long_schedules_are_answered_at_once(build):
    optimizer = make()
    seen = follow(optimizer, build(optimizer), 3)
    assert np.isfinite(seen).all()
    for gamma in (2, 0.5):  # an int would grow without end
        with contextlib.suppress(OverflowError):
            ExponentialLR(make(), gamma).multiplier(10**12)
            StepLR(make(), 1, gamma).multiplier(10**12)
    restarted = CosineAnnealingWarmRestarts(optimizer, 1, 2)
    restarted.step(10**12)
    assert restarted.last_epoch == 10**12
    before = restarted.state_dict()
    with pytest.raises(ValueError, match="Invalid epoch"):
        restarted.step(2.0**63)
    assert restarted.state_dict() == before


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array, mg.tensor])
def test_rates_are_python_numbers(number):
    """A checkpoint can then be loaded, even if a schedule returns other types."""
    half = number(0.5)
    for build in (
        lambda o: StepLR(o, np.int64(2), half),
        lambda o: MultiStepLR(o, np.array([1, 2]), half),
        lambda o: ConstantLR(o, half),
        lambda o: LinearLR(o, half, half),
        lambda o: ExponentialLR(o, half),
        lambda o: PolynomialLR(o, 5, half),
        lambda o: CosineAnnealingLR(o, 5, half),
        lambda o: CosineAnnealingWarmRestarts(o, np.int64(5), 1, half),
        lambda o: LambdaLR(o, lambda epoch: number(0.5**epoch)),
        lambda o: OneCycleLR(o, half, 9, pct_start=half, div_factor=number(5.0)),
        lambda o: OneCycleLR(o, [half, half], 9, final_div_factor=number(5.0), max_momentum=half),
        lambda o: Plateau(o, factor=half, threshold=half, patience=np.int64(0), min_lr=[half] * 2),
    ):
        optimizer = make(momentum=0.9)
        optimizer.param_groups[0]["lr"] = number(0.125)
        scheduler = build(optimizer)
        follow(optimizer, scheduler, 3)
        saved = optimizer.state_dict()["param_groups"]
        kinds = {type(v) for group in saved for name, v in group.items() if name != "params"}
        assert kinds <= {int, float, bool}
        assert json.loads(json.dumps(scheduler.state_dict()))["groups"]
        other = make(momentum=0.9)
        other.load_state_dict(optimizer.state_dict())
        build(other).load_state_dict(scheduler.state_dict())
        assert groups_of(other) == groups_of(optimizer)


def test_a_refused_scheduler_leaves_the_optimiser_alone():
    for build in (
        lambda o: OneCycleLR(o, [1.0, -1.0], 9),
        lambda o: MultiStepLR(o, [5, 3]),
        lambda o: SequentialLR(o, [], []),
        lambda o: LambdaLR(o, "a"),
    ):
        optimizer = make()
        before = optimizer.state_dict()
        with pytest.raises((TypeError, ValueError)):
            build(optimizer)
        assert optimizer.state_dict() == before


def test_what_the_prompt_shows():
    optimizer = SGD([mg.ones(1, requires_grad=True)], lr=1.0)
    scheduler = mg.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    assert repr(scheduler) == "StepLR(step_size=3, gamma=0.5, last_epoch=0, lr=[1.0])"
    for later in (mg.optim.lr_scheduler.ReduceLROnPlateau, mg.optim.lr_scheduler.ConstantLR):
        assert repr(later(optimizer)).startswith(f"{later.__name__}(")
    both = mg.optim.lr_scheduler.SequentialLR(optimizer, [later(optimizer), scheduler], [2])
    assert repr(both).startswith("SequentialLR(")
