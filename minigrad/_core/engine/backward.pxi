# Reverse mode. The first function is all of it; the others define its terms.
cdef void run_newest_first(Walk walk, bint retain_graph) except *:
    """A Node runs after everything that was computed from its output, so by then the gradient g of that
    output is complete: the sum of what those delivered. Nodes are numbered as they are made, hence newest
    first is such an order. The rules of the Node's operation make of g the gradients of its inputs, and
    deliver them to the Nodes and leaves that these came from."""
    cdef Py_ssize_t i
    cdef Node node
    cdef Tensor g
    for i in range(walk.count):
        node = walk.visit(i)
        g = take_gradient(walk, node)
        if g is not None and (walk.targets is None or walk.is_useful(node)):
            run_rules(walk, node, g)
        g = None                            # so that a single reference remains, which allows in-place sums
        if not retain_graph:
            free_node(node)


cdef Tensor take_gradient(Walk walk, Node node):
    """The gradient delivered to a Node, or None, after its hooks have run and it was captured or retained."""
    cdef Tensor g
    if walk.postponed:
        settle(walk, node)
    g = walk.pending(node)
    if g is None:
        return None
    walk.set_pending(node, None)
    if node.notes is not None and node.notes.hooks:
        g = own(g, walk.create_graph)       # a hook may write to it or keep it
        g = run_hooks(node.notes.hooks, g)
        g = own(g, walk.create_graph)
    check_whole(node)                       # a pass in a hook or in another thread may have freed it
    if walk.targets is not None:
        if id(node) in walk.targets:
            walk.captured[id(node)] = g
    elif node.notes is not None and node.notes.retained is not None:
        walk.retained.append((node.notes.retained, g))
    return g


cdef inline void run_rules(Walk walk, Node node, Tensor g) except *:
    if observers > 0 or profiling:
        run_rules_observed(walk, node, g)
    else:
        call_rules(walk, node, g)


cdef void call_rules(Walk walk, Node node, Tensor g) except *:
    """Call the rule of each input that wants a gradient, and deliver the results."""
    cdef PyObject* arguments[MAX_ARGUMENTS]
    cdef Tensor out = None, result, cotangent
    cdef Op op = node.op
    cdef bint early, create_graph = walk.create_graph
    cdef int i, k, rule, code
    cdef object x = node.x, y = node.y, below, returned, position
    cdef tuple attributes = node.attributes, shape = node.shape     # held: another thread may free the Node
    cdef list together = None
    check_unchanged(node, X, x, node.x_version)
    check_unchanged(node, Y, y, node.y_version)
    if node.out is not None:
        if node.version.value != node.out_version:
            raise changed(node, "its output", node.out, node.out_version, node.version.value)
        out = wrap(node.out)
        out.version = node.version
        if create_graph:
            out.node = node
            out.requires = True
    for i in range(input_count(node)):
        below = edge(node, i)
        if below is None or not walk.leads_on(below):
            continue
        if op.faster is not None and not create_graph and deliver_faster(walk, node, i, below, g):
            continue
        rule = 0 if op.variadic else i
        position = i
        # A rule of g alone (add, subtract) treats all elements alike, so it may run after the sum, on less data.
        early = node.broadcast and node.repeated[i] != 0 and op.saves[rule] == 1 << COTANGENT
        cotangent = unbroadcast(g, node.repeated[i], node.extra[i]) if early else g
        for k in range(op.arguments[rule]):
            code = op.argument[rule][k]
            if code == COTANGENT: arguments[k] = <PyObject*> cotangent
            elif code == OUT: arguments[k] = <PyObject*> out
            elif code == X: arguments[k] = <PyObject*> x
            elif code == Y: arguments[k] = <PyObject*> y
            elif code == SHAPE: arguments[k] = <PyObject*> shape
            elif code == POSITION: arguments[k] = <PyObject*> position
            else: arguments[k] = <PyObject*> attributes[code - ATTRIBUTE]
        if together is None:
            returned = None
            if op.faster is not None and not create_graph:
                returned = call_faster(op, rule, arguments)
            if returned is None:
                returned = PyObject_Vectorcall(op.rules[rule], arguments, op.arguments[rule], NULL)
        if op.joint:
            if together is None:
                together = <list?> returned
            returned = together[i]
            if returned is None:
                continue
        if not isinstance(returned, Tensor):
            raise RuntimeError(f"{op.name}: the rule of input {i} returned {type(returned).__name__}, "
                               "not a Tensor")
        result = <Tensor> returned
        returned = cotangent = None         # so that `ours` sees a single reference
        if node.broadcast and node.repeated[i] and not early:
            result = unbroadcast(result, node.repeated[i], node.extra[i])
        deliver(walk, below, result)


cdef Tensor unbroadcast(Tensor g, unsigned long long repeated, int extra):
    """Sum g over the axes that broadcasting had repeated, the first `extra` of which it had added: the
    adjoint of broadcasting."""
    cdef tuple shape = shape_of(g.array)
    cdef int d
    cdef tuple axes = tuple([d for d in range(len(shape)) if repeated >> d & 1])
    return without_first(g.sum(axes, extra == 0), shape, axes, extra)


cdef Tensor without_first(Tensor total, tuple shape, tuple axes, int extra):
    """Reshape `total`, a sum over `axes` of an array of `shape`, to that of the input before broadcasting."""
    if extra == 0 or len(axes) == extra:
        return total
    return total.reshape(tuple([1 if d in axes else shape[d] for d in range(extra, len(shape))]))


cdef void deliver(Walk walk, object target, Tensor cotangent) except *:
    """Add a cotangent to what a Node or a leaf has received so far."""
    cdef Tensor present = walk.pending(target)
    cdef PyObject* slot = <PyObject*> present
    cdef bint in_place
    if type(target) is not Node:
        check_gradient(<Tensor> target, cotangent)
        if present is None:
            walk.leaves.append(target)
    if present is None:
        walk.set_pending(target, cotangent)
        return
    present = None                          # so that the slot holds the only reference
    in_place = ours(slot)
    present = <Tensor> slot
    walk.set_pending(target, summed(present, cotangent, in_place, walk.create_graph))


cdef list run_backward(list roots, list gradients, list inputs, bint retain_graph, bint create_graph,
                       str caller, bint stop_at_inputs=False):
    """One backward pass. Without `inputs` it accumulates into the leaves' `.grad`; with them it returns
    their gradients (None where nothing reached them) and leaves every `.grad` alone. With `stop_at_inputs`
    nothing flows from one input into another, and their hooks wait for another pass."""
    global mg_recording, passes_running
    cdef Walk walk
    cdef int mode = mg_recording
    cdef Tensor root, leaf
    cdef set targets = None
    cdef list result = None, starts
    for root in roots:
        if root is None or not root.requires:
            raise RuntimeError(f"{caller}: the output does not require grad, and has no graph; was it made "
                               "under no_grad, from detached tensors, or by an operation that has no "
                               "gradient?")
    starts = [first_cotangent(root, gradient, caller) for root, gradient in zip(roots, gradients)]
    if inputs is not None:
        targets = {id(edge_of(<Tensor> t)) for t in inputs}
    walk = Walk(targets, create_graph, stop_at_inputs)
    try:
        mg_recording = create_graph
        passes_running += 1
        walk.collect(roots)
        for root, start in zip(roots, starts):
            deliver(walk, edge_of(root), start)
        starts.clear()
        start = None
        run_newest_first(walk, retain_graph)
        for leaf in walk.leaves:
            if walk.postponed:
                settle(walk, leaf)
            if leaf.hooks is not None and not stop_at_inputs:
                run_hooks_of_leaf(walk, leaf)
        if inputs is None:
            commit(walk)
        else:
            result = gradients_of(walk, inputs, stop_at_inputs)
    finally:
        mg_recording = mode
        passes_running -= 1
        walk.end()
    return result


cdef Tensor first_cotangent(Tensor root, object gradient, str caller):
    """The cotangent of an output: the one given, or 1 for a scalar."""
    cdef ndarray ones
    if gradient is None:
        if elements(root.array) != 1:
            raise RuntimeError(f"{caller}: the output has shape {shape_of(root.array)}; a gradient is "
                               "implied for one element only: reduce it (x.sum()) or give the cotangent, "
                               "of its shape")
        ones = empty(PyArray_NDIM(root.array), PyArray_DIMS(root.array), PyArray_TYPE(root.array))
        ones.fill(1)
        return wrap(ones)
    tensor = to_tensors((gradient, root), caller)[0]
    if not same_shape((<Tensor> tensor).array, root.array):
        raise RuntimeError(f"{caller}: the gradient has shape {shape_of((<Tensor> tensor).array)}, "
                           f"the output {shape_of(root.array)}; they must be equal")
    if PyArray_TYPE((<Tensor> tensor).array) != PyArray_TYPE(root.array):
        tensor = tensor.astype(root.array.dtype)
    return tensor


cdef inline void check_whole(Node node) except *:
    if node.freed:
        raise RuntimeError(f"backward: the graph of {node.op.name} was freed by an earlier backward; "
                           "give that one retain_graph=True to run it twice")


cdef void check_gradient(Tensor leaf, Tensor cotangent) except *:
    if not alike(leaf.array, cotangent.array):
        raise RuntimeError(f"backward: a gradient of shape {shape_of(cotangent.array)} and dtype "
                           f"{cotangent.array.dtype} reached a leaf of shape {shape_of(leaf.array)} and "
                           f"dtype {leaf.array.dtype}; the rule that made it is wrong")


cdef object changed(Node node, str what, ndarray array, long saved, long now):
    return RuntimeError(
        f"{node.op.name}: its gradient needs {what} of shape {shape_of(array)}, which was written to in "
        f"place since (version {saved} when it was saved, {now} now); write to a copy, x.clone(), or after "
        "backward")


cdef inline void check_unchanged(Node node, int code, object value, long before) except *:
    if isinstance(value, Tensor) and version_of(value) != before and saved(node, code):
        raise changed(node, node.op.inputs[code - X], (<Tensor> value).array, before, version_of(value))


cdef inline bint saved(Node node, int code):
    cdef int i
    if node.op.variadic:
        return node.op.saves[0] >> code & 1
    for i in range(MAX_INPUTS):
        if node.needs >> i & 1 and node.op.saves[i] >> code & 1:
            return True
    return False


cdef inline void free_node(Node node) noexcept:
    node.freed = True
    if node.out is not None:
        recycle(<PyObject*> node.out)
    node.x = node.y = None
    node.more = node.shape = node.attributes = None
    node.out = None
    node.version = None
