# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Optimiser steps: the loop of a rule over a parameter, its gradient and its state.

Design note
-----------
1. This file knows parameters, their gradients and the arrays of their state. It must not know
   defaults and ranges, or how groups and checkpoints work: that is `optim/`. Nor does it know any rule:
   steps.py writes their loops and a table of them, from formulas.py.
2. A rule gets its options as numbers in the order of the table. `prepare` makes the coefficients of its
   loop, once for all parameters that have taken equally many steps. The loop runs over contiguous memory,
   in float or double. An array of state that the options do without is NULL.
3. `apply_updates` is one compiled call for a whole step. It first looks at every parameter and its
   state, and only then writes to the first: whatever can fail leaves everything as it was. Beside the
   loops it takes 3,000 instructions (0.2 us) for a parameter; gathering in Python took 7,000.
4. State stays where checkpoints and users see it, in a dict of arrays for each parameter: looking it up
   costs 20 ns an array, and nothing is cached that could go stale.
5. A parameter with an attribute `active` has members along its first axis: `nn.Ensemble`. Members that are
   not active stay as they are, and `lr` may be an array with a rate for each.
"""
cimport cython
cimport numpy as cnp
from libc.string cimport memcpy
from numpy cimport (NPY_DOUBLE, PyArray_DIMS, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, ndarray,
                    npy_intp)

from .accelerate cimport Shortcut
from .loops cimport contiguous, copied, may_overlap, share_work, start_of, vector
from ..engine.graph cimport Tensor, Version, shared_version

from sys import intern
import numpy as np

from .. import formulas

cnp.import_array()

cdef Shortcut LOOPS = Shortcut("loops of the optimisers")

cdef extern from "Python.h":
    void* _PyType_Lookup(type kind, object name)    # unlike hasattr, it raises nothing on its way

cdef extern from "clones.h": pass
cdef extern from "vecmath.h": pass
cdef extern from "derived.h" nogil:
    ctypedef void (*MG_Step)(void** arrays, double* numbers, npy_intp start, npy_intp stop) noexcept
    ctypedef struct MG_Rule:
        const char* name
        const char* options
        int arrays, optional, scalars, numbers, fresh
        void (*prepare)(double* given, double* numbers) noexcept
        MG_Step loops[2]

cdef extern from "../generated/steps.h":
    const MG_Rule mg_rules[]
    enum: MG_ARRAYS, MG_NUMBERS

cdef dict RULES = {}    # name -> its place in the table, and the names of its options, fast to look up
cdef int place = 0
while mg_rules[place].name != NULL:
    RULES[mg_rules[place].name.decode()] = place, tuple(map(intern, mg_rules[place].options.decode().split()))
    place += 1


# ------------------------------------------------------------------------------------------- loops
cdef struct Work:               # of one parameter, divided among threads
    MG_Step loop
    void** arrays
    double* numbers
    npy_intp n


cdef void loop_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """The loop on a part of the elements."""
    cdef Work* work = <Work*> data
    work.loop(work.arrays, work.numbers, start_of(part, parts, work.n), start_of(part + 1, parts, work.n))


# ------------------------------------------------------------------------------------------ driver
@cython.final
@cython.freelist(8)
cdef class Update:
    """A rule with its options: `update(parameter, gradient, state)` is one step, in place on arrays.

    rule: the name of its formula, in any case. names: those of its numbers of state, the first of which
    counts the steps, and then of its arrays of state, None for one that the options do not need. group: a
    dict of options; a missing option is 0.
    """
    cdef const MG_Rule* rule
    cdef str kind
    cdef tuple names, options
    cdef bint stateful, prepared
    cdef ndarray rates          # one for each member of a stacked parameter; None if there is one for all
    cdef int end                # of the options
    cdef double given[MG_NUMBERS]           # options, lr first; `fresh`; numbers of state
    cdef double numbers[MG_NUMBERS]         # of the loop, and then the new ones of state, if `prepared`

    def __init__(self, str rule not None, tuple names not None: tuple[str | None, ...],
                 dict group not None) -> None:
        cdef int i
        if rule not in RULES and rule.lower() in RULES:
            RULES[rule] = RULES[rule.lower()]
        i, self.options = RULES[rule]
        self.rule, self.names, self.kind = &mg_rules[i], names, rule
        self.stateful, self.prepared = any(names), False
        i = self.rule.scalars + self.rule.arrays
        if len(names) != i:
            raise ValueError(f"{rule}: expected {i} names, got {len(names)}")
        for i in range(i):
            if names[i] is None and not (self.rule.optional << self.rule.scalars) >> i & 1:
                raise ValueError(f"{rule}: cannot do without part {i} of its state, got {names}")
        i = 0
        for name in self.options:
            value = group.get(name, 0)
            if i == 0 and isinstance(value, ndarray):
                self.rates, value = value, 0
            try:
                if name == "betas":
                    self.given[i], value = value
                    i += 1
                self.given[i] = value
            except TypeError:
                raise TypeError(f"{rule}: {name} must be a number, got {value!r}") from None
            i += 1
        self.end = i

    cdef void give(self, int i, double number) noexcept:
        if self.given[i] != number:
            self.given[i], self.prepared = number, False

    cdef void prepare(self, Job job) noexcept:
        """The numbers of the loop, which are often those of the last parameter."""
        cdef int i
        self.give(self.end, job.fresh)
        for i in range(self.rule.scalars):
            self.give(self.end + 1 + i, job.scalars[i])
        if not self.prepared:
            self.rule.prepare(self.given, self.numbers)
        self.prepared = True

    def __call__(self, ndarray parameter not None, ndarray gradient not None, dict state not None) -> None:
        cdef Job job = Job.__new__(Job)
        job.array, job.gradient, job.state, job.update = parameter, gradient, state, self
        prepare_state(job)
        run(job)
        keep_state(job)


@cython.final
@cython.freelist(64)
cdef class Job:                 # one parameter in one step
    cdef Tensor parameter
    cdef ndarray array, gradient
    cdef ndarray active         # of a stacked parameter; None for all others
    cdef dict state             # None if it has none yet
    cdef object rule            # in the place of an update, a function (array, gradient, state)
    cdef Update update
    cdef list owned             # keeps the arrays of state alive
    cdef void* data[MG_ARRAYS]  # of the parameter, its gradient and its state
    cdef double scalars[MG_ARRAYS]
    cdef bint fresh             # an array of state is new
    cdef bint converted         # they had the former dtype of the parameter


cdef void prepare_state(Job job) except *:
    """Look up or create the state: everything that can fail."""
    cdef Update update = job.update
    cdef int i
    job.data[0] = vector(job.array, job.array, True, "the parameter")
    job.data[1] = vector(job.gradient, job.array, False, "the gradient")
    if update.rates is not None and (job.active is None or len(update.rates) != len(job.active)):
        shape = tuple([PyArray_DIMS(job.array)[k] for k in range(PyArray_NDIM(job.array))])
        raise ValueError(f"{update.kind}: {len(update.rates)} learning rates for a parameter of shape "
                         f"{shape}: expected one, or one for each member of an nn.Ensemble")
    job.fresh = job.converted = False
    job.owned = []
    for i in range(update.rule.scalars):
        value = None if job.state is None else job.state.get(update.names[i])
        job.scalars[i] = i if value is None else value      # counts start at 0, products at 1
    for i in range(update.rule.arrays):
        job.data[2 + i] = NULL
        name = update.names[update.rule.scalars + i]
        if name is None:
            continue
        array = None if job.state is None else job.state.get(name)
        if array is None:
            array = cnp.PyArray_ZEROS(PyArray_NDIM(job.array), PyArray_DIMS(job.array),
                                      PyArray_TYPE(job.array), 0)
            job.fresh = True
        if not isinstance(array, ndarray):
            raise TypeError(f"update: {name} must be an array, got {type(array).__name__}")
        if PyArray_TYPE(<ndarray> array) != PyArray_TYPE(job.array):
            if i == 0:      # the arrays of a state share one dtype, which `Module.to` does not change
                job.converted = cnp.PyArray_ISFLOAT(<ndarray> array)
            if job.converted:
                array = array.astype(job.array.dtype)
        job.owned.append(array)
        job.data[2 + i] = vector(<ndarray> array, job.array, True, name)


cdef void run(Job job) except *:
    cdef Update update = job.update
    cdef npy_intp n = PyArray_SIZE(job.array), member, members = 1 if job.active is None else len(job.active)
    cdef bint fast = LOOPS.taken()
    cdef double copy[MG_NUMBERS]
    cdef Work work
    cdef int i
    if update.rule.scalars:
        job.scalars[0] += 1
    work.loop, work.n = update.rule.loops[PyArray_TYPE(job.array) == NPY_DOUBLE], n
    work.arrays, work.numbers = job.data, update.numbers
    update.prepare(job)
    if n > 1024:        # a large loop lets other threads run, and they may run this Update
        work.numbers = <double*> memcpy(copy, update.numbers, sizeof(copy))
    for member in range(members):
        if job.active is not None and not job.active[member]:
            continue
        if update.rates is not None:
            update.give(0, update.rates[member])
            update.prepare(job)
        if not fast:
            run_formula(job, slice(None) if job.active is None else slice(member, member + 1))
        elif job.active is None:
            share_work(n, n, loop_part, &work)
        else:
            work.loop(job.data, update.numbers, n // members * member, n // members * (member + 1))
    for i in range(1, update.rule.scalars):
        job.scalars[i] = work.numbers[update.rule.numbers + i - 1]


cdef void run_formula(Job job, object part) except *:
    """The rule by its formula, on a part of the arrays."""
    cdef Update update = job.update
    cdef int i
    given = iter([update.given[i] for i in range(update.end + 1 + update.rule.scalars)])
    options = {name: (next(given), next(given)) if name == "betas" else next(given)
               for name in (*update.options, "fresh")}
    if not update.rule.fresh:
        del options["fresh"]
    owned = iter(job.owned)
    array, gradient, *state = [
        a if a is None or a.ndim == 0 else a[part] for a in (job.array, job.gradient, *(
            None if name is None else next(owned) for name in update.names[update.rule.scalars:]))]
    with np.errstate(all="ignore"):
        gradient = -gradient if options.pop("maximize") else gradient
        after = getattr(formulas, update.kind.lower())(array, gradient, *state, *given, **options)
    for target, value in zip([array, *state], after):
        if target is not None:
            target[...] = value


cdef void keep_state(Job job) except *:
    cdef Update update = job.update
    cdef Py_ssize_t i = 0
    for i in range(update.rule.scalars):
        job.state[update.names[i]] = <long long> job.scalars[i] if i == 0 else job.scalars[i]
    if job.fresh or job.converted:
        names = [name for name in update.names[update.rule.scalars:] if name is not None]
        job.state.update(zip(names, job.owned))


def apply_updates(list groups not None: list[dict[str, Any]],
                  list rules not None: list[Callable[[NDArray[Any], NDArray[Any], dict[str, Any]], None]],
                  dict states not None: dict[Tensor, dict[str, Any]], str owner) -> None:
    """One step: apply `rules[i]`, an Update or a similar function, to every parameter of `groups[i]` with a
    gradient. `states` holds their state. Raises ValueError for a read-only parameter, before any write."""
    cdef Tensor parameter
    cdef Version version
    cdef Job job
    cdef Py_ssize_t i
    cdef list jobs = []
    cdef object kind = None     # of the last parameter
    cdef bint stacked = False
    for i in range(len(groups)):
        rule = rules[i]
        for parameter in <list?> groups[i]["params"]:
            if parameter is None:
                raise TypeError(f"{owner}: a parameter must be a Tensor, got None")
            if parameter.gradient is None:
                continue
            if not cnp.PyArray_ISWRITEABLE(parameter.array):
                raise ValueError(
                    f"{owner}: a parameter of shape {parameter.shape} shares read-only memory and cannot be "
                    "updated; create it from a copy: mg.tensor(array, requires_grad=True)")
            job = Job.__new__(Job)
            job.parameter = parameter
            job.array, job.gradient = contiguous(parameter.array), contiguous(parameter.gradient.array)
            if may_overlap(job.gradient, job.array):
                job.gradient = copied(job.gradient)
            if type(parameter) is not kind:
                kind, stacked = type(parameter), _PyType_Lookup(type(parameter), "active") != NULL
            if stacked:
                job.active = parameter.active
            job.state = states.get(parameter)
            if type(rule) is Update:
                job.update = rule
                prepare_state(job)
            elif stacked and not job.active.all():
                raise ValueError(f"{owner}: a stopped member of an nn.Ensemble needs an optimiser with a "
                                 "compiled rule, such as Adam")
            else:
                job.rule = rule
            jobs.append(job)
    for job in jobs:
        parameter = job.parameter
        if job.state is None and (job.update is None or job.update.stateful):
            job.state = states[parameter] = {}
        if job.update is None:
            job.rule(job.array, job.gradient, job.state)
        else:
            run(job)
            keep_state(job)
        if job.array is not parameter.array:
            cnp.PyArray_CopyInto(parameter.array, job.array)
        version = shared_version(parameter)
        version.value += 1


def drop_gradients(list groups not None: list[dict[str, Any]]) -> None:
    """Set the `.grad` of every parameter of the groups to None."""
    cdef Tensor parameter
    for group in groups:
        for parameter in <list?> group["params"]:
            if parameter is not None:
                parameter.gradient = None
