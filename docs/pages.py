"""Writes the pages of the site that are made from other files: lessons, laboratory, sources.

Design note
-----------
1. Nothing is copied by hand. A lesson's page is its script, a page of the laboratory is a section
   of its report, and `<!-- include README.md#install -->` in a page is that section of that file.
2. The Markdown files of the repository link to each other and to sources as on a forge. `relink`
   turns these links into links of the site: to the page that shows a file, or else to a page below
   generated/source/ that is made for it.
3. Sphinx is not needed here; conf.py calls `write` before it reads the pages, and `expand` for
   each. What is written goes below docs/generated/, and only what has changed is written, so that
   Sphinx builds only what has changed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MADE = DOCS / "generated"
SOURCES = MADE / "source"
EXAMPLES = ROOT / "examples"
LABORATORY = EXAMPLES / "batchnorm_lab"
REPORT = LABORATORY / "report" / "REPORT.md"
EXERCISES = EXAMPLES / "exercises"
HELPERS = EXAMPLES / "lesson.py"

INCLUDE = re.compile(r"^<!-- include (\S+?)(?:#(\S+))? -->$", re.MULTILINE)
FENCE = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
# [text](target#anchor) and, on a line of its own, [text]: target#anchor
LINK = re.compile(
    r"(\]\(|^\[[^\]\n]+\]: )(?![a-z]+:)([^)\s#]*)(?:#([^)\s]*))?(?=\)|$)", re.MULTILINE
)
HEADING = re.compile(r"^(#{1,3}) (.+)$", re.MULTILINE)
VERDICT = re.compile(r"\*\*Verdict: (.+?)\.\*\*")
PICTURES = (".png", ".svg")
LANGUAGES = {
    **dict.fromkeys((".pyx", ".pxd", ".pxi"), "cython"),
    **dict.fromkeys((".h", ".c"), "c"),
    ".py": "python",
    ".toml": "toml",
}


# ------------------------------------------------------------------------------- links and includes
def slug(heading: str) -> str:
    """The anchor that a heading has on a forge, and in MyST."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def read(path: Path) -> str:
    """The text of a file."""
    return path.read_text(encoding="utf-8")


@cache
def sections(path: Path) -> dict[str, str]:
    """The sections of a Markdown file by anchor, with their headings; "" is the whole file.

    A section ends at the next heading of its level or a higher one; the first, whose heading is the
    title, ends at the next heading.
    """
    text = read(path)
    heads = list(HEADING.finditer(FENCE.sub(lambda fence: "x" * len(fence[0]), text)))
    found = {"": text}
    for k, head in enumerate(heads):
        deepest = 3 if len(head[1]) == 1 else len(head[1])
        ends = [other.start() for other in heads[k + 1 :] if len(other[1]) <= deepest]
        found[slug(head[2])] = text[head.start() : min(ends, default=len(text))].strip() + "\n"
    return found


def written_by_hand() -> list[Path]:
    """The pages that lie in docs/ as they are."""
    return [p for p in sorted(DOCS.rglob("*.md")) if MADE not in p.parents]


@cache
def shown() -> dict[tuple[Path, str], Path]:
    """The page that shows a file, or a section of it."""
    found = {
        (REPORT, ""): MADE / "laboratory" / "index.md",
        (ROOT / "README.md", ""): DOCS / "index.md",
    }
    found[LABORATORY, ""] = found[REPORT, ""]
    for path in scripts():
        found[path, ""] = MADE / "lessons" / f"{path.stem}.md"
    for heading, name in experiments():
        found[REPORT, slug(heading)] = MADE / "laboratory" / f"{name}.md"
    for page in written_by_hand():
        for name, anchor in INCLUDE.findall(read(page)):
            found[ROOT / name, anchor] = page
    return found


def page_of(path: Path, anchor: str = "") -> tuple[Path, str]:
    """The page to which a link to a file or folder leads, and the anchor there."""
    pages = shown()
    if (path, anchor) in pages:
        page = pages[path, anchor]
        return page, "" if MADE in page.parents else anchor
    if (path, "") in pages:
        return pages[path, ""], anchor
    if DOCS in path.parents and path.suffix in (".md", ".rst"):
        return path, anchor
    place = SOURCES / path.relative_to(ROOT)
    return (place / "index.md" if path.is_dir() else place.with_name(f"{place.name}.md")), ""


def relink(text: str, origin: Path, page: Path) -> str:
    """Markdown of the file `origin` for the page `page`: its links and pictures lead there."""

    def to(path: Path) -> str:
        return Path(os.path.relpath(path, page.parent)).as_posix()

    def replace(link: re.Match[str]) -> str:
        before, name, anchor = link.groups("")
        path = (origin.parent / name).resolve() if name else origin
        if not path.exists():
            return link[0]  # Sphinx says so
        if path.suffix in PICTURES:
            return before + to(path)
        target, anchor = page_of(path, anchor)
        return before + to(target) * (target != page or not anchor) + f"#{anchor}" * bool(anchor)

    pieces, end = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(replace, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, LINK.sub(replace, text[end:])])


def expand(text: str, page: Path) -> str:
    """The text of a page by hand, with what it includes, and with the links of the site.

    Raises KeyError for a section that is not in the file.
    """
    pieces = INCLUDE.split(text)  # text, file, anchor, text, ...
    found = [relink(pieces[0], page, page)]
    for name, anchor, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        part = sections(ROOT / name)[anchor or ""]
        found += [relink(part, ROOT / name, page), relink(after, page, page)]
    return "".join(found)


def linked_files() -> Iterator[Path]:
    """The files and folders for which a page below source/ is needed: all of minigrad, and whatever
    a page links to."""
    yield from sources(ROOT / "minigrad")
    texts = [(page, read(page)) for page in written_by_hand()]
    included = [found for _, text in texts for found in INCLUDE.findall(text)]
    texts += [(ROOT / name, sections(ROOT / name)[anchor]) for name, anchor in included]
    for origin, text in texts:
        for _, name, _ in LINK.findall(FENCE.sub("", text)):
            path = (origin.parent / name).resolve()
            page, _ = page_of(path)
            if path.exists() and path.suffix not in PICTURES and SOURCES in page.parents:
                yield from sources(path) if path.is_dir() else [path]


def sources(folder: Path) -> Iterator[Path]:
    """A folder with sources, the folders in it, and the sources, without what a build has made."""
    inside = [p for p in sorted(folder.iterdir()) if p.name not in ("generated", "__pycache__")]
    below = [found for path in inside if path.is_dir() for found in sources(path)]
    files = [path for path in inside if path.suffix in LANGUAGES]
    if below or files:
        yield from [folder, *below, *files]


def source_page(path: Path) -> str:
    """A page with a source and the numbers of its lines, or the contents of a folder."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        inside = [p for p in sources(path) if p.parent == path]
        links = {f"{p.name}/index" if p.is_dir() else p.name: p for p in inside}
        lines = [f"- [`{p.name}{'/' * p.is_dir()}`]({link}.md)" for link, p in links.items()]
    else:
        lines = listing(path)
    head = ["---", "orphan: true", "nosearch: true", "hide-toc: true", "---"]
    return "\n".join([*head, f"# {name}{'/' * path.is_dir()}", "", *lines, ""])


def from_srcdir(path: Path) -> str:
    """A path of the repository as Sphinx's directives take it: relative to docs/."""
    return f"/../{path.relative_to(ROOT).as_posix()}"


def listing(path: Path, first: int = 1, last: int | None = None) -> list[str]:
    """A directive that shows a file, or some of its lines."""
    language = LANGUAGES.get(path.suffix, "text")
    options = [f":language: {language}", f":lines: {first}-{last or ''}", ":lineno-match:"]
    return [f"```{{literalinclude}} {from_srcdir(path)}", *options, "```"]


# ------------------------------------------------------------------------------------- lessons
def scripts() -> list[Path]:
    """The lessons, and the other programs in examples/ that explain themselves."""
    return [path for path in sorted(EXAMPLES.glob("*.py")) if path != HELPERS]


def is_lesson(path: Path) -> bool:
    """Whether a script is one of the numbered lessons."""
    return path.name[:2].isdigit()


def pictures_of(path: Path) -> list[Path]:
    """The checked-in pictures of a script: the one of its name, or those that it names."""
    text, folder = read(path), EXAMPLES / "output"
    named = [picture for picture in folder.glob("*.png") if picture.stem in text]
    own = folder / f"{path.stem}.png"
    return [own] if own.exists() else sorted(named, key=lambda each: text.index(each.stem))


def docstring(path: Path) -> tuple[str, list[str]]:
    """The title of a script, which is the first paragraph of its docstring, and the others."""
    title, *blocks = (ast.get_docstring(ast.parse(read(path))) or path.stem).split("\n\n")
    title = " ".join(title.split()).rstrip(".")
    return f"{title[0].upper()}{title[1:]}", blocks


def text_of(path: Path) -> str:
    """The docstring of a script without its title, as Markdown: indented blocks are code."""
    found = []
    for block in docstring(path)[1]:
        if all(line.startswith("    ") for line in block.splitlines()):
            code, language = dedent(block), "python"
            try:
                ast.parse(code)
            except SyntaxError:
                language = "text"
            block = f"```{language}\n{code}\n```"
        found.append(block)
    return "\n\n".join(found)


def caption(path: Path) -> str:
    """What stands for the picture of a script: the sentence that describes it, or the title."""
    title, blocks = docstring(path)
    for sentence in re.split(r"(?<=[.:]) ", " ".join("\n".join(blocks).split())):
        if re.match(r"The (left )?picture (shows|compares)", sentence):
            return sentence
    return title


def code_starts(path: Path) -> int:
    """The number of the line after the docstring."""
    first = ast.parse(read(path)).body[0]
    return (first.end_lineno or 0) + 2


def cells(path: Path) -> list[str]:
    """The code of a script in pieces: each function and class, and what stands between them.

    Comments stay with what follows them. Without the docstring and the call of main.
    """
    lines = read(path).splitlines(keepends=True)
    starts, previous = [], False
    for node in ast.parse("".join(lines)).body[1:]:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        while lines[first - 2].startswith("#"):
            first -= 1
        definition = isinstance(node, (ast.FunctionDef, ast.ClassDef))
        if definition or previous or not starts:
            starts.append(first - 1)
        previous = definition
    pieces = ["".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]
    assert pieces.pop().startswith('if __name__ == "__main__"'), path
    return [piece.strip() for piece in pieces]


def notebook(path: Path) -> str:
    """A script as a notebook: its text, its code, a run, and the picture of the run."""
    name = json.dumps(path.name)  # a notebook has no __file__
    show = "from IPython.display import Image\nfrom lesson import picture_path\n\n"
    show += f"Image(picture_path({name}))"
    text = [f"# {docstring(path)[0]}\n\n{text_of(path)}"]
    text += [f"It needs minigrad, and `{HELPERS.name}` in the folder of this notebook."]
    code = [re.sub(r"\b__file__\b", name, piece) for piece in cells(path)]
    made = []
    for number, content in enumerate([*text, *code, "main([])", show]):
        cell: dict[str, Any] = {"id": f"cell-{number}", "cell_type": "markdown", "metadata": {}}
        if number >= len(text):
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        made.append(cell | {"source": content.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    book = {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, ensure_ascii=False, indent=1) + "\n"


def picture(path: Path, alt: str) -> str:
    """A picture of the repository in Markdown."""
    return f"![{alt}]({from_srcdir(path)})\n"


def download(path: Path | str, what: str) -> str:
    """A file to download: of the repository, or made beside the page."""
    target = from_srcdir(path) if isinstance(path, Path) else path
    return f"{{download}}`{what} <{target}>`"


def lesson_page(path: Path) -> str:
    """The page of a script: pictures first, then its text, then the script itself."""
    downloads = [download(path, "the script")]
    if is_lesson(path):
        downloads += [download(f"{path.stem}.ipynb", "the notebook")]
    if "lesson import" in read(path):
        needs = "both need" if is_lesson(path) else "it needs"
        downloads += [f"and {download(HELPERS, HELPERS.name)}, which {needs}"]
    lines = [f"# {docstring(path)[0]}", ""]
    lines += [picture(each, caption(path)) for each in pictures_of(path)]
    lines += [f"Download {', '.join(downloads)}.", "", text_of(path), "", "## The program", ""]
    lines += [*listing(path, code_starts(path)), ""]
    return "\n".join([*lines, *(exercise(path) if is_lesson(path) else [])])


def exercise(lesson: Path) -> list[str]:
    """The exercise of a lesson, without its judge, which has hints."""
    (path,) = EXERCISES.glob(f"e{lesson.name[:2]}_*.py")
    judge = next(
        node.lineno
        for node in ast.parse(read(path)).body
        if isinstance(node, ast.FunctionDef) and node.name == "judge"
    )
    title = f"## {docstring(path)[0]}"
    shown = listing(path, code_starts(path), judge - 1)
    where = f"Write your answer into {download(path, path.relative_to(ROOT).as_posix())}, and"
    return [title, "", text_of(path), "", *shown, "", f"{where} `make exercise` judges it.", ""]


def gallery(cards: list[tuple[Path, str, str, str]]) -> str:
    """Pictures that lead to pages: (picture, page, text in place of the picture, caption)."""
    figures = [
        f":::{{figure}} {from_srcdir(path)}\n:target: {page}.html\n:alt: {alt}\n\n{text}\n:::\n"
        for path, page, alt, text in cards
    ]
    return "\n".join(["::::{container} gallery\n", *figures, "::::\n"])


def contents(names: list[str]) -> list[str]:
    """The pages below a page."""
    return ["```{toctree}", ":hidden:", "", *names, "```", ""]


def numbered(heading: str) -> str:
    """A heading "Lesson 1: title" or "1. title" as a caption."""
    return re.sub(r"^(?:Lesson )?(\d+)[.:] (.)", lambda m: f"**{m[1]}** {m[2].upper()}", heading)


def lessons() -> Iterator[tuple[str, str]]:
    """The pages of the scripts, the notebooks, and the gallery in front of them."""
    cards, rows = [], []
    for path in scripts():
        title, _ = docstring(path)
        yield f"lessons/{path.stem}.md", lesson_page(path)
        if is_lesson(path):
            yield f"lessons/{path.stem}.ipynb", notebook(path)
        if found := pictures_of(path):
            cards.append((found[0], path.stem, caption(path), numbered(title)))
        else:
            rows.append(f"- [{path.name}]({path.stem}.md): {title}")
    head = """# Lessons

Each is a page to read and a script to run, which draws its picture. `pip install -e ".[examples]"`
in the folder of minigrad installs what they need, and `--fast` gives a quick look.
"""
    lines = [head, gallery(cards), "## More programs", "", *rows, ""]
    lines += contents([path.stem for path in scripts()])
    yield "lessons/index.md", "\n".join(lines)


# ---------------------------------------------------------------------------------- laboratory
@cache
def experiments() -> list[tuple[str, str]]:
    """The heading of each section of the report, and the name of its experiment."""
    found = []
    for head in HEADING.finditer(read(REPORT)):
        picture = re.search(r"\]\((\w+)\.png\)", sections(REPORT)[slug(head[2])])
        if len(head[1]) == 2 and picture:
            found.append((head[2], picture[1]))
    return found


def experiment_page(heading: str, name: str) -> str:
    """The page of an experiment: its section of the report, the picture first, and its script."""
    page = MADE / "laboratory" / f"{name}.md"
    section = relink(sections(REPORT)[slug(heading)], REPORT, page)
    title, *blocks = section.strip().split("\n\n")
    blocks.sort(key=lambda block: not block.startswith("!["))
    script, numbers = LABORATORY / f"{name}.py", REPORT.parent / f"{name}.json"
    again = f"`python -m examples.batchnorm_lab {name[4:]}` runs it again. Download "
    again += f"{download(script, 'the script')} or {download(numbers, 'the numbers')}."
    parts = [title.removeprefix("#"), *blocks, "## The program", again, "\n".join(listing(script))]
    return "\n\n".join(parts) + "\n"


def laboratory() -> Iterator[tuple[str, str]]:
    """A page for each experiment, from the report, and the table of claims in front of them."""
    cards = []
    for heading, name in experiments():
        yield f"laboratory/{name}.md", experiment_page(heading, name)
        verdict = VERDICT.search(sections(REPORT)[slug(heading)])
        assert verdict, f"{heading}: no verdict"
        text = f"{numbered(heading)}: *{verdict[1]}*"
        cards.append((REPORT.parent / f"{name}.png", name, heading, text))
    intro = relink(read(REPORT).partition("\n## ")[0], REPORT, MADE / "laboratory" / "index.md")
    first = [f"../../{p.stem}" for p in (DOCS / "practitioner.md",) if p.exists()]
    lines = [intro, "", gallery(cards), *contents([*first, *(name for _, name in experiments())])]
    yield "laboratory/index.md", "\n".join(lines)


# --------------------------------------------------------------------------------------- all
def pages() -> Iterator[tuple[str, str]]:
    """Every page that is made here: its path below docs/generated/, and its text."""
    yield from lessons()
    yield from laboratory()
    for path in sorted({*linked_files()}):
        yield page_of(path)[0].relative_to(MADE).as_posix(), source_page(path)


def write(made: dict[str, str]) -> None:
    """Write what has changed below docs/generated/, and delete what is no longer made."""
    for name, text in made.items():
        path = MADE / name
        if not path.exists() or read(path) != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in sorted(MADE.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(MADE).as_posix() not in made:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)
