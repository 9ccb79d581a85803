"""An HTTP endpoint that takes messages, as a target of Apprise's kind `json://`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class Mailbox:
    """Use it as a context. `messages` are those that it took, `refused` how many not.

    `status` is its answer to what comes; 0 answers nothing at all.
    """

    token: str = "t0ken-in-the-address"
    status: int = 200
    messages: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0

    async def __aenter__(self) -> Mailbox:
        application = web.Application()
        application.router.add_post(f"/{self.token}", self._take)
        application.router.add_route("*", f"/moved/{self.token}", self._moved)
        self._server = TestServer(application)
        await self._server.start_server(shutdown_timeout=0.1)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self._server.port}/{self.token}"

    @property
    def endless(self) -> str:
        """Redirects to itself for ever."""
        return f"json://127.0.0.1:{self._server.port}/moved/{self.token}"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.status == 0:
            await asyncio.sleep(3600)
        if self.status != 200:
            self.refused += 1
            return web.Response(status=self.status)
        self.messages.append(body)
        return web.Response(text="thanks")

    async def _moved(self, request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(request.path)
