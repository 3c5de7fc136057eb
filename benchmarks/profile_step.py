"""Profile a training step: `make profile`, `make profile ARGS="784 256 10"`."""

from __future__ import annotations

import argparse

from contenders import step_minigrad

import minigrad as mg

STEPS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[64, 64, 64, 10], help="layer widths")
    parser.add_argument("--batch", type=int, default=32, help="rows in a batch (default 32)")
    options = parser.parse_args()
    step = step_minigrad(tuple(options.sizes), options.batch)
    for _ in range(100):
        step()
    with mg.profile() as seen:
        for _ in range(STEPS):
            step()
    print(f"{STEPS} Adam steps of an MLP with BatchNorm, {options.sizes}, batch {options.batch}")
    print("(the time of the optimiser and zero_grad is counted with the next operation)")
    print(seen)


if __name__ == "__main__":
    main()
