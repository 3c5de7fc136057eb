"""Exercise 9: the Hessian times a vector, without the Hessian.

For a net with a million weights the Hessian H does not fit into memory, but H v does. The gradient
g is there, recorded as an operation like any other. Pearlmutter (1994): H v is the gradient of one
number, made of g and v. Write it, with one more call of `mg.autograd.grad`, as a Tensor. It is
compared with the whole Hessian of three functions.
"""

import minigrad as mg

from .judge import compare, leaves


def hessian_times(function, x, v):
    """H v, of the shape of x, where H is the Hessian of function at x."""
    (g,) = mg.autograd.grad(function(x), x, create_graph=True)
    return ...


def judge():
    functions = {
        "Σ x³": lambda x: (x**3).sum(),
        "exp(Σ x²)": lambda x: mg.exp((x * x).sum() / 4),
        "log Σ exp x": lambda x: mg.logsumexp(x),
    }
    x, v = leaves((4,), (4,))
    v = v.detach()
    for name, function in functions.items():
        right = mg.func.hessian(function)(x.detach()) @ v
        (g,) = mg.autograd.grad(function(x), x)
        wrong = {
            "that is g times v, element by element": g * v,
            "that is g·v, the slope in the direction of v": g @ v,
            "that is the gradient of Σ g, which is H times a vector of ones":
                mg.func.hessian(function)(x.detach()).sum(axis=0),
        }  # fmt: skip
        yours = hessian_times(function, x, v)
        yours = yours[0] if isinstance(yours, tuple) and len(yours) == 1 else yours
        compare(
            f"H v of {name}",
            yours.detach() if isinstance(yours, mg.Tensor) else yours,
            right,
            wrong,
        )
    return "It agrees with the whole Hessian of three functions."
