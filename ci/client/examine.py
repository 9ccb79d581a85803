"""What can be wrong between here and the server, each with its fix: for `doctor`."""

from __future__ import annotations

import os
import stat
import time

from ci import __version__
from ci.client.address import TOKEN_VARIABLE, Address
from ci.client.api import Api
from ci.client.builds import mapping, sequence, text
from ci.client.exits import Failure, Refused
from ci.client.text import human_seconds, printable

GOOD, WARNING, BAD = "ok", "warning", "bad"

# Build numbers begin at 1: this changes nothing, but a server that wants a token looks
# at it before it looks for the build.
HARMLESS = "/builds/0/cancel"


class Finding:
    """One thing that was looked at; `fix` is empty when there is nothing to mend."""

    def __init__(self, name: str, level: str, detail: str, fix: str = "") -> None:
        self.name = name
        self.level = level
        self.detail = detail
        self.fix = fix

    def entry(self) -> dict[str, object]:
        """As the checks of `/health` are."""
        return {
            "name": self.name,
            "ok": self.level != BAD,
            "detail": self.detail,
            "fix": self.fix,
        }


def configuration(address: Address) -> Finding:
    return Finding("config", GOOD, f"server = {address.url} (from {address.source})")


def unreachable(problem: Failure) -> Finding:
    detail = getattr(problem, "problem", problem.sentence)
    return Finding("reach", BAD, detail, getattr(problem, "fix", ""))


def reach(api: Api) -> Finding:
    """Asks for the first page; raises Failure when there is none."""
    started = time.monotonic()
    answer = mapping(api.server.get("/index.json"))
    took = (time.monotonic() - started) * 1000
    version = printable(text(answer, "version"))
    if version == __version__:
        return Finding("reach", GOOD, f"{took:.0f} ms, version {version} = client")
    return Finding(
        "reach",
        WARNING,
        f"{took:.0f} ms, version {version}, client {__version__}",
        "install the client of the server's version",
    )


def clock(api: Api) -> Finding:
    """After `reach`: its answer told the time."""
    skew = api.server.skew
    if not skew:
        return Finding("clock", GOOD, "the same as the server's")
    where = "behind" if skew > 0 else "ahead of"
    return Finding(
        "clock",
        WARNING,
        f"{human_seconds(abs(skew))} {where} the server's",
        "timedatectl set-ntp true (here or there)",
    )


def credential(api: Api, path: str, given: str | None) -> Finding:
    """Whether we may change something; `path` is the token's file, empty for none."""
    name, shown = "token", printable(path)
    try:
        api.server.post(HARMLESS)
    except Refused as refusal:
        if refusal.status == 401:
            fix = (
                f"put the server's token into {shown}"
                if given
                else f"{TOKEN_VARIABLE}=FILE with the server's token in it"
            )
            detail = (
                "is not the server's" if given else "none, and the server wants one"
            )
            return Finding(name, BAD, detail, fix)
        if refusal.status != 404:
            fix = "on that machine: journalctl -u build-server"
            return Finding(name, BAD, refusal.sentence, fix)
    if not given:
        return Finding(name, GOOD, "none, and the server wants none")
    if os.stat(path).st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return Finding(
            name, WARNING, f"{shown} can be read by others", f"chmod 600 {shown}"
        )
    return Finding(name, GOOD, f"from {shown}")


def health(api: Api) -> list[Finding]:
    """What the server says of itself."""
    answer = mapping(api.server.get("/health"))
    return [_check(each) for each in sequence(answer, "checks")]


def _check(raw: object) -> Finding:
    entry = mapping(raw)
    name, detail, fix = (
        printable(text(entry, key)) for key in ("name", "detail", "fix")
    )
    good = entry.get("ok") is True
    return Finding(name, GOOD if good else BAD, detail, "" if good else fix)
