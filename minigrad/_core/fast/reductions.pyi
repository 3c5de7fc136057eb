"""reductions.pyx is called from Cython only."""
