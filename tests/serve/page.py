"""A page of ours as a test reads it: its words, its links, its forms, what may do harm."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from tests.serve.conftest import Private

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
EMPTY = frozenset({"br", "input", "link", "meta", "hr", "img"})
# fmt: off
ALLOWED = frozenset({
    "html", "head", "meta", "title", "link", "script", "noscript", "body", "a",
    "header", "nav", "p", "main", "h1", "h2", "h3", "section", "div", "span", "strong",
    "b", "code", "pre", "table", "caption", "thead", "tbody", "tr", "th", "td", "ul",
    "ol", "li", "dl", "dt", "dd", "br", "details", "summary", "form", "label", "input",
    "button", "select", "option", "time", "progress", "footer", "svg", "g", "rect",
    "text",
})
# fmt: on


@dataclass
class Form:
    """What a browser would send: where to, the fields, and the buttons' own addresses."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """`text` is what is read, in one line; `title` what the tab says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.forms: list[Form] = []
        self.strange: list[str] = []
        self.title = ""
        self._open: list[str] = []
        self._button = ""
        self.feed(html)
        self.close()
        self.strange += [f"<{tag}> is not closed" for tag in self._open]
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in ALLOWED:
            self.strange.append(f"<{tag}>")
        if tag == "script" and not given.get("src", "").startswith("/static/"):
            self.strange.append(f"script {given}")
        self.strange += [
            f"{tag} {name}"
            for name in given
            if name.startswith("on") or name == "style"
        ]
        if "href" in given:
            self.links.append(given["href"])
        self._form(tag, given)
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.handle_endtag(tag)

    def _form(self, tag: str, given: dict[str, str]) -> None:
        if tag == "form":
            self.forms.append(Form(given["action"], given["method"]))
        elif tag in ("input", "select") and self.forms:
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "button":
            self._button = given.get("formaction", "") or self.forms[-1].action

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.strange.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "title" and "svg" not in self._open:
            self.title += data
        elif inside == "button":
            self.forms[-1].buttons[data.strip()] = self._button
        self.words.append(data)


async def page(client: Private, path: str) -> Page:
    """The page at `path` as a browser gets it, with nothing in it that may do harm."""
    async with client.get(path, headers=BROWSER) as response:
        body = await response.text()
        assert response.status == 200, body
        assert response.content_type == "text/html"
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith(
            "default-src 'none'; script-src 'self'; style-src 'self'"
        )
        assert "unsafe" not in policy
    found = Page(body)
    assert not found.strange, found.strange
    assert all(char.isprintable() or char in "\n\u200d" for char in body)
    return found
