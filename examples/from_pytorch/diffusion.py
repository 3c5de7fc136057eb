"""Diffusion on two moons: a net learns to tell noise from data, and makes data of noise with it.

Ho et al. 2020, algorithms 1 and 2. Against PyTorch the code differs in `mg.concat` and `mg.stack`
with an `axis`, in `cumulative_prod`, and in `mg.randn(*x.shape)` for `randn_like`.
"""

import math

import minigrad as mg
from minigrad import nn

TIMES = 100
BETA = mg.linspace(1e-4, 0.1, TIMES)
KEPT = (1 - BETA).cumulative_prod(axis=0)  # of the data, at each time


def moons(n: int) -> mg.Tensor:
    """n points of shape (n, 2) on two half circles."""
    angle = math.pi * mg.rand(n // 2)
    upper = mg.stack([angle.cos(), angle.sin()], axis=1)
    lower = mg.stack([1 - angle.cos(), 0.5 - angle.sin()], axis=1)
    return mg.concat([upper, lower]) + 0.05 * mg.randn(n, 2)


class Denoiser(nn.Module):
    """The noise in x (n, 2) at the times t (n,)."""

    def __init__(self, width=128, waves=16):
        super().__init__()
        frequencies = mg.exp(-math.log(10_000) * mg.arange(waves) / waves)
        self.register_buffer("frequencies", frequencies)
        self.net = nn.Sequential(
            nn.Linear(2 + 2 * waves, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x, t):
        phase = t[:, None] * self.frequencies
        return self.net(mg.concat([x, phase.sin(), phase.cos()], axis=1))


@mg.no_grad()
def sample(net: nn.Module, n: int) -> mg.Tensor:
    """n points, of noise."""
    x = mg.randn(n, 2)
    for t in reversed(range(TIMES)):
        noise = net(x, mg.full((n,), t))
        x = (x - BETA[t] / mg.sqrt(1 - KEPT[t]) * noise) / mg.sqrt(1 - BETA[t])
        if t > 0:
            x = x + mg.sqrt(BETA[t]) * mg.randn(n, 2)
    return x


def main(steps: int = 1500) -> float:
    """Train, and return the mean distance of new points to the data."""
    mg.manual_seed(0)
    net, data = Denoiser(), moons(2000)
    optimizer = mg.optim.AdamW(net.parameters(), lr=2e-3)
    average = mg.optim.swa_utils.AveragedModel(net, decay=0.99)
    for _ in range(steps):
        x = data[mg.randperm(len(data))[:256]]
        t, noise = mg.randint(TIMES, (len(x),)), mg.randn(*x.shape)
        kept = KEPT[t][:, None]
        loss = nn.functional.mse_loss(net(kept.sqrt() * x + (1 - kept).sqrt() * noise, t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(net)
    new = sample(average, 500)
    distance = (new[:, None] - data).norm(axis=-1).min(axis=1).mean().item()
    print(f"loss {loss.item():.3f}, mean distance to the data {distance:.3f}")
    return distance


if __name__ == "__main__":
    main()
