# The backward pass: collect the Nodes, run their rules newest first, commit the gradients.
cdef struct Entry:
    unsigned long long number
    PyObject* node


cdef int newest_first(const void* a, const void* b) noexcept nogil:
    cdef unsigned long long x = (<Entry*> a).number, y = (<Entry*> b).number
    return -1 if x > y else x < y


cdef bint fields_taken = False              # a running pass keeps its state in the Nodes' and leaves' fields


@cython.final
@cython.internal
cdef class Walk:
    """The Nodes of one backward pass, newest first; holds a reference to each until it ends.

    Cotangents wait in a field of their Node or leaf, which costs least. A pass that starts while
    another runs (in a hook, in another thread) finds the fields taken and keeps its state in
    dictionaries of its own, so that neither sees the other's."""
    cdef Entry* entries
    cdef Py_ssize_t count, capacity
    cdef unsigned long long mark
    cdef list leaves                        # leaf Tensors that a cotangent reached
    cdef list retained                      # (weak reference, gradient) for retain_grad
    cdef set ends                           # ids of Nodes and leaves where the pass ends, or None
    cdef dict postponed                     # id -> [op, input, terms, cotangents, factors, their versions]
    cdef bint private
    cdef dict cotangents                    # id -> cotangent, where this walk is private
    cdef set seen, useful
    cdef long long held, interval           # since when the GIL is held, and how long it may be, in ns

    def __cinit__(self, set ends=None):
        global pass_count, fields_taken
        pass_count += 1
        self.mark = pass_count
        self.leaves = []
        self.ends = ends
        self.postponed = {}
        self.private = fields_taken or ends is not None
        if self.private:
            self.cotangents, self.seen, self.useful = {}, set(), set()
        else:
            fields_taken = True

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            Py_DECREF(<object> self.entries[i].node)
        PyMem_Free(self.entries)

    cdef inline Tensor pending(self, object target):
        """The cotangent that a Node or leaf has received so far, or None."""
        if self.private:
            return self.cotangents.get(id(target))
        return (<Node> target).cotangent if type(target) is Node else (<Tensor> target).cotangent

    cdef inline void set_pending(self, object target, Tensor cotangent) except *:
        if self.private:
            self.cotangents[id(target)] = cotangent
        elif type(target) is Node:
            (<Node> target).cotangent = cotangent
        else:
            (<Tensor> target).cotangent = cotangent

    cdef bint postpone(self, object target, Op op, int i, Tensor g, object factor) except *:
        """Keep the factors of a product that is to be added to what the target has already received, so
        that one large product replaces those of many steps; says whether that is possible."""
        cdef npy_intp terms = PyArray_DIMS(g.array)[1 - i] if PyArray_NDIM(g.array) == 2 else LONG_SUM
        if (terms >= LONG_SUM or PyArray_NDIM((<Tensor> factor).array) != 2
                or self.pending(target) is None or self.ends is not None):
            return False
        entry = self.postponed.get(id(target))
        if entry is not None and (entry[0] is not op or entry[1] != i or entry[2] + terms > LONG_SUM):
            self.settle(target)
            entry = None
        if entry is None:
            entry = self.postponed[id(target)] = [op, i, 0, [], [], []]
        entry[2] += terms
        for kept, value in zip(entry[3:], (g, factor, version_of(factor))):
            kept.append(value)
        return True

    cdef void settle(self, object target) except *:
        """Multiply and deliver what was postponed for a target."""
        entry = self.postponed.pop(id(target), None)
        if entry is None:
            return
        op, i, _, cotangents, factors, versions = entry
        for factor, version in zip(factors, versions):
            if version_of(factor) != version:
                raise RuntimeError(f"{(<Op> op).name}: an input of shape {factor.shape} was written to in a "
                                   "hook, before its product was taken; write to a copy, x.clone()")
        deliver(self, target, (<Op> op).sums[i](cotangents, factors), False)

    cdef inline bint is_useful(self, Node node):
        return id(node) in self.useful if self.private else node.useful

    cdef inline bint leads_on(self, object target, set targets):
        """Whether a gradient is wanted at or below this Node or leaf."""
        return (targets is None or id(target) in targets
                or (type(target) is Node and self.is_useful(<Node> target)))

    cdef void add(self, Node node) except *:
        cdef Entry* grown
        if id(node) in self.seen if self.private else node.mark == self.mark:
            return
        if self.ends is not None and id(node) in self.ends:
            return
        check_whole(node)
        if self.private:
            self.seen.add(id(node))
        else:
            node.mark = self.mark
            node.useful = False
        if self.count == self.capacity:
            self.capacity = max(64, 2 * self.capacity)
            grown = <Entry*> PyMem_Realloc(self.entries, self.capacity * sizeof(Entry))
            if grown == NULL:
                raise MemoryError
            self.entries = grown
        Py_INCREF(node)
        self.entries[self.count].number = node.number
        self.entries[self.count].node = <PyObject*> node
        self.count += 1

    cdef void collect(self) except *:
        """Add everything below the Nodes that are there; the entries are their own queue."""
        cdef Py_ssize_t i = 0
        cdef bint ordered = True
        cdef int k
        cdef Node node
        cdef object below
        while i < self.count:
            node = <Node> self.entries[i].node
            ordered = ordered and (i == 0 or self.entries[i - 1].number > node.number)
            for k in range(input_count(node)):
                below = edge(node, k)
                if type(below) is Node:
                    self.add(<Node> below)
            i += 1
            if i & 1023 == 0:
                self.let_others_run()
        if not ordered:
            qsort(self.entries, self.count, sizeof(Entry), newest_first)

    cdef void let_others_run(self) noexcept:
        """Release the GIL for a moment if it was held for 1.5 times CPython's switch interval. A thread that
        waits asks for it after one interval, and only then is sure to get it."""
        cdef long long now = perf_counter_ns()
        cdef PyThreadState* thread
        if self.held == 0:
            self.held, self.interval = now, <long long> (1.5e9 * <double> getswitchinterval())
        elif now - self.held >= self.interval:
            thread = PyEval_SaveThread()
            PyEval_RestoreThread(thread)
            self.held = perf_counter_ns()

    cdef void retain(self, object reference, Tensor g) except *:
        if self.retained is None:
            self.retained = []
        self.retained.append((reference, g))

    cdef void mark_useful(self, set targets) except *:
        """Only Nodes on a way to a target need to run; oldest first, each asks the Nodes below it."""
        cdef Py_ssize_t i
        cdef int k
        cdef Node node
        for i in reversed(range(self.count)):
            node = <Node> self.entries[i].node
            if i & 1023 == 1023:
                self.let_others_run()
            for k in range(input_count(node)):
                below = edge(node, k)
                if below is not None and self.leads_on(below, targets):
                    if self.private:
                        self.useful.add(id(node))
                    else:
                        node.useful = True

    cdef void end(self):
        """Forget every pending cotangent, leave the fields to the next pass, and let the Nodes go."""
        global fields_taken
        cdef Py_ssize_t i
        if not self.private:
            for i in range(self.count):
                (<Node> self.entries[i].node).cotangent = None
                if i & 1023 == 1023:
                    self.let_others_run()
            for leaf in self.leaves:
                (<Tensor> leaf).cotangent = None
            fields_taken = False
        while self.count > 0:
            self.count -= 1
            Py_DECREF(<object> self.entries[self.count].node)
            if self.count & 1023 == 1023:
                self.let_others_run()


cdef inline void check_whole(Node node) except *:
    if node.freed:
        raise RuntimeError(f"backward: the graph of {node.op.name} was freed by an earlier backward; "
                           "give that one retain_graph=True to run it twice")


cdef inline bint ours(PyObject* tensor):
    """Whether one slot holds this gradient and nobody else sees its memory, so that it may be written to.
    (A borrowed pointer, because a Cython argument would hold a reference of its own.)"""
    return (Py_REFCNT(tensor) == 1 and Py_REFCNT(<PyObject*> (<Tensor> tensor).array) == 1
            and (<Tensor> tensor).node is None and (<Tensor> tensor).version is None
            and cnp.PyArray_CHKFLAGS((<Tensor> tensor).array, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_CARRAY))


cdef Tensor summed(Tensor present, Tensor addend, bint in_place, bint create_graph):
    if create_graph:
        return add_tensors(present, addend)
    if in_place and plain(addend.array) and alike(present.array, addend.array):
        add_in_place(present.array, addend.array)
        return present
    return binary(<Op> by_opcode[<int> ADD], present, addend)


cdef void deliver(Walk walk, object target, Tensor cotangent, bint create_graph) except *:
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
    present = None                          # so that only the slot holds it
    in_place = ours(slot)
    present = <Tensor> slot
    walk.set_pending(target, summed(present, cotangent, in_place, create_graph))


cdef void deliver_part(Walk walk, object target, Op op, Tensor part, tuple shape,
                       tuple attributes) except *:
    """As `deliver`, for the cotangent of some elements of a target of this shape. Where a tensor is taken
    apart (a sequence into steps, gates into one another) the parts are added into one array; the rule would
    make each a whole array, of zeros but for the part."""
    cdef Tensor whole = walk.pending(target)
    cdef PyObject* slot = <PyObject*> whole
    cdef bint in_place
    if whole is None:
        whole = wrap(zeros_of(shape, PyArray_TYPE(part.array)))
        deliver(walk, target, whole, False)
    else:
        whole = None                        # so that only the slot holds it
        in_place = ours(slot)
        whole = <Tensor> slot
        if not in_place:
            whole = wrap(copied(whole.array))
            walk.set_pending(target, whole)
    op.add_part(whole.array, part.array, attributes)


cdef void check_gradient(Tensor leaf, Tensor cotangent) except *:
    if not alike(leaf.array, cotangent.array):
        raise RuntimeError(f"backward: a gradient of shape {shape_of(cotangent.array)} and dtype "
                           f"{cotangent.array.dtype} reached a leaf of shape {shape_of(leaf.array)} and "
                           f"dtype {leaf.array.dtype}; the rule that made it is wrong")


cdef Tensor run_hooks(list hooks, Tensor cotangent):
    for hook in list(hooks):
        replacement = hook(cotangent)
        if replacement is None:
            continue
        if not isinstance(replacement, Tensor) or not alike((<Tensor> replacement).array, cotangent.array):
            raise RuntimeError(f"hook: expected None or a Tensor of the gradient's shape "
                               f"{shape_of(cotangent.array)} and dtype {cotangent.array.dtype}, "
                               f"got {replacement!r}")
        cotangent = replacement
    return cotangent


cdef object changed(Node node, str what, ndarray array, long saved, long now):
    return RuntimeError(
        f"{node.op.name}: its gradient needs {what} of shape {shape_of(array)}, which was written to in "
        f"place since (version {saved} when it was saved, {now} now); write to a copy, x.clone(), or after "
        "backward")


cdef void run_rules(Walk walk, Node node, Tensor g, set targets, bint create_graph) except *:
    """Call the rule of each input that wants a gradient, and deliver the results."""
    cdef PyObject* arguments[MAX_ARGUMENTS]
    cdef Tensor out = None, result, cotangent
    cdef Op op = node.op
    cdef bint early
    cdef int i, k, rule, code
    cdef object x = node.x, y = node.y, below, returned, position
    cdef tuple attributes = node.attributes, shape = node.shape     # held: another thread may free the Node
    cdef list together = None
    if isinstance(x, Tensor) and version_of(x) != node.x_version and saved(node, X):
        raise changed(node, op.inputs[0], (<Tensor> x).array, node.x_version, version_of(x))
    if isinstance(y, Tensor) and version_of(y) != node.y_version and saved(node, Y):
        raise changed(node, op.inputs[1], (<Tensor> y).array, node.y_version, version_of(y))
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
        if below is None or not walk.leads_on(below, targets):
            continue
        if op.add_part != NULL and not create_graph and PARTS.taken():
            deliver_part(walk, below, op, g, shape, attributes)
            continue
        if (op.sums is not None and not create_graph and i < 2 and op.sums[i] is not None
                and SUMS.taken() and walk.postpone(below, op, i, g, y if i == 0 else x)):
            continue
        if (op.summed_gradient != NULL and not create_graph and node.broadcast and node.repeated[i]
                and SUMMED.taken()):
            result = op.summed_gradient(g, y if i == 0 else x, node.repeated[i], node.extra[i])
            if result is not None:
                deliver(walk, below, result, create_graph)
                continue
        rule = 0 if op.variadic else i
        position = i
        # A rule of g alone (add, subtract) is linear and commutes with the sum, which leaves it less to do.
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
        returned = cotangent = None         # so that `ours` can see that nobody else holds it
        if node.broadcast and node.repeated[i] and not early:
            result = unbroadcast(result, node.repeated[i], node.extra[i])
        deliver(walk, below, result, create_graph)


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


cdef Tensor first_cotangent(Tensor root, object gradient, str caller):
    """The cotangent that a pass starts with: the one given, or 1 for a scalar."""
    cdef ndarray ones
    if gradient is None:
        if elements(root.array) != 1:
            raise RuntimeError(f"{caller}: the output has shape {shape_of(root.array)}; a gradient is "
                               "implied for one element only: reduce it (x.sum()) or give the cotangent, "
                               "of its shape")
        ones = empty(PyArray_NDIM(root.array), PyArray_DIMS(root.array), PyArray_TYPE(root.array))
        ones.fill(1)
        return wrap(ones)
    tensor = gradient
    if not isinstance(gradient, Tensor):
        number = python_number(gradient)
        tensor = (to_tensor(gradient, caller) if number is None
                  else wrap(number_array(number, PyArray_TYPE(root.array), caller)))
    if not same_shape((<Tensor> tensor).array, root.array):
        raise RuntimeError(f"{caller}: the gradient has shape {shape_of((<Tensor> tensor).array)}, "
                           f"the output {shape_of(root.array)}; they must be equal")
    if PyArray_TYPE((<Tensor> tensor).array) != PyArray_TYPE(root.array):
        tensor = cast(tensor, root.array.dtype)
    return tensor


cdef list run_backward(list roots, list gradients, list inputs, bint retain_graph, bint create_graph,
                       str caller, bint stop_at_inputs=False):
    """Reverse-mode differentiation. Without `inputs` it accumulates into the leaves' `.grad`; with them
    it returns their gradients (None where nothing reached them) and leaves every `.grad` alone. With
    `stop_at_inputs` nothing flows from one input into another, and their hooks wait for another pass."""
    global mg_recording, mg_running, passes_running
    cdef Walk walk
    cdef int mode = mg_recording
    cdef Py_ssize_t i
    cdef Node node
    cdef Tensor root, leaf, g
    cdef set targets = None
    cdef dict captured = {}
    cdef list result = None, starts
    cdef long long started
    cdef PyObject* running = mg_running
    cdef bint observed
    for root in roots:
        if root is None or not root.requires:
            raise RuntimeError(f"{caller}: the output does not require grad, and has no graph; was it made "
                               "under no_grad, from detached tensors, or by an operation that has no "
                               "gradient?")
    starts = [first_cotangent(root, gradient, caller) for root, gradient in zip(roots, gradients)]
    if inputs is not None:
        targets = {id(edge_of(<Tensor> t)) for t in inputs}
    walk = Walk(targets if stop_at_inputs else None)
    try:
        mg_recording = create_graph
        passes_running += 1
        for root in roots:
            if root.node is not None:
                walk.add(root.node)
        walk.collect()
        if inputs is not None:
            walk.mark_useful(targets)
        for root, start in zip(roots, starts):
            deliver(walk, edge_of(root), start, create_graph)
        starts.clear()
        start = None
        for i in range(walk.count):
            if i & 15 == 0:
                PyErr_CheckSignals()
            if i & 63 == 63:
                walk.let_others_run()
            node = <Node> walk.entries[i].node
            if walk.postponed:
                walk.settle(node)
            g = walk.pending(node)
            if g is not None:
                walk.set_pending(node, None)
                if node.notes is not None and node.notes.hooks is not None:
                    g = own(g, create_graph)            # a hook may write to it, or keep it
                    g = run_hooks(node.notes.hooks, g)
                    g = own(g, create_graph)
                check_whole(node)           # a pass in a hook or in another thread may have freed it
                if targets is not None and id(node) in targets:
                    captured[id(node)] = g
                if node.notes is not None and node.notes.retained is not None and inputs is None:
                    walk.retain(node.notes.retained, g)
                if targets is None or walk.is_useful(node):
                    started = perf_counter_ns() if profiling else 0
                    observed = observers > 0
                    if observed:
                        mg_running = <PyObject*> node
                    run_rules(walk, node, g, targets, create_graph)
                    if observed:
                        mg_running = running
                    if profiling and started:
                        note_backward(node.op, started)
                g = None
            if not retain_graph:
                free_node(node)
        for leaf in walk.leaves:
            if walk.postponed:
                walk.settle(leaf)
            if leaf.hooks is not None and not stop_at_inputs:
                run_hooks_of_leaf(walk, leaf, create_graph)
        if inputs is None:
            commit(walk, create_graph)
        else:
            for leaf in walk.leaves:
                captured[id(leaf)] = walk.pending(leaf)
            if stop_at_inputs:              # for a rule, which is not a caller's: it takes what is shared
                captured = walk.cotangents
            result = [captured.get(id(edge_of(<Tensor> t))) for t in inputs]
            if not stop_at_inputs:
                captured.clear()
                own_all(walk, result, create_graph)
    finally:
        mg_recording = mode
        mg_running = running
        passes_running -= 1
        walk.end()
    return result


cdef Tensor own(Tensor g, bint create_graph):
    """g, or a copy if somebody else holds it or sees its memory. The Node that made g may save it as its
    output: that is a part of the graph of g, and notices a write."""
    if ours(<PyObject*> g):
        return g
    if (create_graph and Py_REFCNT(<PyObject*> g) == 1 and g.node is not None
            and Py_REFCNT(<PyObject*> g.array) == (2 if g.node.out is g.array else 1)
            and cnp.PyArray_CHKFLAGS(g.array, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_CARRAY)):
        return g
    if create_graph:
        return binary(<Op> by_opcode[<int> MULTIPLY], g, 1.0)
    return wrap(copied(g.array))


cdef void run_hooks_of_leaf(Walk walk, Tensor leaf, bint create_graph) except *:
    """As for a Node in `run_backward`: a hook gets a gradient that it may write to, or keep."""
    cdef Tensor g = walk.pending(leaf)
    walk.set_pending(leaf, None)
    g = own(g, create_graph)
    g = run_hooks(leaf.hooks, g)
    walk.set_pending(leaf, own(g, create_graph))


cdef void own_all(Walk walk, list gradients, bint create_graph) except *:
    """Make each gradient that is returned its caller's alone."""
    cdef Tensor g
    cdef Py_ssize_t i
    for leaf in walk.leaves:
        walk.set_pending(leaf, None)
    for i in range(len(gradients)):
        g = gradients[i]
        gradients[i] = None
        if g is not None:
            gradients[i] = own(g, create_graph)


cdef inline bint adds_in_place(Tensor gradient, Tensor g, bint create_graph):
    return (gradient is not None and not create_graph and not gradient.requires
            and alike(gradient.array, g.array) and cnp.PyArray_CHKFLAGS(gradient.array, cnp.NPY_ARRAY_CARRAY))


cdef void commit(Walk walk, bint create_graph) except *:
    """Move the cotangents into `.grad`: everything that can fail first, then the writes."""
    cdef Tensor target, g
    cdef list targets = list(walk.leaves), gradients = []
    cdef Py_ssize_t i
    for target in targets:
        g = walk.pending(target)
        walk.set_pending(target, None)
        gradients.append(g)
    if walk.retained is not None:
        for reference, g in walk.retained:
            target = reference()
            if target is not None:
                targets.append(target)
                gradients.append(g)
        walk.retained = None
    for i in range(len(targets)):
        target, g = targets[i], gradients[i]
        gradients[i] = None
        if target.gradient is not None and not adds_in_place(target.gradient, g, create_graph):
            g = add_tensors(target.gradient, g)
        elif target.gradient is None or not plain(g.array):
            g = own(g, create_graph)
        elif may_overlap(target.gradient.array, g.array):
            g = wrap(copied(g.array))
        gradients[i] = g
        g = None
    for i in range(len(targets)):
        target, g = targets[i], gradients[i]
        if adds_in_place(target.gradient, g, create_graph):
            add_in_place(target.gradient.array, g.array)
            count_write(target.gradient)
        else:
            target.gradient = g


def run_graph(list outputs, list grad_outputs, list inputs, bint retain_graph, bint create_graph,
              bint stop_at_inputs=False):
    """The engine behind `autograd.grad`: gradients of `inputs` (Tensors, or Nodes in their place), None
    where no way leads to one."""
    inputs = [stand_in(edge) for edge in inputs]
    for tensor in inputs:
        if not (<Tensor> tensor).requires:
            raise RuntimeError("grad: an input does not require grad; call x.requires_grad_() before it is "
                               "used")
    return run_backward(outputs, grad_outputs, inputs, retain_graph, create_graph, "grad", stop_at_inputs)


class RemovableHandle:
    """What `register_hook` returns; `remove()` takes the hook out again."""

    def __init__(self, hooks, hook):
        self._hooks, self._hook = hooks, hook

    def remove(self):
        """Remove the hook; a second call does nothing."""
        hooks, self._hooks = self._hooks, ()
        for i, hook in enumerate(hooks):
            if hook is self._hook:          # not ==, which may raise or mean something else
                del hooks[i]
                return


cdef object add_hook(list hooks, object hook):
    if not callable(hook):
        raise TypeError(f"register_hook: expected a function of the gradient, got {type(hook).__name__}")
    hooks.append(hook)
    return RemovableHandle(hooks, hook)
