"""The doctor's look at what the internet reaches: the webhook, and nothing else of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from ci.adapters import tailscale
from ci.adapters.host import Run
from ci.config.settings import Settings
from ci.config.units import is_loopback
from ci.models import Check

NAME = "public"


async def exposure(
    settings: Settings, *, run: Run, environ: Mapping[str, str]
) -> Sequence[Check]:
    """Whether Funnel leads to what is private; nothing to say without Tailscale."""
    routes = await tailscale.public_routes(run=run, environ=environ)
    if routes is None:
        return []
    private = dict(_private(settings))
    exposed = [
        (route, private[place])
        for route in routes
        if (place := _place(route.to)) in private
    ]
    if not exposed:
        seen = "; ".join(map(str, routes)) or "Tailscale's Funnel is off"
        return [Check(NAME, True, seen)]
    said = "; ".join(f"{what} ({route})" for route, what in exposed)
    ports = sorted({route.at.rpartition(":")[2] for route, _ in exposed})
    off = "; ".join(f"tailscale funnel --https={port} off" for port in ports)
    return [
        Check(
            NAME,
            False,
            f"the internet reaches {said}",
            f"{off}; then serve it on a port that Funnel does not have (tailscale serve)",
        )
    ]


def _private(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where on this machine what listens that is for the tailnet, and what it is."""
    private = settings.listen.private
    where = str(private.path) if private.path is not None else str(private.port)
    yield where, "pages and API"
    if settings.cache is not None:
        url = urlsplit(settings.cache.url)
        if is_loopback(url.hostname or ""):
            yield str(url.port or (443 if url.scheme == "https" else 80)), "the cache"


def _place(to: str) -> str:
    """The port that a target names, or the path of its socket file; else empty.

    Whatever host it names: the tailnet's own address leads to the same listener.
    """
    if to.startswith("unix:"):
        return to.removeprefix("unix:")
    try:
        port = urlsplit(to if "://" in to else f"tcp://{to}").port
    except ValueError:
        return ""
    return "" if port is None else str(port)
