# The methods of Tensor for protocols of Python and NumPy. generate.py writes them into the class.
    def __repr__(self) -> str:
        text = np.array2string(self.array, separator=", ", prefix="tensor(")
        if self.array.dtype.kind == "f":
            for name, count in (("nan", np.isnan(self.array).sum()), ("inf", np.isinf(self.array).sum())):
                text += f", {name}={count}" if count else ""
        if not 0 < self.array.size <= np.get_printoptions()["threshold"]:
            text += f", shape={self.shape}"
        if self.array.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={self.array.dtype}"
        if self.node is not None:
            text += f", grad_fn={self.node!r}"
        elif self.requires:
            text += ", requires_grad=True"
        return f"tensor({text})"

    def _repr_html_(self) -> str:
        from minigrad.viz.notebook import tensor_html    # a notebook asks for it, nothing else
        return tensor_html(self)

    def __format__(self, str specification not None) -> str:
        value = self.item() if elements(self.array) == 1 and specification else str(self)
        return format(value, specification)

    def __reduce__(self) -> Any:
        if self.node is not None:
            raise RuntimeError("only leaves can be copied or pickled; use x.detach() or x.clone()")
        return rebuild, (type(self), np.array(self.array, order="C"), self.requires, self.gradient)

    def __copy__(self) -> Tensor:
        return self.clone() if self.node is not None else rebuild(*self.__reduce__()[1])

    # ------------------------------------------------------------------ numbers and sequences
    def item(self) -> Any:
        """Its only element as a Python number. Raises ValueError unless size is 1."""
        if elements(self.array) != 1:
            raise ValueError(f"item: expected one element, the tensor has shape {self.shape}")
        return self.array.item()

    def tolist(self) -> Any:
        """Its elements as nested lists of Python numbers."""
        return self.array.tolist()

    def __float__(self) -> float: return float(self.item())
    def __int__(self) -> int: return int(self.item())

    def __index__(self) -> int:
        if self.array.dtype.kind not in "ib" or elements(self.array) != 1:
            raise TypeError("only an integer tensor of one element is an index, "
                            f"not {self.dtype} {self.shape}")
        return int(self.array.item())

    def __bool__(self) -> bool:
        if elements(self.array) != 1:
            raise ValueError(f"the truth value of a tensor of shape {self.shape} is ambiguous; "
                             "use .any() or .all()")
        return bool(self.array.item())

    def __len__(self) -> int:
        if PyArray_NDIM(self.array) == 0:
            raise TypeError("len() of a 0-d tensor")
        return PyArray_DIMS(self.array)[0]

    def __iter__(self) -> Iterator[Tensor]:
        if PyArray_NDIM(self.array) == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iterate([self[i] for i in range(PyArray_DIMS(self.array)[0])])

    def __contains__(self, value: TensorLike, /) -> bool:
        if python_number(value) is None:
            value = to_tensor(value, "in")
        return bool((self == value).any())

    def __hash__(self) -> int:
        return <Py_hash_t> (<size_t> <void*> self >> 4)

    # ------------------------------------------------------------------ arrays
    def numpy(self, *, bint copy=False) -> NDArray[Any]:
        """Its values, outside the graph: a read-only NumPy view, or with `copy=True` its own array."""
        if copy:
            return np.array(self.array, order="C")
        view = self.array.view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if dtype is not None and np.dtype(dtype) != self.array.dtype:
            if copy is False:
                raise ValueError(f"asarray: {self.dtype} cannot become {np.dtype(dtype)} without a copy")
            return self.array.astype(dtype)
        return self.numpy(copy=bool(copy))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return call_on_values(function, arguments, options)

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None,
                   copy: bool | None = None) -> Any:
        if self.requires:
            raise BufferError("dlpack: the tensor requires grad, and a write elsewhere would not be seen; "
                              "use x.detach()")
        shared_version(self).foreign = True     # from now on the other library may write to it
        return self.array.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()
