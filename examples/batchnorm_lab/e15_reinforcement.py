"""Claim 15: BatchNorm works in reinforcement learning, without target nets."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, NONE, mlp

CLAIM = Claim(
    number=15,
    text="It works in reinforcement learning, without target nets",
    source="Bhatt et al. (2024), CrossQ: BatchNorm in the critic takes the place of target nets, "
    "if both (s, a) and (s′, a′) go through the critic in one batch, so that the statistics are "
    "of both.",
    setup="Pendulum (swing up a pole with too weak a motor; the equations of Gym's Pendulum-v1, "
    "in NumPy): an actor with tanh output and exploration noise of 0.2, two critics, the smaller "
    "of which is the target, 64-64 ReLU, Adam at 0.001 with β₁ = 0.5, batch 64, one update per "
    "step after 400 random ones, rewards times 0.1, discount 0.98, no target nets in any arm. The "
    "naive arm passes (s, a) and (s′, a′) through the critic one after the other, each normalised "
    "by its own statistics. All seeds train in one Ensemble.",
    shows="The return of an episode of 200 steps, without and with BatchNorm in the critics, and "
    "what the naive way does.",
    limits="One easy task, one rate for all arms, a deterministic actor instead of the soft "
    "actor-critic of the paper. The outcome depends on the scale of the rewards: without the "
    "factor of 0.1 the naive way came out best (−473 ± 260 in the last 5 of 20 episodes, against "
    "−1150 ± 509 with BatchNorm in one batch and −1045 ± 137 without). Acrobot is not tested.",
)
NAIVE = "BatchNorm, separate batches"
EPISODE, BATCH, DISCOUNT, NOISE = 200, 64, 0.98, 0.2


class Pendulums:
    """Pendulum-v1 for several seeds at once: g = 10, m = l = 1, steps of 0.05 s, torque up to 2."""

    def __init__(self, seeds: list[int]) -> None:
        self.random = [np.random.default_rng(seed) for seed in seeds]
        self.angle = self.speed = np.zeros(len(seeds))

    def reset(self) -> np.ndarray:
        """Start anywhere, at a speed of at most 1; the observations (cos, sin, speed / 8)."""
        start = np.array([random.uniform(-1, 1, 2) for random in self.random])
        self.angle, self.speed = np.pi * start[:, 0], start[:, 1]
        return self.observe()

    def observe(self) -> np.ndarray:
        parts = np.cos(self.angle), np.sin(self.angle), self.speed / 8
        return np.stack(parts, axis=1).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The observations and rewards after actions in [-1, 1]; an angle of 0 is upright."""
        torque = 2 * np.clip(action[:, 0], -1, 1)
        angle = (self.angle + np.pi) % (2 * np.pi) - np.pi
        reward = -(angle**2 + 0.1 * self.speed**2 + 0.001 * torque**2)
        self.speed = self.speed + 0.05 * (15 * np.sin(self.angle) + 3 * torque)
        self.speed = np.clip(self.speed, -8, 8)
        self.angle = self.angle + 0.05 * self.speed
        return self.observe(), reward.astype(np.float32)


def returns(lab: Lab, arm: str, episodes: int) -> np.ndarray:
    """The return of each episode in training, (episodes, seeds)."""
    seeds = lab.seeds
    count = len(seeds)
    norm = None if arm == NONE else nn.BatchNorm1d
    actor = nn.Ensemble(lambda: nn.Sequential(*mlp([3, 64, 64, 1], None), nn.Tanh()), count, seeds)
    pairs = [1000 * (k + 1) + seed for k in (0, 1) for seed in seeds]
    critic = nn.Ensemble(lambda: mlp([4, 64, 64, 1], norm), 2 * count, pairs)
    options = {"lr": 1e-3, "betas": (0.5, 0.999)}
    of_actor = optim.Adam(actor.parameters(), **options)
    of_critic = optim.Adam(critic.parameters(), **options)
    world, total = Pendulums(seeds), episodes * EPISODE
    seen = {
        n: np.zeros((count, total, w), np.float32)
        for n, w in zip("sart", (3, 1, 1, 3), strict=True)
    }
    rows, found = np.arange(count)[:, None], np.zeros((episodes, count))

    def noise(shape: tuple[int, ...]) -> np.ndarray:
        return np.stack([random.normal(0, NOISE, shape) for random in world.random]).astype(
            np.float32
        )

    def twice(x: mg.Tensor) -> mg.Tensor:
        return mg.concat([x, x])

    for step in lab.steps(total, arm):
        if step % EPISODE == 0:
            state = world.reset()
        with mg.no_grad():
            action = actor(mg.tensor(state[:, None])).numpy()[:, 0] + noise((1,))
        if step < 2 * EPISODE:
            action = np.array([random.uniform(-1, 1, 1) for random in world.random], np.float32)
        action = np.clip(action, -1, 1)
        after, reward = world.step(action)
        for name, value in zip("sart", (state, action, reward[:, None], after), strict=True):
            seen[name][:, step] = value
        found[step // EPISODE] += reward
        state = after
        if step < 2 * EPISODE:
            continue
        index = np.stack([random.integers(step + 1, size=BATCH) for random in world.random])
        s, a, r, t = (mg.tensor(seen[name][rows, index]) for name in "sart")
        with mg.no_grad():
            b = mg.clip(actor(t) + mg.tensor(noise((BATCH, 1))), -1.0, 1.0)
        now, then = twice(mg.concat([s, a], axis=2)), twice(mg.concat([t, b], axis=2))
        if arm == NAIVE:
            q, following = critic(now), critic(then).detach()
        else:
            both = critic(mg.concat([now, then], axis=1))
            q, following = both[:, :BATCH], both[:, BATCH:].detach()
        target = 0.1 * r + DISCOUNT * mg.minimum(following[:count], following[count:])
        loss = mg.square(q - twice(target)).mean(axis=(1, 2)).sum()
        of_critic.zero_grad()
        loss.backward()
        of_critic.step()

        critic.eval()  # the actor sees the statistics of the population
        value = critic(twice(mg.concat([s, actor(s)], axis=2)))
        loss = -mg.minimum(value[:count], value[count:]).mean(axis=(1, 2)).sum()
        parameters = list(actor.parameters())
        for parameter, slope in zip(parameters, mg.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        of_actor.step()
        critic.train()
    return found


def run(lab: Lab) -> list[Panel]:
    episodes = lab.pick(25, 3)
    arms = {arm: returns(lab, arm, episodes).tolist() for arm in (BATCHNORM, NONE, NAIVE)}
    return [
        Panel(
            "Pendulum",
            "episode (200 steps)",
            "return of the episode",
            list(range(1, episodes + 1)),
            arms,
        )
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    (panel,) = panels
    last = max(len(panel.at) // 4, 1)
    ends = {arm: np.array(points)[-last:].mean(0) for arm, points in panel.arms.items()}
    better, naive = (clearly_above(ends[BATCHNORM], ends[arm]) for arm in (NONE, NAIVE))
    text = (
        f"Mean return of the last {last} episodes: "
        + ", ".join(
            f"{end.mean():.0f} ± {end.std(ddof=1):.0f} ({arm})" for arm, end in ends.items()
        )
        + f". With BatchNorm it is clearly above that without: {'yes' if better else 'no'}; "
        f"clearly above the naive way: {'yes' if naive else 'no'}."
    )
    return (HOLDS if better and naive else PARTLY if better or naive else FAILS), text
