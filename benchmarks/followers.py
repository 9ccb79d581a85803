"""Many readers of one log, in a process of their own.

    python -m benchmarks.followers PORT PATH COUNT

Says `ready` when every reader has been answered, then reads to the end of all of them;
the last line is `RESULT` with the fewest and the most bytes that one of them was sent.
"""

from __future__ import annotations

import selectors
import socket
import sys


class Reader:
    """One connection; HTTP/1.0, so that the body is bare bytes up to the end."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        self.received = 0

    def answer(self) -> None:
        """Read the head of the answer; what came behind it is counted."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.socket.recv(65536)
            assert data, "the server hung up"
            head += data
        assert b" 200 " in head.partition(b"\r\n")[0], head
        self.received = len(head.partition(b"\r\n\r\n")[2])


def main(arguments: list[str]) -> None:
    port, path, count = int(arguments[0]), arguments[1], int(arguments[2])
    readers = [Reader(port, path) for _ in range(count)]
    selector = selectors.DefaultSelector()
    for reader in readers:
        reader.answer()
        selector.register(reader.socket, selectors.EVENT_READ, reader)
    print("ready", flush=True)
    buffer = bytearray(1 << 20)
    open_now = count
    while open_now:
        for key, _ in selector.select():
            received = key.data.socket.recv_into(buffer)
            key.data.received += received
            if not received:
                selector.unregister(key.data.socket)
                open_now -= 1
    received_by = [reader.received for reader in readers]
    print(f"RESULT {min(received_by)} {max(received_by)}")


if __name__ == "__main__":
    main(sys.argv[1:])
