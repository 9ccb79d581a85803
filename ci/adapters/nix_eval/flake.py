"""One commit of a mirror as Nix is told of it: the URL, taken apart again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class FlakeUrl:
    """`git+file://PATH?ref=REF&rev=SHA[&dir=DIRECTORY]`, as Mirror.flake_url makes it."""

    url: str
    path: str
    ref: str
    rev: str
    directory: str

    @classmethod
    def parse(cls, url: str) -> FlakeUrl:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        directory = query.get("dir", [""])[0].strip("/")
        if directory == ".":
            directory = ""
        return cls(url, parts.path, query["ref"][0], query["rev"][0], directory)

    @property
    def source(self) -> Mapping[str, str | bool]:
        """The commit for builtins.fetchTree, alike enough to be fetched only once."""
        url = f"file://{self.path}"
        commit = {"url": url, "ref": self.ref, "rev": self.rev}
        return {"type": "git", "shallow": False, **commit}

    def file(self, name: str) -> str:
        """The path of one of the flake's files in the commit."""
        return f"{self.directory}/{name}" if self.directory else name
