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
    setup="Two worlds in NumPy. Pendulum: swing up a pole with too weak a motor, by the equations "
    "of Gym's Pendulum-v1. Acrobot: swing up two links by a motor between them, by the equations "
    "of Sutton & Barto (1998, figure 11.5; Sutton 1996); the reward is the height of the tip, "
    "which hangs at −2 m and is at most 2 m. In both: an actor with tanh output and exploration "
    "noise of 0.2, two critics, the smaller of which is the target, 64-64 ReLU, Adam at 0.001 with "
    "β₁ = 0.5, batch 64, one update per step after 400 random ones, rewards times 0.1 (Pendulum) "
    "or 0.5 (Acrobot), discount 0.98, no target nets in any arm. In Acrobot three of ten actions "
    "are replaced by full torque in a random direction. The naive arm passes (s, a) and (s′, a′) "
    "through the critic one after the other, each normalised by its own statistics. All seeds "
    "train in one Ensemble.",
    rule="Holds if in both worlds the mean of the last quarter of the episodes with BatchNorm is "
    "clearly above that without and that of the naive way; in part if it is clearly above "
    "somewhere, and clearly below nowhere.",
    shows="What an episode of 200 steps brings, without and with BatchNorm in the critics, and "
    "what the naive way does.",
    limits="Two small tasks, one rate for all arms, a deterministic actor instead of the soft "
    "actor-critic of the paper. In Pendulum the outcome depends on the scale of the rewards: "
    "without the factor of 0.1 the naive way came out best (−473 ± 260 in the last 5 of 20 "
    "episodes, against −1150 ± 509 with BatchNorm in one batch and −1045 ± 137 without). In "
    "Acrobot no arm learnt to swing with the exploration of Pendulum; and with Sutton's own "
    "reward, −1 until the tip is above 1 m, neither the net with BatchNorm nor that without came "
    "there in 6,000 steps.",
)
NAIVE = "BatchNorm, separate batches"
EPISODE, BATCH, DISCOUNT, NOISE = 200, 64, 0.98, 0.2


class Pendulums:
    """Pendulum-v1 for several seeds at once: g = 10, m = l = 1, steps of 0.05 s, torque up to 2.

    The state is the angle, 0 upright, and the speed.
    """

    NAME, SHOWN, OBSERVED, SCALE = "Pendulum", "return of the episode", 3, 0.1

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

    def explore(self, action: np.ndarray, start: bool) -> np.ndarray:
        """What is done instead of an action: at the start, anything."""
        if start:
            action = np.array([random.uniform(-1, 1, 1) for random in self.random], np.float32)
        return action

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The observations and rewards after actions in [-1, 1]."""
        torque = 2 * np.clip(action[:, 0], -1, 1)
        angle = (self.angle + np.pi) % (2 * np.pi) - np.pi
        reward = -(angle**2 + 0.1 * self.speed**2 + 0.001 * torque**2)
        self.speed = self.speed + 0.05 * (15 * np.sin(self.angle) + 3 * torque)
        self.speed = np.clip(self.speed, -8, 8)
        self.angle = self.angle + 0.05 * self.speed
        return self.observe(), reward.astype(np.float32)


class Acrobots:
    """Sutton's acrobot (1996; Sutton & Barto 1998, figure 11.5) for several seeds at once: two
    links of length, mass and moment of inertia 1, and between them a motor of torque up to 1.

    The state is the angle of the first link, 0 hanging, that of the second relative to it, and
    their speeds. A step is 0.2 s, in four parts. The reward is the height of the tip, -2 to 2 m.
    """

    NAME, SHOWN, OBSERVED, SCALE = "Acrobot", "mean height of the tip, m", 6, 0.5
    FASTEST = 4 * np.pi, 9 * np.pi

    def __init__(self, seeds: list[int]) -> None:
        self.random = [np.random.default_rng(seed) for seed in seeds]
        self.state = np.zeros((4, len(seeds)))

    def reset(self) -> np.ndarray:
        """Start hanging, nearly at rest; the cosines and sines of the angles, and the speeds."""
        self.state = np.array([random.uniform(-0.1, 0.1, 4) for random in self.random]).T
        return self.observe()

    def observe(self) -> np.ndarray:
        first, second, *speeds = self.state
        parts = [np.cos(first), np.sin(first), np.cos(second), np.sin(second)]
        parts += [speed / fastest for speed, fastest in zip(speeds, self.FASTEST, strict=True)]
        return np.stack(parts, axis=1).astype(np.float32)

    @staticmethod
    def accelerations(state: np.ndarray, torque: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of both angles, by the equations of Sutton & Barto (1998), figure 11.5."""
        first, second, speed, other = state
        g, half = 9.8, 0.5  # the masses are in the middle of the links
        d1 = half**2 + 1 + half**2 + 2 * half * np.cos(second) + 2
        d2 = half**2 + half * np.cos(second) + 1
        phi2 = half * g * np.cos(first + second - np.pi / 2)
        phi1 = -half * (other + 2 * speed) * other * np.sin(second)
        phi1 = phi1 + (half + 1) * g * np.cos(first - np.pi / 2) + phi2
        push = torque + d2 / d1 * phi1 - half * speed**2 * np.sin(second) - phi2
        of_second = push / (half**2 + 1 - d2**2 / d1)
        return -(d2 * of_second + phi1) / d1, of_second

    def explore(self, action: np.ndarray, start: bool) -> np.ndarray:
        """What is done instead of an action: at the start always, and later in three of ten steps,
        the full torque in one direction or the other. Weaker noise does not set it swinging."""
        instead = [random.random() < (1 if start else 0.3) for random in self.random]
        full = np.array([[random.choice((-1, 1))] for random in self.random], np.float32)
        return np.where(np.array(instead)[:, None], full, action)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The observations and rewards after actions in [-1, 1], the torques."""
        torque = np.clip(action[:, 0], -1, 1)
        for _ in range(4):
            speeds = self.state[2:] + 0.05 * np.stack(self.accelerations(self.state, torque))
            limits = np.array(self.FASTEST)[:, None]
            speeds = np.clip(speeds, -limits, limits)
            self.state = np.concatenate([self.state[:2] + 0.05 * speeds, speeds])
        height = -np.cos(self.state[0]) - np.cos(self.state[0] + self.state[1])
        return self.observe(), height.astype(np.float32)


def returns(lab: Lab, arm: str, episodes: int, world: Pendulums | Acrobots) -> np.ndarray:
    """The sum of the rewards of each episode in training, (episodes, seeds)."""
    seeds, n_state = lab.seeds, world.OBSERVED
    count = len(seeds)
    norm = None if arm == NONE else nn.BatchNorm1d
    actor = nn.Ensemble(
        lambda: nn.Sequential(*mlp([n_state, 64, 64, 1], None), nn.Tanh()), count, seeds
    )
    pairs = [1000 * (k + 1) + seed for k in (0, 1) for seed in seeds]
    critic = nn.Ensemble(lambda: mlp([n_state + 1, 64, 64, 1], norm), 2 * count, pairs)
    options = {"lr": 1e-3, "betas": (0.5, 0.999)}
    of_actor = optim.Adam(actor.parameters(), **options)
    of_critic = optim.Adam(critic.parameters(), **options)
    total = episodes * EPISODE
    seen = {
        n: np.zeros((count, total, w), np.float32)
        for n, w in zip("sart", (n_state, 1, 1, n_state), strict=True)
    }
    rows, found = np.arange(count)[:, None], np.zeros((episodes, count))

    def noise(shape: tuple[int, ...]) -> np.ndarray:
        return np.stack([random.normal(0, NOISE, shape) for random in world.random]).astype(
            np.float32
        )

    def twice(x: mg.Tensor) -> mg.Tensor:
        return mg.concat([x, x])

    for step in lab.steps(total, f"{world.NAME}, {arm}"):
        if step % EPISODE == 0:
            state = world.reset()
        with mg.no_grad():
            action = actor(mg.tensor(state[:, None])).numpy()[:, 0] + noise((1,))
        action = np.clip(world.explore(action, step < 2 * EPISODE), -1, 1)
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
        target = world.SCALE * r + DISCOUNT * mg.minimum(following[:count], following[count:])
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
    episodes, panels = lab.pick(25, 3), []
    for world in (Pendulums, Acrobots):
        arms = {}
        for arm in (BATCHNORM, NONE, NAIVE):
            found = returns(lab, arm, episodes, world(lab.seeds))
            arms[arm] = (found / EPISODE if world is Acrobots else found).tolist()
        at = list(range(1, episodes + 1))
        panels.append(Panel(world.NAME, "episode (200 steps)", world.SHOWN, at, arms))
    return panels


def judge(panels: list[Panel]) -> tuple[str, str]:
    above, below, text = [], [], []
    for panel in panels:
        last = max(len(panel.at) // 4, 1)
        ends = {arm: np.array(points)[-last:].mean(0) for arm, points in panel.arms.items()}
        digits = 0 if panel.title == "Pendulum" else 2
        said = []
        for arm in (NONE, NAIVE):
            above.append(clearly_above(ends[BATCHNORM], ends[arm]))
            below.append(clearly_above(ends[arm], ends[BATCHNORM]))
            said.append("yes" if above[-1] else "no, clearly below" if below[-1] else "no")
        text.append(
            f"{panel.title}, mean of the last {last} episodes: "
            + ", ".join(
                f"{end.mean():.{digits}f} ± {end.std(ddof=1):.{digits}f} ({arm})"
                for arm, end in ends.items()
            )
            + f"; BatchNorm is clearly above the net without: {said[0]}; clearly above the naive "
            f"way: {said[1]}"
        )
    part = any(above) and not any(below)
    return (HOLDS if all(above) else PARTLY if part else FAILS), ". ".join(text) + "."
