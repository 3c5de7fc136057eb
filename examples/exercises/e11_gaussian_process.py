"""Exercise 11: the rule of a log-determinant.

The evidence of lesson 11 contains log det K. To first order, log det(K + E) = log det K +
trace(K⁻¹ E). From this follows the gradient with respect to each element of K. Write the rule, for
a stack of matrices K (..., n, n), not necessarily symmetric, and a cotangent g of shape (...):
`mg.linalg.inv` inverts each, `.mT` transposes each. gradcheck judges it.
"""

import minigrad as mg

from .judge import Saved, compare, leaves


class LogDeterminant(mg.autograd.Function):
    """log |det K| of each matrix, with a gradient of your own."""

    @staticmethod
    def forward(ctx, K):
        ctx.save_for_backward(K)
        return mg.linalg.slogdet(K)[1]

    @staticmethod
    def backward(ctx, g):
        (K,) = ctx.saved_tensors
        return ...


def judge():
    K, g = leaves((2, 3, 3), (2,))
    (right,) = mg.autograd.grad(mg.linalg.slogdet(K)[1], K, g)
    inverse = mg.linalg.inv(K)
    wrong = {
        "trace(A E) is Σ A[j, i] E[i, j]: mind the order of i and j": g[:, None, None] * inverse,
        "the cotangent g is missing": mg.linalg.inv(K).mT,
        "that is the gradient of det K, without the logarithm":
            (g * mg.linalg.det(K))[:, None, None] * inverse.mT,
    }  # fmt: skip
    compare("The gradient of K", LogDeterminant.backward(Saved(K), g), right, wrong)
    mg.autograd.gradcheck(LogDeterminant.apply, [K])
    mg.autograd.gradgradcheck(LogDeterminant.apply, [K])
    return "gradcheck and gradgradcheck agree."
