"""Servers that are not there, not ours, slow, or lie: one clear line, and exit 6."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from ci.client.http import skew
from ci.models import BuildState
from tests.client.conftest import House
from tests.client.programs import AT_ONCE, Programs, Ran

Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HTML = "<html>Welcome to \x1b[31mnginx</html>"
FOREVER = 3600


@asynccontextmanager
async def stranger(connection: Connection) -> AsyncIterator[str]:
    """A server on a real socket that is not ours; yields its URL."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def accept(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        tasks.add(asyncio.current_task())
        try:
            await connection(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        # First the connections: from Python 3.12 on a server waits for them.
        known = [task for task in tasks if task is not None]
        for task in known:
            task.cancel()
        await asyncio.gather(*known)
        server.close()
        await server.wait_closed()


def says(text: str) -> Connection:
    """Answers whatever it is asked with `text`, and hangs up."""

    async def connection(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        writer.write(text.encode())
        await writer.drain()

    return connection


def answers(
    body: str,
    status: str = "200 OK",
    media: str = "application/json",
    length: int | None = None,
) -> str:
    length = len(body) if length is None else length
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\n"
        f"Content-Length: {length}\r\n\r\n{body}"
    )


def by_path(table: Mapping[str, str]) -> Connection:
    """Answers one request by its path, and hangs up without having said that it would."""

    async def connection(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = request.split(" ")[1].partition("?")[0]
        writer.write(table[path].encode())
        await writer.drain()

    return connection


BUILD = {
    "number": 1,
    "repo": "o/n",
    "branch": None,
    "sha": "1a2b3c4",
    "title": "t",
    "author": "",
    "state": "succeeded",
    "cause": "push",
    "attempt": 1,
    "queued_at": "2026-11-20T05:30:00.000Z",
    "started_at": None,
    "finished_at": None,
    "seconds": None,
    "summary": "",
    "url": "http://b/builds/1",
    "targets": [],
}


STATUS = answers(json.dumps({"deliveries": {"missed": 0, "recovered": 0}}))
STRANGERS = [
    "",
    "SSH-2.0-OpenSSH_9.2p1\r\n",
    "\x00\x01\x02" * 1000,
    "HTTP/1.1 2OO OK\r\n\r\n",
    "HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 1000 + "\r\n",
    answers(HTML, media="text/html"),
    answers(HTML, "404 Not Found", "text/html"),
    answers(HTML, "502 Bad Gateway", "text/html"),
    answers(HTML, "500 Oops", "\x1b[31mtext"),
    answers("", "301 Moved", "x\r\nLocation: http://other.example/\x1b[31m"),
    answers("", "204 Nothing"),
    answers('{"error": 5, "status": 404}', "404 Not Found"),
    answers("[" * 100_000),
    answers("{}"),
    answers("[]"),
    answers("null"),
    answers(json.dumps({**BUILD, "number": "1"})),
    answers(json.dumps({**BUILD, "targets": [{"name": 7}]})),
    answers(json.dumps({**BUILD, "title": ["t"]})),
    HEAD + "Content-Length: 100\r\n\r\n{",
    HEAD + "Transfer-Encoding: chunked\r\n\r\nffffff\r\n{",
    HEAD + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{",
]


async def test_what_is_no_build_server(programs: Programs) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(said: str) -> None:
        async with turns, stranger(says(said)) as url:
            ran = await programs.run("bs", "1", BUILD_SERVER_URL=url)
        _unreachable(ran, url)
        assert "\x1b" not in ran.err

    await asyncio.gather(*map(one, STRANGERS))


async def test_the_same_answer_whole_is_taken(programs: Programs) -> None:
    async with stranger(says(answers(json.dumps(BUILD)))) as url:
        ran = await programs.run("bs", "1", BUILD_SERVER_URL=url)
    assert (ran.code, ran.err) == (0, "")


async def test_a_connection_that_lay_idle_may_be_gone(programs: Programs) -> None:
    repository = {"name": "o/n", "url": "https://x/o/n"}
    table = {
        "/client.json": answers(json.dumps({"repositories": [repository]})),
        "/builds": answers(json.dumps({"builds": [BUILD], "next": None})),
        "/build/status": STATUS,
    }
    async with stranger(by_path(table)) as url:
        ran = await programs.run("bs", BUILD_SERVER_URL=url)
    assert (ran.code, ran.err) == (0, "")


async def test_a_log_that_is_cut_off_is_not_whole(programs: Programs) -> None:
    table = {
        "/builds/1": answers(json.dumps(BUILD)),
        "/builds/1/log": answers("x> one line\n", media="text/plain", length=100),
    }
    async with stranger(by_path(table)) as url:
        ran = await programs.run("bl", "-q", "1", BUILD_SERVER_URL=url)
    assert (ran.code, ran.out) == (6, "x> one line\n")
    assert "hung up" in ran.err


async def test_ages_are_told_by_the_server_s_clock(programs: Programs) -> None:
    date = "x\r\nDate: Wed, 01 Jan 2020 00:06:30 GMT"
    build = {**BUILD, "finished_at": "2020-01-01T00:00:00.000Z"}
    index = {"version": "0", **BUILD}
    table = {
        "/builds/1": answers(json.dumps(build), media=date),
        "/build/status": STATUS,
        "/index.json": answers(json.dumps(index), media=date),
        "/builds/0/cancel": answers('{"error": "", "status": 404}', "404 None"),
        "/health": answers('{"checks": []}'),
    }
    async with stranger(by_path(table)) as url:
        shown = await programs.on_terminal("bs", "1", BUILD_SERVER_URL=url)
        doctor = await programs.run("build-client", "doctor", BUILD_SERVER_URL=url)
    assert "· 6m ago" in shown.out
    assert "ahead of the server's\ttimedatectl" in doctor.out


@pytest.mark.parametrize(
    ("second", "sent", "now", "ahead"),
    [
        (100, 100.2, 100.3, 0),
        (98, 100.2, 100.3, 0),
        (106, 100.2, 100.3, 6.2),
        (90, 100.2, 100.3, -9.8),
        # It was told at once, and came when the machine went on.
        (100, 100.2, 109.3, 0),
        (112, 100.2, 108.3, 4.2),
        (90, 100.2, 109.3, -18.8),
    ],
)
def test_an_answer_that_took_long_says_little_of_the_clock(
    second: int, sent: float, now: float, ahead: float
) -> None:
    date = formatdate(second, usegmt=True)
    assert skew(date, sent, now) == pytest.approx(ahead)
    assert skew(None, sent, now) == skew("nonsense", sent, now) == 0


async def test_a_redirect_is_not_followed_and_the_token_stays(
    programs: Programs, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("open-sesame")
    seen: list[bytes] = []

    async def thief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1))

    async with stranger(thief) as target:
        away = answers("", "307 Elsewhere", f"x\r\nLocation: {target}/")
        async with stranger(says(away)) as url:
            for argv in (["bt"], ["bs", "1"]):
                ran = await programs.run(
                    *argv, BUILD_SERVER_URL=url, BUILD_SERVER_TOKEN_FILE=str(token)
                )
                _unreachable(ran, url)
                assert target in ran.err
    assert seen == []


async def _never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(FOREVER)


def _drips(text: str, pause: float) -> Connection:
    async def connection(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            writer.write(text.encode())
            await writer.drain()
            await asyncio.sleep(pause)

    return connection


@pytest.mark.parametrize(
    "connection",
    [
        _never,
        _drips("H", 0.02),
        _drips(f"{HEAD}Content-Length: 9999999\r\n\r\n ", 0.02),
        _drips(f"{HEAD}\r\n" + " " * 65536, 0.01),
    ],
)
async def test_a_slow_server_costs_no_more_than_the_timeout(
    programs: Programs, connection: Connection
) -> None:
    async with stranger(connection) as url:
        started = time.monotonic()
        ran = await programs.run("bs", "1", "--timeout", "0.4", BUILD_SERVER_URL=url)
        took = time.monotonic() - started
    _unreachable(ran, url)
    assert "0.4 s" in ran.err
    # For ever, else.
    assert took < 20


async def test_nobody_listens(programs: Programs, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for argv in (["bs"], ["bt", "-f"], ["bl"], ["build-client", "history"]):
            ran = await programs.run(*argv, BUILD_SERVER_URL=url)
            _unreachable(ran, url)
    missing = f"unix:{tmp_path}/none"
    _unreachable(await programs.run("bs", "--server", missing), missing)


async def test_unknown_name(programs: Programs) -> None:
    # Whatever becomes of the question, a name server that is silent takes no longer.
    programs.environ |= {"RES_OPTIONS": "timeout:1 attempts:1", "LOCALDOMAIN": ""}
    ran = await programs.run("bs", "--server", "build-server.invalid")
    _unreachable(ran, "http://build-server.invalid:8000")
    assert "tailscale status" in ran.err


async def test_server_behind_a_unix_socket(house: House, tmp_path: Path) -> None:
    await house.served.add(1, BuildState.SUCCEEDED)
    runner = web.AppRunner(house.application())
    await runner.setup()
    path = tmp_path / "socket"
    await web.UnixSite(runner, str(path)).start()
    try:
        assert (await house.run("bs", "1", "--server", f"unix:{path}")).code == 0
    finally:
        await runner.cleanup()


def _unreachable(ran: Ran, url: str) -> None:
    """Exit 6, and one line that names the address and asks a question."""
    assert (ran.code, ran.out, ran.err.count("\n")) == (6, "", 1), ran
    assert f": {url} " in ran.err
    assert ran.err.endswith("?\n")
