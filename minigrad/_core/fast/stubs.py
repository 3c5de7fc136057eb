"""Writes the stubs of the compiled modules from their sources; setup.py runs it before each build.

Design note
-----------
1. It reads the lines that define classes, functions and annotated names in each .pyx and its
   included files, with their docstrings, and the fields of classes in the .pxd. Private names of a
   module are left out.
2. Types are the annotations of the source, which Cython keeps as text (`annotation_typing=False`);
   without an annotation, the C type. Cython allows none on a field or on the result of a cpdef
   function: there a comment `# type: ...` replaces it.
3. The functions that become methods of Tensor are decorated with `@method`, or named in the calls
   `attach_methods(globals(), names)`; `names` is an expression of constants and `__all__`. A module
   exports the functions decorated with `@method` or `@exported`.
"""

import ast
import json
import re
from pathlib import Path

CORE = Path(__file__).parents[1]
PACKAGE = CORE.parent
C_TYPES = {
    "bint": "bool",
    "dict": "dict[str, Any]",
    "double": "float",
    "list": "list[Any]",
    "ndarray": "NDArray[Any]",
    "object": "Any",
    "tuple": "tuple[Any, ...]",
    **dict.fromkeys(("long", "long long", "npy_intp", "unsigned long long"), "int"),
}
IMPORTS = {  # the sources of names in annotations that are not our classes
    "collections.abc": ["Callable", "Iterator", "Sequence"],
    "numpy.typing": ["ArrayLike", "DTypeLike", "NDArray"],
    "typing": ["Any", "final"],
    "typing_extensions": ["Self"],
}
IGNORED = {"__eq__": "override", "__ne__": "override", "__ipow__": "misc"}  # by mypy
STATEMENT = re.compile(
    r"""^(?P<inner>\ {4})?(?:
    @(?P<decorator>[\w.]+)$
    |(?:cdef\ )?class\ (?P<class>\w+)(?P<bases>(?:\(\w+\))?):
    |cdef\ (?P<access>readonly|public)\ (?P<type>[\w ]+)\ (?P<field>\w+)
    |(?:def|cpdef\ (?P<result>[\w ]+))\ (?P<function>\w+)\(
    |(?P<name>\w+)(?::\ (?P<note>.+?))?\ =\ (?P<value>\w+)
    |(?P<other>[a-z]))""",
    re.MULTILINE | re.VERBOSE,
)
ARGUMENT = re.compile(
    r"(\**)(?:([\w ]+?) )?(\w+)(?: not None)?(?:: (.+?))?(?: ?= ?(.+))?", re.DOTALL
)
DOCSTRING = re.compile(r'\n *(r?""".*?""")', re.DOTALL)
ATTACHED = re.compile(r"^attach_methods\(globals\(\), (.+?)\)$", re.MULTILINE | re.DOTALL)
EXPORTED = re.compile(r"(?m)^@(method|exported)\ndef (\w+)")
ALL = re.compile(r"^__all__ = (\[.*?\])", re.MULTILINE | re.DOTALL)


def source(path: Path) -> str:
    """The text of a file, with the files that it includes."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r'(?m)^include "(.+?)".*', lambda found: source(path.parent / found[1]), text)


def module(path: Path) -> str:
    """The module name of a file."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def python_type(c_type: str | None) -> str | None:
    """The Python name of a C type; classes keep their names."""
    return C_TYPES.get(c_type or "", c_type)


def default(text: str) -> str:
    """A default if it is a Python constant, otherwise `...`."""
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return "..."
    return text


def parameter(text: str) -> str:
    """A parameter in Python syntax."""
    match = ARGUMENT.fullmatch(text)
    if not match:  # * or /
        return text
    stars, c_type, name, note, value = match.groups()
    note = note or python_type(c_type)
    value = value and f"{' = ' if note else '='}{default(value)}"
    return f"{stars}{name}{f': {note}' if note else ''}{value or ''}"


def parameters(text: str) -> tuple[list[str], int]:
    """The parameters up to the closing bracket, and where the text continues."""
    found, depth, start = [], 0, 0
    for end, letter in enumerate(text):
        if depth == 0 and letter in ",)":
            found.append(parameter(text[start:end].strip()))
            start = end + 1
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            break
    return [each for each in found if each], end + 1


def function(name: str, result: str | None, text: str, margin: str) -> str:
    """The stub of a function, from the text after its opening bracket."""
    given, end = parameters(text)
    line = text[end : text.find("\n", end)]
    note = re.match(r" -> (.+?):(?: |$)", line) or re.search(r"# type: (.+)", line)
    returned = note[1] if note else python_type(result)
    head = f"{margin}def {name}({', '.join(given)})" + f" -> {returned}" * bool(returned)
    if words := DOCSTRING.match(text[end + len(line) :]):
        return f"{head}:\n{margin}    {words[1]}"
    return f"{head}: ..." + f"  # type: ignore[{IGNORED.get(name)}]" * (name in IGNORED)


def parse(text: str) -> dict[str, list[str]]:
    """The stubs of the top-level names of a module; a class is followed by its members."""
    found: dict[str, list[str]] = {}
    owner, above = "", []
    for match in STATEMENT.finditer(text):
        if match["decorator"]:
            above += [match["decorator"]] * (match["decorator"] not in ("method", "exported"))
            continue
        decorators, above = above, []
        name = match["class"] or match["function"] or match["field"] or match["name"] or ""
        rest, margin, stub = text[match.end() :], match["inner"] or "", ""
        if match["class"]:
            words = DOCSTRING.match(rest)
            stub = "@final\n" * ("cython.final" in decorators)
            stub += f"class {name}{match['bases']}:" + (f"\n    {words[1]}" if words else "")
        elif match["function"] and name not in ("__cinit__", "__dealloc__"):
            stub = "".join(f"{margin}@{each}\n" for each in decorators)
            stub += function(name, match["result"], rest, margin)
        elif match["field"]:
            comment = re.match(r".*# type: (.+)", rest)
            kind = comment[1] if comment else python_type(match["type"])
            stub = f"{margin}{name}: {kind}"
            if match["access"] == "readonly":
                stub = f"{margin}@property\n{margin}def {name}(self) -> {kind}: ..."
        elif match["note"] or match["value"] == "None":
            stub = f"{margin}{name}: {match['note'] or None}"
        if margin:
            if stub and owner:
                found[owner].append(stub)
            continue
        public = not name.startswith("_") and "cython.internal" not in decorators
        owner = name if public and match["class"] else ""
        if stub and public:
            found[name] = [stub]
    return found


def methods_of_tensor(files: list[Path]) -> dict[str, str]:
    """The functions that become methods of Tensor, with their modules."""
    found: dict[str, str] = {}
    for path in files:
        text = source(path)
        words = {"__all__": ast.literal_eval(all_[1])} if (all_ := ALL.search(text)) else {}
        for names in ATTACHED.findall(text):
            found |= dict.fromkeys(eval(names, words), module(path))
        found |= {name: module(path) for how, name in EXPORTED.findall(text) if how == "method"}
    return found


def write_stubs() -> None:
    """Write the stub of each compiled module."""
    compiled = sorted(CORE.rglob("*.pyx"))
    stubs = {path: parse(source(path)) for path in compiled}
    homes = {name: where for where, names in IMPORTS.items() for name in names}
    types = PACKAGE / "types.py"
    homes |= dict.fromkeys(re.findall(r"(?m)^(\w+)(?:: \w+)? = ", source(types)), module(types))
    for path, stub in stubs.items():
        fields = path.with_suffix(".pxd")
        for name, (_, *members) in (parse(source(fields)) if fields.exists() else {}).items():
            if members:
                stub[name][1:1] = members
        homes |= {name: module(path) for name, lines in stub.items() if "class " in lines[0]}
    tensor = next(stub["Tensor"] for stub in stubs.values() if "Tensor" in stub)
    for name, where in methods_of_tensor([*compiled, *sorted(PACKAGE.rglob("*.py"))]).items():
        folder, _, last = where.rpartition(".")
        homes[last] = folder
        tensor.append(f"    {name} = {last}.{name}")
    for path, stub in stubs.items():
        for lines in stub.values():
            lines[0] += " ..." * (lines[0].endswith(":") and len(lines) == 1)
        body = "\n".join("\n".join(lines) for lines in stub.values())
        used = set(re.findall(r"\w+", re.sub(r'(?s)""".*?"""', "", body))) - stub.keys()
        imports = [f"from {homes[name]} import {name}\n" for name in sorted(used & homes.keys())]
        imports += ["import numpy as np\n"] * ("np" in used)
        if exported := sorted(name for _, name in EXPORTED.findall(source(path))):
            body = f"__all__ = {json.dumps(exported)}\n{body}"
        head = f'"""Types of {path.name}, by stubs.py from its source."""\n\n{"".join(imports)}'
        path.with_suffix(".pyi").write_text(f"{head}\n{body}\n", encoding="utf-8")


if __name__ == "__main__":
    write_stubs()
