"""What Tailscale's Funnel lets the internet reach on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ci.adapters.host import Run
from ci.errors import HostFault

ANSWER_SECONDS = 10.0
STATUS = ("tailscale", "funnel", "status", "--json")


@dataclass(frozen=True)
class Route:
    """A way in: what comes to `path` (empty: everything) at `at` (`HOST:PORT`) goes `to`.

    `to` is a URL, `HOST:PORT` for TCP, the path of a file, or empty for a fixed text.
    """

    at: str
    path: str
    to: str

    def __str__(self) -> str:
        return f"{self.at}{self.path} → {self.to or 'a text'}"


async def public_routes(
    *, run: Run, environ: Mapping[str, str]
) -> tuple[Route, ...] | None:
    """All routes that are public now; None where Tailscale is not here, or does not tell."""
    try:
        done = await run(list(STATUS), env=environ, timeout=ANSWER_SECONDS)
        if done.code != 0:
            return None
        status = json.loads(done.stdout)
    except (HostFault, TimeoutError, ValueError):
        return None
    # null, where nothing was ever configured.
    return tuple(_public(status)) if isinstance(status, dict) else ()


def _public(status: Mapping[str, Any]) -> Iterator[Route]:
    """Funnel is switched on for a port, and what is served there is public with it.

    A command that runs in a terminal has a configuration of its own (ipn.ServeConfig).
    """
    configs = [status, *_table(status, "Foreground").values()]
    ports = {
        at.rpartition(":")[2]
        for config in configs
        for at, on in _table(config, "AllowFunnel").items()
        if on
    }
    for config in configs:
        for at, site in _table(config, "Web").items():
            if at.rpartition(":")[2] in ports:
                for path, handler in _table(site, "Handlers").items():
                    to = handler.get("Proxy") or handler.get("Path") or ""
                    yield Route(at, path, str(to))
        for port, handler in _table(config, "TCP").items():
            if port in ports and handler.get("TCPForward"):
                yield Route(f":{port}", "", str(handler["TCPForward"]))


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Go writes null for an empty map."""
    return config.get(key) or {}
