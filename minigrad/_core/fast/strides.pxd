# Nested loops over strided memory: which dimensions they are, once merged, and the step to the next
# position. Inline, so that no operation pays for calls from one module into another.
from numpy cimport npy_intp

cdef extern from "<stdlib.h>" nogil:
    long long llabs(long long)

cdef enum:
    MAXDIMS = 64                # NumPy's own limit
    MAXOPERANDS = 3

cdef struct Block:              # nested loops, the last one innermost
    int ndim
    npy_intp shape[MAXDIMS]
    npy_intp strides[MAXOPERANDS][MAXDIMS]  # in bytes: how far each moves in the memory of each operand

cdef inline void add_loop(Block* block, int count, npy_intp size, int place) noexcept nogil:
    """Add an innermost loop, unless it runs once. Its strides are at that place already, which is the next or
    a later one. Where it lies behind the last loop in the memory of every operand, the two become one."""
    cdef int last = block.ndim - 1, k
    cdef bint behind = last >= 0
    if size == 1:
        return
    for k in range(count):
        if behind and block.strides[k][last] != block.strides[k][place] * size:
            behind = False
    if behind:
        block.shape[last] *= size
    else:
        last += 1
        block.shape[last] = size
        block.ndim += 1
    if last != place:
        for k in range(count): block.strides[k][last] = block.strides[k][place]

cdef inline bint is_outside(npy_intp stride, npy_intp other, bint broadcast) noexcept nogil:
    """Whether a loop with this stride goes outside one with the other, because it is larger; or, with
    `broadcast`, because it is 0."""
    if broadcast and (stride == 0 or other == 0):
        return stride == 0 and other != 0
    return llabs(stride) > llabs(other)

cdef inline void insert_loop(Block* block, int count, npy_intp size, npy_intp* strides, int key,
                             bint broadcast) noexcept nogil:
    """Add a loop, unless it runs once, where it belongs among loops sorted by the strides of operand `key`.
    Call `merge` once all are there."""
    cdef int d = block.ndim, k
    if size == 1:
        return
    while d > 0 and is_outside(strides[key], block.strides[key][d - 1], broadcast):
        block.shape[d] = block.shape[d - 1]
        for k in range(count): block.strides[k][d] = block.strides[k][d - 1]
        d -= 1
    block.shape[d] = size
    for k in range(count): block.strides[k][d] = strides[k]
    block.ndim += 1

cdef inline void merge(Block* block, int count) noexcept nogil:
    """Make one loop of neighbours that lie behind one another in the memory of every operand."""
    cdef int ndim = block.ndim, d
    block.ndim = 0
    for d in range(ndim): add_loop(block, count, block.shape[d], d)

cdef inline bint advance(Block* block, int ndim, int count, npy_intp* index, char** at) noexcept nogil:
    """Move the index and the operands' addresses to the next position of the ndim outermost loops; after the
    last, back to the first, and return False."""
    cdef int d = ndim - 1, k
    while d >= 0:
        index[d] += 1
        for k in range(count): at[k] += block.strides[k][d]
        if index[d] < block.shape[d]:
            return True
        for k in range(count): at[k] -= block.strides[k][d] * block.shape[d]
        index[d] = 0
        d -= 1
    return False
