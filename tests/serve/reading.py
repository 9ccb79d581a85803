"""Pages as their reader sees them: words, links, and what would be dangerous."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from tests.serve.conftest import Private

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
BLOCKS = frozenset({"td", "th", "p", "li", "h1", "h2", "h3", "pre", "option"})
NO_END = frozenset({"meta", "link", "input", "img", "br", "path", "rect"})

# Each of them would do harm somewhere, unescaped: a page, a terminal, an XML parser.
HOSTILE = "<script>alert(1)</script>\"&amp;'\x1b]8;;x\x07\x9b31m\u202etfel\r\nforged\ufffe\x00"


@dataclass
class Read(HTMLParser):
    """What one page holds. `words` are those of its `<main>`."""

    words: str = ""
    links: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    title: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag not in NO_END:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.words += " "
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "main" in self._open:
            self.words += data
        elif "head" in self._open and "title" in self._open:
            self.title += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of that name."""
        return [attributes for name, attributes in self.tags if name == tag]


async def page(client: Private, path: str, status: int = 200) -> Read:
    """The page that a browser gets; it must be harmless."""
    async with client.get(path, headers=BROWSER, allow_redirects=False) as response:
        body = await response.text()
        assert response.status == status, body
        assert response.content_type == "text/html"
        assert response.headers["Content-Security-Policy"].startswith(
            "default-src 'none'; script-src 'self';"
        )
    assert all(char.isprintable() or char == "\n" for char in body), path
    assert not re.search(r"<script(?! type=\"module\" src=\"/static/)", body)
    assert not re.search(r"\son\w+=|style=|javascript:", body)
    read = Read()
    read.feed(body)
    read.words = re.sub(r"\s+", " ", read.words).strip()
    return read
