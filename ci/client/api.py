"""The questions that the commands ask, as functions over a Server.

Every answer is checked: raises Malformed for what no build-server says, Failure for the
rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from http.client import HTTPMessage

from ci.client.builds import Build, Repository, mapping, sequence, text, whole
from ci.client.exits import Exit, Refused
from ci.client.http import Query, Server
from ci.client.text import printable

MAX_PAGE = 100

Log = tuple[HTTPMessage, Iterator[bytes]]
News = tuple[int, Iterator[bytes]]


class Asked:
    """What the server said to a trigger, or to what `Api.change` asked.

    `build` is None when it has written the request down but not acted on it yet; `new`
    when it queued the build because of us.
    """

    def __init__(self, answer: object) -> None:
        entry = mapping(answer)
        if "number" in entry:
            entry = {"build": entry, "status": "", "message": ""}
        build = entry.get("build")
        self.build = None if build is None else Build(build)
        self.new = entry.get("status") == "triggered"
        self.message = printable(text(entry, "message"))


class Api:
    """The server's routes, by what they are good for."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._repositories: list[Repository] | None = None

    def build(self, number: int) -> Build:
        return Build(self.server.get(f"/builds/{number}"))

    def detailed(self, build: Build) -> Build:
        """The same with what is around it, as far as the server tells that."""
        return build if build.detailed else self.build(build.number)

    def builds(self, **query: str | int | None) -> tuple[list[Build], int | None]:
        """A page, newest number first, and what to give as `before` for the next."""
        entry = mapping(self.server.get("/builds", query))
        follows = entry.get("next")
        found = [Build(each) for each in sequence(entry, "builds")]
        return found, follows if isinstance(follows, int) else None

    def of_commit(self, prefix: str) -> list[Build]:
        """The builds whose SHA begins so, newest first; empty when there is none."""
        try:
            answer = self.server.get(f"/commits/{prefix.lower()}")
        except Refused as refusal:
            if refusal.code is Exit.NOT_FOUND:
                return []
            raise
        return [Build(each) for each in sequence(mapping(answer), "builds")]

    def waiting(self) -> list[Build]:
        """Everything that waits, of all repositories."""
        return self.at_work(None)[1]

    def at_work(self, repo: str | None) -> tuple[list[Build], list[Build]]:
        """What runs and what waits, of one repository or of all."""
        answer = mapping(self.server.get("/build/status", {"repo": repo}))
        runs, waits = (sequence(answer, key) for key in ("current", "queue"))
        return [Build(each) for each in runs], [Build(each) for each in waits]

    def last_lines(self, number: int, lines: int) -> list[str]:
        """The end of a log as it is now."""
        query: Query = {"build": number, "lines": lines}
        found = sequence(mapping(self.server.get("/build/logs", query)), "logs")
        return [each for each in found if isinstance(each, str)]

    def missed(self) -> tuple[int, int]:
        """Webhook deliveries of the last days that did not come, and how many came later."""
        told = mapping(self.server.get("/build/status")).get("deliveries")
        if told is None:
            # An older server does not count them.
            return 0, 0
        entry = mapping(told)
        return whole(entry, "missed"), whole(entry, "recovered")

    def repositories(self) -> list[Repository]:
        """What the server builds, in the order of its configuration; asked for once."""
        if self._repositories is None:
            answer = mapping(self.server.get("/client.json"))
            found = sequence(answer, "repositories")
            self._repositories = [Repository(each) for each in found]
        return self._repositories

    def trigger(self, body: Mapping[str, object]) -> Asked:
        return Asked(self.server.post("/build/trigger", body))

    def change(self, number: int, verb: str) -> Asked:
        """`cancel`, `retry`, `pin` or `unpin`."""
        return Asked(self.server.post(f"/builds/{number}/{verb}"))

    def log(self, number: int, query: Query) -> AbstractContextManager[Log]:
        """Headers and bytes of a log."""
        return self.server.stream(f"/builds/{number}/log", query)

    def news(self, number: int) -> AbstractContextManager[News]:
        """A descriptor, readable when something has come, and what comes of a build."""
        return self.server.news(f"/builds/{number}/events")

    def log_end(self, number: int, lines: int) -> tuple[int, int]:
        """The attempt, and the byte at which the last so many lines of its log begin."""
        query: Query = {"build": number, "lines": lines}
        headers = self.server.head("/build/logs", {**query, "follow": 1})
        if headers is None:
            # The same refusal, this time with its sentence.
            self.server.get("/build/logs", query)
            return 0, 0
        return place(headers, "Attempt"), place(headers, "Offset")


def place(headers: HTTPMessage, name: str) -> int:
    """`X-Log-…` of an answer; 0 when it is not a number."""
    value = headers.get(f"X-Log-{name}", "")
    return int(value) if value.isascii() and value.isdigit() else 0
