# Shortcuts and their switch. accelerate.pyx opens with the Design note.

cdef class Shortcut:
    cdef readonly str name
    cdef readonly long long uses
    cdef public bint enabled
    cdef bint taken(self) noexcept
