"""Bytes on a socket to a running server, what comes back, and what it costs the server."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# Seconds between two beats of a thread that does nothing else, and how late each may be.
BEAT = 0.05
USUAL = 0.1


@dataclass(frozen=True)
class Reply:
    """Everything that a server said until it closed, or until it fell silent."""

    data: bytes

    @property
    def statuses(self) -> list[int]:
        """The status of each answer; provisional ones (1xx) are not counted."""
        lines = re.findall(rb"^HTTP/[0-9.]+ ([2-5][0-9]{2}) ", self.data, re.MULTILINE)
        return [int(status) for status in lines]

    @property
    def body(self) -> bytes:
        return self.data.rpartition(b"\r\n\r\n")[2]


async def connect(url: str) -> Streams:
    where = urlsplit(url)
    return await asyncio.open_connection(where.hostname, where.port)


async def exchange(url: str, *pieces: bytes, patience: float = 60) -> Reply:
    """Send the pieces one after the other, then read until the server closes.

    A server that says nothing for `patience` seconds has said everything.
    """
    reader, writer = await connect(url)
    said = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(patience):
            while chunk := await reader.read(65536):
                said += chunk
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    return Reply(said)


async def silent_peer(url: str, data: bytes) -> socket.socket:
    """A peer with a small window that sends `data` and reads nothing."""
    where = urlsplit(url)
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, (where.hostname, where.port))
    sent = asyncio.create_task(loop.sock_sendall(peer, data))
    # The server may well stop taking it.
    await asyncio.wait([sent], timeout=1)
    sent.cancel()
    await asyncio.wait([sent])
    return peer


def resident(pid: int) -> int:
    """Bytes of memory that a process holds now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextmanager
def going_on(
    flush: Callable[[int], object] = os.fsync,
) -> Iterator[Callable[[], float]]:
    """A clock, in seconds, that stands still while this machine or its disk does.

    A thread with nothing to do but to flush a byte to the disk, 20 times a second: as long
    as it is late, nobody else can be blamed for being slow.
    """
    over = threading.Event()
    # What was lost until the last beat, and when that was.
    last = (0.0, time.monotonic())
    failed: list[OSError] = []

    def clock() -> float:
        lost, beat = last
        now = time.monotonic()
        return now - lost - max(0.0, now - beat - USUAL)

    def live() -> None:
        nonlocal last
        with tempfile.TemporaryFile(buffering=0) as file:
            while not over.wait(BEAT):
                try:
                    file.write(b"x")
                    flush(file.fileno())
                except OSError as error:
                    failed.append(error)
                    return
                lost, beat = last
                now = time.monotonic()
                last = (lost + max(0.0, now - beat - USUAL), now)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield clock
    finally:
        over.set()
        thread.join()
    # A heart that has stopped would excuse everything.
    assert failed == []


@asynccontextmanager
async def asked_meanwhile(url: str) -> AsyncIterator[list[float]]:
    """Ask a GET again and again from a thread; yields the seconds of each answer.

    In a thread, because what this process does to the server keeps its own loop busy.
    Time during which the machine stood still is not counted.
    """
    waits: list[float] = []
    over = threading.Event()
    where = urlsplit(url)

    def ask() -> None:
        connection = http.client.HTTPConnection(where.hostname or "", where.port)
        with going_on() as clock:
            # At least once, however late this thread begins.
            while not (waits and over.wait(0.005)):
                begun = clock()
                connection.request("GET", where.path, headers={"Host": "localhost"})
                connection.getresponse().read()
                waits.append(clock() - begun)
        connection.close()

    asking = asyncio.create_task(asyncio.to_thread(ask))
    try:
        yield waits
    finally:
        over.set()
        await asking
