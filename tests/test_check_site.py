"""docs/check_site.py finds the faults that are planted in small sites, and none in a good one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))  # isort: split
import check_site

PAGE = """<!DOCTYPE html><html><head><title>{name}</title></head><body>
<h1 id="top">{name}</h1><p>Text</p><a href="index.html#top">up</a>{body}</body></html>"""
SEARCH = """<div id="search-results"><p class="search-summary"></p><ul class="search"></ul></div>
<script>
const word = new URLSearchParams(location.search).get("q") || "-", found = {found};
document.querySelector("p.search-summary").textContent = `found ${{found.length}} pages`;
document.querySelector("ul.search").innerHTML = found.map((each) => `<li>${{each}}</li>`).join("");
</script>"""
FINDS = '["BatchNorm1d", "backward"].filter((e) => e.toLowerCase().includes(word.toLowerCase()))'
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)


def make_site(folder, body="", found=FINDS):
    """A small site: a first page, one with `body`, and a search that finds `found`."""
    folder.mkdir()
    good = f'<img src="{PIXEL}" alt="a dot"><pre style="overflow: auto">{"wide " * 200}</pre>'
    for name, text in (("index", good), ("other", body), ("search", SEARCH.format(found=found))):
        page = PAGE.format(name=name, body=text)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("", None),
        ('<a href="https://elsewhere.org/x">x</a>', None),
        ('<a href="gone.html">x</a>', "other.html: link gone.html leads nowhere"),
        ('<a href="index.html#gone">x</a>', "other.html: link index.html#gone: no such place"),
        ('<a href="#gone">x</a>', "other.html: link #gone: no such place"),
        ('<script src="gone.js"></script>', "other.html: link gone.js leads nowhere"),
    ],
)
def test_broken_links_are_found(tmp_path, body, fault):
    found = list(check_site.broken_links(make_site(tmp_path / "site", body)))
    assert [line.startswith(fault or "") for line in found] == ([True] if fault else [])


FAULTS = {
    "wide table": (
        f"<table><tr><td>{'wide' * 300}</td></tr></table>",
        "pixels wide in a window of 390: <TABLE> wide",
    ),
    "error in the console": ('<script>console.error("oh", "no")</script>', "console: oh no"),
    "exception": ("<script>undefined.nothing</script>", "console: TypeError"),
    "missing file": ('<script src="gone.js"></script>', "console: Failed to load resource"),
    "broken picture": ('<img alt="" src="index.html">', "picture index.html is not drawn"),
    "picture without text": (f'<img src="{PIXEL}">', "has no alt text"),
}


@pytest.fixture
def chromium():
    try:
        return check_site.find_chromium()
    except check_site.CannotCheckError as error:
        pytest.skip(str(error))


def test_a_good_site_has_no_faults(chromium, tmp_path):
    site = make_site(tmp_path / "site")
    assert check_site.check(site, tmp_path / "screens", ("BatchNorm", "backward")) == []
    pictures = sorted(
        p.relative_to(tmp_path / "screens").as_posix() for p in tmp_path.rglob("*.png")
    )
    assert pictures[:2] == ["desktop/index.png", "desktop/other.png"] and len(pictures) == 9


def test_planted_faults_are_found(chromium, tmp_path):
    with check_site.Browser() as browser:
        for number, (body, fault) in enumerate(FAULTS.values()):
            site = make_site(tmp_path / str(number), body)
            found = list(check_site.look(browser, site, tmp_path / "screens"))
            assert any("other.html" in line and fault in line for line in found), (fault, found)
            assert not any(line.startswith("index.html") for line in found), found
        for number, found in enumerate(("[]", '["BatchNorm", "qwertyuiop"]')):
            site = make_site(tmp_path / f"search-{number}", found=found)
            lines = list(check_site.search(browser, site, ("BatchNorm",), tmp_path / "screens"))
            assert len(lines) == 1 and ["no result for", "is found"][number] in lines[0]


def test_the_command_says_what_it_lacks(tmp_path, capsys, monkeypatch):
    assert check_site.main([str(tmp_path), str(tmp_path)]) == 2
    assert "`make docs` builds it" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    make_site(tmp_path / "site")
    assert check_site.main([str(tmp_path / "site"), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "apt install chromium" in said and said.count("\n") == 1


def test_the_command_exits_with_one_line_for_each_fault(chromium, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check_site, "WORDS", ("BatchNorm",))
    site = make_site(tmp_path / "site", '<a href="gone.html">x</a>')
    assert check_site.main([str(site), str(tmp_path / "screens")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "other.html: link gone.html leads nowhere"
    assert len(lines) == 2 and "3 pages, 2 widths, 1 faults" in lines[1]
