# Gradients during a pass: ownership, addition, and the commit to `.grad`.
cdef inline bint ours(PyObject* tensor, Py_ssize_t references=1):
    """Whether there are no references to this gradient and its memory but ours, so it may be written to.
    (A borrowed pointer, because a Cython argument would hold a reference of its own.)"""
    return (Py_REFCNT(tensor) == references and Py_REFCNT(<PyObject*> (<Tensor> tensor).array) == 1
            and (<Tensor> tensor).node is None and (<Tensor> tensor).version is None
            and cnp.PyArray_CHKFLAGS((<Tensor> tensor).array, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_CARRAY))


cdef Tensor own(Tensor g, bint create_graph):
    """g, or a copy if g or its memory is shared. The Node that computed g may have saved it as its output:
    that belongs to the graph of g, and detects a write."""
    if ours(<PyObject*> g):
        return g
    if (create_graph and Py_REFCNT(<PyObject*> g) == 1 and g.node is not None
            and Py_REFCNT(<PyObject*> g.array) == (2 if g.node.out is g.array else 1)
            and cnp.PyArray_CHKFLAGS(g.array, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_CARRAY)):
        return g
    if create_graph:
        return attach_op(ALIAS, wrap(copied(g.array)), (g,), None)
    return wrap(copied(g.array))


cdef list gradients_of(Walk walk, list inputs, bint for_a_rule):
    """The gradients of the inputs. The caller becomes their only owner; a rule may get shared ones."""
    cdef Tensor g
    cdef Py_ssize_t i
    cdef dict found = walk.cotangents if for_a_rule else walk.captured
    cdef list gradients
    for leaf in walk.leaves:
        found[id(leaf)] = walk.take(leaf)
    gradients = [found.get(id(edge_of(<Tensor> t))) for t in inputs]
    if for_a_rule:
        return gradients
    found.clear()
    for i in range(len(gradients)):
        g = gradients[i]
        gradients[i] = None
        if g is not None:
            gradients[i] = own(g, walk.create_graph)
    return gradients


cdef inline bint adds_in_place(Tensor total, Tensor g, bint create_graph):
    """Whether g may be added to the array of `total`."""
    return (not create_graph and not total.requires and alike(total.array, g.array)
            and cnp.PyArray_CHKFLAGS(total.array, cnp.NPY_ARRAY_CARRAY))


cdef void commit(Walk walk) except *:
    """Move the cotangents into `.grad`: everything that can fail first, then the writes."""
    cdef Tensor target, g
    cdef list targets = list(walk.leaves), gradients = [walk.take(leaf) for leaf in targets]
    cdef Py_ssize_t i
    cdef bint create_graph = walk.create_graph
    for reference, g in walk.retained:
        target = reference()
        if target is not None:
            targets.append(target)
            gradients.append(g)
    walk.retained.clear()
    for i in range(len(targets)):
        target, g = targets[i], gradients[i]
        gradients[i] = None                 # so that `own` sees a single reference
        if target.gradient is None:
            g = own(g, create_graph)
        elif not adds_in_place(target.gradient, g, create_graph):
            g = target.gradient + g
        elif not plain(g.array) or may_overlap(target.gradient.array, g.array):
            g = wrap(copied(g.array))
        gradients[i] = g
        g = None
    for i in range(len(targets)):
        target, g = targets[i], gradients[i]
        if target.gradient is not None and adds_in_place(target.gradient, g, create_graph):
            add_in_place(target.gradient.array, g.array)
            count_write(target.gradient)
        else:
            target.gradient = g
