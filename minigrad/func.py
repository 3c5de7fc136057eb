"""Derivatives as function transforms: `grad`, `vjp`, `jvp`, `jacobian`, `hessian`.

Each takes a Python function of tensors, or of nested dicts, lists and tuples of them, and returns a
function or a derivative; none touches a `.grad` or changes its arguments. How it works: the
function is called with a fresh variable in place of each tensor, and the resulting graph is
differentiated with respect to these variables only. A fresh variable is an alias of its tensor in
the surrounding graph. This lets derivatives nest to any order, and a derivative with respect to an
inner variable is never confused with one with respect to an outer variable of the same value
(Siskind & Pearlmutter 2005).

A derivative is itself recorded if recording is on and an argument, or a tensor that the function
closes over, requires grad. Under `mg.no_grad()` it is not recorded; operations inside the function
still are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ._core.engine.graph import (
    Tensor,
    adopt,
    count_nodes,
    edges_below,
    freeze,
    is_grad_enabled,
    run_graph,
    set_recording,
    to_tensor,
)
from ._core.ops import reshape, zeros_like
from .checks import instance, integer
from .creation import asarray, ones_like, zeros
from .functions import stack
from .nn.module import BUFFER, PARAMETER, TRANSIENT, Module, _join
from .tree import flatten_tree

ArgNums = int | tuple[int, ...]
AnyCallable = Callable[..., Any]

__all__ = ["functional_call", "grad", "hessian", "hvp", "jacobian", "jvp", "value_and_grad", "vjp"]
__dir__ = __all__.copy


class _Trace:
    """One call of a function with fresh variables in place of the arguments `argnums`."""

    def __init__(
        self,
        caller: str,
        function: AnyCallable,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        argnums: ArgNums,
        has_aux: bool,
    ) -> None:
        if not callable(function):
            raise TypeError(f"{caller}: expected a function, got {type(function).__name__}")
        self.single = not isinstance(argnums, tuple)
        self.recording = is_grad_enabled()
        self.since = count_nodes()
        self.variables: list[Tensor] = []
        self.branches: list[tuple[int, Callable[[list[Any]], Any]]] = []
        called = list(arguments)
        for i in _positions(caller, argnums, len(arguments)):
            leaves, rebuild = flatten_tree(arguments[i])
            fresh = [_variable(caller, i, leaf) for leaf in leaves]
            called[i] = rebuild(fresh)
            self.variables += fresh
            self.branches.append((len(leaves), rebuild))
        set_recording(True)
        try:
            output = function(*called, **options)
        finally:
            set_recording(self.recording)
        self.aux: list[Any] = []
        if has_aux:
            if not (isinstance(output, tuple) and len(output) == 2):
                raise TypeError(f"{caller}: with has_aux=True the function returns (output, aux)")
            output, *self.aux = output
        self.outputs, self.rebuild = flatten_tree(output)
        for y in self.outputs:
            way_out = "leave out .item() and .numpy(), or return it as aux (has_aux=True)"
            instance(y, Tensor, f"{caller}: the function must return Tensors", f"; {way_out}")
        self.shared = self._reaches_out(self.outputs)  # parts of the graph are used elsewhere
        self.create_graph = self.recording and self.shared

    def _reaches_out(self, tensors: list[Tensor]) -> bool:
        own = set(map(id, self.variables))
        return any(id(edge) not in own for edge in edges_below(tensors, self.since))

    def results(self, output: Any, *others: Any) -> tuple[Any, ...]:
        """The output, its derivatives, and aux if present, without our own graph."""
        return (self.released(output), *others, *map(self.released, self.aux))

    def released(self, tree: Any) -> Any:
        """`tree`, with tensors detached if they depend only on our variables."""
        leaves, rebuild = flatten_tree(tree)
        for i, t in enumerate(leaves):
            if isinstance(t, Tensor) and not (self.recording and self._reaches_out([t])):
                leaves[i] = t.detach() if t.requires_grad else t
        return rebuild(leaves)

    def pulled_back(
        self, ys: list[Tensor], cotangents: list[Tensor | None], retain: bool, create: bool
    ) -> list[Tensor]:
        """The gradients of all variables; zeros if the outputs do not depend on one."""
        flowing = [(y, g) for y, g in zip(ys, cotangents, strict=True) if y.requires_grad]
        found = _gradients(flowing, self.variables, retain, create)
        pairs = zip(self.variables, found, strict=True)
        return [zeros_like(x) if g is None else g for x, g in pairs]

    def as_arguments(self, values: list[Tensor]) -> Any:
        """One value per variable, in the structure of the chosen arguments."""
        parts, position = [], 0
        for count, rebuild in self.branches:
            parts.append(rebuild(values[position : position + count]))
            position += count
        return parts[0] if self.single else tuple(parts)


def _gradients(
    flowing: list[tuple[Tensor, Any]], inputs: list[Tensor], retain: bool, create: bool
) -> list[Tensor | None]:
    """`run_graph` for pairs of outputs and cotangents; there may be none."""
    if not (flowing and inputs):
        return [None] * len(inputs)
    return run_graph([y for y, _ in flowing], [g for _, g in flowing], inputs, retain, create)


def _positions(caller: str, argnums: ArgNums, count: int) -> list[int]:
    chosen = argnums if isinstance(argnums, tuple) else (argnums,)
    for i in chosen:
        try:
            i = integer(i, "argnums")
        except TypeError:
            raise TypeError(
                f"{caller}: argnums must be an int or a tuple of ints, got {argnums!r}"
            ) from None
        if not -count <= i < count:
            raise ValueError(
                f"{caller}: argnums={argnums}, but the function was called with {count} positional "
                "arguments; keyword arguments are not differentiated"
            )
    positions = [int(i) % count for i in chosen]
    if not positions or len(set(positions)) < len(positions):
        raise ValueError(f"{caller}: argnums must name each argument once, got {argnums}")
    return positions


def _variable(caller: str, position: int, leaf: Any) -> Tensor:
    x = to_tensor(leaf, f"{caller}: argument {position}")
    if x.dtype.kind != "f":
        raise TypeError(
            f"{caller}: argument {position} holds {x.dtype}, but only float32 and float64 have "
            "gradients; use x.astype(mg.float32), 1.0 for 1, or leave it out of argnums"
        )
    x = freeze(x, follow=False)  # once here, rather than each time the function saves it
    alias = reshape(x, x.shape)
    return alias if alias.requires_grad else alias.requires_grad_()


def _cotangents(caller: str, tree: Any, outputs: list[Tensor], rebuild: Any) -> list[Tensor]:
    """The leaves of a tree of tangents or cotangents, which must match `outputs` in structure and
    shapes."""
    leaves, rebuild_given = flatten_tree(tree)
    numbers = list(range(len(outputs)))
    if len(leaves) != len(outputs) or rebuild_given(numbers) != rebuild(numbers):
        raise ValueError(
            f"{caller}: expected the structure {rebuild([y.shape for y in outputs])} (of shapes), "
            f"got {rebuild_given([getattr(leaf, 'shape', leaf) for leaf in leaves])}"
        )
    given = []
    for leaf, y in zip(leaves, outputs, strict=True):
        g = leaf if isinstance(leaf, Tensor) else asarray(leaf, dtype=y.dtype)
        if g.shape != y.shape:
            raise ValueError(f"{caller}: expected a tensor of shape {y.shape}, got {g.shape}")
        given.append(g)
    return given


# ------------------------------------------------------------------------------------- reverse mode
def value_and_grad(
    function: AnyCallable, argnums: ArgNums = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Return a function that computes `(function(...), gradient)`, or with has_aux
    `((output, aux), gradient)`; otherwise like `grad`.

    >>> mg.func.value_and_grad(lambda x: (x * x).sum())(mg.tensor([1.0, 2.0]))
    (tensor(5.), tensor([2., 4.]))
    """
    return _value_and_grad("value_and_grad", function, argnums, has_aux)


def _value_and_grad(
    caller: str, function: AnyCallable, argnums: ArgNums, has_aux: bool
) -> Callable[..., tuple[Any, Any]]:
    def differentiated(*arguments: Any, **options: Any) -> tuple[Any, Any]:
        trace = _Trace(caller, function, arguments, options, argnums, has_aux)
        if len(trace.outputs) != 1 or trace.outputs[0].shape != ():
            shapes = trace.rebuild([y.shape for y in trace.outputs])
            raise ValueError(
                f"{caller}: the function must return one tensor of shape (), got {shapes}; reduce "
                "it, for example with .sum(), or use mg.func.jacobian or mg.func.vjp"
            )
        results = trace.results(trace.outputs[0])
        found = trace.pulled_back(trace.outputs, [None], trace.shared, trace.create_graph)
        return results if has_aux else results[0], trace.as_arguments(found)

    return differentiated


def grad(function: AnyCallable, argnums: ArgNums = 0, has_aux: bool = False) -> AnyCallable:
    """Return a function that computes the gradient of `function`, whose value has shape ().

    argnums: which positional arguments to differentiate: an int for the gradient of one, in the
        structure of that argument, or a tuple of ints for a tuple of them. Each is a float32 or
        float64 Tensor (an array or float becomes one) or a nested dict, list or tuple of them. The
        gradient is zero if the value does not depend on the argument.
    has_aux: `function` returns `(value, aux)`, and the result is `(gradient, aux)`.

    Raises ValueError for a value of another shape or argnums out of range, TypeError for arguments
    that are not floating point.

    >>> mg.func.grad(mg.sin)(0.0)
    tensor(1.)
    >>> mg.func.grad(mg.func.grad(lambda x: x ** 3))(mg.tensor(2.0))
    tensor(12.)
    >>> mg.func.grad(lambda p: (p["a"] * p["b"]).sum())({"a": mg.ones(2), "b": mg.zeros(2)})
    {'a': tensor([0., 0.]), 'b': tensor([1., 1.])}
    """
    both = _value_and_grad("grad", function, argnums, has_aux)

    def gradient(*arguments: Any, **options: Any) -> Any:
        value, found = both(*arguments, **options)
        return (found, value[1]) if has_aux else found

    return gradient


def vjp(function: AnyCallable, *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """Return `(function(*primals), pull_back)`, or with has_aux `(output, pull_back, aux)`.

    `pull_back(cotangents)` takes cotangents in the structure and shapes of the output and returns a
    tuple of vector-Jacobian products, one per primal; it can be called many times.

    >>> y, pull_back = mg.func.vjp(lambda x: x * x, mg.tensor([1.0, 2.0]))
    >>> pull_back(mg.tensor([1.0, 10.0]))
    (tensor([ 2., 40.]),)
    """
    trace = _Trace("vjp", function, primals, {}, tuple(range(len(primals))), has_aux)

    def pull_back(cotangents: Any) -> tuple[Any, ...]:
        given = _cotangents("vjp", cotangents, trace.outputs, trace.rebuild)
        connected = trace.create_graph or any(g.requires_grad for g in given)
        create_graph = connected and is_grad_enabled()
        found = trace.pulled_back(trace.outputs, [*given], True, create_graph)
        return tuple(trace.as_arguments(found))

    return trace.results(trace.rebuild(trace.outputs), pull_back)


# ------------------------------------------------------------------------------------- forward mode
def jvp(
    function: AnyCallable,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """Return `(function(*primals), derivative along the tangents)`, or with has_aux
    `(output, derivative, aux)`. tangents: a tuple in the structure and shapes of primals.

    The Jacobian-vector product takes two reverse passes: the vector-Jacobian product is linear in
    its cotangent, and its derivative with respect to the cotangent is the transpose (Townsend 2017,
    "A new trick for calculating Jacobian vector products").

    >>> mg.func.jvp(lambda x: x ** 3, (mg.tensor(2.0),), (mg.tensor(1.0),))
    (tensor(8.), tensor(12.))
    """
    if not all(isinstance(given, tuple) for given in (primals, tangents)):
        raise TypeError("jvp: primals and tangents must be tuples, one element per argument")
    trace = _Trace("jvp", function, primals, {}, tuple(range(len(primals))), has_aux)
    given = _cotangents("jvp", tangents, trace.variables, trace.as_arguments)
    create_graph = trace.recording and (trace.shared or any(t.requires_grad for t in given))
    flowing = [y for y in trace.outputs if y.requires_grad]
    dummies = [ones_like(y).requires_grad_() for y in flowing]
    pulled = trace.pulled_back(flowing, [*dummies], True, True)
    linear = [(x, t) for x, t in zip(pulled, given, strict=True) if x.requires_grad]
    found = _gradients(linear, dummies, True, create_graph)
    pushed = {id(y): t for y, t in zip(flowing, found, strict=True) if t is not None}
    derivative = trace.rebuild([pushed.get(id(y), zeros_like(y)) for y in trace.outputs])
    return trace.results(trace.rebuild(trace.outputs), derivative)


def hvp(
    function: AnyCallable, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Return the Hessian of a function of shape () times the tangents, a tuple like primals.

    Since the Hessian is symmetric, this is the vector-Jacobian product of the gradient; the matrix
    is never formed.

    >>> mg.func.hvp(lambda x: (x ** 3).sum(), (mg.tensor([1.0, 2.0]),), (mg.tensor([1.0, 1.0]),))
    (tensor([ 6., 12.]),)
    """
    gradient = grad(function, argnums=tuple(range(len(primals))))
    return tuple(vjp(gradient, *primals)[1](tuple(tangents)))


# ---------------------------------------------------------------------------------------- Jacobians
def jacobian(function: AnyCallable, argnums: ArgNums = 0, has_aux: bool = False) -> AnyCallable:
    """Return a function that computes the Jacobian of `function`: for each output and argument a
    tensor of shape `output.shape + argument.shape`.

    If the output is a tree, each leaf is replaced by its Jacobian, in the structure of the argument
    (of a tuple of arguments if argnums is a tuple). It takes one reverse pass per element of the
    output. argnums, has_aux and errors as in `grad`.

    >>> mg.func.jacobian(lambda x: x * x)(mg.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    return _jacobian("jacobian", function, argnums, has_aux)


def _jacobian(caller: str, function: AnyCallable, argnums: ArgNums, has_aux: bool) -> AnyCallable:
    def jacobian_of(*arguments: Any, **options: Any) -> Any:
        trace = _Trace(caller, function, arguments, options, argnums, has_aux)
        matrices = trace.rebuild([trace.as_arguments(_rows(trace, y)) for y in trace.outputs])
        return (matrices, trace.released(*trace.aux)) if has_aux else matrices

    return jacobian_of


def _rows(trace: _Trace, y: Tensor) -> list[Tensor]:
    """The Jacobian of one output with respect to each variable."""
    rows = []
    for i in range(y.size if y.requires_grad else 0):
        unit = np.zeros(y.size, y.dtype)
        unit[i] = 1
        cotangent = adopt(unit.reshape(y.shape))
        rows.append(trace.pulled_back([y], [cotangent], True, trace.create_graph))
    if not rows:
        return [zeros(y.shape + x.shape, dtype=x.dtype) for x in trace.variables]
    columns = zip(trace.variables, zip(*rows, strict=True), strict=True)
    return [reshape(stack(column), y.shape + x.shape) for x, column in columns]


def hessian(function: AnyCallable, argnums: ArgNums = 0, has_aux: bool = False) -> AnyCallable:
    """Return a function that computes second derivatives, the Jacobian of the Jacobian: for a
    function of shape () and an argument x, a tensor of shape `x.shape + x.shape`.

    For several arguments or an argument that is a tree, the structure of the argument is nested in
    itself: `h["a"]["b"]` is d²f / da db. argnums, has_aux and errors as in `grad`.

    >>> mg.func.hessian(lambda x: x[0] ** 2 * x[1])(mg.tensor([1.0, 3.0]))
    tensor([[6., 2.],
            [2., 0.]])
    """
    return _jacobian("hessian", _jacobian("hessian", function, argnums, has_aux), argnums, has_aux)


# ------------------------------------------------------------------------------------------ modules
def functional_call(
    module: Module,
    parameters_and_buffers: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Call `module(*args, **kwargs)` with its parameters and buffers replaced by name.

    parameters_and_buffers: such as `dict(module.named_parameters())`, or several such dicts. Names
        that it omits keep the module's own tensors. A parameter that the module has under several
        names (tied weights) is replaced everywhere. If the module updates a buffer, the given
        tensor is updated in place or, if the module assigns a new one, the dict is.
    args: a tuple, or a single argument.

    The module is restored afterwards, even after an error. Raises KeyError for an unknown name,
    TypeError for a value that is not a Tensor, ValueError for two tensors for one tied parameter.

    >>> net = mg.nn.Linear(2, 1)
    >>> weights = {"weight": mg.tensor([[1.0, 2.0]]), "bias": mg.tensor([0.5])}
    >>> mg.func.functional_call(net, weights, mg.tensor([[1.0, 1.0]]))
    tensor([[3.5]])
    >>> loss = lambda p: mg.func.functional_call(net, p, mg.ones(1, 2)).sum()
    >>> mg.func.grad(loss)(weights)
    {'weight': tensor([[1., 1.]]), 'bias': tensor([1.])}
    """
    instance(module, Module, "functional_call: expected a Module")
    dicts: Any = parameters_and_buffers
    dicts = (dicts,) if isinstance(dicts, Mapping) else dicts
    places: dict[str, tuple[dict[str, Any], str]] = {}
    tied: dict[int, list[str]] = {}  # the names that share a tensor
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, value in owner._own(PARAMETER, BUFFER, TRANSIENT):
            places[_join(path, name)] = owner.__dict__, name
            tied.setdefault(id(value), []).append(_join(path, name))
    chosen: dict[str, Tensor] = {}
    for name, tensor in (item for given in dicts for item in given.items()):
        if name not in places:
            raise KeyError(
                f"functional_call: {type(module).__name__} has no parameter or buffer {name!r}; "
                f"it has {', '.join(places) or 'none'}"
            )
        instance(tensor, Tensor, f"functional_call: {name} must be a Tensor")
        members, attribute = places[name]
        for same in tied[id(members[attribute])]:
            if chosen.setdefault(same, tensor) is not tensor:
                raise ValueError(
                    f"functional_call: {name} is one parameter under several names, but two "
                    "different tensors were given for it; give one"
                )
    slots = [places[name] for name in chosen]
    before = [members[attribute] for members, attribute in slots]
    try:
        for (members, attribute), tensor in zip(slots, chosen.values(), strict=True):
            members[attribute] = tensor
        result = module(*(args if isinstance(args, tuple) else (args,)), **(kwargs or {}))
        for given in dicts:
            for name, tensor in list(given.items()):
                members, attribute = places[name]
                if members[attribute] is not tensor:
                    given[name] = members[attribute]
        return result
    finally:
        for (members, attribute), tensor in zip(slots, before, strict=True):
            members[attribute] = tensor
