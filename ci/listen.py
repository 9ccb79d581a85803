"""The two listeners: where each application is reached, and by whom."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ci.adapters.metrics import Metrics
from ci.config import Address
from ci.errors import ConfigurationError


@dataclass(frozen=True)
class Listener:
    """An application, the address that the configuration gives it, its runner's options."""

    application: web.Application
    address: Address
    options: Mapping[str, Any] = field(default_factory=dict)


async def listen(
    stack: AsyncExitStack,
    listeners: Mapping[str, Listener],
    passed: Mapping[str, socket.socket],
) -> dict[str, str]:
    """Serve each until `stack` closes; return name -> URL (or `unix:/path`).

    A socket that systemd `passed` under the listener's name is taken instead of its
    address. Raises ConfigurationError when an address cannot be had.
    """
    urls = {}
    for name, listener in listeners.items():
        runner = web.AppRunner(listener.application, **listener.options)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        urls[name] = await _listen(runner, listener.address, passed.get(name))
    return urls


def count_refusals(
    metrics: Metrics,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def count(_request: web.Request, response: web.StreamResponse) -> None:
        if response.status != 404 and response.status >= 400:
            metrics.delivery("refused")

    return count


async def _listen(
    runner: web.AppRunner, address: Address, passed: socket.socket | None
) -> str:
    """Listen, and return where as a URL (or `unix:/path`)."""
    site: web.BaseSite
    try:
        if passed is not None:
            site = web.SockSite(runner, passed)
        elif address.path is not None:
            site = web.UnixSite(runner, str(address.path))
        else:
            site = web.TCPSite(runner, address.host, address.port)
        await site.start()
    except OSError as error:
        raise ConfigurationError(
            [f"cannot listen on {address}: {error.strerror or error}"]
        ) from error
    bound = runner.addresses[0]
    if isinstance(bound, tuple):
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{name}:{bound[1]}"
    return f"unix:{bound}"
