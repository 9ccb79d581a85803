"""What a page's forms send, and where a browser goes after it.

A form is told from the API's callers by two things that every browser sends: its body is
of the type that forms have, and a page is what it wants to see next. It may carry the
token in its body, for a form can set no header. Its answer is 303 to a page; what a
program gets for the same request stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from ci.errors import RequestError
from ci.serve import html
from ci.serve.answers import wanted
from ci.serve.parameters import read_body, trigger_keys

MEDIA_TYPE = "application/x-www-form-urlencoded"
TOKEN = "token"  # noqa: S105 — the name of the field
MOST_FIELDS = 20
TRIGGER_FIELDS = ("where", "rev", "force")
"""`where` is the repository's name and the branch, with a space between."""


def sent(request: web.Request) -> bool:
    """Whether a page's form made this request."""
    return (
        request.content_type == MEDIA_TYPE
        and wanted(request, "json", html.FORMS) == "page"
    )


async def token(request: web.Request) -> str:
    """The token that a form carries; empty for none, and for what is no form."""
    if not sent(request):
        return ""
    return (await _all(request)).get(TOKEN, "")


async def fields(request: web.Request, known: Collection[str]) -> Mapping[str, str]:
    """What was filled in, without the token; raises RequestError 400."""
    given = {
        name: value for name, value in (await _all(request)).items() if name != TOKEN
    }
    for name in given:
        if name not in known:
            raise RequestError(
                400,
                f"there is no field {name[:100]} in this form; "
                f"known: {', '.join(known) or 'none'}",
                {"field": name[:100], "known": list(known)},
            )
    return {name: value.strip() for name, value in given.items() if value.strip()}


async def trigger_wishes(request: web.Request) -> dict[str, Any]:
    """The keys of a trigger's body, as its form says them."""
    given = await fields(request, TRIGGER_FIELDS)
    repo, _, branch = given.get("where", "").partition(" ")
    wishes = {
        "repo": repo or None,
        "ref": branch or None,
        "rev": given["rev"].lower() if "rev" in given else None,
        "force": "force" in given,
    }
    return trigger_keys(json.dumps(wishes).encode())


def see(request: web.Request, answer: web.Response, path: str) -> web.Response:
    """`answer` for a program; for a form the page at `path`."""
    if not sent(request):
        return answer
    return web.Response(status=303, headers={hdrs.LOCATION: path})


async def _all(request: web.Request) -> dict[str, str]:
    raw = await read_body(request)
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError as error:
        raise RequestError(
            400, "the form cannot be read; load its page again and send it once more"
        ) from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestError(400, "a field of the form is given twice; give it once")
    return found
