"""One connection: back pressure, silence, giving up; every version of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ci.adapters.nix_daemon import BuildStatus, Daemon, Event, LogLine, connect
from ci.adapters.nix_daemon.connection import Connection
from ci.adapters.nix_daemon.operations import read_flag
from ci.adapters.nix_daemon.transport import through_socket
from ci.adapters.nix_daemon.wire import integers, string
from ci.errors import DaemonLost
from tests.adapters.nix_cases import PATH, Location, direct, instantiate
from tests.adapters.nix_parsing import LAST, RESULT
from tests.fakes.nix_stores import NixStore

GREETING = integers(0x6478696F, 1 << 8 | 34) + string("2.8.0") + integers(LAST)
OUR_GREETING = 4 * 8
LINE = integers(RESULT, 1, 101, 1, 1) + string(b"x" * 4096)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
Serve = Callable[[Talk], AbstractAsyncContextManager[Location]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """A daemon that greets like Nix 2.8, then does as it is told here."""

    @asynccontextmanager
    async def serving(talk: Talk) -> AsyncIterator[Location]:
        async def greet(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            try:
                writer.write(GREETING)
                await reader.readexactly(OUR_GREETING)
                await talk(reader, writer)
            except ConnectionError:
                pass  # the client may leave whenever it likes
            finally:
                writer.close()

        path = tmp_path / "socket"
        server = await asyncio.start_unix_server(greet, path)
        async with server:
            yield Location("", {}, path)

    return serving


async def test_a_daemon_is_read_no_faster_than_its_log_is_taken(serve: Serve) -> None:
    sent = taken = pauses = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(4000):
            writer.write(LINE)
            await writer.drain()
            sent += 4096
        writer.write(integers(LAST, 0))

    def take(event: Event) -> None:
        nonlocal taken
        assert isinstance(event, LogLine)
        taken += len(event.line)

    async def dawdle() -> None:
        nonlocal pauses
        pauses += 1
        for _ in range(200):
            await asyncio.sleep(0)
        assert sent - taken < 2 * 1024 * 1024

    async with serve(talk) as location, connect(location, env=PATH) as daemon:
        assert await daemon.build([], take, drain=dawdle) == {}
    assert taken == sent == 4000 * 4096
    assert pauses > 10


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    await reader.read()


async def test_a_daemon_that_does_not_answer_is_lost(serve: Serve) -> None:
    async with serve(silence) as location:
        assert location.socket
        async with through_socket(location.socket) as link:
            connection = Connection(link)
            await connection.greet((1, 38))
            with pytest.raises(DaemonLost, match=r"answer within 0\.01 s while asking"):
                await connection.ask("asking", b"", read_flag, within=0.01)


async def test_a_conversation_that_was_broken_off_is_not_continued(
    serve: Serve,
) -> None:
    async with serve(silence) as location, connect(location, env=PATH) as daemon:
        asking = asyncio.create_task(daemon.valid(["/nix/store/a"]))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(DaemonLost, match=r"no more use: .* looking for 1 path"):
            await daemon.valid(["/nix/store/b"])


async def test_what_a_listener_raises_reaches_the_caller(serve: Serve) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(LINE)
        await reader.read()

    def refuse(event: Event) -> None:
        raise OSError("no room for this line")

    async with serve(talk) as location, connect(location, env=PATH) as daemon:
        with pytest.raises(OSError, match="no room for this line"):
            await daemon.build([], refuse)


@pytest.mark.parametrize("minor", [34, 35, 36, 37, 38])
async def test_every_version_that_a_daemon_knows_is_spoken(
    nix: NixStore, minor: int
) -> None:
    name = f"minor{minor}"
    script = f'{name} = make "{name}" "echo said; echo > $out" {{ }};'
    path = (await asyncio.to_thread(instantiate, nix, script))[name]
    events: list[Event] = []
    async with connect(direct(nix), env=PATH, newest=(1, minor)) as daemon:
        newest_known = 34 if nix.version < (2, 34) else 38
        assert daemon.version == (1, min(minor, newest_known))
        assert daemon.trusted is (None if daemon.version == (1, 34) else True)
        await daemon.set_options(keep_going=True, timeout=90, silent=90)
        result = (await daemon.build([path], events.append))[path]
        assert LogLine(path, b"said") in events
        assert result.status is BuildStatus.BUILT
        assert await daemon.valid([result.outputs["out"]])


async def rooted(store: NixStore, name: str) -> tuple[str, str]:
    """The .drv and, built and rooted by nobody, its output."""
    script = f'{name} = make "{name}" "echo > $out" {{ }};'
    path = (await asyncio.to_thread(instantiate, store, script))[name]
    async with connect(direct(store), env=PATH) as daemon:
        results = await daemon.build([path], lambda event: None)
    return path, results[path].outputs["out"]


async def collect(store: NixStore) -> None:
    await asyncio.to_thread(store.run, "store", "gc")


async def is_valid(daemon: Daemon, *paths: str) -> list[bool]:
    found = await daemon.valid(paths)
    return [path in found for path in paths]


async def test_a_temporary_root_holds_as_long_as_the_connection(
    fresh_nix: NixStore,
) -> None:
    derivation, output = await rooted(fresh_nix, "held")
    async with connect(direct(fresh_nix), env=PATH) as daemon:
        await daemon.add_temp_root(derivation)
        await collect(fresh_nix)
        assert await is_valid(daemon, derivation, output) == [True, False]
    await collect(fresh_nix)
    async with connect(direct(fresh_nix), env=PATH) as daemon:
        assert await is_valid(daemon, derivation, output) == [False, False]


async def test_an_indirect_root_holds_until_its_link_is_gone(
    fresh_nix: NixStore,
) -> None:
    _, output = await rooted(fresh_nix, "rooted")
    link = fresh_nix.root / "result"
    await asyncio.to_thread(link.symlink_to, output)
    async with connect(direct(fresh_nix), env=PATH) as daemon:
        await daemon.add_indirect_root(link)
    await collect(fresh_nix)
    async with connect(direct(fresh_nix), env=PATH) as daemon:
        assert await is_valid(daemon, output) == [True]
    await asyncio.to_thread(link.unlink)
    await collect(fresh_nix)
    async with connect(direct(fresh_nix), env=PATH) as daemon:
        assert await is_valid(daemon, output) == [False]
