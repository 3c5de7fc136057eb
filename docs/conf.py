"""Sphinx's configuration: `make docs` builds the site into build/docs/html.

Pages are Markdown (MyST), but for the reference, whose directives are reStructuredText. What is
made from other files is written before Sphinx reads: pages.py (lessons, laboratory, sources),
reference.py. Nothing is loaded from the network, so the site works from files.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]
import listings  # noqa: E402
import pages  # noqa: E402
import reference  # noqa: E402
import table_pages  # noqa: E402
from docstrings import to_rst  # noqa: E402

import minigrad as mg  # noqa: E402

logger = logging.getLogger(__name__)
project, release, author = "minigrad", mg.__version__, "the minigrad authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx_copybutton"]
root_doc, exclude_patterns = "index", ["Thumbs.db", "__pycache__"]
default_role, highlight_language = "py:obj", "python"
myst_enable_extensions, myst_heading_anchors = ["colon_fence", "dollarmath"], 3
add_module_names = False
autodoc_member_order = "alphabetical"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "DTypeLike", *reference.ALIASES)}
smartquotes = False  # quotes are mostly around strings
copybutton_prompt_text, copybutton_prompt_is_regexp = r">>> |\.\.\. |\$ ", True

html_theme, html_title, html_static_path = "furo", "minigrad", ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = html_show_sphinx = False
html_show_search_summary = False  # it would be fetched, which a page from a file cannot do
html_use_index = html_domain_indices = False  # the reference has tables, and there is the search
html_math_renderer = "mathml"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f5fa8",
        "color-brand-content": "#1f5fa8",
        "code-font-size": "0.76rem",  # a hundred characters in a line
    },
    "dark_css_variables": {"color-brand-primary": "#7fb2ee", "color-brand-content": "#7fb2ee"},
}


# ------------------------------------------------------------------------------------- pages
def write_pages(app: Sphinx) -> None:
    """Write the pages that are made from other files."""
    table = ((f"table/{name}", text) for name, text in table_pages.pages())
    pages.write(dict([*pages.pages(), *reference.pages(), *table]))


def made_by() -> str:
    """A digest of what decides how pages come out beside their text: where links lead, and the code
    in docs/. If it changes, Sphinx reads all pages again."""
    shown = sorted(f"{path}#{anchor} {page}" for (path, anchor), page in pages.shown().items())
    code = [path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.py"))]
    return hashlib.sha256("".join([*shown, *code]).encode()).hexdigest()


def remove_former(app: Sphinx, exception: Exception | None) -> None:
    """Delete the pages of former builds whose sources are gone."""
    pages_now = app.env.found_docs | {"search"}
    for path in Path(app.outdir).rglob("*.html"):
        if path.relative_to(app.outdir).with_suffix("").as_posix() not in pages_now:
            path.unlink()


def expand(app: Sphinx, name: str, source: list[str]) -> None:
    """Include in a page by hand what it names, and make its links those of the site."""
    page = Path(app.env.doc2path(name))
    if pages.MADE not in page.parents and page.suffix == ".md":
        for file, _ in pages.INCLUDE.findall(source[0]):
            app.env.note_dependency(str(pages.ROOT / file))
        source[0] = pages.expand(source[0], page)


def number_lines(app: Sphinx, tree: nodes.document) -> None:
    """Give each line of a source an anchor, to which the reference links."""
    if app.env.docname.startswith("generated/source/"):
        for block in tree.findall(nodes.literal_block):
            block.setdefault("highlight_args", {})["lineanchors"] = "L"


# --------------------------------------------------------------------------------- reference
def rewrite(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText."""
    lines[:] = [*to_rst("\n".join(lines), reference.parameters(member)).splitlines(), ""]


def tidy(
    app: Sphinx, what: str, name: str, member: Any, options: Any, given: str | None, result: Any
) -> tuple[str, Any] | None:
    """Write aliases in signatures by their names: Sphinx's own text is TypeAliasForwardRef('X')."""
    return given and (re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", given), result)


def resolve(app: Sphinx, env: Any, node: addnodes.pending_xref, text: nodes.Element) -> Any:
    """Resolve what a docstring (`nn.Linear`, `Linear`, `exp`) or an annotation (Linear) names in
    short, if there is one public object of this name; otherwise leave it as text."""
    annotation = any(isinstance(parent, addnodes.desc_signature) for parent in ancestors(node))
    if node.get("refdomain") != "py" or not (annotation or node["reftype"] == "obj"):
        return None
    objects, name = env.domains["py"].objects, node["reftarget"].removeprefix("mg.")
    if annotation:
        name = name.rpartition(".")[2]
    known = [full for full in objects if full.endswith(f".{name}")]
    if f"minigrad.{name}" in objects:
        known = [f"minigrad.{name}"]
    unique = len(known) == 1 and (
        known[0] == f"minigrad.{name}" or "." in name or name[0].isupper()
    )
    if not unique or (annotation and objects[known[0]].objtype != "class"):
        return text
    place = objects[known[0]]
    return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, text, known[0])


def ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    """The nodes above a node."""
    while (node := node.parent) is not None:
        yield node


def check_complete(app: Sphinx, env: Any) -> None:
    """Warn of public names that the reference does not have."""
    for name in reference.public().keys() - env.domains["py"].objects.keys():
        logger.warning("%s is public, and not in the reference", name)


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The line of the source that defines a public name."""
    if domain != "py" or not info["fullname"]:
        return None
    found = reference.place(info["module"], info["fullname"])
    if found is None:
        return None
    path, line = found
    return f"../source/{path.relative_to(pages.ROOT).as_posix()}.html#L-{line}"


# ----------------------------------------------------------------------------------- formulas
def visit_math(self: Any, node: nodes.math) -> None:
    """A formula as MathML, which browsers draw themselves."""
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_displayed_math(self: Any, node: nodes.math_block) -> None:
    """The same on a line of its own."""
    self.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the above."""
    app.add_config_value("digest", made_by(), "env")
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displayed_math, None))
    app.connect("builder-inited", write_pages)
    app.connect("source-read", expand)
    app.connect("doctree-read", listings.trim)
    app.connect("doctree-read", number_lines)
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("autodoc-process-signature", tidy)
    app.connect("missing-reference", resolve)
    app.connect("env-check-consistency", check_complete)
    app.connect("build-finished", remove_former)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
