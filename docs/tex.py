"""Writes expressions of the table as formulas in TeX."""

from __future__ import annotations

import ast
import re

WRITTEN = {  # how a function is written in mathematics; the others by their name
    "abs": r"\left|{}\right|",
    "sqrt": r"\sqrt{{{}}}",
    "rsqrt": r"\frac{{1}}{{\sqrt{{{}}}}}",
    "reciprocal": r"\frac{{1}}{{{}}}",
    "exp": "e^{{{}}}",
    "exp2": "2^{{{}}}",
    "log1p": r"\log\left(1 + {}\right)",
    "log2": r"\log_2\left({}\right)",
    "log10": r"\log_{{10}}\left({}\right)",
    "floor": r"\left\lfloor {} \right\rfloor",
    "ceil": r"\left\lceil {} \right\rceil",
}
IN_TEX = ("log", "sin", "cos", "tan", "sinh", "cosh", "tanh")
SIGNS: dict[type[ast.AST], str] = {
    **{ast.Add: "+", ast.Sub: "-", ast.Mult: r"\,", ast.BitOr: r"\lor", ast.BitAnd: r"\land"},
    **{ast.Lt: "<", ast.LtE: r"\le", ast.Gt: ">", ast.GtE: r"\ge", ast.Eq: "=", ast.NotEq: r"\ne"},
}
LOOSE, SUM, PRODUCT, FRACTION, ATOM = range(5)  # how tightly the parts of a text are bound


def tex(node: ast.expr, constants: dict[str, ast.expr]) -> tuple[str, int]:
    """An expression as TeX, and how tightly it is bound. constants: what names stand for."""

    def part(inner: ast.expr, least: int = LOOSE) -> str:
        text, bound = tex(inner, constants)
        return text if bound >= least else rf"\left({text}\right)"

    match node:
        case ast.Name(id) if id in constants:
            return tex(constants[id], constants)
        case ast.Name(id):
            return {"out": "z"}.get(id, id if len(id) == 1 else rf"\text{{{id}}}"), ATOM
        case ast.Attribute(attr=attr):
            return {"pi": r"\pi", "inf": r"\infty"}.get(attr, rf"\mathrm{{{attr}}}"), ATOM
        case ast.Constant(int() | float() as value):
            return f"{value:.6g}", ATOM
        case ast.UnaryOp(ast.USub(), operand):
            return f"-{part(operand, PRODUCT)}", SUM
        case ast.BinOp(left, ast.Div(), right):
            return rf"\frac{{{part(left)}}}{{{part(right)}}}", FRACTION
        case ast.BinOp(left, ast.Pow(), right):
            return f"{part(left, ATOM)}^{{{part(right)}}}", FRACTION
        case ast.BinOp(left, ast.Mult(), right):
            signed = tex(left, constants)[0].startswith("-")  # it needs no brackets in front
            dot = r"\cdot" if isinstance(right, ast.Constant) else r"\,"
            first = part(left, SUM if signed else PRODUCT)
            return f"{first} {dot} {part(right, PRODUCT)}", SUM if signed else PRODUCT
        case ast.BinOp(left, (ast.Add() | ast.Sub()) as op, right):
            least = SUM if isinstance(op, ast.Add) else PRODUCT
            return f"{part(left, SUM)} {SIGNS[type(op)]} {part(right, least)}", SUM
        case ast.BinOp(left, op, right) | ast.Compare(left, [op], [right]):
            return f"{part(left)} {SIGNS[type(op)]} {part(right)}", LOOSE
        case ast.IfExp(test, body, orelse):
            cases = [rf"{part(body)} & \text{{if }} {part(test)}"]
            while isinstance(orelse, ast.IfExp):
                cases.append(rf"{part(orelse.body)} & \text{{if }} {part(orelse.test)}")
                orelse = orelse.orelse
            cases.append(rf"{part(orelse)} & \text{{else}}")
            return r"\begin{cases} " + r" \\ ".join(cases) + r" \end{cases}", FRACTION
        case ast.Call(function, arguments):
            name = re.sub(r"^(mg_|math\.|_)", "", ast.unparse(function))
            if name == "zeros_like":
                return "0", ATOM
            if name == "square":
                return f"{part(arguments[0], ATOM)}^2", FRACTION
            if name == "pow":
                return f"{part(arguments[0], ATOM)}^{{{part(arguments[1])}}}", FRACTION
            if name == "expm1":
                return f"e^{{{part(arguments[0])}}} - 1", SUM
            parts = [part(argument) for argument in arguments]
            if name in WRITTEN:
                return WRITTEN[name].format(*parts), FRACTION
            head = rf"\{name}" if name in IN_TEX else rf"\text{{{name}}}"
            return rf"{head}\left({', '.join(parts)}\right)", FRACTION
    raise ValueError(f"tex: no formula for {ast.unparse(node)!r}")
