"""Nothing here is for Python; see loss.pyx."""
