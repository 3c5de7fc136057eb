"""Derives the loops of a formula, and of its gradients; generate.py asks for them before a build.

Design note
-----------
1. It calls a formula of formulas.py with symbols instead of Tensors, and walks back from the
   result with the rules of table.py, the same ones that Tensors use. So the gradient is a program
   too, and nobody wrote it. Common subexpressions are one symbol. It must not know any formula.
2. A symbol varies along some of the axes of the data, each a letter. A sum needs a pass over
   memory, which all sums of a level share; the level of a sum is one above that of its terms.
   Everything else is recomputed in registers, except the statistics, which the forward keeps.
3. The sum of a linear combination is taken term by term, and constant factors are moved out of it,
   so the gradient through a mean needs no pass of its own.
4. Each operation rounds to the precision of the data, as in the definition. Sums, the products that
   they add, and everything between a sum and `narrow` are double. The gradient may reorder factors
   and terms, and multiply by a reciprocal.
5. Threads divide the places of the statistics. Statistics of columns have no places that are
   contiguous, and stripes of columns are slow (two threads took 2.4 times as long as one), so there
   threads divide the rows of each pass, called a phase, and what follows the sums runs on one.
6. The loops of recurrent cells (CELLS) are elementwise, on parts of a row that fit into the cache.
7. `python -m minigrad._core.fast.derive normalise planes` prints a formula's loops for a layout,
   `python -m minigrad._core.fast.derive lstm_cell` those of a cell.
"""
# mypy: ignore-errors

import ast
import re
import sys
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from inspect import signature
from itertools import count
from pathlib import Path
from runpy import run_path
from typing import NamedTuple

CORE = Path(__file__).parents[1]
ORDER = "anrjcml"  # the order of the axes in memory, in any layout
SIMD = "#pragma omp simd"


class Layout(NamedTuple):
    """The layout of data in memory: its axes, those that statistics reduce, those that weights vary
    along, and those outside all passes. Short rows use short vectors."""

    axes: str
    reduced: str
    weight: str
    shared: str = ""
    simd: str = SIMD


LAYOUTS = {
    "columns": Layout("rc", "r", "c"),
    "few_columns": Layout("rc", "r", "c", "c"),
    "planes": Layout("ncl", "nl", "c", "c"),
    "short_planes": Layout("ncl", "nl", "c", "c", f"{SIMD} simdlen(4)"),
    "rows": Layout("ajm", "m", "jm", "aj"),
    "short_rows": Layout("ajm", "m", "jm", "aj", f"{SIMD} simdlen(4)"),
    "groups": Layout("ajml", "ml", "jm", "aj"),
    "short_groups": Layout("ajml", "ml", "jm", "aj", f"{SIMD} simdlen(4)"),
}
# The arrays and the numbers of each formula.
FORMULAS = {
    "normalise": ({"x": "axes", "weight": "weight", "bias": "weight"}, ("eps",)),
    "rms_normalise": ({"x": "axes", "weight": "weight"}, ("eps",)),
}
CELLS = ("lstm_cell",)  # of recurrent nets
CELL = Layout("m", "", "")


def without(axes, others):
    """The axes that are not in `others`."""
    return "".join(axis for axis in axes if axis not in others)


# ------------------------------------------------------------------------------------------ symbols
def operators(op):
    """The methods of a binary operator, from either side."""
    return lambda a, b: a.trace.make(op, a, b), lambda a, b: a.trace.make(op, b, a)


class Symbol:
    """A value: the result of an operation on other symbols, an input, a number or an extent."""

    __add__, __radd__ = operators("add")
    __sub__, __rsub__ = operators("subtract")
    __mul__, __rmul__ = operators("multiply")
    __truediv__, __rtruediv__ = operators("divide")

    def __init__(self, trace, op, args, axes, value):
        self.trace, self.op, self.args, self.axes, self.value = trace, op, args, axes, value
        self.name = value if op in ("input", "number") else ""
        inner = op != "narrow" and any(a.wide for a in args)
        self.wide = inner or op in ("sum", "extent", "widen")  # double

    def __neg__(self):
        return self.trace.make("negative", self)

    def __getattr__(self, name):
        """Any primitive is a method."""
        if name in TABLE:
            return partial(self.trace.make, name, self)
        raise AttributeError(name)

    def mean(self, axes, keepdims):
        """The mean; that of an input relative to its first element, so equal numbers are exact."""
        trace, over = self.trace, self.trace.layout.reduced
        share = 1.0 / trace.extent(over)
        if self.op != "input":
            return trace.make("narrow", trace.sum(self, over) * share)
        first = trace.make("first", self, axes=without(self.axes, over))
        shifted = trace.sum(trace.make("widen", self) - first, over)
        return trace.make("narrow", first + shifted * share)

    def var(self, axes, keepdims):
        """The variance of a centred symbol; otherwise the difference of the sums would cancel."""
        trace, over = self.trace, self.trace.layout.reduced
        if self.op != "subtract" or self.args[1] is not self.args[0].mean(axes, keepdims):
            raise ValueError("var needs a centred symbol: write (x - x.mean(axes)).var(axes)")
        share, squares = 1.0 / trace.extent(over), trace.sum(self.square(), over)
        return trace.make("narrow", (squares - trace.sum(self, over).square() * share) * share)

    def detach(self):
        """Returns itself: only the first result of a formula has a gradient."""
        return self


class Trace:
    """The symbols of one formula in one layout."""

    symbol = Symbol

    def __init__(self, layout):
        self.layout, self.made = layout, {}

    def make(self, op, *args, axes=None, value=None):
        """The symbol of an operation; the same one for the same operation."""
        const = partial(self.make, "const", axes="")
        args = tuple(a if isinstance(a, Symbol) else const(value=float(a)) for a in args)
        if axes is None:
            axes = "".join(axis for axis in ORDER if any(axis in a.axes for a in args))
        key = op, args, axes, repr(value)
        return self.made.setdefault(key, self.symbol(self, op, args, axes, value))

    def extent(self, axes):
        """The number of elements along axes."""
        return self.make("extent", axes="", value=axes)

    def sum(self, x, over):
        """The sum of x over axes that it varies along."""
        return self.make("sum", x, axes=without(x.axes, over))

    def total(self, x, over):
        """The sum over axes, term by term, with constant factors moved out of it."""
        fixed = [not set(over) & set(a.axes) for a in (x, *x.args)]
        if fixed[0]:
            return x * self.extent(over) if over else x
        if ("sum", (x,), without(x.axes, over), "None") in self.made:  # it exists in the formula
            return self.sum(x, over)
        if x.op in ("add", "subtract", "negative"):
            return self.make(x.op, *(self.total(a, over) for a in x.args))
        if x.op == "divide" and fixed[2]:
            return self.total(x.args[0], over) / x.args[1]
        for one, other in (x.args, x.args[::-1]) if x.op == "multiply" else ():
            if not set(over) & set(one.axes):
                return one * self.total(other, over)
            if other.op == "divide" and not set(over) & set(other.args[1].axes):
                return self.total(one * other.args[0], over) / other.args[1]
        return self.total(self.sum(x, over), without(over, x.axes))


def walk(ends, stop=()):
    """The symbols that `ends` depend on, each after its arguments."""
    order = dict.fromkeys(stop)

    def visit(symbol):
        if symbol not in order:
            for a in symbol.args:
                visit(a)
            order[symbol] = None

    for end in ends:
        visit(end)
    return [s for s in list(order)[len(set(stop)) :] if s.op != "const"]


def gradients(pending, wanted, rules):
    """Reverse mode: the gradients of the wanted symbols, from those of the results. The gradient of
    a broadcast symbol is summed, unless that leaves neither data nor statistics: then it keeps
    varying, along the axes `spread`, until it reaches one of these."""
    y, spread, order = next(iter(pending)), {}, walk(pending)
    statistics = without(y.axes, y.trace.layout.reduced)
    for out in reversed(order):
        g = pending.get(out)
        for arg, rule in zip(out.args, rules[out.op] if g else (), strict=False):
            if rule and arg.op not in ("const", "number"):
                values = {"g": g, "out": out, "x": out.args[0], "y": out.args[-1]}
                part = rule(*(values[name] for name in signature(rule).parameters))
                axes, only = spread.get(out, out.axes), sum(s.args.count(arg) for s in order) == 1
                if arg.op != "input" and without(arg.axes, statistics) and only:
                    spread[arg] = axes
                else:
                    part = y.trace.total(part, without(axes, arg.axes))
                part = part.trace.make("narrow", part) if part.wide else part
                pending[arg] = pending[arg] + part if arg in pending else part
        if g and out.name:
            g.name = g.name or f"d_{out.name}"
    return [pending[symbol] for symbol in wanted]


def relaxed(ends, stop):
    """The same with less work per element: operands that vary less are combined first."""
    new = {symbol: symbol for symbol in stop}

    def terms(s, op, axes):
        if s.op == op and s.axes == axes:
            return [term for a in s.args for term in terms(a, op, axes)]
        return [s]

    for s in walk(ends, stop):
        make, args = partial(s.trace.make, s.op), [new.get(a, a) for a in s.args]
        sums = any(a.op == "sum" for a in walk(args[1:], stop))
        if s.op == "divide" and not sums and args[0].value != 1.0:
            new[s] = args[0] * (1.0 / args[1])
        elif s.op in ("add", "multiply"):
            parts = [term for a in args for term in terms(a, s.op, s.axes)]
            low = sorted((t for t in parts if t.axes != s.axes), key=lambda t: len(t.axes))
            groups = [t for t in parts if t.axes == s.axes], low
            new[s] = reduce(make, [reduce(make, group) for group in groups if group])
        else:
            new[s] = make(*args, axes=s.axes, value=s.value)
        new[s].name = new[s].name or s.name
    return [new[end] for end in ends]


# -------------------------------------------------------------------------------------------- the C
def c_text(node):
    """A kernel of the table as C code."""
    if isinstance(node, ast.IfExp):
        return f"({c_text(node.test)} ? {c_text(node.body)} : {c_text(node.orelse)})"
    return ast.unparse(node)


def index(axes, fixed=""):
    """The index of an element in an array with these axes; 0 along those that are fixed."""
    text = ""
    for axis in axes:
        scaled = f"({text}) * {axis.upper()}" if "+" in text else f"{text} * {axis.upper()}"
        text = " + ".join(filter(None, (text and scaled, "" if axis in fixed else axis)))
    return text or "0"


class Writer:
    """Writes one C function, from given symbols to results, both by name."""

    def __init__(self, layout, real, given, results):
        self.layout, self.real, self.given, self.results = layout, real, given, results
        self.inner = without(layout.axes, layout.shared)
        self.vector = self.inner[-1]
        self.lines, self.depth, self.known, self.level, self.names = [], 0, set(), {}, {}
        self.order = walk(results.values(), given.values())
        self.users = {s: [u for u in self.order for a in u.args if a is s] for s in self.order}
        for s in self.order:
            self.level[s] = max([self.level.get(a, 0) for a in s.args], default=0) + (s.op == "sum")
        for s in reversed(self.order):  # as late as possible, so that fewer values need arrays
            if s.op != "sum" and self.users[s]:
                self.level[s] = min(self.level[u] - (u.op == "sum") for u in self.users[s])
        self.arrays = [s for s in self.order if s.op == "sum" and not self.is_scalar(s)]
        self.arrays += [s for s in self.order if self.per_place(s) and self.used_outside(s)]
        self.names, numbers = {s: name for name, s in given.items()}, defaultdict(count)
        for s in self.order:
            if not self.is_part(s):
                free = s.name and s.name not in self.names.values()
                self.names[s] = s.name if free else f"{s.op}_{next(numbers[s.op]) + 1}"

    # ------------------------------------------------------------------- where a symbol is computed
    def is_scalar(self, s):
        """Whether it is a single number within the shared loops."""
        return not without(s.axes, self.layout.shared)

    def per_place(self, s):
        """Whether it is no sum, and is computed before the inner loop, for each of its elements."""
        return s.op != "sum" and not self.layout.shared and s.axes == self.layout.weight

    def used_outside(self, s):
        """Whether it is read outside the loop that computes it."""
        return any(not self.per_place(u) or self.level[u] > self.level[s] for u in self.users[s])

    def is_part(self, s):
        """Whether it is unnamed, and written inside the one expression that uses it."""
        if s.name or s.op == "sum" or s in self.arrays or s in self.results.values():
            return False
        user, *others = self.users[s]
        return not others and user.op != "sum" and user.axes == s.axes

    def needed(self, ends, here=()):
        """What a loop must define to compute `ends`: it reads values stored in arrays, and computes
        the rest, including those that it stores in arrays itself (`here`)."""
        self.here = here
        read = [s for s in (*self.given.values(), *self.arrays) if s not in here]
        inside = walk(ends, [*read, *self.known])
        used = {a for s in inside if s.op != "first" for a in s.args} | set(ends)
        return [s for s in (*read, *inside) if s in used & {*self.names} - self.known]

    # ------------------------------------------------------------------------------------ its text
    def kind(self, s):
        """Its C type."""
        return "double" if s.wide else self.real

    def text(self, s, single):
        """The text of a symbol inside an expression."""
        if s.op == "const":
            return repr(s.value) + "f" * single
        return self.names[s] if s in self.names else f"({self.expression(s)})"

    def expression(self, s, wide=False):
        """The expression of an operation; `wide`: in double, whatever its operands."""
        single = self.real == "float" and not (s.wide or wide)
        if s.op == "extent":
            return f"(double) ({' * '.join(s.value.upper())})"
        if s.op == "first":
            x = s.args[0]
            return f"MG_FINITE({self.names[x]}_in[{index(x.axes, self.layout.reduced)}])"
        operands = [self.text(a, single) for a in s.args]
        if s.op in ("narrow", "widen"):
            return f"({self.kind(s)}) {operands[0]}"
        if wide and self.real == "float":
            operands = [f"(double) {x}" for x in operands]
        text = c_text(ast.parse(TABLE[s.op].kernel, mode="eval").body)
        text = re.sub(r"\bmg_(\w+)", rf"mg_\1_{'f32' if single else 'f64'}", text)
        return re.sub(r"\b[xy]\b", lambda m: operands[0 if m[0] == "x" else -1], text)

    def term(self, s):
        """The term of a sum, and its symbols: a product is double, so it is exact."""
        x = s.args[0]
        if x.op in ("multiply", "square"):
            return self.expression(x, wide=True), x.args
        return self.text(x, single=False), (x,)

    def terms(self, sums):
        """The terms by the names of their sums, and the symbols that a loop defines for them."""
        terms = {self.names[s]: self.term(s) for s in sums}
        symbols = self.needed([end for _, ends in terms.values() for end in ends])
        return {name: x for name, (x, _) in terms.items()}, symbols

    def put(self, *lines):
        self.lines += ["    " * self.depth * (line[0] != "#") + line for line in lines]

    @contextmanager
    def block(self, head):
        """Lines in braces."""
        self.put(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        self.put("}")

    def loop(self, axis, begin="0", end=""):
        """A loop over an axis; if threads divide the axis, over the range of the function."""
        if axis == (self.layout.shared or self.layout.axes)[0] and not end:
            begin, end = "start", "stop"
        return self.block(
            f"for (ptrdiff_t {axis} = {begin}; {axis} < {end or axis.upper()}; {axis}++)"
        )

    def define(self, symbols):
        """Write the lines that define symbols."""
        for s in symbols:
            name, value = self.names[s], f"[{index(s.axes)}]"
            if s in self.given.values():
                value = f"{name}_in{value}"
            elif s in self.arrays and s not in self.here:
                value = f"{name}_at{value}"
            else:
                value = self.expression(s)
            self.put(f"const {self.kind(s)} {name} = {value};")

    def stores(self, symbols, arrays=()):
        """The lines that store results and arrays."""
        pairs = [(f"{self.names[s]}_at", s) for s in arrays]
        pairs += [(f"{name}_out", s) for name, s in self.results.items() if s in symbols]
        return [f"{to}[{index(s.axes)}] = {self.names[s]};" for to, s in pairs]

    # ---------------------------------------------------------------------------------- its passes
    def nest(self, axes, symbols, body):
        """Loops over the axes; each symbol is defined as far out as possible."""
        depth = {s: max([axes.index(a) for a in s.axes if a in axes] or [0]) for s in symbols}
        with ExitStack() as loops:
            for k, axis in enumerate(axes):
                self.put(*[self.layout.simd] * (axis == self.vector))
                loops.enter_context(self.loop(axis))
                self.define(s for s in symbols if depth[s] == k)
            self.put(*body)

    def add_up(self, sums):
        """The pass that sums along the inner loop. In float64 it sums blocks, because rounding
        errors grow with the length of a sum, and compensates the additions of the blocks."""
        axis, blocks, (terms, symbols) = self.vector, self.real == "double", self.terms(sums)
        scalars = [self.names[s] for s in sums if self.is_scalar(s)]
        parts, after = {}, []
        for s, name in zip(sums, terms, strict=True):
            parts[name if name in scalars and not blocks else f"{name}_part"] = terms[name]
            if name not in scalars:
                after.append(f"{name}_at[{index(s.axes)}] += {name}_part;")
            elif blocks:
                after.append(f"MG_ADD({name}, {name}_low, {name}_part);")
        self.put(*(f"double {name} = 0" + f", {name}_low = 0" * blocks + ";" for name in scalars))
        with ExitStack() as loops:
            for outer in self.inner[:-1]:
                loops.enter_context(self.loop(outer))
            self.define(s for s in symbols if axis not in s.axes)
            start, stop = f"{axis}0" if blocks else "0", axis.upper()
            if blocks:
                head = f"for (ptrdiff_t {start} = 0; {start} < {stop}; {start} += MG_BLOCK)"
                loops.enter_context(self.block(head))
                stop = f"MG_END({start}, {stop})"
            self.put(*(f"double {part} = 0;" for part in parts if part not in scalars))
            self.put(f"{self.layout.simd} reduction(+ : {', '.join(parts)})")
            with self.loop(axis, start, stop):
                self.define(s for s in symbols if axis in s.axes)
                self.put(*(f"{part} += {x};" for part, x in parts.items()))
            self.put(*after)
        self.put(*(f"MG_CLOSE({name}, {name}_low);" for name in scalars if blocks))
        self.known.update(s for s in sums if self.is_scalar(s))

    @contextmanager
    def phase(self, number):
        """Lines of one phase: an even one is divided among threads."""
        with self.block(f"if (phase == {number} || phase == MG_ALL)"):
            yield

    def add_rows(self, sums):
        """The pass that adds rows to sums in arrays, four rows at a time, for a quarter of the
        traffic to the arrays. Each part of the rows has arrays of its own."""
        (row, axis), (terms, symbols) = self.inner, self.terms(sums)
        for name in terms:
            own = f"{name}_at + part * {len(self.arrays)} * {axis.upper()}"
            self.put(f"double *MG_RESTRICT {name}_own = {own};")
            self.put(f"memset({name}_own, 0, {axis.upper()} * sizeof(double));")
        with self.block(f"for (ptrdiff_t {row}0 = start, rows; {row}0 < stop; {row}0 += rows)"):
            self.put(f"rows = stop - {row}0 < 4 ? 1 : 4;")
            for rows in (4, 1):
                with self.block("if (rows == 4)" if rows == 4 else "else"):
                    self.put(self.layout.simd)
                    with self.loop(axis):
                        self.define(s for s in symbols if row not in s.axes)
                        self.put(*(f"double {name}_part = 0;" for name in terms))
                        with self.loop(row, f"{row}0", f"{row}0 + {rows}"):
                            self.define(s for s in symbols if row in s.axes)
                            self.put(*(f"{name}_part += {x};" for name, x in terms.items()))
                        self.put(*(f"{name}_own[{axis}] += {name}_part;" for name in terms))

    def add_parts(self, sums):
        """The sums of all parts, added to those of the first."""
        places = self.vector.upper()
        for name in (self.names[s] for s in sums):
            with self.block("for (ptrdiff_t q = 1; q < parts; q++)"), self.loop(self.vector):
                part = f"{name}_at[q * {len(self.arrays)} * {places} + {self.vector}]"
                self.put(f"{name}_at[{self.vector}] += {part};")

    def run_level(self, level):
        """The sums of a level, and what depends on them for all elements."""
        now = [s for s in self.order if self.level[s] == level and s in self.names]
        sums = [s for s in now if s.op == "sum"]
        across = [s for s in sums if self.vector in s.axes]
        if along := [s for s in sums if self.vector not in s.axes]:
            self.add_up(along)
        if across and self.layout.shared:
            terms, symbols = self.terms(across)
            at = index(across[0].axes)
            self.nest(self.inner, symbols, [f"{n}_at[{at}] += {x};" for n, x in terms.items()])
        elif across:
            with self.phase(2 * level):
                self.add_rows(across)
        scalars = [s for s in now if s.op != "sum" and self.is_scalar(s)]
        self.define(scalars)
        self.known.update(scalars)
        here = [s for s in now if self.per_place(s)]
        arrays = [s for s in here if s in self.arrays]
        done = [s for s in here + across * (not self.layout.shared) if s in self.results.values()]
        if arrays or done:
            ends = dict.fromkeys(arrays + done)
            with self.phase(2 * level + 1):  # no layout with shared axes comes here
                self.add_parts(across)
                self.nest(self.vector, self.needed(ends, here), self.stores(done, arrays))

    def phases(self):
        """The last phase."""
        return 0 if self.layout.shared else 2 * max(self.level.values()) + 2

    def function(self, name):
        """The whole function."""
        layout, places = self.layout, " * ".join(self.layout.weight.upper())
        self.put(f"MG_CLONED static void {name}(void **arrays, const ptrdiff_t *extents,")
        used = {a for s in self.order for a in s.args}
        pointers = [(n, s, "in") for n, s in self.given.items() if s.op != "number"]
        pointers += [(n, s, "out") for n, s in self.results.items()]
        numbers = [s for s in self.given.values() if s.op == "number"]
        head = "    const double *numbers, double *work, ptrdiff_t start, ptrdiff_t stop, "
        head = head if layout.shared else head.replace("start", "part").replace("stop", "parts")
        with self.block(f"{head}int phase)"):
            for k, axis in enumerate(layout.axes):
                self.put(f"const ptrdiff_t {axis.upper()} = extents[{k}];")
            for k, (n, s, suffix) in enumerate(pointers):
                if suffix == "out" or s in used:
                    kind = "const " * (suffix == "in") + self.kind(s)
                    self.put(f"{kind} *MG_RESTRICT {n}_{suffix} = arrays[{k}];")
            for k, s in enumerate(numbers):
                if s in used:
                    self.put(f"const {self.real} {s.name} = ({self.real}) numbers[{k}];")
            if not layout.shared:
                rows = layout.axes[0].upper()
                self.put(f"const ptrdiff_t start = {rows} / 4 * part / parts * 4;")
                self.put(f"const ptrdiff_t stop = MG_STOP({rows}, part, parts);")
            for k, s in enumerate(self.arrays):
                kind, at = self.kind(s), f"{self.names[s]}_at"
                self.put(f"{kind} *MG_RESTRICT {at} = ({kind} *) (work + {k} * {places});")
                if s.op == "sum" and layout.shared:
                    self.put(f"memset({at}, 0, {places} * sizeof(double));")
            with ExitStack() as loops:
                for axis in layout.shared:
                    loops.enter_context(self.loop(axis))
                inputs = [s for s in self.given.values() if s in used and self.is_scalar(s)]
                self.define(s for s in inputs if s not in numbers)
                self.known.update(inputs)
                for level in range(max(self.level.values()) + 1):
                    self.run_level(level)
                full = [s for s in self.results.values() if s.axes == layout.axes]
                stores = self.stores(full)
                last = f" && (phase == {self.phases()} || phase == MG_ALL)" * (not layout.shared)
                with self.block(f"if ({stores[0].partition('[')[0]} != NULL{last})"):
                    self.nest(self.inner, self.needed(full), stores)
                if layout.shared:
                    self.put(*self.stores([s for s in self.results.values() if self.is_scalar(s)]))
        return "\n".join(self.lines)


# ---------------------------------------------------------------------------------------- formulas
def traced(formula, *inputs, **options):
    """The results of a formula, with its symbols named after its variables, and its helpers'."""
    found = {}

    def look(frame, event, arg):
        if event == "return" and frame.f_code.co_filename == formula.__code__.co_filename:
            found.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        results = formula(*inputs, **options)
    finally:
        sys.setprofile(before)
    for name, value in found.items():
        if isinstance(value, Symbol):
            value.name = value.name or name
    return results


class Loops(NamedTuple):
    """The functions of a formula for a layout, each as given symbols and results; and the number of
    statistics that forward keeps for backward."""

    forward: tuple[dict, dict]
    backward: tuple[dict, dict]
    kept: int


def of_formula(name, layout):
    """Trace a formula, and derive its gradient."""
    (arrays, numbers), trace = FORMULAS[name], Trace(layout)
    inputs = {n: trace.make("input", axes=getattr(layout, to), value=n) for n, to in arrays.items()}
    rest = {n: trace.make("number", axes="", value=n) for n in numbers}
    results = traced(FUNCTIONS[name], *inputs.values(), None, *rest.values())
    results = results if isinstance(results, tuple) else (results,)
    g = trace.make("input", axes=layout.axes, value="g")
    slopes = gradients({results[0]: g}, inputs.values(), RULES)
    statistics = without(layout.axes, layout.reduced)
    kept = [s for s in walk(results, (*inputs.values(), *rest.values())) if s.axes == statistics]
    slopes = relaxed(slopes, kept)
    used = {a for s in walk(slopes, kept) for a in s.args}
    kept = {s.name or f"sum_of_{s.args[0].name}": s for s in kept if s in used}
    forward = {s.name or "y": s for s in results} | {f"kept_{n}": s for n, s in kept.items()}
    backward = {f"d_{n}": s for n, s in zip(arrays, slopes, strict=True)}
    given = {"g": g, **inputs, **kept, **rest}
    return Loops(({**inputs, **rest}, forward), (given, backward), len(kept))


def written(name, layout, real):
    """The forward and backward in one precision, with the numbers of work arrays and phases."""
    loops, both = of_formula(name, LAYOUTS[layout]), []
    for pair, direction in ((loops.forward, "forward"), (loops.backward, "backward")):
        writer = Writer(LAYOUTS[layout], real, *pair)
        suffix = "f32" if real == "float" else "f64"
        text = writer.function(f"{name}_{layout}_{direction}_{suffix}")
        both.append((text, f"{len(writer.arrays)}, {writer.phases()}"))
    return both


def header():
    """The loops of all formulas in all layouts, and their table."""
    parts, table = [], []
    for name, (arrays, _) in FORMULAS.items():
        rows, reads = [], 0
        for layout in LAYOUTS:
            loops = of_formula(name, LAYOUTS[layout])
            given, results = loops.backward
            used = {a for s in walk(results.values(), given.values()) for a in s.args}
            reads |= sum(1 << k for k, n in enumerate(arrays) if given[n] in used)
            ahead, back = written(name, layout, "float")
            parts += [text for text, _ in (ahead, back, *written(name, layout, "double"))]
            stem = f"{name}_{layout}"
            pairs = [f"{{{stem}_{d}_f32, {stem}_{d}_f64}}" for d in ("forward", "backward")]
            rows.append(f"        {{{', '.join(pairs)}, {loops.kept}, {ahead[1]}, {back[1]}}},\n")
        counts = f"{len(arrays) - 1}, {len(loops.forward[1]) - loops.kept}, {reads}"
        table.append(f'    {{"{name}", {counts}, {{\n{"".join(rows)}    }}}},\n')
    parts.append(f"static const MG_Formula mg_formulas[] = {{\n{''.join(table)}    {{0}},\n}};")
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------------- cells
def of_cell(name):
    """Trace a cell, and derive its gradient. Backward recomputes arithmetic; it reads the state and
    the transcendental functions of the forward. Returns the inputs and results of both."""
    trace = Trace(CELL)
    names = [*signature(FUNCTIONS[name]).parameters, "d_after", "d_h"]
    *inputs, d_after, d_h = (trace.make("input", axes="m", value=n) for n in names)
    after, h = traced(FUNCTIONS[name], *inputs)
    slopes = gradients({h: d_h} | {after: d_after}, inputs, GATE_RULES)
    kernels = {op: str(entry.kernel) for op, entry in TABLE.items()} | {"input": "mg_"}
    kept = [s for s in walk((after, h), inputs[-1:]) if kernels[s.op].startswith("mg_")]
    used = {a for s in walk(slopes, kept) for a in s.args}
    kept = {s.name: s for s in kept if s in used}
    given = {"d_after": d_after, "d_h": d_h, names[-3]: inputs[-1], **kept}
    forward = {f"kept_{n}": s for n, s in kept.items()} | {"after": after, "h": h}
    backward = {f"d_{n}": s for n, s in zip(names[:-2], slopes, strict=True)}
    return (dict(zip(names, inputs, strict=False)), forward), (given, backward)


def cell_function(name, real, given, results, groups):
    """A function for a part of a row, with a loop for each group of results, which later loops may
    read. Arrays of given symbols and of results may be the same."""
    writer = Writer(CELL, real, given, results)
    writer.given = dict(given)
    arrays = [*(f"{n}_in" for n in given), *(f"{n}_out" for n in results)]
    head = f"MG_CLONED static void {name}(void **arrays, ptrdiff_t start, ptrdiff_t stop)"
    with writer.block(head):
        for k, n in enumerate(arrays):
            writer.put(f"{real} *{n} = arrays[{k}];")
        for ends in groups:
            writer.nest("m", writer.needed(ends), writer.stores(ends))
            for n, s in results.items():
                if s in ends and ends is not groups[-1] and s not in writer.given.values():
                    writer.given[s.name] = s
                    writer.put(f"const {real} *{s.name}_in = {n}_out;")
    return "\n".join(writer.lines)


def cell_functions(name, real):
    """The forward and backward in one precision. Forward stores each value before another is
    computed from it, since a loop of many transcendental functions would run out of registers."""
    (given, results), back = of_cell(name)
    steps = [[s] for s in walk(results.values()) if s in results.values()]
    suffix = "f32" if real == "float" else "f64"
    return [
        cell_function(f"{name}_forward_{suffix}", real, given, results, steps),
        cell_function(f"{name}_backward_{suffix}", real, *back, [[*back[1].values()]]),
    ]


def cells_header():
    """The loops of all cells, and their table."""
    parts, rows = [], ""
    for name in CELLS:
        parts += cell_functions(name, "float") + cell_functions(name, "double")
        (given, results), _ = of_cell(name)
        pairs = [f"{{{name}_{d}_f32, {name}_{d}_f64}}" for d in ("forward", "backward")]
        rows += f"    {{{', '.join(pairs)}, {len(given) - 1}, {len(results) - 2}}},\n"
    return "\n\n".join([*parts, f"static const MG_Cell mg_cells[] = {{\n{rows}}};"])


def main(name="normalise", layout="planes", *rest):
    """Print the loops of a formula."""
    if name in CELLS:
        return print(*cell_functions(name, "float"), sep="\n\n")
    for word, kind, known in ((name, "formula", (*FORMULAS, *CELLS)), (layout, "layout", LAYOUTS)):
        if word not in known:
            sys.exit(f"derive: no {kind} {word!r}; there are {', '.join(known)}")
    if rest:
        sys.exit(f"derive: expected a formula and a layout, got {' '.join(rest)!r} as well")
    print(*(text for text, _ in written(name, layout, "float")), sep="\n\n")


def rules_of_table():
    """The entries of the table by name; in its rules they are functions of symbols."""
    space = {"__name__": "table"}
    exec(compile((CORE / "engine/table.py").read_text("utf-8"), "table.py", "exec"), space)
    entries = {name: e for name, e in space.items() if type(e) is space["Entry"]}
    space |= {n: lambda x, *args, n=n: x.trace.make(n, x, *args) for n in entries}
    return entries


TABLE, FUNCTIONS = rules_of_table(), run_path(str(CORE / "formulas.py"))
RULES = defaultdict(tuple, {name: entry.rules for name, entry in TABLE.items()})
RULES |= dict.fromkeys(("sum", "narrow", "widen"), (lambda g: g,))
GATE_RULES = RULES | {  # from the value that is kept: small slopes, in the tails, matter less there
    "sigmoid": (lambda g, out: g * (out * (1.0 - out)),),
    "tanh": (lambda g, out: g * (1.0 - out * out),),
}

if __name__ == "__main__":
    main(*sys.argv[1:])
