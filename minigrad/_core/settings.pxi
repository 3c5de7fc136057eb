# The default dtype, and whether operations are recorded.
cdef object default_dtype = np.dtype(np.float32)


def get_default_dtype() -> np.dtype[Any]:
    """The dtype that Python floats become: float32 unless `set_default_dtype` changed it.

    >>> mg.get_default_dtype()
    dtype('float32')
    """
    return default_dtype


def set_default_dtype(dtype: DTypeLike) -> None:
    """Set the dtype that Python floats become, in every thread: float32 or float64.

    >>> mg.set_default_dtype(mg.float64); mg.tensor([0.5]).dtype
    dtype('float64')
    >>> mg.set_default_dtype(mg.float32)
    """
    global default_dtype
    dtype = np.dtype(dtype)
    if dtype not in DTYPES or dtype.kind != "f":
        raise TypeError(f"set_default_dtype: expected float32 or float64, got {dtype}")
    default_dtype = dtype


cdef bint recording():
    return mg_recording


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread.

    >>> mg.is_grad_enabled()
    True
    """
    return bool(mg_recording)


def set_recording(bint mode) -> bool:
    """Turn recording on or off in this thread and return what it was; the context managers call it."""
    global mg_recording
    previous = bool(mg_recording)
    mg_recording = mode
    return previous
