"""A Kalman filter that learns its noise: a cart, pushed at random, whose position is measured.

The filter predicts each measurement, and maximises the likelihood of the one that comes: gradients
flow through all steps of the filter, and through `mg.linalg` in each. Against PyTorch the code
differs in `expand_dims` for `unsqueeze`.
"""

import minigrad as mg
from minigrad import nn

DT = 0.1
MOVE = mg.tensor([[1.0, DT], [0.0, 1.0]])  # of (position, speed)
PUSH = mg.tensor([[DT * DT / 2], [DT]])  # what an acceleration adds
LOOK = mg.tensor([[1.0, 0.0]])


def measured(steps: int, acceleration: float, error: float) -> mg.Tensor:
    """Positions of the cart, with errors, of shape (steps, 1, 1)."""
    state, positions = mg.zeros(2, 1), []
    for _ in range(steps):
        state = MOVE @ state + PUSH * acceleration * mg.randn(1, 1)
        positions.append(LOOK @ state + error * mg.randn(1, 1))
    return mg.stack(positions)


class Kalman(nn.Module):
    """The mean negative log-likelihood of measurements, up to a constant."""

    def __init__(self):
        super().__init__()
        self.log_acceleration = nn.Parameter(mg.zeros(1, 1))
        self.log_error = nn.Parameter(mg.zeros(1, 1))

    def forward(self, measurements):
        state, covariance, total = mg.zeros(2, 1), mg.eye(2), 0.0
        pushed = PUSH @ PUSH.T * self.log_acceleration.exp() ** 2
        for measurement in measurements:
            state = MOVE @ state
            covariance = MOVE @ covariance @ MOVE.T + pushed
            surprise = measurement - LOOK @ state
            variance = LOOK @ covariance @ LOOK.T + self.log_error.exp() ** 2
            gain = mg.linalg.solve(variance, LOOK @ covariance).mT
            total = total + (
                surprise.mT @ mg.linalg.solve(variance, surprise) + mg.linalg.slogdet(variance)[1]
            )
            state = state + gain @ surprise
            covariance = covariance - gain @ LOOK @ covariance
        return total.sum() / (2 * len(measurements))


def main(steps: int = 100) -> tuple[float, float]:
    """Train; return the acceleration and the error, which are 0.5 and 0.3 in truth."""
    mg.manual_seed(0)
    measurements = measured(300, acceleration=0.5, error=0.3)
    net = Kalman()
    optimizer = mg.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = net(measurements)
        loss.backward()
        optimizer.step()
    learnt = net.log_acceleration.exp().item(), net.log_error.exp().item()
    print(f"loss {loss.item():.3f}, acceleration {learnt[0]:.2f}, error {learnt[1]:.2f}")
    return learnt


if __name__ == "__main__":
    main()
