"""What went wrong between us and the server, as a sentence with its exit code."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse

from ci.client.address import TOKEN_VARIABLE, Address
from ci.client.exits import Exit, Failure, Refused, Unreachable
from ci.client.text import cut, printable

MAX_SENTENCE = 600

_CODES = {
    400: Exit.USAGE,
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    405: Exit.USAGE,
    408: Exit.UNREACHABLE,
    409: Exit.NOT_ALLOWED,
    410: Exit.NOT_FOUND,
    413: Exit.USAGE,
    416: Exit.USAGE,
    421: Exit.NOT_ALLOWED,
}
_GATEWAY = (502, 503, 504)
_ADDRESS = "--server, BUILD_SERVER_URL or client.toml with the right address"


def connection(
    address: Address, error: Exception, timeout: float | None = None
) -> Unreachable:
    """Why no answer came: from the name to the last byte."""
    return Unreachable(address.url, *_explained(address, error, timeout))


def _explained(
    address: Address, error: Exception, timeout: float | None
) -> tuple[str, str, str]:
    """What happened, what may be the matter, what to do about it."""
    doubt = getattr(error, "verify_message", "")
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return (
            "is not known here",
            "is Tailscale up (tailscale status)",
            f"tailscale up, then tailscale ping {address.host}; or --server",
        )
    if isinstance(error, TimeoutError):
        return (
            f"did not answer within {timeout:g} s" if timeout else "does not answer",
            "is that machine awake",
            f"wake the machine; tailscale ping {address.host}",
        )
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return (
            "takes no connection",
            "is build-server running there",
            "on that machine: systemctl status build-server",
        )
    if isinstance(error, PermissionError) and address.socket:
        group = f"ls -l {address.socket}"
        return "may not be opened by this user", "is it in the socket's group", group
    if isinstance(error, ConnectionError):
        return (
            "hung up before its answer ended",
            "is it being restarted",
            "on that machine: journalctl -u build-server",
        )
    if isinstance(error, HTTPException):
        return "does not speak HTTP", "is the port right", _ADDRESS
    if doubt:
        return f"is not trusted: {printable(doubt)}", "is the name right", _ADDRESS
    reason = error.strerror if isinstance(error, OSError) else None
    problem = f"cannot be reached: {printable(reason or type(error).__name__)}"
    return problem, "is this machine on the network", "tailscale status"


def foreign(address: Address, response: HTTPResponse | None = None) -> Unreachable:
    """Somebody answered, but not as a build-server does."""
    kind = ""
    if response is not None:
        media = response.headers.get_content_type()
        kind = f" (HTTP {response.status}, {cut(printable(media), 40)})"
    problem = f"is not a build-server{kind}"
    return Unreachable(address.url, problem, "is the address right", _ADDRESS)


def refusal(
    address: Address,
    response: HTTPResponse,
    raw: bytes,
    *,
    token: Callable[[], str | None],
) -> Failure:
    """The failure of an answer that is no success: redirect, refusal, stranger."""
    status = response.status
    if status < 400:
        to = cut(printable(response.headers.get("Location", "nowhere")), 200)
        problem = f"sends us on to {to}"
        return Unreachable(address.url, problem, "is that the right address", _ADDRESS)
    sentence = _sentence(raw)
    if sentence is None:
        if status in _GATEWAY:
            return Unreachable(
                address.url,
                f"has only a proxy that answers {status}",
                "is build-server running behind it",
                "on that machine: systemctl status build-server",
            )
        return foreign(address, response)
    if status == 401:
        sentence = (
            f"the server wants another token than that of {TOKEN_VARIABLE}"
            if token()
            else f"the server wants a token; put it into a file that {TOKEN_VARIABLE} names"
        )
    code = _CODES.get(status, Exit.ERROR if status >= 500 else Exit.USAGE)
    return Refused(code, sentence, status)


def _sentence(raw: bytes) -> str | None:
    """The `error` of the server's one shape of refusals."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("error"), str):
        return None
    return cut(printable(body["error"]), MAX_SENTENCE) if "status" in body else None
