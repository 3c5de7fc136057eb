"""A physics-informed net: u'' = -pi^2 sin(pi x) on [0, 1] with u(0) = u(1) = 0, so u = sin(pi x).

The net is differentiated twice with respect to its input, and then once more with respect to its
weights (Raissi et al. 2019). Only the import differs from the program for PyTorch.
"""

import math

import minigrad as mg
from minigrad import nn


def main(steps: int = 30) -> float:
    """Train, and return the largest error on the grid."""
    mg.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    ).double()
    optimizer = mg.optim.LBFGS(net.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    x = mg.linspace(0, 1, 64, dtype=mg.float64).reshape(-1, 1).requires_grad_(True)
    ends = mg.tensor([[0.0], [1.0]], dtype=mg.float64)
    source = -(math.pi**2) * mg.sin(math.pi * x).detach()

    def closure():
        optimizer.zero_grad()
        u = net(x)
        (du,) = mg.autograd.grad(u.sum(), x, create_graph=True)
        (d2u,) = mg.autograd.grad(du.sum(), x, create_graph=True)
        loss = nn.functional.mse_loss(d2u, source) + 100 * net(ends).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        loss = optimizer.step(closure)
    error = (net(x) - mg.sin(math.pi * x)).abs().max().item()
    print(f"loss {loss.item():.1e}, largest error {error:.1e}")
    return error


if __name__ == "__main__":
    main()
