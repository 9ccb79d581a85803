"""Strangers wait in a lane of their own: whoever has never signed well since the start.

Who sends a body is known only when all of it is here. So nothing may depend on a bad
signature alone: GitHub's machines deliver the webhooks of anybody who names our address
in a repository of his own, with a secret of his own, from the addresses that our pushes
come from. What is limited is therefore not the sender of bad signatures but the room for
bodies that are still on their way. Senders who have signed well share one reader, all
others another one with less memory, so no flood of strangers takes anything from those
who are known; and in either lane only who dawdles is given up (ci/intake/body.py). A
body that comes in one piece with its head takes no room, and no lane is asked.
"""

from __future__ import annotations

from collections import OrderedDict

from aiohttp import web

from ci.config.units import is_loopback
from ci.intake.body import MAX_BODY, MIB, BodyReader

KNOWN = 1024
MAX_SOURCE = 64
LOCAL = "local"


class Lanes:
    """Two readers of bodies, and the last `remembered` sources that signed well."""

    def __init__(
        self,
        known: BodyReader | None = None,
        strangers: BodyReader | None = None,
        *,
        remembered: int = KNOWN,
    ) -> None:
        self._lane = known or BodyReader()
        self._strangers = strangers or BodyReader(
            memory=MAX_BODY + 8 * MIB, given_up=429
        )
        self._remembered = remembered
        # The one that was heard of last is at the end.
        self._known: OrderedDict[str, None] = OrderedDict()

    async def read(self, request: web.Request) -> bytes:
        """The body; RequestError as BodyReader says, 429 for a stranger in the way."""
        known = source(request) in self._known
        return await (self._lane if known else self._strangers).read(request)

    def signed_well(self, request: web.Request) -> None:
        """Remember where this request came from."""
        name = source(request)
        self._known[name] = None
        self._known.move_to_end(name)
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)


def source(request: web.Request) -> str:
    """The address that a request came from.

    Behind Funnel the peer is this machine's tailscaled, which sets X-Forwarded-For to
    the address of its own peer (tailscale, ipn/ipnlocal/serve.go); from anybody else the
    header means nothing. A local process can pretend to be anybody.
    """
    peer = request.remote or LOCAL
    if peer in (LOCAL, "127.0.0.1") or is_loopback(peer):
        hops = request.headers.getall("X-Forwarded-For", ())
        last = hops[-1].rpartition(",")[2].strip() if hops else ""
        return last[:MAX_SOURCE] or peer
    return peer
