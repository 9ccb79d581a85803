"""The public edge as it runs in production: real sockets, real ledger, real history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from aiohttp import ClientSession, web

from ci.config import Settings
from ci.history import deliveries
from ci.history.database import Database
from ci.intake.body import BodyReader
from ci.intake.ledger import Ledger
from ci.intake.webhook import public_application, runner_options
from ci.wake import Wake
from tests.fakes.push import SECRET, encode, headers

Answer = tuple[int, dict[str, Any]]


@dataclass
class Edge:
    """A running public application on `port` of the loopback."""

    database: Database
    port: int
    client: ClientSession
    secrets: list[bytes]
    wake: Wake

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
    **options: Any,
) -> AsyncIterator[Edge]:
    """Serve until the block ends; `options` replace those of the runner."""
    secrets, wake = [SECRET], Wake()
    ledger = Ledger(lambda arrivals: database.write(deliveries.accept, arrivals), wake)
    application = public_application(
        settings=settings, secrets=lambda: secrets, ledger=ledger, reader=reader
    )
    runner = web.AppRunner(application, **(runner_options() | options))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    running = asyncio.create_task(ledger.run())
    try:
        async with ClientSession(f"http://127.0.0.1:{site.port}") as client:
            yield Edge(database, site.port, client, secrets, wake)
    finally:
        await runner.cleanup()
        running.cancel()
        await asyncio.wait([running])
