# Three shortcuts of a backward pass that is not recorded. Each replaces a rule and a sum, and is registered
# with the primitive (`Op.faster`): the parts of a tensor are added into one array (`deliver_part`), the
# products for a weight are merged (`postpone`), and the product of a broadcast input is summed as it is
# computed.
cdef Shortcut PARTS = Shortcut("parts added in place"), SUMS = Shortcut("postponed sums of products")
cdef Shortcut SUMMED = Shortcut("products summed as they are made")

cdef enum:
    LONG_SUM = 256              # terms of a merged product; more would gain little


@cython.final
@cython.auto_pickle(False)
cdef class Faster:
    """The shortcuts of a primitive in a pass that is not recorded."""


cdef Faster beside_rules(Op op):
    if op.faster is None:
        op.faster = Faster.__new__(Faster)
    return op.faster


def faster_rules(Op op, Shortcut shortcut, *rules: Callable[..., Any]) -> None:
    """Register rules that replace those of an Op, with the same parameters. A rule that does not apply
    returns None; then the usual one runs."""
    beside_rules(op).rules, op.faster.shortcut = rules, shortcut


cdef object call_faster(Op op, int rule, PyObject** arguments):
    """The result of the faster rule; None if there is none, it is off, or it does not apply."""
    if op.faster.rules is None or not op.faster.shortcut.taken():
        return None
    return PyObject_Vectorcall(op.faster.rules[rule], arguments, op.arguments[rule], NULL)


cdef bint deliver_faster(Walk walk, Node node, int i, object target, Tensor g) except *:
    """Deliver the gradient of input i without its rule. Returns whether that was possible."""
    cdef Op op = node.op
    cdef Faster faster = op.faster
    cdef Tensor result
    cdef object factor
    if faster.add_part != NULL and PARTS.taken():
        deliver_part(walk, target, op, g, node.shape, node.attributes)
        return True
    if i > 1:
        return False
    factor = node.y if i == 0 else node.x
    if faster.sums is not None and faster.sums[i] is not None and SUMS.taken():
        return postpone(walk, target, op, i, g, factor)
    if faster.summed_gradient != NULL and node.broadcast and node.repeated[i] and SUMMED.taken():
        result = faster.summed_gradient(g, factor, node.repeated[i], node.extra[i])
        if result is not None:
            deliver(walk, target, result)
            return True
    return False


cdef void deliver_part(Walk walk, object target, Op op, Tensor part, tuple shape,
                       tuple attributes) except *:
    """Like `deliver`, for the cotangent of some elements of a target of this shape. If a tensor was split (a
    sequence into steps, a block into gates), the parts are added into one array; the rule would expand each
    to a whole array, zero outside the part."""
    cdef Tensor whole = walk.pending(target)
    if whole is None:
        whole = wrap(zeros_of(shape, PyArray_TYPE(part.array)))
        deliver(walk, target, whole)
    elif not ours(<PyObject*> whole, 2):    # as in `deliver`
        whole = wrap(copied(whole.array))
        walk.set_pending(target, whole)
    op.faster.add_part(whole.array, part.array, attributes)


cdef bint postpone(Walk walk, object target, Op op, int i, Tensor g, object factor) except *:
    """Keep the factors of a product to be added to the pending cotangent of the target, so that one large
    product replaces those of many steps. Returns whether that is possible."""
    cdef npy_intp terms = PyArray_DIMS(g.array)[1 - i] if PyArray_NDIM(g.array) == 2 else LONG_SUM
    if (terms >= LONG_SUM or PyArray_NDIM((<Tensor> factor).array) != 2
            or walk.pending(target) is None or walk.ends is not None):
        return False
    entry = walk.postponed.get(id(target))
    if entry is not None and (entry[0] is not op or entry[1] != i or entry[2] + terms > LONG_SUM):
        settle(walk, target)
        entry = None
    if entry is None:
        entry = walk.postponed[id(target)] = [op, i, 0, [], [], []]
    entry[2] += terms
    for kept, value in zip(entry[3:], (g, factor, version_of(factor))):
        kept.append(value)
    return True


cdef void settle(Walk walk, object target) except *:
    """Multiply and deliver the postponed products of a target."""
    entry = walk.postponed.pop(id(target), None)
    if entry is None:
        return
    op, i, _, cotangents, factors, versions = entry
    for factor, version in zip(factors, versions):
        if version_of(factor) != version:
            raise RuntimeError(f"{(<Op> op).name}: an input of shape {factor.shape} was written to in a "
                               "hook, before its product was computed; write to a copy, x.clone()")
    deliver(walk, target, (<Op> op).faster.sums[i](cotangents, factors))
