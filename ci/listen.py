"""The two listeners: where each application is reached, by whom and by how many."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, cast

from aiohttp import web

from ci.adapters.connections import (
    Bounds,
    Connection,
    Connections,
    protocol_factory,
)
from ci.adapters.metrics import Metrics
from ci.config import Address
from ci.errors import HostFault
from ci.intake.quiet import quiet_logger

# Of the options of aiohttp's AppRunner, those that do not concern one connection.
OF_THE_RUNNER = ("handler_cancellation", "shutdown_timeout")
BACKLOG = 128
# A listener's connections take at most one in so many of the files this process may
# open: the database, the logs and the builds need some too.
SHARE_OF_FILES = 4


@dataclass(frozen=True)
class Listener:
    """An application, the address that the configuration gives it, its runner's options."""

    application: web.Application
    address: Address
    options: Mapping[str, Any] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)


async def listen(
    stack: AsyncExitStack,
    listeners: Mapping[str, Listener],
    passed: Mapping[str, socket.socket],
    metrics: Metrics | None = None,
) -> dict[str, str]:
    """Serve each until `stack` closes; return name -> URL (or `unix:/path`).

    A socket that systemd `passed` under the listener's name is taken instead of its
    address. Raises HostFault when an address cannot be had: that of a tailnet is there
    only once Tailscale is, and a name or a port may be had later, too.
    """
    urls = {}
    for name, listener in listeners.items():
        options = {"logger": quiet_logger(f"{__name__}.{name}"), **listener.options}
        of_runner = {key: options.pop(key) for key in OF_THE_RUNNER if key in options}
        runner = web.AppRunner(listener.application, **of_runner)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        connections = Connections(_affordable(listener.bounds))
        # There is one since setup().
        of_aiohttp = cast(web.Server, runner.server)
        factory = protocol_factory(of_aiohttp, connections, options)
        # So many are accepted at once, before the first of them can be given up.
        backlog = min(BACKLOG, connections.bounds.connections // 2)
        server = await _listen(factory, listener.address, passed.get(name), backlog)
        stack.callback(connections.stop)
        stack.callback(server.close)
        if metrics is not None:
            help_text = f"Connections to the {name} listener that are open."
            metrics.watch(f"{name}_connections", help_text, connections.__len__)
        urls[name] = _url(server)
    return urls


def count_refusals(
    metrics: Metrics,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def count(_request: web.Request, response: web.StreamResponse) -> None:
        if response.status != 404 and response.status >= 400:
            metrics.delivery("refused")

    return count


def _affordable(bounds: Bounds) -> Bounds:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return bounds
    return replace(bounds, connections=min(bounds.connections, soft // SHARE_OF_FILES))


async def _listen(
    factory: Callable[[], Connection],
    address: Address,
    passed: socket.socket | None,
    backlog: int,
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        if passed is not None:
            return await loop.create_server(factory, sock=passed, backlog=backlog)
        if address.path is not None:
            path = str(address.path)
            return await loop.create_unix_server(factory, path, backlog=backlog)
        host, port = address.host, address.port
        return await loop.create_server(factory, host, port, backlog=backlog)
    except OSError as error:
        # asyncio puts a sentence of its own around the system's, and since Python 3.13 in
        # the place of the one that an address is not there.
        number = error.errno or 0
        if "could not bind on any address" in str(error):
            number = errno.EADDRNOTAVAIL
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise HostFault(f"cannot listen on {address}: {reason}") from error


def _url(server: asyncio.Server) -> str:
    bound = server.sockets[0].getsockname()
    if isinstance(bound, tuple):
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{name}:{bound[1]}"
    return f"unix:{bound}"
