"""Opens every page of the site in headless Chromium, and says what is wrong: `make docs-check`.

    python docs/check_site.py build/docs/html build/docs/screens

A fault is one line, `page: what`; the exit code is 1 if there is any, 2 if the check cannot run.
Looked for, at the width of a desktop (in light colours) and of a phone (in dark ones):

- a page that is wider than the window;
- errors in the console, which include files that cannot be loaded;
- pictures that are not drawn, and pictures without a text in their place;
- and once for the site: links and anchors that lead nowhere, and a search that finds nothing.

Chromium is driven over a pipe in the DevTools protocol, https://chromedevtools.github.io/
devtools-protocol/, so it needs no other package. Screenshots are for people to look at.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

WIDTHS = {"desktop": (1280, 800, "light"), "phone": (390, 844, "dark")}
TALLEST = 4000  # pixels of a screenshot
SECONDS = 30  # for one answer
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WORDS = ("BatchNorm", "backward", "cross_entropy")  # which the search must find
LAUNCH = """import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
LOOK = """
(async () => {
  const faults = [], root = document.scrollingElement, width = window.innerWidth;
  for (const picture of document.images) {
    const name = picture.getAttribute("src").slice(0, 80);
    try { await picture.decode(); } catch { faults.push(`picture ${name} is not drawn`); }
    if (!picture.hasAttribute("alt")) faults.push(`picture ${name} has no alt text`);
  }
  if (root.scrollWidth > width) {
    const clips = (e) => e !== document.body && e !== root &&
      (getComputedStyle(e).overflowX !== "visible" || clips(e.parentElement));
    const reach = (e) => e.getBoundingClientRect().width;
    const [widest] = [...document.body.querySelectorAll("*")].filter(
      (e) => e.getBoundingClientRect().right > width + 1 && !clips(e.parentElement)
    ).sort((a, b) => reach(b) - reach(a) || a.contains(b) - b.contains(a));
    const said = widest ? `<${widest.tagName}> ${widest.textContent.trim().slice(0, 40)}` : "";
    faults.push(`${root.scrollWidth} pixels wide in a window of ${width}: ${said}`);
  }
  return { faults, height: root.scrollHeight };
})()
"""
FOUND = """
(async () => {
  for (let k = 0; k < 100; k++) {  // Sphinx writes the number of pages when it is done
    const summary = document.querySelector("#search-results .search-summary");
    if (summary && summary.textContent.match(/[0-9]|not match/))
      return [...document.querySelectorAll("#search-results li")].map((e) => e.textContent);
    await new Promise((done) => setTimeout(done, 100));
  }
  return ["the search does not end"];
})()
"""


class CannotCheckError(Exception):
    """No Chromium, no site, or a browser that does not answer."""


# ------------------------------------------------------------------------------------ links
class Page(HTMLParser):
    """The links of a page, and the anchors in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag links to, and its anchor."""
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken_links(site: Path) -> Iterator[str]:
    """A line for each link within the site that leads nowhere."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file():
                yield f"{path.relative_to(site)}: link {link} leads nowhere"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{path.relative_to(site)}: link {link}: no such place in the page"


# ---------------------------------------------------------------------------------- browser
def find_chromium() -> str:
    """The path of the browser; raises CannotCheckError with the way to get it."""
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        if name and (path := shutil.which(name)):
            return path
    raise CannotCheckError("no Chromium found: `apt install chromium`, or name one in CHROMIUM")


class Browser:
    """One tab of headless Chromium; use it in a `with` block."""

    def __enter__(self) -> Browser:
        program = find_chromium()
        self.errors: list[str] = []  # in the console, since the page was opened
        self._session = ""
        self._loads = self._calls = 0
        self._received = b""
        self._folder = tempfile.TemporaryDirectory(prefix="check-site-", ignore_cleanup_errors=True)
        options = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--mute-audio"]
        options += [f"--user-data-dir={self._folder.name}", "--hide-scrollbars", "--disable-gpu"]
        options += ["--disable-background-networking", "--disable-component-update"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox
        ends = [end for _ in range(2) for end in os.pipe()]
        # Above 4: Chromium reads from 3 and writes to 4, where `LAUNCH` puts its ends.
        read, self._out, self._in, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends)
        command = [sys.executable, "-c", LAUNCH, str(read), str(write), program, *options]
        self._process = subprocess.Popen(
            command, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in (*ends, read, write):
            os.close(end)
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *exception: object) -> None:
        self._session = ""
        with contextlib.suppress(CannotCheckError, OSError, subprocess.TimeoutExpired):
            self.call("Browser.close")
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def _receive(self) -> dict[str, Any]:
        """The next message; events are noted."""
        while b"\0" not in self._received:
            if not select.select([self._in], [], [], SECONDS)[0]:
                raise CannotCheckError(f"Chromium did not answer in {SECONDS} s")
            if not (piece := os.read(self._in, 1 << 20)):
                raise CannotCheckError("Chromium has ended")
            self._received += piece
        text, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        about = message.get("params", {})
        if message.get("method") == "Page.loadEventFired":
            self._loads += 1
        elif message.get("method") == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Runtime.consoleAPICalled" and about["type"] == "error":
            said = (str(part.get("value", part.get("description"))) for part in about["args"])
            self.errors.append(" ".join(said))
        elif message.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            entry = about["entry"]
            self.errors.append(f"{entry['text']} {entry.get('url', '')}".strip())
        return message

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and wait for its result."""
        self._calls += 1
        number = self._calls
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            pass
        if "error" in answer:
            raise CannotCheckError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def resize(self, width: int, height: int, colours: str) -> None:
        """Set the size of the window, and whether the user prefers light or dark colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": colours}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def open(self, path: Path, query: str = "") -> None:
        """Load a page, and wait until its files have been."""
        self.errors.clear()
        before = self._loads
        self.call("Page.navigate", url=path.as_uri() + query)
        while self._loads == before:
            self._receive()

    def run(self, script: str) -> Any:
        """The value of a piece of JavaScript, whose promise is awaited."""
        options = {"awaitPromise": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in found:
            raise CannotCheckError(f"the check itself fails: {found['exceptionDetails']}")
        return found["result"]["value"]

    def screenshot(self, path: Path, width: int, height: int) -> None:
        """Write a picture of the top of the page."""
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST), "scale": 1}
        options = {"clip": clip, "captureBeyondViewport": True, "optimizeForSpeed": True}
        data = self.call("Page.captureScreenshot", **options)["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))


# ------------------------------------------------------------------------------------ checks
def look(browser: Browser, site: Path, screens: Path) -> Iterator[str]:
    """Look at every page at every width."""
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site)
        for number, (kind, (width, height, colours)) in enumerate(WIDTHS.items()):
            browser.resize(width, height, colours)
            if number == 0:
                browser.open(path)
            seen = browser.run(LOOK)
            yield from (f"{name} ({kind}): {fault}" for fault in seen["faults"])
            tall = max(height, seen["height"])
            browser.screenshot(screens / kind / name.with_suffix(".png"), width, tall)
        yield from (f"{name}: console: {' '.join(error.split())}" for error in browser.errors)


def search(browser: Browser, site: Path, words: tuple[str, ...], screens: Path) -> Iterator[str]:
    """Search for words that are there, and for one that is not."""
    for word in (*words, "qwertyuiop"):
        browser.resize(*WIDTHS["desktop"])
        browser.open(site / "search.html", f"?q={word}")
        results = browser.run(FOUND)
        if word not in words:
            if results:
                yield f"search.html: {word!r} is found, which is on no page"
        elif not any(word.lower() in result.lower() for result in results):
            yield f"search.html: no result for {word!r}"
        yield from (f"search.html?q={word}: console: {error}" for error in browser.errors)
        browser.screenshot(screens / "desktop" / f"search-{word}.png", 1280, 800)


def check(site: Path, screens: Path, words: tuple[str, ...] = ()) -> list[str]:
    """All faults of a site, a line each. Raises CannotCheckError."""
    site = site.resolve()
    if not (site / "index.html").is_file():
        raise CannotCheckError(f"no site in {site}: `make docs` builds it")
    faults = list(broken_links(site))
    with Browser() as browser:
        faults += look(browser, site, screens)
        faults += search(browser, site, words or WORDS, screens)
    return faults


def main(arguments: list[str]) -> int:
    """Check the site in the first folder; the screenshots go to the second."""
    site, screens = (Path(argument) for argument in arguments)
    try:
        faults = check(site, screens)
    except CannotCheckError as error:
        print(f"check_site.py: {error}", file=sys.stderr)
        return 2
    print(*faults, sep="\n", end="\n" * bool(faults))
    pages = len([*site.rglob("*.html")])
    print(f"{pages} pages, {len(WIDTHS)} widths, {len(faults)} faults; screenshots in {screens}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
