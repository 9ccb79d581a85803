"""The generator where `wrk` is missing: raw sockets and epoll, in a process of its own.

    python -m benchmarks.replay PORT CONNECTIONS SECONDS TEMPLATE RECORDS FIRST

Each connection has one request under way. The last line printed is for load.py.
"""

from __future__ import annotations

import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.deliveries import SIZES
from benchmarks.report import percentile

_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.IGNORECASE)
_MARKS = re.compile(b"([\x01-\x04])")


def requests(template: bytes, records: bytes, first: int) -> Iterator[bytes]:
    """Requests without end: from record `first` on, then all of them again."""
    pieces = _MARKS.split(template)
    starts, at = {}, 0
    for mark, size in SIZES.items():
        starts[mark] = slice(at, at + size)
        at += size
    position = first * at
    while True:
        if position + at > len(records):
            position = 0
        record = records[position : position + at]
        position += at
        yield b"".join(
            record[starts[piece]] if piece in starts else piece for piece in pieces
        )


class Connection:
    """One keep-alive connection; raises ConnectionError when the server hangs up."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._answer = b""
        self.begun = 0.0

    def send(self, request: bytes) -> None:
        self.begun = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int:
        """The status of the answer once it is whole; 0 before."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server hung up")
        self._answer += data
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or len(body) < int(length[1] if length else 0):
            return 0
        self._answer = b""
        return int(head[9:12])


def main(arguments: list[str]) -> None:
    port, connections, seconds = int(arguments[0]), int(arguments[1]), arguments[2]
    template, records = (Path(name).read_bytes() for name in arguments[3:5])
    source = requests(template, records, int(arguments[5]))
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        connection = Connection(port)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(next(source))
    latencies: list[float] = []
    bad = 0
    begun = time.perf_counter()
    end = begun + float(seconds)
    while (now := time.perf_counter()) < end:
        for key, _ in selector.select(end - now):
            connection = key.data
            status = connection.receive()
            if status:
                latencies.append((time.perf_counter() - connection.begun) * 1e6)
                bad += status > 399
                connection.send(next(source))
    spent = (time.perf_counter() - begun) * 1e6
    p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
    print(f"RESULT {len(latencies)} {bad} {spent:.0f} {p50} {p99} {max(latencies)}")


if __name__ == "__main__":
    main(sys.argv[1:])
