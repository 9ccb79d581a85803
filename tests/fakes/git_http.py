"""An Origin served over HTTP on loopback, the way a forge does: git's own CGI program.

It can ask for a password, hang, and hang up in the middle of an answer.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fakes.repository import Origin


@dataclass
class GitServer:
    """What the server was asked (`authorizations`), and how it should misbehave.

    `password` None lets everybody in; `cut` is the number of bytes after which it hangs
    up; while `hold` is not set, the answer to the request for objects does not begin.
    """

    origin: Origin
    url: str = ""
    password: str | None = None
    status: int = 200
    cut: int | None = None
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        self.authorizations.append(request.headers.get("Authorization", ""))
        if self.status != 200:
            return web.Response(status=self.status, headers={"Location": "/elsewhere"})
        wanted = base64.b64encode(f"x-access-token:{self.password}".encode()).decode()
        if self.password is not None and self.authorizations[-1] != f"Basic {wanted}":
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        if request.method == "POST":
            self.asked.set()
            await self.hold.wait()
        return await self._answer(request, await self._run(request))

    async def _run(self, request: web.Request) -> bytes:
        names = {
            "CONTENT_TYPE": "Content-Type",
            "HTTP_CONTENT_ENCODING": "Content-Encoding",
            "HTTP_GIT_PROTOCOL": "Git-Protocol",
        }
        process = await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            env={
                "PATH": os.environ["PATH"],
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROJECT_ROOT": str(self.origin.path.parent),
                "PATH_INFO": request.path,
                "QUERY_STRING": request.query_string,
                "REMOTE_ADDR": "127.0.0.1",
                "REQUEST_METHOD": request.method,
                **{name: request.headers.get(key, "") for name, key in names.items()},
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return (await process.communicate(await request.read()))[0]

    async def _answer(self, request: web.Request, said: bytes) -> web.StreamResponse:
        head, _, body = said.partition(b"\r\n\r\n")
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        headers = {name: value for name, value in lines if name != "Status"}
        status = next((value for name, value in lines if name == "Status"), "200")
        response = web.StreamResponse(status=int(status.split()[0]), headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        if self.cut is not None and request.method == "POST":
            await response.write(body[: self.cut])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(body)
        return response


@asynccontextmanager
async def git_server(origin: Origin) -> AsyncIterator[GitServer]:
    """Serve `origin`; answers at once until told otherwise."""
    server = GitServer(origin)
    server.hold.set()
    application = web.Application(client_max_size=2**26)
    application.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(application) as running:
        server.url = str(running.make_url(f"/{origin.path.name}"))
        yield server
        server.hold.set()
