"""Tensor, the graph, and the backward pass.

Design note
-----------
1. This file knows what a Tensor is, how an operation is recorded and how gradients flow. It must not
   know any particular operation: those stand in the table (ops.pyx), and the operators below look
   theirs up there.
2. A *Tensor* is a NumPy array with a place in the graph. A *Node* is one recorded operation. Edges
   point from a Node to its inputs: to the Node that made the input, or to the Tensor if it is a leaf.
3. *Memory policy.* A rule names what it needs (`g`, `out`, `x`, `y`, `shape`, an attribute such as
   `axis`), and the Node keeps that and no more. It never keeps its output Tensor, which would be a
   reference cycle: where a rule names `out` it keeps the array, and wraps it again, with itself as
   the graph node, when the rule runs. So graphs are freed by reference counting alone.
4. *Backward* collects the Nodes, sorts them by the number they got when they were made, newest first,
   and runs the rules. No recursion. Gradients wait in `cotangent`, and reach `.grad` only when the
   whole pass has succeeded, so that an exception leaves every `.grad` as it was.
   Where nobody records the gradients, three kinds of sums are made in one place: the cotangents of a
   tensor's parts (`deliver_part`), the products for a weight (`Walk.postpone`), and those for what a
   product repeats (`Op.summed_gradient`).
5. Rules are Tensor expressions; with `create_graph` they are recorded like any other, and that is all
   there is to gradients of gradients. Broadcasting is undone here, once (`run_rules`), never in a rule.
6. *Versions* are counted per storage and made only when needed: by a view, a saved output or a write.
   What was saved is compared when its rule runs. A write through a NumPy array that shares the storage is
   not counted, so a Node saves a copy of a *foreign* tensor, one on memory that was not allocated here.
7. Nodes and Tensors come from freelists. A chain of a million Nodes is freed by CPython's trashcan
   without deep recursion (measured in tests/test_graph.py in a thread with a 512 KB stack).
8. What is built on the graph from outside (Function, checkpoint, fusion, mg.func, detect_anomaly) needs four
   things of it: a *joint* op, whose one rule is called once and returns the gradients of all inputs; a
   pass that *stops at its inputs*, for a rule that differentiates a graph of its own; `edges_below`, where
   a part of the graph ends; and observers, one per thread, which cost nothing while there are none.
"""
cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact, PyLong_FromSsize_t
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.bool cimport PyBool_Check
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memcpy, memmove
from numpy cimport (NPY_BOOL, NPY_DOUBLE, NPY_FLOAT, NPY_INT32, NPY_INT64, PyArray_DATA, PyArray_DIMS,
                    PyArray_ITEMSIZE, PyArray_NBYTES, PyArray_NDIM,
                    PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp)

from .accelerate cimport Shortcut
from .kernels cimport (
    ABS, ADD, DIVIDE, EQUAL, FIRST_COMPARISON, GREATER, GREATER_EQUAL, LESS, LESS_EQUAL, MULTIPLY, NEGATIVE,
    NO_KERNEL, NOT_EQUAL, SUBTRACT, call_kernel)
from .loops cimport (
    Operand, add_in_place, blend, contiguous, copied, elements, elementwise, empty, may_overlap,
    recycle, view_array, zeros_of)

import weakref
from sys import getswitchinterval
from time import perf_counter_ns

import numpy as np

cnp.import_array()

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #define MG_THREAD_LOCAL __declspec(thread)
    #else
    #define MG_THREAD_LOCAL __thread
    #endif
    static MG_THREAD_LOCAL int mg_recording = 1;
    static MG_THREAD_LOCAL PyObject *mg_observer = NULL, *mg_write_observer = NULL, *mg_running = NULL;
    """
    int mg_recording            # grad mode, one per thread as in PyTorch
    PyObject* mg_observer       # who is told of every primitive of this thread, and of every write
    PyObject* mg_write_observer
    PyObject* mg_running        # the Node whose rules run in this thread, while anybody observes

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*)
    PyObject* Py_TYPE "(PyObject*) Py_TYPE"(PyObject*)
    PyObject** PySequence_Fast_ITEMS(object)
    bint PySequence_Check(object)
    bint PyObject_CheckBuffer(object)
    object PyObject_Vectorcall(object function, PyObject** arguments, size_t count, PyObject* names)
    ctypedef struct PyThreadState:
        pass
    PyThreadState* PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState*)

cdef enum:
    LONG_SUM = 256              # terms of a product that is taken at once; more would gain little

cdef enum Argument:             # what a parameter of a rule stands for; attributes follow
    COTANGENT, OUT, X, Y, SHAPE, POSITION, ATTRIBUTE

cdef enum:
    MAX_ATTRIBUTES = 64         # an Argument is one byte

cdef Shortcut PARTS = Shortcut("parts added in place"), SUMS = Shortcut("postponed sums of products")
cdef Shortcut SUMMED = Shortcut("products summed as they are made")

cdef dict OTHER_PARAMETERS = {"g": COTANGENT, "out": OUT, "shape": SHAPE, "i": POSITION}

cdef dict registry = {}         # name -> Op, for every primitive
cdef PyObject* by_opcode[<int> NO_KERNEL]
cdef dict functions = {}        # name -> public function, for the operators that have no kernel
cdef object add_tensors = None, cast = None      # what the engine itself calls; see install()
cdef unbroadcast_t unbroadcast = NULL
cdef unsigned long long node_count = 0, pass_count = 0

cdef ndarray NOTHING = np.zeros(0, np.float32)
DTYPES = tuple(map(np.dtype, ("float32", "float64", "int32", "int64", "bool")))


# --------------------------------------------------------------------------------------- the table
@cython.final
cdef class Op:
    """One primitive: its kernel, what NumPy calls it, and a gradient rule for each input."""

    def __repr__(self):
        return f"<primitive {self.name}>"


def register(str name not None, int opcode, object fallback, tuple rules not None,
             tuple inputs not None=("x", "y", "z"), tuple attributes not None=(), bint variadic=False,
             int core_dims=NO_BROADCAST):
    """Enter a primitive into the table."""
    cdef Op op = make_op(name, opcode, fallback, rules, inputs, attributes, variadic, core_dims)
    if name in registry:
        raise ValueError(f"primitive {name} is registered twice")
    registry[name] = op
    if opcode < NO_KERNEL:
        by_opcode[opcode] = <PyObject*> op
    return op


def make_op(str name not None, int opcode=NO_KERNEL, object fallback=None, tuple rules not None=(),
            tuple inputs not None=("x", "y", "z"), tuple attributes not None=(), bint variadic=False,
            int core_dims=NO_BROADCAST, bint joint=False):
    """An operation that may stand in a graph. The parameter names of its rules say what a Node must keep.

    variadic: any number of inputs share one rule. joint: that rule is called once, and returns a list
    with the gradients of all inputs, None for one that has none.

    Raises ValueError for more rules, parameters or attributes than a Node has room for, and for a parameter
    that is no input, attribute or one of g, out, shape and i."""
    cdef Op op = Op.__new__(Op)
    cdef int i, k
    if not 0 <= opcode <= NO_KERNEL:
        raise ValueError(f"{name}: opcode {opcode} is none of the kernels'")
    if core_dims < NO_BROADCAST or core_dims != NO_BROADCAST and (variadic or joint):
        raise ValueError(f"{name}: core_dims={core_dims}: expected a number of dimensions, of an operation "
                         "with a rule for each input")
    if len(rules) > (1 if variadic or joint else <int> MAX_INPUTS) or len(attributes) > MAX_ATTRIBUTES:
        raise ValueError(f"{name}: {len(rules)} rules and {len(attributes)} attributes; there may be "
                         f"{1 if variadic or joint else MAX_INPUTS} and {MAX_ATTRIBUTES}")
    op.name, op.opcode, op.fallback, op.rules = name, opcode, fallback, rules
    op.inputs, op.attributes, op.core_dims = inputs, attributes, core_dims
    op.variadic, op.joint = variadic or joint, joint
    for i, rule in enumerate(rules):
        if rule is None:
            continue
        op.differentiable |= <unsigned long long> 1 << i
        parameters = rule.__code__.co_varnames[:rule.__code__.co_argcount]
        if len(parameters) > MAX_ARGUMENTS:
            raise ValueError(f"{name}: the rule of input {i} has {len(parameters)} parameters; it may have "
                             f"{MAX_ARGUMENTS}")
        op.arguments[i] = len(parameters)
        for k, parameter in enumerate(parameters):
            if parameter in attributes:
                op.argument[i][k] = ATTRIBUTE + attributes.index(parameter)
            elif parameter in inputs[:2]:
                op.argument[i][k] = X + inputs.index(parameter)
            elif parameter in OTHER_PARAMETERS:
                op.argument[i][k] = OTHER_PARAMETERS[parameter]
            else:
                raise ValueError(f"{name}: the rule of input {i} asks for {parameter!r}; it may name its "
                                 "first two inputs, attributes, g, out, shape and i")
            if op.argument[i][k] == SHAPE:
                op.names_shape = True
            op.saves[i] |= 1 << min(<int> op.argument[i][k], <int> ATTRIBUTE)
    if op.variadic:
        op.differentiable = ~<unsigned long long> 0
    return op


cdef void install(object add, unbroadcast_t sum_repeated, object conversion, dict public):
    """Called once by ops.pyx: the few operations that the engine itself must call."""
    global add_tensors, unbroadcast, cast
    add_tensors, unbroadcast, cast = add, sum_repeated, conversion
    functions.update(public)


def attach_methods(dict public):
    """Make functions whose first parameter is a Tensor methods of Tensor, and known to its operators."""
    cdef dict members = <dict> (<PyTypeObject*> Tensor).tp_dict
    for name, function in public.items():
        functions[name] = function
        if name not in members:
            members[name] = function
    PyType_Modified(<type> Tensor)


cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        PyObject* tp_dict
    void PyType_Modified(type)

cdef extern from *:
    """
    static PyObject *mg_refuse(PyTypeObject *type, PyObject *arguments, PyObject *options) {
        PyErr_Format(PyExc_TypeError, "%s: made by the engine alone, it has no constructor", type->tp_name);
        return NULL;
    }
    static void mg_engine_only(PyObject *object) {
        PyTypeObject *type = (PyTypeObject *)object;
        type->tp_new = mg_refuse;
        type->tp_vectorcall = NULL;         /* which would call the old one */
        PyType_Modified(type);
    }
    """
    void mg_engine_only(object type)


cdef Op ALIAS = make_op("alias", rules=(lambda g: g,))


def primitives():
    """The names of all primitives in the table, sorted."""
    return sorted(registry)


# --------------------------------------------------------------------------------------- the graph
@cython.final
@cython.auto_pickle(False)
@cython.freelist(64)
cdef class Version:
    """How often a storage was written to; shared by the Tensors that look at it."""


@cython.final
@cython.auto_pickle(False)
cdef class Notes:
    """Hooks, and what else few Nodes have."""


@cython.final
@cython.auto_pickle(False)
@cython.freelist(1024)
@cython.trashcan(True)
cdef class Node:
    """One recorded operation: `tensor.grad_fn`."""

    @property
    def name(self):
        """The name of the primitive, or of the function (a Function, or one that is fused)."""
        return self.op.name

    @property
    def next_functions(self):
        """The Nodes (or, for a leaf, Tensors) of the inputs, None where no gradient flows; a tuple."""
        return tuple([edge(self, i) for i in range(input_count(self))])

    @property
    def output_shape(self):
        """The shape of the output, a tuple of int; None beyond eight dimensions."""
        cdef int d
        if self.ndim > NOTED_SIZES:
            return None
        return tuple([self.sizes[d] for d in range(self.ndim)])

    def register_hook(self, hook):
        """As `Tensor.register_hook` of the output, which need not live any more."""
        notes = notes_of(self)
        if notes.hooks is None:
            notes.hooks = []
        return add_hook(notes.hooks, hook)

    @property
    def metadata(self):
        """What a tool notes about this Node: None, or a dict."""
        return None if self.notes is None else self.notes.metadata

    @metadata.setter
    def metadata(self, value):
        notes_of(self).metadata = value

    def __repr__(self):
        return f"<{self.op.name}>"


cdef Notes notes_of(Node node):
    if node.notes is None:
        node.notes = Notes.__new__(Notes)
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


cdef bint recording():
    return mg_recording


cdef bint observed():
    return observers > 0


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
    """A Tensor outside the graph on `array`, whose dtype is known to be one of DTYPES."""
    cdef Tensor tensor = Tensor.__new__(Tensor)
    tensor.array = array
    return tensor


cdef Tensor share(ndarray array):
    """As `wrap`, for an array that others may write to."""
    cdef Tensor tensor = wrap(array)
    shared_version(tensor).foreign = True
    return tensor


def adopt(array, bint requires_grad=False):
    """A Tensor on an array of one of the five dtypes that the caller has made and gives away. `Tensor(array)`
    expects that others write to the array."""
    cdef Tensor tensor = wrap(checked(array))
    if requires_grad:
        tensor.requires_grad = True
    return tensor


cdef Tensor frozen(Tensor tensor):
    """The tensor as a graph may save it: itself, or a copy of a foreign one, at the same place in the graph.
    Its version is shared, so a write through the library is reported as for any other tensor."""
    cdef Tensor copy
    if tensor.version is None or not tensor.version.foreign or alone(<PyObject*> tensor.array):
        return tensor
    copy = wrap(copied_as_laid_out(tensor.array))
    if tensor.node is not None:
        copy.node, copy.requires = tensor.node, True
    elif tensor.requires:                   # a leaf stays the end of its graph
        copy = attach_op(ALIAS, copy, (tensor,), None)
    copy.version = tensor.version
    return copy


def freeze(Tensor tensor not None, bint follow=True):
    """`frozen`, for what saves tensors in Python. Unless `follow`, a copy has no version, and is not copied
    again where it is saved."""
    cdef Tensor copy = frozen(tensor)
    if copy is not tensor and not follow:
        copy.version = None
    return copy


cdef inline bint alone(PyObject* array):
    """Whether an array owns its memory, and only one Tensor holds it. (A borrowed pointer, as in `ours`.)"""
    return Py_REFCNT(array) == 1 and cnp.PyArray_CHKFLAGS(<ndarray> array, cnp.NPY_ARRAY_OWNDATA)


cdef ndarray copied_as_laid_out(ndarray array):
    """A copy with the same strides if that takes no more memory than a copy in C order. Sliding windows and
    broadcast views are larger than the memory they look at."""
    cdef npy_intp low = 0, high = PyArray_ITEMSIZE(array), count, reach
    cdef int d
    cdef ndarray memory, view
    if plain(array):
        memory = empty(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array))
        memcpy(PyArray_DATA(memory), PyArray_DATA(array), PyArray_NBYTES(array))
        return memory
    for d in range(PyArray_NDIM(array)):
        reach = PyArray_STRIDES(array)[d] * (PyArray_DIMS(array)[d] - 1)
        if reach < 0:
            low += reach
        else:
            high += reach
    count = (high - low) // PyArray_ITEMSIZE(array)
    if high - low > PyArray_NBYTES(array) or (high - low) % PyArray_ITEMSIZE(array):
        return copied(array)
    memory = empty(1, &count, PyArray_TYPE(array))
    memcpy(PyArray_DATA(memory), <char*> PyArray_DATA(array) + low, high - low)
    view = cnp.PyArray_New(ndarray, PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array),
                           PyArray_STRIDES(array), <char*> PyArray_DATA(memory) - low, 0,
                           cnp.NPY_ARRAY_ALIGNED, None)
    cnp.set_array_base(view, memory)
    return view


cdef Tensor record(Op op, ndarray out, object x, object y=None, tuple more=None, tuple attributes=None):
    """Wrap the output of `op`; if a gradient may be wanted, remember how it was made."""
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
    """Give an output its Node, if any input requires a gradient that `op` has."""
    cdef unsigned long long needs = 0
    cdef unsigned char saves = 0
    cdef int i
    cdef Node node
    if requires(x):
        needs = 1
    if requires(y):
        needs |= 2
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
    node.needs = needs
    if saves & (1 << X):
        node.x = x
        if isinstance(x, Tensor) and (<Tensor> x).version is not None:
            note_version(node, False)
    elif needs & 1:
        node.x = edge_of(<Tensor> x)
    if saves & (1 << Y):
        node.y = y
        if isinstance(y, Tensor) and (<Tensor> y).version is not None:
            note_version(node, True)
    elif needs & 2:
        node.y = edge_of(<Tensor> y)
    global node_count
    node_count += 1                         # here, since `note_version` may make a Node below this one
    node.number = node_count
    if more is not None:
        node.more = tuple([edge_of(<Tensor> z) if requires(z) else None for z in more])
    if saves & (1 << OUT):
        node.out = out
        node.version = shared_version(tensor)
        node.out_version = node.version.value
    if saves & (1 << ATTRIBUTE):
        node.attributes = attributes
    if op.names_shape:
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


cdef void note_version(Node node, bint of_y) except *:
    """For a saved input that has a version: note it, and of a foreign tensor save a copy."""
    cdef Tensor tensor = node.y if of_y else node.x
    if of_y:
        node.y_version = tensor.version.value
    else:
        node.x_version = tensor.version.value
    if tensor.version.foreign:
        if of_y:
            node.y = frozen(tensor)
        else:
            node.x = frozen(tensor)


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


def attach_op(Op op not None, Tensor values not None, tuple inputs, tuple attributes):
    """A Tensor on the memory of `values`, made by `op` from the inputs: Tensors, or Nodes, which stand for
    what they made. Nobody is told; see `announce`."""
    cdef Tensor tensor = wrap(values.array)
    cdef tuple given = tuple([stand_in(edge) for edge in inputs])
    tensor.version = shared_version(values)
    attach(tensor, op, values.array, given[0], given[1] if len(given) > 1 else None,
           given[2:] if len(given) > 2 else None, attributes)
    return tensor


cdef Tensor stand_in(object edge):
    """A Tensor, or for a Node one without values at the same place in the graph."""
    cdef Tensor tensor
    if isinstance(edge, Tensor):
        return edge
    tensor = wrap(NOTHING)
    tensor.node = <Node?> edge
    tensor.requires = True
    return tensor


def count_nodes():
    """How many Nodes were made so far; a Node made later has a larger `number`."""
    return node_count


def edges_below(list outputs, unsigned long long since):
    """Where the graph that was made after the first `since` Nodes ends below these Tensors: a list of
    leaves, and of older Nodes."""
    cdef list queue = [edge_of(<Tensor?> t) for t in outputs if (<Tensor?> t).requires], found = []
    cdef set seen = set()
    cdef int i
    cdef Node node
    for below in queue:                     # it grows on the way
        if id(below) in seen:
            continue
        seen.add(id(below))
        if type(below) is not Node or (<Node> below).number <= since:
            found.append(below)
            continue
        node = <Node> below
        check_whole(node)
        for i in range(input_count(node)):
            below = edge(node, i)
            if below is not None:
                queue.append(below)
    return found


# ---------------------------------------------------------------------------------- elementwise ops
cdef ndarray checked(object array):
    """`array` as an aligned native array of one of the five dtypes, shared where that is possible."""
    cdef ndarray result
    result = array if type(array) is np.ndarray else np.asarray(array)
    if not cnp.PyArray_ISBEHAVED_RO(result):
        result = np.array(result, dtype=result.dtype.newbyteorder("="))
    if result.dtype not in DTYPES:
        raise TypeError(f"dtype {result.dtype} is not supported; convert it to one of "
                        f"{', '.join(map(str, DTYPES))}, for example array.astype('float32')")
    if PyArray_TYPE(result) not in (NPY_FLOAT, NPY_DOUBLE, NPY_INT32, NPY_INT64, NPY_BOOL):
        result = result.view(np.dtype(f"int{8 * PyArray_ITEMSIZE(result)}"))    # long long is int64
    return result


cdef inline bint is_number(object value):
    return PyFloat_CheckExact(value) or PyLong_CheckExact(value) or PyBool_Check(value)


cdef object python_number(object value):
    """A Python or NumPy scalar as a plain Python number; None for anything else, 0-d arrays too."""
    if is_number(value):
        return value
    if isinstance(value, np.generic):
        kind = value.dtype.kind
        return float(value) if kind == "f" else int(value) if kind in "iu" else bool(value) if kind == "b" \
            else None
    if isinstance(value, int):              # of a subclass, such as IntEnum
        return int(value)
    return float(value) if isinstance(value, float) else None


cdef ndarray number_array(object number, int typenum, str name):
    """A Python number as a 0-d array of this dtype. What an integer dtype cannot hold raises: OverflowError,
    ValueError for NaN."""
    cdef ndarray array = cnp.PyArray_ZEROS(0, NULL, typenum, 0)
    cdef void* data = PyArray_DATA(array)
    cdef long long whole = 0
    cdef bint fits = True
    if typenum == NPY_DOUBLE:
        (<double*> data)[0] = number
    elif typenum == NPY_FLOAT:
        (<float*> data)[0] = <float> <double> number
    elif typenum == NPY_BOOL:
        (<cnp.npy_bool*> data)[0] = bool(number)
    else:
        try:
            whole = int(number)
        except (OverflowError, ValueError):
            fits = False
        if not fits or typenum == NPY_INT32 and whole != <int> whole:
            raise out_of_bounds(name, number, array.dtype)
        if typenum == NPY_INT32: (<int*> data)[0] = <int> whole
        else: (<long long*> data)[0] = whole
    return array


cdef object out_of_bounds(str name, object number, object dtype):
    kind, wider = (ValueError, "floating") if number != number else (OverflowError, "wider")
    return kind(f"{name}: {number} is out of bounds for {dtype}; give a {wider} dtype")


cdef ndarray converted(ndarray source, ndarray like, str name):
    """The elements in the dtype of `like`; those that its integers cannot hold raise, as a number does."""
    if (PyArray_TYPE(like) in (NPY_INT32, NPY_INT64) and elements(source)
            and PyArray_TYPE(source) in (NPY_FLOAT, NPY_DOUBLE, NPY_INT64)):
        limits = np.iinfo(like.dtype)
        for extreme in (source.min().item(), source.max().item()):
            if not limits.min - 1 < extreme < limits.max + 1:       # of Python numbers, so exact
                raise out_of_bounds(name, extreme, like.dtype)
    return source.astype(like.dtype)


cpdef Tensor to_tensor(object value, str name):
    """A Tensor, array or number as a Tensor; raises TypeError with a hint otherwise. A number takes the
    default dtype here; where it meets another operand, call `to_tensors`."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return share(checked(value))
    if isinstance(value, np.generic):
        return wrap(checked(value))
    number = python_number(value)
    if number is None:
        if isinstance(value, Unequal):
            raise ValueError((<Unequal> value).message)
        raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}; make one with "
                        "mg.tensor(...)")
    if PyFloat_CheckExact(number):
        return wrap(number_array(number, default_dtype.num, name))
    return wrap(number_array(number, NPY_BOOL if PyBool_Check(number) else NPY_INT64, name))


cpdef tuple to_tensors(tuple values, str name):
    """As `to_tensor` of each; but a number, Python's or NumPy's, is weak: it takes the dtype that promotion
    gives it with the Tensors and arrays among the values. Where there are none, the numbers take the
    dtype of those that are NumPy's, or that of the most general."""
    cdef list tensors = [], dtypes = [], numpys = []
    cdef object general = False             # of the numbers, the one of the most general type
    for value in values:
        if not isinstance(value, Tensor):
            break
    else:
        return values
    for value in values:
        number = python_number(value)
        if number is None:
            value = to_tensor(value, name)
            dtypes.append((<Tensor> value).array.dtype)
        else:
            if isinstance(value, np.generic):
                numpys.append(value)
            if PyFloat_CheckExact(number) or PyBool_Check(general):
                general = number
            value = number
        tensors.append(value)
    if not dtypes:
        for value in numpys or [general]:
            dtypes.append(to_tensor(value, name).array.dtype)
    for i, value in enumerate(tensors):
        if not isinstance(value, Tensor):
            tensors[i] = wrap(number_array(value, np.result_type(*dtypes, value).num, name))
    return tuple(tensors)


cdef inline bint plain(ndarray array):
    return cnp.PyArray_IS_C_CONTIGUOUS(array)


cdef object unary(Op op, object x):
    """Apply an elementwise primitive of one input."""
    cdef Tensor tensor
    cdef ndarray out
    cdef Operand operand
    cdef void* data
    cdef int typenum
    if not isinstance(x, Tensor):
        x = to_tensor(x, op.name)
    tensor = x
    typenum = PyArray_TYPE(tensor.array)
    if op.opcode == NO_KERNEL or (typenum != NPY_FLOAT and typenum != NPY_DOUBLE):
        if op.fallback is None:
            return unary(op, cast(tensor, np.float32 if typenum == NPY_BOOL else np.float64))
        return record(op, call_numpy(op, tensor.array, None), tensor)
    if plain(tensor.array) and elements(tensor.array) < 32768:
        out = empty(PyArray_NDIM(tensor.array), PyArray_DIMS(tensor.array), typenum)
        data = PyArray_DATA(tensor.array)
        call_kernel(op.opcode, typenum == NPY_DOUBLE, &data, PyArray_DATA(out), elements(out))
    else:
        view_array(&operand, tensor.array)
        out = elementwise(op.name, op.opcode, typenum == NPY_DOUBLE, typenum, &operand, 1)
    return record(op, out, tensor)


cdef object numpy_error(str name, error):
    """NumPy's error (often of a private class) as the plain one, with the name of the operation."""
    for kind in (TypeError, OverflowError):
        if isinstance(error, kind):
            return kind(f"{name}: {error}")
    return ValueError(f"{name}: {error}")


cdef ndarray call_numpy(Op op, object x, object y):
    """What the kernels do not do (integers, booleans, rare functions) NumPy's ufunc does."""
    cdef ndarray target
    if op.fallback is None:
        raise TypeError(f"{op.name}: dtype {x.dtype} is not supported")
    with np.errstate(all="ignore"):
        # In C order, since NumPy's loops for other strides may round otherwise.
        if (isinstance(x, np.ndarray) and x.dtype.kind == "f"
                and (y is None or is_number(y) or isinstance(y, np.ndarray) and alike(x, y))):
            x = contiguous(x)
            y = contiguous(y) if isinstance(y, np.ndarray) else y
            target = empty(PyArray_NDIM(x), PyArray_DIMS(x), PyArray_TYPE(x))   # recycled, if there is one
            return op.fallback(x, out=target) if y is None else op.fallback(x, y, out=target)
        if op.opcode == NO_KERNEL:
            x, y = in_order(op, x, y)
        try:
            out = np.asarray(op.fallback(x) if y is None else op.fallback(x, y))
        except (TypeError, ValueError, OverflowError) as error:
            raise numpy_error(op.name, error) from None
        if out.dtype == np.float16:         # which NumPy makes of bool: too coarse, and no dtype of ours
            x = x.astype(np.float32)
            out = np.asarray(op.fallback(x) if y is None else op.fallback(x, y))
        elif out.dtype == np.int8:
            out = out.astype(np.int64)
    return checked(out)


cdef tuple in_order(Op op, object x, object y):
    """The operands, where they are arrays, in C order and of one shape, so that it does not matter of which
    arrays they are views."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.ndim(x) and np.ndim(y):
        if not same_shape(x, y):
            try:
                x, y = np.broadcast_arrays(x, y)
            except ValueError as error:
                raise numpy_error(op.name, error) from None
    return (contiguous(x) if isinstance(x, np.ndarray) else x,
            contiguous(y) if isinstance(y, np.ndarray) else y)


cdef object binary(Op op, object left, object right):
    """Apply an elementwise primitive of two inputs: Tensors, arrays or numbers, broadcast together."""
    cdef Operand operands[2]
    cdef void* pointers[2]
    cdef double number64
    cdef float number32
    cdef ndarray x, y, out
    cdef int typenum, out_typenum
    cdef Operand* scalar = NULL
    if isinstance(left, Tensor):
        x = (<Tensor> left).array
        typenum = PyArray_TYPE(x)
        if isinstance(right, Tensor):
            y = (<Tensor> right).array
            if (PyArray_TYPE(y) != typenum or (typenum != NPY_FLOAT and typenum != NPY_DOUBLE)
                    or op.opcode == NO_KERNEL):
                return promote(op, left, right)
            out_typenum = NPY_BOOL if op.opcode >= FIRST_COMPARISON else typenum
            if plain(x) and plain(y) and same_shape(x, y) and elements(x) < 32768:
                out = empty(PyArray_NDIM(x), PyArray_DIMS(x), out_typenum)
                pointers[0], pointers[1] = PyArray_DATA(x), PyArray_DATA(y)
                call_kernel(op.opcode, typenum == NPY_DOUBLE, pointers, PyArray_DATA(out), elements(x))
                return record(op, out, left, right)
            view_array(&operands[0], x)
            view_array(&operands[1], y)
        elif is_number(right):
            view_array(&operands[0], x)
            scalar = &operands[1]
        else:
            return promote(op, left, right)
    elif is_number(left) and isinstance(right, Tensor):
        typenum = PyArray_TYPE((<Tensor> right).array)
        view_array(&operands[1], (<Tensor> right).array)
        scalar = &operands[0]
    else:
        return promote(op, left, right)
    if op.opcode == NO_KERNEL or (typenum != NPY_FLOAT and typenum != NPY_DOUBLE):
        return promote(op, left, right)
    if scalar != NULL:                      # a Python number is weak: it takes the Tensor's dtype
        if scalar == &operands[1]: number64 = right
        else: number64 = left
        number32 = <float> number64
        scalar.data = <char*> &number64 if typenum == NPY_DOUBLE else <char*> &number32
        scalar.shape = scalar.strides = NULL
        scalar.ndim = 0
        scalar.itemsize = 8 if typenum == NPY_DOUBLE else 4
    out_typenum = NPY_BOOL if op.opcode >= FIRST_COMPARISON else typenum
    out = elementwise(op.name, op.opcode, typenum == NPY_DOUBLE, out_typenum, operands, 2)
    return record(op, out, left, right)


cdef object promote(Op op, object left, object right):
    """Mixed or integer dtypes, arrays, and what is no operand at all. Promotion is NumPy's."""
    x, y = python_number(left), python_number(right)
    if x is not None and y is not None:
        left, right = to_tensors((left, right), op.name)
        return binary(op, left, right)
    if x is not None and x is not left or y is not None and y is not right:     # NumPy's numbers are weak too
        return binary(op, left if x is None else x, right if y is None else y)
    if x is None:
        left = to_tensor(left, op.name)
    if y is None:
        right = to_tensor(right, op.name)
    x = (<Tensor> left).array if isinstance(left, Tensor) else left
    y = (<Tensor> right).array if isinstance(right, Tensor) else right
    if op.opcode != NO_KERNEL or requires(left) or requires(right):
        dtype = np.result_type(x, y)
        if dtype.kind == "f":               # bring Tensors to the common dtype, differentiably
            if isinstance(left, Tensor) and x.dtype != dtype:
                left = cast(left, dtype)
            if isinstance(right, Tensor) and y.dtype != dtype:
                right = cast(right, dtype)
            if op.opcode != NO_KERNEL:
                return binary(op, left, right)
            x = (<Tensor> left).array if isinstance(left, Tensor) else left
            y = (<Tensor> right).array if isinstance(right, Tensor) else right
    out = call_numpy(op, x, y)
    if op.core_dims != NO_BROADCAST:
        return record(op, out, left, right)
    return wrap(out)


cdef object operator(int opcode, object left, object right):
    """`binary` for the operators, which leave types that they do not know to the other side."""
    other = right if isinstance(left, Tensor) else left
    if (isinstance(other, Tensor) or is_number(other)
            or isinstance(other, OPERANDS) or isinstance(other, (list, tuple, str, dict, set, type(None)))):
        return binary(<Op> by_opcode[opcode], left, right)
    return NotImplemented


@cython.final
@cython.auto_pickle(False)
cdef class Unequal:
    """The result of `==` and `!=` for shapes that do not broadcast: False and True as truth values, so that
    `x in [a, b]`, which asks `x == a` first, can go on to b. Any other use raises the error that the
    functions `equal` and `not_equal` raise at once."""
    cdef str message
    cdef bint differs

    def __bool__(self):
        return self.differs

    def __getattr__(self, name):
        raise ValueError(self.message)

    def __array__(self, dtype=None, copy=None):
        raise ValueError(self.message)

    def __repr__(self):
        return f"<{self.differs}: {self.message}>"


cdef object equality(int opcode, object left, object right):
    """As `operator`, but other types, and shapes that do not broadcast, are unequal instead of raising."""
    cdef Unequal result
    if not isinstance(right, OPERANDS):
        return NotImplemented
    try:
        return binary(<Op> by_opcode[opcode], left, right)
    except ValueError as error:
        result = Unequal.__new__(Unequal)
        result.message, result.differs = str(error), opcode == NOT_EQUAL
        return result


cdef object power(object left, object right, object modulo):
    return functions["pow"](left, right) if modulo is None else NotImplemented


cdef object in_place(str name, Tensor target, object value):
    """`target op= value`: in place where no gradient is recorded, else a new Tensor (DESIGN 5)."""
    if mg_recording and (target.requires or requires(value)):
        if target.node is None and target.requires:
            raise RuntimeError(f"{name}: a leaf that requires grad cannot be written to in place while "
                               "gradients are recorded; use mg.no_grad(), or x = x + ...")
        return functions[name](target, value)
    write(target, functions[name](target, value), Ellipsis)
    return target


cdef object write_result(Tensor target, object result):
    if result is NotImplemented:
        return result
    write(target, result, Ellipsis)
    return target


cdef object bitwise(object ufunc, object left, object right):
    """`&`, `|` and `^` of booleans and integers, as NumPy's."""
    if not (isinstance(left, OPERANDS) and isinstance(right, OPERANDS)):
        return NotImplemented
    x, y = python_number(left), python_number(right)
    if x is None:
        x = to_tensor(left, ufunc.__name__).array
    if y is None:
        y = to_tensor(right, ufunc.__name__).array
    try:
        return wrap(checked(ufunc(x, y)))
    except (TypeError, ValueError, OverflowError) as error:
        raise numpy_error(ufunc.__name__, error) from None


cdef void write(Tensor target, object value, object index) except *:
    """target[index] = value, in place, with NumPy's casting rules for `op=`, counted as a write. A number
    takes the dtype of the target; a source on the memory of the target is read before it is written."""
    cdef int typenum = PyArray_TYPE(target.array)
    cdef ndarray source
    number = None if isinstance(value, Tensor) else python_number(value)
    if number is None:
        source = to_tensor(value, "assignment").array
    elif typenum == NPY_BOOL and not PyBool_Check(number) or (PyFloat_CheckExact(number)
                                                              and typenum in (NPY_INT32, NPY_INT64)):
        raise TypeError(f"assignment: cannot write {number!r} into a {target.array.dtype} tensor; convert it "
                        "first")
    else:
        source = number_array(number, typenum, "assignment")
    if not cnp.PyArray_ISWRITEABLE(target.array):
        raise ValueError("assignment: the tensor's memory is read-only (it shares a read-only or broadcast "
                         "array); write to a copy: x.clone()")
    if observers:
        announce_write(target)
    if (index is Ellipsis and same_shape(source, target.array) and plain(source) and plain(target.array)
            and PyArray_TYPE(source) == PyArray_TYPE(target.array)):
        memmove(PyArray_DATA(target.array), PyArray_DATA(source), PyArray_NBYTES(source))
        count_write(target)
        return
    if PyArray_TYPE(source) != typenum:
        if not np.can_cast(source.dtype, target.array.dtype, "same_kind"):
            raise TypeError(f"assignment: cannot write {source.dtype} into a {target.array.dtype} tensor; "
                            f"convert it: value.astype(mg.{target.array.dtype})")
        source = converted(source, target.array, "assignment")
    elif may_overlap(source, target.array):
        source = copied(source)
    try:
        target.array[index] = source
    except ValueError:
        raise ValueError(f"assignment: shape {shape_of(source)} does not broadcast into the place written "
                         f"to, of shape {np.shape((<object> target.array)[index])}") from None
    count_write(target)


cdef void check_write(Tensor target, str name, object value) except *:
    """Raise if a write while gradients are recorded would happen behind the graph's back."""
    if target.requires:
        what = "a leaf that requires grad" if target.node is None else "a tensor that the graph made"
        raise RuntimeError(f"{name}: {what} cannot be written to in place while gradients are recorded; "
                           "use mg.no_grad(), or make a new tensor, for example with mg.where")
    if requires(value):
        raise RuntimeError(f"{name}: a write in place would drop the gradient of the value written; use "
                           "value.detach(), or make a new tensor, for example with mg.where or mg.concat")


cdef Tensor write_all(Tensor target, object value, str name):
    """target[...] = value, converted to the dtype of the target whatever its kind."""
    cdef Tensor source
    if mg_recording:
        check_write(target, name, value)
    number = None if isinstance(value, Tensor) else python_number(value)
    if number is not None:
        source = wrap(number_array(number, PyArray_TYPE(target.array), name))
    else:
        source = to_tensor(value, name)
        if PyArray_TYPE(source.array) != PyArray_TYPE(target.array):
            source = wrap(converted(source.array, target.array, name))
    write(target, source, Ellipsis)
    return target


# ------------------------------------------------------------------------------------- the backward
cdef struct Entry:
    unsigned long long number
    PyObject* node


cdef int newest_first(const void* a, const void* b) noexcept nogil:
    cdef unsigned long long x = (<Entry*> a).number, y = (<Entry*> b).number
    return -1 if x > y else x < y


cdef bint fields_taken = False              # a running pass keeps its state in the Nodes' and leaves' fields


@cython.final
@cython.internal
cdef class Walk:
    """The Nodes of one backward pass, newest first; holds a reference to each until it ends.

    Cotangents wait in a field of their Node or leaf, which costs least. A pass that starts while
    another runs (in a hook, in another thread) finds the fields taken and keeps its state in
    dictionaries of its own, so that neither sees the other's."""
    cdef Entry* entries
    cdef Py_ssize_t count, capacity
    cdef unsigned long long mark
    cdef list leaves                        # leaf Tensors that a cotangent reached
    cdef list retained                      # (weak reference, gradient) for retain_grad
    cdef set ends                           # ids of Nodes and leaves where the pass ends, or None
    cdef dict postponed                     # id -> [op, input, terms, cotangents, factors, their versions]
    cdef bint private
    cdef dict cotangents                    # id -> cotangent, where this walk is private
    cdef set seen, useful
    cdef long long held, interval           # since when the GIL is held, and how long it may be, in ns

    def __cinit__(self, set ends=None):
        global pass_count, fields_taken
        pass_count += 1
        self.mark = pass_count
        self.leaves = []
        self.ends = ends
        self.postponed = {}
        self.private = fields_taken or ends is not None
        if self.private:
            self.cotangents, self.seen, self.useful = {}, set(), set()
        else:
            fields_taken = True

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            Py_DECREF(<object> self.entries[i].node)
        PyMem_Free(self.entries)

    cdef inline Tensor pending(self, object target):
        """The cotangent that a Node or leaf has received so far, or None."""
        if self.private:
            return self.cotangents.get(id(target))
        return (<Node> target).cotangent if type(target) is Node else (<Tensor> target).cotangent

    cdef inline void set_pending(self, object target, Tensor cotangent) except *:
        if self.private:
            self.cotangents[id(target)] = cotangent
        elif type(target) is Node:
            (<Node> target).cotangent = cotangent
        else:
            (<Tensor> target).cotangent = cotangent

    cdef bint postpone(self, object target, Op op, int i, Tensor g, object factor) except *:
        """Keep the factors of a product that is to be added to what the target has already received, so
        that one large product replaces those of many steps; says whether that is possible."""
        cdef npy_intp terms = PyArray_DIMS(g.array)[1 - i] if PyArray_NDIM(g.array) == 2 else LONG_SUM
        if (terms >= LONG_SUM or PyArray_NDIM((<Tensor> factor).array) != 2
                or self.pending(target) is None or self.ends is not None):
            return False
        entry = self.postponed.get(id(target))
        if entry is not None and (entry[0] is not op or entry[1] != i or entry[2] + terms > LONG_SUM):
            self.settle(target)
            entry = None
        if entry is None:
            entry = self.postponed[id(target)] = [op, i, 0, [], [], []]
        entry[2] += terms
        for kept, value in zip(entry[3:], (g, factor, version_of(factor))):
            kept.append(value)
        return True

    cdef void settle(self, object target) except *:
        """Multiply and deliver what was postponed for a target."""
        entry = self.postponed.pop(id(target), None)
        if entry is None:
            return
        op, i, _, cotangents, factors, versions = entry
        for factor, version in zip(factors, versions):
            if version_of(factor) != version:
                raise RuntimeError(f"{(<Op> op).name}: an input of shape {factor.shape} was written to in a "
                                   "hook, before its product was taken; write to a copy, x.clone()")
        deliver(self, target, (<Op> op).sums[i](cotangents, factors), False)

    cdef inline bint is_useful(self, Node node):
        return id(node) in self.useful if self.private else node.useful

    cdef inline bint leads_on(self, object target, set targets):
        """Whether a gradient is wanted at or below this Node or leaf."""
        return (targets is None or id(target) in targets
                or (type(target) is Node and self.is_useful(<Node> target)))

    cdef void add(self, Node node) except *:
        cdef Entry* grown
        if id(node) in self.seen if self.private else node.mark == self.mark:
            return
        if self.ends is not None and id(node) in self.ends:
            return
        check_whole(node)
        if self.private:
            self.seen.add(id(node))
        else:
            node.mark = self.mark
            node.useful = False
        if self.count == self.capacity:
            self.capacity = max(64, 2 * self.capacity)
            grown = <Entry*> PyMem_Realloc(self.entries, self.capacity * sizeof(Entry))
            if grown == NULL:
                raise MemoryError
            self.entries = grown
        Py_INCREF(node)
        self.entries[self.count].number = node.number
        self.entries[self.count].node = <PyObject*> node
        self.count += 1

    cdef void collect(self) except *:
        """Add everything below the Nodes that are there; the entries are their own queue."""
        cdef Py_ssize_t i = 0
        cdef bint ordered = True
        cdef int k
        cdef Node node
        cdef object below
        while i < self.count:
            node = <Node> self.entries[i].node
            ordered = ordered and (i == 0 or self.entries[i - 1].number > node.number)
            for k in range(input_count(node)):
                below = edge(node, k)
                if type(below) is Node:
                    self.add(<Node> below)
            i += 1
            if i & 1023 == 0:
                self.let_others_run()
        if not ordered:
            qsort(self.entries, self.count, sizeof(Entry), newest_first)

    cdef void let_others_run(self) noexcept:
        """Release the GIL for a moment if it was held for 1.5 times CPython's switch interval. A thread that
        waits asks for it after one interval, and only then is sure to get it."""
        cdef long long now = perf_counter_ns()
        cdef PyThreadState* thread
        if self.held == 0:
            self.held, self.interval = now, <long long> (1.5e9 * <double> getswitchinterval())
        elif now - self.held >= self.interval:
            thread = PyEval_SaveThread()
            PyEval_RestoreThread(thread)
            self.held = perf_counter_ns()

    cdef void retain(self, object reference, Tensor g) except *:
        if self.retained is None:
            self.retained = []
        self.retained.append((reference, g))

    cdef void mark_useful(self, set targets) except *:
        """Only Nodes on a way to a target need to run; oldest first, each asks the Nodes below it."""
        cdef Py_ssize_t i
        cdef int k
        cdef Node node
        for i in reversed(range(self.count)):
            node = <Node> self.entries[i].node
            if i & 1023 == 1023:
                self.let_others_run()
            for k in range(input_count(node)):
                below = edge(node, k)
                if below is not None and self.leads_on(below, targets):
                    if self.private:
                        self.useful.add(id(node))
                    else:
                        node.useful = True

    cdef void end(self):
        """Forget every pending cotangent, leave the fields to the next pass, and let the Nodes go."""
        global fields_taken
        cdef Py_ssize_t i
        if not self.private:
            for i in range(self.count):
                (<Node> self.entries[i].node).cotangent = None
                if i & 1023 == 1023:
                    self.let_others_run()
            for leaf in self.leaves:
                (<Tensor> leaf).cotangent = None
            fields_taken = False
        while self.count > 0:
            self.count -= 1
            Py_DECREF(<object> self.entries[self.count].node)
            if self.count & 1023 == 1023:
                self.let_others_run()


cdef inline void check_whole(Node node) except *:
    if node.freed:
        raise RuntimeError(f"backward: the graph of {node.op.name} was freed by an earlier backward; "
                           "give that one retain_graph=True to run it twice")


cdef inline bint ours(PyObject* tensor):
    """Whether one slot holds this gradient and nobody else sees its memory, so that it may be written to.
    (A borrowed pointer, because a Cython argument would hold a reference of its own.)"""
    return (Py_REFCNT(tensor) == 1 and Py_REFCNT(<PyObject*> (<Tensor> tensor).array) == 1
            and (<Tensor> tensor).node is None and (<Tensor> tensor).version is None
            and cnp.PyArray_CHKFLAGS((<Tensor> tensor).array, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_CARRAY))


cdef Tensor summed(Tensor present, Tensor addend, bint in_place, bint create_graph):
    if create_graph:
        return add_tensors(present, addend)
    if in_place and plain(addend.array) and alike(present.array, addend.array):
        add_in_place(present.array, addend.array)
        return present
    return binary(<Op> by_opcode[<int> ADD], present, addend)


cdef void deliver(Walk walk, object target, Tensor cotangent, bint create_graph) except *:
    """Add a cotangent to what a Node or a leaf has received so far."""
    cdef Tensor present = walk.pending(target)
    cdef PyObject* slot = <PyObject*> present
    cdef bint in_place
    if type(target) is not Node:
        check_gradient(<Tensor> target, cotangent)
        if present is None:
            walk.leaves.append(target)
    if present is None:
        walk.set_pending(target, cotangent)
        return
    present = None                          # so that only the slot holds it
    in_place = ours(slot)
    present = <Tensor> slot
    walk.set_pending(target, summed(present, cotangent, in_place, create_graph))


cdef void deliver_part(Walk walk, object target, Op op, Tensor part, tuple shape,
                       tuple attributes) except *:
    """As `deliver`, for the cotangent of some elements of a target of this shape. Where a tensor is taken
    apart (a sequence into steps, gates into one another) the parts are added into one array; the rule would
    make each a whole array, of zeros but for the part."""
    cdef Tensor whole = walk.pending(target)
    cdef PyObject* slot = <PyObject*> whole
    cdef bint in_place
    if whole is None:
        whole = wrap(zeros_of(shape, PyArray_TYPE(part.array)))
        deliver(walk, target, whole, False)
    else:
        whole = None                        # so that only the slot holds it
        in_place = ours(slot)
        whole = <Tensor> slot
        if not in_place:
            whole = wrap(copied(whole.array))
            walk.set_pending(target, whole)
    op.add_part(whole.array, part.array, attributes)


cdef void check_gradient(Tensor leaf, Tensor cotangent) except *:
    if not alike(leaf.array, cotangent.array):
        raise RuntimeError(f"backward: a gradient of shape {shape_of(cotangent.array)} and dtype "
                           f"{cotangent.array.dtype} reached a leaf of shape {shape_of(leaf.array)} and "
                           f"dtype {leaf.array.dtype}; the rule that made it is wrong")


cdef Tensor run_hooks(list hooks, Tensor cotangent):
    for hook in list(hooks):
        replacement = hook(cotangent)
        if replacement is None:
            continue
        if not isinstance(replacement, Tensor) or not alike((<Tensor> replacement).array, cotangent.array):
            raise RuntimeError(f"hook: expected None or a Tensor of the gradient's shape "
                               f"{shape_of(cotangent.array)} and dtype {cotangent.array.dtype}, "
                               f"got {replacement!r}")
        cotangent = replacement
    return cotangent


cdef object changed(Node node, str what, ndarray array, long saved, long now):
    return RuntimeError(
        f"{node.op.name}: its gradient needs {what} of shape {shape_of(array)}, which was written to in "
        f"place since (version {saved} when it was saved, {now} now); write to a copy, x.clone(), or after "
        "backward")


cdef void run_rules(Walk walk, Node node, Tensor g, set targets, bint create_graph) except *:
    """Call the rule of each input that wants a gradient, and deliver the results."""
    cdef PyObject* arguments[MAX_ARGUMENTS]
    cdef Tensor out = None, result, cotangent
    cdef Op op = node.op
    cdef bint early
    cdef int i, k, rule, code
    cdef object x = node.x, y = node.y, below, returned, position
    cdef tuple attributes = node.attributes, shape = node.shape     # held: another thread may free the Node
    cdef list together = None
    if isinstance(x, Tensor) and version_of(x) != node.x_version and saved(node, X):
        raise changed(node, op.inputs[0], (<Tensor> x).array, node.x_version, version_of(x))
    if isinstance(y, Tensor) and version_of(y) != node.y_version and saved(node, Y):
        raise changed(node, op.inputs[1], (<Tensor> y).array, node.y_version, version_of(y))
    if node.out is not None:
        if node.version.value != node.out_version:
            raise changed(node, "its output", node.out, node.out_version, node.version.value)
        out = wrap(node.out)
        out.version = node.version
        if create_graph:
            out.node = node
            out.requires = True
    for i in range(input_count(node)):
        below = edge(node, i)
        if below is None or not walk.leads_on(below, targets):
            continue
        if op.add_part != NULL and not create_graph and PARTS.taken():
            deliver_part(walk, below, op, g, shape, attributes)
            continue
        if (op.sums is not None and not create_graph and i < 2 and op.sums[i] is not None
                and SUMS.taken() and walk.postpone(below, op, i, g, y if i == 0 else x)):
            continue
        if (op.summed_gradient != NULL and not create_graph and node.broadcast and node.repeated[i]
                and SUMMED.taken()):
            result = op.summed_gradient(g, y if i == 0 else x, node.repeated[i], node.extra[i])
            if result is not None:
                deliver(walk, below, result, create_graph)
                continue
        rule = 0 if op.variadic else i
        position = i
        # A rule of g alone (add, subtract) is linear and commutes with the sum, which leaves it less to do.
        early = node.broadcast and node.repeated[i] != 0 and op.saves[rule] == 1 << COTANGENT
        cotangent = unbroadcast(g, node.repeated[i], node.extra[i]) if early else g
        for k in range(op.arguments[rule]):
            code = op.argument[rule][k]
            if code == COTANGENT: arguments[k] = <PyObject*> cotangent
            elif code == OUT: arguments[k] = <PyObject*> out
            elif code == X: arguments[k] = <PyObject*> x
            elif code == Y: arguments[k] = <PyObject*> y
            elif code == SHAPE: arguments[k] = <PyObject*> shape
            elif code == POSITION: arguments[k] = <PyObject*> position
            else: arguments[k] = <PyObject*> attributes[code - ATTRIBUTE]
        if together is None:
            returned = PyObject_Vectorcall(op.rules[rule], arguments, op.arguments[rule], NULL)
        if op.joint:
            if together is None:
                together = <list?> returned
            returned = together[i]
            if returned is None:
                continue
        if not isinstance(returned, Tensor):
            raise RuntimeError(f"{op.name}: the rule of input {i} returned {type(returned).__name__}, "
                               "not a Tensor")
        result = <Tensor> returned
        returned = cotangent = None         # so that `ours` can see that nobody else holds it
        if node.broadcast and node.repeated[i] and not early:
            result = unbroadcast(result, node.repeated[i], node.extra[i])
        deliver(walk, below, result, create_graph)


cdef inline bint saved(Node node, int code):
    cdef int i
    if node.op.variadic:
        return node.op.saves[0] >> code & 1
    for i in range(MAX_INPUTS):
        if node.needs >> i & 1 and node.op.saves[i] >> code & 1:
            return True
    return False


cdef inline void free_node(Node node) noexcept:
    node.freed = True
    if node.out is not None:
        recycle(<PyObject*> node.out)
    node.x = node.y = None
    node.more = node.shape = node.attributes = None
    node.out = None
    node.version = None


cdef Tensor first_cotangent(Tensor root, object gradient, str caller):
    """The cotangent that a pass starts with: the one given, or 1 for a scalar."""
    cdef ndarray ones
    if gradient is None:
        if elements(root.array) != 1:
            raise RuntimeError(f"{caller}: the output has shape {shape_of(root.array)}; a gradient is "
                               "implied for one element only: reduce it (x.sum()) or give the cotangent, "
                               "of its shape")
        ones = empty(PyArray_NDIM(root.array), PyArray_DIMS(root.array), PyArray_TYPE(root.array))
        ones.fill(1)
        return wrap(ones)
    tensor = gradient
    if not isinstance(gradient, Tensor):
        number = python_number(gradient)
        tensor = (to_tensor(gradient, caller) if number is None
                  else wrap(number_array(number, PyArray_TYPE(root.array), caller)))
    if not same_shape((<Tensor> tensor).array, root.array):
        raise RuntimeError(f"{caller}: the gradient has shape {shape_of((<Tensor> tensor).array)}, "
                           f"the output {shape_of(root.array)}; they must be equal")
    if PyArray_TYPE((<Tensor> tensor).array) != PyArray_TYPE(root.array):
        tensor = cast(tensor, root.array.dtype)
    return tensor


cdef list run_backward(list roots, list gradients, list inputs, bint retain_graph, bint create_graph,
                       str caller, bint stop_at_inputs=False):
    """Reverse-mode differentiation. Without `inputs` it accumulates into the leaves' `.grad`; with them
    it returns their gradients (None where nothing reached them) and leaves every `.grad` alone. With
    `stop_at_inputs` nothing flows from one input into another, and their hooks wait for another pass."""
    global mg_recording, mg_running, passes_running
    cdef Walk walk
    cdef int mode = mg_recording
    cdef Py_ssize_t i
    cdef Node node
    cdef Tensor root, leaf, g
    cdef set targets = None
    cdef dict captured = {}
    cdef list result = None, starts
    cdef long long started
    cdef PyObject* running = mg_running
    cdef bint observed
    for root in roots:
        if root is None or not root.requires:
            raise RuntimeError(f"{caller}: the output does not require grad, and has no graph; was it made "
                               "under no_grad, from detached tensors, or by an operation that has no "
                               "gradient?")
    starts = [first_cotangent(root, gradient, caller) for root, gradient in zip(roots, gradients)]
    if inputs is not None:
        targets = {id(edge_of(<Tensor> t)) for t in inputs}
    walk = Walk(targets if stop_at_inputs else None)
    try:
        mg_recording = create_graph
        passes_running += 1
        for root in roots:
            if root.node is not None:
                walk.add(root.node)
        walk.collect()
        if inputs is not None:
            walk.mark_useful(targets)
        for root, start in zip(roots, starts):
            deliver(walk, edge_of(root), start, create_graph)
        starts.clear()
        start = None
        for i in range(walk.count):
            if i & 15 == 0:
                PyErr_CheckSignals()
            if i & 63 == 63:
                walk.let_others_run()
            node = <Node> walk.entries[i].node
            if walk.postponed:
                walk.settle(node)
            g = walk.pending(node)
            if g is not None:
                walk.set_pending(node, None)
                if node.notes is not None and node.notes.hooks is not None:
                    g = own(g, create_graph)            # a hook may write to it, or keep it
                    g = run_hooks(node.notes.hooks, g)
                    g = own(g, create_graph)
                check_whole(node)           # a pass in a hook or in another thread may have freed it
                if targets is not None and id(node) in targets:
                    captured[id(node)] = g
                if node.notes is not None and node.notes.retained is not None and inputs is None:
                    walk.retain(node.notes.retained, g)
                if targets is None or walk.is_useful(node):
                    started = perf_counter_ns() if profiling else 0
                    observed = observers > 0
                    if observed:
                        mg_running = <PyObject*> node
                    run_rules(walk, node, g, targets, create_graph)
                    if observed:
                        mg_running = running
                    if profiling and started:
                        note_backward(node.op, started)
                g = None
            if not retain_graph:
                free_node(node)
        for leaf in walk.leaves:
            if walk.postponed:
                walk.settle(leaf)
            if leaf.hooks is not None and not stop_at_inputs:
                run_hooks_of_leaf(walk, leaf, create_graph)
        if inputs is None:
            commit(walk, create_graph)
        else:
            for leaf in walk.leaves:
                captured[id(leaf)] = walk.pending(leaf)
            if stop_at_inputs:              # for a rule, which is not a caller's: it takes what is shared
                captured = walk.cotangents
            result = [captured.get(id(edge_of(<Tensor> t))) for t in inputs]
            if not stop_at_inputs:
                captured.clear()
                own_all(walk, result, create_graph)
    finally:
        mg_recording = mode
        mg_running = running
        passes_running -= 1
        walk.end()
    return result


cdef Tensor own(Tensor g, bint create_graph):
    """g, or a copy if somebody else holds it or sees its memory. The Node that made g may save it as its
    output: that is a part of the graph of g, and notices a write."""
    if ours(<PyObject*> g):
        return g
    if (create_graph and Py_REFCNT(<PyObject*> g) == 1 and g.node is not None
            and Py_REFCNT(<PyObject*> g.array) == (2 if g.node.out is g.array else 1)
            and cnp.PyArray_CHKFLAGS(g.array, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_CARRAY)):
        return g
    if create_graph:
        return binary(<Op> by_opcode[<int> MULTIPLY], g, 1.0)
    return wrap(copied(g.array))


cdef void run_hooks_of_leaf(Walk walk, Tensor leaf, bint create_graph) except *:
    """As for a Node in `run_backward`: a hook gets a gradient that it may write to, or keep."""
    cdef Tensor g = walk.pending(leaf)
    walk.set_pending(leaf, None)
    g = own(g, create_graph)
    g = run_hooks(leaf.hooks, g)
    walk.set_pending(leaf, own(g, create_graph))


cdef void own_all(Walk walk, list gradients, bint create_graph) except *:
    """Make each gradient that is returned its caller's alone."""
    cdef Tensor g
    cdef Py_ssize_t i
    for leaf in walk.leaves:
        walk.set_pending(leaf, None)
    for i in range(len(gradients)):
        g = gradients[i]
        gradients[i] = None
        if g is not None:
            gradients[i] = own(g, create_graph)


cdef inline bint adds_in_place(Tensor gradient, Tensor g, bint create_graph):
    return (gradient is not None and not create_graph and not gradient.requires
            and alike(gradient.array, g.array) and cnp.PyArray_CHKFLAGS(gradient.array, cnp.NPY_ARRAY_CARRAY))


cdef void commit(Walk walk, bint create_graph) except *:
    """Move the cotangents into `.grad`: everything that can fail first, then the writes."""
    cdef Tensor target, g
    cdef list targets = list(walk.leaves), gradients = []
    cdef Py_ssize_t i
    for target in targets:
        g = walk.pending(target)
        walk.set_pending(target, None)
        gradients.append(g)
    if walk.retained is not None:
        for reference, g in walk.retained:
            target = reference()
            if target is not None:
                targets.append(target)
                gradients.append(g)
        walk.retained = None
    for i in range(len(targets)):
        target, g = targets[i], gradients[i]
        gradients[i] = None
        if target.gradient is not None and not adds_in_place(target.gradient, g, create_graph):
            g = add_tensors(target.gradient, g)
        elif target.gradient is None or not plain(g.array):
            g = own(g, create_graph)
        elif may_overlap(target.gradient.array, g.array):
            g = wrap(copied(g.array))
        gradients[i] = g
        g = None
    for i in range(len(targets)):
        target, g = targets[i], gradients[i]
        if adds_in_place(target.gradient, g, create_graph):
            add_in_place(target.gradient.array, g.array)
            count_write(target.gradient)
        else:
            target.gradient = g


cdef tuple OPERANDS = (Tensor, np.ndarray, np.generic, int, float)
cdef object default_dtype = np.dtype(np.float32)


def get_default_dtype():
    """The dtype that Python floats become: float32 unless `set_default_dtype` changed it.

    >>> mg.get_default_dtype()
    dtype('float32')
    """
    return default_dtype


def set_default_dtype(dtype):
    """Set the dtype that Python floats become, in every thread: float32 or float64.

    >>> mg.set_default_dtype(mg.float64); mg.tensor([0.5]).dtype
    dtype('float64')
    >>> mg.set_default_dtype(mg.float32)
    """
    global default_dtype
    dtype = np.dtype(dtype)
    if dtype not in DTYPES or dtype.kind != "f":
        raise TypeError(f"set_default_dtype: expected float32 or float64, got {dtype}")
    default_dtype = dtype


def is_grad_enabled():
    """Whether operations are recorded in this thread.

    >>> mg.is_grad_enabled()
    True
    """
    return bool(mg_recording)


def set_recording(bint mode):
    """Turn recording on or off in this thread and return what it was; the context managers call it."""
    global mg_recording
    previous = bool(mg_recording)
    mg_recording = mode
    return previous


def run_graph(list outputs, list grad_outputs, list inputs, bint retain_graph, bint create_graph,
              bint stop_at_inputs=False):
    """The engine behind `autograd.grad`: gradients of `inputs` (Tensors, or Nodes in their place), None
    where no way leads to one."""
    inputs = [stand_in(edge) for edge in inputs]
    for tensor in inputs:
        if not (<Tensor> tensor).requires:
            raise RuntimeError("grad: an input does not require grad; call x.requires_grad_() before it is "
                               "used")
    return run_backward(outputs, grad_outputs, inputs, retain_graph, create_graph, "grad", stop_at_inputs)


cdef ndarray writable_average(str owner, str name, object average, Tensor batch):
    """The array of `average`, or a contiguous copy of it; raises where it cannot be moved."""
    if not isinstance(average, Tensor):
        raise TypeError(f"{owner}: {name} must be a Tensor, got {type(average).__name__}")
    cdef Tensor tensor = average
    if PyArray_TYPE(tensor.array) != NPY_FLOAT and PyArray_TYPE(tensor.array) != NPY_DOUBLE:
        raise TypeError(f"{owner}: {name} must be float32 or float64 to be moved, got {tensor.array.dtype}")
    if not cnp.PyArray_ISWRITEABLE(tensor.array):
        raise ValueError(f"{owner}: {name} shares read-only or broadcast memory and cannot be moved; make it "
                         "of a copy: x.clone()")
    if tensor.requires and mg_recording:
        raise RuntimeError(f"{owner}: {name} requires grad, but moves in place, which is not recorded; pass "
                           f"{name}.detach(), or use mg.no_grad()")
    if elements(tensor.array) != elements(batch.array):
        raise ValueError(f"{owner}: {name} has shape {tensor.shape}, which is not that of the batch's, "
                         f"{batch.shape}")
    return contiguous(tensor.array)


def move_statistics(str owner not None, mean, var, Tensor batch_mean not None, Tensor batch_var not None,
                    double momentum, double correction):
    """mean = (1 - momentum) mean + momentum batch_mean, and var likewise with correction * batch_var, in
    place and each in its dtype; a write like any other, but never recorded. Both are checked before either
    is written to."""
    cdef ndarray means = writable_average(owner, "running_mean", mean, batch_mean)
    cdef ndarray variances = writable_average(owner, "running_var", var, batch_var)
    cdef ndarray x = contiguous(batch_mean.array), y = contiguous(batch_var.array)
    if PyArray_TYPE(x) != PyArray_TYPE(means):
        x = x.astype(means.dtype)
    if PyArray_TYPE(y) != PyArray_TYPE(variances):
        y = y.astype(variances.dtype)
    if may_overlap(x, means):
        x = copied(x)
    if may_overlap(y, means) or may_overlap(y, variances):
        y = copied(y)
    if observers:
        announce_write(mean)
        announce_write(var)
    # (1 - m) old + m new: old + m (new - old) would round away a variance far below the initial 1
    blend(means, x, 1.0 - momentum, momentum)
    blend(variances, y, 1.0 - momentum, momentum * correction)
    if means is not (<Tensor> mean).array:
        cnp.PyArray_CopyInto((<Tensor> mean).array, means)
    if variances is not (<Tensor> var).array:
        cnp.PyArray_CopyInto((<Tensor> var).array, variances)
    count_write(mean)
    count_write(var)


# ------------------------------------------------------------------------ the profiler and the observer
cdef bint profiling = False
cdef int passes_running = 0             # counted, as passes may nest and run in several threads
cdef dict profile_rows = {}                 # name -> [calls, forward ns, backward ns, bytes]
cdef long long last_event = 0


cdef list profile_row(Op op):
    return profile_rows.setdefault(op.name, [0, 0, 0, 0])


cdef void note_forward(Op op, ndarray out):
    """Book the time since the last event on `op`, which ends now."""
    global last_event
    cdef long long now = perf_counter_ns()
    cdef list row
    if passes_running == 0:
        row = profile_row(op)
        row[0] += 1
        row[1] += now - last_event
        row[3] += PyArray_NBYTES(out)
    last_event = now


cdef void note_backward(Op op, long long started):
    global last_event
    last_event = perf_counter_ns()
    profile_row(op)[2] += last_event - started


cdef int observers = 0                  # installed in any thread: while there are none they cost nothing


cdef object swap_observer(PyObject** slot, object function):
    global observers
    previous = None
    if slot[0] != NULL:
        previous = <object> slot[0]
        Py_DECREF(previous)
        observers -= 1
    slot[0] = NULL
    if function is not None:
        Py_INCREF(function)
        slot[0] = <PyObject*> function
        observers += 1
    return previous


def observe(function):
    """Have `function(name, inputs, attributes, output)` called after every primitive in this thread; None
    ends it. Returns the function that was called before. The rules of a backward are seen too; then
    `running_node()` tells whose."""
    return swap_observer(&mg_observer, function)


def observe_writes(function):
    """As `observe`: have `function(tensor)` called before every write in place to a Tensor."""
    return swap_observer(&mg_write_observer, function)


def announce(str name, tuple inputs, dict attributes, output):
    """Tell who observes this thread, if anybody does, of a primitive, or of what acts as one."""
    if mg_observer != NULL:
        (<object> mg_observer)(name, inputs, attributes, output)


cdef void announce_write(Tensor target) except *:
    if mg_write_observer != NULL:
        (<object> mg_write_observer)(target)


def running_node():
    """The Node whose rules run in this thread, None outside of backward; known while there are observers."""
    return None if mg_running == NULL else <object> mg_running


def set_running(Node node):
    """Have `running_node()` say this, for a rule that runs a forward; returns what it said. The caller puts
    that back, and holds the Node until then."""
    global mg_running
    previous = running_node()
    mg_running = NULL if node is None else <PyObject*> node
    return previous


def profile_engine(bint on):
    """Switch the profiler; returns what it gathered: {name: [calls, forward ns, backward ns, bytes]}."""
    global profiling, profile_rows, last_event
    gathered, profile_rows = profile_rows, {}
    profiling, last_event = on, perf_counter_ns()
    return gathered


class RemovableHandle:
    """What `register_hook` returns; `remove()` takes the hook out again."""

    def __init__(self, hooks, hook):
        self._hooks, self._hook = hooks, hook

    def remove(self):
        """Remove the hook; a second call does nothing."""
        hooks, self._hooks = self._hooks, ()
        for i, hook in enumerate(hooks):
            if hook is self._hook:          # not ==, which may raise or mean something else
                del hooks[i]
                return


cdef object add_hook(list hooks, object hook):
    if not callable(hook):
        raise TypeError(f"register_hook: expected a function of the gradient, got {type(hook).__name__}")
    hooks.append(hook)
    return RemovableHandle(hooks, hook)


def rebuild(kind, array, requires_grad, grad):
    """Make a Tensor again from what `pickle` or `copy` took apart."""
    cdef Tensor tensor = kind.__new__(kind)
    tensor.array = array
    tensor.requires = requires_grad
    tensor.gradient = grad
    return tensor


# --------------------------------------------------------------------------------------- the Tensor
@cython.freelist(1024)
@cython.trashcan(True)
cdef class Tensor:
    """An n-dimensional array that remembers how it was made.

    `Tensor(data)` shares the memory of a NumPy array of one of the five dtypes, with the promise of
    `mg.asarray` for what is written through the array; `mg.tensor` copies.
    With `requires_grad=True` (float32 and float64 only) operations on it are recorded, and
    `backward()` on a result puts d(result)/d(tensor) into `.grad`.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    def __cinit__(self):
        self.array = NOTHING                # until __init__ or the engine sets it: never None

    def __dealloc__(self):
        if self.array is not None:
            recycle(<PyObject*> self.array)

    __array_ufunc__ = None                  # so that `array * tensor` is left to Tensor

    def __init__(self, data, dtype=None, bint requires_grad=False):
        listed_tensors(data, "Tensor")
        self.array = checked(np.asarray((<Tensor> data).array if isinstance(data, Tensor) else data, dtype))
        if isinstance(data, Tensor) and self.array is (<Tensor> data).array:
            self.version = shared_version(<Tensor> data)
        elif not alone(<PyObject*> self.array):
            shared_version(self).foreign = True
        if requires_grad:
            self.requires_grad = True

    # ------------------------------------------------------------------ what it is
    @property
    def shape(self):
        """The sizes of its dimensions, a tuple of int."""
        return shape_of(self.array)

    @property
    def ndim(self):
        """The number of dimensions."""
        return PyArray_NDIM(self.array)

    @property
    def size(self):
        """The number of elements, an int."""
        return elements(self.array)

    @property
    def dtype(self):
        """Its NumPy dtype: float32, float64, int32, int64 or bool."""
        return self.array.dtype

    @property
    def requires_grad(self):
        """Whether operations on it are recorded."""
        return self.requires

    @requires_grad.setter
    def requires_grad(self, bint value):
        if self.node is not None and not value:
            raise RuntimeError("requires_grad: only leaves can be changed; use x.detach()")
        if value and PyArray_TYPE(self.array) != NPY_FLOAT and PyArray_TYPE(self.array) != NPY_DOUBLE:
            raise RuntimeError("requires_grad: only float32 and float64 have gradients, this is "
                               f"{self.array.dtype}")
        self.requires = value

    @property
    def is_leaf(self):
        """True unless an operation in the graph made it."""
        return self.node is None

    @property
    def grad_fn(self):
        """The Node that made it, None for a leaf."""
        return self.node

    @property
    def grad(self):
        """The accumulated gradient, a Tensor, or None."""
        return self.gradient

    @grad.setter
    def grad(self, value):
        if value is not None:
            if not isinstance(value, Tensor) or value is self:
                raise TypeError("grad: expected another Tensor or None, got "
                                f"{'itself' if value is self else type(value).__name__}")
            if not alike((<Tensor> value).array, self.array):
                raise ValueError(f"grad: expected shape {self.shape} and dtype {self.dtype}, "
                                 f"got {value.shape} and {value.dtype}")
        self.gradient = value

    @property
    def _array(self):
        """The array itself, writable; whoever writes to it calls `_bump_version`."""
        return self.array

    @property
    def _version(self):
        """How often its storage was written to through the library."""
        return version_of(self)

    def _bump_version(self):
        """Count a write to the storage, so that graphs that saved it notice."""
        count_write(self)

    def __repr__(self):
        text = np.array2string(self.array, separator=", ", prefix="tensor(")
        if self.array.dtype.kind == "f":
            for name, count in (("nan", np.isnan(self.array).sum()), ("inf", np.isinf(self.array).sum())):
                text += f", {name}={count}" if count else ""
        if not 0 < self.array.size <= np.get_printoptions()["threshold"]:
            text += f", shape={self.shape}"
        if self.array.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={self.array.dtype}"
        if self.node is not None:
            text += f", grad_fn={self.node!r}"
        elif self.requires:
            text += ", requires_grad=True"
        return f"tensor({text})"

    def __reduce__(self):
        if self.node is not None:
            raise RuntimeError("only leaves can be copied or pickled; use x.detach() or x.clone()")
        return rebuild, (type(self), np.array(self.array, order="C"), self.requires, self.gradient)

    # ------------------------------------------------------------------ as other things
    def numpy(self, *, bint copy=False):
        """Its elements as a NumPy array: a read-only view, or with `copy=True` an array of one's own."""
        if copy:
            return np.array(self.array, order="C")
        view = self.array.view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype=None, copy=None):
        if dtype is not None and np.dtype(dtype) != self.array.dtype:
            if copy is False:
                raise ValueError(f"asarray: {self.array.dtype} cannot become {np.dtype(dtype)} "
                                 "without a copy")
            return self.array.astype(dtype)
        return self.numpy(copy=bool(copy))

    def __array_function__(self, function, types, arguments, options):
        """NumPy's functions compute with the values. Raises TypeError if an argument requires grad and the
        result is one that a gradient would have to flow through."""
        cdef list found = find_tensors((arguments, tuple(options.values())))
        result = function(*as_arrays(arguments), **as_arrays(options))
        if drops_graph(found) and function not in WITHOUT_GRADIENT and holds_floats(result):
            raise TypeError(numpy_drops_graph(function))
        return result

    def __dlpack__(self, **options):
        if self.requires:
            raise BufferError("dlpack: the tensor requires grad, and a write elsewhere would not be seen; "
                              "use x.detach()")
        shared_version(self).foreign = True     # from now on the other library may write to it
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def item(self):
        """Its only element as a Python number. Raises ValueError unless size is 1."""
        if elements(self.array) != 1:
            raise ValueError(f"item: expected one element, the tensor has shape {self.shape}")
        return self.array.item()

    def tolist(self):
        """Its elements as nested lists of Python numbers."""
        return self.array.tolist()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        if self.array.dtype.kind not in "ib" or elements(self.array) != 1:
            raise TypeError("only an integer tensor of one element is an index, "
                            f"not {self.dtype} {self.shape}")
        return int(self.array.item())

    def __bool__(self):
        if elements(self.array) != 1:
            raise ValueError(f"the truth value of a tensor of shape {self.shape} is ambiguous; "
                             "use .any() or .all()")
        return bool(self.array.item())

    def __len__(self):
        if PyArray_NDIM(self.array) == 0:
            raise TypeError("len() of a 0-d tensor")
        return PyArray_DIMS(self.array)[0]

    def __iter__(self):
        if PyArray_NDIM(self.array) == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter([self[i] for i in range(PyArray_DIMS(self.array)[0])])

    def __contains__(self, value):
        if python_number(value) is None:
            value = to_tensor(value, "in")
        return bool((<Tensor> binary(<Op> by_opcode[<int> EQUAL], self, value)).array.any())

    def __hash__(self):
        return <Py_hash_t> (<size_t> <void*> self >> 4)

    def __format__(self, str specification not None):
        value = self.item() if elements(self.array) == 1 and specification else str(self)
        return format(value, specification)

    # ------------------------------------------------------------------ the graph
    def backward(self, gradient=None, bint retain_graph=False, bint create_graph=False):
        """Accumulate d(self)/d(leaf) · gradient into the `.grad` of every leaf that requires grad.

        gradient: the cotangent, of the shape of self; may be left out for one element (then it is 1).
        retain_graph: keep what the graph saved, for another backward through it.
        create_graph: record the gradients themselves, for gradients of gradients; implies retain_graph.
        Raises RuntimeError, and leaves every `.grad` as it was, if self has no graph, the graph was
        freed, or something that it saved was written to since.
        """
        run_backward([self], [gradient], None, retain_graph or create_graph, create_graph, "backward")

    def detach(self):
        """A Tensor on the same memory, outside the graph."""
        cdef Tensor tensor = wrap(self.array)
        tensor.version = shared_version(self)
        return tensor

    def requires_grad_(self, bint requires_grad=True):
        """Set `requires_grad` in place and return self."""
        self.requires_grad = requires_grad
        return self

    def retain_grad(self):
        """Have backward set `.grad` of this tensor although it is not a leaf."""
        if not self.requires:
            raise RuntimeError("retain_grad: the tensor does not require grad")
        if self.node is None:
            return
        notes_of(self.node).retained = weakref.ref(self)        # weak: a Node must not own its output

    def register_hook(self, hook):
        """Call `hook(gradient)` when the gradient of this tensor is complete; what it returns, unless
        None, replaces the gradient. Returns a handle with `remove()`."""
        if not self.requires:
            raise RuntimeError("register_hook: the tensor does not require grad")
        if self.node is not None:
            return self.node.register_hook(hook)
        if self.hooks is None:
            self.hooks = []
        return add_hook(self.hooks, hook)

    # ------------------------------------------------------------------ writing
    def _may_write(self, str name, value=None):
        """Raise if a write would happen behind the graph's back."""
        if mg_recording:
            check_write(self, name, value)

    def __setitem__(self, index, value):
        if mg_recording:
            check_write(self, "x[i] = v", value)
        write(self, value, plain_index(index))

    def copy_(self, source):
        """Write the elements of `source`, broadcast, into this tensor, in its dtype; returns self. Floats
        lose their fraction in an integer tensor. Raises OverflowError (ValueError for NaN) for a value that
        its integers cannot hold, TypeError for what is not numbers, and then writes nothing."""
        return write_all(self, source, "copy_")

    def fill_(self, value):
        """Set every element to a number, in the dtype of the tensor; returns self. Errors as `copy_`."""
        cdef npy_intp i
        cdef long long number
        if (PyLong_CheckExact(value) and PyArray_TYPE(self.array) == NPY_INT64 and plain(self.array)
                and cnp.PyArray_ISWRITEABLE(self.array)):       # a counter, five times faster than below
            if self.requires and mg_recording:
                check_write(self, "fill_", value)
            try:
                number = value
            except OverflowError:
                raise out_of_bounds("fill_", value, self.array.dtype) from None
            if observers:
                announce_write(self)
            for i in range(elements(self.array)):
                (<long long*> PyArray_DATA(self.array))[i] = number
            count_write(self)
            return self
        return write_all(self, value, "fill_")

    def zero_(self):
        """Set every element to zero; returns self."""
        return write_all(self, 0, "zero_")

    # ------------------------------------------------------------------ operators
    def __add__(self, other): return operator(ADD, self, other)
    def __radd__(self, other): return operator(ADD, other, self)
    def __iadd__(self, other): return in_place("add", self, other)
    def __sub__(self, other): return operator(SUBTRACT, self, other)
    def __rsub__(self, other): return operator(SUBTRACT, other, self)
    def __isub__(self, other): return in_place("subtract", self, other)
    def __mul__(self, other): return operator(MULTIPLY, self, other)
    def __rmul__(self, other): return operator(MULTIPLY, other, self)
    def __imul__(self, other): return in_place("multiply", self, other)
    def __truediv__(self, other): return operator(DIVIDE, self, other)
    def __rtruediv__(self, other): return operator(DIVIDE, other, self)
    def __itruediv__(self, other): return in_place("divide", self, other)
    def __lt__(self, other): return operator(LESS, self, other)
    def __le__(self, other): return operator(LESS_EQUAL, self, other)
    def __gt__(self, other): return operator(GREATER, self, other)
    def __ge__(self, other): return operator(GREATER_EQUAL, self, other)
    def __eq__(self, other): return equality(EQUAL, self, other)
    def __ne__(self, other): return equality(NOT_EQUAL, self, other)
    def __neg__(self): return unary(<Op> by_opcode[<int> NEGATIVE], self)
    def __abs__(self): return unary(<Op> by_opcode[<int> ABS], self)
    def __pos__(self): return self
    def __pow__(self, other, modulo): return power(self, other, modulo)
    def __rpow__(self, other, modulo): return power(other, self, modulo)
    def __ipow__(self, other): return in_place("pow", self, other)
    def __floordiv__(self, other): return functions["floor_divide"](self, other)
    def __rfloordiv__(self, other): return functions["floor_divide"](other, self)
    def __ifloordiv__(self, other): return in_place("floor_divide", self, other)
    def __mod__(self, other): return functions["remainder"](self, other)
    def __rmod__(self, other): return functions["remainder"](other, self)
    def __imod__(self, other): return in_place("remainder", self, other)
    def __matmul__(self, other): return functions["matmul"](self, other)
    def __rmatmul__(self, other): return functions["matmul"](other, self)
    def __imatmul__(self, other): return in_place("matmul", self, other)
    def __invert__(self): return wrap(checked(np.bitwise_not(self.array)))
    def __and__(self, other): return bitwise(np.bitwise_and, self, other)
    def __rand__(self, other): return bitwise(np.bitwise_and, other, self)
    def __or__(self, other): return bitwise(np.bitwise_or, self, other)
    def __ror__(self, other): return bitwise(np.bitwise_or, other, self)
    def __xor__(self, other): return bitwise(np.bitwise_xor, self, other)
    def __rxor__(self, other): return bitwise(np.bitwise_xor, other, self)
    def __iand__(self, other): return write_result(self, bitwise(np.bitwise_and, self, other))
    def __ior__(self, other): return write_result(self, bitwise(np.bitwise_or, self, other))
    def __ixor__(self, other): return write_result(self, bitwise(np.bitwise_xor, self, other))
    def __getitem__(self, index): return functions["getitem"](self, index)

    @property
    def T(self):
        """The transpose: dimensions in reverse order, a view."""
        return functions["permute_dims"](self, tuple(range(PyArray_NDIM(self.array)))[::-1])

    @property
    def mT(self):
        """The transpose of the last two dimensions, a view."""
        return functions["matrix_transpose"](self)


cdef bint is_sequence(value):
    """Whether NumPy takes this for a list of elements: lists, tuples, deques, but no arrays and no text."""
    if isinstance(value, (list, tuple)):
        return True
    if not PySequence_Check(value) or isinstance(value, (Tensor, str, range)):
        return False
    return not PyObject_CheckBuffer(value) and not hasattr(value, "__array__") and hasattr(value, "__len__")


cdef list find_tensors(data, list found=None, int depth=0):
    """The Tensors in a sequence, and in those within it, in order."""
    cdef PyObject** items
    cdef Py_ssize_t i
    data = data if isinstance(data, (list, tuple)) else list(data)
    items = PySequence_Fast_ITEMS(data)
    found = [] if found is None else found
    if depth > 64:                          # more than an array has dimensions: a list that contains itself
        return found
    for i in range(len(data)):
        if Py_TYPE(items[i]) == <PyObject*> float or Py_TYPE(items[i]) == <PyObject*> int:
            continue                        # by the pointer: half a nanosecond for each number of a long list
        item = <object> items[i]
        if isinstance(item, Tensor):
            found.append(item)
        elif is_sequence(item):
            find_tensors(item, found, depth + 1)
    return found


def listed_tensors(data, str name):
    """The Tensors in `data`, if it is a sequence. Raises RuntimeError if values taken from them lack a
    gradient."""
    found = find_tensors(data) if is_sequence(data) else []
    if drops_graph(found):
        raise RuntimeError(f"{name}: a tensor in the list requires grad, and its gradient would be lost; use "
                           "mg.stack([...]), or x.detach() for values alone")
    return found


def drops_graph(list tensors not None):
    """Whether one of these has a graph that is lost where values are taken from it."""
    cdef Tensor tensor
    if mg_recording:
        for tensor in tensors:
            if tensor.requires:
                return True
    return False


cdef object as_arrays(arguments):
    if isinstance(arguments, Tensor):
        return arguments.numpy()
    if isinstance(arguments, dict):
        return {key: as_arrays(value) for key, value in arguments.items()}
    if is_sequence(arguments):              # as a plain one, or NumPy would ask us again for what is in it
        values = [as_arrays(value) for value in arguments]
        return values if isinstance(arguments, list) else tuple(values)
    return arguments


cdef bint holds_floats(result) except -1:
    if isinstance(result, (list, tuple)):
        return any([holds_floats(part) for part in result])
    return isinstance(result, (np.ndarray, np.generic, float)) and np.asarray(result).dtype.kind in "fcO"


# Their floats do not depend on the values, or they are what plotting does first to what it is given.
cdef frozenset WITHOUT_GRADIENT = frozenset([
    np.zeros_like, np.ones_like, np.empty_like, np.full_like, np.atleast_1d, np.atleast_2d, np.atleast_3d,
    np.broadcast_arrays, np.histogram, np.histogram2d, np.histogramdd, np.histogram_bin_edges])
# Functions of NumPy that have another name here.
cdef dict TWINS = {
    "amax": "max", "amin": "min", "around": "round", "average": "mean", "concatenate": "concat",
    "append": "concat", "hstack": "concat", "vstack": "concat", "column_stack": "concat",
    "cumsum": "cumulative_sum", "cumprod": "cumulative_prod", "dot": "matmul", "multi_dot": "matmul",
    "inner": "vecdot", "vdot": "vecdot", "ravel": "flatten", "transpose": "permute_dims",
    "rollaxis": "moveaxis", "array_split": "split",
    "flipud": "flip", "fliplr": "flip", "vector_norm": "norm", "copy": "clone"}


cdef str numpy_drops_graph(function):
    import minigrad
    name = function.__name__
    path = f"{function.__module__}.{name}".replace("numpy.", "np.", 1)
    twin = TWINS.get(name, name)
    way_out = f"mg.{twin} keeps it" if hasattr(minigrad, twin) else "minigrad has no function of that name"
    return (f"{path}: an argument requires grad, and the gradient would be lost; {way_out}, and "
            "x.detach() gives values without it")


def plain_index(index):
    """An index with Tensors replaced by their arrays, as NumPy takes it."""
    if isinstance(index, Tensor):
        return (<Tensor> index).array
    if isinstance(index, tuple):
        return tuple([plain_index(i) for i in index])
    return index


# Only the engine may make these. Made from Python, by copy and pickle too, they would hold None where the
# code relies on a value.
mg_engine_only(Op)
mg_engine_only(Version)
mg_engine_only(Notes)
mg_engine_only(Node)
mg_engine_only(Unequal)
