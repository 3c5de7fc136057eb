"""Lesson 13: thirty-two nets at once, and what they disagree about.

A net gives a number and does not say how sure it is. Train several, from different initial weights
and with the data in different orders, and look at how far they are apart: where data tie them down
they agree, elsewhere each continues in its own way (Lakshminarayanan et al. 2017, "deep ensembles";
the idea is that of Breiman's bagging, 1996). This lesson fits 32 nets to noisy points of a curve,
with a gap in the middle where there are none.

The mean is better than its members, and that is no luck. For each point, exactly,

    (error of the mean)² = mean of the members' (error)² − (spread of the members)²

(Krogh & Vedelsby 1995). So an average is never worse than its average member, and better the more
they disagree. The lesson computes both sides. What the identity does not say is that the spread is
a good estimate of the error: the members can all be wrong together. The second panel compares the
two. Near the data both are small, in the gap both are large, so the spread is a useful warning. But
beyond the last points the members, being of one kind, continue alike and are wrong together: at
both ends two standard deviations are less than half of the error. It is a warning, not a guarantee.
In lesson 11 a Gaussian process has error bars by construction, for data as small as these.

32 small nets are 32 times the overhead of one, unless they are one net. `nn.Ensemble` stacks the
parameters of all members along a new first axis: a layer becomes one batched product, and a step
of all members a single step. Each member keeps its own initial weights, its own order of the data
and its own learning rate if you like; it trains to the same numbers, up to rounding, as it would
by itself, and `net[k]` is the plain net. The third panel shows the time of a step for each net,
by the number of nets: the overhead is paid once, the arithmetic by everyone.

`NetRegressor(n_members=32)` and `NetClassifier(n_members=32)` do all this for tables, and
`predict(X, return_std=True)` returns the spread (lesson 12).

Exercise: an ensemble with weights. `make exercise N=13` judges your answer.
"""

from __future__ import annotations

import time

import numpy as np
from lesson import BLUE, GREEN, GREY, ORANGE, panels, progress, read_options, save

import minigrad as mg
from minigrad import nn, optim

MEMBERS, SAMPLES, BATCH = 32, 80, 20
WHOLE, GAP = (-4.0, 4.0), (-0.9, 0.9)


def curve(x: np.ndarray) -> np.ndarray:
    return np.sin(2 * x) + 0.3 * x


def measure(random: np.random.Generator) -> tuple[mg.Tensor, mg.Tensor]:
    """Places on both sides of the gap, (SAMPLES, 1), and noisy values of the curve there."""
    x = random.uniform(GAP[1], 3, SAMPLES) * np.where(np.arange(SAMPLES) % 2, 1, -1)
    y = curve(x) + 0.1 * random.normal(size=SAMPLES)
    return tuple(mg.tensor(column[:, None], dtype=mg.float32) for column in (x, y))


def make() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    )


def train(net: nn.Ensemble, x: mg.Tensor, y: mg.Tensor, epochs: range) -> np.ndarray:
    """Train all members, each with its own order of the data; the losses, (epochs, members)."""
    optimizer, criterion, losses = optim.Adam(net.parameters(), lr=0.01), nn.MSELoss(), []
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, len(epochs))
    for _ in epochs:
        order, total = net.randperm(len(x)), 0.0
        for start in range(0, len(x), BATCH):
            mine = order[:, start : start + BATCH]  # (members, batch)
            optimizer.zero_grad()
            loss = net.loss(criterion, net(x[mine]), y[mine])  # one for each member
            loss.sum().backward()
            optimizer.step()
            total = total + loss.numpy()
        losses.append(total * BATCH / len(x))
        schedule.step()
    return np.array(losses)


def time_of_a_step(members: int, x: mg.Tensor, y: mg.Tensor, rounds: int) -> float:
    """Microseconds for each net."""
    net, criterion = nn.Ensemble(make, members), nn.MSELoss()
    optimizer, taken = optim.Adam(net.parameters(), lr=0.0), []
    for _ in range(rounds):
        start = time.perf_counter()
        optimizer.zero_grad()
        net.loss(criterion, net(x[:BATCH]), y[:BATCH]).sum().backward()
        optimizer.step()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)) * 1e6 / members


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    options = read_options(__file__, __doc__, arguments)
    mg.manual_seed(0)
    x, y = measure(np.random.default_rng(1))
    net = nn.Ensemble(make, MEMBERS)
    losses = train(net, x, y, progress(60 if options.fast else 400, "32 nets", "epoch"))

    z = np.linspace(*WHOLE, 400)
    with mg.no_grad():
        each = net.eval()(mg.tensor(z[:, None], dtype=mg.float32)).numpy()[..., 0]
    each = each.astype(np.float64)
    mean, spread, truth = each.mean(0), each.std(0), curve(z)
    near = (np.abs(z) > GAP[1]) & (np.abs(z) < 3)
    left, right = (mean - truth) ** 2, ((each - truth) ** 2).mean(0) - spread**2
    print(f"loss: {losses[0].mean():.3f} at first, {losses[-1].mean():.4f} in the end")
    members, whole = (np.sqrt(((f - truth) ** 2)[..., near].mean()) for f in (each, mean))
    print(f"error near data: {members:.3f} of the members, {whole:.3f} of their mean")
    inside = np.abs(z) < GAP[1]
    print(f"spread: {spread[near].mean():.3f} near data, {spread[inside].mean():.3f} in the gap")
    print(f"the two sides of the identity differ by {np.abs(left - right).max():.1e} at most")
    counts = [1, 2, 4, 8, 16, 32, 64]
    rounds = 20 if options.fast else 300
    times = np.array([time_of_a_step(count, x, y, rounds) for count in counts])
    print(f"a step of one net takes {times[0]:.0f} µs; of 32 at once, {times[5]:.1f} µs for each")

    figure, (curves, errors, costs) = panels(3, width=5.0)
    for k, one in enumerate(each):
        curves.plot(z, one, color=BLUE, lw=0.6, alpha=0.4, label="one net" if k == 0 else None)
    curves.plot(z, mean, color=BLUE, lw=2.5, label="their mean")
    curves.plot(z, truth, "--", color=GREY, label="true curve")
    curves.plot(x.numpy(), y.numpy(), ".", color=ORANGE, label="data")
    curves.set(title="32 nets, and a gap in the data", ylim=(-3, 3), xlabel="x", ylabel="y")
    curves.legend(fontsize=9)
    errors.fill_between(z, 0, 2 * spread, color=BLUE, alpha=0.2, label="2 standard deviations")
    errors.plot(z, np.abs(mean - truth), color=ORANGE, label="error of the mean")
    errors.plot(
        z, np.sqrt(((each - truth) ** 2).mean(0)), color=GREEN, lw=1, label="error of a member, rms"
    )
    errors.set(title="Spread and error", xlabel="x", ylabel="distance in y", ylim=(0, 1.5))
    errors.legend(fontsize=9)
    costs.plot(counts, times, "o-", color=BLUE)
    costs.set(
        title="A training step, batch 20", xlabel="nets in one step", ylabel="µs for each net"
    )
    costs.set_xscale("log", base=2)
    costs.set_xticks(counts, [str(count) for count in counts])
    costs.set_ylim(bottom=0)
    save(figure, __file__)
    return {"each": each, "z": z, "losses": losses, "left": left, "right": right}


if __name__ == "__main__":
    main()
