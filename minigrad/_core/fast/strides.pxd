# Nested loops over strided memory: merging dimensions, and stepping to the next position. Inline, so that no
# operation pays for calls between modules.
from numpy cimport npy_intp

cdef extern from "<stdlib.h>" nogil:
    long long llabs(long long)

cdef enum:
    MAXDIMS = 64                # NumPy's own limit
    MAXOPERANDS = 3

cdef struct Block:              # nested loops, the last one innermost
    int ndim
    npy_intp shape[MAXDIMS]
    npy_intp strides[MAXOPERANDS][MAXDIMS]  # in bytes, of each loop in each operand

cdef inline void add_loop(Block* block, int count, npy_intp size, int place) noexcept nogil:
    """Add an innermost loop, unless its size is 1. Its strides are already at `place`, the next or a later
    one. If it continues the last loop in the memory of every operand, the two are merged."""
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
    """Whether a loop with this stride goes outside one with the other: because it is larger or, with
    `broadcast`, 0."""
    if broadcast and (stride == 0 or other == 0):
        return stride == 0 and other != 0
    return llabs(stride) > llabs(other)

cdef inline void insert_loop(Block* block, int count, npy_intp size, npy_intp* strides, int key,
                             bint broadcast) noexcept nogil:
    """Insert a loop, unless its size is 1, into loops sorted by the strides of operand `key`. Call `merge`
    after the last one."""
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
    """Merge neighbouring loops that are contiguous to each other in the memory of every operand."""
    cdef int ndim = block.ndim, d
    block.ndim = 0
    for d in range(ndim): add_loop(block, count, block.shape[d], d)

cdef inline bint advance(Block* block, int ndim, int count, npy_intp* index, char** at) noexcept nogil:
    """Advance the index and the operands' addresses to the next position of the ndim outermost loops. After
    the last one, go back to the first and return False."""
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
