"""Writes the loops of the optimisers from their formulas; generate.py asks for them before a build.

Design note
-----------
1. It calls each rule of formulas.py with symbols: an array is one of its elements, an option a
   number. What depends on numbers alone is computed by `prepare`, in double and once for many
   parameters, and cast to the precision of the loop. It must not know any rule.
2. An `if` on a number runs the formula for both answers. If the results differ in numbers alone,
   `prepare` selects those; otherwise there are two loops. So there are for an array of state that
   may be None: one that the formula runs without.
3. `python -m minigrad._core.fast.steps adam` prints what a rule runs.
"""
# mypy: ignore-errors

import sys
from inspect import getfullargspec
from pathlib import Path
from runpy import run_path
from textwrap import indent
from types import FunctionType, SimpleNamespace

CORE = Path(__file__).parents[1]
derive = SimpleNamespace(**run_path(str(CORE / "fast/derive.py")))
LAYOUT = derive.Layout("j", "", "none")
KERNELS = {"select": "{} ? {} : {}", "pow": "pow({}, {})"}


class Quantity(derive.Symbol):
    """A number, or an element of an array."""

    __pow__, __rpow__ = derive.operators("pow")
    __lt__, __gt__ = derive.operators("less")
    __le__, __ge__ = derive.operators("less_equal")

    def __bool__(self):
        return self.trace.answers[self]  # a KeyError makes two branches


class StepWriter(derive.Writer):
    """Writes a loop, or the numbers that it takes."""

    def expression(self, s, wide=False):
        if s.op in KERNELS:
            return KERNELS[s.op].format(*(self.text(a, False) for a in s.args))
        return super().expression(s, wide)


class Rule(derive.Trace):
    """The formula of an optimiser. given: its options, those of betas one by one; `fresh`; its
    numbers of state. results: for each loop, conditions and their answers, and new arrays. A
    condition is a number, or the name of an array, whose answer is False if it is None."""

    symbol = Quantity

    def __init__(self, name):
        super().__init__(LAYOUT)
        self.name, self.formula, spec = name, RULES[name], getfullargspec(RULES[name])
        at = [*spec.args, "step"].index("step")
        self.arrays = [spec.args[0], "gradient", *spec.args[2:at]]
        self.options = [*(n for n in spec.kwonlyargs if n != "fresh"), "maximize"]
        words = " ".join([*self.options, "fresh", *spec.args[at:]])
        slots = words.replace("betas", "beta1 beta2").split()
        self.fresh = int("fresh" in spec.kwonlyargs)
        self.given = {n: self.make("number", axes="", value=n) for n in slots}
        betas = self.given.get("beta1"), self.given.get("beta2")
        self.chosen = {n: self.given.get(n, betas) for n in spec.kwonlyargs}
        self.scalars = [self.given[n] for n in spec.args[at:]]
        self.inputs = {n: self.make("input", axes="j", value=n) for n in self.arrays}
        p, gradient, *state = self.inputs.values()
        sign = self.make("select", self.given["maximize"], -1.0, 1.0)
        sign.name = "sign"
        found, self.results = self.variants([p, sign * gradient, *state]), []
        (self.after,) = {tuple(new[at - 1 :]) for _, new in found}  # the new numbers of state
        for conditions, new in found:
            stored = self.arrays[0], *self.arrays[2:]
            ends = {n: s for n, s in zip(stored, new, strict=False) if s is not None}
            for n, s in ends.items():
                s.name = f"new_{n}"
            self.results.append((conditions, ends))
        ends = [s for _, ends in self.results for s in ends.values()]
        for s in derive.walk(ends, self.inputs.values()):  # one that is inside the expression that
            s.name = s.name * (s.name not in self.arrays)  # uses it is contracted to an FMA with it
        used = [a for s in derive.walk(ends) if s.axes for a in s.args]
        self.cast = [s for s in dict.fromkeys(used) if not s.axes and s.op != "const"]
        for k, s in enumerate(self.cast):
            taken = {"", *self.arrays, *(other.name for other in self.cast[:k])}
            s.name = f"number_{k}" if s.name in taken else s.name
        asked = [c for conditions, _ in self.results for c, _ in conditions]
        self.optional = sum(1 << k for k, n in enumerate(self.arrays[2:]) if n in asked)
        self.numbers = [*dict.fromkeys(self.cast + [c for c in asked if isinstance(c, Quantity)])]

    # ---------------------------------------------------------------------------------- its results
    def variants(self, arrays, k=2):
        """The results with and without each array of state, from the k-th on."""
        if k == len(arrays):
            return self.branches(arrays, {})
        present = self.variants(arrays, k + 1)
        try:
            absent = self.variants([*arrays[:k], None, *arrays[k + 1 :]], k + 1)
        except TypeError:  # an operation on None
            return present
        return either(self.arrays[k], present, absent)

    def branches(self, arrays, answers):
        """The results, given the answers to some conditions."""
        self.answers = answers
        try:
            ends = derive.traced(self.formula, *arrays, *self.scalars, **self.chosen)
            return [((), ends)]
        except KeyError as asked:
            (condition,) = asked.args
        both = [self.branches(arrays, {**answers, condition: each}) for each in (True, False)]
        try:
            return self.merged(condition, *both)
        except ValueError:
            return either(condition, *both)

    def merged(self, condition, a, b):
        """Both branches as one, with numbers that depend on the condition, or ValueError."""
        if a is b:
            return a
        if type(a) is not type(b) or isinstance(a, (str, bool)):
            raise ValueError
        if not isinstance(a, Quantity):
            return type(a)(self.merged(condition, *pair) for pair in zip(a, b, strict=True))
        if not a.axes and not b.axes:
            found = self.make("select", condition, a, b)
        elif a.op == b.op != "input":
            found = self.make(a.op, *self.merged(condition, a.args, b.args))
        else:
            raise ValueError
        found.name = found.name or a.name
        return found

    # ---------------------------------------------------------------------------------------- its C
    def prepare(self):
        """The function that computes the numbers of the loop, and then the new numbers of state."""
        ends = [*self.numbers, *self.after]
        writer = StepWriter(LAYOUT, "double", self.given, dict(enumerate(ends)))
        writer.known.update(self.given.values())
        used = {*ends, *(a for s in writer.order for a in s.args)}
        with writer.block(f"static void {self.name}_prepare(const double *given, double *numbers)"):
            for k, s in enumerate(self.given.values()):
                writer.put(*[f"const double {s.name} = given[{k}];"] * (s in used))
            writer.define(writer.needed(ends))
            writer.put(*(f"numbers[{k}] = {writer.names[s]};" for k, s in enumerate(ends)))
        return "\n".join(writer.lines)

    def loop(self, real):
        """The function of the loops in one precision."""
        lines = [f"MG_CLONED static void {self.name}_{real}(void **arrays, const double *numbers,"]
        lines.append("    ptrdiff_t start, ptrdiff_t stop) {")
        for k, n in enumerate(self.arrays):
            out = f", *{n}_out = {n}_in" * (k != 1)
            lines.append(f"    {real} *MG_RESTRICT {n}_in = arrays[{k}]{out};")
        for k, s in enumerate(self.cast):
            lines.append(f"    const {real} {s.name} = ({real}) numbers[{k}];")
        given = self.inputs | {s.name: s for s in self.cast}
        texts = {s: f"numbers[{k}]" for k, s in enumerate(self.numbers)}
        texts |= {n: f"{n}_in" for n in self.arrays}
        for conditions, ends in self.results:
            writer = StepWriter(LAYOUT, real, given, ends)
            writer.known.update(self.cast)
            tests = ["!" * (not answer) + texts[c] for c, answer in conditions]
            with writer.block(f"if ({' && '.join(tests) or 1})"):
                writer.nest("j", writer.needed(ends.values()), writer.stores(ends.values()))
            lines += [indent(line, "    ") for line in writer.lines]
        return "\n".join([*lines, "}"])

    def written(self):
        """Its functions."""
        return [self.prepare(), self.loop("float"), self.loop("double")]


def either(condition, yes, no):
    """The results of both branches."""
    both = (True, yes), (False, no)
    return [(((condition, a), *rest), ends) for a, branch in both for rest, ends in branch]


def steps_header():
    """The loops of all rules, and their table."""
    rules, rows = [Rule(name) for name in RULES], []
    most = max(len(x) for r in rules for x in (r.arrays, r.scalars))
    numbers = max(len(x) for r in rules for x in (r.given, [*r.numbers, *r.after]))
    parts = [f"enum {{ MG_ARRAYS = {most}, MG_NUMBERS = {numbers} }};"]
    for r in rules:
        parts += r.written()
        sizes = len(r.arrays) - 2, r.optional, len(r.scalars), len(r.numbers), r.fresh
        words = f'"{r.name}", "{" ".join(r.options)}", {str(sizes)[1:-1]}'
        rows.append(f"    {{{words}, {r.name}_prepare, {{{r.name}_float, {r.name}_double}}}},")
    table = ["static const MG_Rule mg_rules[] = {", *rows, "    {0},", "};"]
    return "\n\n".join([*parts, "\n".join(table)])


def rules_of(source):
    """The functions of formulas.py with a learning rate among their options, by name."""
    functions = {n: lambda x, *rest, n=n: x.trace.make(n, x, *rest) for n in derive.TABLE}
    space = {"__name__": "formulas"}
    exec(compile(source, "formulas.py", "exec"), space)
    space |= {"np": SimpleNamespace(**functions), "sqrt": functions["sqrt"]}
    found = {n: f for n, f in space.items() if isinstance(f, FunctionType)}
    return {n: f for n, f in found.items() if "lr" in getfullargspec(f).kwonlyargs}


RULES = rules_of((CORE / "formulas.py").read_text("utf-8"))

if __name__ == "__main__":
    if set(sys.argv[1:]) - set(RULES):
        sys.exit(f"steps: got {' '.join(sys.argv[1:])}; the rules are {', '.join(RULES)}")
    print(*(text for name in sys.argv[1:] or RULES for text in Rule(name).written()), sep="\n\n")
