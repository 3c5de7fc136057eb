# The profiler and the observers, which cost nothing while there are none; hooks; other threads.
cdef bint profiling = False
cdef int passes_running = 0             # counted, as passes may nest and run in several threads
cdef dict profile_rows = {}                 # name -> [calls, forward ns, backward ns, bytes]
cdef long long last_event = 0


cdef list profile_row(Op op):
    return profile_rows.setdefault(op.name, [0, 0, 0, 0])


cdef void note_forward(Op op, ndarray out):
    """Add the time since the last event to the row of `op`."""
    global last_event
    cdef long long now = perf_counter_ns()
    cdef list row
    if passes_running == 0:
        row = profile_row(op)
        row[0] += 1
        row[1] += now - last_event
        row[3] += PyArray_NBYTES(out)
    last_event = now


cdef int observers = 0                  # installed in any thread: while there are none they cost nothing


cdef inline void run_rules(Walk walk, Node node, Tensor g) except *:
    """`call_rules`; observers can ask whose rules run, and the profiler books their time on the Node."""
    if observers or profiling:
        run_rules_observed(walk, node, g)
    else:
        call_rules(walk, node, g)


cdef void run_rules_observed(Walk walk, Node node, Tensor g) except *:
    global mg_running, last_event
    cdef PyObject* running = mg_running
    cdef long long started = perf_counter_ns() if profiling else 0
    mg_running = <PyObject*> node
    try:
        call_rules(walk, node, g)
    finally:
        mg_running = running
    if profiling and started:
        last_event = perf_counter_ns()
        profile_row(node.op)[2] += last_event - started


cdef object swap_observer(PyObject** slot, object function):
    global observers
    previous = None
    if slot[0] != NULL:
        previous = <object> slot[0]
        Py_DECREF(previous)
        observers -= 1
    slot[0] = NULL
    if function is not None:
        Py_INCREF(function)
        slot[0] = <PyObject*> function
        observers += 1
    return previous


def observe(function: Observer | None) -> Observer | None:
    """Have `function(name, inputs, attributes, output)` called after every primitive in this thread; None
    ends it. Returns the function that was called before. The rules of a backward are seen too; then
    `running_node()` tells whose."""
    return swap_observer(&mg_observer, function)


def observe_writes(function: Callable[[Tensor], object] | None) -> Callable[[Tensor], object] | None:
    """As `observe`: have `function(tensor)` called before every write in place to a Tensor."""
    return swap_observer(&mg_write_observer, function)


def announce(str name, tuple inputs, dict attributes, output: Tensor) -> None:
    """Tell who observes this thread, if anybody does, of a primitive, or of what acts as one."""
    if mg_observer != NULL:
        (<object> mg_observer)(name, inputs, attributes, output)


cdef bint observed():                   # those told of writes alone miss nothing
    return mg_observer != NULL


cdef void announce_write(Tensor target) except *:
    if mg_write_observer != NULL:
        (<object> mg_write_observer)(target)


def running_node() -> Node | None:
    """The Node whose rules run in this thread, None outside of backward; known while there are observers."""
    return None if mg_running == NULL else <object> mg_running


def set_running(Node node: Node | None) -> Node | None:
    """Have `running_node()` say this, for a rule that runs a forward; returns what it said. The caller puts
    that back, and holds the Node until then."""
    global mg_running
    previous = running_node()
    mg_running = NULL if node is None else <PyObject*> node
    return previous


def profile_engine(bint on) -> dict[str, list[int]]:
    """Switch the profiler; returns what it gathered: {name: [calls, forward ns, backward ns, bytes]}."""
    global profiling, profile_rows, last_event
    gathered, profile_rows = profile_rows, {}
    profiling, last_event = on, perf_counter_ns()
    return gathered


# ------------------------------------------------------------------ hooks
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


class RemovableHandle:
    """What `register_hook` returns; `remove()` takes the hook out again."""

    def __init__(self, hooks: list[Callable[..., Any]], hook: Callable[..., Any]) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
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


# ------------------------------------------------------------------ other threads
cdef void let_others_run(Walk walk) noexcept:
    """Release the GIL for a moment if it was held for 1.5 times CPython's switch interval. A thread that
    waits asks for it after one interval, and only then is sure to get it."""
    cdef long long now = perf_counter_ns()
    cdef PyThreadState* thread
    if walk.held == 0:
        walk.held, walk.interval = now, <long long> (1.5e9 * <double> getswitchinterval())
    elif now - walk.held >= walk.interval:
        thread = PyEval_SaveThread()
        PyEval_RestoreThread(thread)
        walk.held = perf_counter_ns()
