"""Trims the listings of the site: `end-before` leaves the blank lines in front of its marker."""

from __future__ import annotations

from docutils import nodes


def trim(app: object, tree: nodes.document) -> None:
    """Drop blank lines at the end of each listing; conf.py connects it to `doctree-read`."""
    for block in tree.findall(nodes.literal_block):
        text = block.astext().rstrip()
        block.rawsource, block.children = text, []
        block += nodes.Text(text)
