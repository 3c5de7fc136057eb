"""Turns docstrings, which are plain text, into reStructuredText.

The house writes them for `help()`: paragraphs, `code` in single backticks, examples, formulas in
indented lines, lists with "- ", and parameters as "name: text" with indented lines below.
Characters that are markup in reStructuredText (|x|, 2**x, kaiming_normal_) stand for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from textwrap import dedent, indent

NAME = re.compile(r"[A-Za-z_][\w.]*")
PARAMETERS = re.compile(r"(\w+(?:, \w+)*): .+")


def inline(text: str, names: Collection[str] = ()) -> str:
    r"""Text with its code marked up, and everything else escaped. A name alone becomes a reference,
    if there is something of that name (see conf.py), and it is no parameter.

    >>> print(inline("|x|**2, see `mg.abs`, `x` and `x + 1`", {"x"}))
    \|x\|\*\*2, see `mg.abs`, ``x`` and ``x + 1``
    """
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick that is a character
        pieces[-2:] = ["`".join(pieces[-2:])]
    for k, piece in enumerate(pieces):
        if k % 2:
            refers = NAME.fullmatch(piece) and piece not in names
            pieces[k] = f"`{piece}`" if refers else f"``{piece}``"
        else:
            glued = "\\ " if k and piece[:1].isalnum() else ""
            pieces[k] = glued + re.sub(r"([\\`*_|])", r"\\\1", piece)
    return "".join(pieces)


def paragraphs(block: str, names: Collection[str]) -> list[str]:
    """The paragraphs of a block of lines, one for each item of a list and each parameter.

    "name: text" is a parameter if the text ends with the line, or continues in indented lines.
    """
    pieces: list[tuple[str, str]] = []
    lines = block.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        ends = not following or following[0] == " " or _is_parameter(following, names)
        if _is_parameter(line, names) and ends:
            pieces.append(("parameter", line))
        elif line.startswith("- "):
            pieces.append(("item", line[2:]))
        elif pieces and (line.startswith(" ") or pieces[-1][0] == "text"):
            pieces[-1] = pieces[-1][0], f"{pieces[-1][1]} {line.strip()}"
        else:
            pieces.append(("text", line.strip()))
    made = []
    for kind, text in pieces:
        if kind == "parameter":
            name, _, text = text.partition(": ")
            name = ", ".join(f"**{each}**" for each in name.split(", "))
            made.append(f"{name}\n    {inline(text, names)}")
        else:
            made.append("- " * (kind == "item") + inline(text, names))
    return made


def _is_parameter(line: str, names: Collection[str]) -> bool:
    found = PARAMETERS.fullmatch(line)
    return found is not None and all(name in names for name in found[1].split(", "))


def to_rst(docstring: str, names: Collection[str] = ()) -> str:
    r"""A docstring without its margin as reStructuredText; `names` are those of the parameters.

    >>> print(to_rst("y = |x|:\n\n    y = a * b\n\na: a factor,\n    or a list of them", {"a"}))
    y = \|x\|:
    <BLANKLINE>
    ::
    <BLANKLINE>
        y = a * b
    <BLANKLINE>
    **a**
        a factor, or a list of them
    """
    made = []
    for block in re.split(r"\n(?: *\n)+|\n(?=>>> )", docstring.strip("\n")):
        if block.startswith(">>>"):
            # Examples that follow each other without an empty line are one.
            made.append(("example", block))
        elif all(line.startswith("    ") for line in block.splitlines()):
            made.append(("text", f"::\n\n{indent(dedent(block), '    ')}"))
        else:
            made += [("text", piece) for piece in paragraphs(block, names)]
    text, previous = "", "text"
    for kind, piece in made:
        text += ("\n" if kind == previous == "example" else "\n\n") + piece
        previous = kind
    return text.strip("\n")


def summary(docstring: str, names: Collection[str] = ()) -> str:
    """The first sentence of a docstring, as reStructuredText on one line."""
    first = " ".join(docstring.strip().partition("\n\n")[0].split())
    return inline(re.split(r"(?<=[^.][.])\s+(?=[A-Z(`])", first)[0].rstrip("."), names)
