"""Lesson 1: a gradient by hand, and the same gradient by machine.

A neuron takes two numbers x and should answer t. It computes

    a = w·x + b,    y = tanh(a),    loss = (y - t)²

and to improve it we must know how the loss changes with w and b. The chain rule takes the
formula apart from the end to the beginning, and each piece is simple:

    d loss / d y = 2 (y - t)
    d loss / d a = d loss / d y · (1 - y²)          since tanh' = 1 - tanh²
    d loss / d w = d loss / d a · x
    d loss / d b = d loss / d a

Each line uses the one above it: this is all that *reverse-mode automatic differentiation* does
(Linnainmaa 1970; Griewank & Walther, Evaluating Derivatives, 2008, chapter 3). The machine
records each operation as it computes, and then walks back over the record. For a loss, which is
a single number, the walk costs a small multiple of the computation itself, however many weights
there are. With minigrad the four lines become one: `loss.backward()`.

If you trust neither hand nor machine, you can *measure* a derivative: move a weight by a small
step h in both directions and divide,

    (loss(w + h) - loss(w - h)) / 2h = d loss / d w + O(h²).

The picture shows the loss as a function of the first weight with its tangent, and next to it
the accuracy of the measurement. A large h is wrong because the curve is not a straight line:
the error falls with h². A tiny h is wrong because of rounding: subtracting two almost equal
numbers leaves noise of about ε/h. The optimum is in between, near h = ε^(1/3), and even there
only about eleven digits are right, while the chain rule gives all sixteen. Measured derivatives
are good for one thing: finding mistakes. `mg.autograd.gradcheck` does this, and minigrad's
tests rely on it.

Exercise: another neuron, by hand. `make exercise N=1` judges your answer.
"""

from __future__ import annotations

import numpy as np
from lesson import BLUE, GREY, ORANGE, panels, read_options, save

import minigrad as mg

X, TARGET = np.array([0.5, -1.5]), 0.8
W, B = np.array([1.2, 0.4]), 0.3


def neuron_loss(w, b):
    """(tanh(w·x + b) - t)², the same code for tensors and arrays."""
    tanh = mg.tanh if isinstance(w, mg.Tensor) else np.tanh
    return (tanh((w * X).sum() + b) - TARGET) ** 2


def by_hand() -> tuple[np.ndarray, float]:
    """d loss / d w and d loss / d b, by the four lines above."""
    y = np.tanh((W * X).sum() + B)
    dy = 2 * (y - TARGET)
    da = dy * (1 - y**2)
    return da * X, da


def by_machine() -> tuple[np.ndarray, float]:
    """The same, by walking back over the recorded operations."""
    w, b = mg.tensor(W, requires_grad=True), mg.tensor(np.array(B), requires_grad=True)
    neuron_loss(w, b).backward()
    return w.grad.numpy(), b.grad.item()


def by_measuring(h: float) -> np.ndarray:
    """d loss / d w by central differences with step h."""
    steps = h * np.eye(len(W))
    return np.array([neuron_loss(W + s, B) - neuron_loss(W - s, B) for s in steps]) / (2 * h)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    options = read_options(__file__, __doc__, arguments)
    (hand_w, hand_b), (machine_w, machine_b) = by_hand(), by_machine()
    steps = np.logspace(-13, 0, 27 if options.fast else 105)
    errors = np.array([np.abs(by_measuring(h) - hand_w).max() for h in steps])
    best = int(errors.argmin())
    print(f"{'':10}{'d loss / d w0':>22}{'d loss / d w1':>22}{'d loss / d b':>22}")
    print(f"{'hand':10}{hand_w[0]:22.16f}{hand_w[1]:22.16f}{hand_b:22.16f}")
    print(f"{'machine':10}{machine_w[0]:22.16f}{machine_w[1]:22.16f}{machine_b:22.16f}")
    measured = by_measuring(steps[best])
    print(f"{'measured':10}{measured[0]:22.16f}{measured[1]:22.16f}   (h = {steps[best]:.0e})")

    figure, (left, right) = panels(2)
    w0 = np.linspace(-3, 5, 200)
    here = neuron_loss(W, B)
    left.plot(w0, [neuron_loss(np.array([w, W[1]]), B) for w in w0], color=BLUE, label="loss")
    reach = np.array([-1.4, 1.4])
    left.plot(W[0] + reach, here + hand_w[0] * reach, color=ORANGE, label="tangent: the gradient")
    left.plot(W[0], here, "o", color=ORANGE)
    left.set(xlabel="first weight $w_0$", ylabel="loss", title="A slope is what we are after")
    left.legend()
    right.loglog(steps, errors, ".-", color=BLUE, lw=0.8, label="measured with step $h$")
    guide = steps > 1e-5
    right.loglog(steps[guide], errors[-1] * steps[guide] ** 2, "--", color=GREY, label="$h^2$")
    guide = steps < 1e-4
    right.loglog(steps[guide], 1e-16 / steps[guide], ":", color=GREY, label="rounding, $ε/h$")
    machine_error = max(np.abs(machine_w - hand_w).max(), 1e-17)
    right.axhline(machine_error, color=ORANGE, label="machine (0 is drawn as $10^{-17}$)")
    right.set(xlabel="step $h$", ylabel="error of d loss / d w", title="Measuring has two enemies")
    right.set_ylim(3e-18, 1e3)
    right.legend(loc="upper center", fontsize=9)
    save(figure, __file__)
    return {"machine": machine_error, "measured": float(errors[best]), "h": float(steps[best])}


if __name__ == "__main__":
    main()
