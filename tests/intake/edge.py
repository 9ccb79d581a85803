"""The public edge as it runs in production: real sockets, real ledger, real history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from aiohttp import ClientSession

from ci.adapters.connections import Bounds
from ci.config import Address, Settings
from ci.door import Refusal
from ci.history import deliveries
from ci.history.database import Database
from ci.intake.body import BodyReader
from ci.intake.ledger import Ledger
from ci.intake.strangers import Lanes
from ci.intake.webhook import BOUNDS, public_application, runner_options
from ci.listen import Listener, listen
from ci.wake import Wake
from tests.fakes.push import SECRET, encode, headers
from tests.fakes.waiting import PATIENCE

Answer = tuple[int, dict[str, Any]]


@dataclass
class Edge:
    """A running public application on `port` of the loopback."""

    database: Database
    port: int
    client: ClientSession
    secrets: list[bytes]
    wake: Wake
    # How many times a signature was missing or wrong.
    unsigned: list[None] = field(default_factory=list)
    # What was turned away, in order.
    refused: list[Refusal] = field(default_factory=list)

    async def post(
        self, body: bytes, headers: Mapping[str, str], path: str = "/webhook"
    ) -> Answer:
        data = BytesIO(body)
        async with self.client.post(path, data=data, headers=headers) as response:
            return response.status, json.loads(await response.read())

    async def deliver(
        self, payload: object, event: str = "push", **more: str
    ) -> Answer:
        """A signed delivery; `more` goes to the headers."""
        body = encode(payload)
        return await self.post(body, headers(body, event=event, **more))

    async def rows(self, table: str = "deliveries") -> list[dict[str, Any]]:
        found = await self.database.read(
            lambda connection: connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 — a table's name
        )
        return [dict(row) for row in found]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, request: bytes, *, half_close: bool = False) -> bytes:
        """Everything the server says on one connection until it closes it."""
        reader, writer = await self.connect()
        writer.write(request)
        if half_close:
            writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def running_edge(
    database: Database,
    settings: Settings,
    reader: BodyReader | None = None,
    *,
    lanes: Lanes | None = None,
    bounds: Bounds = BOUNDS,
    **options: Any,
) -> AsyncIterator[Edge]:
    """Serve until the block ends; `options` replace those of the listener.

    `reader` reads the bodies of strangers and of known senders alike.
    """
    secrets, wake, unsigned = [SECRET], Wake(), list[None]()
    refused: list[Refusal] = []
    ledger = Ledger(
        lambda arrivals: database.write(deliveries.accept, arrivals),
        wake,
        # GitHub's own would be 503 where a flush of this machine's disk takes as long.
        patience=PATIENCE,
    )
    application = public_application(
        settings=settings,
        secrets=lambda: secrets,
        ledger=ledger,
        lanes=lanes or (Lanes(reader, reader) if reader else None),
        on_unsigned=lambda: unsigned.append(None),
        on_refused=refused.append,
    )
    listener = Listener(
        application, Address("127.0.0.1", 0), runner_options() | options, bounds
    )
    async with AsyncExitStack() as stack:
        running = asyncio.create_task(ledger.run())
        stack.push_async_callback(_ended, running)
        urls = await listen(stack, {"public": listener}, {})
        client = await stack.enter_async_context(ClientSession(urls["public"]))
        port = int(urls["public"].rpartition(":")[2])
        yield Edge(database, port, client, secrets, wake, unsigned, refused)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
