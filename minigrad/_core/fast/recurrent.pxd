# The elementwise part of an LSTM step. recurrent.pyx opens with the Design note.
from numpy cimport ndarray

cdef ndarray blocks(ndarray c, int count)
cdef ndarray cell_forward(ndarray z, ndarray c, ndarray kept)
cdef list cell_backward(ndarray g, ndarray c, ndarray kept)
