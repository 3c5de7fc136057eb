"""Fusion: a function composed from primitives that is traced once, and then runs as one operation.

Design note
-----------
1. This file knows primitives, by their opcodes and shapes, and the graph. It must not know any formula:
   `@fused` stands where the formula does (nn/functional.py), on a function of Tensors that is composed
   from primitives. The function stays the definition. Fusion runs the primitives that it ran, in its
   order and on the same kernels, so that not a bit of the result changes; it saves making a Tensor and a
   Node for each of them, which for small arrays costs more than the arithmetic (a BatchNorm of 100 x 16,
   forward and backward: 8.3 us instead of 12.9, `benchmarks/run.py composed`).
2. *Tracing.* The second call with inputs of the same shapes runs the function, and its backward with
   `create_graph`, and notes every primitive: so the gradient is a program too, and nobody wrote it. What
   is not made of elementwise kernels, reductions and broadcasting alone runs composed, as before. So
   does everything while somebody observes the engine (an export, `detect_anomaly`).
3. A *Program* is a list of steps on numbered values, its loops laid out beforehand. What no result needs
   is dropped, what is computed twice is computed once, and what the gradient needs of the forward is kept.
4. Gradients of gradients, which need a graph, run the function itself and differentiate that.
5. *Tried:* running a program on large arrays in slices that stay in the cache, with the statistics added
   up across them. A kernel call on a slice that fits the L1 cache costs as much as the slice, and a
   (4096, 1024) BatchNorm gained nothing; so large arrays run composed.
"""
cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport PyObject
from libc.string cimport memcmp
from numpy cimport (NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_NDIM, PyArray_SIZE,
                    PyArray_TYPE, ndarray, npy_intp)

from .accelerate cimport Shortcut
from .kernels cimport FIRST_COMPARISON, MAX, MEAN, MIN, MULTIPLY, PROD, SUM, VAR, call_kernel
from .loops cimport Block, Operand, contiguous, empty, merge_dimensions, recycle, run_blocks
from .reductions cimport Plan, make_plan, run_plan
from ..engine.graph cimport Op, Tensor, frozen, observed, record, recording, registry, shape_of, wrap

from functools import update_wrapper
from math import prod

import numpy as np

from ..engine.graph import make_op, observe, run_graph, set_recording

cnp.import_array()

cdef Shortcut FUSION = Shortcut("fused formulas")
cdef unsigned long long ALL = ~<unsigned long long> 0      # inputs, as bits

cdef enum:
    RANK = 6                    # dimensions that a value may have
    MAX_INPUTS = 8
    MAX_RESULTS = 8
    MAX_VALUES = 96
    VARIANTS = 16               # combinations of shapes that a function remembers
    MOST = 1 << 15              # elements of an input: beyond them the steps themselves take the time
    LINE = 64                   # bytes of a cache line


class FusionError(Exception):
    """What was traced does not make a program."""


@cython.final
@cython.internal
cdef class Value:
    """An array of this shape, aligned at the right to RANK dimensions and 1 where it repeats; or a number."""
    cdef tuple shape
    cdef object number

    def __cinit__(self, tuple shape, object number=None):
        self.shape, self.number = shape, number


@cython.final
@cython.internal
cdef class Step:
    """One primitive: from the values numbered `operands` to the value `out`; a variance has `means` too."""
    cdef int opcode, out, means
    cdef tuple operands
    cdef bint reduces
    cdef unsigned long long axes
    cdef double correction

    def __cinit__(self, int opcode, tuple operands, int out, bint reduces=False, unsigned long long axes=0,
                  double correction=0):
        self.opcode, self.operands, self.out = opcode, operands, out
        self.reduces, self.axes, self.correction, self.means = reduces, axes, correction, -1


cdef tuple aligned(tuple shape):
    if len(shape) > RANK:
        raise FusionError(f"more than {RANK} dimensions")
    return (1,) * (RANK - len(shape)) + shape


cdef tuple stripped(tuple shape):
    return tuple([size for size in shape if size != 1])


# -------------------------------------------------------------------------------------------- tracing
@cython.final
@cython.internal
cdef class Trace:
    """Notes the primitives that run, as steps on values."""
    cdef list values, steps, alive
    cdef dict known             # id of an array -> its value
    cdef dict made              # what a step does -> its value, so that nothing is done twice
    cdef int typenum

    def __cinit__(self, int typenum):
        self.values, self.steps, self.alive, self.known, self.made = [], [], [], {}, {}
        self.typenum = typenum

    cdef int add(self, Value value) except -1:
        self.values.append(value)
        return len(self.values) - 1

    cdef void learn(self, Tensor tensor, int value) except *:
        if PyArray_TYPE(tensor.array) != self.typenum:
            raise FusionError("another dtype")
        self.known[id(tensor.array)] = value
        self.alive.append(tensor.array)     # so that no other array gets its id

    cdef Tensor take_input(self, ndarray array, bint requires):
        """A leaf that stands for an input of the program."""
        cdef Tensor leaf = wrap(array.view())       # the same array may stand for two inputs
        leaf.requires = requires
        self.learn(leaf, self.add(Value(aligned(shape_of(array)))))
        return leaf

    cdef int known_value(self, Tensor tensor) except -1:
        value = self.known.get(id(tensor.array))
        if value is None:
            raise FusionError("an array that no primitive made")
        return value

    cdef int value_of(self, object source) except -1:
        if not isinstance(source, Tensor):
            return self.add(Value((1,) * RANK, float(source)))
        value = self.known_value(<Tensor> source)
        for size, logical in zip((<Value> self.values[value]).shape, aligned(source.shape)):
            if size != logical and size != 1:
                raise FusionError("axes that move")
        return value

    cdef int step(self, int opcode, tuple operands, tuple shape, bint reduces=False,
                  unsigned long long axes=0, double correction=0) except -1:
        """The value that this step makes, by a new step unless there is one already."""
        cdef Value value
        cdef list sources = []
        for v in operands:
            value = self.values[v]
            sources.append(v if value.number is None else repr(value.number))      # -0.0 is not 0.0 here
        key = opcode, tuple(sources), shape, axes, correction
        if key not in self.made:
            self.made[key] = self.add(Value(shape))
            self.steps.append(Step(opcode, operands, self.made[key], reduces, axes, correction))
        return self.made[key]

    cdef void know_means(self) except *:
        """From now on the mean of what there is a variance of is what that was taken about, bit for bit: so
        does its rule, where nothing is recorded."""
        cdef Step step
        for key, value in list(self.made.items()):
            if key[0] == VAR:
                step = next(step for step in self.steps if (<Step> step).out == value)
                step.means = self.add(Value((<Value> self.values[value]).shape))
                self.made[(MEAN, *key[1:4], 0.0)] = step.means

    cdef int whole(self, int value, tuple shape) except -1:
        """The value itself, or its repetition in this shape."""
        if (<Value> self.values[value]).shape == shape:
            return value
        return self.step(MULTIPLY, (value, self.value_of(1.0)), shape)

    cdef list results_of(self, list tensors, Py_ssize_t since):
        """The values of Tensors that a program returns, each made by a step of its own, after the first
        `since`."""
        cdef Tensor tensor
        cdef Step step
        cdef list results = []
        for tensor in tensors:
            shape = aligned(shape_of(tensor.array))
            value = self.whole(self.value_of(tensor), shape)
            # An input that is handed through, or a value that comes twice, needs an array of its own.
            if value in results or value not in [step.out for step in self.steps[since:]]:
                value = self.copy(value)
            results.append(value)
        return results

    cdef int copy(self, int value) except -1:
        cdef int copy = self.add(Value((<Value> self.values[value]).shape))
        self.steps.append(Step(MULTIPLY, (value, self.value_of(1.0)), copy))
        return copy

    def note(self, str name not None, tuple inputs not None, dict attributes not None,
             Tensor output not None):
        """Called by the engine after every primitive."""
        cdef Op op = registry.get(name)
        cdef tuple shape = aligned(shape_of(output.array)), source, axis
        cdef unsigned long long axes = 0
        cdef int value
        if name == "reshape" and stripped(inputs[0].shape) == stripped(output.shape):
            value = self.known_value(inputs[0])     # which stays as it is, whatever its sizes of 1
        elif name == "broadcast_to":
            value = self.value_of(inputs[0])
        elif op is not None and op.opcode < FIRST_COMPARISON:
            operands = tuple([self.value_of(z) for z in inputs])
            shapes = [(<Value> self.values[v]).shape for v in operands]
            value = self.step(op.opcode, operands, tuple([max(sizes) for sizes in zip(*shapes)]))
        elif op is not None and op.opcode in (SUM, PROD, MAX, MIN, MEAN, VAR):
            axis, source = attributes["axis"], aligned(inputs[0].shape)
            for d in axis:
                axes |= <unsigned long long> 1 << (RANK - <int> len(inputs[0].shape) + <int> d)
            value = self.whole(self.value_of(inputs[0]), source)
            shape = tuple([1 if axes >> d & 1 else source[d] for d in range(RANK)])
            value = self.step(op.opcode, (value,), shape, True, axes, attributes["correction"])
        else:
            raise FusionError(name)
        self.learn(output, value)

    cdef list leading_to(self, list results, Py_ssize_t since=0):
        """Those of the steps after the first `since` that lead to these values."""
        cdef Step step
        cdef set wanted = set(results)
        cdef list steps = []
        for step in reversed(self.steps[since:]):
            if step.out in wanted or step.means in wanted:
                wanted.update(step.operands)
                steps.append(step)
        return steps[::-1]


# ------------------------------------------------------------------------------------------- programs
cdef void* allocate(size_t size) except NULL:
    cdef void* memory = PyMem_Calloc(1, size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef enum Home:                 # where a value stands while a program runs
    INPUT, NUMBER, BUFFER, KEPT, RESULT

cdef struct Form:               # what is fixed of an input or a result while a program serves
    bint is_tensor, requires
    int ndim
    npy_intp shape[RANK]

cdef struct Place:
    int home, index             # which input or result
    npy_intp offset             # among the buffers, or what is kept, in bytes
    double number               # in float64,
    float narrow                # and in float32

cdef struct Loop:               # a step, laid out
    int opcode, count, out
    int means                   # of a variance, -1 where nobody asks for them
    int operand[2]
    npy_intp flat               # elements, if all operands have the shape of the output
    Block* block                # of an elementwise step
    Plan* plan                  # of a reduction


@cython.final
@cython.internal
cdef class Program:
    """Steps that lead from arrays to arrays, laid out for one set of shapes.

    inputs, kept and results are numbers of values. Those kept stand in one array, which the forward
    writes and the backward reads; shapes are those that the results get."""
    cdef Place places[MAX_VALUES]
    cdef Loop* loops
    cdef int count, value_count, typenum, itemsize
    cdef npy_intp buffers, kept  # elements of all buffers, and of all that is kept
    cdef Form results[MAX_RESULTS]
    cdef int result_count

    def __cinit__(self, list values, list steps, list inputs, list kept, list results, list shapes,
                  int typenum):
        cdef Value value
        cdef Place* place
        cdef int v, home
        if len(values) > MAX_VALUES or len(results) > MAX_RESULTS:
            raise FusionError("too many values")
        self.typenum, self.itemsize = typenum, 8 if typenum == NPY_DOUBLE else 4
        self.result_count = len(results)
        for i, shape in enumerate(shapes):
            self.results[<int> i].ndim = len(shape)
            for d, size in enumerate(shape):
                self.results[<int> i].shape[<int> d] = size
        self.value_count, self.count = len(values), len(steps)
        for v, value in enumerate(values):
            place = &self.places[v]
            place.home = BUFFER
            if value.number is not None:
                place.home, place.number = NUMBER, value.number
                place.narrow = <float> place.number
        for home, numbers in ((INPUT, inputs), (KEPT, kept), (RESULT, results)):
            for i, v in enumerate(numbers):
                self.places[v].home, self.places[v].index = home, i
                if home == KEPT:
                    self.places[v].offset = self.kept * self.itemsize
                    self.kept += self.room((<Value> values[v]).shape)
        self.place_buffers(values, steps)
        self.lay_out(values, steps)

    cdef npy_intp room(self, tuple shape) except -1:
        """The elements of a value, rounded up to whole cache lines."""
        cdef npy_intp line = LINE // self.itemsize, size = prod(shape)
        return (size + line - 1) // line * line

    cdef void place_buffers(self, list values, list steps) except *:
        """Give each buffer its offset: where one of its size stood that is not needed any more, if there is
        one."""
        cdef Step step
        cdef dict last = {v: s for s, step in enumerate(steps) for v in step.operands}, free = {}
        for s, step in enumerate(steps):
            size = self.room((<Value> values[step.out]).shape)
            if self.places[step.out].home == BUFFER:
                if free.get(size):
                    self.places[step.out].offset = free[size].pop()
                else:
                    self.places[step.out].offset = self.buffers * self.itemsize
                    self.buffers += size
            for v in set(step.operands):
                if self.places[<int> v].home == BUFFER and last[v] == s:
                    size = self.room((<Value> values[v]).shape)
                    free.setdefault(size, []).append(self.places[<int> v].offset)

    cdef void lay_out(self, list values, list steps) except *:
        cdef npy_intp shape[3][RANK]
        cdef npy_intp strides[3][RANK]
        cdef Operand operands[3]            # the output, then what is read
        cdef Loop* loop
        cdef Step step
        cdef int k, d
        self.loops = <Loop*> allocate(max(self.count, 1) * sizeof(Loop))
        for s, step in enumerate(steps):
            loop = self.loops + <int> s
            loop.opcode, loop.count, loop.out = step.opcode, len(step.operands), step.out
            loop.means = step.means if step.means >= 0 and self.places[step.means].home == KEPT else -1
            for k, v in enumerate((step.out, *step.operands)):
                if k > 0: loop.operand[k - 1] = v
                sizes = (<Value> values[v]).shape
                operands[k].ndim, operands[k].itemsize = RANK, self.itemsize
                operands[k].shape, operands[k].strides = shape[k], strides[k]
                for d in range(RANK):
                    shape[k][d], strides[k][d] = sizes[d], prod(sizes[d + 1:]) * self.itemsize
            if step.reduces:
                loop.plan = <Plan*> allocate(sizeof(Plan))
                make_plan(loop.plan, operands + 1, step.axes, step.correction)
            else:
                loop.block = <Block*> allocate(sizeof(Block))
                merge_dimensions(loop.block, RANK, shape[0], operands + 1, loop.count)
                if len({(<Value> values[v]).shape for v in (step.out, *step.operands)}) == 1:
                    loop.flat = prod((<Value> values[step.out]).shape)

    def __dealloc__(self):
        cdef int s
        for s in range(self.count if self.loops != NULL else 0):
            PyMem_Free(self.loops[s].block)
            PyMem_Free(self.loops[s].plan)
        PyMem_Free(self.loops)

    cdef list run(self, void** inputs, ndarray kept):
        """The results, in new arrays. Inputs are in C order."""
        cdef char* at[MAX_VALUES]
        cdef Place* place
        cdef ndarray buffers = empty(1, &self.buffers, self.typenum)
        cdef list results = []
        cdef int v
        for v in range(self.result_count):
            results.append(empty(self.results[v].ndim, self.results[v].shape, self.typenum))
        for v in range(self.value_count):
            place = &self.places[v]
            if place.home == BUFFER: at[v] = <char*> PyArray_DATA(buffers) + place.offset
            elif place.home == KEPT: at[v] = <char*> PyArray_DATA(kept) + place.offset
            elif place.home == NUMBER and self.itemsize == 8: at[v] = <char*> &place.number
            elif place.home == NUMBER: at[v] = <char*> &place.narrow
            elif place.home == INPUT: at[v] = <char*> inputs[place.index]
            else: at[v] = <char*> PyArray_DATA(<ndarray> results[place.index])
        run_loops(self.loops, self.count, self.itemsize, at)
        recycle(<PyObject*> buffers)
        return results


cdef void run_loops(Loop* loops, int count, int itemsize, char** at) noexcept nogil:
    cdef Operand operands[2]
    cdef void* pointers[2]
    cdef Loop* end = loops + count
    cdef int k
    for k in range(2):
        operands[k].itemsize = itemsize
    while loops < end:
        if loops.plan != NULL:
            if loops.means >= 0:
                loops.plan.centres = at[loops.means] - at[loops.out]
            run_plan(loops.opcode, loops.plan, at[loops.operand[0]], at[loops.out])
        elif loops.flat:
            for k in range(loops.count): pointers[k] = at[loops.operand[k]]
            call_kernel(loops.opcode, itemsize == 8, pointers, at[loops.out], loops.flat)
        else:
            for k in range(loops.count): operands[k].data = at[loops.operand[k]]
            run_blocks(loops.opcode, itemsize == 8, operands, loops.count, loops.block, at[loops.out],
                       itemsize)
        loops += 1


# --------------------------------------------------------------------------------- functions that fuse
cdef inline bint wants_gradient(Tensor tensor):
    return tensor.requires and recording()


cdef bint same(object a, object b) except -1:
    """Whether a program made for one serves the other; -0.0 is not 0.0 here, and NaN is NaN."""
    if type(a) is not type(b):
        return False
    return repr(a) == repr(b) if type(a) is float else a == b


@cython.final
cdef class Variant:
    """A function for inputs of one form, and its two programs once they are made."""
    cdef Form forms[MAX_INPUTS]
    cdef tuple constants        # the inputs that are no Tensors, None for those that are
    cdef int count, typenum
    cdef bint composed          # there can be no programs
    cdef bint single            # the function returns a Tensor, not a tuple of them
    cdef Program forward, backward
    cdef list flows             # for each Tensor among the inputs, whether a gradient reaches it
    cdef unsigned long long read        # the inputs that the backward reads, as bits

    def __cinit__(self, tuple inputs):
        cdef Form* form
        cdef ndarray array
        cdef int d
        self.count = len(inputs)
        self.constants = tuple([None if isinstance(value, Tensor) else value for value in inputs])
        for i, value in enumerate(inputs):
            form = &self.forms[i]
            form.is_tensor = isinstance(value, Tensor)
            if form.is_tensor:
                array = (<Tensor> value).array
                self.typenum = PyArray_TYPE(array)
                form.requires, form.ndim = wants_gradient(<Tensor> value), PyArray_NDIM(array)
                for d in range(form.ndim):
                    form.shape[d] = PyArray_DIMS(array)[d]

    cdef bint fits(self, tuple inputs) except -1:
        cdef Form* form
        cdef ndarray array
        cdef int i
        if len(inputs) != self.count:
            return False
        for i in range(self.count):
            form = &self.forms[i]
            value = inputs[i]
            if form.is_tensor != isinstance(value, Tensor):
                return False
            if form.is_tensor:
                array = (<Tensor> value).array
                if (PyArray_TYPE(array) != self.typenum or PyArray_NDIM(array) != form.ndim
                        or wants_gradient(<Tensor> value) != form.requires
                        or memcmp(PyArray_DIMS(array), form.shape, form.ndim * sizeof(npy_intp)) != 0):
                    return False
            elif value is not self.constants[i] and not same(value, self.constants[i]):
                return False
        return True

    cdef void compile(self, object function, tuple inputs) except *:
        """Run the function and its backward on these inputs, and make programs of what they do."""
        cdef Trace trace = Trace(self.typenum)
        cdef Tensor leaf, y, cotangent
        cdef list leaves = [], outputs, gradients = [], wanted, given, results, forward, kept = []
        for i, value in enumerate(inputs):
            if self.forms[i].is_tensor:
                value = trace.take_input((<Tensor> value).array, self.forms[i].requires)
            leaves.append(value)
        given = list(range(len(trace.values)))
        observer = observe(trace.note)
        try:
            returned = function(*leaves)
            self.single = isinstance(returned, Tensor)
            outputs = [returned] if self.single else list(returned)
            results = trace.results_of(outputs, 0)
            forward, y = list(trace.steps), outputs[0]
            if y.requires:
                trace.know_means()
                cotangent = trace.take_input(np.ones_like(y.array), False)
                wanted = [value for value in leaves
                          if isinstance(value, Tensor) and (<Tensor> value).requires]
                # Stops at the inputs, since copies made for a caller would be traced as steps; `results_of`
                # copies where it must.
                gradients = run_graph([y], [cotangent], wanted, True, True, True)
        finally:
            observe(observer)
        if gradients:
            reached = {id(leaf) for leaf, gradient in zip(wanted, gradients) if gradient is not None}
            self.flows = [id(value) in reached for value in leaves if isinstance(value, Tensor)]
            gradients = [gradient for gradient in gradients if gradient is not None]
            ends = trace.results_of(gradients, len(forward))
            steps = trace.leading_to(ends, len(forward))
            needed = {v for step in steps for v in (<Step> step).operands}
            kept = [v for step in forward for v in ((<Step> step).out, (<Step> step).means) if v in needed]
            needed = needed.union(ends)
            numbers = [i for i in range(self.count) if self.forms[i].is_tensor]
            for v in given:
                if v in needed:
                    self.read |= <unsigned long long> 1 << <int> numbers[v]
            self.backward = Program(trace.values, steps, [*given, trace.value_of(cotangent)], kept, ends,
                                    shapes_of(gradients), self.typenum)
            # What is returned as well may be written to, and is copied.
            trace.steps = forward
            kept = [trace.copy(v) if v in results else v for v in kept]
        steps = trace.leading_to(results + kept)
        self.forward = Program(trace.values, steps, given, kept, results, shapes_of(outputs), self.typenum)


cdef list shapes_of(list tensors):
    cdef Tensor tensor
    return [shape_of(tensor.array) for tensor in tensors]


cdef bint can_fuse(tuple inputs) except -1:
    """Whether a program may take these inputs: Tensors of one floating dtype, and anything else."""
    cdef ndarray array
    cdef int typenum = -1
    if len(inputs) > MAX_INPUTS:
        return False
    for value in inputs:
        if isinstance(value, Tensor):
            array = (<Tensor> value).array
            if typenum == -1:
                typenum = PyArray_TYPE(array)
            if (PyArray_TYPE(array) != typenum or PyArray_NDIM(array) > RANK
                    or not 0 < PyArray_SIZE(array) <= MOST):
                return False
    return typenum == NPY_FLOAT or typenum == NPY_DOUBLE


cdef bint lie_apart(tuple inputs) except -1:
    """Whether the inputs are Tensors in C order, at different places in the graph, and constants."""
    cdef Tensor tensor, other
    cdef Py_ssize_t i, k
    for i in range(len(inputs)):
        if not isinstance(inputs[i], Tensor):
            if isinstance(inputs[i], ndarray):
                return False                # its values may change, a constant's may not
            continue
        tensor = inputs[i]
        if not cnp.PyArray_ISCARRAY_RO(tensor.array):
            return False
        for k in range(i):
            if not isinstance(inputs[k], Tensor):
                continue
            other = inputs[k]
            if other is tensor or (tensor.node is not None and tensor.node is other.node):
                return False
    return True


cdef tuple as_saved(tuple inputs):
    """The inputs as a Node may save them; see `frozen`."""
    cdef Tensor tensor
    for value in inputs:
        if isinstance(value, Tensor):
            tensor = value
            if tensor.version is not None and tensor.version.foreign:
                return tuple([frozen(<Tensor> z) if isinstance(z, Tensor) else z for z in inputs])
    return inputs


cdef long long count_writes(tuple inputs, unsigned long long chosen) except -1:
    """How often those whose bits are set were written to, all together: while that stays, none was."""
    cdef long long count = 0
    cdef int i
    for i in range(<int> len(inputs)):
        value = inputs[i]
        if chosen >> i & 1 and isinstance(value, Tensor) and (<Tensor> value).version is not None:
            count += (<Tensor> value).version.value
    return count


cdef int take_pointers(tuple inputs, void** pointers) except -1:
    """Where the memory of each Tensor among the inputs begins; how many there are."""
    cdef int count = 0
    for value in inputs:
        if isinstance(value, Tensor):
            pointers[count] = PyArray_DATA((<Tensor> value).array)
            count += 1
    return count


def differentiate(Tensor g not None, Fused owner not None, Variant variant not None, tuple inputs not None,
                  ndarray kept not None, long long writes, long long all_writes):
    """The rule of every fused function: the gradients of its inputs, in a list."""
    cdef void* pointers[MAX_INPUTS + 1]
    cdef ndarray cotangent = contiguous(g.array)
    cdef bint composed = recording() or not FUSION.taken()
    if count_writes(inputs, ALL if composed else variant.read) != (all_writes if composed else writes):
        raise RuntimeError(f"{owner.op.name}: an input was written to in place since it was used, and its "
                           "gradient needs it; write to a copy, x.clone(), or after backward")
    if composed:
        return owner.differentiate_composed(variant, g, inputs)
    pointers[take_pointers(inputs, pointers)] = PyArray_DATA(cotangent)
    gradients = iter(variant.backward.run(pointers, kept))
    return [wrap(next(gradients)) if flows else None for flows in variant.flows]


@cython.final
cdef class Fused:
    """A function, and its variants for the shapes that came."""
    cdef object function
    cdef Op op
    cdef list variants

    def __cinit__(self, object function):
        self.function, self.variants = function, []
        self.op = make_op(function.__name__, rules=(differentiate,), joint=True,
                          attributes=("owner", "variant", "inputs", "kept", "writes", "all_writes"))

    cdef object call(self, tuple inputs):
        cdef Variant variant
        if observed() or not lie_apart(inputs) or not FUSION.taken():
            return self.function(*inputs)
        for variant in self.variants:
            if variant.fits(inputs):
                break
        else:
            if can_fuse(inputs):            # shapes that come only once are not worth a program
                self.variants.insert(0, Variant(inputs))
                del self.variants[VARIANTS:]
            return self.function(*inputs)
        if variant.forward is None and not variant.composed:
            try:
                variant.compile(self.function, inputs)
            except FusionError:
                variant.composed = True
        return self.function(*inputs) if variant.composed else self.run(variant, inputs)

    cdef object run(self, Variant variant, tuple inputs):
        cdef void* pointers[MAX_INPUTS]
        cdef int count = take_pointers(inputs, pointers)
        cdef ndarray kept = empty(1, &variant.forward.kept, variant.typenum)
        cdef list results = variant.forward.run(pointers, kept)
        cdef tuple tensors, saved
        cdef Py_ssize_t k
        if variant.backward is None:
            results[0] = wrap(results[0])
        else:
            saved = as_saved(inputs)
            tensors = saved if count == len(saved) else tuple([z for z in saved if isinstance(z, Tensor)])
            results[0] = record(self.op, results[0], tensors[0], tensors[1] if count > 1 else None,
                                tensors[2:] if count > 2 else None,
                                (self, variant, saved, kept, count_writes(inputs, variant.read),
                                 count_writes(inputs, ALL)))
        if variant.single:
            return results[0]
        for k in range(1, len(results)):
            results[k] = wrap(results[k])
        return tuple(results)

    cdef list differentiate_composed(self, Variant variant, Tensor g, tuple inputs):
        """The gradients by the function that is fused, recorded if others are. An input that was
        frozen since the forward is represented by a leaf."""
        cdef Tensor tensor
        cdef list given = [], wanted = [], places = []
        cdef int i
        for i in range(variant.count):
            given.append(inputs[i])
            if not variant.forms[i].is_tensor:
                continue
            tensor = inputs[i]
            if variant.forms[i].requires:
                if not tensor.requires:
                    tensor = wrap(tensor.array)
                    tensor.requires = True
                    given[i] = tensor
                wanted.append(tensor)
            places.append(variant.forms[i].requires)
        recorded = set_recording(True)
        try:
            returned = self.function(*given)
        finally:
            set_recording(recorded)
        y = returned if variant.single else returned[0]
        gradients = iter(run_graph([y], [g], wanted, True, recorded, True))
        return [next(gradients) if flows else None for flows in places]


def fused(function):
    """Have a function of Tensors, composed from primitives, run as one operation. A decorator.

    Its inputs are positional: Tensors, and what is told apart by ==. It must be made of Tensor
    operations alone, and read no values (`item`, `numpy`). It returns a Tensor or a tuple of them, of which
    only the first may carry a gradient. The function itself stays as `__wrapped__`.

    It runs fused from the second call with inputs of the same shapes, if these are at most 8, in C order, of
    one floating dtype, each but once, of 1 to 32,768 elements in up to 6 dimensions; else it runs composed.

    >>> from minigrad._core.fast.fusion import fused
    >>> @fused
    ... def standardise(x):
    ...     return (x - x.mean()) / x.var().sqrt()
    >>> x = mg.tensor([1.0, 3.0], requires_grad=True)
    >>> with mg.autograd.accelerated():
    ...     [standardise(x).grad_fn.name for call in range(3)]
    ['divide', 'standardise', 'standardise']
    """
    cdef Fused owner = Fused(function)

    def call(*inputs):
        return owner.call(inputs)
    return update_wrapper(call, function)
