"""Whatever bytes a delivery has, its end is one of those that are documented."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

from aiohttp import hdrs
from hypothesis import example, given, settings, strategies as st
from multidict import CIMultiDict

from ci.errors import RequestError
from ci.history import deliveries
from ci.history.deliveries import Arrival
from ci.intake.arrival import Reception
from ci.intake.push import Ignored, Ping, Push, parse
from ci.intake.signature import verified
from tests.fakes.history import memory
from tests.fakes.push import REPO, SECRET, encode, headers, make_ping, make_push, sign
from tests.intake.conftest import make_settings
from tests.intake.edge import Edge

SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
REPOSITORIES = make_settings({"name": REPO, "branches": ["dev"]}).repositories
GOOD = [encode(make_push(3)), encode(make_push(0, deleted=True)), encode(make_ping())]
# What parsers trip over, in the places where it hurts.
ODD = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b"-0",
    b'"\\ud800"',
    b'"\\u0000"',
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"__proto__":1,',
    b'"ref":"refs/heads/dev",',
    b"[" * 3000,
    b'{"commits":' * 3000,
    b"null",
    b"\\",
    b'"',
    b"/**/",
]


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A good body with pieces taken out, repeated, replaced or put in."""
    body = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 200)))
        new = draw(st.sampled_from(ODD) | st.binary(max_size=20) | st.just(body[:end]))
        body = body[:start] + new + body[end:]
    return body


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@st.composite
def with_another_value(draw: st.DrawFn) -> bytes:
    """A push that is good JSON, with another value somewhere."""
    payload = make_push(2)
    place: Any = payload
    key = draw(st.sampled_from(sorted(payload)))
    while isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
        place = place[key]
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
    place[key] = draw(VALUES)
    return json.dumps(payload).encode()


BODIES = st.binary(max_size=200) | bent() | with_another_value()
EVENTS = st.sampled_from(["push", "ping", "Push", "push ", "__class__"]) | st.text()


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or the refusal that it raises."""
    try:
        return function(*arguments)
    except RequestError as refusal:
        return refusal


@given(EVENTS, BODIES)
@example("push", b"")
@example("push", b"[" * 1_000_000)
def test_the_parser_knows_or_refuses(event: str, body: bytes) -> None:
    said = outcome(parse, event, body)
    if isinstance(said, RequestError):
        assert said.status == 400
        assert event in ("push", "ping")
        assert len(said.message) < 1000
        return
    assert isinstance(said, Push | Ping | Ignored)
    if isinstance(said, Push):
        shas = [said.before, said.after, *(commit.id for commit in said.commits)]
        assert all(SHA.fullmatch(sha) for sha in shas)


HEADER_TEXT = st.text(
    st.characters(exclude_characters="\r\n\0", exclude_categories=[]), max_size=150
)
CHANGES = st.dictionaries(
    st.sampled_from(
        [
            "X-GitHub-Event",
            "X-GitHub-Delivery",
            "X-GitHub-Hook-ID",
            hdrs.CONTENT_TYPE,
            hdrs.CONTENT_ENCODING,
        ]
    ),
    HEADER_TEXT | st.just("application/json; charset=bogus"),
    max_size=2,
)


@settings(max_examples=60)
@given(CHANGES, BODIES)
def test_what_is_understood_can_be_recorded(
    changes: dict[str, str], body: bytes
) -> None:
    given_headers = CIMultiDict({**headers(body), **changes})
    reception = Reception(REPOSITORIES, "build-server", {})
    arrival = outcome(reception.arrival, given_headers, body, 1)
    if isinstance(arrival, RequestError):
        assert arrival.status in (400, 415)
        return
    assert isinstance(arrival, Arrival)
    with closing(memory()) as history:
        receipt = deliveries.accept(history, [arrival])[0]
        assert receipt.accepted == bool(arrival.plan)
        assert deliveries.accept(history, [arrival])[0].duplicate
        (row,) = history.execute("SELECT * FROM deliveries").fetchall()
        assert row["guid"] == given_headers["X-GitHub-Delivery"]


@given(st.binary(max_size=100), st.integers(0, 70))
def test_no_bytes_make_a_signature(noise: bytes, kept: int) -> None:
    """As aiohttp decodes a header: UTF-8, and surrogates for what is none."""
    value = (sign(b"body").encode()[:kept] + noise)[:200]
    header = value.decode("utf-8", "surrogateescape")
    assert verified(b"body", header, [SECRET]) == (header == sign(b"body"))


async def test_every_byte_in_the_signature_header_is_a_refusal(edge: Edge) -> None:
    body = encode(make_push(1))
    fields = headers(body)
    good = fields.pop("X-Hub-Signature-256").encode()
    lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
    head = "POST /webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + "".join(lines)

    async def status(value: bytes) -> int:
        answer = await edge.raw(
            head.encode()
            + b"X-Hub-Signature-256: "
            + value
            + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        return int(answer.split()[1])

    for byte in range(256):
        one = bytes([byte])
        values = {one, good[:-1] + one, b"sha256=" + one * 64} - {good}
        told = await asyncio.gather(*(status(value) for value in values))
        # The parser itself refuses what no header may hold.
        assert set(told) <= ({401} if byte >= 32 and byte != 127 else {400, 401}), byte
    assert await edge.rows() == []
    assert await status(good) == 202
