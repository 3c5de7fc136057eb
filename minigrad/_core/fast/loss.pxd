# The cross-entropy of softmax on arrays. loss.pyx opens with the Design note.
from numpy cimport ndarray

cdef ndarray cross_entropy(ndarray x, ndarray labels, ndarray kept)
cdef ndarray cross_entropy_slopes(ndarray x, ndarray labels, ndarray kept, ndarray g)
