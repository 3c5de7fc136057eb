# The Nodes of one backward pass, and its state.
cdef struct Entry:
    unsigned long long number
    PyObject* node


cdef int newest_first(const void* a, const void* b) noexcept nogil:
    cdef unsigned long long x = (<Entry*> a).number, y = (<Entry*> b).number
    return -1 if x > y else x < y


cdef unsigned long long pass_count = 0
cdef bint fields_taken = False              # a running pass uses the fields of the Nodes and leaves


@cython.final
@cython.internal
cdef class Walk:
    """The Nodes of one backward pass, newest first; holds a reference to each until it ends.

    Cotangents accumulate in a field of their Node or leaf, which is fastest. A pass that starts while
    another one runs (in a hook, in another thread), or that stops at its inputs, is private: it keeps its
    state in dictionaries."""
    cdef Entry* entries
    cdef Py_ssize_t count, capacity
    cdef unsigned long long mark            # of this pass, in the Nodes that it has found
    cdef bint create_graph                  # the pass is recorded itself
    cdef set targets                        # ids of the Nodes and leaves asked for, or None for all leaves
    cdef dict captured                      # id -> gradient of those that are Nodes
    cdef list leaves                        # leaf Tensors that a cotangent reached
    cdef list retained                      # (weak reference, gradient) for retain_grad
    cdef set ends                           # ids of Nodes and leaves where the pass ends, or None
    cdef dict postponed                     # id -> [op, input, terms, cotangents, factors, their versions]
    cdef bint private
    cdef dict cotangents                    # id -> cotangent, where this walk is private
    cdef set seen, useful                   # ids of Nodes, likewise
    cdef long long held, interval           # start and allowed time of holding the GIL, in ns

    def __cinit__(self, set targets, bint create_graph, bint stop_at_targets):
        global pass_count, fields_taken
        pass_count += 1
        self.mark = pass_count
        self.targets, self.create_graph = targets, create_graph
        self.captured, self.leaves, self.retained, self.postponed = {}, [], [], {}
        self.ends = targets if stop_at_targets else None
        self.private = fields_taken or stop_at_targets
        if self.private:
            self.cotangents, self.seen, self.useful = {}, set(), set()
        else:
            fields_taken = True

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

    cdef inline Tensor take(self, object target):
        """The pending cotangent of a Node or leaf, which then has none."""
        cdef Tensor cotangent = self.pending(target)
        self.set_pending(target, None)
        return cotangent

    cdef inline bint is_useful(self, Node node):
        return id(node) in self.useful if self.private else node.useful

    cdef inline bint leads_on(self, object target):
        """Whether a gradient is wanted at or below this Node or leaf."""
        return (self.targets is None or id(target) in self.targets
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

    cdef void collect(self, list roots) except *:
        """Add everything below these Tensors; the entries are their own queue."""
        cdef Py_ssize_t i = 0
        cdef bint ordered = True
        cdef int k
        cdef Node node
        cdef Tensor root
        for root in roots:
            if root.node is not None:
                self.add(root.node)
        while i < self.count:
            node = self.visit(i)
            ordered = ordered and (i == 0 or self.entries[i - 1].number > node.number)
            for k in range(input_count(node)):
                below = edge(node, k)
                if type(below) is Node:
                    self.add(<Node> below)
            i += 1
        if not ordered:
            qsort(self.entries, self.count, sizeof(Entry), newest_first)
        if self.targets is not None:
            self.mark_useful()

    cdef inline Node visit(self, Py_ssize_t i):
        """Entry i; after `collect` the i-th newest Node. Between Nodes, signals are handled and other threads
        run."""
        if i & 15 == 0:
            PyErr_CheckSignals()
        if i & 63 == 63:
            let_others_run(self)
        return <Node> self.entries[i].node

    cdef void mark_useful(self) except *:
        """Mark the Nodes on a path to a target, oldest first; only these need to run."""
        cdef Py_ssize_t i
        cdef int k
        cdef Node node
        for i in reversed(range(self.count)):
            node = self.visit(i)
            for k in range(input_count(node)):
                below = edge(node, k)
                if below is not None and self.leads_on(below):
                    if self.private:
                        self.useful.add(id(node))
                    else:
                        node.useful = True

    cdef void end(self):
        """Drop every pending cotangent, release the Nodes, and leave the fields to the next pass."""
        global fields_taken
        cdef Node node
        while self.count > 0:
            self.count -= 1
            node = <Node> self.entries[self.count].node
            if not self.private:
                node.cotangent = None
            Py_DECREF(node)
            if self.count & 1023 == 1023:
                let_others_run(self)
        PyMem_Free(self.entries)
        if not self.private:
            for leaf in self.leaves:
                (<Tensor> leaf).cotangent = None
            fields_taken = False
