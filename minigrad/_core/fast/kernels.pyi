"""kernels.pyx is called from Cython only."""
