"""Exercise 2: the rule of an operation that broadcasts.

y = x * w, for x of shape (N, C) and w of shape (C,): every row is multiplied by the same w. When
its turn comes, the Node gets g = d loss / d y, of the shape of y, and returns a gradient of the
shape of each input. The one for x is there. Write the one for w, in Tensor operations, so that it
can be differentiated again: through which elements of y does one w[c] act on the loss?
gradcheck and gradgradcheck judge it.
"""

import minigrad as mg

from .judge import Saved, compare, leaves


class Scale(mg.autograd.Function):
    """x * w, with a gradient of your own."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        dx = g * w
        dw = ...
        return dx, dw


def judge():
    x, w, g = leaves((5, 3), (3,), (5, 3))
    right = mg.autograd.grad(x * w, [x, w], g)
    yours = Scale.backward(Saved(x, w), g)
    wrong = {
        "that sums over the channels, but each channel has its own w": (g * x).sum(axis=1),
        "a mean divides by N, which forward did not": (g * x).mean(axis=0),
        "d y / d w is missing": g.sum(axis=0),
    }
    compare("The gradient of x", yours[0], right[0])
    compare("The gradient of w", yours[1], right[1], wrong)
    mg.autograd.gradcheck(Scale.apply, [x, w])
    mg.autograd.gradgradcheck(Scale.apply, [x, w])
    return "gradcheck and gradgradcheck agree."
