# What the engine refuses, and why. A function `check_...` returns if nothing is wrong.
cdef tuple parameters_of(rule):
    return rule.__code__.co_varnames[:rule.__code__.co_argcount]


cdef void check_op(str name, int opcode, tuple rules, tuple attributes, int core_dims, bint one_rule,
                   dict meanings) except *:
    """Raise ValueError for an operation that an Op or a Node has no room for."""
    cdef int most = 1 if one_rule else MAX_INPUTS
    if not 0 <= opcode <= NO_KERNEL:
        raise ValueError(f"{name}: opcode {opcode} is not that of a kernel")
    if core_dims < NO_BROADCAST or core_dims != NO_BROADCAST and one_rule:
        raise ValueError(f"{name}: core_dims={core_dims}: expected a number of dimensions, of an operation "
                         "with a rule for each input")
    if len(rules) > most or len(attributes) > MAX_ATTRIBUTES:
        raise ValueError(f"{name}: {len(rules)} rules and {len(attributes)} attributes; there may be {most} "
                         f"and {MAX_ATTRIBUTES}")
    for i, rule in enumerate(rules):
        parameters = () if rule is None else parameters_of(rule)
        if len(parameters) > MAX_ARGUMENTS:
            raise ValueError(f"{name}: the rule of input {i} has {len(parameters)} parameters; it may have "
                             f"{MAX_ARGUMENTS}")
        for parameter in parameters:
            if parameter not in meanings:
                raise ValueError(f"{name}: the rule of input {i} asks for {parameter!r}; it may name its "
                                 "first two inputs, attributes, g, out, shape and i")


cdef void check_outputs(list outputs, str caller) except *:
    for output in outputs:
        if not requires(output):
            raise RuntimeError(f"{caller}: the output does not require grad, and has no graph; was it made "
                               "under no_grad, from detached tensors, or by an operation that has no "
                               "gradient?")


cdef void check_cotangent(Tensor root, Tensor gradient, str caller) except *:
    if gradient is None and elements(root.array) != 1:
        raise RuntimeError(f"{caller}: the output has shape {root.shape}; a gradient is implied for one "
                           "element only: reduce it (x.sum()) or give the cotangent, of its shape")
    if gradient is not None and not same_shape(gradient.array, root.array):
        raise RuntimeError(f"{caller}: the gradient has shape {gradient.shape}, the output {root.shape}; "
                           "they must be equal")


cdef inline void check_whole(Node node) except *:
    if node.freed:
        raise RuntimeError(f"backward: the graph of {node.op.name} was freed by an earlier backward; "
                           "give that one retain_graph=True to run it twice")


cdef object changed(Node node, str what, Tensor tensor, long before):
    return RuntimeError(
        f"{node.op.name}: its gradient needs {what} of shape {tensor.shape}, which was written to in "
        f"place since (version {before} when it was saved, {version_of(tensor)} now); write to a copy, "
        "x.clone(), or after backward")


cdef inline void check_result(Op op, int i, object result) except *:
    if not isinstance(result, Tensor):
        raise RuntimeError(f"{op.name}: the rule of input {i} returned {type(result).__name__}, not a Tensor")


cdef inline void check_gradient(Tensor leaf, Tensor cotangent) except *:
    if not alike(leaf.array, cotangent.array):
        raise RuntimeError(f"backward: a gradient of shape {cotangent.shape} and dtype {cotangent.dtype} "
                           f"reached a leaf of shape {leaf.shape} and dtype {leaf.dtype}; the rule that "
                           "made it is wrong")


cdef void check_grad(Tensor tensor, object value) except *:
    if not isinstance(value, Tensor) or value is tensor:
        raise TypeError("grad: expected another Tensor or None, got "
                        f"{'itself' if value is tensor else type(value).__name__}")
    if not alike((<Tensor> value).array, tensor.array):
        raise ValueError(f"grad: expected shape {tensor.shape} and dtype {tensor.dtype}, got {value.shape} "
                         f"and {value.dtype}")
