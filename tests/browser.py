"""A page as a browser without a screen sees it, for tests of the pages that ganaug writes."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def opened(page: Path, tmp_path: Path, *, script: str = "", width: int = 1000) -> str:
    """Return the DOM of a page after `script` has run in it; skip without a browser, fail on a console message."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("needs Chromium")
    copy = tmp_path / "opened.html"
    copy.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8"
    )
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1200", "--virtual-time-budget=5000",
        "--dump-dom", copy.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    assert done.stdout.strip(), done.stderr[-2000:]
    return done.stdout


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def check_page(text: str) -> None:
    """Assert what every page keeps: nothing from elsewhere, texts for pictures, headings in order, a language."""
    parser = _Tags()
    parser.feed(text)
    tags = parser.found
    levels = []
    for tag, attributes in tags:
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("data:", "#")), f"<{tag} {name}={address[:60]}> is loaded from elsewhere"
        if tag == "img":
            assert attributes.get("alt"), "a picture without a text"
        if re.fullmatch("h[1-6]", tag):
            levels.append(int(tag[1]))
        if tag == "th":
            assert attributes.get("scope") in ("col", "row")
    assert ("html", {"lang": "en"}) in tags
    assert any(tag == "meta" and attributes.get("name") == "viewport" for tag, attributes in tags)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    drawn = [attributes for tag, attributes in tags if tag == "svg"]
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in drawn)
    identifiers = [attributes["id"] for _, attributes in tags if attributes.get("id")]
    assert len(identifiers) == len(set(identifiers))
