# Tensor, Node, Op. graph.pyx opens with the Design note.
from numpy cimport ndarray, npy_intp

from ..fast.accelerate cimport Shortcut
from ..fast.loops cimport Operand

cdef enum:
    MAX_INPUTS = 3              # inputs that have a rule of their own; a variadic op has one rule for all
    MAX_ARGUMENTS = 8           # parameters of a rule
    LAST_BIT = 63               # of Node.needs: it stands for input 63 and all beyond
    NOTED_SIZES = 8             # dimensions of an output whose sizes a Node notes

cdef class Version:
    cdef long value
    cdef bint foreign           # others may write to the storage without being counted

cdef class Tensor

ctypedef Tensor (*summed_gradient_t)(Tensor g, Tensor factor, unsigned long long repeated, int extra)
ctypedef void (*add_part_t)(ndarray whole, ndarray part, tuple attributes) except *

cdef class Faster:
    cdef tuple sums             # of a product: for each input None, or f(cotangents, factors), their product
    cdef summed_gradient_t summed_gradient  # of a product: its gradient summed over repeated axes, or NULL
    cdef tuple rules            # of the same parameters as the primitive's, or None
    cdef Shortcut shortcut      # says whether `rules` are taken; the others have shortcuts of their own
    cdef add_part_t add_part    # of a primitive that picks elements of its input: adds into such a pick

cdef class Op:
    cdef readonly str name
    cdef readonly object fallback           # type: Callable[..., Any] | None
    cdef object function        # what users call
    cdef readonly tuple rules               # type: tuple[Callable[..., Tensor] | None, ...]
    cdef readonly tuple inputs              # type: tuple[str, ...]
    cdef readonly tuple attributes          # type: tuple[str, ...]
    cdef readonly bint variadic     # any number of inputs share one rule
    cdef readonly bint joint    # its rule is called once and returns the gradients of all inputs
    cdef int opcode
    cdef int core_dims          # trailing dimensions that do not broadcast; NO_BROADCAST for all
    cdef Faster faster          # what takes the place of its rules where nobody records them, or None
    cdef unsigned long long differentiable      # bit i: input i has a rule
    cdef unsigned char saves[MAX_INPUTS]        # of each rule, bit c: it names Argument c
    cdef unsigned char argument[MAX_INPUTS][MAX_ARGUMENTS]      # which Argument each parameter is
    cdef int arguments[MAX_INPUTS]              # how many parameters

cdef class Notes:               # rarely used fields; in every Node they would cost 2 ns per operation
    cdef list hooks
    cdef object retained        # a weak reference to the output after retain_grad
    cdef object metadata        # data of a tool for this Node: None, or a dict

cdef class Node:
    cdef readonly Op op
    cdef object x, y
    cdef tuple more
    cdef ndarray out
    cdef Version version
    cdef tuple shape            # of the first input, if saved
    cdef tuple attributes
    cdef Tensor cotangent
    cdef Notes notes
    cdef readonly unsigned long long number     # Nodes are numbered as they are made
    cdef unsigned long long needs               # bit i: input i needs a gradient, and has a rule
    cdef unsigned long long mark                # of the last pass that found it
    cdef long x_version, y_version, out_version
    cdef bint freed, broadcast
    cdef bint useful            # in that pass: a gradient is wanted below it
    cdef unsigned char saves    # bit c: a rule of an input in `needs` names Argument c
    cdef unsigned long long repeated[MAX_INPUTS]        # axes of the output that broadcasting repeated
    cdef int extra[MAX_INPUTS]                          # and how many of them stand before the input's own
    cdef int ndim               # of the output, and its sizes
    cdef npy_intp sizes[NOTED_SIZES]

cdef class Tensor:
    cdef ndarray array
    cdef Node node
    cdef Tensor gradient
    cdef Tensor cotangent
    cdef Version version
    cdef list hooks
    cdef bint requires
    cdef object __weakref__

cdef enum:
    NO_BROADCAST = -1

cdef dict registry
cdef Faster beside_rules(Op op)
cdef Tensor unbroadcast(Tensor g, unsigned long long repeated, int extra)
cdef Tensor without_first(Tensor total, tuple shape, tuple axes, int extra)
cdef unsigned long long repeated_axes(npy_intp* shape, int ndim, ndarray out, int core_dims)
cdef bint recording()
cdef bint observed()
cdef tuple shape_of(ndarray a)
cdef Tensor wrap(ndarray array)
cdef Tensor frozen(Tensor tensor)
cdef Tensor record(Op op, ndarray out, object x, object y=*, tuple more=*, tuple attributes=*)
cdef Tensor record_view(Op op, ndarray out, Tensor x, tuple attributes=*)
cpdef Tensor to_tensor(object value, str name)
cpdef tuple to_tensors(tuple values, str name)
cpdef tuple in_common_dtype(tuple tensors)
cdef object python_number(object value)
cdef ndarray number_array(object number, int typenum, str name)
cdef Version shared_version(Tensor tensor)
cdef object unary(Op op, object x)
cdef object binary(Op op, object x, object y)
cdef ndarray checked(object array)
