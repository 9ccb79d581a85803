"""Many readers of one log, in a process of their own.

    python -m tests.fakes.followers PORT PATH COUNT

Says `ready` when every reader has been answered, then reads to the end of all of them.
For each different body that came it prints one line: how many readers got it, its size,
its SHA-256.
"""

from __future__ import annotations

import hashlib
import resource
import selectors
import socket
import sys
from collections import Counter


class Reader:
    """One connection; HTTP/1.0, so that the body is bare bytes up to the end."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        self.digest = hashlib.sha256()
        self.size = 0

    def answer(self) -> None:
        """Read the head of the answer; what came behind it is of the body."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.socket.recv(65536)
            assert data, "the server hung up"
            head += data
        assert b" 200 " in head.partition(b"\r\n")[0], head
        self.take(head.partition(b"\r\n\r\n")[2])

    def take(self, data: bytes | memoryview) -> None:
        self.digest.update(data)
        self.size += len(data)


def main(arguments: list[str]) -> None:
    port, path, count = int(arguments[0]), arguments[1], int(arguments[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    readers = [Reader(port, path) for _ in range(count)]
    selector = selectors.DefaultSelector()
    for reader in readers:
        reader.answer()
        selector.register(reader.socket, selectors.EVENT_READ, reader)
    print("ready", flush=True)
    buffer = memoryview(bytearray(1 << 20))
    while selector.get_map():
        for key, _ in selector.select():
            received = key.data.socket.recv_into(buffer)
            key.data.take(buffer[:received])
            if not received:
                selector.unregister(key.data.socket)
    bodies = Counter((reader.size, reader.digest.hexdigest()) for reader in readers)
    for (size, digest), number in bodies.items():
        print(number, size, digest)


if __name__ == "__main__":
    main(sys.argv[1:])
