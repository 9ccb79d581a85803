"""Refusals that no application makes: in the one shape, without what runs here."""

from __future__ import annotations

import json

from aiohttp import hdrs, web

SERVER = "build-server"
SENTENCES = {
    400: "this is not a request that HTTP allows",
    431: "the head of the request is too large",
    503: "too many connections are open; try again later",
    504: "the server took too long",
    505: "this server speaks HTTP/1.1 and HTTP/1.0",
}


def refusal(status: int, sentence: str = "") -> web.Response:
    """An answer from 400 on in the one shape, without a word about what runs here."""
    headers = {
        hdrs.SERVER: SERVER,
        hdrs.CACHE_CONTROL: "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(
        status=status,
        body=_shape(status, sentence),
        content_type="application/json",
        headers=headers,
    )


def bare_refusal(status: int) -> bytes:
    """The same as bytes, for where there is no request to be answered."""
    body = _shape(status, "")
    head = (
        f"HTTP/1.1 {status} \r\nServer: {SERVER}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _shape(status: int, sentence: str) -> bytes:
    default = "the server failed; its log says why"
    sentence = sentence or SENTENCES.get(status, default)
    shape = {"error": sentence, "status": status, "detail": {}}
    return json.dumps(shape).encode() + b"\n"
