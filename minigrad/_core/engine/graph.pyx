"""Tensor, the graph, and the backward pass.

Design note
-----------
1. This module knows what a Tensor is, how an operation is recorded and how gradients flow. It knows no
   particular operation: those stand in the table (table.py, ../ops.pyx), and an `Op` is the one way to
   them. This file has Op, Node and the record of an operation. Then read apply.pxi, which runs an operation;
   backward.pxi, which is reverse mode, with walk.pxi and gradients.pxi; and tensor.pxi, which is Tensor.
   `include` makes one module of these files, because their functions call one another. The .pxi files in
   the folder above need not be read: they face Python and NumPy, check arguments (`check_...`), and run
   hooks, observers and the profiler. The names of their functions say what they do, with two exceptions:
   `frozen` copies foreign memory, and `run_rules` is `call_rules` unless an observer is installed.
2. A *Tensor* is a NumPy array with a place in the graph. A *Node* is one recorded operation. Edges
   point from a Node to its inputs: to the Node that computed the input, or to the Tensor if it is a leaf.
   The *cotangent* of a tensor, `g` in rules, is the gradient of the final output with respect to it.
3. *Memory policy.* A rule names what it needs (`g`, `out`, `x`, `y`, `shape`, `i`, an attribute such as
   `axis`), and the Node saves no other array. It never saves its output Tensor, which would be a
   reference cycle: where a rule names `out`, it saves the array and wraps it in a new Tensor with itself
   as graph node when the rule runs. So reference counting alone frees graphs.
4. *Backward* collects the Nodes, sorts them by creation number, newest first, and runs the rules. There
   is no recursion. Gradients accumulate in `cotangent` and reach `.grad` only when the whole pass has
   succeeded, so an exception leaves every `.grad` unchanged. If the pass itself is not recorded, a
   primitive may use something faster than its rules (`Op.faster`, ../fast/cotangents.pxi) with the same
   result.
5. Rules are Tensor expressions. With `create_graph` they are recorded like any other expression, and
   that is all that gradients of gradients need. `call_rules` undoes broadcasting; a rule need not.
6. A *Version* counts the writes to one storage. It is created on demand: by a view, a saved output,
   foreign memory or a write. When a rule runs, the versions of its saved tensors are compared. A write
   through a NumPy array that shares the storage is not counted, so a Node saves a copy of a *foreign*
   tensor, one whose memory others may write to.
7. Nodes and Tensors come from freelists. A chain of a million Nodes is freed by CPython's trashcan
   without deep recursion (measured in tests/test_graph.py in a thread with a 512 KB stack).
8. Function, checkpoint, derived formulas, mg.func and detect_anomaly build on the graph from outside. They
   need four things: a *joint* op, whose single rule returns the gradients of all inputs; a pass that *stops
   at its inputs*, for a rule that differentiates a graph of its own; `edges_below`, which finds where a
   subgraph ends; and observers, one per thread, which cost nothing while there are none.
"""
include "../plumbing.pxi"               # of C, CPython and NumPy; and mg_recording, this thread's grad mode

from sys import getswitchinterval
from time import perf_counter_ns

import numpy as np

cnp.import_array()

cdef enum Argument:             # the meaning of a rule's parameter; ATTRIBUTE + k is attribute k
    COTANGENT, OUT, X, Y, SHAPE, POSITION, ATTRIBUTE

cdef enum:
    MAX_ATTRIBUTES = 64         # so that ATTRIBUTE + k, attribute k of a rule, fits in one byte

cdef dict registry = {}         # name -> Op, for every primitive
cdef unsigned long long node_count = 0

cdef ndarray NOTHING = np.zeros(0, np.float32)      # the array of a Tensor that has no values
DTYPES: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, ("float32", "float64", "int32", "int64", "bool")))


# --------------------------------------------------------------------------------------- the table
@cython.final
cdef class Op:
    """One operation: its kernel, NumPy's function for it, and its gradient rules. Fields: graph.pxd."""

    def __repr__(self) -> str: return f"<primitive {self.name}>"


cdef Op named(str name):
    """The primitive of this name, registered or not: operators get it before ops.pyx defines it."""
    return registry.setdefault(name, Op.__new__(Op))


def register(str name not None, *arguments: Any, **options: Any) -> Op:
    """Enter a primitive into the table; the parameters are those of `make_op`."""
    cdef Op op = named(name)
    if op.name is not None:
        raise ValueError(f"primitive {name} is registered twice")
    return make_op(name, *arguments, into=op, **options)


def make_op(str name not None, int opcode=NO_KERNEL, fallback: Callable[..., Any] | None = None,
            tuple rules not None: Rules = (), tuple inputs not None: Names = ("x", "y", "z"),
            tuple attributes not None: Names = (), bint variadic=False, int core_dims=NO_BROADCAST,
            bint joint=False, Op into: Op | None = None) -> Op:
    """An operation that a graph may contain. The parameter names of its rules say what a Node must save.

    variadic: any number of inputs share one rule. joint: that rule is called once, and returns a list
    with the gradients of all inputs, None for an input without one. The other parameters: graph.pxd.

    Raises ValueError for a bad opcode or core_dims, too many rules, parameters or attributes, and for an
    unknown parameter name."""
    cdef Op op = Op.__new__(Op) if into is None else into
    cdef dict meanings = {"g": COTANGENT, "out": OUT, "shape": SHAPE, "i": POSITION}
    cdef int i, k
    meanings.update(zip(inputs[:2], (X, Y)))
    meanings.update(zip(attributes, range(ATTRIBUTE, ATTRIBUTE + len(attributes))))
    check_op(name, opcode, rules, attributes, core_dims, variadic or joint, meanings)
    op.opcode, op.fallback, op.rules = opcode, fallback, rules
    op.inputs, op.attributes, op.core_dims = inputs, attributes, core_dims
    op.variadic, op.joint = variadic or joint, joint
    for i, rule in enumerate(rules):
        if rule is None:
            continue
        op.differentiable |= <unsigned long long> 1 << i
        for k, parameter in enumerate(parameters_of(rule)):
            op.argument[i][k] = meanings[parameter]
            op.arguments[i] = k + 1
            op.saves[i] |= 1 << min(<int> op.argument[i][k], <int> ATTRIBUTE)
    if op.variadic:
        op.differentiable = ~<unsigned long long> 0
    op.name = name
    return op


cdef Op ALIAS = make_op("alias", rules=(lambda g: g,))


def primitives() -> list[str]:
    """The names of all primitives in the table, sorted."""
    return sorted([name for name, op in registry.items() if (<Op> op).name is not None])


# --------------------------------------------------------------------------------------- the graph
@cython.final
@cython.auto_pickle(False)
@cython.freelist(64)
cdef class Version:
    """Counts the writes to a storage; shared by the Tensors that view it."""


@cython.final
@cython.auto_pickle(False)
cdef class Notes:
    """Rarely used fields of a Node: hooks, retain_grad, metadata."""


@cython.final
@cython.auto_pickle(False)
@cython.freelist(1024)
@cython.trashcan(True)
cdef class Node:
    """One recorded operation: `tensor.grad_fn`."""

    @property
    def name(self) -> str:
        """The name of the primitive, of a Function, or of a derived formula."""
        return self.op.name

    @property
    def next_functions(self) -> tuple[Node | Tensor | None, ...]:
        """The Nodes (or, for a leaf, Tensors) of the inputs, None where no gradient flows; a tuple."""
        return tuple([edge(self, i) for i in range(input_count(self))])

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """The shape of the output, a tuple of int; None beyond eight dimensions."""
        cdef int d
        if self.ndim > NOTED_SIZES:
            return None
        return tuple([self.sizes[d] for d in range(self.ndim)])

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """As `Tensor.register_hook` of the output, which need not be alive."""
        return add_hook(notes_of(self).hooks, hook)

    @property
    def metadata(self) -> dict[str, Any] | None:
        """Data of a tool for this Node: None, or a dict."""
        return None if self.notes is None else self.notes.metadata

    @metadata.setter
    def metadata(self, value: dict[str, Any] | None) -> None:
        notes_of(self).metadata = value

    def __repr__(self) -> str: return f"<{self.op.name}>"


cdef Notes notes_of(Node node):
    if node.notes is None:
        node.notes = Notes.__new__(Notes)
        node.notes.hooks = []
    return node.notes


cdef inline int input_count(Node node):
    return 2 if node.more is None else 2 + <int> len(node.more)


cdef inline object edge(Node node, int i):
    """Where the gradient of input i goes: a Node, a leaf Tensor, or None."""
    cdef object slot
    if not node.needs >> min(i, LAST_BIT) & 1:
        return None
    slot = node.x if i == 0 else (node.y if i == 1 else node.more[i - 2])
    return edge_of(<Tensor> slot) if isinstance(slot, Tensor) else slot


cdef inline object edge_of(Tensor tensor):
    return tensor if tensor.node is None else tensor.node


cdef inline bint requires(object value):
    return isinstance(value, Tensor) and (<Tensor> value).requires


cdef inline long version_of(object value):
    if isinstance(value, Tensor) and (<Tensor> value).version is not None:
        return (<Tensor> value).version.value
    return 0


cdef Version shared_version(Tensor tensor):
    if tensor.version is None:
        tensor.version = Version.__new__(Version)
    return tensor.version


cdef inline void count_write(Tensor tensor) noexcept:
    cdef Version version = shared_version(tensor)
    version.value += 1


cdef inline bint same_shape(ndarray a, ndarray b):
    return (PyArray_NDIM(a) == PyArray_NDIM(b)
            and memcmp(PyArray_DIMS(a), PyArray_DIMS(b), PyArray_NDIM(a) * sizeof(npy_intp)) == 0)


cdef inline bint alike(ndarray a, ndarray b):
    return PyArray_TYPE(a) == PyArray_TYPE(b) and same_shape(a, b)


cdef tuple shape_of(ndarray a):
    cdef int d
    cdef tuple shape = PyTuple_New(PyArray_NDIM(a))
    for d in range(PyArray_NDIM(a)):
        size = PyLong_FromSsize_t(PyArray_DIMS(a)[d])
        Py_INCREF(size)                     # PyTuple_SET_ITEM steals it
        PyTuple_SET_ITEM(shape, d, size)
    return shape


cdef Tensor wrap(ndarray array):
    """A Tensor outside the graph that shares `array`, whose dtype is one of DTYPES."""
    cdef Tensor tensor = Tensor.__new__(Tensor)
    tensor.array = array
    return tensor


cdef Tensor record(Op op, ndarray out, object x, object y=None, tuple more=None, tuple attributes=None):
    """Wrap the output of `op`; if an input requires a gradient, record how it was computed."""
    cdef Tensor tensor = wrap(out)
    if mg_recording:
        attach(tensor, op, out, x, y, more, attributes)
    if profiling:
        note_forward(op, out)
    if observers:
        announce(op.name, tuple([z for z in (x, y) + (more or ()) if z is not None]),
                 dict(zip(op.attributes, attributes or ())), tensor)
    return tensor


cdef inline int attach(Tensor tensor, Op op, ndarray out, object x, object y, tuple more,
                       tuple attributes) except -1:
    """Give an output its Node, if an input requires a gradient and `op` has a rule for it."""
    cdef unsigned long long needs = requires(x) | requires(y) << 1
    cdef unsigned char saves = 0
    cdef int i
    cdef Node node
    if more is not None:
        for i in range(<int> len(more)):
            if requires(more[i]):
                needs |= <unsigned long long> 1 << min(i + 2, LAST_BIT)
    needs &= op.differentiable
    if needs == 0:
        return 0

    if op.variadic:
        saves = op.saves[0]
    else:
        for i in range(MAX_INPUTS):
            if needs >> i & 1:
                saves |= op.saves[i]
    node = Node.__new__(Node)
    node.op = op
    node.needs, node.saves = needs, saves
    if saves & (1 << X):
        node.x = kept(x, &node.x_version)
    elif needs & 1:
        node.x = edge_of(<Tensor> x)
    if saves & (1 << Y):
        node.y = kept(y, &node.y_version)
    elif needs & 2:
        node.y = edge_of(<Tensor> y)
    global node_count
    node_count += 1                         # here, since `kept` may make a Node below this one
    node.number = node_count
    if more is not None:
        node.more = tuple([edge_of(<Tensor> z) if requires(z) else None for z in more])
    if saves & (1 << OUT):
        node.out = out
        node.version = shared_version(tensor)
        node.out_version = node.version.value
    if saves & (1 << ATTRIBUTE):
        node.attributes = attributes
    if saves & (1 << SHAPE):
        node.shape = shape_of((<Tensor> x).array)
    node.ndim = PyArray_NDIM(out)
    for i in range(min(node.ndim, <int> NOTED_SIZES)):
        node.sizes[i] = PyArray_DIMS(out)[i]
    if op.core_dims != NO_BROADCAST:
        note_broadcast(node, 0, x, out)
        note_broadcast(node, 1, y, out)
        if more is not None:
            note_broadcast(node, 2, more[0], out)
    tensor.node = node
    tensor.requires = True
    return 0


cdef object kept(object value, long* version):
    """An input to save: notes its present version, and copies a foreign tensor."""
    if isinstance(value, Tensor) and (<Tensor> value).version is not None:
        version[0] = (<Tensor> value).version.value
        return frozen(value)
    return value


cdef inline void note_broadcast(Node node, int i, object tensor, ndarray out) noexcept:
    cdef ndarray array
    if node.needs >> i & 1:
        array = (<Tensor> tensor).array
        node.repeated[i] = repeated_axes(PyArray_DIMS(array), PyArray_NDIM(array), out, node.op.core_dims)
        node.extra[i] = PyArray_NDIM(out) - PyArray_NDIM(array)
        node.broadcast |= node.repeated[i] != 0


cdef unsigned long long repeated_axes(npy_intp* shape, int ndim, ndarray out, int core_dims):
    """The axes of `out` along which broadcasting repeated an input of this shape, as bits."""
    cdef unsigned long long axes = 0
    cdef int d, extra = PyArray_NDIM(out) - ndim
    for d in range(PyArray_NDIM(out) - core_dims):
        if d < extra or (shape[d - extra] == 1 and PyArray_DIMS(out)[d] != 1):
            axes |= <unsigned long long> 1 << d
    return axes


cdef Tensor record_view(Op op, ndarray out, Tensor x, tuple attributes=None):
    """As `record`, for an output that may share the memory, and so the version, of x."""
    cdef Tensor tensor = record(op, out, x, None, None, attributes)
    tensor.version = shared_version(x)
    return tensor


# ------------------------------------------------------------------------------------------ the other rooms
# Included as text, because separate modules would import one another: an operator applies a primitive, which
# is recorded; backward applies primitives; Tensor.backward runs it.
include "apply.pxi"
include "backward.pxi"
include "walk.pxi"
include "gradients.pxi"
include "../generated/tensor.pxi"       # tensor.pxi and the operators
include "../errors.pxi"
include "../settings.pxi"
include "../operands.pxi"
include "../operators.pxi"
include "../write.pxi"
include "../interop.pxi"
include "../subgraph.pxi"
include "../observe.pxi"
include "../fast/cotangents.pxi"
