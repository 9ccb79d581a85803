"""Names as the internet sees them: asked at public DNS servers, never at the system's.

Inside a tailnet the system's resolver (MagicDNS, /etc/hosts) knows a machine by its
tailnet address, whether or not anybody outside can reach it. The library that speaks
DNS (dnspython) is loaded by the first question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.config import Address
from ci.text import printable

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

KINDS = ("A", "AAAA")
# A datagram may get lost: within `timeout` a server is asked again after this long.
TRY_SECONDS = 1.5
_GRACE = 1.0


@dataclass(frozen=True)
class Found:
    """What the DNS servers said of a name.

    `addresses` of both kinds, IPv4 first, from the server that told any first. Without
    addresses there are `denied`, the servers that know no such name or no address of
    it, and `silent`, those that gave no usable answer, each with its reason.
    """

    addresses: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


async def find_addresses(
    name: str,
    servers: Sequence[Address],
    *,
    timeout: float,  # noqa: ASYNC109
) -> Found:
    """Ask all of `servers` for `name` at once, by UDP; takes `timeout` seconds at most."""
    resolvers = await asyncio.to_thread(_resolvers, servers, timeout)
    asked = [
        asyncio.create_task(_ask_server(server.host, resolver, name, timeout))
        for server, resolver in zip(servers, resolvers, strict=True)
    ]
    denied: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    try:
        for told in asyncio.as_completed(asked):
            found = await told
            if found.addresses:
                return found
            denied, silent = denied + found.denied, silent + found.silent
    finally:
        for task in asked:
            task.cancel()
    return Found((), denied, silent)


def _resolvers(servers: Sequence[Address], timeout: float) -> list[Resolver]:
    """One for each server; here, in a thread, the library is loaded from disk."""
    import dns.asyncbackend
    from dns.asyncresolver import Resolver
    from dns.nameserver import Do53Nameserver

    dns.asyncbackend.get_backend("asyncio")
    made = []
    for server in servers:
        resolver = Resolver(configure=False)
        resolver.nameservers = [Do53Nameserver(server.host, server.port)]
        resolver.timeout = min(TRY_SECONDS, timeout)
        resolver.lifetime = timeout
        made.append(resolver)
    return made


async def _ask_server(
    server: str, resolver: Resolver, name: str, seconds: float
) -> Found:
    """What one of the servers says."""
    asked = (_ask(resolver, name, kind, seconds) for kind in KINDS)
    told = await asyncio.gather(*asked)
    addresses = tuple(address for found, _ in told for address in found)
    problem = next((problem for _, problem in told if problem), "")
    if addresses:
        return Found(addresses)
    if problem:
        return Found(silent=(f"{server}: {problem}",))
    return Found(denied=(server,))


async def _ask(
    resolver: Resolver, name: str, kind: str, seconds: float
) -> tuple[list[str], str]:
    import dns.asyncbackend
    import dns.exception
    import dns.resolver

    backend = dns.asyncbackend.get_backend("asyncio")
    try:
        # The library measures its own limit by the wall clock, which may be set.
        async with asyncio.timeout(seconds + _GRACE):
            answer = await resolver.resolve(name, kind, search=False, backend=backend)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return [], ""
    except (TimeoutError, dns.exception.Timeout):
        return [], f"no answer in {seconds:g} s"
    except (dns.exception.DNSException, OSError) as error:
        return [], printable(str(error)) or type(error).__name__
    return [str(record) for record in answer], ""
