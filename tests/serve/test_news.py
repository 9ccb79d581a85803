"""News for open pages: in order, complete, and nobody pays for a reader who sleeps."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.adapters.logs import LogWriter
from ci.history import progress
from ci.history.database import Database
from ci.models import BuildState, Check
from ci.serve.news import QUEUE, STREAMS, News, note
from ci.serve.service import SERVICE
from tests.fakes.event_stream import EventStream, listening
from tests.fakes.waiting import wait_until
from tests.serve.conftest import REPO, Private, Served, error_of

HOSTILE = "x\r\n\ndata: {}\r\revent: end\u2028\x00<script>"


@asynccontextmanager
async def opened(
    client: Private, path: str, last: str = ""
) -> AsyncIterator[EventStream]:
    url = str(client.make_url(path))
    async with aiohttp.ClientSession() as session, listening(session, url, last) as it:
        yield it


def news_of(client: Private) -> News:
    assert client.app is not None
    return client.app[SERVICE].news


async def nobody_listens(client: Private) -> None:
    """Nor is anything read for anybody."""
    await wait_until(lambda: not news_of(client).listeners, what="the end of streams")
    await wait_until(lambda: "news" not in _running(), what="the end of reading")


def _running() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


async def test_a_life_is_told_in_order_to_whom_it_concerns(
    served: Served, client: Private
) -> None:
    other = await served.add(1)
    async with (
        opened(client, "/events") as everything,
        opened(client, f"/events?repo={REPO.upper()}") as ours,
        opened(client, f"/builds/{other}/events") as quiet,
    ):
        theirs = await served.add(9, repo="some/other")
        build = await served.add(2)
        async with opened(client, f"/events?build={build}") as one:
            await served.begin(build)
            # The queue is no business of a build that has left it.
            await one.until("build", state="running", kind="progress")
            later = await served.add(3)
            served.wake()
            seen = await everything.until("build", number=later)
            assert [it.change for it in seen if it.name == "build"] == [
                ("queued", theirs, "queued"),
                ("queued", build, "queued"),
                ("state", build, "running"),
                ("progress", build, "running"),
                ("queued", later, "queued"),
            ]
            await served.finish(build)
            told = await one.until("end")
            assert "queue" not in [it.name for it in told]
            assert [it.change for it in told if it.name == "build"] == [
                ("state", build, "failed"),
            ]
            assert told[-1].data == {"state": "failed"}
            await served.retry(build)
            assert (await one.until("build", state="queued", kind="state"))[-1].id
        await served.cancel(other)
        # The stream of a build that waits hears that the queue has changed.
        names = [it.name for it in await quiet.until("end")]
        assert "queue" in names
        assert names.count("build") == 1
        seen = await everything.until("build", number=other, state="cancelled")
        numbers = [it.data["number"] for it in seen if it.name == "build"]
        assert {build, other} == set(numbers)
        ids = [int(it.id) for it in seen]
        assert ids == sorted(ids)
        told = await ours.until("build", number=other, state="cancelled")
        assert theirs not in [it.data.get("number") for it in told]
    await nobody_listens(client)


async def test_what_a_browser_must_know_of_the_answer(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.SUCCEEDED)
    async with opened(client, f"/builds/{build}/events") as stream:
        headers = stream.response.headers
        assert stream.response.content_type == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Content-Encoding" not in headers
        assert stream.retry == 3000
        # What is over is said to be over at once.
        assert (await stream.next()).data == {"state": "succeeded"}
    await error_of(client, "GET", "/builds/77/events", 404)
    await error_of(client, "GET", "/events?build=77", 404)
    await error_of(client, "GET", "/events?repo=no/body", 404)
    await error_of(client, "GET", "/events?wrong=1", 400)
    await error_of(client, "GET", "/events", 421, headers={"Host": "evil.example"})
    # The server hears a little later that its reader has gone.
    await nobody_listens(client)
    async with client.get("/metrics") as response:
        assert "build_server_event_streams 0.0" in await response.text()


async def test_a_quiet_stream_gives_signs_of_life_that_a_script_hears(
    served: Served, client: Private
) -> None:
    news_of(client).beat_every = 0.01
    build = await served.add(1)
    async with opened(client, f"/builds/{build}/events?log=1") as stream:
        hello = stream.last
        reading = asyncio.create_task(stream.until("build", state="running"))
        await wait_until(lambda: len(stream.beats) >= 3, what="signs of life")
        assert {(it.name, it.id) for it in stream.beats} == {("beat", hello)}
        await served.begin(build)
        await reading


@pytest.mark.parametrize("by_query", [False, True])
async def test_who_comes_back_is_told_exactly_what_he_missed(
    served: Served, client: Private, by_query: bool
) -> None:
    build = await served.add(1)
    async with opened(client, "/events") as stream:
        await served.begin(build)
        last = (await stream.until("build", state="running"))[-1].id
    await nobody_listens(client)
    await served.finish(build)
    await served.retry(build)
    path, header = (f"/events?last={last}", "") if by_query else ("/events", last)
    async with opened(client, path, header) as stream:
        told = await stream.until("build", kind="progress", state="queued")
        await served.cancel(build)
        told += await stream.until("build", kind="progress", state="cancelled")
    changes = [it.change[::2] for it in told if it.name == "build"]
    assert changes == [
        ("progress", "running"),
        ("state", "failed"),
        ("progress", "failed"),
        ("state", "queued"),
        ("progress", "queued"),
        ("state", "cancelled"),
        ("progress", "cancelled"),
    ]
    assert [int(it.id) for it in told] == sorted(int(it.id) for it in told)


def _chatter(connection: sqlite3.Connection, build: int, count: int) -> None:
    for number in range(count):
        progress.set_summary(connection, build, f"{number} of {count}")


@pytest.mark.parametrize("last", ["1", "99999", "nonsense", "1-2", "9" * 50])
async def test_who_has_missed_too_much_begins_anew(
    served: Served, client: Private, last: str
) -> None:
    """Too long ago, of another history, or never ours."""
    build = await served.add(1, BuildState.RUNNING)
    await served.database.write(_chatter, build, 2600)
    async with opened(client, "/events", last) as stream:
        assert (await stream.next()).name == "reset"
        await served.finish(build)
        told = await stream.until("build", kind="state")
        assert [it.change for it in told if it.name == "build"] == [
            ("state", build, "failed")
        ]


async def test_log_and_news_on_one_stream_go_on_where_they_were(
    served: Served, client: Private
) -> None:
    """Cut after each piece, also while the build waits for its second attempt."""
    build = await served.add(1, BuildState.FAILED, log=b"first try\n")
    await served.retry(build)
    path = f"/builds/{build}/events?log=1"
    lines = [f"line <{number}> of a log".encode() for number in range(1, 31)]
    async with opened(client, path) as stream:
        last = stream.last
        assert last.endswith("-2-0")
    await served.begin(build)
    numbers: list[int] = []
    with LogWriter(served.log_path(build, 2), 1 << 30, served.hub) as writer:
        for line in lines:
            writer.write(line + b"\n")
            async with opened(client, path, last) as stream:
                piece = (await stream.until("log"))[-1]
            assert f"&lt;{piece.data['first']}&gt; of a log" in piece.data["html"]
            assert piece.data["attempt"] == 2
            numbers.append(piece.data["first"])
            last = piece.id
            assert last.endswith(f"-2-{writer.size}")
    assert numbers == list(range(1, 31))
    async with opened(client, path, last) as stream:
        await served.finish(build)
        told = await stream.until("end")
        assert [it.name for it in told if it.name == "log"] == []
        assert told[-1].data == {"state": "failed"}
    url = f"/builds/{build}/events?log=1&"
    await error_of(client, "GET", url + "offset=99999", 416)
    await error_of(client, "GET", url + "attempt=3", 404)
    await error_of(client, "GET", url + "target=none", 404)


async def test_log_of_an_attempt_to_come_is_told_from_its_beginning(
    served: Served, client: Private
) -> None:
    build = await served.add(1)
    gone = await served.add(2)
    async with (
        opened(client, f"/builds/{build}/events?log=1") as stream,
        opened(client, f"/builds/{gone}/events?log=1") as never,
    ):
        with LogWriter(served.log_path(build), 1 << 30, served.hub) as writer:
            writer.write(b"hello\n")
            await served.begin(build)
            told = await stream.until("log")
            assert "hello" in told[-1].data["html"]
            assert "running" in [it.data.get("state") for it in told]
        await served.cancel(gone)
        assert (await never.until("end"))[-1].data == {"state": "cancelled"}


async def test_who_does_not_keep_up_is_told_to_begin_anew(
    served: Served, database: Database
) -> None:
    news = News(database, served.wake, served.checks)
    build = await served.add(1, BuildState.RUNNING)
    async with (
        news.listen(lambda event: True) as slow,
        news.listen(lambda event: True) as quick,
    ):
        for _ in range(5 * QUEUE // 20):
            before = news.position
            await database.write(_chatter, build, 20)
            served.wake()
            for number in range(20):
                told = await quick.next()
                assert (told.name, told.id) == ("build", before + number + 1)
        kept = [await slow.next()]
        assert (kept[0].name, kept[0].event) == ("reset", None)
        await served.finish(build)
        while kept[-1].event is None or kept[-1].event.state != "failed":
            kept.append(await slow.next())
        assert len(kept) <= QUEUE + 3
        # From the reset on nothing is missing.
        ids = [told.id for told in kept if told.name != "queue"]
        assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_a_reader_who_takes_nothing_is_cut_and_nobody_waits_for_him(
    served: Served, client: Private
) -> None:
    news = news_of(client)
    news.patience = 1.0
    build = await served.add(1, BuildState.RUNNING)
    asleep = socket.socket()
    asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asleep.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(asleep, (client.host, client.port))
    await loop.sock_sendall(asleep, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await wait_until(lambda: len(news.listeners) == 1)
    async with opened(client, "/events") as awake:
        cut = asyncio.create_task(wait_until(lambda: len(news.listeners) == 1, 120))
        while not cut.done():
            before = int(awake.last)
            await served.database.write(_chatter, build, 40)
            served.wake()
            ids = [int((await awake.next()).id) for _ in range(40)]
            assert ids == list(range(before + 1, before + 41))
        await cut
    with suppress(ConnectionResetError):
        while await loop.sock_recv(asleep, 65536):
            pass
    asleep.close()


async def test_no_text_can_forge_an_event(served: Served, client: Private) -> None:
    news_of(client).check_every = 0.05
    served.found.append(Check(HOSTILE, False, ""))
    async with (
        opened(client, "/events?setup=1") as stream,
        opened(client, "/events") as others,
    ):
        looked = asyncio.create_task(stream.next())

        async def told() -> bool:
            served.found[-1] = Check(HOSTILE, False, served.found[-1].detail + HOSTILE)
            return looked.done()

        await wait_until(told)
        assert (await looked).name == "setup"
        assert (await looked).data == {"checks": [HOSTILE]}
        await served.add(1)
        assert {it.name for it in await others.until("build")} <= {"build", "queue"}


async def test_there_is_a_limit_of_open_pages(served: Served, client: Private) -> None:
    news = news_of(client)
    async with AsyncExitStack() as stack:
        for _ in range(STREAMS):
            await stack.enter_async_context(news.listen(lambda event: True))
        error = await error_of(client, "GET", "/events", 503)
        assert "close one" in error["error"]
    async with opened(client, "/events"):
        assert len(news.listeners) == 1


async def test_streams_end_with_the_server_at_once(served: Served) -> None:
    async with AsyncExitStack() as stack:
        client = TestClient(TestServer(served.application()))
        await client.start_server()
        streams = [
            await stack.enter_async_context(opened(client, "/events"))
            for _ in range(20)
        ]
        # Whom nobody cuts off is waited for a minute.
        async with asyncio.timeout(30):
            await client.close()
        for stream in streams:
            assert [it.name for it in await stream.to_the_end()] == ["bye"]


def _break(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE events RENAME TO gone")


def _mend(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE gone RENAME TO events")


async def test_a_history_that_cannot_be_read_ends_the_streams_until_it_can(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.RUNNING)
    async with opened(client, "/events") as stream:
        await served.database.write(_break)
        served.wake()
        assert await stream.to_the_end() == []
    error = await error_of(client, "GET", "/events", 503)
    assert "cannot be read" in error["error"]
    await served.database.write(_mend)
    async with opened(client, "/events", stream.last) as again:
        await served.finish(build)
        assert (await again.until("build"))[-1].data["state"] == "failed"


def test_a_note_is_json_that_stays_on_one_line() -> None:
    told = note("log", 1, html=HOSTILE)
    assert json.loads(told.data) == {"html": HOSTILE}
    assert len(told.data.splitlines()) == 1
