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
    cdef Notes notes = node.notes
    cdef Tensor g = after_hooks(walk, node, None if notes is None else notes.hooks)
    if g is None:
        return None
    check_whole(node)                       # a pass in a hook or in another thread may have freed it
    if walk.targets is not None:
        if id(node) in walk.targets:
            walk.captured[id(node)] = g
    elif notes is not None and notes.retained is not None:
        walk.retained.append((notes.retained, g))
    return g


cdef inline Tensor after_hooks(Walk walk, object target, list hooks):
    """Take what was delivered to a Node or leaf, or None, and run its hooks on it."""
    cdef Tensor g
    if walk.postponed:                      # products to be added as one: ../fast/cotangents.pxi
        settle(walk, target)
    g = walk.take(target)
    if g is not None and hooks:
        g = run_hooks(hooks, own(g, walk.create_graph))     # a hook may write to it or keep it
        g = own(g, walk.create_graph)
    return g


cdef void call_rules(Walk walk, Node node, Tensor g) except *:
    """Call the rule of each input that wants a gradient, and deliver the results."""
    cdef PyObject* arguments[MAX_ARGUMENTS]
    cdef Tensor out = None, result, cotangent
    cdef Op op = node.op
    cdef bint early, create_graph = walk.create_graph
    cdef int i, k, rule, code
    cdef object x = node.x, y = node.y, below, returned, position
    cdef tuple attributes = node.attributes, shape = node.shape     # as x and y: a thread may free the Node
    cdef list together = None
    check_unchanged(node, X, x, node.x_version)
    check_unchanged(node, Y, y, node.y_version)
    if node.out is not None:
        out = wrap(node.out)
        out.version = node.version
        check_unchanged(node, OUT, out, node.out_version)
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
        # A rule of g alone (add, subtract) treats all elements alike: it may run after the sum, on less data.
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
        if not op.joint:
            returned = call_rule(op, rule, arguments, create_graph)
        else:
            if together is None:
                together = <list?> call_rule(op, rule, arguments, create_graph)
            returned = together[i]
            if returned is None:
                continue
        check_result(op, i, returned)
        result = <Tensor> returned
        returned = cotangent = None         # so that `own` sees a single reference
        if node.broadcast and node.repeated[i] and not early:
            result = unbroadcast(result, node.repeated[i], node.extra[i])
        deliver(walk, below, result)


cdef inline object call_rule(Op op, int rule, PyObject** arguments, bint create_graph):
    cdef object returned = None
    if op.faster is not None and not create_graph:
        returned = call_faster(op, rule, arguments)
    if returned is None:
        returned = PyObject_Vectorcall(op.rules[rule], arguments, op.arguments[rule], NULL)
    return returned


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
    if type(target) is not Node:
        check_gradient(<Tensor> target, cotangent)
        if present is None:
            walk.leaves.append(target)
    if present is None:
        walk.set_pending(target, cotangent)
    elif (ours(<PyObject*> present, 2)      # one reference is `present`, the other that of the target
          and adds_in_place(present, cotangent, walk.create_graph) and plain(cotangent.array)):
        add_in_place(present.array, cotangent.array)
    else:
        walk.set_pending(target, present + cotangent)


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
    check_outputs(roots, caller)
    starts = [first_cotangent(root, gradient, caller) for root, gradient in zip(roots, gradients)]
    if inputs is not None:
        targets = {id(edge_of(<Tensor> t)) for t in inputs}
    walk = Walk(targets, create_graph, stop_at_inputs)
    try:
        mg_recording = create_graph
        passes_running += 1
        walk.collect(roots)
        for root in roots:
            deliver(walk, edge_of(root), starts.pop(0))
        run_newest_first(walk, retain_graph)
        for leaf in walk.leaves:
            walk.set_pending(leaf, after_hooks(walk, leaf, None if stop_at_inputs else leaf.hooks))
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
    """The cotangent of an output: the one given, in its dtype, or 1 for a scalar."""
    cdef ndarray ones
    cdef Tensor given = None if gradient is None else to_tensors((gradient, root), caller)[0]
    check_cotangent(root, given, caller)
    if given is not None:
        return given if alike(given.array, root.array) else given.astype(root.array.dtype)
    ones = empty(PyArray_NDIM(root.array), PyArray_DIMS(root.array), PyArray_TYPE(root.array))
    ones.fill(1)
    return wrap(ones)


cdef inline void check_unchanged(Node node, int code, object value, long before) except *:
    """Raise if something that the Node saved was written to since."""
    if node.saves >> code & 1 and version_of(value) != before:
        raise changed(node, "its output" if code == OUT else node.op.inputs[code - X], value, before)


cdef inline void free_node(Node node) noexcept:
    node.freed = True
    if node.out is not None:
        recycle(<PyObject*> node.out)
    node.x = node.y = None
    node.more = node.shape = node.attributes = None
    node.out = None
    node.version = None
