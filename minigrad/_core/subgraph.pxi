# Access to the graph for Function, checkpoint, derived formulas and mg.func.
def attach_op(Op op not None, Tensor values not None, tuple inputs, tuple attributes) -> Tensor:
    """A Tensor on the memory of `values`, made by `op` from the inputs: Tensors, or Nodes, which stand for
    what they made. Nobody is told; see `announce`."""
    cdef Tensor tensor = wrap(values.array)
    cdef tuple given = tuple([stand_in(edge) for edge in inputs])
    tensor.version = shared_version(values)
    attach(tensor, op, values.array, given[0], given[1] if len(given) > 1 else None,
           given[2:] if len(given) > 2 else None, attributes)
    return tensor


cdef Tensor stand_in(object edge):
    """A Tensor, or for a Node one without values at the same place in the graph."""
    cdef Tensor tensor
    if isinstance(edge, Tensor):
        return edge
    tensor = wrap(NOTHING)
    tensor.node = <Node?> edge
    tensor.requires = True
    return tensor


def count_nodes() -> int:
    """How many Nodes were made so far; a Node made later has a larger `number`."""
    return node_count


def edges_below(list outputs: list[Tensor], unsigned long long since) -> list[Node | Tensor]:
    """Where the graph that was made after the first `since` Nodes ends below these Tensors: a list of
    leaves, and of older Nodes."""
    cdef list queue = [edge_of(<Tensor?> t) for t in outputs if (<Tensor?> t).requires], found = []
    cdef set seen = set()
    cdef int i
    cdef Node node
    for below in queue:                     # it grows on the way
        if id(below) in seen:
            continue
        seen.add(id(below))
        if type(below) is not Node or (<Node> below).number <= since:
            found.append(below)
            continue
        node = <Node> below
        check_whole(node)
        for i in range(input_count(node)):
            below = edge(node, i)
            if below is not None:
                queue.append(below)
    return found


def run_graph(list outputs: list[Tensor], list grad_outputs: list[Tensor | None],
              list inputs: list[Tensor] | list[Node | Tensor], bint retain_graph, bint create_graph,
              bint stop_at_inputs=False) -> list[Tensor | None]:
    """The engine behind `autograd.grad`: gradients of `inputs` (Tensors, or Nodes in their place), None
    where no way leads to one."""
    inputs = [stand_in(edge) for edge in inputs]
    for tensor in inputs:
        if not (<Tensor> tensor).requires:
            raise RuntimeError("grad: an input does not require grad; call x.requires_grad_() before it is "
                               "used")
    return run_backward(outputs, grad_outputs, inputs, retain_graph, create_graph, "grad", stop_at_inputs)


def slopes_of(function: Callable[..., Any], list tensors: list[Tensor], list wanted: list[bool],
              list cotangents: list[Tensor]) -> list[Tensor | None]:
    """The gradients of the wanted inputs of a function, None for the others, from the cotangents of its first
    outputs; recorded if recording is on. The rule of an operation that has the function as its definition."""
    cdef Tensor tensor
    cdef bint recorded = recording()
    cdef list given = []
    set_recording(True)
    try:
        for tensor, needed in zip(tensors, wanted):     # one may be given twice, or frozen by now
            tensor = tensor[...] if tensor.requires else wrap(tensor.array)
            tensor.requires |= <bint> needed
            given.append(tensor)
        outputs = function(*given)
    finally:
        set_recording(recorded)
    outputs = list(outputs[:len(cotangents)]) if type(outputs) is tuple else [outputs]
    found = iter(run_graph(outputs, cotangents, [t for t, needed in zip(given, wanted) if needed], True,
                           recorded, True))
    return [next(found) if needed else None for needed in wanted]
