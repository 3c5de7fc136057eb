"""Exercise 6: a convolution in one line.

`mg.sliding_windows(x, (u, v))` shows, for images x of shape (N, K, H, W), the window at each
position: (N, K, H', W', u, v), without copying. Write the convolution of lesson 6,

    y[n, c, i, j] = Σ over k, u, v of  w[c, k, u, v] · window[n, k, i, j, u, v],

with `mg.einsum`. Its gradient comes for free. Both are compared with `nn.functional.conv2d`.
"""

import minigrad as mg
from minigrad import nn

from .judge import compare, leaves


def convolve(x, w):
    """The convolution of x (N, K, H, W) with w (C, K, u, v): (N, C, H', W')."""
    windows = mg.sliding_windows(x, w.shape[2:])
    return ...


def judge():
    x, w, g = leaves((2, 3, 6, 5), (4, 3, 3, 2), (2, 4, 4, 4))
    right, yours = nn.functional.conv2d(x, w), convolve(x, w)
    flipped = nn.functional.conv2d(x, mg.flip(w, axis=(2, 3)))
    moved = mg.permute_dims(right, (0, 2, 3, 1))
    wrong = {
        "the window is flipped; nets do without the flip of mathematics": flipped,
        "the channels come second, before the positions": moved,
    }
    compare("y", yours, right, wrong)
    slopes = [mg.autograd.grad(y, [x, w], g) for y in (yours, right)]
    for name, ours, theirs in zip("xw", *slopes, strict=True):
        compare(f"The gradient of {name}", ours, theirs)
    return "It is conv2d, and so are its gradients, which nobody wrote."
