"""Who may ask: middlewares in front of every route of the private application.

Facts they rest on: `request.host` comes from an absolute request target, not from
`Host`, so both must agree, and the parser itself refuses a repeated or, in HTTP/1.1, a
missing `Host` (aiohttp 3.14, web_request.py). `tailscale serve` deletes the
`Tailscale-*` headers that its clients send, sets its own (RFC 2047 where a name is not
ASCII), and marks what comes from the internet with `Tailscale-Funnel-Request`
(tailscale, ipn/ipnlocal/serve.go).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from ci.config import Settings
from ci.config.units import is_loopback
from ci.errors import RequestError
from ci.serve import forms
from ci.serve.service import service_of
from ci.text import printable

SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
OWN_SITE = frozenset({"same-origin", "none"})
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
MAX_CALLER = 200
FUNNEL = "Tailscale-Funnel-Request"
LOGIN = "Tailscale-User-Login"

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]]+)(:[0-9]{1,5})?")


def host_name(netloc: str) -> str | None:
    """The host of `host[:port]` in lower case; None when it is nothing of the kind."""
    found = _HOST.fullmatch(netloc.lower())
    return found[1] if found else None


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Every name this server answers to, without ports."""
    public = urlsplit(settings.public_url).netloc
    names: Iterable[str] = (public, *settings.allowed_hosts)
    return LOCAL_HOSTS | {name for name in map(host_name, names) if name}


def allow_hosts(settings: Settings) -> Middleware:
    """Refuse names that are not ours (421): a rebound DNS name is a stranger's page."""
    allowed = allowed_hosts(settings)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(hdrs.HOST, "")
        if given != request.host or host_name(given) not in allowed:
            raise RequestError(
                421,
                "this server does not answer to that Host; use public_url, or add the "
                "name to allowed_hosts in its configuration",
                {"host": given[:255]},
            )
        return await handler(request)

    return middleware


@web.middleware
async def refuse_funnel(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what came from the internet (403), should Funnel ever point here."""
    if FUNNEL in request.headers:
        raise RequestError(
            403,
            "this address is not for the internet; let Tailscale Funnel point at the "
            "public listener, which has POST /webhook only",
        )
    return await handler(request)


@web.middleware
async def refuse_cross_site(
    request: web.Request, handler: Handler
) -> web.StreamResponse:
    """Refuse a change that another site's page asks a browser for (403)."""
    if request.method not in SAFE_METHODS:
        sites = request.headers.getall("Sec-Fetch-Site", [])
        origins = request.headers.getall(hdrs.ORIGIN, [])
        if not OWN_SITE.issuperset(sites) or not all(
            _own_origin(origin, request.host) for origin in origins
        ):
            raise RequestError(
                403, "another site's page asked for this; open the server's own page"
            )
    return await handler(request)


@web.middleware
async def refuse_encoded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a body that would have to be unpacked first (415): nothing here does."""
    if request.method not in SAFE_METHODS and hdrs.CONTENT_ENCODING in request.headers:
        raise RequestError(
            415, "bodies are read as they come; send it without Content-Encoding"
        )
    return await handler(request)


@web.middleware
async def require_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ask for the bearer token, when one is configured, before anything changes (401)."""
    token = service_of(request).api_token
    if token and request.method not in SAFE_METHODS:
        given = request.headers.get(hdrs.AUTHORIZATION, "")
        scheme, _, secret = given.partition(" ")
        if not given:
            scheme, secret = "bearer", await forms.token(request)
        if scheme.lower() != "bearer" or not _same(secret.strip(), token):
            way = "send Authorization: Bearer …"
            if forms.sent(request):
                way = "go back and type it in again"
            raise RequestError(401, f"this server asks for its token; {way}")
    return await handler(request)


def caller(request: web.Request, settings: Settings) -> str:
    """Who asks, for the record: never a proof of identity.

    Tailscale's login name counts only behind `tailscale serve`, where the listener is
    loopback or a Unix socket and so is the peer; else it is the peer's address.
    Printable, at most MAX_CALLER characters.
    """
    address, peer = settings.listen.private, request.remote
    local = address.path is not None or is_loopback(address.host)
    if local and (not peer or is_loopback(peer)) and FUNNEL not in request.headers:
        # Tailscale sets one; of several at least one is somebody else's.
        logins = request.headers.getall(LOGIN, [])
        login = _decoded(logins[0][:1000]).strip() if len(logins) == 1 else ""
        if login:
            return printable(login)[:MAX_CALLER]
    return printable(peer or "a local socket")[:MAX_CALLER]


def _decoded(value: str) -> str:
    """A header's text; what is not RFC 2047 stays as it is."""
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        return value


def _own_origin(origin: str, host: str) -> bool:
    scheme, _, netloc = origin.lower().partition("://")
    if scheme not in DEFAULT_PORTS:
        return False
    default = DEFAULT_PORTS[scheme]
    return netloc.removesuffix(default) == host.lower().removesuffix(default)


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(
        given.encode(errors="surrogateescape"), token.encode(errors="surrogateescape")
    )
