# Tensor: its properties and its place in the graph. ../protocols.pxi has its conversions.
@cython.freelist(1024)
@cython.trashcan(True)
cdef class Tensor:
    """An n-dimensional array that remembers how it was made.

    `Tensor(data)` shares the memory of a NumPy array of one of the five dtypes, as
    `mg.asarray` does; `mg.tensor` copies.
    With `requires_grad=True` (float32 and float64 only) operations on it are recorded, and
    `backward()` on a result adds d(result)/d(tensor) to `.grad`.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    def __cinit__(self):
        self.array = NOTHING                # until __init__ or the engine sets it: never None

    def __dealloc__(self):
        if self.array is not None:
            recycle(<PyObject*> self.array)

    __array_ufunc__ = None                  # so that `array * tensor` is left to Tensor

    def __init__(self, data: ArrayLike, dtype: DTypeLike | None = None, bint requires_grad=False) -> None:
        if isinstance(dtype, int):
            raise TypeError(f"Tensor: expected data and a dtype, got {data!r} and {dtype!r}; a tensor of a "
                            f"shape is mg.empty({data!r}, {dtype!r})")
        typed = listed_tensors(data, "Tensor") or dtype is not None or hasattr(data, "dtype")
        self.array = checked(np.asarray((<Tensor> data).array if isinstance(data, Tensor) else data, dtype))
        if not typed and PyArray_TYPE(self.array) == NPY_DOUBLE:
            self.array = self.array.astype(default_dtype)       # of Python's floats, as in `mg.asarray`
        if isinstance(data, Tensor) and self.array is (<Tensor> data).array:
            self.version = shared_version(<Tensor> data)
        elif not alone(<PyObject*> self.array):
            shared_version(self).foreign = True
        if requires_grad:
            self.requires_grad = True

    # ------------------------------------------------------------------ what it is
    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its dimensions, a tuple of int."""
        return shape_of(self.array)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return PyArray_NDIM(self.array)

    @property
    def size(self) -> int:
        """The number of elements, an int."""
        return elements(self.array)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its NumPy dtype: float32, float64, int32, int64 or bool."""
        return self.array.dtype

    @property
    def device(self) -> str:
        """Where its memory is: "cpu", the only device."""
        return "cpu"

    @property
    def requires_grad(self) -> bool:
        """Whether operations on it are recorded."""
        return self.requires

    @requires_grad.setter
    def requires_grad(self, bint value) -> None:
        if self.node is not None and not value:
            raise RuntimeError("requires_grad: only leaves can be changed; use x.detach()")
        if value and PyArray_TYPE(self.array) != NPY_FLOAT and PyArray_TYPE(self.array) != NPY_DOUBLE:
            raise RuntimeError("requires_grad: only float32 and float64 have gradients, this is "
                               f"{self.array.dtype}")
        self.requires = value

    @property
    def is_leaf(self) -> bool:
        """True unless an operation in the graph made it."""
        return self.node is None

    @property
    def grad_fn(self) -> Node | None:
        """The Node that made it, None for a leaf."""
        return self.node

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient, a Tensor, or None."""
        return self.gradient

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            check_grad(self, value)
        self.gradient = value

    @property
    def _array(self) -> NDArray[Any]:
        """The array itself, writable; whoever writes to it calls `_bump_version`."""
        return self.array

    @property
    def _version(self) -> int:
        """How often its storage was written to through the library."""
        return version_of(self)

    def _bump_version(self) -> None:
        """Count a write to the storage, so that graphs that saved it notice."""
        count_write(self)

    # ------------------------------------------------------------------ the graph
    def backward(self, gradient: TensorLike | None = None, bint retain_graph=False,
                 bint create_graph=False) -> None:
        """Accumulate d(self)/d(leaf) · gradient into the `.grad` of every leaf that requires grad.

        gradient: the cotangent, of the shape of self; may be left out for one element (then it is 1).
        retain_graph: keep what the graph saved, for another backward through it.
        create_graph: record the gradients themselves, for gradients of gradients; implies retain_graph.
        Raises RuntimeError, and leaves every `.grad` as it was, if self has no graph, the graph was
        freed, or something that it saved was written to since.
        """
        run_backward([self], [gradient], None, retain_graph or create_graph, create_graph, "backward")

    def detach(self) -> Tensor:
        """A Tensor on the same memory, outside the graph."""
        cdef Tensor tensor = wrap(self.array)
        tensor.version = shared_version(self)
        return tensor

    def requires_grad_(self, bint requires_grad=True) -> Self:
        """Set `requires_grad` in place and return self."""
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> None:
        """Have backward set `.grad` of this tensor although it is not a leaf."""
        if not self.requires:
            raise RuntimeError("retain_grad: the tensor does not require grad")
        if self.node is None:
            return
        notes_of(self.node).retained = weakref.ref(self)        # weak: a Node must not own its output

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `hook(gradient)` when the gradient of this tensor is complete; what it returns, unless
        None, replaces the gradient. Returns a handle with `remove()`."""
        if not self.requires:
            raise RuntimeError("register_hook: the tensor does not require grad")
        if self.node is not None:
            return self.node.register_hook(hook)
        if self.hooks is None:
            self.hooks = []
        return add_hook(self.hooks, hook)

    # ------------------------------------------------------------------ writing
    def __setitem__(self, index: Any, value: TensorLike, /) -> None:
        if mg_recording:
            check_write(self, "x[i] = v", value)
        write(self, value, plain_index(index))

    def copy_(self, source: TensorLike) -> Self:
        """Write the elements of `source`, broadcast, into this tensor, in its dtype; returns self. Floats
        lose their fraction in an integer tensor. Raises OverflowError (ValueError for NaN) for a value that
        its integers cannot hold, TypeError for what is not numbers, and then writes nothing."""
        return write_all(self, source, "copy_")

    def fill_(self, value: TensorLike) -> Self:
        """Set every element to a number, in the dtype of the tensor; returns self. Errors as `copy_`."""
        return fill(self, value)

    def zero_(self) -> Self:
        """Set every element to zero; returns self."""
        return write_all(self, 0, "zero_")

    # ------------------------------------------------------------------ operators
    @property
    def T(self) -> Tensor:
        """The transpose: dimensions in reverse order, a view."""
        return self.permute_dims(tuple(range(PyArray_NDIM(self.array)))[::-1])

    @property
    def mT(self) -> Tensor:
        """The transpose of the last two dimensions, a view."""
        return self.matrix_transpose()

    def __pos__(self) -> Tensor: return self
    def __invert__(self) -> Tensor: return wrap(checked(np.bitwise_not(self.array)))
    # __add__, __radd__, __iadd__ and the others: generate.py writes them here, from the table.
