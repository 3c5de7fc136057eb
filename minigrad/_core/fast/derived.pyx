# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Formulas with statistics, run as one operation by loops derived from them.

Design note
-----------
1. This file knows Tensors, shapes and the graph. It must not know any formula: the loops, forward and
   backward, are made of formulas.py by derive.py when minigrad is built, and `derived` stands where the
   formula does. What is observed, or lies in memory as no loop expects, runs as the formula itself.
2. The axes that are reduced, and those that the weights vary along, make the layout (`find_layout`), so
   that few loops serve tensors of any shape. Where no layout fits, but one does for each item of a leading
   axis that the weights have too (the members of an `nn.Ensemble`), the loop runs for each item. Threads
   divide the places of the statistics, or the items, or the rows of a pass over columns. What is summed
   across the parts of threads is summed in as many parts as the size says, not in as many as there are
   threads, so that its bits do not depend on that.
3. Gradients of gradients, which need a graph, run the function itself and differentiate that.
"""
cimport cython
cimport numpy as cnp
from cpython.ref cimport PyObject
from numpy cimport (NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_NDIM, PyArray_SIZE,
                    PyArray_TYPE, ndarray, npy_intp)

from .accelerate cimport Shortcut
from .loops cimport IN_PARTS, contiguous, elements, empty, recycle, share_work, start_of
from .strides cimport MAXDIMS
from ..engine.graph cimport Op, Tensor, frozen, observed, record, recording, wrap

from functools import update_wrapper

from ..engine.graph import make_op, slopes_of

cnp.import_array()

cdef extern from "clones.h":
    pass

cdef extern from "vecmath.h":
    pass

cdef extern from "derived.h" nogil:
    ctypedef void (*MG_Loop)(void** arrays, npy_intp* extents, double* numbers, double* work,
                             npy_intp start, npy_intp stop, int phase) noexcept
    int MG_ALL
    ctypedef struct MG_Loops:
        MG_Loop forward[2]
        MG_Loop backward[2]
        int kept, forward_work, forward_phases, backward_work, backward_phases
    ctypedef struct MG_Formula:
        const char* name
        int weights, results
        unsigned int reads
        MG_Loops loops[8]

cdef extern from "../generated/formulas.h":
    MG_Formula mg_formulas[]

cdef Shortcut DERIVED = Shortcut("derived formulas")
cdef unsigned int ALL = ~<unsigned int> 0       # inputs, as bits

cdef enum Layout:               # the order of derive.py
    COLUMNS, FEW_COLUMNS, PLANES, SHORT_PLANES, ROWS, SHORT_ROWS, GROUPS, SHORT_GROUPS

cdef enum:
    MAX_INPUTS = 8
    MAX_ARRAYS = 24
    PART = 1 << 16              # elements in each partial sum of the gradient of a weight
    MOST_PARTS = 16
    TALL = 64                   # rows that are worth sums of their own
    FEW = 8                     # columns: if there are fewer, each is read on its own
    TINY = 4                    # elements below which a row (a plane: up to which it) is tiny; more than ...
    MANY = 256                  # ... this many of them run as primitives
    SHORT = 32                  # elements below which a row is too short for long vectors

cdef struct View:               # the memory layout of the inputs
    Layout layout
    bint is_double
    npy_intp items              # of a stack; the rest is of one item
    npy_intp extents[4]
    npy_intp divided            # places along the axis that threads divide
    npy_intp size, statistics, weights      # how many there are of each


# ------------------------------------------------------------------------------------------ layouts
cdef bint find_layout(View* view, ndarray x, ndarray weight, unsigned long long axes) noexcept:
    """Whether there is a layout for x, of which the axes whose bits are set are reduced, and for a weight
    (None for a number); or for each item of a stack."""
    cdef int missing = PyArray_NDIM(x) - (PyArray_NDIM(weight) if weight is not None else 0), d = 0
    view.items, view.size = 1, PyArray_SIZE(x)
    if find_layout_from(view, 0, x, weight, axes):
        return True
    while d < PyArray_NDIM(x) and PyArray_DIMS(x)[d] == 1:
        d += 1
    if (weight is None or missing or d == PyArray_NDIM(x) or axes >> d & 1
            or PyArray_DIMS(weight)[d] != PyArray_DIMS(x)[d]):
        return False
    view.items = PyArray_DIMS(x)[d]
    view.size //= max(1, view.items)
    return find_layout_from(view, d + 1, x, weight, axes)


cdef bint find_layout_from(View* view, int first, ndarray x, ndarray weight,
                           unsigned long long axes) noexcept:
    """`find_layout` for the axes from the first on."""
    cdef npy_intp rows[4]       # elements along axes that are kept and the weight lacks, kept and it has,
    cdef npy_intp planes[3]     # reduced and it has, reduced and it lacks; before, along and behind channels
    cdef int ndim = PyArray_NDIM(x), d, kind, last = 0, stage = 0
    cdef int missing = ndim - (PyArray_NDIM(weight) if weight is not None else 0)
    cdef bint reduced, varies, as_rows = True, as_planes = True
    cdef npy_intp size
    for d in range(4): rows[d] = 1
    for d in range(3): planes[d] = 1
    if missing < 0:
        return False
    for d in range(first, ndim):
        size, reduced = PyArray_DIMS(x)[d], axes >> d & 1
        varies = weight is not None and d >= missing and PyArray_DIMS(weight)[d - missing] != 1
        if varies and PyArray_DIMS(weight)[d - missing] != size:
            return False
        if size == 1:
            continue
        kind = (2 if varies else 3) if reduced else (1 if varies else 0)
        rows[kind] *= size
        as_rows &= kind >= last
        last = kind
        if reduced:
            stage = 2 if stage else 0
            as_planes &= not varies
        else:
            as_planes &= stage < 2 and (varies or weight is None)
            stage = 1
        planes[stage] *= size
    if rows[2] * rows[3] == 1 or elements(x) == 0:
        return False
    if as_rows and rows[2] * rows[3] < TINY + (rows[3] > 1) and rows[0] * rows[1] > MANY:
        return False            # faster by primitives; a loop would spend its time on statistics
    if as_rows:
        for d in range(4): view.extents[d] = rows[d]
        view.layout = GROUPS if rows[3] > 1 else ROWS
        view.layout = <Layout> (view.layout + ((rows[3] if rows[3] > 1 else rows[2]) < SHORT))
        view.divided, view.statistics, view.weights = rows[0], rows[0] * rows[1], rows[1] * rows[2]
    else:
        for d in range(3): view.extents[d] = planes[d]
        if planes[2] == 1: view.layout = FEW_COLUMNS if planes[1] < FEW else COLUMNS
        else: view.layout = SHORT_PLANES if planes[2] < SHORT else PLANES
        view.statistics = view.weights = planes[1]
        view.divided = 1 if view.layout == COLUMNS else planes[1]
    return as_rows or as_planes


# -------------------------------------------------------------------------------------------- loops
cdef struct Job:                # a loop, to be run for all places of all items
    MG_Loop loop
    npy_intp items, steps[MAX_ARRAYS], count, work_step         # bytes, and doubles, from item to item
    void** arrays
    npy_intp* extents
    double numbers[MAX_INPUTS]
    double* work
    npy_intp divided
    npy_intp slabs, slab        # partial sums, and the doubles of each; 0: no such sum
    int phase, phases           # of sums over rows


cdef void run_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """Run a range; of whole slabs if there are partial sums."""
    cdef Job* job = <Job*> data
    cdef void* arrays[MAX_ARRAYS]
    cdef npy_intp q, k
    if job.items > 1:
        for q in range(start_of(part, parts, job.items), start_of(part + 1, parts, job.items)):
            for k in range(job.count):
                arrays[k] = NULL if job.arrays[k] == NULL else <char*> job.arrays[k] + q * job.steps[k]
            job.loop(arrays, job.extents, job.numbers, job.work + q * job.work_step, 0, job.divided, MG_ALL)
        return
    if job.slabs == 0:
        job.loop(job.arrays, job.extents, job.numbers, job.work, start_of(part, parts, job.divided),
                 start_of(part + 1, parts, job.divided), MG_ALL)
        return
    for q in range(job.slabs * part // parts, job.slabs * (part + 1) // parts):
        if job.phases:
            job.loop(job.arrays, job.extents, job.numbers, job.work, q, job.slabs, job.phase)
        else:
            job.loop(job.arrays, job.extents, job.numbers, job.work + q * job.slab,
                     start_of(q, job.slabs, job.divided), start_of(q + 1, job.slabs, job.divided), MG_ALL)


cdef npy_intp count_slabs(View* view, npy_intp size) noexcept:
    """The number of partial sums, by the size alone, so that results do not depend on threads."""
    cdef npy_intp most = view.divided
    if view.layout == COLUMNS:
        most = view.extents[0] // TALL if size > IN_PARTS else 1
    return 1 if view.items > 1 else max(1, min(<npy_intp> MOST_PARTS, size // PART, most))


cdef void fill(void* array, bint is_double, npy_intp n, double value) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        if is_double: (<double*> array)[i] = value
        else: (<float*> array)[i] = <float> value


cdef void add_slabs(double* work, npy_intp slabs, npy_intp slab, npy_intp n, bint is_double,
                    void* out) noexcept nogil:
    """Add up the partial sums."""
    cdef npy_intp i, q
    cdef double total
    for i in range(n):
        total = work[i]
        for q in range(1, slabs): total += work[q * slab + i]
        if is_double: (<double*> out)[i] = total
        else: (<float*> out)[i] = <float> total


@cython.final
cdef class Derived:
    """A formula of x, weights, the axes to reduce, and numbers; and its loops."""
    cdef object function
    cdef Op op
    cdef MG_Formula* formula
    cdef Py_ssize_t count       # inputs

    def __cinit__(self, object function, Py_ssize_t count):
        cdef MG_Formula* formula = <MG_Formula*> mg_formulas
        cdef bytes name = function.__name__.encode()
        while formula.name != NULL and <bytes> formula.name != name:
            formula += 1
        if formula.name == NULL:
            raise ValueError(f"derived: there are no loops for {function.__name__}; see derive.py")
        self.function, self.formula, self.count = function, formula, count
        self.op = make_op(function.__name__, rules=(differentiate,), joint=True,
                          attributes=("owner", "inputs", "kept", "wanted", "writes", "all_writes"))

    cdef bint fits(self, tuple inputs, View* view) except -1:
        """Whether there are loops for these inputs: C-contiguous Tensors of one floating dtype, each another
        value in the graph, and numbers."""
        cdef ndarray weight = None
        cdef Tensor x, tensor, other
        cdef unsigned long long mask = 0
        cdef int i, k, ndim, axis
        if len(inputs) != self.count or not isinstance(inputs[0], Tensor):
            return False
        x = inputs[0]
        ndim = PyArray_NDIM(x.array)
        if PyArray_TYPE(x.array) != NPY_FLOAT and PyArray_TYPE(x.array) != NPY_DOUBLE:
            return False
        view.is_double = PyArray_TYPE(x.array) == NPY_DOUBLE
        for i in range(self.count):
            value = inputs[i]
            if i == self.formula.weights + 1:
                if type(value) is not tuple:
                    return False
                for axis in value:
                    if not -ndim <= axis < ndim:
                        return False
                    mask |= <unsigned long long> 1 << (axis + ndim if axis < 0 else axis)
            elif type(value) is not float and type(value) is not int:
                if i > self.formula.weights or not isinstance(value, Tensor):
                    return False
                tensor = value
                if PyArray_TYPE(tensor.array) != PyArray_TYPE(x.array) or not cnp.PyArray_ISCARRAY_RO(
                        tensor.array):
                    return False
                for k in range(i):
                    if isinstance(inputs[k], Tensor):
                        other = inputs[k]
                        if other is tensor or (tensor.node is not None and tensor.node is other.node):
                            return False
                if i > 0:
                    if weight is not None and not cnp.PyArray_SAMESHAPE(weight, tensor.array):
                        return False
                    weight = tensor.array
        return find_layout(view, x.array, weight, mask)

    cdef object call(self, tuple inputs):
        cdef View view
        if not self.fits(inputs, &view) or observed() or not DERIVED.taken():
            return self.function(*inputs)
        return self.forward(inputs, &view)

    cdef void begin(self, Job* job, tuple inputs, View* view, void** arrays, double* fills) except *:
        """Set up the arrays and numbers of the inputs; a number for a weight is repeated."""
        cdef Py_ssize_t i
        for i in range(self.formula.weights + 1):
            if isinstance(inputs[i], Tensor):
                arrays[i] = PyArray_DATA((<Tensor> inputs[i]).array)
            else:
                arrays[i] = fills
                fill(fills, view.is_double, view.items * view.weights, inputs[i])
                fills += view.items * view.weights
        for i in range(self.formula.weights + 2, self.count):
            job.numbers[i - self.formula.weights - 2] = inputs[i]
        job.extents, job.divided, job.items = view.extents, view.divided, view.items

    cdef void run(self, Job* job, View* view, npy_intp size) except *:
        cdef int phase
        if not job.phases:
            share_work(size, view.items if view.items > 1 else job.slabs or view.divided, run_part, job)
            return
        for phase in range(1, job.phases + 1):
            job.phase = phase
            if phase % 2:
                job.loop(job.arrays, job.extents, job.numbers, job.work, 0, job.slabs, phase)
            else:
                share_work(size, job.slabs, run_part, job)

    cdef void set_steps(self, Job* job, View* view, int first, npy_intp size, int count) noexcept:
        """The bytes from item to item of so many arrays, which have so many elements for each item."""
        cdef int k
        for k in range(first, first + count):
            job.steps[k] = size * (8 if view.is_double else 4)
        job.count = first + count

    cdef object forward(self, tuple inputs, View* view):
        cdef MG_Loops* loops = &self.formula.loops[<int> view.layout]
        cdef void* arrays[MAX_ARRAYS]
        cdef npy_intp shape[MAXDIMS]
        cdef ndarray x = (<Tensor> inputs[0]).array, work, kept, out
        cdef npy_intp statistics = view.items * view.statistics, weights = view.items * view.weights
        cdef npy_intp keep = loops.kept * statistics
        cdef npy_intp slabs = count_slabs(view, PyArray_SIZE(x)) if loops.forward_phases else 1
        cdef npy_intp room = (slabs * loops.forward_work + self.formula.weights) * weights
        cdef int d, k, ndim = PyArray_NDIM(x), count = self.formula.weights + 1
        cdef Job job
        cdef list results = []
        cdef unsigned long long wanted = 0
        cdef tuple saved, tensors
        cdef Tensor tensor
        work, kept = empty(1, &room, NPY_DOUBLE), empty(1, &keep, NPY_DOUBLE)
        job.loop, job.arrays, job.work = loops.forward[view.is_double], arrays, <double*> PyArray_DATA(work)
        job.slabs = slabs if slabs > 1 else 0
        job.phases = loops.forward_phases if slabs > 1 else 0
        self.begin(&job, inputs, view, arrays, job.work + slabs * loops.forward_work * weights)
        job.work_step = loops.forward_work * view.weights
        self.set_steps(&job, view, 0, view.size, 1)
        self.set_steps(&job, view, 1, view.weights, count - 1)
        self.set_steps(&job, view, count, view.size, 1)
        self.set_steps(&job, view, count + 1, view.statistics, self.formula.results - 1)
        for d in range(ndim): shape[d] = PyArray_DIMS(x)[d]
        for k in range(self.formula.results):
            if k == 1:
                for axis in inputs[self.formula.weights + 1]:
                    shape[<int> axis + ndim if axis < 0 else <int> axis] = 1
            out = empty(ndim, shape, PyArray_TYPE(x))
            arrays[count + k] = PyArray_DATA(out)
            results.append(out)
        for k in range(loops.kept):
            arrays[job.count] = <double*> PyArray_DATA(kept) + k * statistics
            job.steps[job.count] = view.statistics * sizeof(double)
            job.count += 1
        self.run(&job, view, PyArray_SIZE(x))
        recycle(<PyObject*> work)
        for k in range(count):
            if isinstance(inputs[k], Tensor):
                wanted |= <unsigned long long> ((<Tensor> inputs[k]).requires) << k
        if wanted and recording():
            saved = tuple([frozen(<Tensor> z) if isinstance(z, Tensor) else z for z in inputs])
            tensors = tuple([z for z in saved if isinstance(z, Tensor)])
            tensor = record(self.op, results[0], tensors[0], tensors[1] if len(tensors) > 1 else None,
                            tensors[2:] if len(tensors) > 2 else None,
                            (self, saved, kept, wanted, count_writes(inputs, self.formula.reads),
                             count_writes(inputs, ALL)))
        else:
            tensor = wrap(results[0])
            recycle(<PyObject*> kept)
        if len(results) == 1:
            return tensor
        results = [wrap(result) for result in results[1:]]
        return (tensor, *results)

    cdef list backward(self, Tensor g, tuple inputs, ndarray kept, unsigned long long wanted):
        cdef View view
        if not self.fits(inputs, &view):
            raise RuntimeError("backward: the shape of an input of a derived formula has changed")
        cdef MG_Loops* loops = &self.formula.loops[<int> view.layout]
        cdef void* arrays[MAX_ARRAYS]
        cdef ndarray x = (<Tensor> inputs[0]).array, cotangent = contiguous(g.array), work, out
        cdef int k, count = self.formula.weights + 1
        cdef bint crossing = view.layout >= ROWS
        cdef npy_intp slab = loops.backward_work * view.weights, room
        cdef npy_intp slabs = count_slabs(&view, PyArray_SIZE(x)) if crossing or loops.backward_phases else 1
        cdef npy_intp statistics = view.items * view.statistics, weights = view.items * view.weights, item
        cdef double* fills
        cdef Job job
        cdef list results = []
        room = view.items * slabs * slab + 2 * self.formula.weights * weights
        work = empty(1, &room, NPY_DOUBLE)
        job.loop, job.arrays, job.work = loops.backward[view.is_double], arrays, <double*> PyArray_DATA(work)
        job.work_step = slab
        fills = job.work + view.items * slabs * slab
        self.begin(&job, inputs, &view, arrays + 1, fills)
        self.set_steps(&job, &view, 0, view.size, 2)
        self.set_steps(&job, &view, 2, view.weights, count - 1)
        job.phases = loops.backward_phases if slabs > 1 else 0
        job.slabs, job.slab = slabs if crossing or slabs > 1 else 0, slab
        arrays[0] = PyArray_DATA(cotangent)
        for k in range(loops.kept):
            arrays[job.count] = <double*> PyArray_DATA(kept) + k * statistics
            job.steps[job.count] = view.statistics * sizeof(double)
            job.count += 1
        self.set_steps(&job, &view, job.count, view.size, 1)
        self.set_steps(&job, &view, job.count, view.weights, count - 1)
        fills += self.formula.weights * weights
        for k in range(count):
            out = None
            if wanted >> k & 1:
                out = (<Tensor> inputs[k]).array
                out = empty(PyArray_NDIM(out), PyArray_DIMS(out), PyArray_TYPE(out))
                arrays[count + 1 + loops.kept + k] = PyArray_DATA(out)
            else:
                arrays[count + 1 + loops.kept + k] = NULL if k == 0 else fills + (k - 1) * weights
            if isinstance(inputs[k], Tensor):
                results.append(None if out is None else wrap(out))
        self.run(&job, &view, PyArray_SIZE(x))
        for k in range(1, count if crossing else 1):
            if wanted >> k & 1:
                for item in range(view.items):
                    add_slabs(job.work + item * slab + (k - 1) * view.weights, slabs, slab, view.weights,
                              view.is_double, <char*> arrays[count + 1 + loops.kept + k]
                              + item * job.steps[count + 1 + loops.kept + k])
        recycle(<PyObject*> work)
        return results


# ------------------------------------------------------------------------------------------ the graph
cdef long long count_writes(tuple inputs, unsigned int chosen) except -1:
    """The total number of writes to the inputs whose bits are set; if it is unchanged, so are they."""
    cdef long long writes = 0
    cdef Py_ssize_t i
    for i in range(len(inputs)):
        if chosen >> i & 1 and isinstance(inputs[i], Tensor) and (<Tensor> inputs[i]).version is not None:
            writes += (<Tensor> inputs[i]).version.value
    return writes


def differentiate(Tensor g not None, Derived owner not None, tuple inputs not None, ndarray kept not None,
                  unsigned long long wanted, long long writes, long long all_writes) -> list[Tensor | None]:
    """The rule of every derived formula: a list of the gradients of its Tensors."""
    cdef bint composed = recording() or not DERIVED.taken()
    if count_writes(inputs, ALL if composed else owner.formula.reads) != (all_writes if composed else writes):
        raise RuntimeError(f"{owner.op.name}: an input was written to in place since it was used, and its "
                           "gradient needs it; write to a copy, x.clone(), or after backward")
    if not composed:
        return owner.backward(g, inputs, kept, wanted)
    places = [i for i in range(owner.formula.weights + 1) if isinstance(inputs[i], Tensor)]

    def formula(*tensors):
        given = dict(zip(places, tensors))
        return owner.function(*[given.get(i, value) for i, value in enumerate(inputs)])
    return slopes_of(formula, [inputs[i] for i in places], [wanted >> i & 1 for i in places], [g])


def derived(function: Function) -> Function:
    """A decorator that runs a formula of formulas.py as one operation where there are loops for its inputs.

    Its inputs are positional: x, weights that broadcast against x, the axes to reduce, and numbers. It
    returns y, or y and values without a graph. The formula itself, also `__wrapped__`, runs for inputs of any
    other layout, and while the engine is observed.

    >>> from minigrad._core.fast.derived import derived
    >>> from minigrad._core.formulas import normalise
    >>> x = mg.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    >>> with mg.autograd.accelerated():
    ...     derived(normalise)(x, 1.0, 0.0, (0,), 1e-5)[0].grad_fn.name
    'normalise'
    """
    cdef Derived owner = Derived(function, function.__code__.co_argcount)

    def call(*inputs):
        return owner.call(inputs)
    return update_wrapper(call, function)
