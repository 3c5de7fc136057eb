"""The tables of docs/coming-from-pytorch.md, made from minigrad/spellings.py.

tests/test_spellings.py checks the page against them.

    python tests/spellings_page.py     writes them into the page
"""

from __future__ import annotations

from pathlib import Path

from minigrad.spellings import Spelling, rows

PAGE = Path(__file__).parent.parent / "docs/coming-from-pytorch.md"
BEGIN, END = "<!-- spellings: python tests/spellings_page.py -->", "<!-- /spellings -->"
SECTIONS = {
    "The same name, another meaning": ("differs",),
    "Tensors and functions": ("mg", "Tensor"),
    "Layers, optimisers, data, transforms": (
        "nn", "nn.functional", "nn.utils", "optim", "optim.swa_utils", "data", "linalg", "autograd",
        "func", "Module",
    ),
    "Keywords": ("keyword",),
}  # fmt: skip


def cell(row: Spelling) -> str:
    if row.there:
        return f"`{row.there}`"
    return f"`{row.name}=`" if row.where == "keyword" else f"`{row.name}`"


def tables() -> str:
    """Markdown: a table for each section, rows with the same advice in one."""
    text = []
    for title, places in SECTIONS.items():
        merged: dict[str, list[str]] = {}
        for row in rows():
            if row.where.split()[0] in places:
                merged.setdefault(
                    row.remark or f"`{row.here}`{row.note and f' ({row.note})'}", []
                ).append(cell(row))
        text += [f"## {title}", "", "| PyTorch or NumPy | minigrad |", "|---|---|"]
        for here, there in merged.items():
            text.append(f"| {', '.join(dict.fromkeys(there))} | {here} |")
        text.append("")
    return "\n".join(text)


def written() -> str:
    """The page with the tables of today."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
