# C, CPython and NumPy declarations of the engine.
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

from ..fast.accelerate cimport Shortcut
from ..fast.kernels cimport FIRST_COMPARISON, NO_KERNEL, call_kernel
from ..fast.loops cimport (
    Operand, add_in_place, blend, contiguous, copied, elements, elementwise, empty, may_overlap,
    recycle, view_array, zeros_of)

import opcode
import sys
import weakref

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
    ctypedef struct PyTypeObject:
        PyObject* tp_dict
        const char* tp_name
    void PyType_Modified(type)
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
