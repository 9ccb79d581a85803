"""The ways to the two listeners, for who has Tailscale: commands, nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from ci.config import Settings
from ci.config.units import Address, is_loopback

TAILNET = ".ts.net"
PORTS = {"http": 80, "https": 443}


def commands(settings: Settings) -> list[str]:
    """What leads to listeners on loopback; empty where something else has to.

    Done already they change nothing. For Funnel the path stands in the target, too
    (tailscale-funnel.md).
    """
    return [*_funnel(settings), *_serve(settings)]


def _funnel(settings: Settings) -> Iterator[str]:
    url, listener = _tailnet(settings.github.public_webhook_url), settings.listen.public
    if settings.github.webhook and url and _local(listener):
        yield (
            f"tailscale funnel --bg --yes --https={url.port or 443} "
            f"--set-path={url.path} http://{listener}{url.path}"
        )


def _serve(settings: Settings) -> Iterator[str]:
    url, listener = _tailnet(settings.public_url), settings.listen.private
    if url and _local(listener):
        port = url.port or PORTS[url.scheme]
        yield f"tailscale serve --bg --{url.scheme}={port} http://{listener}"


def _tailnet(url: str) -> SplitResult | None:
    parts = urlsplit(url)
    return parts if (parts.hostname or "").endswith(TAILNET) else None


def _local(listener: Address) -> bool:
    return listener.path is None and bool(listener.port) and is_loopback(listener.host)
