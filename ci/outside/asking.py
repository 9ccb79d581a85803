"""Asking ourselves at our public address, as GitHub would: one probe, one finding."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets as randomness
from collections.abc import Sequence

from ci.adapters import probe, resolver
from ci.adapters.probe import Kind, Reply, Silence
from ci.config import Settings
from ci.intake.probe import EVENT, proof, question
from ci.intake.signature import signature
from ci.outside import finding
from ci.outside.finding import Finding, Place, Reach

# Together they end well before GitHub's own patience with a delivery, 10 s each.
DNS_SECONDS = 4.0
ANSWER_SECONDS = 8.0
# Funnel has a handful; a name with hundreds is none of ours.
MOST_ADDRESSES = 8

LOCALHOST = ("127.0.0.1", "::1")


async def ask_outside(
    settings: Settings,
    secrets: Sequence[bytes],
    *,
    patience: float = ANSWER_SECONDS,
) -> Finding:
    """What somebody on the internet finds at github.public_webhook_url.

    `secrets` are those of the webhook, at least one. Takes at most about `patience`
    seconds more than DNS_SECONDS.
    """
    place = Place.of(settings)
    addresses = _literal(place.host)
    if not addresses:
        found = await resolver.find_addresses(
            place.host,
            settings.github.public_resolvers,
            timeout=min(DNS_SECONDS, patience),
        )
        addresses = found.addresses[:MOST_ADDRESSES]
        if not addresses:
            return finding.unresolved(place, found)
    seen = await asyncio.gather(
        *(_ask_at(place, address, secrets, patience) for address in addresses)
    )
    best = _best(seen)
    if best.reach is not Reach.REACHABLE or addresses == LOCALHOST:
        return best
    return finding.with_exceptions(best, seen)


def _literal(host: str) -> tuple[str, ...]:
    """The addresses of a host that needs no DNS; none for any other."""
    if host == "localhost" or host.endswith(".localhost"):
        return LOCALHOST
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return ()
    return (host,)


async def _ask_at(
    place: Place, address: str, secrets: Sequence[bytes], patience: float
) -> Finding:
    """The finding at one of the addresses, with whichever secret it takes."""
    seen: Reply | Silence = Silence(Kind.BROKEN, "there is no secret to ask with")
    try:
        async with asyncio.timeout(patience):
            for secret in secrets:
                # Never used before, so that no answer could be one heard earlier.
                body = question(randomness.token_bytes(32))
                seen = await _post(place.url, body, secret, address, patience)
                if isinstance(seen, Silence):
                    break
                if _proves(seen, secret, body):
                    return finding.reachable(place, address)
                if seen.status != 401:
                    break
    except TimeoutError:
        seen = Silence(Kind.TIMEOUT, f"no answer in {patience:g} s")
    if isinstance(seen, Silence):
        return finding.silent(place, address, seen)
    return finding.not_us(place, address, seen)


async def _post(
    url: str, body: bytes, secret: bytes, address: str, patience: float
) -> Reply | Silence:
    headers = {
        "Content-Type": "text/plain",
        "User-Agent": EVENT,
        "X-GitHub-Event": EVENT,
        "X-Hub-Signature-256": signature(body, secret),
    }
    return await probe.post(url, body, headers, address=address, timeout=patience)


def _proves(reply: Reply, secret: bytes, asked: bytes) -> bool:
    try:
        answer = json.loads(reply.body)
        given = str(answer["probe"]).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return hmac.compare_digest(given, proof(secret, asked).encode())


def _best(seen: Sequence[Finding]) -> Finding:
    """The finding at one address that tells most about all of them."""
    order = (Reach.REACHABLE, Reach.NOT_US, Reach.UNREACHABLE, Reach.UNKNOWN)
    return min(seen, key=lambda found: order.index(found.reach))
