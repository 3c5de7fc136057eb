# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Optimiser steps: each rule is one loop over a parameter, its gradient and its state.

Design note
-----------
1. This file knows parameters, their gradients and the arrays of their state. It must not know
   defaults and ranges, or how groups and checkpoints work: that is `optim/`.
2. A rule is one function below. It gets its options as numbers in the order in which RULES names them,
   makes its coefficients in double, and runs one fused loop over contiguous memory, in float or
   double. An array of state that the options do without is NULL.
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
from cython cimport floating
from libc.math cimport NAN, pow, sqrt
from numpy cimport (NPY_DOUBLE, PyArray_DATA, PyArray_DIMS, PyArray_NDIM, PyArray_SIZE,
                    PyArray_TYPE, ndarray, npy_intp)

from .accelerate cimport Shortcut
from .loops cimport contiguous, copied, may_overlap, share_work, start_of, vector
from ..engine.graph cimport Tensor, Version, shared_version

import numpy as np

from .. import formulas

cnp.import_array()

cdef Shortcut LOOPS = Shortcut("loops of the optimisers")

cdef extern from "Python.h":
    void* _PyType_Lookup(type kind, object name)    # unlike hasattr, it raises nothing on its way

cdef extern from "clones.h" nogil:
    ctypedef void cloned "MG_CLONED void"

cdef extern from * nogil:
    """
    #define mg_sqrt(x) _Generic((x), float: sqrtf, double: sqrt)(x)
    """
    double mg_sqrt(double)

cdef enum:
    MAX_ARRAYS = 3
    MAX_SCALARS = 2
    CORRECTIONS = MAX_SCALARS   # 1 - beta ** step, for both betas, follow the numbers of state
    MAX_OPTIONS = 8

cdef enum Rule:
    SGD, ADAM, ADAMW, NADAM, RADAM, RMSPROP, ADAGRAD, LION, SCHEDULE_FREE

# name -> rule, number of numbers and of arrays in its state, options (betas are two numbers)
cdef tuple ADAM_OPTIONS = ("lr", "betas", "eps", "weight_decay", "maximize", "decoupled_weight_decay")
cdef dict RULES = {
    "SGD": (SGD, 0, 1, ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")),
    "Adam": (ADAM, 1, 3, ADAM_OPTIONS),
    "AdamW": (ADAMW, 1, 3, ADAM_OPTIONS),
    "NAdam": (NADAM, 2, 2, ADAM_OPTIONS + ("momentum_decay",)),
    "RAdam": (RADAM, 1, 2, ADAM_OPTIONS),
    "RMSprop": (RMSPROP, 1, 3, ("lr", "alpha", "eps", "weight_decay", "momentum", "maximize")),
    "Adagrad": (ADAGRAD, 1, 1, ("lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value",
                                "maximize")),
    "Lion": (LION, 0, 1, ("lr", "betas", "weight_decay", "maximize")),
    "ScheduleFree": (SCHEDULE_FREE, 0, 2, ("lr", "momentum", "weight_decay", "maximize", "share", "beta2",
                                           "eps", "correction")),
}


# ------------------------------------------------------------------------------------------- rules
# p: parameter, d: gradient; state arrays are named as in the papers; o: options; t: numbers of state (the
# first is the step, from 1) and the CORRECTIONS; fresh: the last array of state was zeros before this step

cdef cloned sgd(floating* p, floating* d, floating* velocity, Py_ssize_t n, double* o,
                bint fresh) noexcept nogil:
    cdef floating lr = o[0], momentum = o[1], weight_decay = o[3], sign = -1 if o[5] else 1
    cdef floating keep = 1 if fresh else 1 - o[2], g, v
    cdef bint nesterov = o[4] != 0
    cdef Py_ssize_t i
    if velocity == NULL:
        for i in range(n): p[i] -= lr * (sign * d[i] + weight_decay * p[i])
    else:
        for i in range(n):
            g = sign * d[i] + weight_decay * p[i]
            v = momentum * velocity[i] + keep * g
            velocity[i] = v
            p[i] -= lr * (g + momentum * v if nesterov else v)


cdef cloned adam(floating* p, floating* d, floating* first, floating* second, floating* largest,
                 Py_ssize_t n, double* o, double* t, bint decoupled) noexcept nogil:
    cdef double lr = o[0]
    cdef floating gain1 = 1 - o[1], beta2 = o[2], gain2 = 1 - o[2], eps = o[3], sign = -1 if o[5] else 1
    cdef floating l2 = 0 if decoupled else o[4], decay = 1 - lr * o[4] if decoupled else 1
    cdef floating step_size = lr / t[CORRECTIONS], root = 1 / sqrt(t[CORRECTIONS + 1])
    cdef floating g, m, v, u
    cdef Py_ssize_t i
    if largest == NULL:
        for i in range(n):
            g = sign * d[i] + l2 * p[i]
            m = first[i] + (g - first[i]) * gain1
            v = beta2 * second[i] + gain2 * g * g
            first[i] = m
            second[i] = v
            p[i] = decay * p[i] - step_size * m / (<floating> mg_sqrt(v) * root + eps)
    else:
        for i in range(n):
            g = sign * d[i] + l2 * p[i]
            m = first[i] + (g - first[i]) * gain1
            v = beta2 * second[i] + gain2 * g * g
            first[i] = m
            second[i] = v
            u = largest[i]
            u = v if (v > u) | (v != v) else u      # a NaN wins (`|`, because `or` would be a branch)
            largest[i] = u
            p[i] = decay * p[i] - step_size * m / (<floating> mg_sqrt(u) * root + eps)


cdef cloned along(floating* p, floating* d, floating* first, floating* second, Py_ssize_t n, double* o,
                  double by_gradient, double by_mean, double root_of_mean, bint adaptive) noexcept nogil:
    """A step along the gradient and its mean, by these factors; adaptive: over the root mean square."""
    cdef floating gain1 = 1 - o[1], beta2 = o[2], gain2 = 1 - o[2], eps = o[3], sign = -1 if o[5] else 1
    cdef floating l2 = 0 if o[6] else o[4], decay = 1 - o[0] * o[4] if o[6] else 1
    cdef floating root = root_of_mean, along_g = by_gradient, along_m = by_mean, g, m, v
    cdef Py_ssize_t i
    for i in range(n):
        g = sign * d[i] + l2 * p[i]
        m = first[i] + (g - first[i]) * gain1
        v = beta2 * second[i] + gain2 * g * g
        first[i] = m
        second[i] = v
        p[i] = decay * p[i] - (along_g * g + along_m * m) / (
            <floating> mg_sqrt(v) * root + eps if adaptive else 1)


cdef double nadam_momentum(double* o, double step) noexcept nogil:
    return o[1] * (1 - 0.5 * pow(0.96, step * o[7]))


cdef void nadam(floating* p, floating* d, floating* first, floating* second, Py_ssize_t n, double* o,
                double* t) noexcept nogil:
    cdef double lr = o[0], mu = nadam_momentum(o, t[0]), mu_next = nadam_momentum(o, t[0] + 1)
    along(p, d, first, second, n, o, lr * (1 - mu) / (1 - t[1]), lr * mu_next / (1 - t[1] * mu_next),
          1 / sqrt(t[CORRECTIONS + 1]), True)


cdef void radam(floating* p, floating* d, floating* first, floating* second, Py_ssize_t n, double* o,
                double* t) noexcept nogil:
    cdef double longest = 2 / (1 - o[2]) - 1, step_size = o[0] / t[CORRECTIONS]
    cdef double length = longest - 2 * t[0] * pow(o[2], t[0]) / t[CORRECTIONS + 1]
    if length > 5:
        step_size *= sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
                          * t[CORRECTIONS + 1])
    along(p, d, first, second, n, o, 0, step_size, 1, length > 5)


cdef inline floating rms(floating* square, floating* mean, Py_ssize_t i, floating g, floating alpha,
                         floating gain, floating eps) noexcept nogil:
    """Update the running averages; returns the root of the second moment, about `mean` unless NULL."""
    cdef floating v = alpha * square[i] + gain * g * g, m
    square[i] = v
    if mean != NULL:
        m = mean[i] + (g - mean[i]) * gain
        mean[i] = m
        v -= m * m
        v = v if (v > 0) | (v != v) else 0     # rounding may make a variance negative
    return <floating> mg_sqrt(v) + eps


cdef cloned rmsprop(floating* p, floating* d, floating* square, floating* velocity, floating* mean,
                    Py_ssize_t n, double* o) noexcept nogil:
    cdef floating lr = o[0], alpha = o[1], gain = 1 - o[1], eps = o[2], l2 = o[3], momentum = o[4]
    cdef floating sign = -1 if o[5] else 1, g
    cdef Py_ssize_t i
    if velocity == NULL:
        for i in range(n):
            g = sign * d[i] + l2 * p[i]
            p[i] -= lr * g / rms(square, mean, i, g, alpha, gain, eps)
    else:
        for i in range(n):
            g = sign * d[i] + l2 * p[i]
            velocity[i] = momentum * velocity[i] + g / rms(square, mean, i, g, alpha, gain, eps)
            p[i] -= lr * velocity[i]


cdef cloned adagrad(floating* p, floating* d, floating* total, Py_ssize_t n, double* o, double* t,
                    bint fresh) noexcept nogil:
    cdef floating lr = o[0] / (1 + (t[0] - 1) * o[1]), eps = o[2], l2 = o[3], start = o[4] if fresh else 0
    cdef floating sign = -1 if o[5] else 1, g, v
    cdef Py_ssize_t i
    for i in range(n):
        g = sign * d[i] + l2 * p[i]
        v = start + total[i] + g * g
        total[i] = v
        p[i] -= lr * g / (<floating> mg_sqrt(v) + eps)


cdef cloned lion(floating* p, floating* d, floating* first, Py_ssize_t n, double* o) noexcept nogil:
    cdef floating lr = o[0], beta1 = o[1], gain1 = 1 - o[1], beta2 = o[2], gain2 = 1 - o[2]
    cdef floating decay = 1 - o[0] * o[3], sign = -1 if o[4] else 1, nan = NAN, g, c
    cdef Py_ssize_t i
    for i in range(n):
        g = sign * d[i]
        c = beta1 * first[i] + gain1 * g
        first[i] = beta2 * first[i] + gain2 * g
        p[i] = decay * p[i] - (lr if c > 0 else (-lr if c < 0 else (0 if c == 0 else nan)))


cdef cloned schedule_free(floating* y, floating* d, floating* z, floating* second, Py_ssize_t n, double* o,
                          bint fresh) noexcept nogil:
    cdef floating lr = o[0], along_g = o[0] * (o[1] * (1 - o[4]) - 1), l2 = o[2], sign = -1 if o[3] else 1
    cdef floating share = o[4], beta2 = o[5], gain2 = 1 - o[5], eps = o[6], root = 1 / sqrt(o[7]), g, at, v
    cdef Py_ssize_t i
    if second == NULL:
        for i in range(n):
            g = sign * d[i] + l2 * y[i]
            at = y[i] if fresh else z[i]
            y[i] = y[i] + share * (at - y[i]) + along_g * g
            z[i] = at - lr * g
    else:
        for i in range(n):
            g = sign * d[i]
            v = beta2 * second[i] + gain2 * g * g
            second[i] = v
            g = g / (<floating> mg_sqrt(v) * root + eps) + l2 * y[i]
            at = y[i] if fresh else z[i]
            y[i] = y[i] + share * (at - y[i]) + along_g * g
            z[i] = at - lr * g


cdef struct RuleJob:
    int rule
    bint is_double, fresh
    char* parameter
    char* gradient
    void** state
    Py_ssize_t n
    double* options
    double* scalars


cdef void rule_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """The rule on a part of the elements."""
    cdef RuleJob* job = <RuleJob*> data
    cdef npy_intp begin = start_of(part, parts, job.n)
    rule_range(job, begin, start_of(part + 1, parts, job.n) - begin)


cdef void rule_range(RuleJob* job, npy_intp begin, npy_intp n) noexcept nogil:
    """The rule on n elements from `begin` on."""
    cdef npy_intp offset = begin * (8 if job.is_double else 4)
    cdef void* state[MAX_ARRAYS]
    cdef int k
    for k in range(MAX_ARRAYS):
        state[k] = NULL if job.state[k] == NULL else <char*> job.state[k] + offset
    if job.is_double:
        dispatch(job, <double*> (job.parameter + offset), <double*> (job.gradient + offset), <double**> state,
                 n)
    else:
        dispatch(job, <float*> (job.parameter + offset), <float*> (job.gradient + offset), <float**> state, n)


cdef inline void dispatch(RuleJob* job, floating* p, floating* d, floating** s, Py_ssize_t n) noexcept nogil:
    cdef int rule = job.rule
    cdef double* o = job.options
    cdef double* t = job.scalars
    if rule == SGD:
        sgd(p, d, s[0], n, o, job.fresh)
    elif rule == ADAM or rule == ADAMW:
        adam(p, d, s[0], s[1], s[2], n, o, t, rule == ADAMW or o[6] != 0)
    elif rule == NADAM:
        nadam(p, d, s[0], s[1], n, o, t)
    elif rule == RADAM:
        radam(p, d, s[0], s[1], n, o, t)
    elif rule == RMSPROP:
        rmsprop(p, d, s[0], s[1], s[2], n, o)
    elif rule == ADAGRAD:
        adagrad(p, d, s[0], n, o, t, job.fresh)
    elif rule == LION:
        lion(p, d, s[0], n, o)
    elif rule == SCHEDULE_FREE:
        schedule_free(p, d, s[0], s[1], n, o, job.fresh)


# ------------------------------------------------------------------------------------------ driver
@cython.final
@cython.freelist(8)
cdef class Update:
    """A rule with its options: `update(parameter, gradient, state)` is one step, in place on arrays.

    rule: its name. names: those of its numbers of state, the first of which counts the steps, and then of its
    arrays of state, None for one that the options do not need. group: a dict of options; a missing option is
    0.
    """
    cdef int rule, scalars, arrays
    cdef str kind
    cdef tuple names
    cdef bint stateful
    cdef ndarray rates          # one for each member of a stacked parameter; None if there is one for all
    cdef double options[MAX_OPTIONS]
    cdef double step            # of the corrections: most parameters share it
    cdef double corrections[2]

    def __init__(self, str rule not None, tuple names not None: tuple[str | None, ...],
                 dict group not None) -> None:
        cdef tuple options
        cdef int i = 0
        self.rule, self.scalars, self.arrays, options = RULES[rule]
        self.names, self.kind = names, rule
        self.stateful = any(names)
        if len(names) != self.scalars + self.arrays:
            raise ValueError(f"{rule}: expected {self.scalars + self.arrays} names, got {len(names)}")
        for name in options:
            value = group.get(name, 0)
            if i == 0 and isinstance(value, ndarray):
                self.rates, value = value, 0
            try:
                if name == "betas":
                    self.options[i], value = value
                    i += 1
                self.options[i] = value
            except TypeError:
                raise TypeError(f"{rule}: {name} must be a number, got {value!r}") from None
            i += 1

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
    cdef void* data[MAX_ARRAYS]
    cdef double scalars[MAX_SCALARS + 2]
    cdef bint fresh             # an array of state is new
    cdef bint converted         # they had the former dtype of the parameter


cdef void prepare_state(Job job) except *:
    """Look up or create the state: everything that can fail."""
    cdef Update update = job.update
    cdef int i
    vector(job.array, job.array, True, "the parameter")
    vector(job.gradient, job.array, False, "the gradient")
    if update.rates is not None and (job.active is None or len(update.rates) != len(job.active)):
        shape = tuple([PyArray_DIMS(job.array)[k] for k in range(PyArray_NDIM(job.array))])
        raise ValueError(f"{update.kind}: {len(update.rates)} learning rates for a parameter of shape "
                         f"{shape}: expected one, or one for each member of an nn.Ensemble")
    job.fresh = job.converted = False
    job.owned = []
    for i in range(update.scalars):
        value = None if job.state is None else job.state.get(update.names[i])
        job.scalars[i] = i if value is None else value      # counts start at 0, products at 1
    for i in range(update.arrays):
        job.data[i] = NULL
        name = update.names[update.scalars + i]
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
        job.data[i] = vector(<ndarray> array, job.array, True, name)


cdef void run(Job job) except *:
    cdef Py_ssize_t n = PyArray_SIZE(job.array)
    cdef Update update = job.update
    cdef RuleJob loop
    cdef int k
    if update.scalars:
        job.scalars[0] += 1
    if ADAM <= update.rule <= RADAM:
        for k in range(2):
            if update.step != job.scalars[0]:
                update.corrections[k] = 1 - pow(update.options[1 + k], job.scalars[0])
            job.scalars[CORRECTIONS + k] = update.corrections[k]
        update.step = job.scalars[0]
    if update.rule == NADAM:
        job.scalars[1] *= nadam_momentum(update.options, job.scalars[0])    # the product over all steps
    if not LOOPS.taken():
        run_formulas(job)
        return
    loop.rule, loop.is_double, loop.fresh = update.rule, PyArray_TYPE(job.array) == NPY_DOUBLE, job.fresh
    loop.parameter, loop.gradient = <char*> PyArray_DATA(job.array), <char*> PyArray_DATA(job.gradient)
    loop.state, loop.n = <void**> job.data, n
    loop.options, loop.scalars = <double*> update.options, <double*> job.scalars
    if job.active is None:
        share_work(n, n, rule_part, &loop)
        return
    cdef npy_intp members = len(job.active), member
    for member in range(members):
        if job.active[member]:
            if update.rates is not None:
                update.options[0] = update.rates[member]
            rule_range(&loop, n // members * member, n // members)


cdef void run_formulas(Job job) except *:
    """The rule by its formula, on whole arrays, or on each active member."""
    cdef npy_intp member
    if job.active is None:
        run_formula(job, slice(None))
        return
    for member in range(len(job.active)):
        if job.active[member]:
            if job.update.rates is not None:
                job.update.options[0] = job.update.rates[member]
            run_formula(job, slice(member, member + 1))


cdef void run_formula(Job job, object chosen) except *:
    cdef Update update = job.update
    cdef int i
    names = [part for name in RULES[update.kind][3]
             for part in (("beta1", "beta2") if name == "betas" else (name,))]
    options = {name: update.options[i] for i, name in enumerate(names)}
    owned = iter(job.owned)
    state = [None if name is None else part_of(next(owned), chosen)
             for name in update.names[update.scalars:]]
    array, gradient = part_of(job.array, chosen), part_of(job.gradient, chosen)
    numbers = [job.scalars[i] for i in range(update.scalars)]
    with np.errstate(all="ignore"):
        formula = getattr(formulas, update.kind.lower())
        after = formula(array, gradient, *state, *numbers, fresh=job.fresh, **options)
    for array, value in zip([array] + state, after):
        if array is not None:
            array[...] = value


cdef object part_of(ndarray array, object chosen):
    return array[chosen] if PyArray_NDIM(array) else array


cdef void keep_state(Job job) except *:
    cdef Update update = job.update
    cdef Py_ssize_t i = 0
    for i in range(update.scalars):
        job.state[update.names[i]] = <long long> job.scalars[i] if i == 0 else job.scalars[i]
    if job.fresh or job.converted:
        names = [name for name in update.names[update.scalars:] if name is not None]
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
