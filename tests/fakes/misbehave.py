"""Replies that GitHub, or something on the way to it, gives on a bad day."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

HTML = b"<!DOCTYPE html><html><title>Unicorn!</title><p>We had issues.</p></html>"


@dataclass(frozen=True)
class Reply:
    """What to answer instead of the truth; `name` shows in test names.

    `accept`: GitHub takes the request all the same, only the answer is wrong.
    `reset`: the connection is cut instead of answered.
    `delay`: seconds before anything is said.
    `silence`: seconds for which any further request is a violation.
    """

    name: str
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    accept: bool = False
    reset: bool = False
    delay: float = 0.0
    silence: float = 0.0


def _json(name: str, status: int, message: str, **headers: str) -> Reply:
    body = {"message": message, "documentation_url": "https://docs.github.com/rest"}
    return Reply(
        name,
        status,
        json.dumps(body).encode(),
        {"Content-Type": "application/json; charset=utf-8", **headers},
    )


def moved(status: int, location: str) -> Reply:
    """The redirect that a renamed repository gives."""
    return _json(f"moved-{status}", status, "Moved Permanently", Location=location)


def secondary_limit(seconds: int | None, status: int = 403) -> Reply:
    """The secondary rate limit, with Retry-After unless `seconds` is None."""
    reply = _json(
        f"secondary-{status}",
        status,
        "You have exceeded a secondary rate limit. Please wait a few minutes.",
    )
    if seconds is None:
        return replace(reply, name=f"secondary-{status}-unnamed", silence=60)
    headers = {**reply.headers, "Retry-After": str(seconds)}
    return replace(reply, headers=headers, silence=seconds)


def primary_limit(seconds: int, status: int = 403) -> Reply:
    """The hourly rate limit, over in `seconds`."""
    reply = _json(
        f"primary-{status}", status, "API rate limit exceeded for user ID 583231."
    )
    limits = {
        "X-RateLimit-Limit": "5000",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(time.time()) + seconds),
    }
    return replace(reply, headers={**reply.headers, **limits}, silence=seconds - 1)


def unauthorized() -> Reply:
    return _json("unauthorized", 401, "Bad credentials")


def forbidden() -> Reply:
    return _json(
        "forbidden",
        403,
        "Resource not accessible by personal access token",
        **{
            "X-Accepted-GitHub-Permissions": "statuses=write",
            "X-RateLimit-Remaining": "4999",
        },
    )


def not_found() -> Reply:
    return _json("not-found", 404, "Not Found")


def invalid(message: str) -> Reply:
    """422 with one custom error, as for a limit that is broken."""
    body = {
        "message": "Validation Failed",
        "errors": [{"resource": "Status", "code": "custom", "message": message}],
    }
    return Reply(
        "invalid",
        422,
        json.dumps(body).encode(),
        {"Content-Type": "application/json; charset=utf-8"},
    )


def unknown_sha(sha: str) -> Reply:
    return replace(
        _json("unknown-sha", 422, f"No commit found for SHA: {sha}"), name="unknown-sha"
    )


def server_error(status: int) -> Reply:
    """A 5xx with a page instead of JSON, as a proxy on the way gives it."""
    return Reply(f"server-{status}", status, HTML, {"Content-Type": "text/html"})


def html(status: int = 201) -> Reply:
    """A success that is a page: a captive portal, a proxy."""
    return Reply(f"html-{status}", status, HTML, {"Content-Type": "text/html"})


def truncated(status: int = 201) -> Reply:
    """JSON that ends in the middle."""
    return Reply(
        f"truncated-{status}",
        status,
        b'{"state": "succ',
        {"Content-Type": "application/json"},
        accept=status == 201,
    )


def charset(name: str = "bogus") -> Reply:
    """A charset that no Python knows."""
    return Reply(
        f"charset-{name}",
        201,
        b"{}",
        {"Content-Type": f"application/json; charset={name}"},
    )


def slow(seconds: float) -> Reply:
    """Takes the request, then says nothing for `seconds`."""
    return Reply("slow", 201, b"{}", delay=seconds, accept=True)


def reset(*, accept: bool) -> Reply:
    """The connection breaks: before GitHub took the request, or just after."""
    return Reply("lost-reply" if accept else "reset", accept=accept, reset=True)


def endless(size: int) -> Reply:
    """A success whose body never seems to end."""
    return Reply(
        "endless", 201, b" " * size + b"{}", {"Content-Type": "application/json"}
    )
