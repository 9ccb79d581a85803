"""What was seen at the public address, in words, and what mends it.

Three results, as for somebody who asks from the internet, and a fourth for when nobody
could be asked. https://tailscale.com/kb/1223/funnel (requirements of Funnel)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from urllib.parse import urlsplit

from ci.adapters.probe import Kind, Reply, Silence
from ci.adapters.resolver import Found
from ci.config import Settings
from ci.intake.webhook import SERVER
from ci.models import Check

NAME = "funnel"

# Tailscale's own answers for a target that is not there or does not answer.
NO_TARGET = (
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


class Reach(StrEnum):
    """Whether a webhook that GitHub sends would arrive here."""

    REACHABLE = "reachable"
    NOT_US = "reachable, but not us"
    UNREACHABLE = "not reachable"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One result: `detail` says what was seen, `fix` what to do about it."""

    reach: Reach
    detail: str
    fix: str = ""

    def check(self) -> Check:
        """For `/health` and the doctor."""
        good = self.reach is Reach.REACHABLE
        return Check(NAME, good, f"{self.reach}: {self.detail}", self.fix)


@dataclass(frozen=True)
class Place:
    """The public address, as the words below need it."""

    url: str
    listener: str

    @classmethod
    def of(cls, settings: Settings) -> Place:
        return cls(settings.github.public_webhook_url, str(settings.listen.public))

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def opening(self) -> str:
        """The command that points Funnel here."""
        parts = urlsplit(self.url)
        path = parts.path or "/"
        return (
            f"`tailscale funnel --bg --https={parts.port or 443} --set-path={path} "
            f"http://{self.listener}/webhook`"
        )


def reachable(place: Place, address: str) -> Finding:
    """Our own answer came back from `address`."""
    return Finding(Reach.REACHABLE, f"{place.url} leads here, by way of {address}")


def with_exceptions(best: Finding, seen: Sequence[Finding]) -> Finding:
    """`best`, which is good, with those of the same name that were not.

    That this host has no route to an address (IPv6 often) says nothing about it.
    """
    worse = [
        other.detail
        for other in seen
        if other.reach in (Reach.NOT_US, Reach.UNREACHABLE)
    ]
    if not worse:
        return best
    return replace(
        best, detail=f"{best.detail} (but not everywhere: {'; '.join(worse)})"
    )


def unresolved(place: Place, found: Found) -> Finding:
    """Public DNS gave no address."""
    if found.denied:
        return Finding(
            Reach.UNREACHABLE,
            f"public DNS ({', '.join(found.denied)}) knows no address of {place.host}",
            f"`tailscale funnel status` shows the name and whether Funnel is on; "
            f"{place.opening} switches it on. MagicDNS and HTTPS certificates must be "
            "on in the tailnet's admin console; a new name takes some minutes",
        )
    return Finding(
        Reach.UNKNOWN,
        f"no public DNS server answered ({'; '.join(found.silent)}): is this host "
        "online?",
        "this says nothing against Funnel; look at this host's own network. Where it "
        "lets no DNS out, name servers that can be asked in github.public_resolvers",
    )


def not_us(place: Place, address: str, reply: Reply) -> Finding:
    """Something answered, but without our proof."""
    status = reply.status
    seen = f"{place.url} answers {status} at {address}"
    if status == HTTPStatus.UNAUTHORIZED:
        return Finding(
            Reach.NOT_US,
            f"{seen}: whoever is there takes webhooks with another secret",
            "compare the address with `tailscale funnel status`: is another machine or "
            "server behind it? If it is this one, have it read its secret again "
            "(systemctl reload build-server)",
        )
    if status >= 500 and reply.server == SERVER:
        return Finding(
            Reach.NOT_US,
            f"{seen}: a build-server, which could not handle the question",
            "its own log says why",
        )
    if status in NO_TARGET:
        return Finding(
            Reach.NOT_US,
            f"{seen}: Tailscale is there, but finds nobody at its target",
            f"the target that `tailscale funnel status` shows must be listen.public "
            f"({place.listener}), where this server listens; {place.opening} corrects it",
        )
    if 300 <= status < 400:
        return Finding(
            Reach.NOT_US,
            f"{seen}, a redirect, which GitHub does not follow",
            "give GitHub, and github.public_webhook_url, the address it leads to",
        )
    return Finding(
        Reach.NOT_US,
        f"{seen}{f' ({reply.server})' if reply.server else ''}: another program, or "
        "another path",
        f"the path must lead to POST /webhook of {place.listener}, in "
        f"github.public_webhook_url and in Funnel: {place.opening}",
    )


def silent(place: Place, address: str, silence: Silence) -> Finding:
    """Nothing answered."""
    seen = f"{place.url} at {address}: {silence.reason}"
    match silence.kind:
        case Kind.NO_ROUTE:
            return Finding(
                Reach.UNKNOWN,
                f"this host has no way to {address} ({silence.reason}): is it online?",
                "this says nothing against Funnel; look at this host's own network",
            )
        case Kind.CERTIFICATE:
            fix = (
                "switch HTTPS certificates on in the tailnet's admin console; "
                f"`tailscale cert {place.host}` says what is wrong. A wrong clock makes "
                "good certificates look bad"
            )
        case Kind.REFUSED | Kind.BROKEN:
            fix = (
                f"`tailscale funnel status`; {place.opening} switches it on. The policy "
                'file must allow it (nodeAttrs: "funnel"), HTTPS certificates must be '
                "on; after a power cut `systemctl restart tailscaled` helps"
            )
        case _:
            fix = (
                "`tailscale status` and `tailscale funnel status`; then `systemctl "
                "restart tailscaled`, which mends a Funnel that hangs"
            )
    return Finding(Reach.UNREACHABLE, seen, fix)
